"""Just enough of ClickHouse's statement syntax to serve the native protocol.

A server has to know before it runs a statement whether rows come back, and whether an INSERT
expects its data in blocks from the client. Everything else is left to the engine's parser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<skip>  \s+ | --[^\n]* | \#[\ !][^\n]* | /\*.*?\*/ )
  | (?P<quoted> '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | `(?:[^`\\]|\\.|``)*`
              | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
  | (?P<word>  \w+ )
  | (?P<sign>  . )
    """,
    re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True)
class _Token:
    kind: str  # quoted, word or sign
    text: str
    start: int
    end: int

    def says(self, *words: str) -> bool:
        return self.kind == "word" and self.text.upper() in words


_NOTHING = _Token("sign", "", 0, 0)


class _Cursor:
    """Walks over the tokens of a statement, stepping over comments and white space."""

    def __init__(self, statement: str) -> None:
        self.statement = statement
        self._tokens = [
            _Token(str(match.lastgroup), match.group(), match.start(), match.end())
            for match in _TOKEN.finditer(statement)
            if match.lastgroup != "skip"
        ]
        self._at = 0

    @property
    def token(self) -> _Token:
        """The current token; an empty one at the end."""
        return self._tokens[self._at] if self._at < len(self._tokens) else _NOTHING

    @property
    def last_end(self) -> int:
        """Where the token before the current one ends."""
        return self._tokens[self._at - 1].end if 0 < self._at <= len(self._tokens) else 0

    def step(self) -> _Token:
        token = self.token
        self._at += token is not _NOTHING
        return token

    def skip_group(self) -> tuple[int, int]:
        """Steps over `( ... )`; start and end of what is inside."""
        start, depth = self.step().end, 1
        while self.token is not _NOTHING:
            token = self.step()
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            if depth == 0:
                return start, token.start
        return start, len(self.statement)

    def at_end(self) -> bool:
        return self.token is _NOTHING or self.token.text == ";"


@dataclass(frozen=True)
class Insert:
    """An INSERT whose data the client sends in blocks.

    `head`: up to the target and its column list. `settings`: what follows up to VALUES or FORMAT.
    `source`: the target as it would stand after FROM. `columns`: the column list without
    parentheses, `*` if there is none.
    """

    head: str
    settings: str
    source: str
    columns: str

    def from_file(self, path: str) -> str:
        """The same insert, reading blocks in `Native` from a file of the server."""
        return f"{self.head} FROM INFILE '{path}' {self.settings}\nFORMAT Native"


def parse_insert(statement: str) -> Insert | None:
    """None for anything but an INSERT that awaits data: also INSERT ... SELECT and inline data."""
    cursor = _Cursor(statement)
    if not cursor.step().says("INSERT"):
        return None
    while cursor.token.says("INTO", "TABLE"):
        cursor.step()
    source = _target(cursor)
    columns = "*"
    if cursor.token.text == "(":
        start, end = cursor.skip_group()
        columns = statement[start:end].strip()
        if _Cursor(columns).token.says("SELECT", "WITH"):
            return None
    after_target = cursor.last_end
    while not cursor.at_end():
        token = cursor.step()
        if token.says("SELECT", "WITH", "FROM") or token.text == "(":
            return None
        if token.says("VALUES", "FORMAT"):
            if token.says("FORMAT"):
                cursor.step()
            if not cursor.at_end():
                return None
            settings = statement[after_target : token.start]
            return Insert(statement[:after_target], settings, source, columns)
    settings = statement[after_target : cursor.last_end]
    return Insert(statement[:after_target], settings, source, columns)


def returns_rows(statement: str) -> bool:
    """Whether it is a SELECT in one of its spellings, so that its rows can be streamed."""
    first = _Cursor(statement).token
    return first.text == "(" or first.says("SELECT", "WITH", "FROM")


def without_format(statement: str) -> str:
    """Without the final `;` and FORMAT clause: blocks are the only format of the protocol."""
    cursor = _Cursor(statement)
    before, last = _NOTHING, _NOTHING
    while not cursor.at_end():
        if cursor.token.text == "(":
            cursor.skip_group()
            before = last = _NOTHING
        else:
            before, last = last, cursor.step()
    end = cursor.token.start if cursor.token.text == ";" else len(statement)
    if before.says("FORMAT") and last.kind == "word":
        end = before.start
    return statement[:end]


def _target(cursor: _Cursor) -> str:
    """A table, `database.table`, or `FUNCTION name(arguments)`, which may be quoted."""
    is_function = cursor.token.says("FUNCTION")
    if is_function:
        cursor.step()
    first = last = cursor.step()
    while cursor.token.text == ".":
        cursor.step()
        last = cursor.step()
    if is_function and cursor.token.text == "(":
        _, end = cursor.skip_group()
        return cursor.statement[first.start : end + 1]
    return cursor.statement[first.start : last.end]
