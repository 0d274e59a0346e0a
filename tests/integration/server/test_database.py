"""Transactions as the caller: whose rows are seen, what may be written, and what a pool answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from psycopg.errors import ReadOnlySqlTransaction

from chimera.call import ANONYMOUS, Call, Caller
from chimera.core import open_database
from chimera.db import Database, Nothing, sql
from chimera.faults import Exhausted, TimedOut
from chimera.ids import new_id
from chimera.settings import Settings
from tests.support.processes import eventually
from tests.support.world import World

COUNT = sql(int, "SELECT count(*) FROM identity.memberships")
WHO = sql(str, "SELECT current_setting('app.org_id', true)")
SLEEP = sql(Nothing, "SELECT pg_sleep(%(seconds)s)")
ADD = sql(
    Nothing,
    "INSERT INTO ops.outbox (id, org_id, task) VALUES (%(id)s, %(org_id)s, 'nothing')",
)


def call_of(org_id: str, *, seconds: float = 20) -> Call:
    caller = Caller("user", org_id=org_id, user_id=new_id(), role="admin") if org_id else ANONYMOUS
    return Call(caller, "/test", time.monotonic() + seconds)


@pytest.fixture
async def db(settings: Settings) -> AsyncIterator[Database]:
    """One connection of the application, so that callers follow each other on it."""
    small = settings.model_copy(update={"pool_size_max": 1, "pool_timeout_s": 0.5})
    database = open_database(small, "app")
    await database.open()
    yield database
    await database.close()


@pytest.mark.parametrize("way", ["begin", "look"])
async def test_a_caller_sees_its_own_rows_and_leaves_nothing_behind(
    world: World, db: Database, way: str
) -> None:
    """Two organisations and nobody take turns on one connection, often enough for the statement to
    be prepared; each sees its own, nobody nothing."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    await acme.person("olivia")
    wanted = {acme.id: 2, globex.id: 1, "": 0}
    for _ in range(6):
        for org_id, count in wanted.items():
            async with getattr(db, way)(call_of(org_id)) as tx:
                assert await tx.one(COUNT) == count
                assert await tx.one(WHO) == org_id
    async with db.pool.connection() as connection:
        cursor = await connection.execute("SELECT current_setting('app.org_id', true)")
        assert await cursor.fetchone() in ((None,), ("",))


async def test_looking_changes_nothing(world: World, db: Database) -> None:
    """A statement that writes is refused, even one the role may run; and the connection goes on."""
    acme = await world.organisation("acme")
    with pytest.raises(ReadOnlySqlTransaction):
        async with db.look(call_of(acme.id)) as tx:
            await tx.run(ADD, id=new_id(), org_id=acme.id)
    async with db.begin(call_of(acme.id)) as tx:
        assert await tx.run(ADD, id=new_id(), org_id=acme.id) == 1
    assert db.in_use == 0


@pytest.mark.parametrize("way", ["begin", "look"])
async def test_time_runs_out_inside_the_database(db: Database, way: str) -> None:
    """The remaining time of the call is the statement's limit; the next caller has its own."""
    with pytest.raises(TimedOut):
        async with getattr(db, way)(call_of(new_id(), seconds=0.2)) as tx:
            await tx.run(SLEEP, seconds=30)
    async with getattr(db, way)(call_of(new_id())) as tx:
        await tx.run(SLEEP, seconds=0.3)


@pytest.mark.parametrize("way", ["begin", "look"])
async def test_whoever_gives_up_hands_the_connection_back(db: Database, way: str) -> None:
    """Cancelled in the middle of a statement, again and again."""

    async def slow() -> None:
        async with getattr(db, way)(call_of(new_id())) as tx:
            started.set()
            await tx.run(SLEEP, seconds=30)

    for _ in range(3):
        started = asyncio.Event()
        task = asyncio.create_task(slow())
        await started.wait()
        await asyncio.sleep(0.01)  # into the statement; harmless if not
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with getattr(db, way)(call_of("")) as tx:
        assert await tx.one(COUNT) == 0
    assert db.in_use == 0


async def test_a_look_given_up_at_any_moment_leaves_a_sound_connection(db: Database) -> None:
    """Its statements travel in a pipeline; whoever comes next on the connection is not in it."""

    async def looks() -> None:
        async with db.look(call_of(new_id())) as tx:
            await tx.one(COUNT)

    for cancels in (1, 2):
        for ticks in range(25):
            task = asyncio.create_task(looks())
            for _ in range(ticks):
                await asyncio.sleep(0)
            for _ in range(cancels):
                task.cancel()
                await asyncio.sleep(0)
            await asyncio.gather(task, return_exceptions=True)
            async with db.begin(call_of("")) as tx:
                assert await tx.one(COUNT) == 0, f"cancelled {ticks} ticks on"
    assert db.in_use == 0


async def test_no_moment_swallows_a_cancellation(db: Database) -> None:
    """Whoever is cancelled while a connection is handed over does not go on as if nothing was."""

    async def waits() -> None:
        async with db.begin(call_of("")):
            await asyncio.Event().wait()

    for ticks in range(40):
        held = await db.pool.getconn()
        waiter = asyncio.create_task(waits())
        await eventually(lambda: db.pool.get_stats()["requests_waiting"])
        given_back = asyncio.create_task(db.pool.putconn(held))
        for _ in range(ticks):
            await asyncio.sleep(0)
        waiter.cancel()
        done, _ = await asyncio.wait({waiter}, timeout=10)
        assert done and waiter.cancelled(), f"cancelled {ticks} ticks on, it went on"
        await given_back
    assert db.in_use == 0


async def test_a_full_pool_says_that_it_is_full(db: Database) -> None:
    """As something to try again, and apart from a database that is away."""
    async with db.begin(call_of(new_id())):
        with pytest.raises(Exhausted) as caught:
            async with db.begin(call_of(new_id())):
                pass
    assert caught.value.reason == "SERVER_BUSY" and caught.value.retry_after_s
