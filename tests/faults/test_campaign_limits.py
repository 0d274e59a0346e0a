"""Limits a minute, kept by several workers and counted where the calls arrive: also while Redis is
flushed or away, and when the target refuses in storms."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from chimera.embedded.stack import Stack
from chimera.v1.campaigns_pb2 import RunState
from tests.support.campaigns import launched
from tests.support.workers import Stage, until
from tests.support.world import Refused

LIMIT = 1200  # a minute
SLACK_S = 0.7  # between the permit and the wire, on a busy machine


class Arrivals:
    """When how many calls had arrived, as the assistant counts them."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float, int]] = []  # asked at, answered at, calls

    @property
    def calls(self) -> int:
        return self.samples[-1][2]

    def check(self, *, limit: int = LIMIT, slack: float = 1.0) -> None:
        """No window had more than two seconds' worth and its rate; slack: calls more."""
        for number, (since, _, before) in enumerate(self.samples):
            for _, answered, calls in self.samples[number + 1 :]:
                most = limit / 30 + limit / 60 * (answered - since + SLACK_S) + slack
                assert calls - before <= most, (answered - since, calls - before)


@asynccontextmanager
async def arrivals(stage: Stage) -> AsyncIterator[Arrivals]:
    """Counts all the time."""
    counted = Arrivals()

    async def count() -> None:
        while True:
            asked = time.monotonic()
            calls = (await stage.assistant.stats("none"))["calls_total"]
            counted.samples.append((asked, time.monotonic(), calls))
            await asyncio.sleep(0.05)

    task = asyncio.create_task(count())
    try:
        yield counted
    finally:
        task.cancel()


async def test_three_workers_keep_to_the_limit_through_flushes(
    stage: Stage, running_stack: Stack
) -> None:
    """Three workers on one run and one key, Redis flushed five times: no window has more than the
    limit says, and no call is made twice."""
    plan = await stage.plan(rows=45, concurrency=24, provider={"requests_per_minute": LIMIT})
    for _ in range(3):
        stage.worker()
    redis: Redis = Redis.from_url(running_stack.urls.redis_url)
    async with arrivals(stage) as counted:
        run = await stage.launched(plan)
        for done in (5, 15, 25, 40, 60):
            await stage.results(run.id, done)
            await redis.flushall()
        over = await stage.over(run.id)
    await redis.aclose()
    assert over.counts.scored == 90
    counted.check()
    await stage.books.check(run.id, cells=90)
    assert set((await stage.assistant.arrived(run.id)).values()) == {1}


async def test_tokens_are_taken_at_the_most_and_given_back(stage: Stage) -> None:
    """A call may need up to 300 tokens and needs far fewer: the limit is kept by what was needed, and
    the run is a good deal faster than the estimates alone would let it be."""
    limit = 30_000
    plan = await stage.plan(rows=30, concurrency=8, provider={"tokens_per_minute": limit})
    stage.worker()
    stage.worker()
    run = await stage.launched(plan)
    started = time.monotonic()
    over = await stage.over(run.id)
    elapsed_s = time.monotonic() - started
    used = over.counts.input_tokens + over.counts.output_tokens
    assert used <= limit / 30 + limit / 60 * (elapsed_s + SLACK_S)
    await stage.books.check(run.id, cells=60)
    estimated = 60 * 256
    assert used < estimated / 2
    assert elapsed_s < estimated / (limit / 60)


async def test_two_campaigns_with_one_key_take_turns(stage: Stage) -> None:
    """A large campaign on two workers and a small one with the same key: the small one gets its half
    and is over long before the large one."""
    plan = await stage.plan(rows=100, concurrency=32, provider={"requests_per_minute": 1200})
    stage.worker()
    stage.worker()
    async with arrivals(stage) as counted:
        large = await stage.launched(plan, "large")
        await stage.results(large.id, 20)
        del plan.prompts[0].rows[10:]
        plan.limits.concurrency = 8
        small = await launched(stage.olivia, plan, "small")
        before = len(await stage.books.recorded(large.id))
        await stage.over(small.id)
        served = len(await stage.books.recorded(large.id)) - before
        await stage.olivia.campaigns.CancelCampaign(campaign_id=large.campaign_id)
    counted.check(limit=1200, slack=2.0)
    assert served <= 60, "the large one had much more than its half"
    await stage.books.check(small.id, cells=20)


