"""The reconciler's ledger: what it says when the store lost something, when a batch cannot be mended, when
one organisation fails, and after batches were put back or compared again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from chimera.clickhouse import ClickHouse
from chimera.faults import TimedOut
from chimera.settings import Settings
from chimera.telemetry import reconcile as reconciler
from chimera.telemetry import rollups
from chimera.telemetry.drain import TRIES_MAX, drain
from chimera.telemetry.reconcile import reconcile
from chimera.telemetry.scope import Analytics
from chimera.v1.telemetry_pb2 import TelemetryEvent
from tests.integration.telemetry.buffer import ask, run_sql
from tests.integration.telemetry.conftest import Hands
from tests.integration.telemetry.sending import in_columns, in_rows, record, some_events, within
from tests.integration.telemetry.test_keeping import books
from tests.support.world import Person, Refused, World

DUE = "UPDATE telemetry.verified SET rollups_checked_at = now() - interval '25 h'"


@pytest.fixture
def settings(stored_settings: Settings) -> Settings:
    return stored_settings


async def counted(person: Person) -> int:
    """Events by the roll-ups."""
    return sum(p.events for p in (await person.telemetry.QuerySeries(**within())).points)


async def ledger(person: Person) -> dict[str, tuple[int, int, int, int]]:
    """(accepted, stored, dead, found) of each producer."""
    found = await person.telemetry.ListReconciliations()
    return {
        r.producer: (r.accepted, r.stored, r.dead_lettered, r.found) for r in found.reconciliations
    }


def lose(url: str, events: int) -> None:
    """The store does not have the batch of so many events any more."""
    of = f"SELECT batch_id FROM workload_events GROUP BY batch_id HAVING count() = {events}"  # noqa: S608
    ask(url, f"DELETE FROM workload_events WHERE batch_id IN ({of})")  # noqa: S608


async def test_lost_events_do_not_take_the_roll_ups_along(
    world: World, hands: Hands, database_url: str
) -> None:
    """Half of what was verified is gone from the events: the daily look says so, sends what it can anew and
    leaves alone the roll-ups, which are all that is left of the rest."""
    acme = await world.organisation("acme")
    await record(acme.admin, in_columns(some_events(60, 1), producer="part"))
    await record(acme.admin, in_columns(some_events(20, 2), producer="whole"))
    await hands.drain()
    await reconcile(hands.core, hands.clickhouse)
    lose(hands.url, 20)
    ask(hands.url, "DELETE FROM workload_events WHERE toMinute(timestamp) < 30")
    assert (await reconcile(hands.core, hands.clickhouse)).missing == 0, "nobody looks again"
    run_sql(database_url, DUE)
    report = await reconcile(hands.core, hands.clickhouse)
    assert (report.missing, report.resent, report.rebuilt) == (2, 1, [])
    assert report.lost and await counted(acme.admin) == 80
    await hands.drain()
    for _ in range(2):
        report = await reconcile(hands.core, hands.clickhouse)
        assert (report.missing, report.rebuilt) == (1, [])
    # Counted twice by the roll-ups until a person has mended the other batch.
    assert await counted(acme.admin) == 100
    accepted, stored, _, found = (await ledger(acme.admin))["part"]
    assert (accepted, stored) == (60, 60) and 0 < found < 60
    assert (await ledger(acme.admin))["whole"] == (20, 20, 0, 20)


async def test_a_store_restored_from_an_older_state_is_noticed(
    world: World, hands: Hands, database_url: str
) -> None:
    """Events and roll-ups of before agree with each other, so only the buffer can tell."""
    acme = await world.organisation("acme")
    await record(acme.admin, in_columns(some_events(30, 1)))
    await hands.drain()
    tables = ["workload_events", *rollups.TIMES]
    for table in tables:
        ask(hands.url, f"CREATE TABLE saved_{table} AS {table}")
        ask(hands.url, f"INSERT INTO saved_{table} SELECT * FROM {table}")  # noqa: S608
    await record(acme.admin, in_columns(some_events(40, 2)))
    await hands.drain()
    await reconcile(hands.core, hands.clickhouse)
    for table in tables:
        ask(hands.url, f"TRUNCATE TABLE {table}")
    for table in tables:
        ask(hands.url, f"ALTER TABLE {table} ATTACH PARTITION ALL FROM saved_{table}")
    run_sql(database_url, DUE)
    report = await reconcile(hands.core, hands.clickhouse)
    assert (report.missing, report.resent, report.lost) == (1, 1, [])
    assert await hands.drain() == 40
    report = await reconcile(hands.core, hands.clickhouse)
    assert (report.missing, report.rebuilt, await counted(acme.admin)) == (0, [], 70)


async def test_what_cannot_be_mended_holds_up_nothing_else(
    world: World, hands: Hands, database_url: str
) -> None:
    """A batch that is there in part is reported in every pass; what came after it is compared, sent anew
    and counted, and verified_to stays before it."""
    acme = await world.organisation("acme")
    for producer, count in (("part", 50), ("lost", 30), ("good", 20)):
        await record(acme.admin, in_columns(some_events(count, count), producer=producer))
    await hands.drain()
    lose(hands.url, 30)
    ask(hands.url, "DELETE FROM workload_events WHERE toMinute(timestamp) < 30 AND batch_id IN"
                   " (SELECT batch_id FROM workload_events GROUP BY batch_id HAVING count() = 50)")  # fmt: skip
    report = await reconcile(hands.core, hands.clickhouse)
    assert (report.compared, report.missing, report.resent) == (1, 2, 1)
    assert (await ledger(acme.admin))["good"] == (20, 20, 0, 20)
    await hands.drain()
    report = await reconcile(hands.core, hands.clickhouse)
    assert (report.compared, report.missing, report.resent) == (1, 1, 0)
    books_ = await ledger(acme.admin)
    assert books_["lost"] == (30, 30, 0, 30) and books_["part"][:3] == (50, 50, 0)
    ((first,),) = run_sql(
        database_url, "SELECT created_at FROM telemetry.batches WHERE producer = 'part'"
    )
    found = await acme.admin.telemetry.ListReconciliations()
    assert found.verified_to.ToDatetime(tzinfo=UTC) == first.astimezone(UTC)
    assert {r.producer: r.missing_batches for r in found.reconciliations} == {
        "part": 1, "lost": 0, "good": 0,
    }  # fmt: skip


async def test_letters_of_one_event_are_not_put_back_together(world: World, hands: Hands) -> None:
    """They would make a batch of which the store can never have all."""
    acme = await world.organisation("acme")
    twin = TelemetryEvent(event_type="x", event_id=str(uuid4()))
    await record(acme.admin, in_rows([twin] * 3))
    letters = [one.id for one in (await acme.admin.telemetry.ListDeadLetters()).dead_letters]
    assert len(letters) == 2
    with pytest.raises(Refused) as refused:
        await acme.admin.telemetry.RequeueDeadLetters(dead_letter_ids=letters)
    assert refused.value.reason == "DEAD_LETTER_UNUSABLE"
    assert await books(acme.admin) == (3, 0, 2, 1, 0)
    await acme.admin.telemetry.RequeueDeadLetters(dead_letter_ids=letters[:1])
    await acme.admin.telemetry.DiscardDeadLetters(dead_letter_ids=letters[1:])
    await hands.drain()
    report = await reconcile(hands.core, hands.clickhouse)
    assert (report.compared, report.missing, report.surplus) == (2, 0, 0)


async def test_one_that_fails_holds_up_no_other_and_an_ask_is_not_lost(
    world: World, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acme is too large to be counted in time; rival is compared. Rival asks while it is compared: the next
    pass looks at everything again."""
    acme, rival = await world.organisation("acme"), await world.organisation("rival")
    for number in (1, 2):
        for person in (acme.admin, rival.admin):
            await record(person, in_rows(some_events(10 * number, number)))
    await hands.drain()
    real = reconciler._counted

    async def counts(
        clickhouse: ClickHouse, org_id: str, batch_ids: list[str]
    ) -> dict[str, tuple[int, int]]:
        if org_id == acme.id:
            raise TimedOut("DEADLINE_TOO_SHORT", "a large organisation")
        await rival.admin.telemetry.ReconcileTelemetry()
        return await real(clickhouse, org_id, batch_ids)

    monkeypatch.setattr(reconciler, "_counted", counts)
    for _ in range(2):
        with pytest.raises(TimedOut):
            await reconcile(hands.core, hands.clickhouse)
    assert (await rival.admin.telemetry.GetIngestStatus()).HasField("verified_to")
    assert not (await acme.admin.telemetry.GetIngestStatus()).HasField("verified_to")
    monkeypatch.undo()
    lose(hands.url, 20)
    report = await reconcile(hands.core, hands.clickhouse)
    assert report.missing == report.resent == 2, "of both organisations"
    assert await ledger(rival.admin) == {"test": (30, 10, 0, 10)}


