"""The prompt library: titles, tags, states, sharing. The text is in versions.py.

What must stay true: row-level security decides who sees a template (its creator, and with sharing
level organisation everybody in it); a deleted template can be read and undeleted, nothing else.
"""

from __future__ import annotations

from typing import Any

from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import Denied, NotFound
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.rows import enum_text
from chimera.updates import check_etag, checked_paths, must_be_given
from chimera.v1.templates_pb2 import (
    CreateTemplateRequest,
    DeleteTemplateRequest,
    ListTemplatesRequest,
    SharingLevel,
    Template,
    UpdateTemplateRequest,
)

UPDATABLE = (
    "title",
    "description",
    "technique_type",
    "vulnerability_type",
    "tags",
    "state",
    "sharing_level",
)

SELECT_TEMPLATE = """
    SELECT id, title, description, technique_type, vulnerability_type, tags, state, sharing_level,
           version_number, created_by, created_at, updated_at, deleted_at,
           to_char(updated_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') AS etag
      FROM templates.templates
"""

GET_TEMPLATE = sql(Template, SELECT_TEMPLATE + "WHERE id = %(template_id)s::uuid")
LOCK_TEMPLATE = sql(Template, SELECT_TEMPLATE + "WHERE id = %(template_id)s::uuid FOR UPDATE")


async def get_template(tx: Tx, template_id: str) -> Template:
    """A template, deleted or not. Raises NotFound(TEMPLATE_NOT_FOUND)."""
    template = await tx.one(GET_TEMPLATE, template_id=template_id)
    if template is None:
        raise no_template()
    return template


async def lock_template(tx: Tx, template_id: str, *, deleted: bool = False) -> Template:
    """A template that is about to change, held until the end of the transaction.

    Raises NotFound(TEMPLATE_NOT_FOUND) also when it is deleted, or with `deleted` when it is not.
    """
    template = await tx.one(LOCK_TEMPLATE, template_id=template_id)
    if template is None or template.HasField("deleted_at") is not deleted:
        raise no_template()
    return template


def no_template() -> NotFound:
    return NotFound("TEMPLATE_NOT_FOUND", "There is no such template.")


