"""What an outsider can do by asking often: nothing that lasts, and nothing that shuts others out."""

from __future__ import annotations

import asyncio

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chimera import gate
from chimera.settings import Settings
from tests.support.world import Refused, World

COUNT_EVENTS = "SELECT count(*) FROM audit.pending"


async def test_refusals_of_strangers_are_not_written_down(world: World, settings: Settings) -> None:
    """A hundred calls without a credential leave no row; one of a known person without the
    permission does."""
    acme = await world.organisation("acme")
    vera = await acme.person("vera", role="viewer")
    nobody = world.nobody()
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:

        def events() -> int:
            row = connection.execute(COUNT_EVENTS).fetchone()
            assert row is not None
            return int(row[0])

        before = events()
        for _ in range(100):
            with pytest.raises(Refused, match="CREDENTIALS_MISSING"):
                await nobody.campaigns.CreateCampaign(name="flood")
        assert events() == before

        with pytest.raises(Refused, match="PERMISSION_MISSING"):
            await vera.campaigns.CreateCampaign(name="not mine to make")
        assert events() == before + 1


async def test_health_streams_do_not_take_the_places_of_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle health watchers fill their own places; the next one is refused, and calls go on."""
    monkeypatch.setattr(gate, "OUTSIDE_STREAMS_MAX", 3)
    acme = await world.organisation("acme")
    channel = world.channel()
    stub = health_pb2_grpc.HealthStub(channel)
    watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
    await asyncio.gather(*(watch.read() for watch in watches))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Watch(health_pb2.HealthCheckRequest()).read()
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status
    assert (await acme.admin.identity.GetMe()).user.id

    for watch in watches:
        watch.cancel()
    await channel.close()
