"""The drain: from the buffer in PostgreSQL into ClickHouse, each event once.

Waiting batches are put into a group, whose make-up is committed before it is sent and whose id is
the deduplication token. A crash between sending and marking leaves an open group; it is sent again,
the same rows in the same order, and the store drops the repetition in the source and in the views.
So a group changes only when it is certain that nothing of it was written: a batch that cannot be
read is taken out before sending, and a group that the store refuses for its data is halved until
the batch at fault is alone. That batch is dead after TRIES_MAX tries. A group that fails for any other
reason stays as it is and comes after all others: part of it may be written.

A group is no more than the views can make roll-ups of in little memory (weighing.py).

Two drains at once are wasteful and harmless: batches join a group once, repetitions are dropped by
the store, and totals move with the rows whose state changed. A drain beside a rebuild of roll-ups would
not be: nothing is inserted meanwhile (turns.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from chimera import metrics
from chimera.call import Call
from chimera.clickhouse import Block, ClickHouse, DataRefused
from chimera.core import Core
from chimera.db import Nothing, sql
from chimera.faults import Conflict, Fault
from chimera.ids import new_id
from chimera.pools import Database, settled
from chimera.telemetry import frozen
from chimera.telemetry.turns import Turn, inserting
from chimera.telemetry.weighing import SKETCHES_MAX, Weight, facts_of

log = structlog.get_logger("chimera.telemetry.drain")

# Of a group, about one batch more at most, beside what the store makes of it (weighing.py). The memory of
# whoever holds it unpacked bounds it too: texts that repeat are packed a hundred times smaller, and a
# group that is too much for the worker would be too much again and again.
EVENTS_MAX = 200_000
BYTES_MAX = 64_000_000  # unpacked
BATCHES_MAX = 5_000
GROUPS_MAX = 20  # sent in one pass
TRIES_MAX = 3
IN_A_ROW_MAX = 2  # failed groups, after which it is the store that fails


@dataclass(frozen=True, slots=True)
class Batch:
    batch_id: str
    org_id: str
    body: bytes
    events: int


@dataclass(frozen=True, slots=True)
class NewBatch:
    """One that is in no group yet. `seen`: of how many that wait, at most BATCHES_MAX."""

    batch_id: str
    org_id: str
    body: bytes
    events: int
    seen: int


@dataclass
class Pass:
    """What one pass sends: groups in their turn, and what became of them."""

    db: Database
    clickhouse: ClickHouse
    groups: deque[str]
    stored: int = 0
    sent: int = 0  # groups that got through
    failed: list[tuple[str, Fault]] = field(default_factory=list)
    in_a_row: int = 0
    is_held_up: bool = False  # by roll-ups that are made anew


OLDEST_WAITING = sql(
    datetime,
    "SELECT created_at FROM telemetry.batches WHERE state = 'waiting' ORDER BY batch_id LIMIT 1",
)

# Those that failed are asked for apart: after all others, and each time later when the others got through.
LIST_OPEN_GROUPS = sql(
    str,
    """
    SELECT group_id FROM telemetry.batches
     WHERE state = 'waiting' AND group_id IS NOT NULL AND (group_failed_at IS NOT NULL) = %(is_failed)s
       AND (group_failures = 0
            OR group_failed_at + make_interval(secs => LEAST(600, 5 * 2 ^ LEAST(group_failures, 10)))
               < clock_timestamp())
     GROUP BY group_id ORDER BY min(group_failed_at), min(batch_id::text) LIMIT %(groups_max)s
    """,
)

# Committed rows only, each of which changes its state: no row that commits late can be missed, so
# this needs no horizon as a cursor would. How large a body is unpacked stands after its digest, little
# end first (frozen.py); what is too short to say so is broken.
LIST_NEW = sql(
    NewBatch,
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
               sum(bytes) OVER so_far - bytes AS bytes_before, count(*) OVER () AS seen
          FROM oldest WINDOW so_far AS (ORDER BY batch_id)
    )
    SELECT b.batch_id, b.org_id, b.body, b.events, s.seen::int AS seen
      FROM summed s JOIN telemetry.batches b ON b.batch_id = s.batch_id
     WHERE s.events_before < %(events_max)s AND s.bytes_before < %(bytes_max)s
     ORDER BY s.batch_id
    """,
)

