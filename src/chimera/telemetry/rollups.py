"""The roll-ups of one organisation and day: compared with the events, and made anew from them.

What each roll-up holds is said once, by its view; it is made anew by running the view's own SELECT
over the events of that organisation and day, while nothing is inserted (turns.py). From before the first
row goes until the last is there again the day is noted: answers are complete up to it only, and whoever
comes after a process that died makes it anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, LiteralString
from uuid import UUID

import structlog

from chimera.call import Call
from chimera.clickhouse import ClickHouse
from chimera.db import Nothing, sql
from chimera.faults import Conflict, Fault, Unavailable
from chimera.pools import Database, settled
from chimera.telemetry.turns import Turn, rebuilding

log = structlog.get_logger("chimera.telemetry.rollups")

# Their day is due again until it is through.
NOTE_REBUILDING = sql(
    Nothing,
    """
    WITH noted AS (
        INSERT INTO telemetry.stale_days (org_id, day) VALUES (%(org_id)s, %(day)s) ON CONFLICT DO NOTHING
    )
    INSERT INTO telemetry.verified AS v (org_id, rebuilding_day, rollups_checked_at)
    VALUES (%(org_id)s, %(day)s, '-infinity')
    ON CONFLICT (org_id) DO UPDATE
       SET rebuilding_day = LEAST(v.rebuilding_day, EXCLUDED.rebuilding_day), rollups_checked_at = '-infinity'
    """,
)

# Whoever asked while they were away has to know (freshness.py). While batches are being replaced, their days
# are to be made anew afterwards.
FORGET_REBUILDING = sql(
    Nothing,
    """
    WITH made_anew AS (
        DELETE FROM telemetry.stale_days d WHERE d.org_id = %(org_id)s AND d.day = %(day)s
           AND NOT EXISTS (SELECT FROM telemetry.verified v WHERE v.org_id = d.org_id AND v.is_replacing)
    )
    UPDATE telemetry.verified
       SET rebuilding_day = NULLIF(rebuilding_day, %(day)s), rebuilt_at = clock_timestamp(),
           rebuilt_day = CASE WHEN rebuilt_at > now() - interval '1 hour' THEN LEAST(rebuilt_day, %(day)s)
                              ELSE %(day)s END
     WHERE org_id = %(org_id)s
    """,
)


# A part of such a group may be among the events already, and comes into the roll-ups with the rest.
HAS_OPEN_GROUP = sql(
    bool,
    """
    SELECT EXISTS (SELECT FROM telemetry.batches
                    WHERE org_id = %(org_id)s AND state = 'waiting' AND group_id IS NOT NULL)
    """,
)


@dataclass(frozen=True, slots=True)
class Unfinished:
    org_id: str
    day: date


LIST_REBUILDING = sql(
    Unfinished,
    """
    SELECT org_id, rebuilding_day AS day FROM telemetry.verified WHERE rebuilding_day IS NOT NULL
    UNION
    SELECT d.org_id, d.day FROM telemetry.stale_days d
     WHERE NOT EXISTS (SELECT FROM telemetry.verified v WHERE v.org_id = d.org_id AND v.is_replacing)
    """,
)

# Their events begin to expire, and what is left of a day must not become its roll-ups.
DROP_PAST = sql(
    Nothing,
    """
    WITH dropped AS (
        DELETE FROM telemetry.stale_days WHERE day < current_date - %(days)s::int
    )
    UPDATE telemetry.verified SET rebuilding_day = NULL WHERE rebuilding_day < current_date - %(days)s::int
    """,
)
DAYS_MAX = (
    82  # old at most, of a day that is made anew: events are accepted for 80 days and kept for 90
)

# The days compared are as old as an accepted event can be; events are kept a little longer.
# Filled by views over the events; views over these fill the others.
FIRST: tuple[LiteralString, ...] = (
    "events_minute",
    "events_hourly",
    "metrics_minute",
    "metrics_hourly",
    "executions_hourly",
)
TIMES: dict[LiteralString, LiteralString] = {
    "events_minute": "bucket",
    "events_hourly": "bucket",
    "events_daily": "bucket",
    "metrics_minute": "bucket",
    "metrics_hourly": "bucket",
    "metrics_daily": "bucket",
    "event_slices_hourly": "bucket",
    "event_slices_daily": "bucket",
    "metric_slices_hourly": "bucket",
    "metric_slices_daily": "bucket",
    "event_totals_daily": "bucket",
    "event_slice_totals_daily": "bucket",
    "metric_totals_daily": "bucket",
    "metric_slice_totals_daily": "bucket",
    "executions_hourly": "hour",
    "user_activity": "day",
}

# What the events of a day say, by what is compared, as (how many, their fingerprint; the values of a
# metric have none, nor has an activity). In one pass, for there are many.
TRUTH: LiteralString = """
    SELECT d, one.1 AS kind, one.2 AS n, one.3 AS f, 1 AS is_truth
      FROM (SELECT toDate(timestamp) AS d, count() AS events, sum(cityHash64(event_id)) AS prints,
                   sum(length(metrics.name)) AS points,
                   countIf(event_type = 'execution.recorded') AS executions,
                   sumIf(cityHash64(event_id), event_type = 'execution.recorded') AS execution_prints
              FROM workload_events
             WHERE org_id = %(org_id)s AND toDate(timestamp) >= toDate(now('UTC')) - 80
             GROUP BY d)
     ARRAY JOIN [('events', events, prints), ('points', points, 0),
                 ('executions', executions, execution_prints), ('activity', events, 0)] AS one
