"""Signing in while Redis is dead: nobody notices, except who guesses passwords."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from redis.exceptions import RedisError, ResponseError

from chimera import scripts
from chimera.core import open_redis
from chimera.embedded.stack import Stack
from chimera.scripts import Script
from chimera.settings import Settings
from tests.support.world import PASSWORD, Refused, World


@pytest.fixture
async def without_redis(world: World, running_stack: Stack) -> AsyncIterator[World]:
    """A world with an organisation, whose Redis then dies."""
    await world.organisation("acme")
    running_stack.kill("redis")
    try:
        yield world
    finally:
        running_stack.restart("redis")


async def test_tokens_logins_and_keys_work_without_redis(without_redis: World) -> None:
    """What was signed before works, and so does signing in, refreshing and signing out."""
    world = without_redis
    person = await world.log_in("admin-acme")
    made = await person.identity.CreateApiKey(name="ci")
    await person.holding(made.secret).identity.GetMe()
    answer = await person.identity.RefreshSession(refresh_token=person.tokens.refresh_token)
    await person.holding(answer.tokens.access_token).identity.Logout()


async def test_guessing_is_still_slowed_without_redis(without_redis: World) -> None:
    """The process counts by itself: after five failures even the right password has to wait."""
    world = without_redis
    for _ in range(5):
        with pytest.raises(Refused) as refused:
            await world.nobody().identity.Login(login="admin-acme", password="wrong")
        assert refused.value.reason == "CREDENTIALS_INVALID"
    with pytest.raises(Refused) as refused:
        await world.nobody().identity.Login(login="admin-acme", password=PASSWORD)
    assert refused.value.reason == "RATE_LIMITED"


async def test_redis_that_came_back_is_asked_at_once(
    settings: Settings, running_stack: Stack
) -> None:
    """Connections from before are found to be closed when they are next wanted. The new Redis knows
    no script, and is told; who gave up waiting leaves the answers to the others in their order."""
    redis = open_redis(settings)
    echo = Script(redis, "return {KEYS[1], ARGV[1]}")
    fails = Script(redis, "return redis.call('GET')")

    async def echoed(number: int) -> bool:
        return await echo(keys=[f"key-{number}"], args=[number]) == [
            f"key-{number}".encode(),
            str(number).encode(),
        ]

    assert all(await asyncio.gather(*map(echoed, range(50))))
    asked = [asyncio.create_task(echoed(number)) for number in range(50)]
    await asyncio.sleep(0)
    asked[7].cancel()
    with pytest.raises(ResponseError, match="Wrong number of arg"):
        await fails(keys=[], args=[])
    assert all(await asyncio.gather(*asked[:7], *asked[8:]))
    await asyncio.gather(*(redis.get("nothing") for _ in range(3)))
    await asyncio.to_thread(running_stack.kill, "redis")
    await asyncio.to_thread(running_stack.restart, "redis")
    assert [await redis.get("nothing") for _ in range(4)] == [None] * 4
    assert await echoed(1)
    await asyncio.to_thread(running_stack.kill, "redis")
    with pytest.raises((RedisError, OSError)):
        await echoed(2)
    await asyncio.to_thread(running_stack.restart, "redis")
    assert all(await asyncio.gather(*map(echoed, range(5))))
    await redis.aclose()


class Relay:
    """A way to Redis that can be cut so that both ends find their connections reset."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.made = self.asked_bytes = 0
        self.flows = asyncio.Event()
        self.flows.set()

    @asynccontextmanager
    async def to(self, redis_url: str) -> AsyncIterator[str]:
        there = urlsplit(redis_url)

        async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await reader.read(1 << 16):
                    self.asked_bytes += len(data)
                    await self.flows.wait()
                    writer.write(data)

        async def relayed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.made += 1
            far_reader, far_writer = await asyncio.open_connection(there.hostname, there.port)
            self.writers += [writer, far_writer]
            await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer))

        server = await asyncio.start_server(relayed, "127.0.0.1", 0)
        try:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        finally:
            self.cut()
            server.close()

    def cut(self) -> None:
        for writer in self.writers:
            at_once = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            writer.transport.abort()
        self.writers.clear()


async def test_a_reset_connection_is_made_anew(settings: Settings, running_stack: Stack) -> None:
    """Also when it was reset rather than closed, as a router between does: those who waited hear of it,
    and what they asked for is not asked twice."""
    relay = Relay()
    async with relay.to(settings.redis_url.get_secret_value()) as url:
        redis = open_redis(settings.model_copy(update={"redis_url": SecretStr(url)}))
        count = Script(redis, "return redis.call('INCR', KEYS[1])")
        for round_no in range(1, 4):
            await asyncio.gather(*(redis.get("nothing") for _ in range(3)))
            made = relay.made
            assert await count(keys=["asked"], args=[]) == round_no
            relay.cut()
            before = asyncio.create_task(count(keys=[f"lost-{round_no}"], args=[]))
            with suppress(RedisError, OSError):
                await before
            assert await count(keys=[f"next-{round_no}"], args=[]) == 1
            assert [await redis.get("nothing") for _ in range(4)] == [None] * 4
            assert await redis.get(f"lost-{round_no}") in (None, b"1")
            assert relay.made > made
        await redis.aclose()


async def test_a_redis_that_hangs_is_waited_for_once(
    settings: Settings, running_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes next is told at once and asks nothing of it, on the old connection and when a new one is
    not greeted; after a while it is asked again."""
    monkeypatch.setattr(scripts, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(scripts, "SILENCE_S", 3600)
    relay = Relay()
    async with relay.to(settings.redis_url.get_secret_value()) as url:
        redis = open_redis(settings.model_copy(update={"redis_url": SecretStr(url)}))
        count = Script(redis, "return redis.call('INCR', KEYS[1])")
        assert await count(keys=["before"], args=[]) == 1
        line = scripts._LINES[redis]
        relay.flows.clear()
        for _ in ("on the old connection", "when a new one is made"):
            with pytest.raises((RedisError, OSError)):
                await count(keys=["hung"], args=[])
            asked = (relay.asked_bytes, relay.made)
            for _ in range(3):
                with pytest.raises(RedisError, match="a moment ago"):
                    await count(keys=["hung"], args=[])
            assert (relay.asked_bytes, relay.made) == asked
            line._silent_until = 0.0
        relay.flows.set()
        assert await count(keys=["after"], args=[]) == 1
        await redis.aclose()
