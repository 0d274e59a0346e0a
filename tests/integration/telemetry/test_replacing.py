# ruff: noqa: S608 - statements of the test itself
"""What the store has wrong is taken out of it and stored anew from the buffer, when somebody asks."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pytest

from chimera.faults import TimedOut
from chimera.settings import Settings
from chimera.telemetry import reconcile as reconciler
from chimera.telemetry.reconcile import Report, reconcile
from tests.integration.telemetry.buffer import ask, run_sql
from tests.integration.telemetry.conftest import Hands
from tests.integration.telemetry.sending import in_columns, record, some_events
from tests.integration.telemetry.test_ledger import counted, ledger, lose
from tests.support.world import World

OF = "(SELECT batch_id FROM workload_events GROUP BY batch_id HAVING count() = {})"
LATER = (
    "UPDATE telemetry.batches SET group_failed_at = now() - interval '1 h' WHERE group_failures > 0"
)


@pytest.fixture
def settings(stored_settings: Settings) -> Settings:
    return stored_settings


async def passed(hands: Hands) -> Report:
    return await reconcile(hands.core, hands.clickhouse)


async def test_what_differs_is_replaced_when_somebody_asks(world: World, hands: Hands) -> None:
    """One batch is there in part, one twice, of one an event is another; one is as it was. Nothing is
    touched until somebody asks; then each is there once, in the roll-ups too, and all is verified."""
    acme = await world.organisation("acme")
    for producer, count in (("part", 50), ("twice", 40), ("altered", 30), ("good", 20)):
        await record(acme.admin, in_columns(some_events(count, count), producer=producer))
    await hands.drain()
    twice, part = OF.format(40), OF.format(50)
    ((altered,),) = ask(
        hands.url, f"SELECT any(event_id) FROM workload_events WHERE batch_id IN {OF.format(30)}"
    )
    bends = [
        f"INSERT INTO workload_events SELECT * FROM workload_events WHERE batch_id IN {twice}",
        "INSERT INTO workload_events SELECT * REPLACE (generateUUIDv4() AS event_id)"
        f" FROM (SELECT * FROM workload_events WHERE event_id = '{altered}')",
        f"DELETE FROM workload_events WHERE event_id = '{altered}'",
        f"DELETE FROM workload_events WHERE toMinute(timestamp) < 30 AND batch_id IN {part}",
    ]
    for bend in bends:
        ask(hands.url, bend)

    for _ in range(2):
        report = await passed(hands)
        assert (report.missing, report.surplus, report.resent) == (2, 2, 0)
    assert (await ledger(acme.admin))["good"] == (20, 20, 0, 20)
    await acme.admin.telemetry.ReconcileTelemetry(replace_differing=True)
    assert (await passed(hands)).resent == 3
    assert await hands.drain() == 120
    report = await passed(hands)
    assert (report.missing, report.surplus, len(report.rebuilt) > 0) == (0, 0, True)
    assert await counted(acme.admin) == 140
    assert ask(hands.url, "SELECT count(), uniqExact(event_id) FROM workload_events") == [
        (140, 140)
    ]
    books = {
        name: (n, n, 0, n)
        for name, n in (("part", 50), ("twice", 40), ("altered", 30), ("good", 20))
    }
    assert await ledger(acme.admin) == books
    newest = (await acme.admin.telemetry.ListReconciliations()).verified_to
    assert newest == (await acme.admin.telemetry.GetIngestStatus()).verified_to
    lose(hands.url, 50)  # asked for once, done once
    assert (await passed(hands)).resent == 0


async def test_nothing_vouches_for_what_is_compared_again(
    world: World, hands: Hands, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody asks, and the store cannot be asked: verified_to is before the first batch until it can."""
    acme = await world.organisation("acme")
    await record(acme.admin, in_columns(some_events(20)))
    await hands.drain()
    await passed(hands)
    status = acme.admin.telemetry.GetIngestStatus
    before = (await status()).verified_to
    await acme.admin.telemetry.ReconcileTelemetry()

    async def counts(*_: Any) -> Any:
        raise TimedOut("DEADLINE_TOO_SHORT", "it takes too long")

    monkeypatch.setattr(reconciler, "_counted", counts)
    with pytest.raises(TimedOut):
        await passed(hands)
    ((first,),) = run_sql(database_url, "SELECT created_at FROM telemetry.batches")
    assert (await status()).verified_to.ToDatetime(tzinfo=UTC) == first.astimezone(UTC)
    monkeypatch.undo()
    await passed(hands)
    assert (await status()).verified_to.ToDatetime() > before.ToDatetime()


async def test_a_store_that_cannot_count_its_days_is_compared_by_batch(
    world: World, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = await world.organisation("acme")
    await record(acme.admin, in_columns(some_events(20)))
    await hands.drain()

    async def has_fewer(*_: Any) -> bool:
        raise TimedOut("DEADLINE_TOO_SHORT", "too many events")

    monkeypatch.setattr(reconciler, "_has_fewer", has_fewer)
    with pytest.raises(TimedOut):  # the roll-ups are not compared, which is told
        await passed(hands)
    assert await ledger(acme.admin) == {"test": (20, 20, 0, 20)}