LIST_TEMPLATES = sql(
    Template,
    SELECT_TEMPLATE
    + """
     WHERE (%(state)s::text IS NULL OR state = %(state)s)
       AND (%(tag)s = '' OR %(tag)s = ANY (tags))
       AND (%(show_deleted)s OR deleted_at IS NULL)
       AND (%(after)s::uuid IS NULL OR id < %(after)s)
     ORDER BY id DESC
     LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_templates(
    tx: Tx, pages: Pages, request: ListTemplatesRequest
) -> tuple[list[Template], str]:
    """A page, newest first, and the token of the next."""
    size, after = pages.page(request)
    rows = await tx.all(
        LIST_TEMPLATES,
        state=enum_text(Template, "state", request.state),
        tag=request.tag,
        show_deleted=request.show_deleted,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "id")


INSERT_TEMPLATE = sql(
    Nothing,
    """
    INSERT INTO templates.templates (id, org_id, title, description, technique_type,
                                     vulnerability_type, tags, sharing_level, created_by)
    VALUES (%(id)s, %(org_id)s, %(title)s, %(description)s, %(technique_type)s,
            %(vulnerability_type)s, %(tags)s, %(sharing_level)s, %(created_by)s)
    """,
)


async def create_template(tx: Tx, request: CreateTemplateRequest) -> Template:
    """A new draft without a version; the caller adds the first in the same transaction.

    Shared with the organisation unless the request says otherwise.
    """
    template_id = new_id()
    level = request.sharing_level or SharingLevel.SHARING_LEVEL_ORGANISATION
    await tx.run(
        INSERT_TEMPLATE,
        id=template_id,
        org_id=tx.call.caller.org_id,
        title=request.title,
        description=request.description,
        technique_type=request.technique_type,
        vulnerability_type=request.vulnerability_type,
        tags=list(request.tags),
        sharing_level=enum_text(request, "sharing_level", level),
        created_by=tx.call.caller.user_id,
    )
    template = await get_template(tx, template_id)
    record(tx, "template.create", "template", template_id, new=_facts(template))
    return template


UPDATE_TEMPLATE = sql(
    Nothing,
    """
    UPDATE templates.templates SET
        title = CASE WHEN 'title' = ANY (%(paths)s) THEN %(title)s ELSE title END,
        description =
            CASE WHEN 'description' = ANY (%(paths)s) THEN %(description)s ELSE description END,
        technique_type = CASE WHEN 'technique_type' = ANY (%(paths)s)
                              THEN %(technique_type)s ELSE technique_type END,
        vulnerability_type = CASE WHEN 'vulnerability_type' = ANY (%(paths)s)
                                  THEN %(vulnerability_type)s ELSE vulnerability_type END,
        tags = CASE WHEN 'tags' = ANY (%(paths)s) THEN %(tags)s::text[] ELSE tags END,
        state = CASE WHEN 'state' = ANY (%(paths)s) THEN %(state)s ELSE state END,
        sharing_level = CASE WHEN 'sharing_level' = ANY (%(paths)s)
                             THEN %(sharing_level)s ELSE sharing_level END
     WHERE id = %(template_id)s::uuid
    """,
)


async def update_template(tx: Tx, request: UpdateTemplateRequest) -> Template:
    """Raises NotFound(TEMPLATE_NOT_FOUND), Conflict(ETAG_MISMATCH), Invalid(UPDATE_MASK_INVALID,
    FIELD_INVALID), Denied when somebody else's template would be made private."""
    wanted = request.template
    paths = checked_paths(request.update_mask.paths, UPDATABLE)
    for name in ("title", "state", "sharing_level"):
        if name in paths and not getattr(wanted, name):
            raise must_be_given(f"template.{name}")
    old = await lock_template(tx, wanted.id)
    check_etag(request.etag, old.etag)
    if (
        "sharing_level" in paths
        and wanted.sharing_level == SharingLevel.SHARING_LEVEL_PRIVATE
        and old.created_by != tx.call.caller.user_id
    ):
        # It would be out of sight of the one who asks, and of every administrator.
        raise Denied("PERMISSION_MISSING", "Only who made a template can make it private.")
    await tx.run(
        UPDATE_TEMPLATE,
        template_id=old.id,
        paths=paths,
        title=wanted.title,
        description=wanted.description,
        technique_type=wanted.technique_type,
        vulnerability_type=wanted.vulnerability_type,
        tags=list(wanted.tags),
        state=enum_text(wanted, "state", wanted.state),
        sharing_level=enum_text(wanted, "sharing_level", wanted.sharing_level),
    )
    template = await get_template(tx, old.id)
    record(tx, "template.update", "template", old.id, old=_facts(old), new=_facts(template))
    return template


SET_DELETED = sql(
    Nothing,
    """
    UPDATE templates.templates SET deleted_at = CASE WHEN %(deleted)s THEN now() END
     WHERE id = %(template_id)s::uuid
    """,
)


async def delete_template(tx: Tx, request: DeleteTemplateRequest) -> Template:
    """Raises NotFound(TEMPLATE_NOT_FOUND), Conflict(ETAG_MISMATCH)."""
    old = await lock_template(tx, request.template_id)
    check_etag(request.etag, old.etag)
    await tx.run(SET_DELETED, template_id=old.id, deleted=True)
    record(tx, "template.delete", "template", old.id, old={"title": old.title})
    return await get_template(tx, old.id)


async def undelete_template(tx: Tx, template_id: str) -> Template:
    """Raises NotFound(TEMPLATE_NOT_FOUND), also when the template is not deleted."""
    old = await lock_template(tx, template_id, deleted=True)
    await tx.run(SET_DELETED, template_id=old.id, deleted=False)
    record(tx, "template.undelete", "template", old.id, new={"title": old.title})
    return await get_template(tx, old.id)


def _facts(template: Template) -> dict[str, Any]:
    """What the audit log shows of a template."""
    return {
        "title": template.title,
        "description": template.description,
        "technique_type": template.technique_type,
        "vulnerability_type": template.vulnerability_type,
        "tags": list(template.tags),
        "state": enum_text(template, "state", template.state),
        "sharing_level": enum_text(template, "sharing_level", template.sharing_level),
    }
