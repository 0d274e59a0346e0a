# ruff: noqa: S608 - statements of the test itself
"""What the store has wrong is taken out of it and stored anew from the buffer, when somebody asks."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Any

import pytest

from chimera.faults import TimedOut, Unavailable
from chimera.settings import Settings
from chimera.telemetry import reconcile as reconciler
from chimera.telemetry.reconcile import Report, reconcile
from tests.integration.telemetry.buffer import ask, run_sql
from tests.integration.telemetry.conftest import Hands
from tests.integration.telemetry.sending import in_columns, record, some_events, within
from tests.integration.telemetry.test_ledger import DUE, ledger, lose
from tests.support.world import World

OF = "(SELECT batch_id FROM workload_events GROUP BY batch_id HAVING count() = {})"
PARTLY = "(SELECT batch_id FROM workload_events GROUP BY batch_id HAVING count() < 20)"


@pytest.fixture
def settings(stored_settings: Settings) -> Settings:
    return stored_settings


async def passed(hands: Hands) -> Report:
    return await reconcile(hands.core, hands.clickhouse)


async def test_what_differs_is_replaced_when_somebody_asks(
    world: World, hands: Hands, database_url: str
) -> None:
    """One batch is there in part, one, of days long ago, twice, of one an event is another, one cannot be read
    in the buffer either; one is as it was. Nothing is touched until somebody asks; then what can be is there
    once, in the roll-ups too, and nothing vouches for their days until it is."""
    acme = await world.organisation("acme")
    sizes = {"part": 50, "altered": 30, "unreadable": 25, "good": 20}
    for producer, count in sizes.items():
        await record(acme.admin, in_columns(some_events(count, count), producer=producer))
    twelve_days = some_events(40, 40, hours=12 * 24)
    await record(acme.admin, in_columns(twelve_days, producer="twice"))
    await hands.drain()
    await passed(hands)
    ((altered,),) = ask(
        hands.url,
        f"SELECT any(event_id) FROM workload_events WHERE batch_id IN {OF.format(30)}",
    )
    bends = [
        f"INSERT INTO workload_events SELECT * FROM workload_events WHERE batch_id IN {OF.format(40)}",
        "INSERT INTO workload_events SELECT * REPLACE (generateUUIDv4() AS event_id)"
        f" FROM (SELECT * FROM workload_events WHERE event_id = '{altered}')",
        f"DELETE FROM workload_events WHERE event_id = '{altered}'",
        f"DELETE FROM workload_events WHERE toMinute(timestamp) < 30 AND batch_id IN {OF.format(50)}",
        f"DELETE FROM workload_events WHERE toMinute(timestamp) < 30 AND batch_id IN {OF.format(25)}",
    ]
    for bend in bends:
        ask(hands.url, bend)
    ((left,),) = ask(hands.url, "SELECT count() FROM workload_events")
    run_sql(database_url, "UPDATE telemetry.batches SET body = 'x' WHERE producer = 'unreadable'")
    await acme.admin.telemetry.ReconcileTelemetry()
    for _ in range(2):
        report = await passed(hands)
        assert (report.missing, report.surplus, report.resent) == (3, 2, 0)
    assert (await ledger(acme.admin))["good"] == (20, 20, 0, 20)
    assert ask(hands.url, "SELECT count() FROM workload_events") == [(left,)]

    await acme.admin.telemetry.ReconcileTelemetry(replace_differing=True)
    assert (await passed(hands)).resent == 3
    series = acme.admin.telemetry.QuerySeries
    freshness = (await series(**within(hours=1))).freshness
    first = min(event.timestamp.ToDatetime().date() for event in twelve_days)
    assert freshness.verified_to.ToDatetime() == datetime.combine(first, time())
    assert await hands.drain() == 120
    rebuilt = []
    while days := (await passed(hands)).rebuilt:
        rebuilt += days
    assert len(rebuilt) >= 12
    whole, different = ask(
        hands.url,
        f"SELECT count(), uniqExact(event_id) FROM workload_events WHERE batch_id NOT IN {PARTLY}",
    )[0]
    assert (whole, different) == (140, 140)
    points = (await series(**within(hours=13 * 24))).points
    ((events,),) = ask(hands.url, "SELECT count() FROM workload_events")
    assert sum(point.events for point in points) == events
    books = {
        name: (n, n, 0, n) for name, n in {**sizes, "twice": 40}.items() if name != "unreadable"
    }
    assert {k: v for k, v in (await ledger(acme.admin)).items() if k != "unreadable"} == books

    lose(hands.url, 50)  # asked for once, done once
    run_sql(database_url, DUE)
    report = await passed(hands)
    assert (report.missing, report.resent) == (2, 0)


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


async def test_days_stay_stale_until_their_batches_are_sent_anew(
    world: World, hands: Hands, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker dies between taking out and sending anew. Nothing vouches for the day meanwhile, and the
    next pass goes on with it."""
    acme = await world.organisation("acme")
    await record(acme.admin, in_columns(some_events(50, 1, hours=1)))
    await hands.drain()
    ask(hands.url, "INSERT INTO workload_events SELECT * FROM workload_events")
    await acme.admin.telemetry.ReconcileTelemetry(replace_differing=True)
    take_out = reconciler.take_out

    async def dies(*args: Any) -> None:
        await take_out(*args)
        raise Unavailable("DEPENDENCY_UNAVAILABLE", "the worker dies here")

    monkeypatch.setattr(reconciler, "take_out", dies)
    with pytest.raises(Unavailable):
        await passed(hands)
    monkeypatch.undo()
    series = acme.admin.telemetry.QuerySeries
    assert (await series(**within())).freshness.complete_to.seconds % 86_400 == 0
    assert (await passed(hands)).resent == 1
    assert await hands.drain() == 50
    for _ in range(3):
        await passed(hands)
    answer = await series(**within())
    assert sum(point.events for point in answer.points) == 50
    assert answer.freshness.complete_to.seconds % 86_400
    assert run_sql(database_url, "SELECT 1 FROM telemetry.stale_days") == []


async def test_days_past_their_time_are_left_alone(
    world: World, hands: Hands, database_url: str
) -> None:
    """Their events begin to expire, and the roll-ups are kept for longer."""
    acme = await world.organisation("acme")
    await record(acme.admin, in_columns(some_events(20, 1, hours=1)))
    await hands.drain()
    await passed(hands)
    for table in ("events_daily", "workload_events"):
        time = "bucket" if table == "events_daily" else "timestamp"
        ask(
            hands.url,
            f"INSERT INTO {table} SELECT * REPLACE ({time} - toIntervalDay(85) AS {time}) FROM {table}",
        )
    ask(hands.url, "DELETE FROM workload_events WHERE timestamp < now() - toIntervalDay(80)")
    run_sql(
        database_url,
        "INSERT INTO telemetry.stale_days SELECT org_id, current_date - 85 FROM telemetry.verified",
    )
    old = "SELECT sum(events) FROM events_daily WHERE bucket < now() - toIntervalDay(80)"
    before = ask(hands.url, old)
    assert before != [(0,)]
    await passed(hands)
    assert ask(hands.url, old) == before
    assert run_sql(database_url, "SELECT 1 FROM telemetry.stale_days") == []
