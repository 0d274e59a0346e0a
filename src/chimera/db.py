"""PostgreSQL: statements, and pools that hand out transactions, never bare connections.

`Database.begin(call)` is the only way to the data. It sets the caller (organisation, user) and the
remaining time for this transaction, so that row-level security and timeouts hold; answers a
repeated request from the stored answer; writes the audit events that were recorded; and commits,
shielded from cancellation. `grep 'db.begin('` lists every commit of the product.
"""

from __future__ import annotations

import asyncio
import re
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Generic, LiteralString, TypeVar

import orjson
import psycopg
from psycopg import AsyncConnection, errors
from psycopg.adapt import PyFormat
from psycopg.pq import TransactionStatus
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg.types.string import TextLoader
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from chimera.call import NOBODY, Call
from chimera.faults import AlreadyExists, Conflict, Exhausted, Fault, Invalid, TimedOut, Unavailable
from chimera.ids import new_id
from chimera.roundtrip import Asked, round_trip
from chimera.rows import row_maker

set_json_loads(orjson.loads)
set_json_dumps(orjson.dumps)

Row = TypeVar("Row")
Message = TypeVar("Message")
_PARAMETER = re.compile(r"(?<!%)%\((\w+)\)([sb])")
_FORMATS = {"s": PyFormat.AUTO, "b": PyFormat.BINARY}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


class Nothing:
    """Row type of statements whose rows nobody reads."""


class Statement(Generic[Row]):
    """SQL with named parameters and the type of its rows. `%(name)b` sends a parameter in binary,
    which spares lists of texts the escaping of every quote in them.

    prepare=False keeps the planner on custom plans: needed where filters are optional
    (`%(x)s IS NULL OR ...`), which a generic plan answers a thousand times slower.
    """

    __slots__ = ("formats", "make", "names", "native", "order", "prepare", "row", "text", "where")

    def __init__(self, row: type[Row], text: LiteralString, *, prepare: bool, where: str) -> None:
        self.row = row
        self.text = text
        # As PostgreSQL wants it: $1, $2 ... for the parameters in `order`.
        form = {name: letter for name, letter in _PARAMETER.findall(text)}
        self.names = frozenset(form)
        self.order = sorted(form)
        self.formats = [_FORMATS[form[name]] for name in self.order]
        places = {name: f"${place}" for place, name in enumerate(self.order, 1)}
        native = _PARAMETER.sub(lambda found: places[found[1]], text)
        self.native = native.replace("%%", "%").encode()
        self.prepare = prepare
        self.make = row_maker(row)
        self.where = where

    def check(self, params: dict[str, Any]) -> None:
        if self.names != params.keys():
            raise TypeError(
                f"{self.where}: given {sorted(params)}, statement names {sorted(self.names)}"
            )


STATEMENTS: list[Statement[Any]] = []


def sql(row: type[Row], text: LiteralString, *, prepare: bool = True) -> Statement[Row]:
    """Registers a statement; a test PREPAREs all of them against the migrated schema."""
    import sys

    where = sys._getframe(1).f_globals.get("__name__", "?")
    statement = Statement(row, text, prepare=prepare, where=where)
    STATEMENTS.append(statement)
    return statement


class Replay(Exception):
    """Raised by `begin` when a request_id was answered before; carries that answer."""

    def __init__(self, answer: Any) -> None:
        super().__init__("answered before")
        self.answer = answer


class Tx:
    """One open transaction on behalf of a caller."""

    def __init__(self, connection: AsyncConnection[Any], call: Call) -> None:
        self.connection = connection
        self.call = call
        self.audit_events: list[Any] = []
        self.doorbells = False
        self.is_committed = False
        self._answer: Any = None
        # Unlocks on the way out: ran after COMMIT only.
        self.after_commit: list[Callable[[], None]] = []
        self.reach = call.caller.reach
        self.run_ids: list[str] = []

    async def name_run(self, run_id: str) -> None:
        """Names a run whose rows the following statements read, once or with others. Its policies
        are then asked once a statement instead of row by row; what they allow is the same."""
        if run_id not in self.run_ids:
            self.run_ids.append(run_id)
            await self._tell_policies()

    async def see_all_campaigns(self) -> None:
        """For the rest of it, the whole organisation's campaigns are in view, whoever may see them:
        to count its books and to find a person's own. What is in them is not told to anybody."""
        if self.reach != "all":
            self.reach = "all"
            await self._tell_policies()

    async def _tell_policies(self) -> None:
        await self.run(TELL_POLICIES, reach=self.reach, run_ids=_array(self.run_ids))

    async def _execute(
        self, statement: Statement[Row], params: dict[str, Any], make: Any = None
    ) -> Any:
        statement.check(params)
        cursor = self.connection.cursor(row_factory=make or statement.make)
        # None lets psycopg prepare after a few uses.
        await cursor.execute(statement.text, params, prepare=None if statement.prepare else False)
        return cursor

    async def one(self, statement: Statement[Row], **params: Any) -> Row | None:
        """The first row, or None."""
        cursor = await self._execute(statement, params)
        row: Row | None = await cursor.fetchone()
        return row

    async def all(self, statement: Statement[Row], **params: Any) -> list[Row]:
        cursor = await self._execute(statement, params)
        rows: list[Row] = await cursor.fetchall()
        return rows

    async def fill(self, field: Any, statement: Statement[Row], **params: Any) -> None:
        """Appends the rows to a repeated field of an answer, where they are made: protobuf copies
        a message into another by encoding and decoding it."""

        def make(cursor: Any) -> Any:
            maker: Any = statement.make(cursor)
            return partial(maker, new=field.add)

        cursor = await self._execute(statement, params, make)
        await cursor.fetchall()

    async def run(self, statement: Statement[Any], **params: Any) -> int:
        """Runs a command; how many rows it touched."""
        cursor = await self._execute(statement, params)
        count: int = cursor.rowcount
        return count

    def answer(self, message: Message, *, keep: Any = None) -> Message:
        """Names the answer that a repetition of this request gets; `keep` replaces it there
        when the answer holds a secret."""
        self._answer = message if keep is None else keep
        return message


