"""The server around the gate: health, reflection, drain, several processes, metrics."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import grpc
import psutil
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from chimera.server import Server, service_descriptors
from chimera.settings import Settings
from tests.integration.server.conftest import Probed, Serve
from tests.integration.server.probe import rpc, said
from tests.support.processes import environment_of, free_port, running, until
from tests.support.stack import settings_with
from tests.support.world import Refused, World

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def watched(channel: grpc.aio.Channel, service: str, wanted: Any) -> None:
    """Returns when the health of `service` is `wanted`."""
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(service=service), timeout=60
    )
    async for item in watch:
        if item.status == wanted:
            watch.cancel()
            return


async def test_every_service_reports_its_health(probed: Probed) -> None:
    """By its name and as a whole, without credentials; unknown names are NOT_FOUND."""
    channel = probed.world.channel()
    for service in service_descriptors():
        await watched(channel, service.full_name, SERVING)
    stub = health_pb2_grpc.HealthStub(channel)
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="chimera.v1.Nonesuch"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_describes_every_service(probed: Probed, version: str) -> None:
    """Under both names, with descriptors that hold the access option of each method."""
    channel = probed.world.channel()
    reflect = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )()
    await reflect.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = {item.name for item in (await reflect.read()).list_services_response.service}
    assert {service.full_name for service in service_descriptors()} <= listed
    assert "grpc.health.v1.Health" in listed
    name = "chimera.v1.CampaignService"
    await reflect.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name))
    files = (await reflect.read()).file_descriptor_response.file_descriptor_proto
    described = [FileDescriptorProto.FromString(file) for file in files]
    [campaigns] = [file for file in described if file.name == "chimera/v1/campaigns.proto"]
    assert any(rpc.name == "WatchRun" for rpc in campaigns.service[0].method)
    reflect.cancel()


async def test_reflection_can_be_switched_off(serve: Serve) -> None:
    async with serve(reflection=False) as probed:
        reflect = probed.world.channel().stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        )()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reflect.write(b"")
            await reflect.read()
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_drain_lets_calls_finish_and_takes_no_new_ones(serve: Serve) -> None:
    """Health falls first, the call in flight gets its answer, a new connection is refused, and the
    pools close last."""
    async with serve(drain_s=20.0) as probed:
        olivia, probe = probed.olivia, probed.probe
        in_flight = asyncio.ensure_future(said(olivia, "Say", "wait"))
        async with asyncio.timeout(10):
            await probe.entered.acquire()
        stopping = asyncio.create_task(probed.server.stop())
        await watched_or_gone(probed.world.channel())
        with pytest.raises(Refused) as caught:
            stranger = probed.world.nobody().holding(olivia.credential)
            await said(stranger, "Say", "hello", timeout_s=5)
        assert caught.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        assert not stopping.done() and not probe.core.db.pool.closed
        probe.go_on.set()
        assert await in_flight == "user said wait"
        await stopping
        assert probe.core.db.pool.closed
        probed.server.stop = nothing  # type: ignore[method-assign]  # it has stopped


async def watched_or_gone(channel: grpc.aio.Channel) -> None:
    """Until the server says that it is not serving, or takes no connection any more: one that the
    kernel took while the listener went away stays without an answer."""
    stub = health_pb2_grpc.HealthStub(channel)
    async with asyncio.timeout(10):
        while True:
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
            except grpc.aio.AioRpcError:
                return
            if answer.status == NOT_SERVING:
                return


async def nothing(*, at_once: bool = False) -> None:
    """A stopped server is not stopped again."""


async def test_a_drain_ends_watches_at_its_limit(serve: Serve) -> None:
    """Whoever watches for ever does not keep the server alive, and its generator is closed."""
    async with serve(drain_s=0.2) as probed:
        watch = rpc(probed.olivia, "Count")("1")
        assert (await watch.read()).text == "0"
        await probed.server.stop()
        assert probed.probe.closed == 1 and not probed.server.gate.open_calls
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await watch.read()
        probed.server.stop = nothing  # type: ignore[method-assign]  # it has stopped


async def test_a_port_in_use_is_an_error_at_start(settings: Settings) -> None:
    """Not a server that listens nowhere."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        server = Server(settings_with(settings, listen=listen))
        with pytest.raises(RuntimeError, match="bind"):
            await server.start()
        await server.stack.aclose()


async def page_of(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        return await response.text()


async def test_two_processes_share_a_port_and_go_together(
    settings: Settings, tmp_path: Path
) -> None:
    """CHIMERA_PROCESSES=2: both listen, both answer their metrics, SIGTERM ends all with 0."""
    port, metrics = free_port(), free_port(ports=2)
    environment = environment_of(
        settings, listen=f"127.0.0.1:{port}", processes=2, metrics_listen=f"127.0.0.1:{metrics}"
    )
    with running("chimera.server", environment, tmp_path / "log") as server:
        await asyncio.to_thread(server.until_said, "server.listening", 2)
        children = psutil.Process(server.child.pid).children()
        assert len(children) == 2
        world = World(SimpleNamespace(port=port), settings)  # type: ignore[arg-type]  # its port
        acme = await world.organisation("acme")
        people = [acme.admin.holding(acme.admin.credential) for _ in range(12)]
        for number, person in enumerate(people):
            options = (("grpc.use_local_subchannel_pool", 1), ("chimera.connection", number))
            person.channel = grpc.aio.insecure_channel(world.address, options=options)
            world.channels.append(person.channel)
        answers = await asyncio.gather(*(person.identity.GetMe() for person in people))
        assert {answer.user.id for answer in answers} == {acme.admin.user_id}

        counted = 0.0
        for number in range(2):
            text = await page_of(f"http://127.0.0.1:{metrics + number}/metrics")
            assert "chimera_watches_open 0.0" in text
            found = re.findall(r"chimera_rpc_seconds_count\{.*GetMe.*\} (\S+)", text)
            counted += sum(map(float, found))
        assert counted == len(people)

        await world.close()
        assert await asyncio.to_thread(server.terminated) == 0
        assert server.said().count("server.stopped") == 2
        assert not any(child.is_running() for child in children)


async def test_when_one_process_dies_all_go(settings: Settings, tmp_path: Path) -> None:
    """Half a server is not left behind; whoever supervises starts it whole."""
    environment = environment_of(settings, listen=f"127.0.0.1:{free_port()}", processes=2)
    with running("chimera.server", environment, tmp_path / "log") as server:
        await asyncio.to_thread(server.until_said, "server.listening", 2)
        first, second = psutil.Process(server.child.pid).children()
        first.kill()
        assert await asyncio.to_thread(server.child.wait, 30) != 0
        await asyncio.to_thread(until, lambda: not second.is_running())
