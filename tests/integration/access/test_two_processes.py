"""Two server processes: what one decides, the other follows.

How soon is a matter of how old a state may be that is gone by, which tests/unit/identity/test_recent.py
shows on a clock of its own, and test_streams.py for streams.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from chimera.settings import Settings
from chimera.v1.options_pb2 import PERMISSION_AUDIT_READ
from tests.support.processes import environment_of as environment
from tests.support.processes import eventually, free_port, running
from tests.support.world import Person, Refused, World


@pytest.fixture
async def elsewhere(
    world: World, settings: Settings, tmp_path: Path
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to another process of the same installation."""
    port = free_port()
    given = environment(settings, listen=f"127.0.0.1:{port}", access_token_s=300)
    with running("chimera.server", given, tmp_path / "server.log") as server:
        server.until_said("server.listening")
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        yield channel
        await channel.close()


async def reason_of(call: Any) -> str:
    try:
        await call
    except Refused as refused:
        return refused.reason
    return ""


async def test_a_change_is_followed_elsewhere(world: World, elsewhere: grpc.aio.Channel) -> None:
    """A role is granted and taken away, a session ends, a key is revoked: the other process, which
    has them all in memory, goes by it, and ends the streams it has open; a token that one has just
    issued after a change is taken by the other at once."""
    acme = await world.organisation("acme")
    victor = await acme.person("victor", role="viewer")
    there = Person(elsewhere, "victor", victor.credential)
    role = await acme.admin.access.CreateRole(name="auditor", permissions=[PERMISSION_AUDIT_READ])
    assert await reason_of(there.audit.ListAuditEvents()) == "PERMISSION_MISSING"
    grant = await acme.admin.access.CreateGrant(role_id=role.role.id, user_id=victor.user_id)
    there.credential = (await victor.refresh()).credential
    assert await reason_of(there.audit.ListAuditEvents()) == ""

    made = await acme.admin.identity.CreateApiKey(name="ci")
    key = Person(elsewhere, "key", made.secret)
    assert await reason_of(key.identity.GetMe()) == ""
    admin_there = Person(elsewhere, "admin", acme.admin.credential)
    assert await reason_of(admin_there.identity.GetMe()) == ""

    watching = admin_there.audit.WatchAuditEvents()
    await anext(watching)

    async def gone(call: Any, reason: str) -> None:
        async def is_refused() -> bool:
            return await reason_of(call()) == reason

        await eventually(is_refused)

    await acme.admin.access.RevokeGrant(grant_id=grant.grant.id)
    await gone(there.audit.ListAuditEvents, "TOKEN_EXPIRED")
    there.credential = (await victor.refresh()).credential
    assert await reason_of(there.audit.ListAuditEvents()) == "PERMISSION_MISSING"
    await acme.admin.identity.RevokeApiKey(api_key_id=made.api_key.id)
    await gone(key.identity.GetMe, "API_KEY_INVALID")
    await acme.admin.identity.Logout()
    await gone(admin_there.identity.GetMe, "SESSION_ENDED")
    with pytest.raises(Refused) as refused:
        async for _ in watching:
            pass
    assert refused.value.reason == "SESSION_ENDED"