class Look(Tx):
    """What `Database.look` hands out."""

    async def _tell_policies(self) -> None:
        """Each statement tells them anew."""

    async def _execute(
        self, statement: Statement[Row], params: dict[str, Any], make: Any = None
    ) -> Any:
        statement.check(params)
        asked = Asked(
            statement.native,
            [params[name] for name in statement.order],
            statement.formats,
            statement.prepare,
        )
        setting = Asked(SET_CALLER, _caller_settings(self), SET_CALLER_FORMATS)
        return await round_trip(self.connection, [setting, asked], make or statement.make)


CLAIM_REQUEST = sql(
    Nothing,
    """
    INSERT INTO ops.idempotency (org_id, principal_id, method, request_id, body_hash)
    VALUES (%(org_id)s, %(principal_id)s, %(method)s, %(request_id)s, %(body_hash)s)
    ON CONFLICT DO NOTHING
    """,
)

FIND_ANSWER = sql(
    dict,
    """
    SELECT body_hash = %(body_hash)s AS same, answer
      FROM ops.idempotency
     WHERE org_id = %(org_id)s AND principal_id = %(principal_id)s AND method = %(method)s
       AND request_id = %(request_id)s
    """,
)

KEEP_ANSWER = sql(
    Nothing,
    """
    UPDATE ops.idempotency SET answer = %(answer)s
     WHERE org_id = %(org_id)s AND principal_id = %(principal_id)s AND method = %(method)s
       AND request_id = %(request_id)s
    """,
)

TELL_POLICIES = sql(
    Nothing,
    """
    SELECT set_config('app.reach', %(reach)s, true), set_config('app.run_ids', %(run_ids)s, true)
    """,
)

FlushAudit = Callable[[Tx], Awaitable[None]]


async def _claim_request(tx: Tx) -> None:
    call = tx.call
    key = _request_key(call)
    try:
        if await tx.run(CLAIM_REQUEST, **key, body_hash=call.body_hash):
            return
    except errors.LockNotAvailable:
        raise Conflict(
            "CONFLICT_TRY_AGAIN",
            "The same request_id is being worked on right now; try again shortly.",
            retry_after_s=1.0,
        ) from None
    found = await tx.one(FIND_ANSWER, **key, body_hash=call.body_hash)
    if found is None or found["answer"] is None or call.answer_type is None:
        raise Conflict(
            "CONFLICT_TRY_AGAIN", "The request is being finished; try again.", retry_after_s=1.0
        )
    if not found["same"]:
        raise AlreadyExists(
            "REQUEST_ID_REUSED", "This request_id was used before with another request body."
        )
    raise Replay(call.answer_type.FromString(found["answer"]))


def _request_key(call: Call) -> dict[str, str]:
    caller = call.caller
    return {
        "org_id": caller.org_id or NOBODY,
        "principal_id": caller.api_key_id or caller.user_id or NOBODY,
        "method": call.method,
        "request_id": call.request_id,
    }


async def settled(work: Coroutine[Any, Any, Row]) -> Row:
    """Awaits `work` to its end even when the waiting task is cancelled meanwhile; then cancels.

    A COMMIT that was cut off leaves nobody knowing whether it happened, and a connection that was
    not given back is gone. What never has to wait cannot be cut off and needs no task: giving a
    connection back is like that, once for every call.
    """
    try:
        waits_for = work.send(None)
    except StopIteration as ended:
        done: Row = ended.value
        return done
    task = asyncio.create_task(_rest(work, waits_for))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:
            break
    if cancelled is not None:
        task.exception()  # seen, so that it is not reported as never retrieved
        raise cancelled
    return task.result()


