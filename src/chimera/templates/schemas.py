"""JSON Schema of variables, made safe: a closed set of keywords whose cost is bounded.

What must stay true: nothing is fetched, nothing refers to itself, patterns run on RE2, and no error
repeats a value. The dialect is 2020-12, https://json-schema.org/draft/2020-12.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson
import re2  # type: ignore[import-untyped]  # google-re2 ships without types

SCHEMA_BYTES_MAX = 16_384
DEPTH_MAX = 16
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


class Schema:
    """A compiled schema."""

    def __init__(self, validator: Any) -> None:
        self._validator = validator

    def refusal(self, value: object) -> str:
        """Empty when the value satisfies it; else where it does not, as ` at key[0]`."""
        from jsonschema.exceptions import best_match

        error = best_match(self._validator.iter_errors(value))
        if error is None:
            return ""
        # Places are positions and names the schema declares; free names might be secrets.
        shown = [str(step) for step in error.absolute_path if isinstance(step, int)]
        return f" ({error.validator}{' at item ' + shown[0] if shown else ''})"


@lru_cache(maxsize=256)
def compiled_schema(text: str) -> Schema:
    """The schema of a declaration that schema_refusal let pass."""
    import referencing
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    kind = extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]  # as its stubs have it
    # An empty registry: there is nowhere to fetch from.
    return Schema(kind(orjson.loads(text), registry=referencing.Registry()))


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


def schema_refusal(text: str) -> str:
    """Why a schema cannot stand; empty when it can."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if len(text.encode()) > SCHEMA_BYTES_MAX:
        return f"has a JSON Schema over {SCHEMA_BYTES_MAX} bytes"
    schema = orjson.loads(text)
    if why := _refusal(schema, DEPTH_MAX):
        return f"has a JSON Schema that {why}"
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = "/".join(str(step) for step in error.absolute_path)[:100]
        return f"has a JSON Schema that is not valid{' at ' + where if where else ''}"
    return ""


def _refusal(schema: Any, depth: int) -> str:
    if depth == 0:
        return f"is nested over {DEPTH_MAX} deep"
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
            if why := _refusal(item, depth - 1):
                return why
    return ""
