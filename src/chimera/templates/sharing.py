"""Sharing: with one person or team, and with every organisation. The levels between are fields.

What must stay true: only who may manage a template hands it on (operations.check_manager); nothing
is public but by set_public, which needs the permission TEMPLATE_PUBLIC; a share ends at its moment
without anybody doing anything, because the row policies compare it.
"""

from __future__ import annotations

from psycopg.errors import ForeignKeyViolation

from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import Invalid, NotFound, NotReady, Violation
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.rows import enum_text
from chimera.templates.operations import check_manager, get_template, lock_template
from chimera.v1.templates_pb2 import (
    ListTemplateSharesRequest,
    SetTemplatePublicRequest,
    ShareTemplateRequest,
    SharingLevel,
    Template,
    TemplateShare,
    TemplateState,
    UnshareTemplateRequest,
)

PUT_SHARE = sql(
    TemplateShare,
    """
    INSERT INTO templates.shares (id, org_id, template_id, user_id, team_id, permission, expires_at,
                                  shared_by)
    VALUES (%(id)s, %(org_id)s, %(template_id)s, NULLIF(%(user_id)s, '')::uuid,
            NULLIF(%(team_id)s, '')::uuid, %(permission)s, %(expires_at)s, %(shared_by)s)
    ON CONFLICT (template_id, user_id, team_id) DO UPDATE
       SET permission = EXCLUDED.permission, expires_at = EXCLUDED.expires_at,
           shared_by = EXCLUDED.shared_by
    RETURNING id, template_id, user_id, team_id, permission, expires_at, shared_by, created_at
    """,
)


async def share_template(tx: Tx, request: ShareTemplateRequest) -> TemplateShare:
    """Raises NotFound(TEMPLATE_NOT_FOUND), Denied(TEMPLATE_READ_ONLY, PERMISSION_MISSING),
    Invalid(FIELD_INVALID)."""
    if bool(request.user_id) is bool(request.team_id):
        raise _bad("user_id", "give a user or a team, and not both")
    await check_manager(tx, await lock_template(tx, request.template_id))
    expires_at = request.expires_at.ToDatetime() if request.HasField("expires_at") else None
    try:
        share = await tx.one(
            PUT_SHARE,
            id=new_id(),
            org_id=tx.call.caller.org_id,
            template_id=request.template_id,
            user_id=request.user_id,
            team_id=request.team_id,
            permission=enum_text(request, "permission", request.permission),
            expires_at=f"{expires_at.isoformat()}Z" if expires_at else None,
            shared_by=tx.call.caller.user_id,
        )
    except ForeignKeyViolation:
        field = "user_id" if request.user_id else "team_id"
        raise _bad(field, "is nobody in your organisation") from None
    assert share is not None  # an upsert without a condition returns its row
    record(
        tx,
        "template.share",
        "template",
        request.template_id,
        new={
            "user_id": request.user_id,
            "team_id": request.team_id,
            "permission": enum_text(request, "permission", request.permission),
            "expires_at": expires_at.isoformat() if expires_at else "",
        },
    )
    return share


def _bad(field: str, message: str) -> Invalid:
    violation = Violation(field, message, "FIELD_INVALID")
    return Invalid("FIELD_INVALID", f"{field}: {message}", violations=[violation])


REMOVE_SHARE = sql(
    dict,
    """
    DELETE FROM templates.shares WHERE template_id = %(template_id)s::uuid AND id = %(share_id)s::uuid
    RETURNING COALESCE(user_id::text, '') AS user_id, COALESCE(team_id::text, '') AS team_id, permission
    """,
)


async def unshare_template(tx: Tx, request: UnshareTemplateRequest) -> None:
    """Raises NotFound(TEMPLATE_NOT_FOUND, SHARE_NOT_FOUND), Denied(TEMPLATE_READ_ONLY,
    PERMISSION_MISSING)."""
    await check_manager(tx, await lock_template(tx, request.template_id))
    old = await tx.one(REMOVE_SHARE, template_id=request.template_id, share_id=request.share_id)
    if old is None:
        raise NotFound("SHARE_NOT_FOUND", "The template has no such share.")
    record(tx, "template.unshare", "template", request.template_id, old=old)


LIST_SHARES = sql(
    TemplateShare,
    """
    SELECT id, template_id, user_id, team_id, permission, expires_at, shared_by, created_at
      FROM templates.shares
     WHERE template_id = %(template_id)s::uuid AND (%(after)s::uuid IS NULL OR id > %(after)s)
     ORDER BY id
     LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_shares(
    tx: Tx, pages: Pages, request: ListTemplateSharesRequest
) -> tuple[list[TemplateShare], str]:
    """A page, those that have ended too. Raises NotFound(TEMPLATE_NOT_FOUND)."""
    size, after = pages.page(request)
    await get_template(tx, request.template_id)
    rows = await tx.all(
        LIST_SHARES,
        template_id=request.template_id,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "id")


SET_LEVEL = sql(
    Nothing,
    """
    UPDATE templates.templates SET sharing_level = %(level)s, team_id = NULL
     WHERE id = %(template_id)s::uuid
    """,
)


async def set_public(tx: Tx, request: SetTemplatePublicRequest) -> Template:
    """Closed again, it is its organisation's. Raises NotFound(TEMPLATE_NOT_FOUND),
    NotReady(STATE_TRANSITION_REFUSED), Denied(TEMPLATE_READ_ONLY)."""
    old = await lock_template(tx, request.template_id)
    if request.is_public and old.state != TemplateState.TEMPLATE_STATE_PUBLISHED:
        raise NotReady("STATE_TRANSITION_REFUSED", "Publish it first: what is public was reviewed.")
    is_public = old.sharing_level == SharingLevel.SHARING_LEVEL_PUBLIC
    if request.is_public is not is_public:
        level = "public" if request.is_public else "organisation"
        await tx.run(SET_LEVEL, template_id=old.id, level=level)
    record(
        tx,
        "template.set_public",
        "template",
        old.id,
        old={"is_public": is_public},
        new={"is_public": request.is_public},
    )
    return await get_template(tx, old.id)
