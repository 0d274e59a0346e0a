"""Transactions as the caller: whose rows are seen, what may be written, and what a pool answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.errors import ReadOnlySqlTransaction, UniqueViolation
from psycopg.types.json import Jsonb

from chimera import roundtrip
from chimera.audit.leaf import decode_leaf
from chimera.audit.recording import record
from chimera.call import ANONYMOUS, Call, Caller
from chimera.core import open_database
from chimera.db import Nothing, Statement, Tx, sql
from chimera.faults import Exhausted, TimedOut, Unavailable
from chimera.ids import new_id
from chimera.pools import Database
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


# Not by sql(): the guard would prepare them, and their table is made here.
READ_CHANGING = Statement(str, "SELECT word FROM changing", prepare=True, where=__name__)
KINDS = Statement(
    dict,
    """
    SELECT %(text)s::text AS text, %(nothing)s::text AS nothing, %(texts)b::text[] AS texts,
           %(number)s::bigint + 1 AS number, %(money)s::numeric AS money, %(raw)s::bytea AS raw,
           %(moment)s::timestamptz AS moment, %(id)s::uuid AS id, %(said)s::jsonb AS said,
           %(text)s::text || '%%' AS twice
    """,
    prepare=True,
    where=__name__,
)


async def test_looks_outlive_a_change_of_the_table(
    world: World, db: Database, database_url: str
) -> None:
    """A plan that is kept does not fit the table any more: it is planned anew, and nobody notices."""
    call = call_of((await world.organisation("acme")).id)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE changing (word varchar(8)); INSERT INTO changing VALUES ('a')"
        )
        connection.execute("GRANT SELECT ON changing TO chimera_app")
        async with db.look(call) as tx:
            assert await tx.one(READ_CHANGING) == "a"
        connection.execute("ALTER TABLE changing ALTER word TYPE text")
    async with db.look(call) as tx:
        assert await tx.one(READ_CHANGING) == "a"


async def test_looks_outlive_a_rollback(world: World, db: Database) -> None:
    """What is prepared on a connection stays so, or is prepared anew."""
    call = call_of((await world.organisation("acme")).id)
    async with db.look(call) as tx:
        assert await tx.one(WHO) == call.caller.org_id
    with pytest.raises(ZeroDivisionError):
        async with db.begin(call) as tx:
            for _ in range(9):  # often enough to be prepared: else there is nothing to discard
                await tx.one(WHO)
            raise ZeroDivisionError
    async with db.begin(call) as tx:
        await tx.one(WHO)
    async with db.look(call) as tx:
        assert await tx.one(WHO) == call.caller.org_id


async def test_a_look_whose_connection_is_cut(
    world: World, db: Database, database_url: str
) -> None:
    """The database ends the session in the middle: it is unavailable for once, and not for ever."""
    call = call_of((await world.organisation("acme")).id)
    with pytest.raises(Unavailable):
        async with db.look(call) as tx:
            pid = tx.connection.info.backend_pid
            sleeping = asyncio.create_task(tx.run(SLEEP, seconds=15))
            with psycopg.connect(database_url, autocommit=True) as connection:

                async def asleep() -> bool:
                    row = connection.execute(
                        "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s", [pid]
                    ).fetchone()
                    return bool(row and row[0])

                await eventually(asleep)
                connection.execute("SELECT pg_terminate_backend(%s)", [pid])
            await sleeping
    async with db.look(call) as tx:
        assert await tx.one(WHO) == call.caller.org_id
    assert db.in_use == 0


async def test_a_look_reads_what_a_transaction_reads(world: World, db: Database) -> None:
    """Every kind of parameter and column, the same both ways, the first time and later."""
    call = call_of((await world.organisation("acme")).id)
    given: dict[str, Any] = {
        "text": "per cent % and 'quotes'",
        "nothing": None,
        "texts": ["a", 'b "c"', ""],
        "number": 2**40,
        "money": Decimal("0.000000000001"),
        "raw": b"\x00\xff",
        "moment": datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        "id": new_id(),
        "said": Jsonb({"a": [1, None]}),
    }
    async with db.begin(call) as tx:
        wanted = await tx.one(KINDS, **given)
    assert wanted is not None and wanted["twice"] == given["text"] + "%"
    for number in (1, 2**40, 2):
        async with db.look(call) as tx:
            found = await tx.one(KINDS, **{**given, "number": number})
        assert found == {**wanted, "number": number + 1}


# Counts what is there when it begins.
ADD_LAST = Statement(
    int,
    """
    WITH added AS (
        INSERT INTO ops.outbox (id, org_id, task) VALUES (%(id)s, %(org_id)s, 'nothing')
    )
    SELECT count(*) FROM identity.memberships
    """,
    prepare=True,
    where=__name__,
)


async def test_a_last_statement_is_committed_with_what_was_recorded(
    world: World, db: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one message. Refused, or left at whatever moment, it is there with its event or neither is,
    and the connection goes on to write the audit log without a hole."""
    call = call_of((await world.organisation("acme")).id)
    messages: list[int] = []

    async def counted(connection: Any, statements: Any, **how: Any) -> Any:
        messages.append(len(statements))
        return await roundtrip.round_trip(connection, statements, **how)

    monkeypatch.setattr("chimera.db.round_trip", counted)

    async def adds(added_id: str, then: Callable[[Tx], Awaitable[Any]] | None = None) -> int | None:
        async with db.begin(call) as tx:
            record(tx, "outbox.add", "task", added_id)
            found = await tx.last(ADD_LAST, id=added_id, org_id=call.caller.org_id)
            if then is not None:
                await then(tx)
            return found

    first = new_id()
    assert await adds(first) == 1 and len(messages) == 1
    with pytest.raises(UniqueViolation):
        await adds(first)

    async def records(tx: Tx) -> None:
        record(tx, "outbox.add", "task", new_id())

    async def adds_one_more(tx: Tx) -> None:
        tx.at_commit(ADD_LAST, id=new_id(), org_id=call.caller.org_id)

    for goes_on in (lambda tx: tx.one(COUNT), records, adds_one_more):
        with pytest.raises(AssertionError, match="after its last statement"):
            await adds(new_id(), goes_on)
    for ticks in range(25):
        task = asyncio.create_task(adds(new_id()))
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await adds(new_id()) == 1 and db.in_use == 0

    with psycopg.connect(database_url) as connection:
        added = connection.execute("SELECT id::text FROM ops.outbox WHERE task = 'nothing'")
        ids = {row[0] for row in added.fetchall()}
        events = [
            decode_leaf(row[0]) for row in connection.execute("SELECT leaf FROM audit.pending")
        ]
        counters = connection.execute("SELECT writer_id::text, seq FROM audit.writers").fetchall()
    mine = [event for event in events if event.action == "outbox.add"]
    assert {event.entity_id for event in mine} == ids and len(ids) == len(mine) >= 4
    writer_id = mine[0].writer_id
    assert sorted(event.writer_seq for event in mine) == list(range(1, len(mine) + 1))
    assert dict(counters)[writer_id] == len(mine)


async def test_looks_prepare_a_bounded_number(
    world: World, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more statements than are kept, the one that was not used for longest goes."""
    monkeypatch.setattr(roundtrip, "PREPARED_MAX", 5)
    call = call_of((await world.organisation("acme")).id)
    prepared = Statement(
        int,
        "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'here%%'",
        prepare=False,
        where=__name__,
    )
    several = [
        Statement(int, f"SELECT {number}", prepare=True, where=__name__) for number in range(9)
    ]
    for _ in range(2):
        for number, statement in enumerate(several):
            async with db.look(call) as tx:
                assert await tx.one(statement) == number
                assert await tx.one(several[0]) == 0
    async with db.look(call) as tx:
        assert await tx.one(prepared) == 5


async def test_a_full_pool_says_that_it_is_full(db: Database) -> None:
    """As something to try again, and apart from a database that is away."""
    async with db.begin(call_of(new_id())):
        with pytest.raises(Exhausted) as caught:
            async with db.begin(call_of(new_id())):
                pass
    assert caught.value.reason == "SERVER_BUSY" and caught.value.retry_after_s
