"""The column store's migrations, on a store that holds something."""

from __future__ import annotations

from itertools import combinations

import pytest

from chimera import migrate
from chimera.settings import Settings
from chimera.telemetry.reconcile import REBUILT_MAX, reconcile
from chimera.telemetry.statements import ALONE, DIMENSIONS, IN_SLICES
from chimera.v1.telemetry_pb2 import TelemetryStep
from tests.integration.telemetry.buffer import ask
from tests.integration.telemetry.conftest import Hands
from tests.integration.telemetry.recount import WIDTHS, D, check, recount
from tests.integration.telemetry.sending import in_rows, record, some_events, within
from tests.support.world import World

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


@pytest.fixture
def settings(stored_settings: Settings) -> Settings:
    return stored_settings


def sums(url: str, table: str) -> dict[str, tuple[int, float]]:
    """What the slices of each dimension, or pair of them, say in all."""
    numbers = "sum(events), toFloat64(sum(latency_ms_sum))"
    if table.startswith("metric"):
        numbers = "sum(points), sum(value_sum)"
    rows = ask(url, f"SELECT dimension, {numbers} FROM {table} GROUP BY 1")  # noqa: S608 - names from above
    return {dimension: (count, total) for dimension, count, total in rows}


def test_slices_hold_what_was_there_before_them(clickhouse_url: str) -> None:
    """Events of before, between and after the migrations are in every slice once; a migration that is
    run a second time changes nothing, and one taken back leaves the numbers of the release before."""
    migrate.down(None, clickhouse_url, only="clickhouse", steps=since(3))
    ask(clickhouse_url, EVENTS.format(user=1))
    migrate.up(None, clickhouse_url, only="clickhouse")
    ask(clickhouse_url, EVENTS.format(user=2))
    migrate.down(None, clickhouse_url, only="clickhouse", steps=since(5))
    forget(clickhouse_url, 4)
    migrate.up(None, clickhouse_url, only="clickhouse")
    forget(clickhouse_url, 6)
    migrate.up(None, clickhouse_url, only="clickhouse")
    for kind, base in (("event", 501), ("metric", 499)):
        for table in ("slices_hourly", "slices_daily", "slice_totals_daily"):
            found = sums(clickhouse_url, f"{kind}_{table}")
            assert found.keys() == {*COLUMNS, *PAIRS}
            assert set(found.values()) == {(1000, 500.0 * base)}, (kind, table)
    totals = "SELECT sum(events), sum(latency_ms_sum), uniqExact(user_id) FROM event_totals_daily"
    assert ask(clickhouse_url, totals) == [(1000, 500 * 501, 2)]

    migrate.down(None, clickhouse_url, only="clickhouse", steps=since(4))
    ask(clickhouse_url, EVENTS.format(user=3))
    for table in ("event_slices_hourly", "event_slices_daily"):
        found = sums(clickhouse_url, table)
        assert found.keys() == set(COLUMNS)
        assert set(found.values()) == {(1500, 750.0 * 501)}
    migrate.up(None, clickhouse_url, only="clickhouse")
    for table in ("event_slices_daily", "event_slice_totals_daily"):
        found = sums(clickhouse_url, table)
        assert set(found.values()) == {(1500, 750.0 * 501)}
        assert found.keys() == {*COLUMNS, *PAIRS}
    assert ask(clickhouse_url, totals) == [(1500, 750 * 501, 3)]


def since(version: int) -> int:
    """How many migrations there are from this one on."""
    forward = {path.name[:4] for path in (migrate.migrations_folder() / "clickhouse").glob("*.sql")}
    return sum(int(number) >= version for number in forward)


def forget(url: str, version: int) -> None:
    """As if the migration had died before its end: it is run once more, and those after it."""
    ask(
        url,
        f"ALTER TABLE schema_versions DELETE WHERE version >= {version} SETTINGS mutations_sync = 1",
    )


async def test_percentiles_come_back_from_the_events(world: World, hands: Hands) -> None:
    """Sketches of the kind before cannot be read any more: the reconciler makes their days anew, a few
    in each pass and the newest first, also when values of both kinds came in the same hour."""
    acme = await world.organisation("acme")
    days, model, technique = 5, D.TELEMETRY_DIMENSION_MODEL, D.TELEMETRY_DIMENSION_TECHNIQUE
    old, new = some_events(500, hours=24 * days), some_events(500, seed=1, hours=24 * days)
    migrate.down(None, hands.url, only="clickhouse", steps=since(5))
    await record(acme.admin, in_rows(old))
    await hands.drain()
    migrate.up(None, hands.url, only="clickhouse")
    ranges = within(24 * (days + 1))
    series = await acme.admin.telemetry.QuerySeries(**ranges, with_percentiles=True)
    assert sum(point.events for point in series.points) == 500
    assert not any(point.values.p95 for point in series.points)

    await record(acme.admin, in_rows(new))
    await hands.drain()
    rebuilt = []
    while found := (await reconcile(hands.core, hands.clickhouse)).rebuilt:
        assert len(found) <= REBUILT_MAX
        rebuilt += [day for _, day in found]
    assert days <= len(rebuilt) <= days + 1
    assert rebuilt == sorted(set(rebuilt), reverse=True)
    for step in (TelemetryStep.TELEMETRY_STEP_HOUR, TelemetryStep.TELEMETRY_STEP_DAY):
        for group_by in (
            [],
            [model],
            [model, technique],
            [model, technique, D.TELEMETRY_DIMENSION_WORKLOAD],
        ):
            for metric in ("", "tokens"):
                series = await acme.admin.telemetry.QuerySeries(
                    **ranges, step=step, group_by=group_by, metric=metric, with_percentiles=True
                )
                truth = recount([*old, *new], WIDTHS[step], group_by, metric)
                assert {(p.start.seconds, *p.group) for p in series.points} == truth.keys()
                for point in series.points:
                    check(point, truth[point.start.seconds, *point.group], metric)
