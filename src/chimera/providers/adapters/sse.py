"""Server-sent events out of bytes that arrive in pieces (WHATWG HTML, section 9.2.6).

Pieces may end anywhere: inside a character, between CR and LF, in the middle of a field name.
"""

from __future__ import annotations

from typing import NamedTuple

LINE_BYTES_MAX = 4_000_000
_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """`name` is "message" unless the stream says otherwise."""

    name: str
    data: bytes


class TooLong(ValueError):
    """A line or an event that is longer than any honest one."""


class EventReader:
    """Feed it bytes; it gives the events that became complete. Comments, ids and retry times are
    left out. An event the stream ends in the middle of is none."""

    __slots__ = ("_begun", "_data", "_name", "_rest", "_size")

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """Raises TooLong."""
        body = self._rest + chunk
        if not self._begun:
            if len(body) < len(_BOM) and _BOM.startswith(body):
                self._rest = body
                return []
            self._begun = True
            body = body.removeprefix(_BOM)
        # A CR at the very end may be half of a CR LF: it waits for what follows.
        held = b"\r" if body.endswith(b"\r") else b""
        body = body[: len(body) - len(held)]
        if b"\r" in body:
            body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = body.split(b"\n")
        self._rest = rest + held
        if len(self._rest) > LINE_BYTES_MAX:
            raise TooLong
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: bytes) -> Event | None:
        if not line:
            name, data = self._name, self._data
            self._name, self._data, self._size = "", [], 0
            return Event(name or "message", b"\n".join(data)) if data else None
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > LINE_BYTES_MAX:
                raise TooLong
        elif field == b"event":
            self._name = value.decode(errors="replace")[:100]
        return None
