"""The JSON Schema scorer, made safe for schemas written by users and responses written by models.

What must stay true: the cost of one verdict is bounded. So schemas are small, references stay
inside the schema, every keyword evaluated counts against one budget (nested references can
otherwise make the work exponential), patterns run on RE2, and `uniqueItems` compares by canonical
text instead of pairwise.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import orjson

from chimera.campaigns.parameters import Parameter, Params
from chimera.campaigns.scorers.text import compile_pattern, well_formed
from chimera.campaigns.scorers.verdict import (
    Judge,
    Response,
    Scorer,
    ScorerError,
    Span,
    Verdict,
    absent,
    found,
)

SCHEMA_BYTES_MAX = 16_384
SCHEMA_DEPTH_MAX = 32
STEPS_MAX = 20_000
# Their evaluation in the validator walks references on its own, past the budget, or needs a
# second pattern engine; wherever such a key stands, also as a property's name, it is refused.
REFUSED = frozenset(
    {
        "$dynamicRef",
        "$recursiveRef",
        "$id",
        "$anchor",
        "$dynamicAnchor",
        "patternProperties",
        "unevaluatedProperties",
        "unevaluatedItems",
    }
)
FENCE = re.compile(r"```(?:json)?[ \t]*\n")

Keyword = Callable[[Any, Any, Any, Any], Iterator[Any] | None]
steps_left: ContextVar[int] = ContextVar("schema_steps_left", default=0)


class BudgetSpent(Exception):
    """The schema asked for more steps than one verdict may take."""


def invalid(message: str) -> ScorerError:
    return ScorerError("scorer_parameter_invalid", "schema", message)


def check_schema(value: object, depth: int = SCHEMA_DEPTH_MAX) -> None:
    """Raise ScorerError for what is refused anywhere in a schema."""
    if depth == 0:
        raise invalid(f"is nested over {SCHEMA_DEPTH_MAX} deep")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in REFUSED:
                raise invalid(f"{key} is not supported")
            if key == "$ref" and isinstance(item, str) and not item.startswith("#"):
                raise invalid("$ref must stay inside the schema and begin with #")
            if key == "pattern" and isinstance(item, str):
                compile_pattern(item, True)
            check_schema(item, depth - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            check_schema(item, depth - 1)


def counted(keyword: Keyword) -> Keyword:
    """The keyword, charged to the budget every time it is evaluated."""

    def evaluate(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any] | None:
        left = steps_left.get() - 1
        if left < 0:
            raise BudgetSpent
        steps_left.set(left)
        return keyword(validator, value, instance, schema)

    return evaluate


@lru_cache(maxsize=1)
def validator_class() -> Any:
    """The draft 2020-12 validator with bounded keywords; the import is heavy, hence lazy."""
    from jsonschema import Draft202012Validator, ValidationError, validators

    def pattern(validator: Any, value: str, instance: Any, schema: Any) -> Iterator[Any]:
        if isinstance(instance, str) and not compile_pattern(value, True).search(instance):
            yield ValidationError("the text does not match the pattern")

    def unique(validator: Any, value: bool, instance: Any, schema: Any) -> Iterator[Any]:
        if value and isinstance(instance, list):
            seen = {orjson.dumps(canonical(item), option=orjson.OPT_SORT_KEYS) for item in instance}
            if len(seen) < len(instance):
                yield ValidationError("the items are not unique")

    keywords = {
        name: counted(keyword)
        for name, keyword in Draft202012Validator.VALIDATORS.items()
        if name not in REFUSED
    }
    keywords |= {"pattern": counted(pattern), "uniqueItems": counted(unique)}
    extend: Any = validators.extend
    return extend(Draft202012Validator, validators=keywords)


def canonical(value: Any) -> Any:
    """The value with 1.0 as 1: JSON Schema calls them equal."""
    if isinstance(value, float) and value.is_integer():
        return int(value) if abs(value) < 2**53 else value
    if isinstance(value, list):
        return [canonical(item) for item in value]
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    return value


def build_validator(schema: Mapping[str, Any]) -> Any:
    """A validator for a checked schema. Raises ScorerError."""
    from jsonschema import Draft202012Validator, FormatChecker, SchemaError
    from referencing import Registry

    try:
        size = len(orjson.dumps(schema))
    except TypeError:
        raise invalid("is not JSON") from None
    if size > SCHEMA_BYTES_MAX:
        raise invalid(f"is larger than {SCHEMA_BYTES_MAX} bytes")
    check_schema(schema)
    try:
        # Formats include "regex", which would compile patterns with the unbounded engine.
        Draft202012Validator.check_schema(schema, format_checker=FormatChecker(formats=()))
    except SchemaError as error:
        where = "/".join(str(step) for step in error.absolute_path)[:200]
        raise invalid(f"is not a JSON Schema (draft 2020-12), at /{where}") from None
    # An empty registry: the library's default fetches unknown references from the network.
    return validator_class()(schema, registry=Registry())


def find_document(text: str, fenced: bool) -> tuple[int, int]:
    """Where the JSON document stands: in the first code fence if wanted and there, else all."""
    if fenced and (opening := FENCE.search(text)):
        closing = text.find("```", opening.end())
        return opening.end(), closing if closing >= 0 else len(text)
    return 0, len(text)


def prepare(params: Params, operands: tuple[Judge, ...]) -> Judge:
    validator, fenced = build_validator(params["schema"]), params["fenced"]

    def judge(response: Response) -> Verdict:
        start, end = find_document(response.text, fenced)
        try:
            document = orjson.loads(well_formed(response.text[start:end]))
        except orjson.JSONDecodeError:
            return absent("the response is not JSON")
        steps_left.set(STEPS_MAX)
        try:
            error = next(iter(validator.iter_errors(document)), None)
        except (BudgetSpent, RecursionError):
            raise ScorerError(
                "scorer_parameter_invalid", "schema", "costs too much for this response"
            ) from None
        except ArithmeticError:  # multipleOf of numbers beyond the range of floats
            return absent("the response has a number out of range")
        if error is None:
            return found("the response is JSON of the schema", Span(start, end, "json"))
        keyword = "false" if error.validator is None else str(error.validator)
        return absent(f"the response is JSON that fails the schema at {keyword}")

    return judge


JSON_SCHEMA = Scorer(
    kind="json_schema",
    title="JSON Schema",
    description="The response is a JSON document that satisfies the schema (draft 2020-12). "
    "References must stay inside the schema; patterns use RE2 syntax; patternProperties, "
    "unevaluated* and dynamic references are not supported; formats are not asserted.",
    prepare=prepare,
    parameters=(
        Parameter("schema", "object", None, description="The schema, at most 16 KiB as JSON."),
        Parameter(
            "fenced",
            "boolean",
            True,
            description="Read the first Markdown code fence when there is one.",
        ),
    ),
    source="https://json-schema.org/draft/2020-12",
)
