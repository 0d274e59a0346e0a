"""From the buffer into the column store: complete, once, and past what is broken."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from chimera.clickhouse import ClickHouse
from chimera.core import Core
from chimera.faults import Unavailable
from chimera.ids import new_id
from chimera.settings import Settings
from chimera.telemetry.backlog import LOOK
from chimera.telemetry.drain import TRIES_MAX, drain, upkeep
from chimera.telemetry.events import Event, execution_events
from chimera.telemetry.frozen import uuids
from chimera.telemetry.operations import accept
from tests.integration.telemetry.buffer import (
    Producer,
    ask,
    open_worker,
    recount,
    rolled_up,
    run_sql,
    some_executions,
    stored_events,
)

BATCHES = "SELECT state, tries, last_error, events FROM telemetry.batches ORDER BY batch_id"


@pytest.fixture
async def worker(settings: Settings, clickhouse_url: str) -> AsyncIterator[tuple[Core, ClickHouse]]:
    async with open_worker(settings, clickhouse_url) as opened:
        yield opened


async def test_the_roll_up_equals_a_plain_recount(
    worker: tuple[Core, ClickHouse], clickhouse_url: str
) -> None:
    """Two organisations, several drains, several hours, every state of an execution."""
    core, clickhouse = worker
    producers = [Producer(core), Producer(core), Producer(core)]
    stored = 0
    for _ in range(3):
        for producer in producers:
            await producer.flush(64)
        stored += await drain(core, clickhouse)

    assert stored == 3 * 3 * 64
    assert rolled_up(clickhouse_url) == recount(producers)
    for producer in producers:
        status = await producer.status()
        assert (status.accepted, status.stored, status.waiting) == (192, 192, 0)
        assert not status.HasField("oldest_waiting_at")


async def test_what_was_rolled_back_was_never_accepted(
    worker: tuple[Core, ClickHouse], clickhouse_url: str
) -> None:
    core, clickhouse = worker
    producer = Producer(core)
    with pytest.raises(RuntimeError):
        async with core.db.begin(producer.call()) as tx:
            events = execution_events(producer.run, some_executions(0, 4))
            await accept(tx, "engine", producer.org_id, events)
            raise RuntimeError("the producer fails after all")

    assert await drain(core, clickhouse) == 0
    assert (await producer.status()).accepted == 0


async def test_a_broken_batch_dies_alone(
    worker: tuple[Core, ClickHouse], clickhouse_url: str, database_url: str
) -> None:
    """One batch of ten cannot be read: the nine are stored at once, it is dead after three tries."""
    core, clickhouse = worker
    producer = Producer(core)
    for _ in range(10):
        await producer.flush(8)
    run_sql(
        database_url,
        """UPDATE telemetry.batches SET body = '\\xdeadbeef'
            WHERE batch_id = (SELECT batch_id FROM telemetry.batches ORDER BY batch_id OFFSET 4 LIMIT 1)""",
    )

    assert await drain(core, clickhouse) == 72
    status = await producer.status()
    assert (status.stored, status.dead_lettered, status.waiting) == (72, 0, 8)
    for _ in range(TRIES_MAX):
        await drain(core, clickhouse)

    status = await producer.status()
    assert (status.accepted, status.stored, status.dead_lettered, status.waiting) == (80, 72, 8, 0)
    dead = [row for row in run_sql(database_url, BATCHES) if row[0] == "dead"]
    assert len(dead) == 1
    assert dead[0][1] == TRIES_MAX
    assert "not those that were accepted" in dead[0][2]
    assert stored_events(clickhouse_url) == (72, 72)


async def test_a_batch_that_the_store_refuses_is_found_by_halving(
    worker: tuple[Core, ClickHouse], clickhouse_url: str, database_url: str
) -> None:
    """The store itself says no to one event; only its batch dies and nothing is stored twice."""
    core, clickhouse = worker
    ask(
        clickhouse_url,
        "ALTER TABLE workload_events ADD CONSTRAINT known CHECK event_type != 'unheard.of'",
    )
    producer = Producer(core)
    for _ in range(6):
        await producer.flush(8)
    odd = Event(str(uuid4()), "unheard.of", "test", 1_700_000_000_000, "somewhere")
    await producer.offer([odd])
    for _ in range(6):
        await producer.flush(8)

    stored = sum([await drain(core, clickhouse) for _ in range(TRIES_MAX + 1)])

    assert stored == 96
    status = await producer.status()
    assert (status.accepted, status.stored, status.dead_lettered, status.waiting) == (97, 96, 1, 0)
    dead = [row for row in run_sql(database_url, BATCHES) if row[0] == "dead"]
    assert [(row[1], row[3]) for row in dead] == [(TRIES_MAX, 1)]
    assert "known" in dead[0][2]
    assert stored_events(clickhouse_url) == (96, 96)
    assert rolled_up(clickhouse_url) == recount([producer])


async def test_an_error_that_is_not_about_the_data_keeps_the_group(
    worker: tuple[Core, ClickHouse], clickhouse_url: str
) -> None:
    """The table is missing: nothing dies of it, and its return stores everything."""
    core, clickhouse = worker
    producer = Producer(core)
    await producer.flush(8)
    ask(clickhouse_url, "RENAME TABLE workload_events TO aside")
    pauses = []
    for _ in range(TRIES_MAX + 2):
        with pytest.raises(Unavailable) as caught:
            await drain(core, clickhouse)
        pauses.append(caught.value.retry_after_s or 0)
    assert pauses == sorted(set(pauses)), "each failure in a row asks for a longer pause"

    ask(clickhouse_url, "RENAME TABLE aside TO workload_events")
    assert await drain(core, clickhouse) == 8


async def test_a_group_that_fails_by_itself_holds_up_nobody(
    worker: tuple[Core, ClickHouse], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store cannot take the events of one organisation: those of others are stored in the same pass.
    It is tried again when its time has come, after all others, and makes nobody else's backlog old."""
    core, clickhouse = worker
    acme, rival = Producer(core), Producer(core)
    insert, tried, is_mended = clickhouse.insert, [], False

    async def failing(table: Any, blocks: Any, token: str) -> None:
        if uuids([acme.org_id]) in blocks[0].data[0]:
            tried.append(token)
            if not is_mended:
                raise Unavailable("DEPENDENCY_UNAVAILABLE", "out of memory")
        await insert(table, blocks, token)

    monkeypatch.setattr(clickhouse, "insert", failing)
    await acme.flush(8)
    with pytest.raises(Unavailable):
        await drain(core, clickhouse)
    for _ in range(2):
        await rival.flush(8)
        assert await drain(core, clickhouse) == 8
    assert len(tried) == 2, "at its turn in the first of them only"
    assert len(set(tried)) == 1
    async with core.db.begin(rival.call()) as tx:
        assert (await tx.one(LOOK)).oldest_at is None
    async with core.db.begin(acme.call()) as tx:
        assert (await tx.one(LOOK)).oldest_at is not None
    failed = run_sql(
        database_url,
        "SELECT group_failures, last_error FROM telemetry.batches WHERE state = 'waiting'",
    )
    assert failed == [(1, "out of memory")]

    is_mended = True
    run_sql(
        database_url,
        "UPDATE telemetry.batches SET group_failed_at = now() - interval '1 h' WHERE state = 'waiting'",
    )
    assert await drain(core, clickhouse) == 8
    assert (await acme.status()).stored == 8


