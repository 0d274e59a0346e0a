"""A client in another language, made from the protos: clients/node lists campaigns."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chimera.v1.campaigns_pb2 import CampaignPlan
from tests.support.world import World

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "clients" / "node"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example client, installed as its README would have it, in a copy of the checkout."""
    npm = shutil.which("npm")
    if not npm or not shutil.which("node"):
        pytest.fail("node and npm (18 or newer) are needed on PATH for the example client")
    copy = tmp_path_factory.mktemp("checkout")
    printed = subprocess.run(
        [sys.executable, "proto/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert printed.returncode == 0, printed.stdout + printed.stderr  # also prints .protodeps
    for folder in ("proto", ".protodeps"):
        shutil.copytree(ROOT / folder, copy / folder)
    ignored = shutil.ignore_patterns("node_modules")
    shutil.copytree(SOURCE, copy / "clients" / "node", ignore=ignored)
    folder = copy / "clients" / "node"
    installed = subprocess.run(
        [npm, "install", "--ignore-scripts"], cwd=folder, capture_output=True, text=True
    )
    assert installed.returncode == 0, f"npm install: {installed.stderr}"
    return folder


async def run(client: Path, address: str, api_key: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        "node", "list_campaigns.js", cwd=client,
        env={**os.environ, "CHIMERA_ADDRESS": address, "CHIMERA_API_KEY": api_key},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_node_lists_campaigns_with_an_api_key(client: Path, world: World) -> None:
    """All pages, newest first; a revoked key is refused in words."""
    olivia = (await world.organisation("acme")).admin
    wanted = []
    for number in range(103):
        name = f"campaign {number}"
        made = await olivia.campaigns.CreateCampaign(name=name, plan=CampaignPlan())
        line = {"id": made.campaign.id, "name": name, "state": "CAMPAIGN_STATE_DRAFT"}
        wanted.append(line)
    key = await olivia.identity.CreateApiKey(name="node")

    code, out, err = await run(client, world.address, key.secret)
    assert code == 0, err
    assert [json.loads(line) for line in out.splitlines()] == wanted[::-1]

    await olivia.identity.RevokeApiKey(api_key_id=key.api_key.id)
    code, out, err = await run(client, world.address, key.secret)
    assert (code, out) == (1, "") and err.startswith("UNAUTHENTICATED: ")


def test_no_registry_is_named_in_the_client() -> None:
    """Where packages come from is the installation's matter."""
    for path in SOURCE.iterdir():
        if path.is_file():
            assert "://" not in path.read_text(), f"{path.name} names an address"
    assert not (SOURCE / "package-lock.json").exists()
