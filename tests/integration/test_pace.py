"""Requests and tokens a minute per credential, over the whole cluster."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from chimera.campaigns.engine.pace import Pace
from chimera.embedded.stack import Stack, StackUrls
from chimera.ids import new_id

RATE = 600  # a minute: ten a second, two seconds' worth in the bucket


@pytest.fixture
async def redis(stack: StackUrls) -> AsyncIterator[Redis]:
    client: Redis = Redis.from_url(stack.redis_url)
    yield client
    await client.aclose()


async def taken(pace: Pace, tokens: int = 1) -> int:
    """All that can be had right now."""
    count = 0
    while True:
        pace.ready_at = 0.0
        await pace.refill(32, tokens)
        if not pace.permits:
            return count
        count += pace.permits
        pace.permits = 0


async def test_two_drives_share_one_allowance(redis: Redis) -> None:
    """What one worker takes, another does not get; both together stay within the rate."""
    credential = new_id()
    one, two = (Pace(redis, credential, RATE, 0) for _ in range(2))
    started = time.monotonic()
    first = await taken(one)
    second = await taken(two)
    elapsed_s = time.monotonic() - started
    assert first >= 20
    assert first + second <= 20 + 10 * elapsed_s + 1


async def test_credentials_have_allowances_of_their_own(redis: Redis) -> None:
    one, two = (Pace(redis, new_id(), RATE, 0) for _ in range(2))
    assert await taken(one) >= 20
    assert await taken(two) >= 20


async def test_tokens_count_as_well_as_requests(redis: Redis) -> None:
    """600 requests a minute would allow twenty, but 6,000 tokens a minute only two of 100."""
    pace = Pace(redis, new_id(), RATE, 6000)
    started = time.monotonic()
    count = await taken(pace, tokens=100)
    assert 1 <= count <= 2 + (time.monotonic() - started) + 1


async def test_a_cool_down_holds_for_everyone(redis: Redis) -> None:
    """A provider's Retry-After that one worker was told is obeyed by the others."""
    credential = new_id()
    one, two = (Pace(redis, credential, RATE, 0) for _ in range(2))
    await one.cool_down(30)
    await two.refill(5, 1)
    assert two.permits == 0
    assert two.ready_at > time.monotonic() + 20


async def test_without_a_limit_everything_is_granted(redis: Redis) -> None:
    pace = Pace(redis, new_id(), 0, 0)
    assert all(pace.take() for _ in range(1000))
    assert not pace.wants_refill()


async def test_without_redis_a_drive_keeps_to_its_share(running_stack: Stack) -> None:
    """Redis is gone: each of four drives gets a quarter of the rate, one request at a time."""
    gone: Redis = Redis.from_url("redis://127.0.0.1:1/0", socket_connect_timeout=0.5)
    pace = Pace(gone, new_id(), RATE, 0)
    pace.drivers = 4
    started = time.monotonic()
    count = await taken(pace)
    assert 1 <= count <= 1 + 2.5 * (time.monotonic() - started) + 1
    assert pace.ready_at > started
    await gone.aclose()