async def test_a_group_is_no_larger_than_what_its_batches_unpack_to(
    worker: tuple[Core, ClickHouse], clickhouse_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Payloads that pack well are a few bytes in the buffer; in memory they are what they are. One pass
    takes all the same as many groups as it needs."""
    core, clickhouse = worker
    producer = Producer(core)
    monkeypatch.setattr("chimera.telemetry.drain.BYTES_MAX", 30_000)
    sent: list[int] = []
    insert = clickhouse.insert

    async def noting(table: Any, blocks: Any, token: str) -> None:
        sent.append(len(blocks))
        await insert(table, blocks, token)

    monkeypatch.setattr(clickhouse, "insert", noting)
    for _ in range(7):
        event = Event(str(uuid4()), "x", "test", int(time.time() * 1000), "w", payload="ab" * 5_000)
        await producer.offer([event])
    assert await drain(core, clickhouse) == 7
    assert sent == [3, 3, 1]
    assert stored_events(clickhouse_url) == (7, 7)


async def test_without_a_column_store_events_wait(settings: Settings) -> None:
    async with open_worker(settings, "") as (core, clickhouse):
        producer = Producer(core)
        await producer.flush(8)
        assert await drain(core, clickhouse) == 0
        status = await producer.status()
        assert (status.accepted, status.waiting) == (8, 8)


async def test_the_ledger_is_kept_as_long_as_the_roll_ups(
    worker: tuple[Core, ClickHouse], database_url: str
) -> None:
    core, _ = worker
    days = "SELECT current_date - day FROM telemetry.reconciliations"
    run_sql(
        database_url,
        "INSERT INTO telemetry.reconciliations (org_id, day, producer, accepted, stored, dead, found)"
        " SELECT %s::uuid, current_date - age, 'p', 1, 1, 0, 1 FROM unnest(%s::int[]) AS age",
        str(uuid4()),
        [1, 360, 370],
    )
    await upkeep(core)
    assert sorted(run_sql(database_url, days)) == [(1,), (360,)]


async def test_upkeep_drops_old_partitions_of_which_everything_was_found(
    worker: tuple[Core, ClickHouse], database_url: str
) -> None:
    """Of those past their time, those stay in which a batch waits, was not compared, or differs."""
    core, _ = worker
    producer = Producer(core)
    await producer.flush(8)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    add_partition(database_url, "batches_old_done", today - timedelta(days=20), "stored")
    add_partition(database_url, "batches_old_open", today - timedelta(days=19), "waiting")
    add_partition(database_url, "batches_old_unseen", today - timedelta(days=18), "stored")
    add_partition(database_url, "batches_old_wrong", today - timedelta(days=17), "stored")
    add_partition(database_url, "batches_young", today - timedelta(days=3), "stored")
    compared = """INSERT INTO telemetry.verified (org_id, xid, batch_id) SELECT org_id, xid, batch_id
                    FROM telemetry.{}"""
    differs = """INSERT INTO telemetry.differing (batch_id, org_id, created_at, found, is_missing, is_surplus)
                 SELECT batch_id, org_id, created_at, 0, true, false FROM telemetry.batches_old_wrong"""
    for name in ("batches_old_done", "batches_old_wrong"):
        run_sql(database_url, compared.format(name))
    run_sql(database_url, differs)
    # Two that found no partition are of an organisation of which nothing, and of one of which all was compared.
    seen = run_sql(database_url, "SELECT org_id FROM telemetry.batches_old_done")[0][0]
    run_sql(
        database_url, "UPDATE telemetry.verified SET xid = '9000000000' WHERE org_id = %s", seen
    )
    for org_id in (str(uuid4()), str(seen)):
        add_batch(database_url, today - timedelta(days=30), "stored", org_id)

    assert await upkeep(core) == 1

    left = run_sql(
        database_url,
        """SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'telemetry.batches'::regclass AND relname ~ 'old|young' ORDER BY 1""",
    )
    assert [row[0] for row in left] == [
        "batches_old_open",
        "batches_old_unseen",
        "batches_old_wrong",
        "batches_young",
    ]
    in_default = "SELECT org_id = %s FROM telemetry.batches_default WHERE state = 'stored'"
    assert run_sql(database_url, in_default, seen) == [(False,)]
    assert (await producer.status()).waiting == 8


def add_partition(database_url: str, name: str, day: datetime, state: str) -> None:
    run_sql(
        database_url,
        f"CREATE TABLE telemetry.{name} PARTITION OF telemetry.batches FOR VALUES"
        f" FROM ('{floor(day)}') TO ('{floor(day + timedelta(days=1))}')",
    )
    run_sql(database_url, f"ALTER TABLE telemetry.{name} OWNER TO chimera_owner")
    add_batch(database_url, day, state, str(uuid4()))


def add_batch(database_url: str, day: datetime, state: str, org_id: str) -> None:
    values: tuple[Any, ...] = (new_id(day + timedelta(hours=1)), org_id, state)
    run_sql(
        database_url,
        """INSERT INTO telemetry.batches (batch_id, org_id, producer, body, events, state)
           VALUES (%s, %s, 'engine', '\\x00', 1, %s)""",
        *values,
    )


def floor(day: datetime) -> str:
    return f"{int(day.timestamp() * 1000):012x}".ljust(32, "0")
