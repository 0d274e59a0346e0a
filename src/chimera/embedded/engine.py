"""One session of the chDB engine: statements, settings, and errors with ClickHouse's codes.

Importing this does not load the engine; the first Session does.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from typing import Any

from chimera.embedded.native import header_block

_UNKNOWN_SETTING, _STD_EXCEPTION = 115, 1001
_ENGINE_ERROR = re.compile(r"Code: (\d+)\. (DB::Exception: .*)", re.DOTALL)
_SETTING_NAME = re.compile(r"\w+\Z")
_DESCRIBED_MAX = 128
_VERSIONS = itertools.count()


class QueryError(Exception):
    """An error to be shown to the client, with ClickHouse's own code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @classmethod
    def of(cls, error: Exception) -> QueryError:
        if isinstance(error, QueryError):
            return error
        found = _ENGINE_ERROR.search(str(error))
        if found:
            return cls(int(found[1]), found[2])
        return cls(_STD_EXCEPTION, f"{type(error).__name__}: {error}")


class Session:
    """One engine session: current database, settings, temporary tables."""

    # Of all tables of the process, and anything else that what a SELECT answers may depend on.
    version = next(_VERSIONS)

    def __init__(self, engine_path: str, database: str) -> None:
        self._path = engine_path
        self._own_sets: list[str] = []
        self._settings: dict[str, tuple[str, bool]] = {}
        self._described: dict[Any, list[tuple[str, str]]] = {}
        self._connect(database)

    def _connect(self, database: str) -> None:
        from chdb.state.sqlitelike import connect

        self._engine: Any = connect(self._path)
        if database:
            self._engine.query(f"USE {quoted(database, '`')}")

    def close(self) -> None:
        self._engine.close()

    def text(self, query: str) -> str:
        """The one value of a one-row query."""
        return str(json.loads(str(self._engine.query(query, "JSONCompact")))["data"][0][0])

    def columns(self, query: str) -> list[tuple[str, str]]:
        """Names and types of what a SELECT answers, without running it.

        Kept until something else than a SELECT or an insert is run: to describe a question takes as
        long as to plan it, which is most of what a small one takes."""
        key = (query, Session.version, tuple(self._settings.items()))
        found = self._described.get(key)
        if found is None:
            # Limits meant for the result must not cut off its description.
            free = "max_result_rows = 0, max_result_bytes = 0, limit = 0, offset = 0"
            answer = self._engine.query(f"DESCRIBE (\n{query}\n) SETTINGS {free}", "JSONCompact")
            found = [(row[0], row[1]) for row in json.loads(str(answer))["data"]]
            if len(self._described) >= _DESCRIBED_MAX:
                self._described.clear()
            self._described[key] = found
        return found

    def run(self, query: str) -> bytes:
        """Runs a statement to its end; its result, if it has one, in `Native`."""
        try:
            result = self._engine.query(query, "Native").bytes()
        finally:
            Session.version = next(_VERSIONS)
        if re.match(r"\s*SET\s", query, re.IGNORECASE):
            self._own_sets.append(query)
        return bytes(result)

    def stream(self, query: str) -> Any:
        return self._engine.send_query(query, "Native")

    def insert(self, statement: str, rows: int) -> None:
        """Runs an insert from a file; an error unless the engine saw exactly so many rows."""
        seen = self._engine.query(statement, "Native").rows_read()
        if seen != rows:
            raise QueryError(
                _STD_EXCEPTION, f"DB::Exception: {rows} rows were sent, {seen} reached the engine"
            )

    def apply(self, settings: dict[str, tuple[str, bool]]) -> list[str]:
        """Sets them for the coming query; returns the names to reset. Unknown ones are ignored
        unless the client marked them as important, as a server does."""
        if not all(map(_SETTING_NAME.match, settings)):
            raise QueryError(_UNKNOWN_SETTING, "DB::Exception: not a name of a setting")
        self._settings = settings
        # All in one statement, for each takes as long as a small query; one by one if that fails.
        together = ", ".join(f"{name} = {quoted(value)}" for name, (value, _) in settings.items())
        with contextlib.suppress(Exception):
            if together:
                self._engine.query(f"SET {together}")
            return list(settings)
        applied: list[str] = []
        for name, (value, important) in settings.items():
            try:
                self._engine.query(f"SET {name} = {quoted(value)}")
            except Exception as error:
                if important or QueryError.of(error).code != _UNKNOWN_SETTING:
                    self.reset(applied)
                    raise
            else:
                applied.append(name)
        return applied

    def reset(self, names: list[str]) -> None:
        """Back to what the session had before `apply`."""
        if not names:
            return
        try:
            self._engine.query("SET " + ", ".join(f"{name} = DEFAULT" for name in names))
        except Exception:
            # For instance readonly = 1 forbids to change settings back: begin a new session.
            database = self.text("SELECT currentDatabase()")
            self._engine.close()
            self._connect(database)
        for statement in self._own_sets:
            self._engine.query(statement)


def split_blocks(native: bytes) -> list[bytes]:
    """`Native` output of one or more blocks as single ones, led by a header block.

    Parsed with the client library's own reader; only for the small answers of SHOW and such.
    """
    from clickhouse_driver.bufferedreader import CompressedBufferedReader
    from clickhouse_driver.client import Client as Driver
    from clickhouse_driver.connection import ServerInfo
    from clickhouse_driver.streams.native import BlockInputStream

    context = Driver("127.0.0.1").connection.context  # not connected: only its defaults
    context.server_info = ServerInfo("", 0, 0, 0, 0, "UTC", "", used_revision=0)
    reader = CompressedBufferedReader(lambda: native, len(native))
    parser = BlockInputStream(reader, context)
    blocks: list[bytes] = []
    end = 0
    while end < len(native):
        columns = parser.read(use_numpy=False).columns_with_types
        if not blocks:
            blocks.append(header_block(columns))
        blocks.append(native[end : reader.position])
        end = reader.position
    return blocks


def quoted(text: str, quote: str = "'") -> str:
    """As a literal or, with a backtick, as a name."""
    return quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote
