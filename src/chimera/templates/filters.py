"""Filters: what a placeholder may do to its value before it is written. A closed set.

What must stay true: a filter takes plain values (text, numbers, booleans, lists, objects) and gives
one; its cost is linear in the value, and its output at most a small multiple of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

INDENT_MAX = 40
# A filter's argument: nothing, a text, or a whole number.
Argument = str | int | None


@dataclass(frozen=True)
class Filter:
    """`takes` is None, str or int; `apply` gets the plain value and the argument."""

    apply: Callable[[Any, Any], Any]
    takes: type | None = None
    required: bool = False

    def refusal(self, argument: Argument) -> str:
        """Why the argument does not fit; empty when it does."""
        if argument is None:
            return "needs an argument" if self.required else ""
        if self.takes is None:
            return "takes no argument"
        if not isinstance(argument, self.takes):
            return f"takes a {'text' if self.takes is str else 'whole number'}"
        return ""


def text_of(value: Any) -> str:
    """How a plain value is written: as its variable would be (see values.py)."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        return ", ".join(text_of(item) for item in value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _json(value: Any, _argument: None) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _join(value: Any, argument: str | None) -> Any:
    if not isinstance(value, list):
        return value
    # Bounded: a separator is at most as long as the template that holds it.
    return (", " if argument is None else argument[:100]).join(text_of(item) for item in value)


def _length(value: Any, _argument: None) -> int:
    return len(value) if isinstance(value, list | dict) else len(text_of(value))


def _default(value: Any, argument: str) -> Any:
    return argument if value in (None, "", [], {}) else value


def _truncate(value: Any, argument: int) -> str:
    text = text_of(value)
    return text if len(text) <= argument else text[:argument]


def _indent(value: Any, argument: int) -> str:
    return text_of(value).replace("\n", "\n" + " " * min(argument, INDENT_MAX))


FILTERS: dict[str, Filter] = {
    "upper": Filter(lambda value, _: text_of(value).upper()),
    "lower": Filter(lambda value, _: text_of(value).lower()),
    "capitalize": Filter(lambda value, _: text_of(value)[:1].upper() + text_of(value)[1:]),
    "trim": Filter(lambda value, _: text_of(value).strip()),
    "truncate": Filter(_truncate, int, required=True),
    "indent": Filter(_indent, int, required=True),
    "default": Filter(_default, str, required=True),
    "join": Filter(_join, str),
    "first": Filter(lambda value, _: value[0] if isinstance(value, list) and value else None),
    "last": Filter(lambda value, _: value[-1] if isinstance(value, list) and value else None),
    "length": Filter(_length),
    "json": Filter(_json),
}
