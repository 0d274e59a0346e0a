"""Redis and PostgreSQL die under a run: it goes on where it was, and nothing is paid twice."""

from __future__ import annotations

import asyncio

import grpc
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chimera.embedded.stack import Stack
from chimera.v1.campaigns_pb2 import RunState
from tests.support.workers import Stage, until


async def test_redis_flushed_before_and_after_the_doorbell(stage: Stage) -> None:
    """FLUSHALL right after the launch, when the doorbell is all there is, and again mid-run."""
    plan = await stage.plan(rows=20, repetitions=2, concurrency=8)
    await stage.assistant.slow(30)
    run = await stage.launched(plan)
    client = redis.Redis.from_url(stage.stack.redis_url)

    async def rung() -> bool:
        return bool(client.exists("chimera:campaigns"))

    await until(rung, "the doorbell is in Redis")
    client.flushall()
    stage.worker()
    await stage.results(run.id, 20)
    client.flushall()
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await stage.books.check(run.id, cells=80)
    assert set((await stage.assistant.arrived(run.id)).values()) == {1}


async def test_redis_killed_under_a_run(stage: Stage, running_stack: Stack) -> None:
    """The worker drives on without Redis, and a campaign launched meanwhile is not forgotten."""
    plan = await stage.plan(rows=20, repetitions=2, concurrency=8)
    await stage.assistant.slow(50)
    stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 10)
    running_stack.kill("redis")
    try:
        before = len(await stage.books.recorded(run.id))
        other = await stage.launched(plan, "launched without Redis")
        await stage.results(run.id, min(80, before + 20))
    finally:
        running_stack.restart("redis")
    for run_id in (run.id, other.id):
        assert (await stage.over(run_id)).state == RunState.RUN_STATE_COMPLETED
        await stage.books.check(run_id, cells=80)
        assert set((await stage.assistant.arrived(run_id)).values()) == {1}


async def test_postgres_killed_under_a_run(stage: Stage, running_stack: Stack) -> None:
    """What came back while the database was away is recorded when it is there again; the server
    says that it is not ready, and later that it is."""
    plan = await stage.plan(rows=30, repetitions=2, concurrency=8)
    await stage.assistant.slow(50)
    stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 20)
    channel = grpc.aio.insecure_channel(stage.world.address)
    health = health_pb2_grpc.HealthStub(channel)

    async def serving() -> bool:
        answer = await health.Check(health_pb2.HealthCheckRequest(service=""))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def away() -> bool:
        return not await serving()

    await until(serving, "the server is ready")
    running_stack.kill("postgres")
    try:
        await until(away, "the server says it is not ready")
        # Not only for a moment: nothing else can end this wait but two more looks at the database.
        for _ in range(5):
            await asyncio.sleep(1)
            assert not await serving(), "ready while the database is away"
    finally:
        running_stack.restart("postgres")
    await until(serving, "the server is ready again")
    over = await stage.over(run.id)
    await channel.close()
    assert over.state == RunState.RUN_STATE_COMPLETED
    await stage.books.check(run.id, cells=120)
    assert set((await stage.assistant.arrived(run.id)).values()) == {1}
