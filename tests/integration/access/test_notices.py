"""What one process changes, the others hear."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chimera.embedded.stack import Stack, StackUrls
from chimera.identity.endings import Changes
from chimera.identity.notices import CHANNEL, Notices
from tests.support.processes import eventually


async def heard_by(redis: Redis, listeners: int) -> None:
    """So many processes listen."""

    async def all_listen() -> bool:
        with suppress(RedisError):
            [(_, count)] = await redis.pubsub_numsub(CHANNEL)
            return bool(count == listeners)
        return False

    await eventually(all_listen)


async def test_what_one_changes_the_others_hear(stack: StackUrls, running_stack: Stack) -> None:
    """An end by its id, a change by its number; nobody hears their own twice. When Redis comes back
    after a death, they hear each other again."""
    here, there = Changes(), Changes()
    async with AsyncExitStack() as open_:
        redis = await open_.enter_async_context(Redis.from_url(stack.redis_url))
        for changes in (here, there):
            await open_.enter_async_context(Notices.exchanged(redis, changes))
        await heard_by(redis, 2)
        here.note_end("session")
        here.note()
        await eventually(lambda: there.count == 1)
        assert there.has_ended("session") and here.has_ended("session")
        there.note()
        await eventually(lambda: here.count == 2)
        assert there.count == 2

        running_stack.kill("redis")
        here.note()  # nobody hears it, and nothing waits for that
        running_stack.restart("redis")
        await heard_by(redis, 2)
        here.note_end("key")
        await eventually(lambda: there.has_ended("key"))
    assert not here.tells