"""
# The same of each roll-up, as (table, those numbers, which rows).
EVENTS: LiteralString = "'events' AS kind, sum(events) AS n, sum(fingerprint) AS f"
POINTS: LiteralString = "'points' AS kind, sum(points) AS n, 0 AS f"
EXECUTIONS: LiteralString = "'executions' AS kind, sum(executions) AS n, sum(fingerprint) AS f"
ACTIVITY: LiteralString = "'activity' AS kind, sum(events) AS n, 0 AS f"
SINGLE: LiteralString = "dimension = 'event_category'"
PAIR: LiteralString = "dimension = 'event_category,provider'"
COMPARED: tuple[tuple[LiteralString, LiteralString, LiteralString], ...] = (
    ("events_minute", EVENTS, "1"),
    ("events_hourly", EVENTS, "1"),
    ("events_daily", EVENTS, "1"),
    ("event_slices_hourly", EVENTS, SINGLE),
    ("event_slices_daily", EVENTS, SINGLE),
    ("event_slices_hourly", EVENTS, PAIR),
    ("event_slices_daily", EVENTS, PAIR),
    ("event_totals_daily", EVENTS, "1"),
    ("event_slice_totals_daily", EVENTS, SINGLE),
    ("event_slice_totals_daily", EVENTS, PAIR),
    ("metrics_minute", POINTS, "1"),
    ("metrics_hourly", POINTS, "1"),
    ("metrics_daily", POINTS, "1"),
    ("metric_slices_hourly", POINTS, SINGLE),
    ("metric_slices_daily", POINTS, SINGLE),
    ("metric_slices_hourly", POINTS, PAIR),
    ("metric_slices_daily", POINTS, PAIR),
    ("metric_totals_daily", POINTS, "1"),
    ("metric_slice_totals_daily", POINTS, SINGLE),
    ("metric_slice_totals_daily", POINTS, PAIR),
    ("executions_hourly", EXECUTIONS, "1"),
    ("user_activity", ACTIVITY, "1"),
)


def _rolled(table: LiteralString, numbers: LiteralString, rows: LiteralString) -> LiteralString:
    return (
        f"SELECT toDate({TIMES[table]}) AS d, {numbers}, 0 AS is_truth FROM {table}"  # noqa: S608 - names from above
        f" WHERE org_id = %(org_id)s AND {rows}"
        f" AND toDate({TIMES[table]}) >= toDate(now('UTC')) - 80 GROUP BY d"
    )


# Days with values in sketches of the kind before (migration 0005), or in none: the smallest roll-ups
# show it.
OLD_SKETCHES: LiteralString = """
    SELECT toDate(bucket) AS d FROM event_slices_daily
     WHERE org_id = %(org_id)s AND dimension = 'event_category' AND toDate(bucket) >= toDate(now('UTC')) - 80
       AND (NOT isNaN(finalizeAggregation(latency_ms_q)[1])
            OR timed > 0 AND isNaN(finalizeAggregation(latency_ms_sketch)[1]))
     UNION ALL
    SELECT toDate(bucket) AS d FROM metric_slices_daily
     WHERE org_id = %(org_id)s AND dimension = 'event_category' AND toDate(bucket) >= toDate(now('UTC')) - 80
       AND (NOT isNaN(finalizeAggregation(value_q)[1])
            OR isNaN(finalizeAggregation(value_sketch)[1]))
