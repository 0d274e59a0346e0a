"""`chimera telemetry` as operators use it, against a running server."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToJson

from chimera.settings import Settings
from chimera.telemetry.reconcile import reconcile
from chimera.v1.telemetry_pb2 import TelemetryEvent
from tests.e2e.commands import argv, chimera, environment
from tests.integration.telemetry.conftest import Hands
from tests.integration.telemetry.sending import some_events
from tests.support.processes import eventually
from tests.support.world import World


@pytest.fixture
def settings(stored_settings: Settings) -> Settings:
    return stored_settings


async def test_a_file_is_sent_watched_and_accounted_for(
    world: World, hands: Hands, tmp_path: Path
) -> None:
    """Twice the same file is once; a bad line is named and waits; the tail shows what came."""
    acme = await world.organisation("acme")
    key = (await acme.admin.identity.CreateApiKey(name="cli")).secret
    with_server = ("--server", world.address, "--api-key", key)

    async def run(*words: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(chimera, tmp_path, "telemetry", *words, *with_server)

    tail = await asyncio.create_subprocess_exec(
        *argv("telemetry", "tail", "--type", "llm.call", *with_server),
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
    )
    try:
        await eventually(lambda: world.server.gate.limits.watches)
        events = [*some_events(40), TelemetryEvent(event_type="odd", cost_usd="much")]
        file = tmp_path / "events.jsonl"
        file.write_text("\n".join(MessageToJson(event, indent=None) for event in events) + "\n")
        sent = await run("send", str(file))
        assert sent.returncode == 1
        assert "40 events accepted, 1 not" in sent.stdout
        assert "event 41: cost_usd is not a decimal number" in sent.stderr
        assert "1 batches were known already" in (await run("send", str(file))).stdout
        assert tail.stdout is not None
        wanted = [event.event_id for event in events if event.event_type == "llm.call"]
        lines = [await asyncio.wait_for(tail.stdout.readline(), 20) for _ in wanted]
        assert [json.loads(line)["event_id"] for line in lines] == wanted
    finally:
        tail.terminate()
        await tail.wait()
    await hands.drain()
    await reconcile(hands.core, hands.clickhouse)
    told = await run("status")
    assert not told.stderr
    status = told.stdout
    assert "accepted 41, stored 40, dead 1 (of them 0 thrown away), waiting 0" in status
    assert "compared with the store up to" in status
    books = await run("books")
    assert "found 40, batches missing 0, too many 0" in books.stdout and not books.returncode
    letters = (await run("dead-letters")).stdout.split()
    assert "much" not in letters
    assert "DEAD_LETTER_UNUSABLE" in (await run("requeue", letters[0])).stderr
    assert "1 events thrown away" in (await run("discard", letters[0])).stdout
    assert "asked for" in (await run("reconcile")).stdout
    assert (await run("send", str(tmp_path / "nothing"))).returncode == 2
