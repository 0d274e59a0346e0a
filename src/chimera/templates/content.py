"""What a version says: its messages and variables as data, their hash, and their compiled form.

Pure; nothing here knows the database. What must stay true:

* Content that was accepted compiles.
* The content hash is SHA-256 (hex) over the canonical JSON (audit/canonical.py: keys sorted, no
  white space, UTF-8) of `{"messages": [...], "variables": [...]}`, with `"partials": [...]` where
  there are any. Each element is in protobuf's JSON form with field names as in the .proto and defaults left out; whole numbers up to 2^53 have
  no fraction. Anybody can compute it from a TemplateVersion, and a result that pins it pins the
  text.
* A secret variable has no default: a version is stored as it is and read by all who may render it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from chimera.audit.canonical import canonical_json
from chimera.faults import Invalid, Violation
from chimera.rows import enum_text, struct_dict
from chimera.templates import rendering, values
from chimera.v1.templates_pb2 import Partial, PromptMessage, TemplateVersion, Variable

# Their choices, defaults and schemas: a version has to fit into a message.
VARIABLES_BYTES_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Content:
    """Messages, variables and partials as JSON lists, as they are stored, and the hash over them;
    `body` are the texts alone, for the search."""

    messages: str
    variables: str
    partials: str
    content_hash: str
    body: str


def checked_content(
    messages: Sequence[PromptMessage],
    variables: Sequence[Variable],
    partials: Sequence[Partial] = (),
    inherited: Mapping[str, Sequence[Variable]] | None = None,
) -> Content:
    """The content of a new version; `inherited` are the variables that each partial brings along.

    Raises Invalid for what could never be rendered, with every problem at its field:
    TEMPLATE_SYNTAX, VARIABLE_UNDECLARED, VARIABLE_ILL_TYPED (a declaration that cannot hold),
    PARTIAL_INVALID, OUTPUT_TOO_LARGE, FIELD_INVALID.
    """
    size_chars = sum(len(message.text) for message in messages)
    if size_chars > rendering.OUTPUT_CHARS_MAX:
        said = f"{size_chars} characters together; the most is {rendering.OUTPUT_CHARS_MAX}"
        raise _invalid([Violation("messages", said, "OUTPUT_TOO_LARGE")])
    size_bytes = sum(variable.ByteSize() for variable in variables)
    if size_bytes > VARIABLES_BYTES_MAX:
        said = f"{size_bytes} bytes together; the most is {VARIABLES_BYTES_MAX}"
        raise _invalid([Violation("variables", said, "OUTPUT_TOO_LARGE")])
    if unstorable := _unstorable(variables):
        raise _invalid(unstorable)
    problems = content_problems(messages, variables, inherited or {})
    if wrong := [problem for problem in problems if problem.reason != "variable_unused"]:
        raise _invalid([_violation(problem, variables) for problem in wrong])
    return stored_content(
        TemplateVersion(messages=messages, variables=variables, partials=partials)
    )


def stored_content(version: TemplateVersion) -> Content:
    """The content of a version that was accepted before, for another version or template."""
    plain = _plain(version.messages, version.variables, version.partials)
    return Content(
        messages=orjson.dumps(plain["messages"]).decode(),
        variables=orjson.dumps(plain["variables"]).decode(),
        partials=orjson.dumps(plain.get("partials", [])).decode(),
        content_hash=_hash(plain),
        body="\n".join(message.text for message in version.messages),
    )


def content_problems(
    messages: Sequence[PromptMessage],
    variables: Sequence[Variable],
    inherited: Mapping[str, Sequence[Variable]],
) -> list[rendering.Problem]:
    """Everything wrong with a content, its partials not yet expanded."""
    names = {name: frozenset(v.name for v in found) for name, found in inherited.items()}
    own = declared(variables)
    brought = {v.name: v for found in inherited.values() for v in declared(found)}
    problems = rendering.check_template(
        _texts(messages),
        [*own, *(brought[n] for n in brought.keys() - {v.name for v in own})],
        names,
    )
    mine = {variable.name for variable in own}
    return [p for p in problems if p.reason != "variable_unused" or p.variable in mine]


def content_hash(version: TemplateVersion) -> str:
    """The hash, computed from what the version says and not from what it claims."""
    return _hash(_plain(version.messages, version.variables, version.partials))


def compiled(version: TemplateVersion) -> rendering.Template:
    """The version, its partials expanded, ready to be filled; roles are `system`, `user` and
    `assistant`."""
    return rendering.compile_template(_texts(version.messages), declared(version.variables))


def refusal(error: values.RenderError, field: str) -> Invalid:
    """What the caller is told about values at `field` (such as `rows[3]`): the reason in capitals,
    and the variable's path (`rows[3].name`) as the violation."""
    reason = error.reason.upper()
    path = f"{field}.{error.variable}" if error.variable else field
    return Invalid(
        reason, f"{path} {error.message}", violations=[Violation(path, error.message, reason)]
    )


