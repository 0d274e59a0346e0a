"""Pools of connections to PostgreSQL, which hand out transactions, never bare connections.

`Database.begin(call)` is the only way to the data. It sets the caller and the remaining time for
this transaction; answers a repeated request from the stored answer; writes the audit events that
were recorded; and commits, shielded from cancellation. `grep 'db.begin('` lists every commit of the
product.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.pq import TransactionStatus
from psycopg.types.string import TextLoader
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from chimera.call import Call
from chimera.db import Look, Tx
from chimera.faults import (
    Conflict,
    Exhausted,
    Fault,
    Invalid,
    TimedOut,
    Unauthenticated,
    Unavailable,
)
from chimera.idempotency import claim_request, keep_answer
from chimera.ids import new_id
from chimera.standing import confirm_standing, is_lasting

Done = TypeVar("Done")

FlushAudit = Callable[[Tx], None]


async def settled(work: Coroutine[Any, Any, Done]) -> Done:
    """Awaits `work` to its end even when the waiting task is cancelled meanwhile; then cancels.

    A COMMIT that was cut off leaves nobody knowing whether it happened, and a connection that was
    not given back is gone. What never has to wait cannot be cut off and needs no task: giving a
    connection back is like that, once for every call.
    """
    try:
        waits_for = work.send(None)
    except StopIteration as ended:
        done: Done = ended.value
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


async def _rest(work: Coroutine[Any, Any, Done], waits_for: Any) -> Done:
    return await _resumed(work, waits_for)


@types.coroutine
def _resumed(work: Coroutine[Any, Any, Done], waits_for: Any) -> Generator[Any, Any, Done]:
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
            done: Done = ended.value
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
            kwargs={"autocommit": True, "prepare_threshold": None},
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
            tx = Tx(connection, call, self._finish)
            try:
                if call.request_id:
                    await claim_request(tx)
                yield tx
                if not tx.is_committed:  # by its last statement
                    await self._finish(tx)
                elif tx.audit_events or tx.after_commit:
                    raise AssertionError(f"{call.method} goes on after its last statement")
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
        implicit transaction), so a statement costs one round trip where `begin` needs two.
        """
        connection = await self._connection()
        try:
            try:
                yield Look(connection, call, self._finish)
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
            keep_answer(tx)
        if is_lasting(call.access):
            confirm_standing(tx)
        if tx.audit_events and self.flush_audit is not None:
            self.flush_audit(tx)
        await settled(self._commit(tx))

    async def _commit(self, tx: Tx) -> None:
        """COMMIT and what follows from it, whole even when the caller is cancelled meanwhile."""
        wrong = TransactionStatus.IDLE if tx.is_open else TransactionStatus.INTRANS
        if tx.connection.info.transaction_status in (wrong, TransactionStatus.INERROR):
            # PostgreSQL answers COMMIT of a failed transaction with a silent ROLLBACK.
            raise AssertionError(f"{tx.call.method} went on after a statement had failed")
        await tx.commit()
        tx.is_committed = tx.call.is_committed = True
        for action in tx.after_commit:
            action()
        tx.audit_events, tx.after_commit = [], []
        if tx.doorbells:
            self.ring(tx.call.caller.org_id)


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
        case errors.InvalidPassword():  # identity.confirm_standing
            return Unauthenticated("API_KEY_INVALID", "This API key has ended.")
        case errors.InvalidAuthorizationSpecification():
            return Unauthenticated("SESSION_ENDED", "This session has ended; sign in again.")
        case psycopg.OperationalError() | psycopg.InterfaceError():
            return _database_away()
    return None


def _all_in_use() -> Fault:
    return Exhausted("SERVER_BUSY", "All database connections are in use.", retry_after_s=1.0)


def _database_away() -> Fault:
    return Unavailable(
        "DEPENDENCY_UNAVAILABLE", "The database is away; try again.", retry_after_s=1.0
    )
