"""How long the column store keeps what."""

from __future__ import annotations

from tests.integration.telemetry.buffer import ask

# Days: on both sides of 90 days, six months and a year, each age in a month of its own.
AGES = (60, 100, 150, 200, 340, 400)
SEASON, HALF, YEAR = {60}, {60, 100, 150}, {60, 100, 150, 200, 340}
KEPT = {
    "workload_events": ("timestamp", SEASON),
    "events_minute": ("bucket", SEASON),
    "metrics_minute": ("bucket", SEASON),
    "user_activity": ("day", HALF),
    "executions_hourly": ("hour", YEAR),
    "events_hourly": ("bucket", YEAR),
    "events_daily": ("bucket", YEAR),
    "metrics_hourly": ("bucket", YEAR),
    "metrics_daily": ("bucket", YEAR),
    "event_slices_hourly": ("bucket", YEAR),
    "event_slices_daily": ("bucket", YEAR),
    "metric_slices_hourly": ("bucket", YEAR),
    "metric_slices_daily": ("bucket", YEAR),
    "event_totals_daily": ("bucket", YEAR),
    "event_slice_totals_daily": ("bucket", YEAR),
    "metric_totals_daily": ("bucket", YEAR),
    "metric_slice_totals_daily": ("bucket", YEAR),
}


def test_each_table_keeps_its_time(clickhouse_url: str) -> None:
    """Events 90 days, activity six months, roll-ups a year; those of a minute as long as the events."""
    ask(
        clickhouse_url,
        """
        INSERT INTO workload_events (org_id, event_type, event_id, user_id, timestamp, metrics.name,
                                     metrics.value, metrics.unit)
        SELECT generateUUIDv4(), 'execution.recorded', generateUUIDv4(1), generateUUIDv4(2),
               toStartOfDay(now('UTC')) - toIntervalDay(days), ['m'], [1.], ['']
          FROM (SELECT arrayJoin([60, 100, 150, 200, 340, 400]) AS days)
        """,
    )
    for table, (time, ages) in KEPT.items():
        ask(clickhouse_url, f"OPTIMIZE TABLE {table} FINAL")
        rows = ask(
            clickhouse_url,
            f"SELECT DISTINCT dateDiff('day', toDate({time}), toDate(now('UTC'))) FROM {table}",  # noqa: S608
        )
        assert {days for (days,) in rows} == ages, table
