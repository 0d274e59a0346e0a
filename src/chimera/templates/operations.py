"""The prompt library: titles, tags, states, sharing. The text is in versions.py.

What must stay true: row-level security decides who sees a template and who may change it (its
policies: migrations/postgres/0016_templates.sql); a deleted template can be read and undeleted,
nothing else; who merely sees one is told that it is read-only, everybody else that there is none.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import Denied, Fault, Invalid, NotFound, Violation
from chimera.ids import new_id
from chimera.paging import Pages, rows_that_fit
from chimera.rows import enum_text
from chimera.templates.classifications import known_type
from chimera.templates.review import check_transition
from chimera.updates import check_etag, checked_paths, must_be_given
from chimera.v1.templates_pb2 import (
    ChangeTemplateStateRequest,
    CreateTemplateRequest,
    DeleteTemplateRequest,
    ListTemplatesRequest,
    SharingLevel,
    Template,
    TemplateVersion,
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
    "team_id",
)

SELECT_TEMPLATE = """
    SELECT id, title, description, technique_type, vulnerability_type, tags, state, sharing_level,
           team_id, version_number, created_by, created_at, updated_at, deleted_at, forked_from_id,
           forked_from_version_number, submitted_by, rating_count, average_rating, effective_votes,
           ineffective_votes, usage_count, scored_count, success_count, success_rate,
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

    Raises NotFound(TEMPLATE_NOT_FOUND) also when it is deleted, or with `deleted` when it is not;
    Denied(TEMPLATE_READ_ONLY).
    """
    template = await tx.one(LOCK_TEMPLATE, template_id=template_id)
    if template is None:
        raise await not_writable(tx, template_id)
    if template.HasField("deleted_at") is not deleted:
        raise no_template()
    return template


async def not_writable(tx: Tx, template_id: str) -> Fault:
    """Why a template cannot be changed that no policy lets through."""
    seen = await tx.one(GET_TEMPLATE, template_id=template_id)
    if seen is None or seen.HasField("deleted_at"):
        return no_template()
    return read_only("You may read this template and not change it; fork it.")


def read_only(message: str) -> Denied:
    return Denied("TEMPLATE_READ_ONLY", message)


OWN_ADMIN_SHARE = sql(
    bool, "SELECT %(template_id)s::uuid = ANY (templates.own_shares('{admin}')) AS may"
)


async def check_manager(tx: Tx, template: Template) -> None:
    """Raises Denied(PERMISSION_MISSING) unless the caller made the template, administrates the
    organisation, or was given the template with ADMIN."""
    caller = tx.call.caller
    if template.created_by == caller.user_id or caller.role == "admin":
        return
    if not await tx.one(OWN_ADMIN_SHARE, template_id=template.id):
        raise Denied(
            "PERMISSION_MISSING",
            "Only its creator, an administrator, or who was given it with ADMIN may do that.",
        )


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
    rows, has_more = await rows_that_fit(
        lambda template_id, limit: tx.all(
            LIST_TEMPLATES,
            state=enum_text(Template, "state", request.state),
            tag=request.tag,
            show_deleted=request.show_deleted,
            after=template_id,
            limit=limit,
        ),
        after[0] if after else None,
        size,
        lambda row: row.id,
    )
    return rows, pages.next_token_at(request, [rows[-1].id]) if has_more else ""


INSERT_TEMPLATE = sql(
    Nothing,
    """
    INSERT INTO templates.templates (id, org_id, title, description, technique_type,
                                     vulnerability_type, tags, sharing_level, team_id, created_by,
                                     body, forked_from_id, forked_from_version_number, import_hash)
    VALUES (%(id)s, %(org_id)s, %(title)s, %(description)s, %(technique_type)s,
            %(vulnerability_type)s, %(tags)s, %(sharing_level)s, NULLIF(%(team_id)s, '')::uuid,
            %(created_by)s, %(body)s, NULLIF(%(forked_from_id)s, '')::uuid,
            NULLIF(%(forked_from_version_number)s, 0), NULLIF(%(import_hash)s, ''))
    """,
)

OWN_TEAM = sql(bool, "SELECT %(team_id)s::uuid = ANY (identity.own_teams()) AS mine")


async def create_template(
    tx: Tx,
    request: CreateTemplateRequest,
    body: str,
    *,
    forked_from: TemplateVersion | None = None,
    import_hash: str = "",
) -> Template:
    """A new draft without a version; the caller adds the first in the same transaction.

    Shared with the organisation unless the request says otherwise. Raises Invalid(FIELD_INVALID).
    """
    template_id = new_id()
    level = request.sharing_level or SharingLevel.SHARING_LEVEL_ORGANISATION
    await check_sharing(tx, level, request.team_id)
    await tx.run(
        INSERT_TEMPLATE,
        id=template_id,
        org_id=tx.call.caller.org_id,
        title=request.title,
        description=request.description,
        technique_type=known_type("technique_type", request.technique_type),
        vulnerability_type=known_type("vulnerability_type", request.vulnerability_type),
        tags=normal_tags(request.tags),
        sharing_level=enum_text(request, "sharing_level", level),
        team_id=request.team_id,
        created_by=tx.call.caller.user_id,
        body=body,
        forked_from_id=forked_from.template_id if forked_from else "",
        forked_from_version_number=forked_from.version_number if forked_from else 0,
        import_hash=import_hash,
    )
    template = await get_template(tx, template_id)
    record(tx, "template.create", "template", template_id, new=_facts(template))
    return template


async def check_sharing(tx: Tx, level: int, team_id: str) -> None:
    """A team goes with its level, and is one of the caller's. Raises Invalid(FIELD_INVALID),
    NotFound(TEAM_NOT_FOUND)."""
    if level == SharingLevel.SHARING_LEVEL_PUBLIC:
        raise _bad_field("sharing_level", "is opened to everybody by SetTemplatePublic alone")
    if (level == SharingLevel.SHARING_LEVEL_TEAM) is not bool(team_id):
        raise _bad_field("team_id", "goes with the sharing level team, and only with it")
    if team_id and not await tx.one(OWN_TEAM, team_id=team_id):
        raise NotFound("TEAM_NOT_FOUND", "You are in no such team.")


def _bad_field(field: str, message: str) -> Invalid:
    violation = Violation(field, message, "FIELD_INVALID")
    return Invalid("FIELD_INVALID", f"{field}: {message}", violations=[violation])


def normal_tags(tags: Iterable[str]) -> list[str]:
    """Lower case, NFC, words joined by hyphens, each once, in the order given."""
    normal = ("-".join(unicodedata.normalize("NFC", tag).lower().split()) for tag in tags)
    return list(dict.fromkeys(tag for tag in normal if tag))


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
                             THEN %(sharing_level)s ELSE sharing_level END,
        team_id = CASE WHEN 'sharing_level' = ANY (%(paths)s)
                       THEN NULLIF(%(team_id)s, '')::uuid ELSE team_id END
     WHERE id = %(template_id)s::uuid
    """,
)


