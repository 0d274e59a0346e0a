"""One round trip: statements that need not wait for each other's results, in one message to PostgreSQL.

Up to its Sync a pipeline is one implicit transaction, unless it begins or ends an explicit one.
psycopg's own pipeline is made for programs that mix sending and reading; for two statements it waits
for the socket five times, and each wait asks the event loop to watch the socket anew. Here all are
sent and their results read with one wait, which is a third of the CPU of a small read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


MakeRows = Callable[[Any], Callable[[Sequence[Any]], Any]]


class Asked(NamedTuple):
    """A statement with its values. text: with $1, $2 ...; formats: a psycopg format a value. Its rows
    are each made by what `make` answers for the columns; without it nobody reads them."""

    text: bytes
    values: Sequence[Any]
    formats: Sequence[PyFormat]
    prepare: bool = True
    make: MakeRows | None = None


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


class Found(NamedTuple):
    """The rows of a statement, and how many it found or changed."""

    rows: list[Any]
    affected: int


async def round_trip(
    connection: AsyncConnection[Any],
    statements: Sequence[Asked],
    *,
    is_repeatable: bool = False,
) -> list[Found]:
    """Runs the statements and answers what each of them found. Raises psycopg's errors; after the
    first that fails none is run. The connection is in autocommit. is_repeatable, for reads: when the
    table under a kept plan has changed, all is asked once more; otherwise whoever comes next finds it
    planned anew."""
    known: Known = connection.prepared_here  # type: ignore[attr-defined]  # our own attribute
    had = len(known)
    try:
        return await _ask(connection, known, statements)
    except (errors.InvalidSqlStatementName, errors.FeatureNotSupported):
        known.clear()
        if not had or not is_repeatable:
            raise
        return await _ask(connection, known, statements)


# Statements with the types of their values, under the names they were prepared by.
Known = dict[tuple[bytes, tuple[int, ...]], bytes]


class Step(NamedTuple):
    """Something to send, what is known once that was done, and what it was if it was asked for."""

    send: Callable[[PGconn], None]
    known: Known
    asked: Asked | None = None


async def _ask(
    connection: AsyncConnection[Any], known: Known, statements: Sequence[Asked]
) -> list[Found]:
    adapter = Transformer(connection)
    steps: list[Step] = []
    for asked in statements:
        values: Sequence[Buffer | None] = adapter.dump_sequence(asked.values, asked.formats)
        types, formats = adapter.types or (), adapter.formats
        if not asked.prepare:
            steps.append(Step(_plain(asked.text, values, types, formats), {}, asked))
            continue
        key = (asked.text, types)
        name = known.pop(key, None)
        if name is not None:
            known[key] = name  # the youngest now
        else:
            if len(known) >= PREPARED_MAX:
                oldest = known.pop(next(iter(known)))
                steps.append(Step(_plain(b"DEALLOCATE " + oldest, [], (), None), {}))
            name = b"here_%d" % next(_NUMBERS)
            steps.append(Step(_prepare(name, asked.text, types), {key: name}))
        steps.append(Step(_prepared(name, values, formats), {}, asked))
    async with connection.lock:
        results = await connection.wait(_exchange(connection.pgconn, [step.send for step in steps]))
    found: list[Found] = []
    for step, result in zip(steps, results, strict=True):
        if result.status == ExecStatus.FATAL_ERROR:
            raise errors.error_from_result(result, encoding=adapter.encoding)
        known.update(step.known)
        if step.asked is not None:
            found.append(_found(adapter, step.asked.make, result))
    return found


def _found(adapter: Any, make: MakeRows | None, result: PGresult) -> Found:
    if make is None or result.status != ExecStatus.TUPLES_OK:
        return Found([], result.command_tuples or 0)
    adapter.set_pgresult(result)
    return Found(adapter.load_rows(0, result.ntuples, make(Heading(result))), result.ntuples)


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
        while not (ready := (yield Wait.RW)):
            continue
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
