"""How a public call goes on once it knows who it is about."""

from __future__ import annotations

from dataclasses import replace

from chimera.call import Call, Caller
from chimera.v1.options_pb2 import Access

_UNAUDITED = Access()


def as_caller(call: Call, caller: Caller, *, audited: bool = True) -> Call:
    """The same call on behalf of `caller`; not `audited`: a part of it that changes nothing."""
    return replace(call, caller=caller, access=call.access if audited else _UNAUDITED)
