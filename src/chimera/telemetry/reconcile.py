"""The reconciler: whether what is marked stored is really in the store, exactly once.

Batches are compared in the order of their commits, by number of events, of different events, and the
fingerprint of their ids. What the store does not have at all is sent anew, once, from the frozen bytes; what
it has in part, twice or altered is reported, for a person to judge: they may have it taken out of the store
and stored anew. Those that differ are noted and looked at in every pass; the others go on past them, and
verified_to stays before the oldest.

Once a day the store is asked how much it has of the days that are still in the buffer: fewer events, as
after a restore, have all of them compared again. Then, and when a batch was sent anew or somebody asked,
the roll-ups are compared with the events day by day. What differs is made anew from the events, unless
it is the events that are fewer and nothing vouches for them: then the roll-ups may be all that is left.

Runs in the loop that drains (the only writer of the store), so nothing is inserted while it counts.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from typing import LiteralString

import structlog

from chimera import metrics
from chimera.call import NOBODY, Call
from chimera.clickhouse import ClickHouse
from chimera.core import Core
from chimera.faults import Fault, Unavailable
from chimera.pools import Database
from chimera.telemetry import frozen, rollups
from chimera.telemetry.ledger import (
    ADD_RECONCILIATION,
    ASK,
    CLEAR_DIFFERING,
    FIND_OLDEST_VERIFIED,
    IS_DIFFERING,
    LIST_DIFFERING,
    LIST_LEDGERS,
    LIST_REPLACEABLE,
    LIST_REQUEUED,
    LIST_UNVERIFIED,
    LOCK_LEDGER,
    MARK_ROLLUPS,
    MOVE_VERIFIED,
    NOTE_DIFFERING,
    NOTE_STALE,
    REPLACED,
    RESEND,
    START_OVER,
    SUM_STORED,
    Batch,
    Kept,
    Ledger,
)
from chimera.telemetry.removal import Removed, take_out
from chimera.telemetry.turns import rebuilding

log = structlog.get_logger("chimera.telemetry.reconcile")

BATCHES_A_LOOK = 2_000
LOOKS_MAX = 50  # of one organisation in one pass
REBUILT_MAX = 3  # days in one pass, for nothing is drained meanwhile
REPLACED_MAX, REPLACED_BYTES_MAX = 100, 32_000_000  # batches at a time, packed
DAYS_KEPT = 7  # as long as batches are, when all is well


@dataclass(frozen=True, slots=True)
class Difference:
    """A batch of which the store has too few or too many, or other events: then both."""

    batch: Batch
    found: int
    is_missing: bool
    is_surplus: bool

    @property
    def is_lost(self) -> bool:
        """None of it is there; what was sent anew before is for a person to judge."""
        return not self.found and not self.batch.was_resent


@dataclass
class Tally:
    """Of one day and producer, over the batches of one look that are as they should be."""

    accepted: int = 0
    stored: int = 0
    dead: int = 0
    resent: int = 0


@dataclass
class Report:
    """Of one pass."""

    compared: int = 0
    missing: int = 0
    surplus: int = 0
    resent: int = 0
    rebuilt: list[tuple[str, date]] = field(default_factory=list)
    # Days with fewer events than their roll-ups say, and nothing that vouches for the events.
    lost: list[tuple[str, date]] = field(default_factory=list)


# As bytes, ids are in the order of their times: the condition on them skips what the list of ids cannot.
COUNT_BATCHES: LiteralString = """
      WITH reverse(UUIDToNum(event_id)) AS id
    SELECT toString(batch_id), count(), uniqExact(event_id),
           reinterpretAsInt64(sum(reinterpretAsUInt64(substring(id, 1, 8)))
                              + sum(reinterpretAsUInt64(substring(id, 9, 8))))
      FROM workload_events
     WHERE org_id = %(org_id)s AND batch_id IN %(batch_ids)s
       AND UUIDToNum(batch_id) >= UUIDToNum(toUUID(%(first)s))
       AND UUIDToNum(batch_id) <= UUIDToNum(toUUID(%(last)s))
     GROUP BY batch_id
"""

SUM_FOUND: LiteralString = """
    SELECT lower(hex(substring(UUIDToNum(batch_id), 1, 3))) AS span, count(), uniqExact(batch_id)
      FROM workload_events
     WHERE org_id = %(org_id)s AND UUIDToNum(batch_id) >= UUIDToNum(toUUID(%(oldest)s))
     GROUP BY span
