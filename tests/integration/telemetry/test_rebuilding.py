"""Roll-ups that are made anew from the events, while others go on."""

from __future__ import annotations

from typing import Any

import pytest

from chimera.faults import Unavailable
from chimera.settings import Settings
from chimera.telemetry.drain import drain
from chimera.telemetry.reconcile import reconcile
from tests.integration.telemetry.buffer import ask, open_worker
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

    report = await reconcile(hands.core, hands.clickhouse)
    assert {org_id for org_id, _ in report.rebuilt} == {acme.id}
    assert await hands.drain() == 30
    series = await telemetry.QuerySeries(**within())
    assert sum(point.events for point in series.points) == 80
    assert series.freshness.complete_to.seconds % 86_400 > 0
