"""Typed parameters of techniques and scorers: declaration, checking, defaults.

Parameters arrive as plain data (JSON, or a protobuf Struct in which every number is a double), so
an integral float is accepted where an integer is wanted. What must stay true: after `checked`,
every declared parameter is present, has its declared Python type and lies inside its bounds; error
messages name parameters but never repeat values, because a value may be a secret.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Params = Mapping[str, Any]

KINDS = ("string", "integer", "number", "boolean", "choice", "strings", "object")


class ParameterError(ValueError):
    """A specification that cannot be accepted.

    `reason` is a stable lower-case word, `field` the path of what is wrong (for example
    `steps[1].params.shift`), `message` a sentence for the person who wrote the specification.
    """

    def __init__(self, reason: str, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.reason = reason
        self.field = field
        self.message = message


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    `kind` is one of KINDS. `minimum` and `maximum` bound the value of numbers, the length in
    characters of strings and the number of items of `strings`. `choices` lists what a `choice` or
    an item of `strings` may be. A `default` of None makes the parameter required.
    """

    name: str
    kind: str
    default: Any
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"parameter {self.name}: no such kind {self.kind}")

    def accept(self, value: Any) -> tuple[Any, str | None]:
        """The value in its declared type, and what is wrong with it (None when nothing is)."""
        if self.kind in ("integer", "number"):
            return self._accept_number(value)
        if self.kind == "boolean":
            return value, None if isinstance(value, bool) else "must be true or false"
        if self.kind == "choice":
            good = isinstance(value, str) and value in self.choices
            return value, None if good else f"must be one of {', '.join(self.choices)}"
        if self.kind == "strings":
            return self._accept_strings(value)
        if self.kind == "object":
            return value, None if isinstance(value, Mapping) else "must be an object"
        if not isinstance(value, str):
            return value, "must be a string"
        if not is_well_formed(value):
            return value, "must be well-formed Unicode"
        return value, self._outside(len(value), " characters")

    def _accept_number(self, value: Any) -> tuple[Any, str | None]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value, "must be a number"
        if isinstance(value, float) and not math.isfinite(value):
            return value, "must be finite"
        if self.kind == "integer":
            if value != int(value):
                return value, "must be a whole number"
            value = int(value)
        problem = self._outside(value, "")
        return (float(value) if self.kind == "number" and not problem else value), problem

    def _accept_strings(self, value: Any) -> tuple[Any, str | None]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            return value, "must be a list of strings"
        if not all(isinstance(item, str) and item in self.choices for item in value):
            return value, f"may contain only {', '.join(self.choices)}"
        return tuple(value), self._outside(len(value), " items")

    def _outside(self, size: float, unit: str) -> str | None:
        if self.minimum is not None and size < self.minimum:
            return f"must be at least {self.minimum:g}{unit}"
        if self.maximum is not None and size > self.maximum:
            return f"must be at most {self.maximum:g}{unit}"
        return None


def checked(
    parameters: Sequence[Parameter],
    given: Any,
    field: str,
    reason: str,
    error: type[ParameterError],
) -> dict[str, Any]:
    """All declared parameters with `given` values coerced and defaults filled in.

    Raises `error(reason, ...)` for a parameter that is unknown, missing, of another type or out of
    its bounds; the first one found, in declaration order after the unknown ones.
    """
    if not isinstance(given, Mapping):
        raise error(reason, field, "must be an object of parameters")
    known = {parameter.name for parameter in parameters}
    for name in given:
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise error(reason, f"{field}.{str(name)[:64]}", f"unknown parameter; known: {names}")
    values: dict[str, Any] = {}
    for parameter in parameters:
        value = given.get(parameter.name)
        if value is None:
            value = parameter.default
            if value is None:
                raise error(reason, f"{field}.{parameter.name}", "is required")
        value, problem = parameter.accept(value)
        if problem is not None:
            raise error(reason, f"{field}.{parameter.name}", problem)
        values[parameter.name] = value
    return values


def is_well_formed(text: str) -> bool:
    """Whether the text has no lone surrogate, that is, can be encoded."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
