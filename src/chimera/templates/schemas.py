"""JSON Schema of variables, made safe: a closed set of keywords whose cost is bounded.

What must stay true: nothing is fetched, nothing refers to itself, patterns run on RE2, no error
repeats a value, and the work of a check is bounded whatever schema and value are.
The dialect is 2020-12, https://json-schema.org/draft/2020-12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import Any

import orjson
import re2  # type: ignore[import-untyped]  # google-re2 ships without types

SCHEMA_BYTES_MAX = 16_384
DEPTH_MAX = 16
PARTS_MAX = 500
# Keywords looked at in one check, and one more for each thing that a keyword goes through.
STEPS_MAX = 200_000
CHARS_PER_STEP = 50
# Each costs at most a pass over the value it looks at.
KEYWORDS = frozenset(
    {
        "$schema", "title", "description", "examples", "default",
        "type", "enum", "const",
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
        "minLength", "maxLength", "pattern",
        "items", "prefixItems", "minItems", "maxItems",
        "properties", "required", "additionalProperties", "minProperties", "maxProperties",
        "anyOf", "allOf", "oneOf", "not",
    }
)  # fmt: skip
# Where a schema holds schemas: as the value, in a list, or by name.
_INSIDE = ("items", "additionalProperties", "not")
_LISTS = ("prefixItems", "anyOf", "allOf", "oneOf")
# Those that go through all items or names of the value.
_PASSES = ("items", "additionalProperties")
_steps_left: ContextVar[list[int]] = ContextVar("_steps_left")


class _TooMuch(Exception):
    """A check takes more than STEPS_MAX steps."""


class Schema:
    """A compiled schema."""

    def __init__(self, validator: Any) -> None:
        self._validator = validator

    def refusal(self, value: object) -> str:
        """Empty when the value satisfies it; else where it does not, as ` at key[0]`."""
        from jsonschema.exceptions import best_match

        _steps_left.set([STEPS_MAX])
        try:
            error = best_match(self._validator.iter_errors(_quiet(value)))
        except _TooMuch:
            return " (checking it takes too long)"
        if error is None:
            return ""
        # Places are positions and names the schema declares; free names might be secrets.
        shown = [str(step) for step in error.absolute_path if isinstance(step, int)]
        return f" ({error.validator}{' at item ' + shown[0] if shown else ''})"


class _QuietDict(dict[str, Any]):
    """The library writes what it looked at into every error; a large value would be written often."""

    def __repr__(self) -> str:
        return "an object"


class _QuietList(list[Any]):
    def __repr__(self) -> str:
        return "a list"


class _QuietText(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return "a text"


def _quiet(value: Any) -> Any:
    if isinstance(value, str):
        return _QuietText(value)
    if isinstance(value, Mapping):
        return _QuietDict((name, _quiet(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return _QuietList(_quiet(item) for item in value)
    return value


@lru_cache(maxsize=256)
def compiled_schema(text: str) -> Schema:
    """The schema of a declaration that schema_refusal let pass."""
    import referencing
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    own = dict(Draft202012Validator.VALIDATORS) | {"pattern": _pattern}
    counted = {name: partial(_counted, name, own[name]) for name in KEYWORDS & own.keys()}
    kind = extend(Draft202012Validator, counted)  # type: ignore[no-untyped-call]  # as its stubs have it
    # An empty registry: there is nowhere to fetch from.
    return Schema(kind(orjson.loads(text), registry=referencing.Registry()))


def _counted(
    name: str, check: Callable[..., Any], validator: Any, value: Any, instance: Any, schema: Any
) -> Any:
    """The check of a keyword, after its steps were taken from what is left."""
    steps = 1 + (len(value) if isinstance(value, list | dict) else 0)
    if name in _PASSES and isinstance(instance, list | dict):
        steps += len(instance)
    elif name == "pattern" and isinstance(instance, str):
        steps += len(instance) // CHARS_PER_STEP
    left = _steps_left.get()
    left[0] -= steps
    if left[0] < 0:
        raise _TooMuch
    return check(validator, value, instance, schema)


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(instance, str) and not _compiled(pattern).search(instance):
        yield ValidationError("does not match")


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.never_capture = True
    options.log_errors = False
    return re2.compile(pattern, options)


@lru_cache(maxsize=256)
def schema_refusal(text: str) -> str:
    """Why a schema cannot stand; empty when it can."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if len(text.encode()) > SCHEMA_BYTES_MAX:
        return f"has a JSON Schema over {SCHEMA_BYTES_MAX} bytes"
    schema = orjson.loads(text)
    if why := _refusal(schema, DEPTH_MAX, [PARTS_MAX]):
        return f"has a JSON Schema that {why}"
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = "/".join(str(step) for step in error.absolute_path)[:100]
        return f"has a JSON Schema that is not valid{' at ' + where if where else ''}"
    return ""


def _refusal(schema: Any, depth: int, parts_left: list[int]) -> str:
    if depth == 0:
        return f"is nested over {DEPTH_MAX} deep"
    parts_left[0] -= 1
    if parts_left[0] < 0:
        return f"holds more than {PARTS_MAX} schemas"
    if not isinstance(schema, Mapping):
        return ""
    for key, value in schema.items():
        if key not in KEYWORDS:
            return f"uses the keyword {key[:40]}, which is not supported"
        if key == "pattern" and isinstance(value, str):
            try:
                _compiled(value)
            except re2.error:
                return "has a pattern that RE2 does not understand"
        inner = (
            [value]
            if key in _INSIDE
            else value
            if key in _LISTS and isinstance(value, list)
            else list(value.values())
            if key == "properties" and isinstance(value, Mapping)
            else []
        )
        for item in inner:
            if why := _refusal(item, depth - 1, parts_left):
                return why
    return ""