async def _rest(work: Coroutine[Any, Any, Row], waits_for: Any) -> Row:
    return await _resumed(work, waits_for)


@types.coroutine
def _resumed(work: Coroutine[Any, Any, Row], waits_for: Any) -> Generator[Any, Any, Row]:
    """The rest of a coroutine that has come as far as waiting for something."""
    while True:
        try:
            value = yield waits_for
        except BaseException as error:
            step = partial(work.throw, error)
        else:
            step = partial(work.send, value)
        try:
            waits_for = step()
        except StopIteration as ended:
            done: Row = ended.value
            return done


class Database:
    """A pool of one database role."""

    def __init__(
        self,
        url: str,
        *,
        size_min: int = 1,
        size_max: int = 10,
        waiting_max: int = 200,
        timeout_s: float = 2.0,
        flush_audit: FlushAudit | None = None,
    ) -> None:
        self.pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
            url,
            min_size=size_min,
            max_size=size_max,
            max_waiting=waiting_max,
            timeout=timeout_s,
            max_lifetime=1800,
            open=False,
            configure=self._configure,
            kwargs={"autocommit": True, "prepare_threshold": 3},
        )
        self.flush_audit = flush_audit
        self.in_use = 0
        # Called with the organisation after each commit that left work in the outbox.
        self.ring: Callable[[str], None] = lambda _org_id: None

    @staticmethod
    async def _configure(connection: AsyncConnection[Any]) -> None:
        # UUIDs are text everywhere in the product; objects would be made only to be printed again.
        connection.adapters.register_loader("uuid", TextLoader)
        # The audit log's writer: one counter a connection (see audit/recording.py).
        connection.writer_id = new_id()  # type: ignore[attr-defined]  # our own attribute
        connection.writer_seq = 0  # type: ignore[attr-defined]  # our own attribute
        connection.prepared_here = {}  # type: ignore[attr-defined]  # of roundtrip.py

    async def open(self, *, wait: bool = True) -> None:
        """Connects; without `wait` beside whatever comes next, again and again until it succeeds."""
        await self.pool.open(wait=wait, timeout=30)

    async def close(self) -> None:
        await self.pool.close()

    @asynccontextmanager
    async def begin(self, call: Call) -> AsyncIterator[Tx]:
        """A transaction as the caller; commits at the end, rolls back on any error.

        Raises Replay (the gate answers with it), and the faults of the database: Exhausted when no
        connection is free, Conflict for lost races, TimedOut, Unavailable.
        """
        connection = await self._connection()
        counted = connection.writer_seq  # type: ignore[attr-defined]  # our own attribute
        try:
            tx = Tx(connection, call)
            try:
                await connection.execute(_opening(call), prepare=False)
                if call.request_id:
                    await _claim_request(tx)
                yield tx
                await self._finish(tx)
            except BaseException as error:
                if tx.is_committed:  # cancelled while COMMIT was under way: it stands
                    raise
                connection.writer_seq = counted  # type: ignore[attr-defined]  # our own attribute
                await settled(_roll_back(connection))
                fault = fault_of(error)
                if fault is not None:
                    raise fault from error
                raise
        finally:
            await self._give_back(connection)

    @asynccontextmanager
    async def look(self, call: Call) -> AsyncIterator[Tx]:
        """For reading only: each statement is a read-only transaction of its own, as the caller.

        Setting the caller and the statement travel together (a pipeline up to its Sync is one
        implicit transaction), so a statement costs one round trip where `begin` needs three.
        """
        connection = await self._connection()
        try:
            try:
                yield Look(connection, call)
            except BaseException as error:
                await settled(_roll_back(connection))
                fault = fault_of(error)
                if fault is not None:
                    raise fault from error
                raise
        finally:
            await self._give_back(connection)

    async def _connection(self) -> AsyncConnection[Any]:
        task = asyncio.current_task()
        cancelled = task.cancelling() if task else 0
        try:
            connection = await self.pool.getconn()
        except PoolTimeout:
            raise self._no_connection() from None
        except TooManyRequests:
            raise _all_in_use() from None
        self.in_use += 1
        if task and task.cancelling() > cancelled:
            # asyncio.wait_for before Python 3.12 swallows a cancellation that comes together with
            # what it waits for (CPython issue 86296); the pool waits with it.
            await self._give_back(connection)
            raise asyncio.CancelledError
        return connection

    async def _give_back(self, connection: AsyncConnection[Any]) -> None:
        try:
            # Cut off in a pipeline it is left in it, which the pool does not look at: whatever came
            # next on it would fail. A closed one is replaced.
            if not connection.closed and connection.pgconn.pipeline_status:
                await settled(connection.close())
            await settled(self.pool.putconn(connection))
        finally:
            self.in_use -= 1

    def _no_connection(self) -> Fault:
        """The pool has connections that nobody uses and none to give: they cannot be made."""
        if self.in_use < self.pool.get_stats()["pool_size"]:
            return _database_away()
        return _all_in_use()

    async def _finish(self, tx: Tx) -> None:
        call = tx.call
        declared = call.access.audit
        if declared and not any(event.action == declared for event in tx.audit_events):
            raise AssertionError(f"{call.method} changed something and recorded no {declared}")
        if call.request_id:
            if tx._answer is None:
                raise AssertionError(f"{call.method} takes a request_id and kept no answer")
            answer = tx._answer.SerializeToString()
            await tx.run(KEEP_ANSWER, **_request_key(call), answer=answer)
        if tx.audit_events and self.flush_audit is not None:
            await self.flush_audit(tx)
        await settled(self._commit(tx))

    async def _commit(self, tx: Tx) -> None:
        """COMMIT and what follows from it, whole even when the caller is cancelled meanwhile."""
        if tx.connection.info.transaction_status is TransactionStatus.INERROR:
            # PostgreSQL answers COMMIT of a failed transaction with a silent ROLLBACK.
            raise AssertionError(f"{tx.call.method} went on after a statement had failed")
        await tx.connection.commit()
        tx.is_committed = tx.call.is_committed = True
        for action in tx.after_commit:
            action()
        if tx.doorbells:
            self.ring(tx.call.caller.org_id)


