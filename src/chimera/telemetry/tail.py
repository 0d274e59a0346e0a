"""The live tail: events as they are accepted, read from the buffer before the store has them.

Batches commit out of order, so a position is (xid, batch) below the horizon of running transactions.
One poll an organisation and process looks for news while anybody watches; a watch then reads for
itself from where it stands, so a slow one delays nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from weakref import WeakValueDictionary

import structlog

from chimera.background import cancelled
from chimera.call import NOBODY, Call
from chimera.db import sql
from chimera.faults import Fault, Invalid
from chimera.paging import ANSWER_BYTES, Pages
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
EVENTS_A_GLANCE = 2_000  # before others have their turn
THAWED_MAX = 20_000  # events that are kept for the next watch; those being told are shared besides
SCOPE_KNOWN_S = 2.0
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


class _Row(NamedTuple):
    """An event as `thaw` gives it."""

    event_id: UUID
    event_type: str
    event_category: str
    timestamp: datetime
    workload_id: str
    campaign_id: UUID
    user_id: UUID
    session_id: str
    correlation_id: str
    names: list[str]
    values: list[float]
    units: list[str]
    dimensions: dict[str, str]
    payload: str
    latency_ms: int
    cost: Decimal

    def message(self) -> TelemetryEvent:
        return event_message(
            self.event_id,
            round(self.timestamp.timestamp() * 1000),
            self.event_type,
            self.event_category,
            self.campaign_id,
            self.user_id,
            self.workload_id,
            self.correlation_id,
            self.names,
            self.values,
            self.units,
            self.dimensions,
            self.latency_ms,
            self.cost,
            self.session_id,
            self.payload,
        )


class _Thawed:
    """The events of a batch."""

    def __init__(self, org_id: str, columns: Sequence[Sequence[Any]]) -> None:
        self.org_id = org_id
        self.columns = columns
        self.count = len(columns[0]) if columns else 0

    def rows(self, start: int, end: int) -> Iterator[_Row]:
        return map(_Row._make, zip(*(column[start:end] for column in self.columns), strict=True))


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
        # Shared by the watches that tell them now, and the newest for those that will.
        self._told: WeakValueDictionary[str, _Thawed] = WeakValueDictionary()
        self._kept: dict[str, _Thawed] = {}
        self._thawing = asyncio.Lock()

    async def watch(
        self, call: Call, request: WatchEventsRequest
    ) -> AsyncIterator[WatchEventsResponse]:
        """Never ends by itself. Raises Invalid(CURSOR_INVALID), and NotFound(CAMPAIGN_NOT_VISIBLE), also
        when a campaign that it tells of is made private."""
        scope, scope_at = await scope_of(self.db, call, request.filter), time.monotonic()
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
                    events = await self._events(call.caller.org_id, batch)
                    is_whole = False
                    while not is_whole:
                        if scope.campaign_ids and time.monotonic() - scope_at >= SCOPE_KNOWN_S:
                            await scope_of(self.db, call, request.filter)
                            scope_at = time.monotonic()
                        part, told = _part(events, position.told, fits)
                        is_whole = told >= events.count
                        position = position._replace(told=told, at_s=int(time.time()))
                        if is_whole:
                            position = Position(batch["xid"], batch["batch_id"], 0, position.at_s)
                        if part:
                            cursor = self.pages.seal(purpose, position)
                            yield WatchEventsResponse(cursor=cursor, events=part)
                        elif not is_whole:
                            await asyncio.sleep(0)
                    del events  # nothing is held while there is no news
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

    async def _events(self, org_id: str, batch: dict[str, Any]) -> _Thawed:
        """The events of a batch; none of one that cannot be read, which the drain will tell of."""
        batch_id = batch["batch_id"]
        async with self._thawing:
            known = self._told.get(batch_id)
            if known is not None:
                return known
            try:
                columns = await asyncio.to_thread(thaw, bytes(batch["body"]), batch["events"])
            except BatchBroken:
                columns = []
            thawed = self._told[batch_id] = _Thawed(org_id, columns)
            if org_id in self._polls and thawed.count <= THAWED_MAX:
                self._kept[batch_id] = thawed
                room = THAWED_MAX - sum(kept.count for kept in self._kept.values())
                while room < 0:
                    room += self._kept.pop(next(iter(self._kept))).count
        return thawed

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
                for batch_id in [b for b, kept in self._kept.items() if kept.org_id == org_id]:
                    del self._kept[batch_id]
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


def _fitting(filter: EventFilter, scope: Scope) -> Callable[[_Row], bool]:
    """Whether an event is asked for and may be seen."""
    fields: dict[str, set[Any]] = {
        "event_type": set(filter.event_types),
        "event_category": set(filter.event_categories),
        "campaign_id": set(map(UUID, filter.campaign_ids)),
        "user_id": set(map(UUID, filter.user_ids)),
        "workload_id": set(filter.workload_ids),
    }
    named = [(name, wanted) for name, wanted in fields.items() if wanted]
    dimensions = {
        "provider": set(filter.providers),
        "model": set(filter.models),
        "technique": set(filter.techniques),
    }
    asked = [(name, wanted) for name, wanted in dimensions.items() if wanted]

    def fits(row: _Row) -> bool:
        return (
            scope.allows(row.user_id, row.campaign_id)
            and all(getattr(row, name) in wanted for name, wanted in named)
            and all(row.dimensions.get(name, "") in wanted for name, wanted in asked)
        )

    return fits


def _part(
    events: _Thawed, start: int, fits: Callable[[_Row], bool]
) -> tuple[list[TelemetryEvent], int]:
    """Those of the events from `start` that fit and go into one message, and where the next begins.
    Looks at so many only as others can wait for."""
    part: list[TelemetryEvent] = []
    used = 0
    for row in events.rows(start, start + EVENTS_A_GLANCE):
        if fits(row):
            message = row.message()
            used += message.ByteSize()
            if part and used > ANSWER_BYTES:
                return part, start
            part.append(message)
        start += 1
        if len(part) == EVENTS_A_MESSAGE:
            break
    return part, start