FORM_GROUPS = sql(
    Nothing,
    """
    UPDATE telemetry.batches b
       SET group_id = f.group_id, group_failures = 0, group_failed_at = NULL
      FROM unnest(%(batch_ids)s::uuid[], %(group_ids)s::uuid[]) AS f (batch_id, group_id)
     WHERE b.batch_id = f.batch_id AND b.state = 'waiting' AND b.group_id IS NULL
    """,
)

MARK_FAILED = sql(
    Nothing,
    """
    UPDATE telemetry.batches
       SET group_failed_at = clock_timestamp(), last_error = %(error)s,
           group_failures = group_failures + %(is_alone)s::int
     WHERE group_id = %(group_id)s AND state = 'waiting'
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
        UPDATE telemetry.batches b SET state = 'stored', fingerprint = f.fingerprint
          FROM unnest(%(batch_ids)s::uuid[], %(fingerprints)s::bigint[]) AS f (batch_id, fingerprint)
         WHERE b.batch_id = f.batch_id AND b.group_id = %(group_id)s AND b.state = 'waiting'
        RETURNING b.org_id, b.events
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
           SET group_id = %(own_group_id)s, tries = tries + 1, last_error = %(error)s,
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

# As long as the roll-ups are kept: producers are named by their senders, so there may be many.
PURGE_LEDGER = sql(
    Nothing, "DELETE FROM telemetry.reconciliations WHERE day < current_date - interval '1 year'"
)


async def drain(core: Core, clickhouse: ClickHouse) -> int:
    """One pass: open groups are sent first, then new ones, until all that waited is in one; those that
    failed before come last. Returns how many events were stored.

    Raises the fault of the store when no group got through: it is away, or answers with an error that
    is not about the data. Everything stays as it is, and `retry_after_s` grows with each failure in a
    row. A group that fails while others get through waits, longer each time.
    """
    db = core.db
    async with db.begin(_call()) as tx:
        oldest = await tx.one(OLDEST_WAITING)
        groups = await tx.all(LIST_OPEN_GROUPS, is_failed=False, groups_max=GROUPS_MAX)
        failed = await tx.all(LIST_OPEN_GROUPS, is_failed=True, groups_max=GROUPS_MAX)
    age_s = (datetime.now(UTC) - oldest).total_seconds() if oldest else 0.0
    metrics.PENDING_AGE.labels("telemetry").set(max(0.0, age_s))
    if oldest is None or not clickhouse.configured:
        return 0
    one = Pass(db, clickhouse, deque(groups))
    is_more = True
    for _ in range(GROUPS_MAX):
        if not one.groups and is_more:
            formed, is_more = await _form_groups(db)
            one.groups.extend(formed)
        if not one.groups:
            one.groups.extend(failed)
            failed = []
        if not one.groups or one.in_a_row == IN_A_ROW_MAX or one.is_held_up:
            break
        await _send(one, one.groups.popleft())
    await _mark_failed(one)
    if one.failed and not one.sent:
        raise one.failed[0][1]
    return one.stored


async def _mark_failed(one: Pass) -> None:
    for group_id, fault in one.failed:
        is_alone = one.sent > 0
        async with one.db.begin(_call()) as tx:
            await tx.run(MARK_FAILED, group_id=group_id, error=str(fault)[:1000], is_alone=is_alone)
        if is_alone:
            log.error("telemetry.group_failed", group_id=group_id, reason=fault.reason)


async def upkeep(core: Core) -> int:
    """Drops what is past its time and not waiting; returns how many partitions went."""
    async with core.db.begin(_call()) as tx:
        dropped = await tx.one(DROP_PARTITIONS) or 0
    async with core.db.begin(_call()) as tx:
        await tx.run(PURGE_LEDGER)
    return dropped


def _call() -> Call:
    return Call.by_worker("telemetry.drain", seconds=60)


async def _form_groups(db: Database) -> tuple[list[str], bool]:
    """Freezes groups of the oldest waiting batches, none when there are none; and whether more wait."""
    async with db.begin(_call()) as tx:
        batches = await tx.all(
            LIST_NEW, batches_max=BATCHES_MAX, events_max=EVENTS_MAX, bytes_max=BYTES_MAX
        )
    if not batches:
        return [], False
    group_ids = await asyncio.to_thread(_grouped, batches)
    async with db.begin(_call()) as tx:
        await tx.run(
            FORM_GROUPS, batch_ids=[batch.batch_id for batch in batches], group_ids=group_ids
        )
    seen = batches[0].seen
    return list(dict.fromkeys(group_ids)), seen == BATCHES_MAX or len(batches) < seen


def _grouped(batches: list[NewBatch]) -> list[str]:
    """The group of each, in order: a new one where one insert would be too much for the store."""
    group_id, weight, found = new_id(), Weight(), []
    for batch in batches:
        try:
            facts = facts_of(frozen.unpack(batch.body), batch.events, batch.org_id)
        except frozen.BatchBroken:  # which is seen again when it is to be sent
            found.append(group_id)
            continue
        weight.add(facts, 0, batch.events)
        if weight.sketches > SKETCHES_MAX and found and found[-1] == group_id:
            group_id, weight = new_id(), Weight()
            weight.add(facts, 0, batch.events)
        found.append(group_id)
    return found


async def _send(one: Pass, group_id: str) -> None:
    """Stores a group; or, when its data are refused, adds its halves to those of the pass."""
    try:
        async with inserting(one.db) as turn:
            await _store(one, turn, group_id)
    except Conflict as conflict:
        log.info("telemetry.held_up", group_id=group_id, why=str(conflict))
        one.is_held_up = True


async def _store(one: Pass, turn: Turn, group_id: str) -> None:
    async with one.db.begin(_call()) as tx:
        batches = await tx.all(READ_GROUP, group_id=group_id)
    blocks, broken = await asyncio.to_thread(_blocks_of, batches)
    for batch_id, why in broken.items():
        await _fail(one.db, batch_id, why)
    batches = [batch for batch in batches if batch.batch_id not in broken]
    if not batches:
        return
    turn.check()
    try:
        # To its end, for the turn must not end before it.
        fault = await settled(_insert(one.clickhouse, blocks, group_id))
    except DataRefused as refused:
        await _narrow(one.db, group_id, batches, str(refused), one.groups)
        return
    if fault is not None:
        one.failed.append((group_id, fault))
        one.in_a_row += 1
        return
    async with one.db.begin(_call()) as tx:
        stored = await tx.one(
            MARK_STORED,
            group_id=group_id,
            batch_ids=[batch.batch_id for batch in batches],
            fingerprints=[frozen.fingerprint(block.data[2]) for block in blocks],
        )
    one.stored += stored or 0
    one.sent += 1
    one.in_a_row = 0
    metrics.TELEMETRY_EVENTS.labels("stored").inc(stored or 0)


async def _insert(clickhouse: ClickHouse, blocks: list[Block], group_id: str) -> Fault | None:
    """The store's fault, apart from those of PostgreSQL, which end the pass. Raises DataRefused."""
    try:
        await clickhouse.insert("workload_events", blocks, group_id)
    except Fault as fault:
        return fault
    return None


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
            own_group_id=new_id(),
            error=why[:1000],
            tries_max=TRIES_MAX,
        )
    log.warning("telemetry.batch_refused", batch_id=batch_id, why=why, dead=bool(dead))
    if dead:
        metrics.TELEMETRY_EVENTS.labels("dead").inc(dead)
