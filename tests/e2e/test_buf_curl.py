"""The product over a foreign tool: `buf curl`, which knows the API from reflection alone."""

from __future__ import annotations

import asyncio
import json
import sysconfig
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from chimera.gate import method_of
from chimera.server import service_descriptors
from chimera.settings import Settings
from chimera.v1.options_pb2 import RateClass
from tests.support.stack import settings_with
from tests.support.world import World

BUF = Path(sysconfig.get_path("scripts")) / "buf"
METHODS = [method_of(m) for service in service_descriptors() for m in service.methods]
AT_ONCE = 4


@pytest.fixture
def settings(settings: Settings, clickhouse_url: str) -> Settings:
    return settings_with(settings, clickhouse_url=clickhouse_url)


async def curl(*arguments: str, cut: asyncio.Event | None = None) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `buf curl` over plain HTTP/2. A stream that is still open when
    it is `cut` off was accepted: code 0."""
    process = await asyncio.create_subprocess_exec(
        BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    ended = asyncio.create_task(process.communicate())
    if cut is not None:
        cutting = asyncio.create_task(cut.wait())
        await asyncio.wait({ended, cutting}, return_when=asyncio.FIRST_COMPLETED)
        cutting.cancel()
        if not ended.done():
            process.kill()
            await ended
            return 0, "", ""
    out, err = await ended
    return process.returncode or 0, out.decode(), err.decode()


async def test_reflection_lists_every_service(world: World) -> None:
    """A stranger with the address and nothing else learns what there is."""
    code, out, err = await curl("--list-services", f"http://{world.address}")
    assert code == 0, err
    assert {service.full_name for service in service_descriptors()} <= set(out.split())


async def test_reflection_lists_every_method(world: World) -> None:
    """The first command a newcomer types; every service that is listed can be described."""
    code, out, err = await curl("--list-methods", f"http://{world.address}")
    assert (code, err) == (0, "")
    assert {method.path.removeprefix("/") for method in METHODS} <= set(out.split())


async def test_an_api_key_and_one_line_answer_a_question(world: World) -> None:
    """Who am I? As JSON, through headers a person would write."""
    olivia = (await world.organisation("acme")).admin
    key = await olivia.identity.CreateApiKey(name="curl")
    url = f"http://{world.address}/chimera.v1.IdentityService/GetMe"
    code, out, err = await curl("-H", f"authorization: Bearer {key.secret}", "-d", "{}", url)
    assert code == 0, err
    assert json.loads(out)["user"]["id"] == olivia.user_id


async def test_every_rpc_is_reachable_and_answered_by_our_gate(world: World) -> None:
    """An empty body gets an answer, or a refusal with an ErrorInfo of ours; none is missing. Streams
    are open for as long as all the other calls take."""
    operator = (await world.organisation("acme", operator=True)).admin
    key = (await operator.identity.CreateApiKey(name="curl")).secret
    free = asyncio.Semaphore(AT_ONCE)

    async def problem(path: str, cut: asyncio.Event | None = None) -> str:
        header = ("-H", f"authorization: Bearer {key}")
        url = f"http://{world.address}{path}"
        async with nullcontext() if cut else free:
            code, _, err = await curl(*header, "-d", "{}", url, cut=cut)
        if code == 0:
            return ""
        try:
            told: dict[str, Any] = json.loads(err)
        except ValueError:
            return f"{path}: no gRPC status: {err.strip()[:200]}"
        if told["code"] in ("unimplemented", "internal", "unknown", "unauthenticated"):
            return f"{path}: {told['code']} {told.get('message', '')}"
        infos = [d for d in told.get("details", []) if d["type"].endswith("google.rpc.ErrorInfo")]
        if not infos or infos[0].get("debug", {}).get("domain", "chimera") != "chimera":
            return f"{path}: {told['code']} without an ErrorInfo of ours"
        return ""

    all_done = asyncio.Event()
    watches, calls = [], []
    for method in METHODS:
        is_watch = method.access.rate == RateClass.RATE_CLASS_WATCH
        (watches if is_watch else calls).append(method.path)
    watching = [asyncio.create_task(problem(path, all_done)) for path in watches]
    problems = await asyncio.gather(*(problem(path) for path in calls))
    all_done.set()
    problems += await asyncio.gather(*watching)
    assert not any(problems), "\n".join(filter(None, problems))