"""
# Days on which one of them differs, or one has no row: sources of each kind are its roll-ups and the
# truth; and whether the events are fewer than one of their roll-ups says, and as many as none says.
DIFFERING_DAYS: LiteralString = (
    "SELECT d, max(is_short) FROM (SELECT d, kind = 'events'"  # noqa: S608 - names from above
    + " AND maxIf(n, is_truth = 0) > maxIf(n, is_truth = 1) AND NOT has(groupArrayIf((n, f),"
    + " is_truth = 0), (maxIf(n, is_truth = 1), maxIf(f, is_truth = 1))) AS is_short FROM ("
    + " UNION ALL ".join([TRUTH, *(_rolled(*one) for one in COMPARED)])
    + ") WHERE n > 0 GROUP BY d, kind HAVING uniqExact((n, f)) > 1"
    + " OR count() < multiIf(kind IN ('events', 'points'), 11, 2)"
    + f" UNION ALL SELECT d, 0 AS is_short FROM ({OLD_SKETCHES}))"  # noqa: S608
    + " GROUP BY d ORDER BY d DESC"
)

VIEW: LiteralString = """
    SELECT as_select FROM system.tables
     WHERE database = currentDatabase() AND name = concat(%(table)s, '_mv')
"""


async def differing_days(clickhouse: ClickHouse, org_id: str) -> list[tuple[date, bool]]:
    """Days on which a roll-up does not hold what the events say, the newest first; and whether it looks
    as if events were lost, for all of their roll-ups say otherwise and one of them has more."""
    rows = await clickhouse.query(
        DIFFERING_DAYS, {"org_id": str(UUID(org_id))}, deadline=_deadline(), rows_max=10_000
    )
    return [(day, bool(is_short)) for day, is_short in rows]


async def finish_rebuilds(
    db: Database, clickhouse: ClickHouse, most: int
) -> list[tuple[str, date]]:
    """Makes days anew that a process left half-done, and those that hold what was taken out of the store;
    at most so many, which."""
    async with db.begin(_call()) as tx:
        await tx.run(DROP_PAST, days=DAYS_MAX + 2)
        left = await tx.all(LIST_REBUILDING)
    finished: list[tuple[str, date]] = []
    for one in left[:most]:
        try:
            await rebuild_day(db, clickhouse, one.org_id, one.day)
        except Fault as fault:  # one organisation's day must not hold up the others
            log.warning(
                "telemetry.rebuild_waits", org_id=one.org_id, day=str(one.day), reason=fault.reason
            )
            if isinstance(fault, Unavailable):
                break
        else:
            finished.append((one.org_id, one.day))
    return finished


async def rebuild_day(db: Database, clickhouse: ClickHouse, org_id: str, day: date) -> None:
    """Makes all roll-ups of the day anew. Raises Conflict while something is inserted, or may be in part;
    dying in between leaves the day noted."""
    async with rebuilding(db) as turn:
        async with db.begin(_call()) as tx:
            if await tx.one(HAS_OPEN_GROUP, org_id=org_id):
                raise Conflict("CONFLICT_TRY_AGAIN", "A group of events is not stored to its end.")
            await tx.run(NOTE_REBUILDING, org_id=org_id, day=day)
        await _rebuild(turn, clickhouse, org_id, day)
        async with db.begin(_call()) as tx:
            await tx.run(FORGET_REBUILDING, org_id=org_id, day=day)


async def _rebuild(turn: Turn, clickhouse: ClickHouse, org_id: str, day: date) -> None:
    async def run(
        statement: LiteralString, params: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> None:
        turn.check()
        # To its end: the server would go on with it while another process takes its turn.
        await settled(clickhouse.command(statement, params, settings))

    values = {"org_id": str(UUID(org_id)), "day": day.isoformat()}
    for table, time in TIMES.items():
        await run(
            f"DELETE FROM {table} WHERE org_id = toUUID(%(org_id)s)"  # noqa: S608 - names from above
            f" AND toDate({time}) = toDate(%(day)s)",
            values,
            {},
        )
    only = f"org_id = toUUID(\\'{UUID(org_id)}\\') AND toDate(timestamp) = toDate(\\'{day}\\')"
    settings = {
        "additional_table_filters": f"{{'workload_events': '{only}'}}",
        # Rows equal to earlier ones are wanted here, so nothing may be taken for a repetition.
        "insert_deduplicate": 0,
        "deduplicate_blocks_in_dependent_materialized_views": 0,
        "async_insert": 0,
        "max_partitions_per_insert_block": 0,
        # A day may have more sketches than there is memory for (weighing.py).
        "max_block_size": 2_000,
        "min_insert_block_size_rows": 2_000,
        "max_bytes_before_external_group_by": 500_000_000,
    }
    for table in FIRST:
        ((select,),) = await clickhouse.query(
            VIEW, {"table": table}, deadline=_deadline(), rows_max=1
        )
        # By name, as a view inserts: a roll-up may have columns that its view does not fill.
        described = await clickhouse.query(
            f"DESCRIBE ({select})", {}, deadline=_deadline(), rows_max=100
        )
        columns = ", ".join(name for name, *_ in described)
        await run(f"INSERT INTO {table} ({columns}) {select}", {}, settings)


def _call() -> Call:
    return Call.by_worker("telemetry.rollups", seconds=60)


def _deadline() -> float:
    return _call().deadline
