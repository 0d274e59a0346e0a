"""Roll-ups that are made anew from the events, while others go on."""

from __future__ import annotations

from typing import Any

import pytest

from chimera.faults import Unavailable
from chimera.settings import Settings
from chimera.telemetry.drain import drain
from chimera.telemetry.reconcile import reconcile
from chimera.telemetry.scope import Analytics
from tests.integration.telemetry.buffer import ask, open_worker, run_sql
from tests.integration.telemetry.conftest import Hands
from tests.integration.telemetry.sending import in_columns, record, some_events, within
from tests.support.world import World


@pytest.fixture
def settings(stored_settings: Settings) -> Settings:
    return stored_settings


async def test_a_rebuild_that_dies_is_taken_up_again(
    world: World, hands: Hands, clickhouse_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its roll-ups are away, so answers are complete up to its day only. What others drain meanwhile waits,
    or it would count twice."""
    acme = await world.organisation("acme")
    telemetry = acme.admin.telemetry
    await record(acme.admin, in_columns(some_events(50, 1)))
    await hands.drain()
    await reconcile(hands.core, hands.clickhouse)
    ask(hands.url, "INSERT INTO events_minute SELECT * FROM events_minute")
    await telemetry.ReconcileTelemetry()
    await record(acme.admin, in_columns(some_events(30, 2)))
    run = hands.clickhouse.command
    beside: list[int] = []

    async def command(statement: Any, *args: Any) -> None:
        if statement.startswith("INSERT"):
            async with open_worker(hands.core.settings, clickhouse_url) as (other, store):
                beside.append(await drain(other, store))
            raise Unavailable("DEPENDENCY_UNAVAILABLE", "the worker dies here")
        await run(statement, *args)

    monkeypatch.setattr(hands.clickhouse, "command", command)
    with pytest.raises(Unavailable):
        await reconcile(hands.core, hands.clickhouse)
    monkeypatch.undo()
    assert beside == [0]
    freshness = (await telemetry.QuerySeries(**within())).freshness
    assert freshness.complete_to.seconds % 86_400 == 0
    assert freshness.verified_to.seconds == freshness.complete_to.seconds

    assert await hands.drain() == 30
    report = await reconcile(hands.core, hands.clickhouse)
    assert {org_id for org_id, _ in report.rebuilt} == {acme.id}
    series = await telemetry.QuerySeries(**within())
    assert sum(point.events for point in series.points) == 80
    assert series.freshness.complete_to.seconds % 86_400 > 0


async def test_what_is_stored_in_part_is_left_alone(
    world: World, hands: Hands, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store took a group's events and failed before all of its views had them. The rest comes when the
    group is sent again: a rebuild in between would count them twice."""
    acme = await world.organisation("acme")
    telemetry = acme.admin.telemetry
    await record(acme.admin, in_columns(some_events(50, 1)))
    insert = hands.clickhouse.insert

    async def in_part(table: Any, blocks: Any, token: str) -> None:
        ask(hands.url, "DETACH TABLE events_minute_mv")
        await insert(table, blocks, token)
        ask(hands.url, "ATTACH TABLE events_minute_mv")
        raise Unavailable("DEPENDENCY_UNAVAILABLE", "it fails here")

    monkeypatch.setattr(hands.clickhouse, "insert", in_part)
    with pytest.raises(Unavailable):
        await hands.drain()
    monkeypatch.undo()
    await telemetry.ReconcileTelemetry()
    report = await reconcile(hands.core, hands.clickhouse)
    assert not report.rebuilt and not report.lost
    run_sql(database_url, "UPDATE telemetry.batches SET group_failed_at = 'epoch'")
    assert await hands.drain() == 50
    await reconcile(hands.core, hands.clickhouse)
    series = await telemetry.QuerySeries(**within())
    assert sum(point.events for point in series.points) == 50


@pytest.mark.parametrize(
    "change", ["rebuilding_day = current_date", "rebuilt_at = now(), rebuilt_day = current_date"]
)
async def test_a_rebuild_while_somebody_asks_is_in_their_answer(
    world: World, hands: Hands, database_url: str, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The roll-ups go between the look at the buffer and the look at the store; they may be back when the
    store has answered."""
    acme = await world.organisation("acme")
    await record(acme.admin, in_columns(some_events(50, 1)))
    await hands.drain()
    await reconcile(hands.core, hands.clickhouse)
    rows = Analytics.rows

    async def begins(*args: Any, **more: Any) -> Any:
        run_sql(database_url, f"UPDATE telemetry.verified SET {change}")  # noqa: S608
        return await rows(*args, **more)

    monkeypatch.setattr(Analytics, "rows", begins)
    freshness = (await acme.admin.telemetry.QuerySeries(**within())).freshness
    assert freshness.complete_to.seconds % 86_400 == 0
    assert freshness.verified_to == freshness.complete_to