async def test_a_key_has_limits_of_its_own(stage: Stage) -> None:
    """Set while the run is under way, obeyed within seconds, shown, cleared; nobody else's key."""
    plan = await stage.plan(rows=100, concurrency=8)
    await stage.assistant.slow(20)
    key = (await stage.olivia.providers.ListProviderKeys()).provider_keys[0]
    routes = stage.olivia.routes
    assert not (await routes.GetRateLimit(provider_key_id=key.id)).rate_limit.is_own
    stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 20)
    held = (await routes.SetRateLimit(provider_key_id=key.id, requests_per_minute=60)).rate_limit
    assert (held.is_own, held.requests_per_minute) == (True, 60)

    async def slow() -> bool:
        before = len(await stage.books.recorded(run.id))
        await asyncio.sleep(1)
        return len(await stage.books.recorded(run.id)) - before <= 3

    await until(slow, "about one call a second")
    shown = (await routes.GetRateLimit(provider_key_id=key.id)).rate_limit
    assert (shown.share, shown.requests_per_minute) == (1.0, 60)
    ivan = (await stage.world.organisation("globex")).admin
    for call in (
        ivan.routes.GetRateLimit(provider_key_id=key.id),
        ivan.routes.SetRateLimit(provider_key_id=key.id, requests_per_minute=1),
        ivan.routes.ClearRateLimit(provider_key_id=key.id),
    ):
        with pytest.raises(Refused) as foreign:
            await call
        assert foreign.value.reason == "PROVIDER_KEY_NOT_FOUND"
    cleared = (await routes.ClearRateLimit(provider_key_id=key.id)).rate_limit
    assert (cleared.is_own, cleared.requests_per_minute) == (False, 0)
    over = await stage.over(run.id)
    assert over.counts.scored == 200
    await stage.books.check(run.id, cells=200)


async def test_a_storm_of_refusals(stage: Stage) -> None:
    """Forty calls in a row are refused with 429 while two workers run and one is killed: all cells are
    scored, the share of the limit has shrunk, and the refused cost nothing."""
    plan = await stage.plan(
        rows=20, concurrency=16, attempts_max=10, provider={"requests_per_minute": 60000}
    )
    key = (await stage.olivia.providers.ListProviderKeys()).provider_keys[0]
    await stage.assistant.slow(10)
    await stage.assistant.fault({"kind": "rate_limited", "next": 40, "retry_after_s": 0.02})
    worker = stage.worker()
    stage.worker()
    run = await stage.launched(plan)

    async def shrunk() -> bool:
        limit = (await stage.olivia.routes.GetRateLimit(provider_key_id=key.id)).rate_limit
        return bool(limit.share < 0.9)

    await until(shrunk, "the share has shrunk")
    await worker.kill()
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    assert (over.counts.scored, over.counts.failed) == (40, 0)
    await stage.books.check(run.id, cells=40)
    refused = [a for a in await stage.books.attempts(run.id) if a["error_kind"] == "rate_limited"]
    assert refused and not any(a["cost"] for a in refused)


async def test_redis_dies_and_comes_back(stage: Stage, running_stack: Stack) -> None:
    """Two workers share one limit when Redis is killed: each keeps to its half by itself, and no
    window has more than the limit and a call for each of them."""
    plan = await stage.plan(rows=30, concurrency=16, provider={"requests_per_minute": LIMIT})
    stage.worker()
    stage.worker()
    async with arrivals(stage) as counted:
        run = await stage.launched(plan)
        await stage.results(run.id, 15)
        running_stack.kill("redis")
        try:
            await stage.results(run.id, 35)
        finally:
            running_stack.restart("redis")
        over = await stage.over(run.id)
    assert over.counts.scored == 60
    counted.check(slack=3.0)
    await stage.books.check(run.id, cells=60)
    assert set((await stage.assistant.arrived(run.id)).values()) == {1}
