"""The server when PostgreSQL dies under it: it says so, and goes on when PostgreSQL is back."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chimera.embedded.stack import Stack
from chimera.settings import Settings
from tests.support.world import Refused, World

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Who asks a lost database knows it soon."""
    return settings.model_copy(update={"pool_timeout_s": 0.5})


async def until_health_is(channel: grpc.aio.Channel, wanted: Any) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(service="chimera.v1.CampaignService"), timeout=60
    )
    async for item in watch:
        if item.status == wanted:
            watch.cancel()
            return


async def test_readiness_follows_the_database(world: World, running_stack: Stack) -> None:
    """Killed: health falls, and every call learns that trying again may help, not that it was
    wrong or that too many are asking. Back: health rises, the same server and session go on, and a
    change can be made and recorded."""
    olivia = (await world.organisation("acme")).admin
    channel = world.channel()
    await until_health_is(channel, SERVING)

    await asyncio.to_thread(running_stack.kill, "postgres")
    try:
        answers = [
            await asyncio.gather(
                *(olivia.templates.ListTemplates() for _ in range(5)), return_exceptions=True
            )
            for _ in range(2)
        ]
        await until_health_is(channel, NOT_SERVING)
    finally:
        await asyncio.to_thread(running_stack.restart, "postgres")
    reasons = {
        (error.code, error.reason) if isinstance(error, Refused) else error
        for batch in answers
        for error in batch
    }
    assert reasons == {("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")}

    await until_health_is(channel, SERVING)
    key = await olivia.identity.CreateApiKey(name="after the storm")
    assert (await olivia.holding(key.secret).identity.GetMe()).user.id == olivia.user_id
