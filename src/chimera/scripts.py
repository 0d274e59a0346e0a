"""Lua scripts in Redis, sent one behind the other on one connection of the process.

redis-py takes a connection for every call, looks whether it is sound, encodes word by word and waits
under two timers: with three calls that was a tenth of what a login costs besides its hash. Here a call
is a write, and its answer the next that comes; the connection is made and greeted by redis-py.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as TooLate

TIMEOUT_S = 2.0
# Who finds it silent tells the others: nobody else waits for it so long. A Redis that hangs would
# otherwise take TIMEOUT_S three times of each login.
SILENCE_S = 5.0
_NOT_YET = object()
Word = str | bytes | int | float


class Script:
    """Called with keys and args, it answers what the script returns. Raises RedisError, OSError."""

    def __init__(self, redis: Redis, text: str) -> None:
        self._line = _LINES.get(redis) or _LINES.setdefault(redis, _Line(redis))
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, *, keys: Sequence[str], args: Sequence[Word]) -> Any:
        given = (len(keys), *keys, *args)
        try:
            return await self._line.ask(("EVALSHA", self._digest, *given))
        except ResponseError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        return await self._line.ask(("EVAL", self._text, *given))


class _Line:
    """The connection for the scripts of one client, which closes it."""

    def __init__(self, redis: Redis) -> None:
        self._pool = redis.connection_pool
        self._answers: _Answers | None = None
        self._opening: asyncio.Task[_Answers] | None = None
        self._silent_until = 0.0

    async def ask(self, words: tuple[Word, ...]) -> Any:
        """Sent once: a script whose answer was lost may have run, and most count something."""
        if time.monotonic() < self._silent_until:
            raise ConnectionLost("Redis did not answer a moment ago")
        answers = self._answers
        if answers is None or answers.is_lost:
            if self._opening is None:
                self._opening = asyncio.create_task(self._open())
                self._opening.add_done_callback(self._opened)
            # One for all who wait, for a Redis that hangs would keep them waiting one after the other.
            answers = await asyncio.shield(self._opening)
        return await answers.ask(words)

    async def _open(self) -> _Answers:
        lost, self._answers = self._answers, None
        if lost is not None:
            # What was reset looks sound to redis-py, which would hand it out again.
            await lost.connection.disconnect(nowait=True)
            await self._pool.release(lost.connection)
        self._answers = _Answers(await self._pool.get_connection(), self._was_silent)
        return self._answers

    def _opened(self, opening: asyncio.Task[_Answers]) -> None:
        self._opening = None
        # Looked at also when none of those who waited for it is left to see it.
        if not opening.cancelled() and isinstance(opening.exception(), TooLate):
            self._was_silent()

    def _was_silent(self) -> None:
        self._silent_until = time.monotonic() + SILENCE_S


class _Answers(asyncio.Protocol):
    """What comes on a connection that redis-py has opened, each for whoever has waited longest."""

    def __init__(self, connection: Any, was_silent: Callable[[], None]) -> None:
        self.connection = connection
        self._was_silent = was_silent
        self._transport: Any = connection._writer.transport
        self._before: Any = self._transport.get_protocol()
        self._reader = hiredis.Reader(replyError=ResponseError, notEnoughData=_NOT_YET)
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._transport.set_protocol(self)
        # Closed meanwhile, it is told to nobody any more.
        self.is_lost = self._transport.is_closing()

    async def ask(self, words: tuple[Word, ...]) -> Any:
        """Raises ConnectionLost, and ResponseError for what the script raised."""
        if self.is_lost:
            raise ConnectionLost("Redis is away")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        # First, for what cannot be packed must not be waited for.
        packed = hiredis.pack_command(words)  # type: ignore[arg-type]  # its types know one word only
        self._waiting.append(answer)
        self._transport.write(packed)
        timer = loop.call_later(TIMEOUT_S, self._too_late, answer)
        try:
            return await answer
        finally:
            timer.cancel()

    def _too_late(self, answer: asyncio.Future[Any]) -> None:
        """The next that comes would be somebody else's answer, so the connection ends for all."""
        if not answer.done():
            self._was_silent()
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not _NOT_YET:
            waiting = self._waiting.popleft()
            if waiting.done():  # whoever asked was cancelled
                continue
            if isinstance(answer, ResponseError):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self._before.connection_lost(error)
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(ConnectionLost("Redis has hung up, or did not answer"))


_LINES: WeakKeyDictionary[Redis, _Line] = WeakKeyDictionary()
