"""The rules that the protos state about their messages.

One validator a process: it compiles the rules of a type when it first sees it, which takes longer
than everything else that a server does to start.
"""

from __future__ import annotations

from functools import cache

from protovalidate import Validator


@cache
def validator() -> Validator:
    """The one of this process."""
    return Validator()
