"""Sealed events as they come. The sealer's lock makes log order commit order, so the position in the
log is a cursor that misses and repeats nothing; it names the last leaf's hash, so that a log which was
restored from a backup and went on differently is noticed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

from chimera.audit.leaf import Kind
from chimera.audit.operations import LOG_SIZE, check_closed, event_message, fitting
from chimera.audit.recording import record
from chimera.call import Call
from chimera.db import Tx, sql
from chimera.faults import Invalid
from chimera.paging import Pages
from chimera.pools import Database
from chimera.v1.audit_pb2 import WatchAuditEventsRequest, WatchAuditEventsResponse
from chimera.v1.options_pb2 import Access

POLL_S = 0.5
QUIET_S = 30.0  # after which an empty answer moves the cursor on
EVENTS_A_LOOK = 200

LIST_NEW_EVENTS = sql(
    dict,
    """
    SELECT id, log_index, occurred_at, actor_kind, actor_id, action, entity, entity_id, outcome,
           severity, facts, fields, leaf_hash, previous_hash
      FROM audit.events
     WHERE org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid)
       AND log_index >= %(low)s AND log_index < %(high)s
       AND (%(action)s::text IS NULL OR action = %(action)s)
       AND (%(severity)s::text IS NULL OR severity = %(severity)s)
     ORDER BY log_index LIMIT %(limit)s
    """,
    prepare=False,
)

FIND_LEAF_HASH = sql(
    str, "SELECT encode(leaf_hash, 'hex') FROM audit.leaves WHERE log_index = %(log_index)s"
)


async def watch_audit_events(
    db: Database, pages: Pages, request: WatchAuditEventsRequest, call: Call
) -> AsyncIterator[WatchAuditEventsResponse]:
    """The organisation's events from the cursor on, until the caller leaves; an answer at once and
    then whenever there is something new. Raises Invalid(CURSOR_INVALID, FIELD_INVALID)."""
    check_closed({"severity": request.severity})
    async with db.begin(call) as tx:
        record(tx, "audit.watch", "audit_log", call.caller.org_id, kind=Kind.ACCESS)
        at = await _position(tx, pages, request)
    reading = replace(call, access=Access())
    told_at, told = 0.0, -1
    while True:
        # Statement by statement: below the size that was read nothing changes any more.
        async with db.look(reading) as tx:
            size = await tx.one(LOG_SIZE) or 0
            rows = []
            if at < size:
                rows = await tx.all(
                    LIST_NEW_EVENTS,
                    low=at,
                    high=size,
                    action=request.action or None,
                    severity=request.severity or None,
                    limit=EVENTS_A_LOOK,
                )
            events = [event_message(row) for row in rows]
            count = fitting(events)
            is_full = count == EVENTS_A_LOOK or count < len(rows)
            at = rows[count - 1]["log_index"] + 1 if is_full else max(at, size)
            last_hash = await tx.one(FIND_LEAF_HASH, log_index=at - 1) or ""
        if rows or told < 0 or (at != told and time.monotonic() - told_at > QUIET_S):
            cursor = pages.seal(_purpose(call), [at, last_hash])
            told_at, told = time.monotonic(), at
            yield WatchAuditEventsResponse(cursor=cursor, events=events[:count])
        if not is_full:
            await asyncio.sleep(POLL_S)


def _purpose(call: Call) -> str:
    return f"watch/audit/{call.caller.org_id}"


async def _position(tx: Tx, pages: Pages, request: WatchAuditEventsRequest) -> int:
    if not request.cursor:
        return 0 if request.from_beginning else await tx.one(LOG_SIZE) or 0
    at, last_hash = pages.open(_purpose(tx.call), request.cursor, reason="CURSOR_INVALID")
    found = await tx.one(FIND_LEAF_HASH, log_index=at - 1) or ""
    if found != last_hash:
        raise Invalid(
            "CURSOR_INVALID",
            "The log went on differently, as after the restore of a backup; start without a cursor.",
        )
    return int(at)