async def test_old_batches_are_skipped_when_new_ones_are_counted(
    world: World, hands: Hands
) -> None:
    """Events of forty hours in order: of the newest batch, the index leaves a small part to be read."""
    acme = await world.organisation("acme")
    ask(
        hands.url,
        f"""
        INSERT INTO workload_events (org_id, batch_id, event_id, event_type, timestamp)
        SELECT toUUID('{acme.id}'),
               toUUID(concat(substring(h, 1, 8), '-', substring(h, 9, 4), '-7000-8000-', substring(h, 1, 12))),
               generateUUIDv4(), 'x', at
          FROM (SELECT toDateTime64(now() - 40 * 3600 + intDiv(number, 2), 3, 'UTC') AS at,
                       lower(hex(reverse(reinterpretAsFixedString(toUInt64(toUnixTimestamp64Milli(at)) * 65536))))
                       AS h FROM numbers(280000))
        """,  # noqa: S608
    )
    ask(hands.url, "OPTIMIZE TABLE workload_events FINAL")
    ((newest,),) = ask(
        hands.url, "SELECT toString(batch_id) FROM workload_events ORDER BY timestamp DESC LIMIT 1"
    )
    query = reconciler.COUNT_BATCHES % {
        "org_id": f"'{acme.id}'", "batch_ids": f"('{newest}')", "first": f"'{newest}'", "last": f"'{newest}'",
    }  # fmt: skip
    rows = ask(hands.url, f"SELECT lower(hex(explain)) FROM (EXPLAIN indexes = 1 {query})")  # noqa: S608
    plan = "\n".join(bytes.fromhex(row).decode(errors="replace") for (row,) in rows)
    read, there = (
        plan.partition("by_batch_time")[2].partition("Granules: ")[2].split()[0].split("/")
    )
    assert int(there) > 20 and int(read) <= 2, plan


