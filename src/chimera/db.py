"""PostgreSQL: statements, and the transactions that run them on behalf of a caller.

Transactions come from pools.py. What they tell the database about the caller (organisation, user,
remaining time) is what row-level security and timeouts hold to.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, LiteralString, TypeVar

import orjson
from psycopg import AsyncConnection
from psycopg.adapt import PyFormat
from psycopg.types.json import set_json_dumps, set_json_loads

from chimera.call import Call
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


class Tx:
    """One open transaction on behalf of a caller."""

    def __init__(self, connection: AsyncConnection[Any], call: Call) -> None:
        self.connection = connection
        self.call = call
        self.audit_events: list[Any] = []
        self.doorbells = False
        self.is_committed = False
        self.kept_answer: Any = None
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
        self.kept_answer = message if keep is None else keep
        return message


class Look(Tx):
    """What `Database.look` hands out: each statement is a transaction of its own."""

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


TELL_POLICIES = sql(
    Nothing,
    """
    SELECT set_config('app.reach', %(reach)s, true), set_config('app.run_ids', %(run_ids)s, true)
    """,
)
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


def opening(call: Call) -> bytes:
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


def violated(error: BaseException) -> str:
    """Name of the constraint a UniqueViolation or its kin hit, for a dict beside the SQL."""
    return getattr(getattr(error, "diag", None), "constraint_name", None) or ""


PING = sql(int, "SELECT 1")
