"""ClickHouse: the column store behind a bounded set of threads.

The driver is synchronous and its connections belong to one thread at a time, so every statement
runs in a small executor with a client that nobody else holds. Values reach statements through the
driver's substitution only. What is inserted carries a deduplication token: an insert whose outcome
nobody knows is repeated with the same rows and token, and counts once, in the views as well.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, LiteralString, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import structlog

from chimera.faults import Exhausted, Fault, Invalid, TimedOut, Unavailable

log = structlog.get_logger("chimera.clickhouse")

Answer = TypeVar("Answer")
THREADS = 4
WAITING_MAX = 64
RETRY_MAX_S = 30.0
# The driver's own are 10 s, 300 s and 5 s: long for somebody who waits for an answer.
TIMEOUTS = {"connect_timeout": "3", "send_receive_timeout": "60", "sync_request_timeout": "3"}
# The server says no to a block before it writes any of it: types, sizes, constraints.
DATA_CODES = frozenset({6, 27, 38, 41, 53, 69, 70, 72, 117, 128, 131, 190, 321, 349, 376, 469})
TIMEOUT_EXCEEDED = 159
# Rows or bytes to read, rows of the result, memory.
TOO_MUCH = frozenset({158, 307, 396, 241})


class DataRefused(Exception):
    """Nothing of an insert was written, and nothing of it ever will be as it stands."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows in the store's own form: `columns` are (name, exact type), `data` the bytes of each."""

    columns: Sequence[tuple[LiteralString, str]]
    rows: int
    data: Sequence[bytes]


