"""Typed variables: what a value may be, and the one way it is written into a prompt.

Canonical text by kind:

| kind | accepted | written as |
| --- | --- | --- |
| string | text | itself |
| integer | whole number (also 3.0, as protobuf numbers are doubles) | decimal digits |
| number | finite number | shortest decimal; whole numbers without a fraction (2.0 is `2`) |
| boolean | true, false | `true`, `false` |
| enum | one of the choices | itself |
| list | strings, numbers, booleans | items written as above, joined by a comma and a space |
| json | any JSON value | sorted keys, no spaces, non-ASCII characters kept, numbers as above |

What must stay true: equal values give equal text, and no error message repeats a value.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import re2  # type: ignore[import-untyped]  # google-re2 ships without types

from chimera.templates.schemas import compiled_schema, schema_refusal

KINDS = ("string", "integer", "number", "boolean", "enum", "list", "json")
INTEGER_MAX = 2**63 - 1
EXACT_MAX = 2**53
JSON_DEPTH_MAX = 32
PATTERN_PROGRAM_MAX = 2_000


class RenderError(ValueError):
    """Why a template cannot be compiled or rendered.

    `reason` is one of template_syntax, variable_undeclared, variable_missing, variable_unknown,
    variable_ill_typed, variable_out_of_range, partial_invalid, output_too_large, render_too_long.
    `variable` is the name concerned, empty when there is none.
    """

    def __init__(self, reason: str, variable: str, message: str) -> None:
        super().__init__(f"{variable}: {message}" if variable else message)
        self.reason = reason
        self.variable = variable
        self.message = message


@dataclass(frozen=True)
class Variable:
    """The declaration of one variable.

    `minimum` and `maximum` bound the value of integer and number, the length in characters of
    string and json (as written), the number of items of list. `choices` lists the allowed texts,
    as written, of a value or of each item of a list; an enum needs them. A missing value takes the
    `default`; without one it is an error when `required` and the empty text otherwise. `secret`
    says that the value must not be shown; its default is kept out of `repr` in any case.
    `pattern` is RE2 and has to match a string as a whole. `json_schema` is JSON Schema as text, for
    a JSON value; see schemas.py for what it may hold.
    """

    name: str
    kind: str
    required: bool = False
    default: object = field(default=None, repr=False)
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False
    description: str = ""
    pattern: str = ""
    json_schema: str = ""

    def write(self, value: object) -> str:
        """The canonical text. Raises RenderError(variable_ill_typed, variable_out_of_range)."""
        writer = WRITERS.get(self.kind)
        if writer is None:
            raise self.fault("variable_ill_typed", f"there is no kind {self.kind}")
        text, size = writer(self, value)
        if self.minimum is not None and size < self.minimum:
            raise self.fault("variable_out_of_range", f"is below the minimum {self.minimum:g}")
        if self.maximum is not None and size > self.maximum:
            raise self.fault("variable_out_of_range", f"is above the maximum {self.maximum:g}")
        if (self.choices or self.kind == "enum") and self.kind != "list":
            self.choose(text)
        if self.pattern and not compiled_pattern(self.pattern).fullmatch(text):
            raise self.fault("variable_out_of_range", "does not match its pattern")
        if self.json_schema and (where := compiled_schema(self.json_schema).refusal(value)):
            raise self.fault("variable_out_of_range", f"does not satisfy its JSON Schema{where}")
        return text

    def plain(self, value: object) -> Any:
        """The value as plain data, canonical as its text is. It was written before."""
        match self.kind:
            case "integer":
                return whole_number(value)
            case "number" if isinstance(value, int | float):
                return plain_number(self, value)
            case "list" | "json":
                return plain_json(self, value, JSON_DEPTH_MAX)
        return value

    def choose(self, text: str) -> None:
        if text not in self.choices:
            raise self.fault("variable_out_of_range", "is not one of the choices")

    def fault(self, reason: str, message: str) -> RenderError:
        return RenderError(reason, self.name, message)


def write_string(variable: Variable, value: object) -> tuple[str, float]:
    if not isinstance(value, str):
        raise variable.fault("variable_ill_typed", "must be a string")
    refuse_surrogates(variable, value)
    return value, len(value)


def write_integer(variable: Variable, value: object) -> tuple[str, float]:
    whole = whole_number(value)
    if whole is None:
        raise variable.fault("variable_ill_typed", "must be a whole number")
    if abs(whole) > INTEGER_MAX:
        raise variable.fault("variable_out_of_range", "does not fit in 64 bits")
    return str(whole), whole


def write_number(variable: Variable, value: object) -> tuple[str, float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise variable.fault("variable_ill_typed", "must be a number")
    number = plain_number(variable, value)
    return repr(number), number


def write_boolean(variable: Variable, value: object) -> tuple[str, float]:
    if not isinstance(value, bool):
        raise variable.fault("variable_ill_typed", "must be true or false")
    return ("true" if value else "false"), value


def write_list(variable: Variable, value: object) -> tuple[str, float]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise variable.fault("variable_ill_typed", "must be a list")
    items = [write_item(variable, item) for item in value]
    if variable.choices:
        for item in items:
            variable.choose(item)
    return ", ".join(items), len(items)


def write_item(variable: Variable, item: object) -> str:
    if isinstance(item, bool):
        return write_boolean(variable, item)[0]
    if isinstance(item, int | float):
        return write_number(variable, item)[0]
    if isinstance(item, str):
        return write_string(variable, item)[0]
    raise variable.fault("variable_ill_typed", "items must be strings, numbers or booleans")


def write_json(variable: Variable, value: object) -> tuple[str, float]:
    plain = plain_json(variable, value, JSON_DEPTH_MAX)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    refuse_surrogates(variable, text)
    return text, len(text)


WRITERS = {
    "string": write_string,
    "enum": write_string,
    "integer": write_integer,
    "number": write_number,
    "boolean": write_boolean,
    "list": write_list,
    "json": write_json,
}


def whole_number(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None


def plain_number(variable: Variable, value: int | float) -> int | float:
    """The number in its canonical type: an int when it is whole and exact, else a float."""
    if isinstance(value, int):
        if abs(value) > INTEGER_MAX:
            raise variable.fault("variable_out_of_range", "does not fit in 64 bits")
        return value
    if not math.isfinite(value):
        raise variable.fault("variable_out_of_range", "must be finite")
    return int(value) if value.is_integer() and abs(value) <= EXACT_MAX else value


def plain_json(variable: Variable, value: object, depth: int) -> object:
    """The value with canonical numbers and built-in containers. Raises RenderError."""
    if depth == 0:
        raise variable.fault("variable_out_of_range", f"is nested over {JSON_DEPTH_MAX} deep")
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return plain_number(variable, value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise variable.fault("variable_ill_typed", "keys must be strings")
        return {key: plain_json(variable, item, depth - 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain_json(variable, item, depth - 1) for item in value]
    raise variable.fault("variable_ill_typed", "must be a JSON value")


def refuse_surrogates(variable: Variable, text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        # `from None`: the original error carries the text, which may be a secret.
        raise variable.fault("variable_ill_typed", "must be well-formed Unicode") from None


@lru_cache(maxsize=1024)
def compiled_pattern(pattern: str) -> Any:
    """Linear in the value whatever the pattern is. Raises re2.error."""
    options = re2.Options()
    options.never_capture = True
    options.log_errors = False
    return re2.compile(pattern, options)


def refuse_pattern(variable: Variable) -> str:
    """Why the declaration's pattern cannot stand; empty when it can."""
    if variable.kind != "string":
        return "has a pattern and is not a string"
    try:
        compiled = compiled_pattern(variable.pattern)
    except re2.error:
        return "has a pattern that RE2 does not understand"
    if compiled.programsize > PATTERN_PROGRAM_MAX:
        return "has a pattern that is too large"
    return ""


def refuse_schema(variable: Variable) -> str:
    """Why the declaration's JSON Schema cannot stand; empty when it can."""
    if variable.kind != "json":
        return "has a JSON Schema and is not of kind json"
    return schema_refusal(variable.json_schema)
