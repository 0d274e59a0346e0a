"""The reconciler: whether what is marked stored is really in the store, exactly once.

Batches are compared in the order of their commits, by number of events and of different events. What
the store does not have at all is sent anew, once, from the frozen bytes; what it has in part or twice
is reported, for a person to judge. The roll-ups are compared with the events day by day: once a day, when
a batch was sent anew, and when somebody asked. What differs is made anew from the events.

Runs in the loop that drains (the only writer of the store), so nothing is inserted while it counts.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from typing import LiteralString

import structlog

from chimera import metrics
from chimera.audit.recording import record
from chimera.call import NOBODY, Call
from chimera.clickhouse import ClickHouse
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.paging import Pages
from chimera.pools import Database
from chimera.telemetry import rollups
from chimera.v1.telemetry_pb2 import (
    ListReconciliationsRequest,
    ListReconciliationsResponse,
    Reconciliation,
)

log = structlog.get_logger("chimera.telemetry.reconcile")

BATCHES_A_LOOK = 2_000
LOOKS_MAX = 50  # of one organisation in one pass
REBUILT_MAX = 3  # days in one pass, for nothing is drained meanwhile
DAYS_KEPT = 7  # as long as batches are


@dataclass(frozen=True, slots=True)
class Ledger:
    """Where the comparison of one organisation stands."""

    org_id: str
    xid: str
    batch_id: str
    is_asked: bool
    is_due: bool  # that the roll-ups are looked at


@dataclass(frozen=True, slots=True)
class Batch:
    xid: str
    batch_id: str
    producer: str
    events: int
    state: str
    created_at: datetime
    was_resent: bool


@dataclass
class Tally:
    """Of one day and producer, over the batches of one look."""

    accepted: int = 0
    stored: int = 0
    dead: int = 0
    found: int = 0
    missing: int = 0
    surplus: int = 0
    resent: int = 0


@dataclass
class Report:
    """Of one pass."""

    compared: int = 0
    missing: int = 0
    surplus: int = 0
    resent: int = 0
    rebuilt: list[tuple[str, date]] = field(default_factory=list)


LIST_LEDGERS = sql(
    Ledger,
    """
    SELECT t.org_id, COALESCE(v.xid, '0')::text AS xid,
           COALESCE(v.batch_id, '00000000-0000-0000-0000-000000000000'::uuid) AS batch_id,
           COALESCE(v.is_asked, false) AS is_asked,
           COALESCE(v.rollups_checked_at < clock_timestamp() - interval '1 day', true) AS is_due
      FROM (SELECT DISTINCT org_id FROM telemetry.totals) t
      LEFT JOIN telemetry.verified v ON v.org_id = t.org_id
     ORDER BY v.checked_at NULLS FIRST
    """,
)

LIST_UNVERIFIED = sql(
    Batch,
    """
    SELECT xid::text AS xid, batch_id, producer, events, state, created_at,
           resent_at IS NOT NULL AS was_resent
      FROM telemetry.batches
     WHERE org_id = %(org_id)s AND (xid, batch_id) > (%(xid)s::xid8, %(batch_id)s::uuid)
       AND xid < pg_snapshot_xmin(pg_current_snapshot())
     ORDER BY batches.xid, batch_id LIMIT %(limit)s
    """,
)

# Past the last that was compared: whatever is not, was accepted after verified_to.
MOVE_VERIFIED = sql(
    Nothing,
    """
    INSERT INTO telemetry.verified AS v (org_id, xid, batch_id, verified_to, is_asked)
    SELECT %(org_id)s, %(xid)s::xid8, %(batch_id)s, b.verified_to, false
      FROM (SELECT LEAST(now(), min(created_at)) AS verified_to FROM telemetry.batches
             WHERE org_id = %(org_id)s AND (xid, batch_id) > (%(xid)s::xid8, %(batch_id)s::uuid)) b
    ON CONFLICT (org_id) DO UPDATE
       SET xid = EXCLUDED.xid, batch_id = EXCLUDED.batch_id, verified_to = EXCLUDED.verified_to,
           is_asked = false, checked_at = clock_timestamp()
    """,
)

# What is not through with its days is due again in the next pass.
MARK_ROLLUPS = sql(
    Nothing,
    """
    UPDATE telemetry.verified
       SET rollups_checked_at = CASE WHEN %(is_through)s THEN clock_timestamp() ELSE '-infinity' END
     WHERE org_id = %(org_id)s
    """,
)

# The whole group may have been sent with it; alone it gets a token of its own.
RESEND = sql(
    int,
    """
    WITH resent AS (
        UPDATE telemetry.batches SET state = 'waiting', group_id = NULL, resent_at = clock_timestamp()
         WHERE batch_id = ANY(%(batch_ids)s::uuid[]) AND state = 'stored' AND resent_at IS NULL
        RETURNING org_id, events
    ), counted AS (
        INSERT INTO telemetry.totals (org_id, slot, stored)
        SELECT org_id, 0, -sum(events) FROM resent GROUP BY org_id
        ON CONFLICT (org_id, slot) DO UPDATE SET stored = totals.stored + EXCLUDED.stored
    )
    SELECT count(*)::int FROM resent
    """,
)

FORGET_RECONCILIATIONS = sql(
    Nothing,
    "DELETE FROM telemetry.reconciliations WHERE org_id = %(org_id)s AND day >= %(since)s",
)

ADD_RECONCILIATION = sql(
    Nothing,
    """
    INSERT INTO telemetry.reconciliations AS r
           (org_id, day, producer, accepted, stored, dead, found, missing_batches, surplus_batches,
            resent_batches)
    VALUES (%(org_id)s, %(day)s, %(producer)s, %(accepted)s, %(stored)s, %(dead)s, %(found)s,
            %(missing)s, %(surplus)s, %(resent)s)
    ON CONFLICT (org_id, day, producer) DO UPDATE
       SET accepted = r.accepted + EXCLUDED.accepted, stored = r.stored + EXCLUDED.stored,
           dead = r.dead + EXCLUDED.dead, found = r.found + EXCLUDED.found,
           missing_batches = EXCLUDED.missing_batches, surplus_batches = EXCLUDED.surplus_batches,
           resent_batches = r.resent_batches + EXCLUDED.resent_batches,
           checked_at = clock_timestamp()
    """,
)

# What was not compared yet, and single events that never were in a batch of the buffer, are added
# as they are now.
LIST_RECONCILIATIONS = sql(
    Reconciliation,
    """
    WITH waiting AS (
        SELECT (created_at AT TIME ZONE 'UTC')::date AS day, producer, sum(events) AS events
          FROM telemetry.batches WHERE org_id = %(org_id)s AND state = 'waiting' GROUP BY 1, 2
    ), letters AS (
        SELECT (created_at AT TIME ZONE 'UTC')::date AS day, producer, count(*) AS events
          FROM telemetry.dead_letters WHERE org_id = %(org_id)s AND kind = 'event' GROUP BY 1, 2
    ), days AS (
        SELECT day, producer FROM telemetry.reconciliations WHERE org_id = %(org_id)s
        UNION SELECT day, producer FROM waiting UNION SELECT day, producer FROM letters
    )
    SELECT d.day::text AS day, d.producer,
           (COALESCE(r.accepted, 0) + COALESCE(w.events, 0) + COALESCE(l.events, 0))::bigint AS accepted,
           COALESCE(r.stored, 0) AS stored,
           (COALESCE(r.dead, 0) + COALESCE(l.events, 0))::bigint AS dead_lettered,
           COALESCE(w.events, 0)::bigint AS waiting, COALESCE(r.found, 0) AS found,
           COALESCE(r.missing_batches, 0) AS missing_batches,
           COALESCE(r.surplus_batches, 0) AS surplus_batches,
           COALESCE(r.resent_batches, 0) AS resent_batches, r.checked_at
      FROM days d
      LEFT JOIN telemetry.reconciliations r
             ON r.org_id = %(org_id)s AND r.day = d.day AND r.producer = d.producer
      LEFT JOIN waiting w ON w.day = d.day AND w.producer = d.producer
      LEFT JOIN letters l ON l.day = d.day AND l.producer = d.producer
     WHERE (d.day::text, d.producer) < (%(day)s, %(producer)s)
     ORDER BY d.day DESC, d.producer DESC LIMIT %(limit)s
    """,
    prepare=False,
)

FIND_VERIFIED_TO = sql(
    datetime,
    """
    SELECT verified_to FROM telemetry.verified WHERE org_id = %(org_id)s AND isfinite(verified_to)
    """,
)

ASK = sql(
    Nothing,
    """
    INSERT INTO telemetry.verified (org_id, is_asked) VALUES (%(org_id)s, true)
    ON CONFLICT (org_id) DO UPDATE SET is_asked = true
    """,
)

COUNT_BATCHES: LiteralString = """
    SELECT toString(batch_id), count(), uniqExact(event_id) FROM workload_events
     WHERE org_id = %(org_id)s AND batch_id IN %(batch_ids)s GROUP BY batch_id