class ClickHouse:
    """Clients of one server. Opens nothing before the first statement.

    `url`: clickhouse://user:password@host:port/database, or empty where there is no ClickHouse.
    """

    def __init__(self, url: str) -> None:
        self._url = _with_timeouts(url) if url else ""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="clickhouse")
        self._guard = threading.Lock()  # over what follows
        self._idle: list[Any] = []
        self._clients: set[Any] = set()
        self._open = 0
        self._failures = 0

    @property
    def configured(self) -> bool:
        return bool(self._url)

    async def query(
        self,
        statement: LiteralString,
        params: Mapping[str, Any],
        *,
        deadline: float,
        rows_max: int,
        limits: Mapping[str, Any] | None = None,
        to_the_end: bool = False,
    ) -> list[tuple[Any, ...]]:
        """Rows of a SELECT; `deadline` on the monotonic clock in seconds ends it on the server too.

        limits: further settings of the server for this query, such as how much it may read.
        to_the_end: cancelled while the server works on it, it goes on waiting until that has ended.
        Raises Unavailable, TimedOut, Exhausted (all threads taken), Invalid (it would be too much).
        """

        def work(client: Any) -> list[tuple[Any, ...]]:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimedOut("DEADLINE_TOO_SHORT", "The deadline passed before the query began.")
            bounds = {
                "max_execution_time": math.ceil(left_s),
                "max_result_rows": rows_max,
                "result_overflow_mode": "throw",
                **(limits or {}),
            }
            rows: list[tuple[Any, ...]] = client.execute(statement, dict(params), settings=bounds)
            return rows

        try:
            return await self._run(work, to_the_end=to_the_end)
        except DataRefused as error:
            # A value given in the request that the column's type cannot hold.
            raise Invalid(
                "FIELD_INVALID", "A value in the request cannot be looked for."
            ) from error

    async def insert(self, table: LiteralString, blocks: Sequence[Block], token: str) -> None:
        """Inserts blocks of one structure, once for each `token` whatever happens in between.

        Raises Unavailable when the outcome is unknown or nothing was done: repeat it as it was.
        Raises DataRefused when nothing was written because of the rows themselves.
        """
        columns = ", ".join(name for name, _ in blocks[0].columns)
        statement = f"INSERT INTO {table} ({columns}) VALUES"
        once = {
            "insert_deduplicate": 1,
            "insert_deduplication_token": token,
            "deduplicate_blocks_in_dependent_materialized_views": 1,
            "async_insert": 0,
            "max_insert_threads": 1,
            # How blocks are joined is part of what the token stands for.
            "min_insert_block_size_rows": 1_048_449,
            "min_insert_block_size_bytes": 268_402_944,
            # Few old rows must not stop many new ones.
            "max_partitions_per_insert_block": 0,
        }
        await self._run(lambda client: _send_blocks(client, statement, blocks, once))

    async def command(
        self,
        statement: LiteralString,
        params: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Runs a statement that changes something and answers nothing. Raises Unavailable, TimedOut,
        Invalid (too much), Fault (refused)."""
        given = dict(settings or {})
        try:
            await self._run(lambda client: client.execute(statement, dict(params), settings=given))
        except DataRefused as error:
            raise Fault("INTERNAL", f"ClickHouse refused a statement: {error}") from error

    async def close(self) -> None:
        """Ends all connections, also those in use."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._guard:
            clients, self._clients, self._idle = list(self._clients), set(), []
        for client in clients:
            _disconnect(client)

    async def _run(self, work: Callable[[Any], Answer], *, to_the_end: bool = False) -> Answer:
        if not self._url:
            raise Unavailable(
                "DEPENDENCY_UNAVAILABLE",
                "This installation has no ClickHouse (CHIMERA_CLICKHOUSE_URL is not set).",
            )
        with self._guard:
            if self._open >= THREADS + WAITING_MAX:
                raise Exhausted(
                    "SERVER_BUSY", "All connections to ClickHouse are in use.", retry_after_s=1.0
                )
            self._open += 1
        future = self._threads.submit(self._with_client, work)
        # Not when the caller stops waiting: the thread is taken until the server has answered.
        future.add_done_callback(self._done)
        waiting = asyncio.wrap_future(future)
        try:
            answer = await (asyncio.shield(waiting) if to_the_end else waiting)
        except asyncio.CancelledError:
            if to_the_end and not future.cancel():
                await asyncio.gather(waiting, return_exceptions=True)
            raise
        except (Fault, DataRefused):
            raise
        except Exception as error:
            raise self._failure(error) from error
        self._failures = 0
        return answer

    def _done(self, _future: object) -> None:
        with self._guard:
            self._open -= 1

    def _with_client(self, work: Callable[[Any], Answer]) -> Answer:
        """In a thread: runs `work` with a client of its own, given back unless it broke."""
        with self._guard:
            client = self._idle.pop() if self._idle else None
        if client is None:
            from clickhouse_driver import Client

            client = Client.from_url(self._url)
            with self._guard:
                self._clients.add(client)
        try:
            answer = work(client)
        except Exception as error:
            # The driver may have stopped in the middle of a message.
            with self._guard:
                self._clients.discard(client)
            _disconnect(client)
            refused = _data_refused(error)
            if refused is None:
                raise
            raise refused from error
        with self._guard:
            if client in self._clients:
                self._idle.append(client)
        return answer

    def _failure(self, error: Exception) -> Fault:
        code = getattr(error, "code", 0)
        if code == TIMEOUT_EXCEEDED:
            return TimedOut("DEADLINE_TOO_SHORT", "ClickHouse did not answer in time.")
        if code in TOO_MUCH:
            return Invalid(
                "QUERY_TOO_LARGE",
                "The query reads or answers too much; ask for less time, a larger step or fewer"
                " groups.",
            )
        self._failures += 1
        log.warning("clickhouse.failed", error=type(error).__name__, code=code, text=shown(error))
        return Unavailable(
            "DEPENDENCY_UNAVAILABLE",
            "ClickHouse is away; what was accepted is kept and stored later.",
            retry_after_s=min(RETRY_MAX_S, 0.25 * 2 ** min(self._failures, 10)),
        )


def _send_blocks(
    client: Any, statement: str, blocks: Sequence[Block], settings: Mapping[str, Any]
) -> None:
    """What the driver does for an INSERT, but for columns that are encoded already."""
    from clickhouse_driver.block import BlockInfo, ColumnOrientedBlock
    from clickhouse_driver.defines import (
        DBMS_MIN_REVISION_WITH_BLOCK_INFO as WITH_INFO,
    )
    from clickhouse_driver.defines import (
        DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION as WITH_SERIALIZATION,
    )
    from clickhouse_driver.protocol import ClientPacketTypes
    from clickhouse_driver.varint import write_varint
    from clickhouse_driver.writer import write_binary_str, write_binary_uint8

    with client.disconnect_on_error(statement, dict(settings)):
        connection = client.connection
        connection.send_query(statement)
        connection.send_external_tables(None)
        expected = client.receive_sample_block().columns_with_types
        revision = connection.server_info.used_revision
        for block in blocks:
            if list(expected) != list(block.columns):
                raise RuntimeError(f"the table is {expected}: run the migrations")
            write_varint(ClientPacketTypes.DATA, connection.fout)
            write_binary_str("", connection.fout)
            out = connection.block_out.fout
            if revision >= WITH_INFO:
                BlockInfo().write(out)
            write_varint(len(block.columns), out)
            write_varint(block.rows, out)
            for (name, kind), data in zip(block.columns, block.data, strict=True):
                write_binary_str(name, out)
                write_binary_str(kind, out)
                if revision >= WITH_SERIALIZATION:
                    write_binary_uint8(0, out)  # the plain one
                out.write(data)
            connection.block_out.finalize()
            client.receive_profile_events()
        connection.send_data(ColumnOrientedBlock())
        client.receive_profile_events()
        client.receive_end_of_insert_query()


def shown(error: BaseException) -> str:
    """An error in one line of at most 300 characters, without the server's stack trace."""
    return " ".join(str(error).split("Stack trace")[0].split())[:300]


def _data_refused(error: Exception) -> DataRefused | None:
    """The error as DataRefused if the driver or the server says that it lies in the values."""
    from clickhouse_driver import errors

    unfit = errors.TypeMismatchError | errors.TooLargeStringSize | errors.CannotParseUuidError
    is_refusal = isinstance(error, errors.ServerException) and error.code in DATA_CODES
    return DataRefused(shown(error)) if is_refusal or isinstance(error, unfit) else None


def _disconnect(client: Any) -> None:
    try:
        client.disconnect()
    except OSError:
        log.debug("clickhouse.disconnect_failed")


def _with_timeouts(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port  # looked at here, because the driver repeats what it could not read
    except ValueError:
        raise ValueError(
            "CHIMERA_CLICKHOUSE_URL is not clickhouse://user:password@host:port/database"
        ) from None
    return urlunsplit(parts._replace(query=urlencode({**TIMEOUTS, **dict(parse_qsl(parts.query))})))
