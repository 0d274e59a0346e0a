"""`chimera access` from outside."""

from __future__ import annotations

import asyncio
from pathlib import Path
from subprocess import CompletedProcess

from tests.e2e.commands import chimera, refused
from tests.support.world import World


async def test_operators_ask_why_and_rotate(world: World, tmp_path: Path) -> None:
    """Who may, by which grant; keys listed, rotated, listed again; plain words for what is wrong."""
    acme = await world.organisation("acme", operator=True)
    olivia = await acme.person("olivia")
    await acme.admin.access.CreateGrant(
        built_in_role=1, user_id=olivia.user_id, conditions={"source_networks": ["192.0.2.0/24"]}
    )
    key = (await acme.admin.identity.CreateApiKey(name="cli")).secret

    async def run(*arguments: str) -> CompletedProcess[str]:
        given = {"CHIMERA_SERVER": world.address, "CHIMERA_API_KEY": key}
        return await asyncio.to_thread(chimera, tmp_path, "access", *arguments, **given)

    user = ("--user", olivia.user_id)
    may, may_not, unknown, keys = await asyncio.gather(
        run("explain", "TEMPLATE_WRITE", *user),
        run("explain", "AuditService/ListAuditEvents", *user),
        run("explain", "FLY"),
        run("signing-keys"),
    )
    assert may.stdout.startswith("allowed; needs TEMPLATE_WRITE"), may
    assert may_not.stdout.startswith("refused; needs AUDIT_READ")
    assert "user grant" in may_not.stdout and "source_networks" in may_not.stdout
    refused(unknown, 2, "FLY is no permission")
    assert keys.stdout.count("signs") == 2  # the heading and the key
    rotated = await run("rotate-signing-key")
    kid = rotated.stdout.split()[1]
    listed = (await run("signing-keys")).stdout
    assert kid in listed and "published" in listed
