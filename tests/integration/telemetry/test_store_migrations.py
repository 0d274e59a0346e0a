"""The column store's migrations, on a store that holds something."""

from __future__ import annotations

from itertools import combinations

from chimera import migrate
from chimera.telemetry.statements import ALONE, DIMENSIONS, IN_SLICES
from tests.integration.telemetry.buffer import ask

COLUMNS = [column for number, (_, column) in DIMENSIONS.items() if number != IN_SLICES]
PAIRS = {
    f"{one},{two}"
    for one, two in combinations(COLUMNS, 2)
    if DIMENSIONS[ALONE][1] not in (one, two)
}
EVENTS = """
    INSERT INTO workload_events (org_id, event_type, event_category, event_id, user_id, campaign_id,
           workload_id, timestamp, latency_ms, metrics.name, metrics.value, metrics.unit, dimensions)
    SELECT generateUUIDv4(1), ['a', 'b'][1 + number % 2], 'c', generateUUIDv4(2),
           toUUID('00000000-0000-0000-0000-00000000000{user}'), generateUUIDv4(3),
           toString(number % 5), now('UTC') - toIntervalDay(number % 70), 1 + number, ['m'], [number], [''],
           map('model', toString(number % 3), 'provider', 'p', 'technique', toString(number % 4))
      FROM numbers(500)
"""


def sums(url: str, kind: str, step: str) -> dict[str, tuple[int, float, float]]:
    """What the slices of each dimension, or pair of them, say in all; the median is of the sketches."""
    numbers = (
        "events, latency_ms_sum, latency_ms_q" if kind == "event" else "points, value_sum, value_q"
    )
    count, total, sketch = numbers.split(", ")
    rows = ask(
        url,
        f"SELECT dimension, sum({count}), toFloat64(sum({total})),"  # noqa: S608 - names from above
        f" quantilesTDigestMerge(0.5, 0.9, 0.95, 0.99)({sketch})[1] FROM {kind}_slices_{step} GROUP BY 1",
    )
    return {dimension: tuple(found) for dimension, *found in rows}


def test_slices_hold_what_was_there_before_them(clickhouse_url: str) -> None:
    """Events of before, between and after the migrations are in every slice once; a migration that is
    run a second time changes nothing, and one taken back leaves the numbers of the release before."""
    migrate.down(None, clickhouse_url, only="clickhouse", steps=2)
    ask(clickhouse_url, EVENTS.format(user=1))
    migrate.up(None, clickhouse_url, only="clickhouse")
    ask(clickhouse_url, EVENTS.format(user=2))
    ask(
        clickhouse_url,
        "ALTER TABLE schema_versions DELETE WHERE version = 4 SETTINGS mutations_sync = 1",
    )
    migrate.up(None, clickhouse_url, only="clickhouse")
    for kind, base in (("event", 501), ("metric", 499)):
        for step in ("hourly", "daily"):
            found = sums(clickhouse_url, kind, step)
            assert found.keys() == {*COLUMNS, *PAIRS}
            for dimension, (count, total, median) in found.items():
                assert (count, total) == (1000, 500.0 * base), (kind, step, dimension)
                assert abs(median - base / 2) < 15, (kind, step, dimension)

    migrate.down(None, clickhouse_url, only="clickhouse", steps=1)
    ask(clickhouse_url, EVENTS.format(user=3))
    for step in ("hourly", "daily"):
        found = sums(clickhouse_url, "event", step)
        assert found.keys() == set(COLUMNS)
        assert {(count, total) for count, total, _ in found.values()} == {(1500, 750.0 * 501)}
    migrate.up(None, clickhouse_url, only="clickhouse")
    found = sums(clickhouse_url, "event", "daily")
    assert {(count, total) for count, total, _ in found.values()} == {(1500, 750.0 * 501)}
    assert found.keys() == {*COLUMNS, *PAIRS}