SET_CALLER = (
    b"SELECT set_config('app.org_id', $1, true), set_config('app.user_id', $2, true),"
    b" set_config('app.role', $3, true), set_config('app.reach', $4, true),"
    b" set_config('app.run_ids', $5, true), set_config('statement_timeout', $6, true),"
    b" set_config('transaction_read_only', 'on', true)"
)
SET_CALLER_FORMATS = [PyFormat.TEXT] * 6


def _caller_settings(tx: Tx) -> tuple[str, str, str, str, str, str]:
    caller = tx.call.caller
    role = "operator" if caller.is_operator else caller.role
    left_ms = str(max(1, int(tx.call.seconds_left * 1000)))
    return caller.org_id, caller.user_id, role, tx.reach, _array(tx.run_ids), left_ms


def _array(ids: list[str]) -> str:
    """For a setting that is cast to uuid[]; nothing for none."""
    return "{" + ",".join(ids) + "}" if ids else ""


def _opening(call: Call) -> bytes:
    """BEGIN and the caller in one round trip; ids are checked, for they are not parameters here."""
    caller = call.caller
    left_ms = max(1, int(call.seconds_left * 1000))
    for value in (caller.org_id, caller.user_id):
        if value and not _UUID.match(value):
            raise ValueError("not an id")
    return (
        f"BEGIN; SELECT set_config('app.org_id','{caller.org_id}',true),"
        f"set_config('app.user_id','{caller.user_id}',true),"
        f"set_config('app.role','{'operator' if caller.is_operator else caller.role}',true),"
        f"set_config('app.reach','{caller.reach}',true),"
        f"set_config('statement_timeout','{left_ms}',true)"
    ).encode()


async def _roll_back(connection: AsyncConnection[Any]) -> None:
    try:
        await connection.rollback()
    except psycopg.Error:
        await connection.close()  # the pool replaces it


def fault_of(error: BaseException) -> Fault | None:
    """What a database error means to a caller, or None when it is not one."""
    match error:
        case errors.SerializationFailure() | errors.DeadlockDetected() | errors.LockNotAvailable():
            return Conflict(
                "CONFLICT_TRY_AGAIN",
                "Somebody else changed the same thing; try again.",
                retry_after_s=0.2,
            )
        case errors.QueryCanceled():
            return TimedOut("DEADLINE_TOO_SHORT", "The deadline passed before the work was done.")
        case psycopg.DataError():
            return Invalid("FIELD_INVALID", "A value in the request cannot be stored.")
        case errors.InsufficientPrivilege() | errors.UniqueViolation() | errors.CheckViolation():
            return None
        case psycopg.OperationalError() | psycopg.InterfaceError():
            return _database_away()
    return None


def _all_in_use() -> Fault:
    return Exhausted("SERVER_BUSY", "All database connections are in use.", retry_after_s=1.0)


def _database_away() -> Fault:
    return Unavailable(
        "DEPENDENCY_UNAVAILABLE", "The database is away; try again.", retry_after_s=1.0
    )


def violated(error: BaseException) -> str:
    """Name of the constraint a UniqueViolation or its kin hit, for a dict beside the SQL."""
    return getattr(getattr(error, "diag", None), "constraint_name", None) or ""


PING = sql(int, "SELECT 1")
