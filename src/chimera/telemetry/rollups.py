"""The roll-ups of one organisation and day: compared with the events, and made anew from them.

What each roll-up holds is said once, by its view; it is made anew by running the view's own SELECT
over the events of that organisation and day. Only while nothing is inserted (see reconcile.py).
"""

from __future__ import annotations

from datetime import date
from typing import LiteralString
from uuid import UUID

from chimera.call import Call
from chimera.clickhouse import ClickHouse

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
    "executions_hourly": "hour",
    "user_activity": "day",
}

# What must be the same on a day in each group, as (table, how many and their fingerprint, of which rows).
# The values of a metric have none, nor has an activity.
EVENTS: LiteralString = "sum(events) AS n, sum(fingerprint) AS f"
POINTS: LiteralString = "sum(points) AS n, 0 AS f"
SINGLE: LiteralString = "dimension = 'event_category'"
PAIR: LiteralString = "dimension = 'event_category,provider'"
SAME: tuple[tuple[tuple[LiteralString, LiteralString, LiteralString], ...], ...] = (
    (
        ("workload_events", "count() AS n, sum(cityHash64(event_id)) AS f", "1"),
        ("events_minute", EVENTS, "1"),
        ("events_hourly", EVENTS, "1"),
        ("events_daily", EVENTS, "1"),
        ("event_slices_hourly", EVENTS, SINGLE),
        ("event_slices_daily", EVENTS, SINGLE),
        ("event_slices_hourly", EVENTS, PAIR),
        ("event_slices_daily", EVENTS, PAIR),
    ),
    (
        ("workload_events", "sum(length(metrics.name)) AS n, 0 AS f", "1"),
        ("metrics_minute", POINTS, "1"),
        ("metrics_hourly", POINTS, "1"),
        ("metrics_daily", POINTS, "1"),
        ("metric_slices_hourly", POINTS, SINGLE),
        ("metric_slices_daily", POINTS, SINGLE),
        ("metric_slices_hourly", POINTS, PAIR),
        ("metric_slices_daily", POINTS, PAIR),
    ),
    (
        (
            "workload_events",
            "count() AS n, sum(cityHash64(event_id)) AS f",
            "event_type = 'execution.recorded'",
        ),
        ("executions_hourly", "sum(executions) AS n, sum(fingerprint) AS f", "1"),
    ),
    (
        ("workload_events", "count() AS n, 0 AS f", "1"),
        ("user_activity", "sum(events) AS n, 0 AS f", "1"),
    ),
)


def _time_of(table: LiteralString) -> LiteralString:
    return TIMES.get(table, "timestamp")


def _differing(
    same: tuple[tuple[LiteralString, LiteralString, LiteralString], ...],
) -> LiteralString:
    """SELECT of the days on which one of them differs, or has no row where another has."""
    days: list[LiteralString] = [
        f"SELECT toDate({_time_of(table)}) AS d, {numbers} FROM {table}"  # noqa: S608 - names from above
        f" WHERE org_id = %(org_id)s AND {rows}"
        f" AND toDate({_time_of(table)}) >= toDate(now('UTC')) - 80 GROUP BY d"
        for table, numbers, rows in same
    ]
    together = " UNION ALL ".join(days)
    return (
        f"SELECT d FROM ({together}) WHERE n > 0 GROUP BY d"  # noqa: S608 - names from above
        f" HAVING uniqExact((n, f)) > 1 OR count() < {len(same)}"
    )


DIFFERING_DAYS: LiteralString = (
    "SELECT DISTINCT d FROM (" + " UNION ALL ".join(map(_differing, SAME)) + ") ORDER BY d"  # noqa: S608 - names from above
)

VIEW: LiteralString = """
    SELECT as_select FROM system.tables
     WHERE database = currentDatabase() AND name = concat(%(table)s, '_mv')
"""


async def differing_days(clickhouse: ClickHouse, org_id: str) -> list[date]:
    """Days on which a roll-up does not hold what the events say."""
    rows = await clickhouse.query(
        DIFFERING_DAYS, {"org_id": str(UUID(org_id))}, deadline=_deadline(), rows_max=10_000
    )
    return [day for (day,) in rows]


async def rebuild_day(clickhouse: ClickHouse, org_id: str, day: date) -> None:
    """Makes all roll-ups of the day anew. Dying in between leaves a day that differs."""
    values = {"org_id": str(UUID(org_id)), "day": day.isoformat()}
    for table, time in TIMES.items():
        await clickhouse.command(
            f"DELETE FROM {table} WHERE org_id = toUUID(%(org_id)s)"  # noqa: S608 - names from above
            f" AND toDate({time}) = toDate(%(day)s)",
            values,
        )
    only = f"org_id = toUUID(\\'{UUID(org_id)}\\') AND toDate(timestamp) = toDate(\\'{day}\\')"
    # Rows equal to earlier ones are wanted here, so nothing may be taken for a repetition.
    settings = {
        "additional_table_filters": f"{{'workload_events': '{only}'}}",
        "insert_deduplicate": 0,
        "deduplicate_blocks_in_dependent_materialized_views": 0,
        "async_insert": 0,
        "max_partitions_per_insert_block": 0,
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
        await clickhouse.command(f"INSERT INTO {table} ({columns}) {select}", {}, settings)


def _deadline() -> float:
    return Call.by_worker("telemetry.rollups", seconds=60).deadline
