"""Notices: what one server process changes about access, the others hear at once, through Redis.

Nothing depends on being heard: a state that is remembered is gone by for STATE_AGE_S at most, also
while Redis is away. A notice says that something ended or changed, and is believed only that far: it
makes others read anew, or refuse what has that id.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from chimera.background import cancelled
from chimera.identity.endings import CHANGES, Changes
from chimera.ids import new_id

log = structlog.get_logger("chimera.identity")

CHANNEL = "chimera:access"
LISTEN_S = 5.0
ASK_AGAIN_S = 1.0
UNTOLD_MAX = 10_000


class Notices:
    """Of one server process; see `exchanged`."""

    def __init__(self, redis: Redis, changes: Changes) -> None:
        self.redis, self.changes = redis, changes
        self._name = new_id()
        self._untold: asyncio.Queue[str] = asyncio.Queue(UNTOLD_MAX)

    @classmethod
    @asynccontextmanager
    async def exchanged(cls, redis: Redis, changes: Changes = CHANGES) -> AsyncIterator[None]:
        """Told and heard in the background."""
        notices = cls(redis, changes)
        changes.tells.append(notices.tell)
        tasks = [asyncio.create_task(notices._tell_all()), asyncio.create_task(notices._hear_all())]
        try:
            yield
        finally:
            changes.tells.remove(notices.tell)
            for task in tasks:
                await cancelled(task)

    def tell(self, ended_id: str) -> None:
        """An id that has ended, or empty when what people may do has changed. Never waits."""
        if not self._untold.full():
            self._untold.put_nowait(ended_id)

    async def _tell_all(self) -> None:
        while True:
            ended_id = await self._untold.get()
            try:
                await self.redis.publish(CHANNEL, f"{self._name} {ended_id}")
            except (RedisError, OSError) as error:
                log.warning("notices.not_told", error=type(error).__name__)

    async def _hear_all(self) -> None:
        while True:
            try:
                async with self.redis.pubsub() as channel:
                    await channel.subscribe(CHANNEL)
                    while True:
                        heard = await channel.get_message(
                            ignore_subscribe_messages=True, timeout=LISTEN_S
                        )
                        if heard is not None:
                            self._hear(heard["data"])
            except (RedisError, OSError) as error:
                log.warning("notices.not_heard", error=type(error).__name__)
            await asyncio.sleep(ASK_AGAIN_S)

    def _hear(self, notice: bytes) -> None:
        name, _, ended_id = notice.decode(errors="replace").partition(" ")
        if name != self._name:
            self.changes.hear(ended_id)
