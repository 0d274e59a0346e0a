"""The drain: from the buffer in PostgreSQL into ClickHouse, each event once.

Waiting batches are put into a group, whose make-up is committed before it is sent and whose id is
the deduplication token. A crash between sending and marking leaves an open group; it is sent again,
the same rows in the same order, and the store drops the repetition in the source and in the views.
So a group changes only when it is certain that nothing of it was written: a batch that cannot be
read is taken out before sending, and a group that the store refuses for its data is halved until
the batch at fault is alone. That batch is dead after TRIES_MAX tries.

Two drains at once are wasteful and harmless: batches join a group once, repetitions are dropped by
the store, and totals move with the rows whose state changed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from chimera import metrics
from chimera.call import Call
from chimera.clickhouse import Block, ClickHouse, DataRefused
from chimera.core import Core
from chimera.db import Nothing, sql
from chimera.ids import new_id
from chimera.pools import Database
from chimera.telemetry import frozen

log = structlog.get_logger("chimera.telemetry.drain")

# Of a group, about one batch more at most. The store takes a large group hardly slower than a small
# one; what bounds it is the memory of whoever holds it unpacked: texts that repeat are packed a hundred
# times smaller, and a group that is too much for the worker would be too much again and again.
EVENTS_MAX = 200_000
BYTES_MAX = 64_000_000  # unpacked
BATCHES_MAX = 5_000
GROUPS_MAX = 20  # sent in one pass
TRIES_MAX = 3


@dataclass(frozen=True, slots=True)
class Batch:
    batch_id: str
    org_id: str
    body: bytes
    events: int


@dataclass(frozen=True, slots=True)
class Formed:
    """A new group; `is_full`: it was cut off, so more waits behind it."""

    batches: int
    is_full: bool


OLDEST_WAITING = sql(
    datetime,
    "SELECT created_at FROM telemetry.batches WHERE state = 'waiting' ORDER BY batch_id LIMIT 1",
)

LIST_OPEN_GROUPS = sql(
    str,
    """
    SELECT group_id FROM telemetry.batches
     WHERE state = 'waiting' AND group_id IS NOT NULL
     GROUP BY group_id ORDER BY min(batch_id::text) LIMIT %(groups_max)s
    """,
)

# Committed rows only, each of which changes its state: no row that commits late can be missed, so
# this needs no horizon as a cursor would. How large a body is unpacked stands after its digest, little
# end first (frozen.py); what is too short to say so is broken.
FORM_GROUP = sql(
    Formed,
    """
    WITH oldest AS (
        SELECT batch_id, events,
               CASE WHEN octet_length(body) >= 20
                    THEN get_byte(size, 0) + get_byte(size, 1) * 256 + get_byte(size, 2) * 65536
                         + get_byte(size, 3) * 16777216::bigint
                    ELSE 0 END AS bytes
          FROM telemetry.batches, substring(body FROM 17 FOR 4) AS size
         WHERE state = 'waiting' AND group_id IS NULL ORDER BY batch_id LIMIT %(batches_max)s
    ), summed AS (
        SELECT batch_id, sum(events) OVER so_far - events AS events_before,
               sum(bytes) OVER so_far - bytes AS bytes_before
          FROM oldest WINDOW so_far AS (ORDER BY batch_id)
    ), formed AS (
        UPDATE telemetry.batches b SET group_id = %(group_id)s
          FROM summed s
         WHERE b.batch_id = s.batch_id AND s.events_before < %(events_max)s
           AND s.bytes_before < %(bytes_max)s AND b.state = 'waiting' AND b.group_id IS NULL
        RETURNING 1
    )
    SELECT count(*)::int AS batches,
           count(*) = %(batches_max)s OR count(*) < (SELECT count(*) FROM oldest) AS is_full
      FROM formed
    """,
)

READ_GROUP = sql(
    Batch,
    """
    SELECT batch_id, org_id, body, events FROM telemetry.batches
     WHERE group_id = %(group_id)s AND state = 'waiting' ORDER BY batch_id
    """,
)

MARK_STORED = sql(
    int,
    """
    WITH marked AS (
        UPDATE telemetry.batches SET state = 'stored'
         WHERE group_id = %(group_id)s AND state = 'waiting'
        RETURNING org_id, events
    ), counted AS (
        INSERT INTO telemetry.totals (org_id, slot, stored)
        SELECT org_id, 0, sum(events) FROM marked GROUP BY org_id ORDER BY org_id
        ON CONFLICT (org_id, slot) DO UPDATE SET stored = totals.stored + EXCLUDED.stored
    )
    SELECT COALESCE(sum(events), 0)::bigint FROM marked
    """,
)

HALVE_GROUP = sql(
    Nothing,
    """
    UPDATE telemetry.batches
       SET group_id = CASE WHEN batch_id = ANY(%(first)s::uuid[]) THEN %(first_id)s::uuid
                           ELSE %(second_id)s::uuid END
     WHERE group_id = %(group_id)s AND state = 'waiting'
    """,
)

# The batch is a group of its own from then on. RETURNING: its events if it is dead now, else 0.
FAIL_BATCH = sql(
    int,
    """
    WITH failed AS (
        UPDATE telemetry.batches
           SET group_id = batch_id, tries = tries + 1, last_error = %(error)s,
               state = CASE WHEN tries + 1 >= %(tries_max)s THEN 'dead' ELSE state END
         WHERE batch_id = %(batch_id)s AND state = 'waiting'
        RETURNING batch_id, org_id, producer, body, events, state = 'dead' AS is_dead
    ), letter AS (
        INSERT INTO telemetry.dead_letters (id, org_id, kind, producer, batch_id, events, body, reason)
        SELECT %(letter_id)s::uuid, org_id, 'batch', producer, batch_id, events, body, %(error)s
          FROM failed WHERE is_dead
    ), counted AS (
        INSERT INTO telemetry.totals (org_id, slot, dead)
        SELECT org_id, 0, events FROM failed WHERE is_dead
        ON CONFLICT (org_id, slot) DO UPDATE SET dead = totals.dead + EXCLUDED.dead
    )
    SELECT CASE WHEN is_dead THEN events ELSE 0 END FROM failed
    """,
)

DROP_PARTITIONS = sql(int, "SELECT telemetry.drop_partitions()")


async def drain(core: Core, clickhouse: ClickHouse) -> int:
    """One pass: open groups are sent first, then new ones, until all that waited is in one. Returns how
    many events were stored.

    Raises Unavailable while the store is away or answers with an error that is not about the data;
    everything stays as it is, and `retry_after_s` of the fault grows with each failure in a row.
    """
    db = core.db
    async with db.begin(_call()) as tx:
        oldest = await tx.one(OLDEST_WAITING)
        groups = deque(await tx.all(LIST_OPEN_GROUPS, groups_max=GROUPS_MAX))
    age_s = (datetime.now(UTC) - oldest).total_seconds() if oldest else 0.0
    metrics.PENDING_AGE.labels("telemetry").set(max(0.0, age_s))
    if oldest is None or not clickhouse.configured:
        return 0
    stored, is_more = 0, True
    for _ in range(GROUPS_MAX):
        if groups:
            group_id = groups.popleft()
        elif is_more:
            group_id, is_more = await _form_group(db)
            if not group_id:
                break
        else:
            break
        stored += await _send(db, clickhouse, group_id, groups)
    return stored


async def upkeep(core: Core) -> int:
    """Drops what is past its time and not waiting; returns how many partitions went."""
    async with core.db.begin(_call()) as tx:
        return await tx.one(DROP_PARTITIONS) or 0


def _call() -> Call:
    return Call.by_worker("telemetry.drain", seconds=60)


async def _form_group(db: Database) -> tuple[str, bool]:
    """Freezes a group of the oldest waiting batches, "" when there are none; and whether more wait."""
    group_id = new_id()
    async with db.begin(_call()) as tx:
        formed = await tx.one(
            FORM_GROUP,
            group_id=group_id,
            batches_max=BATCHES_MAX,
            events_max=EVENTS_MAX,
            bytes_max=BYTES_MAX,
        )
    if formed is None or not formed.batches:
        return "", False
    return group_id, formed.is_full


async def _send(db: Database, clickhouse: ClickHouse, group_id: str, groups: deque[str]) -> int:
    """Stores a group; or, when its data are refused, adds its halves to `groups`."""
    async with db.begin(_call()) as tx:
        batches = await tx.all(READ_GROUP, group_id=group_id)
    blocks, broken = await asyncio.to_thread(_blocks_of, batches)
    for batch_id, why in broken.items():
        await _fail(db, batch_id, why)
    batches = [batch for batch in batches if batch.batch_id not in broken]
    if not batches:
        return 0
    try:
        await clickhouse.insert("workload_events", blocks, group_id)
    except DataRefused as refused:
        await _narrow(db, group_id, batches, str(refused), groups)
        return 0
    async with db.begin(_call()) as tx:
        stored = await tx.one(MARK_STORED, group_id=group_id) or 0
    metrics.TELEMETRY_EVENTS.labels("stored").inc(stored)
    return stored


def _blocks_of(batches: list[Batch]) -> tuple[list[Block], dict[str, str]]:
    """A block a batch, and the batches that cannot be read, with the reason."""
    blocks, broken = [], {}
    for batch in batches:
        try:
            data = frozen.stored(batch.body, batch.events, batch.org_id, batch.batch_id)
        except frozen.BatchBroken as error:
            broken[batch.batch_id] = str(error)
            continue
        blocks.append(Block(frozen.STORED, batch.events, data))
    return blocks, broken


async def _narrow(
    db: Database, group_id: str, batches: list[Batch], why: str, groups: deque[str]
) -> None:
    """Halves a group that was refused, or counts a try of the one batch it consists of."""
    if len(batches) == 1:
        await _fail(db, batches[0].batch_id, why)
        return
    first_id, second_id = new_id(), new_id()
    first = [batch.batch_id for batch in batches[: len(batches) // 2]]
    async with db.begin(_call()) as tx:
        await tx.run(
            HALVE_GROUP, group_id=group_id, first=first, first_id=first_id, second_id=second_id
        )
    groups.extend((first_id, second_id))


async def _fail(db: Database, batch_id: str, why: str) -> None:
    async with db.begin(_call()) as tx:
        dead = await tx.one(
            FAIL_BATCH,
            batch_id=batch_id,
            letter_id=new_id(),
            error=why[:1000],
            tries_max=TRIES_MAX,
        )
    log.warning("telemetry.batch_refused", batch_id=batch_id, why=why, dead=bool(dead))
    if dead:
        metrics.TELEMETRY_EVENTS.labels("dead").inc(dead)
