"""`chimera user`: what an administrator types."""

from __future__ import annotations

import asyncio
import sys

from tests.integration.accounts.conftest import Table, reason
from tests.support.post import Post
from tests.support.world import PASSWORD, World


async def test_an_administrator_looks_after_people(world: World, post: Post, table: Table) -> None:
    """Makes an account, invites, resets, unlocks, lists and ends sessions."""
    acme = await world.organisation("acme")
    key = (await acme.admin.identity.CreateApiKey(name="cli")).secret

    async def typed(*words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "chimera.cli",
            "user",
            *words,
            env={
                "CHIMERA_SERVER": world.address,
                "CHIMERA_API_KEY": key,
                "GRPC_ENABLE_FORK_SUPPORT": "0",
                "COLUMNS": "250",
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return f"{process.returncode} {out.decode()}{err.decode()}"

    assert (await typed("create", "zoe@example.com", "zoe", "--role", "viewer")).startswith("0")
    link = await post.token("zoe@example.com")
    await world.nobody().account.ResetPassword(token=link, password=PASSWORD)
    zoe = await world.log_in("zoe")
    assert "chi_" in await typed("invite", "--uses", "3")
    assert "mail" in await typed("invite", "ben@example.com")
    assert await post.token("ben@example.com")
    assert "mail goes to zoe@example.com" in await typed("reset-password", "zoe")
    table.rows("UPDATE identity.users SET failed_login_attempts = 10 WHERE username = 'zoe'")
    assert (await typed("unlock", "zoe@example.com")).startswith("0")
    assert not table.value("SELECT sum(failed_login_attempts) FROM identity.users")
    listed = await typed("list")
    assert "admin-acme" in listed and "viewer" in listed
    assert "127.0.0.1" in await typed("sessions", "zoe")
    assert "ended 1" in await typed("sessions", "zoe", "--end")
    assert await reason(zoe.identity.GetMe()) == "SESSION_ENDED"
    assert (await typed("unlock", "nobody")).startswith("1 error: nobody here")