"""


async def reconcile(core: Core, clickhouse: ClickHouse) -> Report:
    """One pass over all organisations. Raises Unavailable while the store is away."""
    report = Report()
    if not clickhouse.configured:
        return report
    async with core.db.begin(_call()) as tx:
        ledgers = await tx.all(LIST_LEDGERS)
    for ledger in ledgers:
        await _reconcile_org(core.db, clickhouse, ledger, report)
    if report.missing or report.surplus or report.rebuilt:
        log.error(
            "telemetry.differs",
            missing=report.missing,
            surplus=report.surplus,
            resent=report.resent,
            rebuilt=[f"{org_id} {day}" for org_id, day in report.rebuilt],
        )
    metrics.TELEMETRY_DIFFERING.set(report.missing + report.surplus)
    return report


async def ask(tx: Tx) -> None:
    """The next pass compares everything of the caller's organisation again, with the roll-ups."""
    await tx.run(ASK, org_id=tx.call.caller.org_id)
    record(tx, "telemetry.reconcile", "organisation", tx.call.caller.org_id)


async def list_reconciliations(
    tx: Tx, pages: Pages, request: ListReconciliationsRequest
) -> ListReconciliationsResponse:
    """The newest day first."""
    org_id = tx.call.caller.org_id
    size, position = pages.page(request)
    day, producer = position or ("9999-12-31", "")
    rows = await tx.all(
        LIST_RECONCILIATIONS, org_id=org_id, day=day, producer=producer, limit=size + 1
    )
    verified_to = await tx.one(FIND_VERIFIED_TO, org_id=org_id)
    return ListReconciliationsResponse(
        reconciliations=rows[:size],
        next_page_token=pages.next_token(request, rows, size, "day", "producer"),
        verified_to=verified_to,
    )