async def update_template(tx: Tx, request: UpdateTemplateRequest) -> Template:
    """Raises NotFound(TEMPLATE_NOT_FOUND), Conflict(ETAG_MISMATCH), Invalid(UPDATE_MASK_INVALID,
    FIELD_INVALID), NotReady(STATE_TRANSITION_REFUSED), Denied(TEMPLATE_READ_ONLY,
    PERMISSION_MISSING)."""
    wanted = request.template
    paths = checked_paths(request.update_mask.paths, UPDATABLE)
    for name in ("title", "state", "sharing_level"):
        if name in paths and not getattr(wanted, name):
            raise must_be_given(f"template.{name}")
    old = await lock_template(tx, wanted.id)
    check_etag(request.etag, old.etag)
    if "team_id" in paths and "sharing_level" not in paths:
        raise _bad_field("template.team_id", "is named together with sharing_level")
    if "sharing_level" in paths:
        await check_sharing(tx, wanted.sharing_level, wanted.team_id)
        await check_manager(tx, old)
    if "state" in paths:
        await check_transition(tx, old, wanted.state)
    await tx.run(
        UPDATE_TEMPLATE,
        template_id=old.id,
        paths=paths,
        title=wanted.title,
        description=wanted.description,
        technique_type=known_type("technique_type", wanted.technique_type),
        vulnerability_type=known_type("vulnerability_type", wanted.vulnerability_type),
        tags=normal_tags(wanted.tags),
        state=enum_text(wanted, "state", wanted.state),
        sharing_level=enum_text(wanted, "sharing_level", wanted.sharing_level),
        team_id=wanted.team_id,
    )
    template = await get_template(tx, old.id)
    record(tx, "template.update", "template", old.id, old=_facts(old), new=_facts(template))
    return template


SET_STATE = sql(
    Nothing,
    "UPDATE templates.templates SET state = %(state)s WHERE id = %(template_id)s::uuid",
)


async def change_state(tx: Tx, request: ChangeTemplateStateRequest) -> Template:
    """Raises NotFound(TEMPLATE_NOT_FOUND), Conflict(ETAG_MISMATCH), Denied(TEMPLATE_READ_ONLY,
    PERMISSION_MISSING), NotReady(STATE_TRANSITION_REFUSED)."""
    old = await lock_template(tx, request.template_id)
    check_etag(request.etag, old.etag)
    await check_transition(tx, old, request.state)
    state = enum_text(request, "state", request.state)
    await tx.run(SET_STATE, template_id=old.id, state=state)
    record(
        tx,
        "template.change_state",
        "template",
        old.id,
        old={"state": enum_text(old, "state", old.state)},
        new={"state": state, "note": request.note},
    )
    return await get_template(tx, old.id)


SET_DELETED = sql(
    Nothing,
    """
    UPDATE templates.templates SET deleted_at = CASE WHEN %(deleted)s THEN now() END
     WHERE id = %(template_id)s::uuid
    """,
)


async def delete_template(tx: Tx, request: DeleteTemplateRequest) -> Template:
    """Raises NotFound(TEMPLATE_NOT_FOUND), Conflict(ETAG_MISMATCH), Denied(TEMPLATE_READ_ONLY,
    PERMISSION_MISSING)."""
    old = await lock_template(tx, request.template_id)
    check_etag(request.etag, old.etag)
    await check_manager(tx, old)
    await tx.run(SET_DELETED, template_id=old.id, deleted=True)
    record(tx, "template.delete", "template", old.id, old={"title": old.title})
    return await get_template(tx, old.id)


async def undelete_template(tx: Tx, template_id: str) -> Template:
    """Raises NotFound(TEMPLATE_NOT_FOUND), also when the template is not deleted."""
    old = await lock_template(tx, template_id, deleted=True)
    await check_manager(tx, old)
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
        "team_id": template.team_id,
    }
