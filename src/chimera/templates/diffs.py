"""What changed between two versions: structured, and as one unified diff. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import orjson
from google.protobuf.json_format import MessageToDict

from chimera.rows import enum_text
from chimera.v1.templates_pb2 import (
    ChangeKind,
    DiffTemplateVersionsResponse,
    FieldChange,
    MessageChange,
    PromptMessage,
    TemplateVersion,
    VariableChange,
)

# Comparing lines can cost their product: longer texts are shown as replaced.
LINES_MAX = 4_000


def diff_versions(old: TemplateVersion, new: TemplateVersion) -> DiffTemplateVersionsResponse:
    return DiffTemplateVersionsResponse(
        from_version=old,
        to_version=new,
        is_same_content=old.content_hash == new.content_hash,
        messages=_messages(old.messages, new.messages),
        variables=_variables(old, new),
        metadata=_fields(_metadata(old), _metadata(new)),
        unified="\n".join(
            _unified(_document(old), _document(new), f"version {old.version_number}",
                     f"version {new.version_number}")
        ),
    )  # fmt: skip


def _messages(old: Sequence[PromptMessage], new: Sequence[PromptMessage]) -> list[MessageChange]:
    """Equal messages are matched first; what is left between them pairs up in order."""
    keys = [[(m.role, m.text) for m in messages] for messages in (old, new)]
    changes: list[MessageChange] = []
    matcher = difflib.SequenceMatcher(None, keys[0], keys[1], autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            continue
        for step in range(max(i2 - i1, j2 - j1)):
            i, j = i1 + step if i1 + step < i2 else -1, j1 + step if j1 + step < j2 else -1
            changes.append(_message(old, new, i, j))
    return changes


def _message(
    old: Sequence[PromptMessage], new: Sequence[PromptMessage], i: int, j: int
) -> MessageChange:
    before, after = old[i] if i >= 0 else PromptMessage(), new[j] if j >= 0 else PromptMessage()
    return MessageChange(
        kind=_kind(i >= 0, j >= 0),
        from_index=i,
        to_index=j,
        from_role=before.role,
        to_role=after.role,
        unified="\n".join(_unified(before.text.split("\n"), after.text.split("\n"))),
    )


def _kind(was: bool, is_there: bool) -> ChangeKind:
    if was and is_there:
        return ChangeKind.CHANGE_KIND_CHANGED
    return ChangeKind.CHANGE_KIND_REMOVED if was else ChangeKind.CHANGE_KIND_ADDED


def _variables(old: TemplateVersion, new: TemplateVersion) -> list[VariableChange]:
    before, after = ({v.name: _plain(v) for v in side.variables} for side in (old, new))
    return [
        VariableChange(
            kind=_kind(name in before, name in after),
            name=name,
            fields=_fields(before.get(name, {}), after.get(name, {})),
        )
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _plain(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)


def _metadata(version: TemplateVersion) -> dict[str, Any]:
    return {
        "partials": [_plain(partial) for partial in version.partials],
        "change_note": version.change_note,
        "parent_version_number": version.parent_version_number,
    }


def _fields(old: dict[str, Any], new: dict[str, Any]) -> list[FieldChange]:
    return [
        FieldChange(
            field=name,
            from_json=_json(old[name]) if name in old else "",
            to_json=_json(new[name]) if name in new else "",
        )
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _document(version: TemplateVersion) -> list[str]:
    """The version as lines for people."""
    lines: list[str] = []
    for message in version.messages:
        lines += [f"[{enum_text(message, 'role', message.role)}]", *message.text.split("\n"), ""]
    lines += [f"variable {_json(_plain(variable))}" for variable in version.variables]
    lines += [f"partial {_json(_plain(partial))}" for partial in version.partials]
    return lines


def _unified(
    old: Sequence[str], new: Sequence[str], old_name: str = "", new_name: str = ""
) -> list[str]:
    if max(len(old), len(new)) > LINES_MAX:
        return [
            f"@@ -1,{len(old)} +1,{len(new)} @@",
            *("-" + line for line in old),
            *("+" + line for line in new),
        ]
    lines = list(difflib.unified_diff(old, new, old_name, new_name, lineterm=""))
    return lines if old_name else lines[2:]
