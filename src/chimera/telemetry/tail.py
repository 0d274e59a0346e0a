"""The live tail: events as they are accepted, read from the buffer before the store has them.

Batches commit out of order, so a position is (xid, batch) below the horizon of running transactions.
One poll an organisation and process looks for news while anybody watches; a watch then reads for
itself from where it stands, so a slow one delays nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import structlog

from chimera.background import cancelled
from chimera.call import NOBODY, Call
from chimera.db import sql
from chimera.faults import Fault, Invalid
from chimera.paging import Pages
from chimera.pools import Database
from chimera.telemetry.frozen import BatchBroken, thaw
from chimera.telemetry.listing import event_message
from chimera.telemetry.scope import Scope, scope_of
from chimera.v1.telemetry_pb2 import (
    EventFilter,
    TelemetryEvent,
    WatchEventsRequest,
    WatchEventsResponse,
)

log = structlog.get_logger("chimera.telemetry.tail")

POLL_S = 0.02
BATCHES_A_LOOK = 20
EVENTS_A_MESSAGE = 500
THAWED_MAX = 64  # batches that several watches share
KEPT_S = 6 * 86_400  # a day less than batches are kept


class Position(NamedTuple):
    """Everything up to and with this batch was told, and `told` events of the one after it;
    `at_s` is when this was so."""

    xid: str
    batch_id: str
    told: int
    at_s: int


HORIZON = sql(str, "SELECT pg_snapshot_xmin(pg_current_snapshot())::text")

IS_NEWS = sql(
    dict,
    """
    SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS horizon,
           EXISTS (SELECT FROM telemetry.batches
                    WHERE org_id = %(org_id)s AND xid >= %(xid)s::xid8
                      AND xid < pg_snapshot_xmin(pg_current_snapshot())) AS is_news
    """,
)

LIST_NEWS = sql(
    dict,
    """
    SELECT xid::text, batch_id, body, events FROM telemetry.batches
     WHERE org_id = %(org_id)s AND (xid, batch_id) > (%(xid)s::xid8, %(batch_id)s::uuid)
       AND xid < pg_snapshot_xmin(pg_current_snapshot())
     ORDER BY batches.xid, batch_id LIMIT %(limit)s
    """,
)


class _Poll:
    """Looks for news of one organisation while it has watches."""

    def __init__(self) -> None:
        self.watches = 0
        self.news = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Tail:
    """The tail of one server process."""

    def __init__(self, db: Database, pages: Pages) -> None:
        self.db = db
        self.pages = pages
        self._polls: dict[str, _Poll] = {}
        self._thawed: dict[str, list[TelemetryEvent]] = {}

    async def watch(
        self, call: Call, request: WatchEventsRequest
    ) -> AsyncIterator[WatchEventsResponse]:
        """Never ends by itself. Raises Invalid(CURSOR_INVALID), NotFound(CAMPAIGN_NOT_VISIBLE)."""
        scope = await scope_of(self.db, call, request.filter)
        purpose = f"events/{call.caller.org_id}"
        position = await self._start(call, purpose, request.cursor)
        fits = _fitting(request.filter, scope)
        # The first answer says that it has begun, and from where.
        yield WatchEventsResponse(cursor=self.pages.seal(purpose, position))
        async with self._polled(call.caller.org_id) as poll:
            while True:
                news = poll.news
                async with self.db.look(call) as tx:
                    batches = await tx.all(
                        LIST_NEWS,
                        org_id=call.caller.org_id,
                        xid=position.xid,
                        batch_id=position.batch_id,
                        limit=BATCHES_A_LOOK,
                    )
                for batch in batches:
                    events = await self._events(batch)
                    for end in range(
                        position.told + EVENTS_A_MESSAGE, len(events), EVENTS_A_MESSAGE
                    ):
                        part = [e for e in events[end - EVENTS_A_MESSAGE : end] if fits(e)]
                        position = position._replace(told=end, at_s=int(time.time()))
                        if part:
                            cursor = self.pages.seal(purpose, position)
                            yield WatchEventsResponse(cursor=cursor, events=part)
                    rest = [event for event in events[position.told :] if fits(event)]
                    position = Position(batch["xid"], batch["batch_id"], 0, int(time.time()))
                    if rest:
                        cursor = self.pages.seal(purpose, position)
                        yield WatchEventsResponse(cursor=cursor, events=rest)
                if not batches:
                    await news.wait()

    async def _start(self, call: Call, purpose: str, cursor: str) -> Position:
        if not cursor:
            async with self.db.look(call) as tx:
                horizon = await tx.one(HORIZON) or "0"
            return Position(horizon, NOBODY, 0, int(time.time()))
        position = Position(*self.pages.open(purpose, cursor, reason="CURSOR_INVALID"))
        if position.at_s < time.time() - KEPT_S:
            raise Invalid(
                "CURSOR_INVALID",
                "The cursor is older than batches are kept; list the events since, and watch anew.",
            )
        return position

    async def _events(self, batch: dict[str, Any]) -> list[TelemetryEvent]:
        """The events of a batch, shared by all watches; none of one that cannot be read, which the
        drain will tell of."""
        batch_id = batch["batch_id"]
        known = self._thawed.get(batch_id)
        if known is not None:
            return known
        try:
            events = await asyncio.to_thread(_messages, bytes(batch["body"]), batch["events"])
        except BatchBroken:
            events = []
        self._thawed[batch_id] = events
        while len(self._thawed) > THAWED_MAX:
            del self._thawed[next(iter(self._thawed))]
        return events

    @asynccontextmanager
    async def _polled(self, org_id: str) -> AsyncIterator[_Poll]:
        poll = self._polls.setdefault(org_id, _Poll())
        poll.watches += 1
        if poll.task is None:
            poll.task = asyncio.create_task(self._look_out(org_id, poll))
        try:
            yield poll
        finally:
            poll.watches -= 1
            if not poll.watches:
                del self._polls[org_id]
                await cancelled(poll.task)

    async def _look_out(self, org_id: str, poll: _Poll) -> None:
        """Wakes the watches whenever something became visible since the last look."""
        seen = "0"
        while True:
            try:
                call = Call.by_worker("telemetry.tail", org_id, seconds=5)
                async with self.db.look(call) as tx:
                    row = await tx.one(IS_NEWS, org_id=org_id, xid=seen)
                if row and row["is_news"]:
                    poll.news.set()
                    poll.news = asyncio.Event()
                if row:
                    seen = row["horizon"]
            except Fault as fault:
                # The watches find out for themselves: they look when they are woken.
                log.warning("telemetry.tail_waits", reason=fault.reason)
                poll.news.set()
                poll.news = asyncio.Event()
                await asyncio.sleep(1.0)
            await asyncio.sleep(POLL_S)


def _fitting(filter: EventFilter, scope: Scope) -> Any:
    """Whether an event is asked for and may be seen."""
    fields = {
        "event_type": set(filter.event_types),
        "event_category": set(filter.event_categories),
        "campaign_id": {text.lower() for text in filter.campaign_ids},
        "user_id": {text.lower() for text in filter.user_ids},
        "workload_id": set(filter.workload_ids),
    }
    named = [(name, wanted) for name, wanted in fields.items() if wanted]
    dimensions = {
        "provider": set(filter.providers),
        "model": set(filter.models),
        "technique": set(filter.techniques),
    }
    asked = [(name, wanted) for name, wanted in dimensions.items() if wanted]

    def fits(event: TelemetryEvent) -> bool:
        return (
            scope.allows(event.user_id, event.campaign_id)
            and all(getattr(event, name) in wanted for name, wanted in named)
            and all(event.dimensions.get(name, "") in wanted for name, wanted in asked)
        )

    return fits


def _messages(body: bytes, events: int) -> list[TelemetryEvent]:
    (ids, types, categories, times, workloads, campaigns, users, sessions, correlations, names) = (
        columns := thaw(body, events)
    )[:10]
    values, units, dimensions, payloads, latencies, costs = columns[10:]
    moments = [round(moment.timestamp() * 1000) for moment in times]
    return [
        event_message(*row)
        for row in zip(
            ids,
            moments,
            types,
            categories,
            campaigns,
            users,
            workloads,
            correlations,
            names,
            values,
            units,
            dimensions,
            latencies,
            costs,
            sessions,
            payloads,
            strict=True,
        )
    ]
