"""Templates as documents of a file: what export writes and import reads.

One document is one template:

    format: chimera.template/1
    title: ...
    id, description, technique_type, vulnerability_type, tags, state
    labels: {production: 2}
    versions:
      - parent: 0                    # number of the parent, 0 for the first
        change_note: ...
        content_hash: ...            # checked when it is given
        messages: [{role: user, text: ...}]
        variables: [{name: ..., kind: string, ...}]
        partials: [{name: ..., template_id: ..., label: ...}]

A document written by hand may put messages, variables and partials beside the title, as the only
version. An import makes a draft with an id of its own. What must stay true: reading what was written gives the same versions, hash by hash; no value
is in a document, only declarations, and those of secret variables have no default.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message

from chimera.rows import enum_prefix, enum_text
from chimera.v1.templates_pb2 import (
    CreateTemplateRequest,
    Partial,
    PromptMessage,
    Template,
    TemplateVersion,
    Variable,
)

FORMAT = "chimera.template/1"
VERSIONS_MAX = 1_000
LABELS_MAX = 1_000
NOTE_CHARS_MAX = 1_000
_HEAD = frozenset(
    {
        "format",
        "id",
        "title",
        "description",
        "technique_type",
        "vulnerability_type",
        "tags",
        "state",
    }
)
_CONTENT = frozenset({"messages", "variables", "partials"})
_VERSION = _CONTENT | {"version", "parent", "change_note", "content_hash"}


class DocumentError(ValueError):
    """Why a document cannot be read; the message names the place and repeats no value."""


@dataclass(frozen=True)
class Document:
    """A template as a file has it. `versions` are in their order, from number 1."""

    head: CreateTemplateRequest
    versions: tuple[TemplateVersion, ...]
    labels: Mapping[str, int]
    content_hash: str


def written(
    template: Template, versions: Iterable[TemplateVersion], labels: Mapping[str, int]
) -> dict[str, Any]:
    """The document of a template; its keys are in the order a reader wants them."""
    return {
        "format": FORMAT,
        "id": template.id,
        "title": template.title,
        "description": template.description,
        "technique_type": template.technique_type,
        "vulnerability_type": template.vulnerability_type,
        "tags": list(template.tags),
        "state": enum_text(template, "state", template.state),
        "labels": dict(sorted(labels.items())),
        "versions": [_written_version(version) for version in versions],
    }


def _written_version(version: TemplateVersion) -> dict[str, Any]:
    return {
        "version": version.version_number,
        "parent": version.parent_version_number,
        "change_note": version.change_note,
        "content_hash": version.content_hash,
        "messages": [_short(message) for message in version.messages],
        "variables": [_short(variable) for variable in version.variables],
        "partials": [_short(partial) for partial in version.partials],
    }


def _short(message: Message) -> dict[str, Any]:
    """The message as JSON with enums by their short names (user, string)."""
    plain: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    fields: Any = message.DESCRIPTOR.fields  # one type to the checker, another at run time
    for field in fields:
        if field.enum_type is not None and field.name in plain:
            prefix = enum_prefix(field.enum_type)
            plain[field.name] = plain[field.name].removeprefix(prefix).lower()
    return plain


def read(plain: Any) -> Document:
    """A document of parsed YAML or JSON. Raises DocumentError."""
    if not isinstance(plain, dict):
        raise DocumentError("a document is an object")
    unknown = plain.keys() - _HEAD - _CONTENT - {"labels", "versions"}
    if unknown:
        raise DocumentError(f"unknown field {sorted(map(str, unknown))[0][:64]}")
    if plain.get("format", FORMAT) != FORMAT:
        raise DocumentError(f"its format is not {FORMAT}")
    if "versions" in plain and plain.keys() & _CONTENT:
        raise DocumentError("give versions, or messages and variables, not both")
    head = _parsed(
        {
            name: plain[name]
            for name in ("title", "description", "technique_type", "vulnerability_type", "tags")
            if name in plain
        },
        CreateTemplateRequest(),
        "the document",
    )
    listed = plain.get("versions", [{name: plain[name] for name in _CONTENT & plain.keys()}])
    if not isinstance(listed, list) or not 0 < len(listed) <= VERSIONS_MAX:
        raise DocumentError(f"versions must be a list of 1 to {VERSIONS_MAX}")
    versions = tuple(_version(item, number) for number, item in enumerate(listed, start=1))
    labels = plain.get("labels", {})
    if not isinstance(labels, dict) or not all(
        isinstance(name, str) and type(number) is int and 0 < number <= len(versions)
        for name, number in labels.items()
    ):
        raise DocumentError("labels must map names to numbers of versions")
    if len(labels) > LABELS_MAX:
        raise DocumentError(f"there are more than {LABELS_MAX} labels")
    return Document(head, versions, labels, _hash(head, versions, labels))


def _version(plain: Any, number: int) -> TemplateVersion:
    where = f"versions[{number - 1}]"
    if not isinstance(plain, dict) or plain.keys() - _VERSION:
        raise DocumentError(f"{where} must be an object of {', '.join(sorted(_VERSION))}")
    if plain.get("version", number) != number:
        raise DocumentError(f"{where} must have the number {number}")
    parent = plain.get("parent", number - 1)
    if (
        not isinstance(parent, int)
        or not 0 <= parent < number
        or (parent == 0) is not (number == 1)
    ):
        raise DocumentError(f"{where}.parent must be a version before it")
    note, claimed = plain.get("change_note", ""), plain.get("content_hash", "")
    if not isinstance(note, str) or not isinstance(claimed, str):
        raise DocumentError(f"{where} has a note or a hash that is not text")
    if len(note) > NOTE_CHARS_MAX:
        raise DocumentError(f"{where}.change_note has more than {NOTE_CHARS_MAX} characters")
    return TemplateVersion(
        version_number=number,
        parent_version_number=parent,
        change_note=note,
        content_hash=claimed,
        messages=_items(plain, "messages", PromptMessage, where),
        variables=_items(plain, "variables", Variable, where),
        partials=_items(plain, "partials", Partial, where),
    )


def _items(plain: Mapping[str, Any], name: str, kind: type[Any], where: str) -> list[Any]:
    listed = plain.get(name, [])
    if not isinstance(listed, list):
        raise DocumentError(f"{where}.{name} must be a list")
    return [_long(item, kind, f"{where}.{name}[{place}]") for place, item in enumerate(listed)]


def _long(plain: Any, kind: type[Any], where: str) -> Any:
    if not isinstance(plain, dict):
        raise DocumentError(f"{where} must be an object")
    message = kind()
    full = dict(plain)
    fields: Any = message.DESCRIPTOR.fields  # one type to the checker, another at run time
    for field in fields:
        if field.enum_type is not None and isinstance(full.get(field.name), str):
            full[field.name] = enum_prefix(field.enum_type) + full[field.name].upper()
    return _parsed(full, message, where)


def _parsed(plain: dict[str, Any], message: Any, where: str) -> Any:
    try:
        return ParseDict(plain, message)
    except (ParseError, TypeError, ValueError, RecursionError):
        # `from None` and no detail: the parser's own message repeats what it read.
        names = ", ".join(field.name for field in message.DESCRIPTOR.fields)
        raise DocumentError(f"{where} does not hold together; its fields: {names}"[:400]) from None


def _hash(
    head: CreateTemplateRequest, versions: Sequence[TemplateVersion], labels: Mapping[str, int]
) -> str:
    """What makes a second import of the same document known."""
    digest = hashlib.sha256(head.SerializeToString(deterministic=True))
    for version in versions:
        bare = TemplateVersion()
        bare.CopyFrom(version)
        bare.ClearField("content_hash")
        digest.update(b"\0" + bare.SerializeToString(deterministic=True))
    digest.update(orjson.dumps(dict(labels), option=orjson.OPT_SORT_KEYS))
    return digest.hexdigest()
