"""SQL of a test itself, which is not among the product's statements."""

from __future__ import annotations

from typing import LiteralString

from chimera.db import Nothing, Statement


def plain(text: LiteralString) -> Statement[Nothing]:
    return Statement(Nothing, text, prepare=False, where="test")