async def test_a_batch_that_was_put_back_is_in_the_books_once(world: World, hands: Hands) -> None:
    """Whether its death was counted before or not, and also when everything is counted again."""
    acme = await world.organisation("acme")
    ask(hands.url, "ALTER TABLE workload_events ADD CONSTRAINT no CHECK event_type != 'odd'")
    for producer in ("early", "late"):
        odd = [TelemetryEvent(event_type="odd")] * 4
        await record(acme.admin, in_rows(odd, producer=producer))
        for _ in range(TRIES_MAX + 1):
            await drain(hands.core, hands.clickhouse)
        if producer == "early":
            await reconcile(hands.core, hands.clickhouse)
    assert await ledger(acme.admin) == {"early": (4, 0, 4, 0)}
    letters = [one.id for one in (await acme.admin.telemetry.ListDeadLetters()).dead_letters]
    ask(hands.url, "ALTER TABLE workload_events DROP CONSTRAINT no")
    await acme.admin.telemetry.RequeueDeadLetters(dead_letter_ids=letters)
    assert await hands.drain() == 8
    for _ in range(2):
        await reconcile(hands.core, hands.clickhouse)
        assert await ledger(acme.admin) == {"early": (4, 4, 0, 4), "late": (4, 4, 0, 4)}
        await acme.admin.telemetry.ReconcileTelemetry()


async def test_comparing_again_keeps_the_books_of_what_is_gone(
    world: World, hands: Hands, database_url: str
) -> None:
    """Of batches that were dropped; and what waited longer than batches are kept is not added again."""
    acme = await world.organisation("acme")
    for producer, count in (("gone", 30), ("late", 20)):
        await record(acme.admin, in_columns(some_events(count, count), producer=producer))
    run_sql(database_url, "UPDATE telemetry.batches SET created_at = now() - interval '10 days'")
    await hands.drain()
    await reconcile(hands.core, hands.clickhouse)
    run_sql(database_url, "DELETE FROM telemetry.batches WHERE producer = 'gone'")
    for _ in range(2):
        await acme.admin.telemetry.ReconcileTelemetry()
        await reconcile(hands.core, hands.clickhouse)
        assert await ledger(acme.admin) == {"gone": (30, 30, 0, 30), "late": (20, 20, 0, 20)}


async def test_nothing_is_verified_beyond_what_is_complete(
    world: World, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that is an hour late does not have what was found in the store a moment ago."""
    acme = await world.organisation("acme")
    await record(acme.admin, in_columns(some_events(5)))
    await hands.drain()
    await reconcile(hands.core, hands.clickhouse)

    async def an_hour(*_: Any) -> float:
        return 3600.0

    monkeypatch.setattr(Analytics, "replica_delay_s", an_hour)
    freshness = (await acme.admin.telemetry.QuerySeries(**within())).freshness
    assert freshness.verified_to == freshness.complete_to
    complete_to = freshness.complete_to.ToDatetime(tzinfo=UTC)
    assert complete_to < datetime.now(UTC) - timedelta(minutes=59)


async def test_numbers_of_transactions_are_compared_as_numbers(
    world: World, hands: Hands, database_url: str
) -> None:
    """99 is before 100: while it waits, what was stored under 100 does not take the ledger past it."""
    acme = await world.organisation("acme")
    for producer, xid in (("early", 99), ("late", 100)):
        await record(acme.admin, in_columns(some_events(xid, xid), producer=producer))
        own = f"WHERE producer = '{producer}'"
        run_sql(database_url, f"UPDATE telemetry.batches SET xid = '{xid}' {own}")  # noqa: S608
    early = "UPDATE telemetry.batches SET state = '{}' WHERE producer = 'early'"
    run_sql(database_url, early.format("dead"))
    await hands.drain()
    run_sql(database_url, early.format("waiting"))
    assert (await reconcile(hands.core, hands.clickhouse)).compared == 0
    await hands.drain()
    assert (await reconcile(hands.core, hands.clickhouse)).compared == 2
