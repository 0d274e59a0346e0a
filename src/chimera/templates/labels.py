"""Labels: names that point to a version (production, staging ...) and move, with every move kept.

What must stay true: moves of one template are made one after the other (its row is locked), so a
label stands where its newest move brought it; a move with an expected version never overwrites what
it has not seen.
"""

from __future__ import annotations

from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import Conflict, NotFound
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.templates.operations import get_template, lock_template
from chimera.templates.versions import get_version
from chimera.v1.templates_pb2 import (
    DeleteTemplateLabelRequest,
    ListTemplateLabelMovesRequest,
    MoveTemplateLabelRequest,
    TemplateLabel,
    TemplateLabelMove,
)

FIND_LABELS = sql(
    TemplateLabel,
    """
    SELECT name, version_number, moved_by, moved_at FROM templates.labels
     WHERE template_id = %(template_id)s::uuid AND (%(name)s::text IS NULL OR name = %(name)s)
     ORDER BY name
    """,
    prepare=False,
)

PUT_LABEL = sql(
    TemplateLabel,
    """
    INSERT INTO templates.labels (org_id, template_id, name, version_number, moved_by)
    VALUES (%(org_id)s, %(template_id)s, %(name)s, %(version_number)s, %(moved_by)s)
    ON CONFLICT (template_id, name) DO UPDATE
       SET version_number = EXCLUDED.version_number, moved_by = EXCLUDED.moved_by,
           moved_at = clock_timestamp()
    RETURNING name, version_number, moved_by, moved_at
    """,
)

REMOVE_LABEL = sql(
    Nothing,
    "DELETE FROM templates.labels WHERE template_id = %(template_id)s::uuid AND name = %(name)s",
)

NOTE_MOVE = sql(
    Nothing,
    """
    INSERT INTO templates.label_moves (id, org_id, template_id, name, from_version_number,
                                       to_version_number, note, moved_by)
    VALUES (%(id)s, %(org_id)s, %(template_id)s, %(name)s, %(old)s, %(new)s, %(note)s, %(moved_by)s)
    """,
)


async def move_label(tx: Tx, request: MoveTemplateLabelRequest) -> TemplateLabel:
    """Raises NotFound(TEMPLATE_NOT_FOUND, TEMPLATE_VERSION_NOT_FOUND), Conflict(LABEL_MOVED),
    Denied(TEMPLATE_READ_ONLY)."""
    await lock_template(tx, request.template_id)
    version = await get_version(tx, request.template_id, request.version_number)
    old = await _current(tx, request.template_id, request.name)
    if request.HasField("expected_version_number"):
        _check_expected(request.expected_version_number, old)
    label = await tx.one(
        PUT_LABEL,
        org_id=tx.call.caller.org_id,
        template_id=request.template_id,
        name=request.name,
        version_number=version.version_number,
        moved_by=tx.call.caller.user_id,
    )
    assert label is not None  # an upsert without a condition returns its row
    await _note(tx, request.template_id, request.name, old, version.version_number, request.note)
    record(
        tx,
        "template_label.move",
        "template",
        request.template_id,
        old={"label": request.name, "version_number": old},
        new={"label": request.name, "version_number": version.version_number, "note": request.note},
    )
    return label


async def delete_label(tx: Tx, request: DeleteTemplateLabelRequest) -> None:
    """Raises NotFound(TEMPLATE_NOT_FOUND, LABEL_NOT_FOUND), Conflict(LABEL_MOVED),
    Denied(TEMPLATE_READ_ONLY)."""
    await lock_template(tx, request.template_id)
    old = await _current(tx, request.template_id, request.name)
    if not old:
        raise NotFound("LABEL_NOT_FOUND", f"The template has no label {request.name!r}.")
    if request.HasField("expected_version_number"):
        _check_expected(request.expected_version_number, old)
    await tx.run(REMOVE_LABEL, template_id=request.template_id, name=request.name)
    await _note(tx, request.template_id, request.name, old, 0, "")
    was = {"label": request.name, "version_number": old}
    record(tx, "template_label.delete", "template", request.template_id, old=was)


async def _current(tx: Tx, template_id: str, name: str) -> int:
    found = await tx.one(FIND_LABELS, template_id=template_id, name=name)
    return found.version_number if found else 0


def _check_expected(expected: int, current: int) -> None:
    if expected != current:
        raise Conflict(
            "LABEL_MOVED",
            "Somebody moved the label since it was read; read it again.",
            facts={"version_number": str(current)},
        )


async def _note(tx: Tx, template_id: str, name: str, old: int, new: int, note: str) -> None:
    await tx.run(
        NOTE_MOVE,
        id=new_id(),
        org_id=tx.call.caller.org_id,
        template_id=template_id,
        name=name,
        old=old,
        new=new,
        note=note,
        moved_by=tx.call.caller.user_id,
    )


async def list_labels(tx: Tx, template_id: str) -> list[TemplateLabel]:
    """By name. Raises NotFound(TEMPLATE_NOT_FOUND)."""
    await get_template(tx, template_id)
    return await tx.all(FIND_LABELS, template_id=template_id, name=None)


LIST_MOVES = sql(
    TemplateLabelMove,
    """
    SELECT id, name, from_version_number, to_version_number, note, moved_by, moved_at
      FROM templates.label_moves
     WHERE template_id = %(template_id)s::uuid AND (%(name)s = '' OR name = %(name)s)
       AND (%(after)s::uuid IS NULL OR id < %(after)s)
     ORDER BY id DESC
     LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_label_moves(
    tx: Tx, pages: Pages, request: ListTemplateLabelMovesRequest
) -> tuple[list[TemplateLabelMove], str]:
    """A page, newest first, and the token of the next. Raises NotFound(TEMPLATE_NOT_FOUND)."""
    size, after = pages.page(request)
    await get_template(tx, request.template_id)
    rows = await tx.all(
        LIST_MOVES,
        template_id=request.template_id,
        name=request.name,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "id")
