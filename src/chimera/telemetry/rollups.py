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

DIFFERING_DAYS: LiteralString = """
    SELECT day FROM (
        SELECT 0 AS source, toDate(timestamp) AS day, count() AS n, sum(cityHash64(event_id)) AS f
          FROM workload_events
         WHERE org_id = %(org_id)s AND timestamp >= toStartOfDay(now('UTC')) - INTERVAL 80 DAY
         GROUP BY day
        UNION ALL
        SELECT 1, toDate(bucket) AS day, sum(events), sum(fingerprint) FROM events_minute
         WHERE org_id = %(org_id)s AND bucket >= toStartOfDay(now('UTC')) - INTERVAL 80 DAY
         GROUP BY day
        UNION ALL
        SELECT 2, toDate(bucket) AS day, sum(events), sum(fingerprint) FROM events_hourly
         WHERE org_id = %(org_id)s AND bucket >= toStartOfDay(now('UTC')) - INTERVAL 80 DAY
         GROUP BY day
        UNION ALL
        SELECT 3, toDate(bucket) AS day, sum(events), sum(fingerprint) FROM events_daily
         WHERE org_id = %(org_id)s AND bucket >= toStartOfDay(now('UTC')) - INTERVAL 80 DAY
         GROUP BY day
        UNION ALL
        SELECT 4, toDate(bucket) AS day, sum(events), sum(fingerprint) FROM event_slices_hourly
         WHERE org_id = %(org_id)s AND dimension = 'event_category'
           AND bucket >= toStartOfDay(now('UTC')) - INTERVAL 80 DAY
         GROUP BY day
        UNION ALL
        SELECT 5, toDate(bucket) AS day, sum(events), sum(fingerprint) FROM event_slices_daily
         WHERE org_id = %(org_id)s AND dimension = 'event_category'
           AND bucket >= toStartOfDay(now('UTC')) - INTERVAL 80 DAY
         GROUP BY day
    ) GROUP BY day HAVING uniqExact((n, f)) > 1 OR count() < 6 ORDER BY day
"""

VIEW: LiteralString = """
    SELECT as_select FROM system.tables
     WHERE database = currentDatabase() AND name = concat(%(table)s, '_mv')
"""


async def differing_days(clickhouse: ClickHouse, org_id: str) -> list[date]:
    """Days on which the number or the fingerprint of the events is not that of the roll-ups."""
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
