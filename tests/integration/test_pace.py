"""Requests and tokens a minute per credential, over the whole cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from chimera.campaigns.engine.pace import Pace
from chimera.embedded.stack import Stack, StackUrls
from chimera.ids import new_id
from chimera.providers.adapters.limits import Told
from chimera.providers.rate_limits import shared_key

RATE = 600  # a minute: ten a second, two seconds' worth in the bucket


@pytest.fixture
async def redis(stack: StackUrls) -> AsyncIterator[Redis]:
    client: Redis = Redis.from_url(stack.redis_url)
    yield client
    await client.aclose()


async def full(redis: Redis, credential: str, *, tokens: int = 0) -> None:
    """Buckets as after a long rest."""
    now_ms = int((await redis.time())[0]) * 1000
    for kind in ("requests", "tokens"):
        await redis.hset(shared_key(credential, kind), mapping={"level": 10**9, "at": now_ms})


async def taken(pace: Pace, tokens: int = 1) -> int:
    """All that can be had right now."""
    count = 0
    while True:
        pace.ready_at = 0.0
        await pace.refill(32, tokens)
        if not pace.permits:
            return count
        while pace.take(tokens):
            count += 1


def most(elapsed_s: float, *, limit: float = RATE) -> float:
    """What a bucket lets through in this time at most: two seconds' worth, and its rate."""
    return limit / 30 + limit / 60 * elapsed_s + 1


async def test_two_drives_share_one_allowance(redis: Redis) -> None:
    """What one worker takes, another does not get; both together stay within the rate."""
    credential = new_id()
    one, two = (Pace(redis, credential, RATE, 0, run_id="r") for _ in range(2))
    await full(redis, credential)
    started = time.monotonic()
    first = await taken(one)
    second = await taken(two)
    assert first >= 20
    assert first + second <= most(time.monotonic() - started)


async def test_credentials_have_allowances_of_their_own(redis: Redis) -> None:
    for _ in range(2):
        credential = new_id()
        await full(redis, credential)
        assert await taken(Pace(redis, credential, RATE, 0)) >= 20


async def test_a_bucket_that_is_lost_begins_empty(redis: Redis) -> None:
    """Flushing Redis again and again gains nothing."""
    credential = new_id()
    pace = Pace(redis, credential, RATE, 0)
    started = time.monotonic()
    count = 0
    for _ in range(30):
        await redis.delete(*pace.keys)
        count += await taken(pace)
        await asyncio.sleep(0.01)
    assert count <= RATE / 60 * (time.monotonic() - started) + 1


async def test_tokens_count_as_well_as_requests(redis: Redis) -> None:
    """600 requests a minute would allow twenty, but 6,000 tokens a minute only two of 100. What calls
    did not need is there for others."""
    credential = new_id()
    pace = Pace(redis, credential, RATE, 6000)
    await full(redis, credential)
    started = time.monotonic()
    count = await taken(pace, tokens=100)
    assert 1 <= count <= most(time.monotonic() - started, limit=60)
    pace.used(100, 10)
    pace.used(100, 10)
    assert await taken(pace, tokens=100) >= 1
    assert await taken(pace, tokens=100) <= most(time.monotonic() - started, limit=60)


async def test_a_cool_down_holds_for_everyone_who_wants_that_model(redis: Redis) -> None:
    """A provider's Retry-After that one worker was told is obeyed by the others, limit or no limit;
    another model of the same key goes on."""
    credential = new_id()
    one, two, unlimited, other = (
        Pace(redis, credential, limit, 0, model=model)
        for limit, model in ((RATE, "m"), (RATE, "m"), (0, "m"), (RATE, "other"))
    )
    await full(redis, credential)
    await one.cool_down(30)
    await two.refill(5, 1)
    await unlimited.look()
    await other.refill(5, 1)
    for pace in (two, unlimited):
        assert not pace.take()
        assert pace.cooling_until > time.monotonic() + 20
    assert other.take()
    await redis.delete(*one.keys)
    assert not one.take() and one.cooling_until > time.monotonic() + 20


async def test_refusals_shrink_the_share_for_everyone(redis: Redis) -> None:
    """A burst of refusals counts once; three of them leave a third of the limit, which grows back."""
    credential = new_id()
    pace = Pace(redis, credential, RATE, 0)
    share = shared_key(credential, "share")
    for _ in range(3):
        await asyncio.gather(*(pace.slow_down() for _ in range(10)))
        await redis.hset(share, "slowed", 0)
    assert float(await redis.hget(share, "share") or 1) == pytest.approx(0.343, abs=0.01)
    await full(redis, credential)
    started = time.monotonic()
    assert await taken(pace) <= most(time.monotonic() - started, limit=RATE * 0.36)
    at = int(await redis.hget(share, "at") or 0)
    await redis.hset(share, "at", at - 60_000)
    await full(redis, credential)
    assert await taken(pace) >= 18


async def test_what_the_provider_tells_holds_when_it_is_less(redis: Redis) -> None:
    """Headers tell of a lower limit, of one where none was configured, and of a spent one."""
    credential = new_id()
    pace = Pace(redis, credential, RATE, 0, model="m")
    await pace.learn(Told(requests_per_minute=60, tokens_per_minute=9000))
    assert (pace.requests_per_minute, pace.tokens_per_minute) == (60, 9000)
    pace.limit(30, 0)
    assert (pace.requests_per_minute, pace.tokens_per_minute) == (30, 9000)
    pace.limit(RATE, 0)
    other = Pace(redis, credential, RATE, 0, model="other")
    await full(redis, credential)
    started = time.monotonic()
    assert await taken(pace, tokens=1) <= time.monotonic() - started + 1
    assert await taken(other) >= 18
    await pace.learn(Told(left=0, exhausted_s=20))
    assert pace.cooling_until > time.monotonic() + 10


async def test_runs_take_turns(redis: Redis) -> None:
    """A run with five drives and one with a single one get the same; alone, a run gets all."""
    credential = new_id()
    many = [Pace(redis, credential, 6000, 0, run_id="many") for _ in range(5)]
    single = Pace(redis, credential, 6000, 0, run_id="single")
    got = {"many": 0, "single": 0}
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        for pace in (*many, single):
            if pace.wants_refill():
                await pace.refill(8, 1)
            while pace.take():
                got[pace.run_id] += 1
        await asyncio.sleep(0.005)
    assert got["single"] >= 0.4 * sum(got.values()), got
    assert sum(got.values()) >= 40


async def test_without_a_limit_everything_is_granted(redis: Redis) -> None:
    pace = Pace(redis, new_id(), 0, 0)
    assert all(pace.take() for _ in range(1000))
    assert not pace.wants_refill()


async def test_without_redis_a_drive_keeps_to_its_share(running_stack: Stack) -> None:
    """Redis is gone: each of four drives gets a quarter of the rate, one request at a time, and
    begins with nothing."""
    gone: Redis = Redis.from_url("redis://127.0.0.1:1/0", socket_connect_timeout=0.5)
    pace = Pace(gone, new_id(), RATE, 0)
    pace.drives = 4
    started = time.monotonic()
    assert await taken(pace) <= 2.5 * (time.monotonic() - started)
    assert pace.ready_at > started
    await asyncio.sleep(pace.ready_at - time.monotonic() + 0.01)
    count = await taken(pace)
    assert 1 <= count <= 1 + 2.5 * (time.monotonic() - started)
    await gone.aclose()