"""


async def reconcile(core: Core, clickhouse: ClickHouse) -> Report:
    """One pass over all organisations. One that fails is put behind the others and holds none of them up;
    its fault is raised at the end. Raises Unavailable while the store is away."""
    report = Report()
    if not clickhouse.configured:
        return report
    report.rebuilt += await rollups.finish_rebuilds(core.db, clickhouse, REBUILT_MAX)
    async with core.db.begin(_call()) as tx:
        ledgers = await tx.all(LIST_LEDGERS)
    failed: Fault | None = None
    for ledger in ledgers:
        try:
            await _reconcile_org(core.db, clickhouse, ledger, report)
        except Fault as fault:
            log.warning("telemetry.not_compared", org_id=ledger.org_id, reason=fault.reason)
            failed = failed or fault
            async with core.db.begin(_call()) as tx:
                await tx.run(LOCK_LEDGER, org_id=ledger.org_id)
            if isinstance(fault, Unavailable):
                break  # the others would wait for it as long; they are before this one next time
    await _tell(core.db, report)
    if failed is not None:
        raise failed
    return report


async def _tell(db: Database, report: Report) -> None:
    if report.missing or report.surplus or report.rebuilt or report.lost:
        log.error(
            "telemetry.differs",
            missing=report.missing,
            surplus=report.surplus,
            resent=report.resent,
            rebuilt=[f"{org_id} {day}" for org_id, day in report.rebuilt],
            lost=[f"{org_id} {day}" for org_id, day in report.lost],
        )
    metrics.TELEMETRY_DIFFERING.set(report.missing + report.surplus)
    async with db.begin(_call()) as tx:
        oldest = await tx.one(FIND_OLDEST_VERIFIED)
    age = datetime.now(UTC) - oldest if oldest else timedelta()
    metrics.PENDING_AGE.labels("telemetry_unverified").set(max(0.0, age.total_seconds()))
    if age > timedelta(days=DAYS_KEPT):
        log.error(
            "telemetry.kept", since=str(oldest), why="batches past their time are not verified"
        )


def _call() -> Call:
    return Call.by_worker("telemetry.reconcile", seconds=60)


async def _reconcile_org(
    db: Database, clickhouse: ClickHouse, ledger: Ledger, report: Report
) -> None:
    org_id, xid, batch_id = ledger.org_id, ledger.xid, ledger.batch_id
    is_whole = ledger.is_asked or (
        ledger.is_due and await _seems_to_have_fewer(ledger, db, clickhouse)
    )
    if is_whole:
        xid, batch_id = "0", NOBODY
        async with db.begin(_call()) as tx:
            await tx.run(LOCK_LEDGER, org_id=org_id)
            await tx.run(START_OVER, org_id=org_id)
    async with db.begin(_call()) as tx:
        known = await tx.all(LIST_DIFFERING, org_id=org_id, limit=BATCHES_A_LOOK)
    was_resent = bool(known) and await _look(db, clickhouse, org_id, known, (xid, batch_id), report)
    is_at_end = False
    for _ in range(LOOKS_MAX):
        async with db.begin(_call()) as tx:
            batches = await tx.all(
                LIST_UNVERIFIED, org_id=org_id, xid=xid, batch_id=batch_id, limit=BATCHES_A_LOOK
            )
        settled = list(takewhile(lambda batch: batch.state != "waiting", batches))
        if settled:
            xid, batch_id = settled[-1].xid, settled[-1].batch_id
        was_resent |= await _look(db, clickhouse, org_id, settled, (xid, batch_id), report)
        if is_at_end := len(settled) < BATCHES_A_LOOK:
            break
    if ledger.is_replacing and is_at_end:
        replaced = await _replace(db, clickhouse, org_id)
        report.resent += replaced
        if replaced:
            return  # the roll-ups have too much until their days are made anew
    if is_whole or ledger.is_due or was_resent:
        async with db.begin(_call()) as tx:
            agrees = is_at_end and not await tx.one(IS_DIFFERING, org_id=org_id)
            if await tx.one(rollups.HAS_OPEN_GROUP, org_id=org_id):
                return  # a part of it may be in the events: it is due again in the next pass
        agrees = agrees and not await _has_fewer(db, clickhouse, org_id)
        await _compare_rollups(db, clickhouse, org_id, agrees, is_whole or not is_at_end, report)


async def _replace(db: Database, clickhouse: ClickHouse, org_id: str) -> int:
    """Takes what differs out of the store and has it sent anew; how many batches. Dying in between leaves
    it asked for. What cannot be read in the buffer either stays as it is, and what is nearly past its time in
    the store: roll-ups are kept longer, and could not be made anew. Raises Conflict, and the faults of
    the store."""
    resent, after = 0, NOBODY
    async with rebuilding(db) as turn:
        while True:
            async with db.begin(_call()) as tx:
                kept = await tx.all(
                    LIST_REPLACEABLE,
                    org_id=org_id,
                    after=after,
                    limit=REPLACED_MAX,
                    bytes_max=REPLACED_BYTES_MAX,
                )
                if not kept:
                    await tx.run(REPLACED, org_id=org_id)
                    return resent
            after = kept[-1].batch_id
            batches = await asyncio.to_thread(_replaceable, kept)
            if not batches:
                continue
            days = sorted({day for batch in batches for day in batch.days})
            async with db.begin(_call()) as tx:
                await tx.run(NOTE_STALE, org_id=org_id, days=days)
            await take_out(turn, clickhouse, org_id, batches)
            async with db.begin(_call()) as tx:
                await tx.run(LOCK_LEDGER, org_id=org_id)
                batch_ids = [batch.batch_id for batch in batches]
                resent += await tx.one(RESEND, batch_ids=batch_ids, again=True) or 0


def _replaceable(kept: list[Kept]) -> list[Removed]:
    found = []
    oldest = datetime.now(UTC).date() - timedelta(days=rollups.DAYS_MAX)
    for one in kept:
        try:
            days = frozen.days_of(frozen.unpack(one.body))
        except frozen.BatchBroken as broken:
            log.error("telemetry.not_replaced", batch_id=one.batch_id, why=str(broken))
            continue
        if min(days) >= oldest:
            found.append(Removed(one.batch_id, days))
        else:
            log.error("telemetry.not_replaced", batch_id=one.batch_id, why="it is too old")
    return found


async def _seems_to_have_fewer(ledger: Ledger, db: Database, clickhouse: ClickHouse) -> bool:
    """As _has_fewer. What the store cannot count is no reason to stop comparing batches."""
    try:
        return await _has_fewer(db, clickhouse, ledger.org_id)
    except Unavailable:
        raise
    except Fault as fault:
        log.warning("telemetry.not_counted", org_id=ledger.org_id, reason=fault.reason)
        return False


async def _look(
    db: Database,
    clickhouse: ClickHouse,
    org_id: str,
    batches: list[Batch],
    position: tuple[str, str],
    report: Report,
) -> bool:
    """Compares batches that do not wait and moves the ledger to `position`; whether one that was sent
    anew is right now."""
    stored = [batch.batch_id for batch in batches if batch.state == "stored"]
    good, differing = await _compare(clickhouse, org_id, batches, stored)
    lost = [one.batch.batch_id for one in differing if one.is_lost]
    was_resent = any(batch.was_resent for batch in good)
    resent = 0
    async with db.begin(_call()) as tx:
        await tx.run(LOCK_LEDGER, org_id=org_id)
        if lost:
            resent = await tx.one(RESEND, batch_ids=lost, again=False) or 0
        dead = [batch.batch_id for batch in good if batch.state == "dead"]
        requeued = set(await tx.all(LIST_REQUEUED, batch_ids=dead)) if dead else set()
        for (day, producer), tally in _tallies(good, differing, requeued).items():
            await tx.run(
                ADD_RECONCILIATION, org_id=org_id, day=day, producer=producer, **asdict(tally)
            )
        if good:
            await tx.run(CLEAR_DIFFERING, batch_ids=[batch.batch_id for batch in good])
        for one in differing:
            await tx.run(
                NOTE_DIFFERING,
                batch_id=one.batch.batch_id,
                org_id=org_id,
                created_at=one.batch.created_at,
                found=one.found,
                is_missing=one.is_missing,
                is_surplus=one.is_surplus,
            )
        await tx.run(MOVE_VERIFIED, org_id=org_id, xid=position[0], batch_id=position[1])
        if was_resent:
            # Kept beyond a pass that fails before it has looked at them.
            await tx.run(MARK_ROLLUPS, org_id=org_id, is_through=False)
    report.compared += len(good)
    report.missing += sum(one.is_missing for one in differing)
    report.surplus += sum(one.is_surplus for one in differing)
    report.resent += resent
    return was_resent


def _tallies(
    good: list[Batch], differing: list[Difference], requeued: set[str]
) -> dict[tuple[date, str], Tally]:
    tallies: dict[tuple[date, str], Tally] = defaultdict(Tally)
    for batch in good:
        if batch.batch_id in requeued:
            continue
        tally = tallies[batch.created_at.astimezone(UTC).date(), batch.producer]
        tally.accepted += batch.events
        tally.stored += batch.events if batch.state == "stored" else 0
        tally.dead += batch.events if batch.state == "dead" else 0
    for one in differing:
        batch = one.batch
        tally = tallies[batch.created_at.astimezone(UTC).date(), batch.producer]
        tally.resent += one.is_lost
    return tallies


async def _compare(
    clickhouse: ClickHouse, org_id: str, batches: list[Batch], stored: list[str]
) -> tuple[list[Batch], list[Difference]]:
    """Which batches are as they should be, and which are not."""
    there = await _counted(clickhouse, org_id, stored)
    good: list[Batch] = []
    differing: list[Difference] = []
    for batch in batches:
        events, different, found = there.get(batch.batch_id, (0, 0, 0))
        is_altered = events > 0 and batch.fingerprint not in (None, found)
        is_whole = (events, different) == (batch.events, batch.events)
        if batch.state == "dead" or (is_whole and not is_altered):
            good.append(batch)
        else:
            is_other = is_whole and is_altered
            is_missing, is_surplus = different < batch.events, events > different
            differing.append(
                Difference(batch, events, is_missing or is_other, is_surplus or is_other)
            )
    return good, differing


async def _counted(
    clickhouse: ClickHouse, org_id: str, batch_ids: list[str]
) -> dict[str, tuple[int, int, int]]:
    """(events, different events, fingerprint) that the store has of each batch."""
    if not batch_ids:
        return {}
    rows = await clickhouse.query(
        COUNT_BATCHES,
        {
            "org_id": org_id,
            "batch_ids": tuple(batch_ids),
            "first": min(batch_ids),
            "last": max(batch_ids),
        },
        deadline=_call().deadline,
        rows_max=len(batch_ids),
    )
    return {batch_id: (events, different, found) for batch_id, events, different, found in rows}


async def _has_fewer(db: Database, clickhouse: ClickHouse, org_id: str) -> bool:
    """Whether the store has fewer events or batches of some hours than the buffer says it was given."""
    async with db.begin(_call()) as tx:
        given = await tx.all(SUM_STORED, org_id=org_id)
    if not given:
        return False
    rows = await clickhouse.query(
        SUM_FOUND,
        {"org_id": org_id, "oldest": min(row["oldest"] for row in given)},
        deadline=_call().deadline,
        rows_max=100_000,
    )
    found = {span: (events, batches) for span, events, batches in rows}
    for row in given:
        events, batches = found.get(row["span"], (0, 0))
        if events < row["events"] or batches < row["batches"]:
            return True
    return False


async def _compare_rollups(
    db: Database,
    clickhouse: ClickHouse,
    org_id: str,
    agrees: bool,
    is_new: bool,
    report: Report,
) -> None:
    """agrees: the store has every batch of the buffer exactly once, so that of the days that the buffer
    goes back to, the events are right whatever the roll-ups say. is_new: everything is being compared again
    already."""
    is_through, lost = False, []
    if (room := REBUILT_MAX - len(report.rebuilt)) > 0:
        known_from = datetime.now(UTC).date() - timedelta(days=DAYS_KEPT - 2)
        days = await rollups.differing_days(clickhouse, org_id)
        lost = [day for day, is_short in days if is_short and not (agrees and day >= known_from)]
        wrong = [day for day, _ in days if day not in lost]
        for day in wrong[:room]:
            await rollups.rebuild_day(db, clickhouse, org_id, day)
            report.rebuilt.append((org_id, day))
        is_through = len(wrong) <= room
    report.lost += [(org_id, day) for day in lost]
    async with db.begin(_call()) as tx:
        await tx.run(MARK_ROLLUPS, org_id=org_id, is_through=is_through)
        if lost and not is_new:
            # Perhaps batches of those days can be sent anew.
            await tx.run(ASK, org_id=org_id, replaces=False)