def declared(variables: Sequence[Variable]) -> list[values.Variable]:
    """Declarations as the renderer takes them. A default of JSON null is none."""
    return [
        values.Variable(
            name=variable.name,
            kind=enum_text(variable, "kind", variable.kind) or "",
            required=variable.required,
            default=_default(variable),
            minimum=variable.minimum if variable.HasField("minimum") else None,
            maximum=variable.maximum if variable.HasField("maximum") else None,
            choices=tuple(variable.choices),
            secret=variable.secret,
            description=variable.description,
            pattern=variable.pattern,
            json_schema=_schema(variable),
        )
        for variable in variables
    ]


def _texts(messages: Sequence[PromptMessage]) -> list[tuple[str, str]]:
    return [(enum_text(message, "role", message.role) or "", message.text) for message in messages]


def _schema(variable: Variable) -> str:
    if not variable.HasField("json_schema"):
        return ""
    return canonical_json(struct_dict(variable.json_schema)).decode()


def _default(variable: Variable) -> object:
    if not variable.HasField("default"):
        return None
    return struct_dict(Struct(fields={"default": variable.default}))["default"]


def _unstorable(variables: Sequence[Variable]) -> list[Violation]:
    """What a declaration may not hold, whatever its kind."""
    found = []
    for place, variable in enumerate(variables):
        path = f"variables[{place}]"
        if not (math.isfinite(variable.minimum) and math.isfinite(variable.maximum)):
            found.append(Violation(path, "has a bound that is not finite", "FIELD_INVALID"))
            continue
        try:
            MessageToDict(variable)
        except SerializeToJsonError:
            found.append(Violation(f"{path}.default", "is not finite", "FIELD_INVALID"))
            continue
        if variable.secret and _default(variable) is not None:
            said = "a secret variable takes no default; give its value when rendering"
            found.append(Violation(f"{path}.default", said, "FIELD_INVALID"))
    return found


def _violation(problem: rendering.Problem, variables: Sequence[Variable]) -> Violation:
    said = f"{problem.variable} {problem.message}".strip()
    if problem.message_index >= 0:
        return Violation(f"messages[{problem.message_index}].text", said, problem.reason.upper())
    names = [variable.name for variable in variables]
    if problem.variable not in names:
        return Violation("partials", said, "PARTIAL_INVALID")
    place = names.index(problem.variable)
    return Violation(f"variables[{place}]", said, "VARIABLE_ILL_TYPED")


def _invalid(violations: Sequence[Violation]) -> Invalid:
    first = violations[0]
    return Invalid(first.reason, f"{first.field}: {first.message}", violations=violations)


def _plain(
    messages: Sequence[Message], variables: Sequence[Message], partials: Sequence[Message]
) -> dict[str, Any]:
    plain = {"messages": _elements(messages), "variables": _elements(variables)}
    return plain | {"partials": _elements(partials)} if partials else plain


def _elements(items: Sequence[Message]) -> list[Any]:
    return [_whole(MessageToDict(item, preserving_proto_field_name=True)) for item in items]


def _whole(value: Any) -> Any:
    """Whole numbers as int: JSON of the database knows no -0.0, and 3 and 3.0 are one double."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= values.EXACT_MAX:
        return int(value)
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return value


def _hash(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(dict(plain))).hexdigest()
