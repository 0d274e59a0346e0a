"""One round trip: a statement and what has to be said before it, in one message to PostgreSQL.

Up to its Sync a pipeline is one implicit transaction. psycopg's own pipeline is made for programs that
mix sending and reading; for two statements it waits for the socket five times, and each wait asks the
event loop to watch the socket anew. Here both are sent and their results read with one wait, which is
a third of the CPU of a small read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, NamedTuple

from psycopg import AsyncConnection, OperationalError, errors, generators
from psycopg.abc import Buffer, PQGen
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.waiting import Ready, Wait

# Names of prepared statements are used once: after an error it is open whether one is there.
_NUMBERS = count()
# A connection; a statement counts once for each combination of types that it is given.
PREPARED_MAX = 256


class Asked(NamedTuple):
    """A statement with its values. text: with $1, $2 ...; formats: a psycopg format a value."""

    text: bytes
    values: Sequence[Any]
    formats: Sequence[PyFormat]
    prepare: bool = True


class Column(NamedTuple):
    name: str
    type_code: int


class Heading:
    """What a maker of rows looks at: the columns of a result."""

    def __init__(self, result: PGresult) -> None:
        self._result = result

    @cached_property
    def description(self) -> list[Column]:
        result = self._result
        return [
            Column((result.fname(place) or b"").decode(), result.ftype(place))
            for place in range(result.nfields)
        ]


@dataclass(frozen=True, slots=True)
class Found:
    """The rows of a statement, in the manner of a cursor."""

    rows: list[Any]

    @property
    def rowcount(self) -> int:
        return len(self.rows)

    async def fetchone(self) -> Any:
        return self.rows[0] if self.rows else None

    async def fetchall(self) -> list[Any]:
        return self.rows


async def round_trip(
    connection: AsyncConnection[Any],
    statements: Sequence[Asked],
    make: Callable[[Any], Callable[[Sequence[Any]], Any]],
) -> Found:
    """Runs the statements in one implicit transaction; the rows of the last, each made by what `make`
    answers for its columns. Raises psycopg's errors. The connection is in autocommit. For reads: what
    was prepared may be gone (psycopg discards everything after a rollback, a table may have changed
    under its plan), and then all of it is asked once more."""
    known: dict[tuple[bytes, tuple[int, ...]], bytes] = connection.prepared_here  # type: ignore[attr-defined]  # our own attribute
    had = len(known)
    try:
        return await _ask(connection, known, statements, make)
    except (errors.InvalidSqlStatementName, errors.FeatureNotSupported):
        known.clear()
        if not had:
            raise
        return await _ask(connection, known, statements, make)


async def _ask(
    connection: AsyncConnection[Any],
    known: dict[tuple[bytes, tuple[int, ...]], bytes],
    statements: Sequence[Asked],
    make: Callable[[Any], Callable[[Sequence[Any]], Any]],
) -> Found:
    adapter = Transformer(connection)
    new: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
    calls: list[Callable[[PGconn], None]] = []
    for asked in statements:
        values: Sequence[Buffer | None] = adapter.dump_sequence(asked.values, asked.formats)
        types, formats = adapter.types or (), adapter.formats
        if not asked.prepare:
            calls.append(_plain(asked.text, values, types, formats))
            continue
        key = (asked.text, types)
        name = known.pop(key, None)
        if name is not None:
            known[key] = name  # the youngest now
        else:
            if len(known) >= PREPARED_MAX:
                calls.append(_plain(b"DEALLOCATE " + known.pop(next(iter(known))), [], (), None))
            name = new[key] = b"here_%d" % next(_NUMBERS)
            calls.append(_prepare(name, asked.text, types))
        calls.append(_prepared(name, values, formats))
    async with connection.lock:
        results = await connection.wait(_exchange(connection.pgconn, calls))
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise errors.error_from_result(result, encoding=adapter.encoding)
    known.update(new)
    last = results[-1]
    adapter.set_pgresult(last)
    return Found(adapter.load_rows(0, last.ntuples, make(Heading(last))))


def _plain(text: bytes, values: Any, types: Any, formats: Any) -> Callable[[PGconn], None]:
    return lambda pgconn: pgconn.send_query_params(text, values, types, formats)


def _prepare(name: bytes, text: bytes, types: Sequence[int]) -> Callable[[PGconn], None]:
    return lambda pgconn: pgconn.send_prepare(name, text, types)


def _prepared(name: bytes, values: Any, formats: Any) -> Callable[[PGconn], None]:
    return lambda pgconn: pgconn.send_query_prepared(name, values, formats)


def _exchange(pgconn: PGconn, calls: Sequence[Callable[[PGconn], None]]) -> PQGen[list[PGresult]]:
    """Sends everything up to a Sync and reads everything up to its answer, so that the connection is
    left as it was. Whoever breaks it off leaves it in a pipeline, and it is of no more use."""
    pgconn.enter_pipeline_mode()
    for call in calls:
        call(pgconn)
    pgconn.pipeline_sync()
    while pgconn.flush():
        ready = yield Wait.RW
        if ready & Ready.R:
            pgconn.consume_input()
    results: list[PGresult] = []
    was_end = False
    while True:
        result = yield from generators.fetch(pgconn)
        if result is None:
            if was_end:  # each result has one end: nothing comes any more
                raise OperationalError("the connection was lost")
            was_end = True
            continue
        was_end = False
        if result.status == ExecStatus.PIPELINE_SYNC:
            break
        results.append(result)
    pgconn.exit_pipeline_mode()
    return results
