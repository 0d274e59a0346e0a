"""PostgreSQL: statements, and the transactions that run them on behalf of a caller.

Transactions come from pools.py. What they tell the database about the caller (organisation, user,
remaining time) is what row-level security and timeouts hold to. BEGIN and the caller travel with the
first statement, the kept answer and the audit events with COMMIT, and so does a last statement that is
called so: each message spared is a wait less for the caller and for the event loop.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, LiteralString, TypeVar

import orjson
from psycopg import AsyncConnection
from psycopg.adapt import PyFormat
from psycopg.types.json import set_json_dumps, set_json_loads

from chimera.call import Call
from chimera.roundtrip import Asked, Found, MakeRows, round_trip
from chimera.rows import row_maker

set_json_loads(orjson.loads)
set_json_dumps(orjson.dumps)

Row = TypeVar("Row")
Message = TypeVar("Message")
_PARAMETER = re.compile(r"(?<!%)%\((\w+)\)([sb])")
_FORMATS = {"s": PyFormat.AUTO, "b": PyFormat.BINARY}


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

    def asked(self, params: dict[str, Any], make: MakeRows | None = None) -> Asked:
        """With its values. TypeError when these are not those it names."""
        if self.names != params.keys():
            raise TypeError(
                f"{self.where}: given {sorted(params)}, statement names {sorted(self.names)}"
            )
        values = [params[name] for name in self.order]
        return Asked(self.native, values, self.formats, self.prepare, make)


STATEMENTS: list[Statement[Any]] = []


def sql(row: type[Row], text: LiteralString, *, prepare: bool = True) -> Statement[Row]:
    """Registers a statement; a test PREPAREs all of them against the migrated schema."""
    import sys

    where = sys._getframe(1).f_globals.get("__name__", "?")
    statement = Statement(row, text, prepare=prepare, where=where)
    STATEMENTS.append(statement)
    return statement


class Tx:
    """One open transaction on behalf of a caller. It begins with its first statement: what is sent to
    the connection past it before that is in no transaction."""

    only_reads = False

    def __init__(
        self,
        connection: AsyncConnection[Any],
        call: Call,
        finish: Callable[[Tx], Awaitable[None]],
    ) -> None:
        self.connection = connection
        self.call = call
        self._finish = finish
        self.audit_events: list[Any] = []
        self.doorbells = False
        self.is_open = False
        self.is_committed = False
        self.kept_answer: Any = None
        self._with_commit: list[Asked] = []
        self._found_with_commit: list[Found] = []
        # Unlocks on the way out: ran after COMMIT only.
        self.after_commit: list[Callable[[], None]] = []
        self.reach = call.caller.reach
        self.run_ids: list[str] = []
        self._policies_know = False

    async def name_run(self, run_id: str) -> None:
        """Names a run whose rows the following statements read, once or with others. Its policies
        are then asked once a statement instead of row by row; what they allow is the same."""
        if run_id not in self.run_ids:
            self.run_ids.append(run_id)
            self._policies_know = False

    async def see_all_campaigns(self) -> None:
        """For the rest of it, the whole organisation's campaigns are in view, whoever may see them:
        to count its books and to find a person's own. What is in them is not told to anybody."""
        if self.reach != "all":
            self.reach = "all"
            self._policies_know = False

    def _opening(self) -> list[Asked]:
        """What has to be said before the next statement."""
        begin = [] if self.is_open else [BEGIN]
        return begin if self._policies_know else [*begin, _telling(self, SET_CALLER)]

    async def _send(self, statements: list[Asked]) -> list[Found]:
        self._expect_open()
        opening = self._opening()
        whole = [*opening, *statements]
        found = await round_trip(self.connection, whole, is_repeatable=self.only_reads)
        self.is_open = self._policies_know = True
        return found[len(opening) :]

    def _expect_open(self) -> None:
        if self.is_committed:
            raise AssertionError(f"{self.call.method} goes on after its last statement")

    def at_commit(self, statement: Statement[Any], **params: Any) -> None:
        """Runs a command in the message of COMMIT. Nobody looks at what it answers: it must fail
        when it cannot do what it is there for."""
        self._expect_open()
        self._with_commit.append(statement.asked(params))

    async def last(self, statement: Statement[Row], **params: Any) -> Row | None:
        """The first row of the last statement, or None. It is committed by then, with what was
        recorded before: it must fail when it cannot do what it is there for."""
        place = len(self._with_commit)
        self._with_commit.append(statement.asked(params, statement.make))
        await self._finish(self)
        rows = self._found_with_commit[place].rows
        row: Row | None = rows[0] if rows else None
        return row

    async def commit(self) -> None:
        """Nothing to do for one that never began."""
        if self.is_open or self._with_commit:
            self._found_with_commit = await self._send([*self._with_commit, COMMIT])

    async def one(self, statement: Statement[Row], **params: Any) -> Row | None:
        """The first row, or None."""
        rows = (await self._send([statement.asked(params, statement.make)]))[0].rows
        row: Row | None = rows[0] if rows else None
        return row

    async def all(self, statement: Statement[Row], **params: Any) -> list[Row]:
        rows: list[Row] = (await self._send([statement.asked(params, statement.make)]))[0].rows
        return rows

    async def fill(self, field: Any, statement: Statement[Row], **params: Any) -> None:
        """Appends the rows to a repeated field of an answer, where they are made: protobuf copies
        a message into another by encoding and decoding it."""

        def make(cursor: Any) -> Any:
            maker: Any = statement.make(cursor)
            return partial(maker, new=field.add)

        await self._send([statement.asked(params, make)])

    async def run(self, statement: Statement[Any], **params: Any) -> int:
        """Runs a command; how many rows it touched."""
        return (await self._send([statement.asked(params)]))[0].affected

    def answer(self, message: Message, *, keep: Any = None) -> Message:
        """Names the answer that a repetition of this request gets; `keep` replaces it there
        when the answer holds a secret."""
        self.kept_answer = message if keep is None else keep
        return message


class Look(Tx):
    """What `Database.look` hands out: each statement is a transaction of its own."""

    only_reads = True

    def _opening(self) -> list[Asked]:
        return [_telling(self, SET_READER)]


BEGIN, COMMIT = Asked(b"BEGIN", (), ()), Asked(b"COMMIT", (), ())
SET_CALLER = (
    b"SELECT set_config('app.org_id', $1, true), set_config('app.user_id', $2, true),"
    b" set_config('app.role', $3, true), set_config('app.reach', $4, true),"
    b" set_config('app.run_ids', $5, true), set_config('statement_timeout', $6, true)"
)
SET_READER = SET_CALLER + b", set_config('transaction_read_only', 'on', true)"
SET_FORMATS = [PyFormat.TEXT] * 6


def _telling(tx: Tx, text: bytes) -> Asked:
    """Who the caller is, for row policies, and how long statements may take."""
    caller = tx.call.caller
    role = "operator" if caller.is_operator else caller.role
    left_ms = str(max(1, int(tx.call.seconds_left * 1000)))
    run_ids = _array(tx.run_ids)
    values = (caller.org_id, caller.user_id, role, tx.reach, run_ids, left_ms)
    return Asked(text, values, SET_FORMATS)


def _array(ids: list[str]) -> str:
    """For a setting that is cast to uuid[]; nothing for none."""
    return "{" + ",".join(ids) + "}" if ids else ""


def violated(error: BaseException) -> str:
    """Name of the constraint a UniqueViolation or its kin hit, for a dict beside the SQL."""
    return getattr(getattr(error, "diag", None), "constraint_name", None) or ""


PING = sql(int, "SELECT 1")