def _call() -> Call:
    return Call.by_worker("telemetry.reconcile", seconds=60)


async def _reconcile_org(
    db: Database, clickhouse: ClickHouse, ledger: Ledger, report: Report
) -> None:
    org_id, xid, batch_id = ledger.org_id, ledger.xid, ledger.batch_id
    if ledger.is_asked:
        xid, batch_id = "0", NOBODY
        since = datetime.now(UTC).date() - timedelta(days=DAYS_KEPT + 2)
        async with db.begin(_call()) as tx:
            await tx.run(FORGET_RECONCILIATIONS, org_id=org_id, since=since)
    was_resent = False
    for _ in range(LOOKS_MAX):
        async with db.begin(_call()) as tx:
            batches = await tx.all(
                LIST_UNVERIFIED, org_id=org_id, xid=xid, batch_id=batch_id, limit=BATCHES_A_LOOK
            )
        good, tallies, lost = await _compare(clickhouse, org_id, batches)
        was_resent |= any(batch.was_resent for batch in good)
        if good:
            xid, batch_id = good[-1].xid, good[-1].batch_id
        async with db.begin(_call()) as tx:
            resent = (await tx.one(RESEND, batch_ids=lost) or 0) if lost else 0
            for (day, producer), tally in tallies.items():
                await tx.run(
                    ADD_RECONCILIATION, org_id=org_id, day=day, producer=producer, **asdict(tally)
                )
            await tx.run(MOVE_VERIFIED, org_id=org_id, xid=xid, batch_id=batch_id)
        report.compared += len(good)
        report.missing += sum(tally.missing for tally in tallies.values())
        report.surplus += sum(tally.surplus for tally in tallies.values())
        report.resent += resent
        if len(good) < BATCHES_A_LOOK:
            break
    if ledger.is_asked or ledger.is_due or was_resent:
        is_through = False
        if (room := REBUILT_MAX - len(report.rebuilt)) > 0:
            days = await rollups.differing_days(clickhouse, org_id)
            for day in days[:room]:
                await rollups.rebuild_day(clickhouse, org_id, day)
                report.rebuilt.append((org_id, day))
            is_through = len(days) <= room
        async with db.begin(_call()) as tx:
            await tx.run(MARK_ROLLUPS, org_id=org_id, is_through=is_through)


Tallies = dict[tuple[date, str], Tally]


async def _compare(
    clickhouse: ClickHouse, org_id: str, batches: list[Batch]
) -> tuple[list[Batch], Tallies, list[str]]:
    """Batches up to the first that waits or differs, what is to be noted, and which are lost."""
    settled = list(takewhile(lambda batch: batch.state != "waiting", batches))
    there = await _counted(clickhouse, org_id, [b.batch_id for b in settled if b.state == "stored"])
    good: list[Batch] = []
    tallies: Tallies = defaultdict(Tally)
    lost: list[str] = []
    differs = False
    for batch in settled:
        tally = tallies[batch.created_at.astimezone(UTC).date(), batch.producer]
        events, different = there.get(batch.batch_id, (0, 0))
        if batch.state == "dead" or (events, different) == (batch.events, batch.events):
            if not differs:
                good.append(batch)
                tally.accepted += batch.events
                tally.stored += batch.events if batch.state == "stored" else 0
                tally.dead += batch.events if batch.state == "dead" else 0
                tally.found += events
            continue
        differs = True
        tally.surplus += events > different
        tally.missing += different < batch.events
        if not events and not batch.was_resent:
            lost.append(batch.batch_id)
            tally.resent += 1
    return good, tallies, lost


async def _counted(
    clickhouse: ClickHouse, org_id: str, batch_ids: list[str]
) -> dict[str, tuple[int, int]]:
    """(events, different events) that the store has of each batch."""
    if not batch_ids:
        return {}
    rows = await clickhouse.query(
        COUNT_BATCHES,
        {"org_id": org_id, "batch_ids": tuple(batch_ids)},
        deadline=_call().deadline,
        rows_max=len(batch_ids),
    )
    return {batch_id: (events, different) for batch_id, events, different in rows}
