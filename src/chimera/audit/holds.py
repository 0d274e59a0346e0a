"""Legal holds: what they lie on is kept beyond every retention. And what was dropped without one."""

from __future__ import annotations

from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.db import Tx, sql
from chimera.faults import Denied, NotFound, NotReady
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.v1.audit_pb2 import (
    LegalHold,
    ListLegalHoldsRequest,
    ListPayloadDropsRequest,
    PayloadDrop,
    PlaceLegalHoldRequest,
)

LIST_LEGAL_HOLDS = sql(
    LegalHold,
    """
    SELECT id, name, reason, org_id IS NULL AS for_everyone, placed_by, created_at, released_by,
           released_at, release_reason
      FROM audit.legal_holds
     WHERE (%(after)s::uuid IS NULL OR id < %(after)s)
     ORDER BY id DESC LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_legal_holds(
    tx: Tx, pages: Pages, request: ListLegalHoldsRequest
) -> tuple[list[LegalHold], str]:
    """A page, newest first, and the token of the next one."""
    size, after = pages.page(request)
    rows = await tx.all(LIST_LEGAL_HOLDS, after=after[0] if after else None, limit=size + 1)
    return rows[:size], pages.next_token(request, rows, size, "id")


PLACE_LEGAL_HOLD = sql(
    LegalHold,
    """
    INSERT INTO audit.legal_holds (id, org_id, name, reason, placed_by)
    VALUES (%(id)s, %(org_id)s, %(name)s, %(reason)s, %(user_id)s)
    RETURNING id, name, reason, org_id IS NULL AS for_everyone, placed_by, created_at
    """,
)


async def place_legal_hold(tx: Tx, request: PlaceLegalHoldRequest) -> LegalHold:
    """Raises Denied(PERMISSION_MISSING) when somebody else than an operator holds everybody's."""
    caller = tx.call.caller
    if request.for_everyone and not caller.is_operator:
        raise Denied("PERMISSION_MISSING", "Only operators hold every organisation's events.")
    hold = await tx.one(
        PLACE_LEGAL_HOLD,
        id=new_id(),
        org_id=None if request.for_everyone else caller.org_id,
        name=request.name,
        reason=request.reason,
        user_id=caller.user_id,
    )
    assert hold is not None
    record(
        tx, "legal_hold.place", "legal_hold", hold.id,
        new={"name": hold.name, "for_everyone": hold.for_everyone}, reason=request.reason,
        severity=Severity.NOTICE, kind=Kind.SECURITY,
    )  # fmt: skip
    return hold


RELEASE_LEGAL_HOLD = sql(
    LegalHold,
    """
    UPDATE audit.legal_holds
       SET released_by = %(user_id)s, released_at = now(), release_reason = %(reason)s
     WHERE id = %(id)s AND released_at IS NULL
    RETURNING id, name, reason, org_id IS NULL AS for_everyone, placed_by, created_at, released_by,
              released_at, release_reason
    """,
)
FIND_LEGAL_HOLD = sql(bool, "SELECT true FROM audit.legal_holds WHERE id = %(id)s")


async def release_legal_hold(tx: Tx, hold_id: str, reason: str) -> LegalHold:
    """Raises NotFound(LEGAL_HOLD_NOT_FOUND), NotReady(LEGAL_HOLD_RELEASED)."""
    hold = await tx.one(
        RELEASE_LEGAL_HOLD, id=hold_id, reason=reason, user_id=tx.call.caller.user_id
    )
    if hold is None:
        if await tx.one(FIND_LEGAL_HOLD, id=hold_id):
            raise NotReady("LEGAL_HOLD_RELEASED", "It was released before.")
        raise NotFound("LEGAL_HOLD_NOT_FOUND", f"There is no legal hold {hold_id}.")
    record(
        tx, "legal_hold.release", "legal_hold", hold_id,
        old={"released": False}, new={"released": True}, reason=reason,
        severity=Severity.WARNING, kind=Kind.SECURITY,
    )  # fmt: skip
    return hold


LIST_PAYLOAD_DROPS = sql(
    PayloadDrop,
    """
    SELECT partition_name, first_index, last_index, events, state, archive_file, archive_sha256,
           event_id, created_at, dropped_at
      FROM audit.drops
     WHERE (%(after)s::text IS NULL OR partition_name < %(after)s)
     ORDER BY partition_name DESC LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_payload_drops(
    tx: Tx, pages: Pages, request: ListPayloadDropsRequest
) -> tuple[list[PayloadDrop], str]:
    """A page, newest month first, and the token of the next one."""
    size, after = pages.page(request)
    rows = await tx.all(LIST_PAYLOAD_DROPS, after=after[0] if after else None, limit=size + 1)
    return rows[:size], pages.next_token(request, rows, size, "partition_name")
