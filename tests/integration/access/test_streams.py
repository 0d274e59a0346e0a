"""Streams that are open when their callers lose what they were opened by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from chimera import watching
from chimera.call import Call, Caller
from chimera.faults import Exhausted
from chimera.identity import tokens
from chimera.identity.authentication import STREAM_STATE_AGE_S
from chimera.identity.endings import STATE_AGE_S
from chimera.v1.identity_pb2 import ROLE_USER
from chimera.v1.options_pb2 import PERMISSION_AUDIT_READ, PERMISSION_TELEMETRY_WRITE
from chimera.v1.telemetry_pb2 import UploadEventsRequest
from chimera.watching import LOOK_AGAIN_S, LOOKS_FAILED_MAX
from tests.support.processes import eventually
from tests.support.world import Organisation, Person, Refused, World


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked often whether a stream may go on, so that nobody waits for the next time."""
    monkeypatch.setattr(watching, "LOOK_AGAIN_S", 0.02)


async def opened(stream: Any) -> Any:
    """Its first answer has come: it is open."""
    await anext(stream)
    return stream


async def end_of(stream: Any) -> str:
    """Why it ended."""
    try:
        async with asyncio.timeout(20):
            async for _ in stream:
                pass
    except Refused as refused:
        return refused.reason
    return "ended by itself"


async def auditor(acme: Organisation, name: str, **conditions: Any) -> tuple[Person, str]:
    """A viewer who reads the audit log by a grant; its id."""
    person = await acme.person(name, role="viewer")
    role = await acme.admin.access.CreateRole(name=name, permissions=[PERMISSION_AUDIT_READ])
    made = await acme.admin.access.CreateGrant(
        role_id=role.role.id, user_id=person.user_id, conditions=conditions
    )
    return await person.refresh(), made.grant.id


def test_two_seconds_are_enough() -> None:
    """From a COMMIT in another process to the end here: the state that is looked at, and the time
    until somebody looks."""
    assert LOOK_AGAIN_S + STREAM_STATE_AGE_S < STATE_AGE_S


async def test_a_stream_ends_with_what_it_was_opened_by(world: World) -> None:
    """A grant, a session, a key, an account, a role: each taken away under an open stream, which
    then says what a new call would be told. Those of others go on."""
    acme = await world.organisation("acme")
    admin = acme.admin
    vera, grant_id = await auditor(acme, "vera")
    sam, dora, kim, rita, olga = [
        await acme.person(name, role="admin") for name in ("sam", "dora", "kim", "rita", "olga")
    ]
    key = await kim.identity.CreateApiKey(name="ci")
    rita_key = await rita.identity.CreateApiKey(name="ci")
    watching = {
        person.name: await opened(person.audit.WatchAuditEvents())
        for person in (vera, sam, dora, olga)
    }
    watching["kim"] = await opened(kim.holding(key.secret).audit.WatchAuditEvents())
    watching["rita"] = await opened(rita.holding(rita_key.secret).telemetry.WatchEvents())

    await admin.access.RevokeGrant(grant_id=grant_id)
    await sam.identity.Logout()
    await admin.identity.DisableUser(user_id=dora.user_id)
    await kim.identity.RevokeApiKey(api_key_id=key.api_key.id)
    await admin.organisations.ChangeMemberRole(user_id=rita.user_id, role=ROLE_USER)
    others = [name for name in watching if name != "olga"]
    reasons = await asyncio.gather(*(end_of(watching[name]) for name in others))
    assert dict(zip(others, reasons, strict=True)) == {
        "vera": "TOKEN_EXPIRED",
        "sam": "SESSION_ENDED",
        "dora": "SESSION_ENDED",
        "kim": "API_KEY_INVALID",
        # She may go on with less, and sees less, so it begins anew.
        "rita": "ACCESS_CHANGED",
    }
    await olga.identity.Logout()
    assert await end_of(watching["olga"]) == "SESSION_ENDED"


async def test_a_condition_that_holds_no_more(world: World) -> None:
    """Nobody changes anything; her time runs out."""
    acme = await world.organisation("acme")
    until = datetime.now(UTC) + timedelta(seconds=2)
    vera, _ = await auditor(acme, "vera", valid_until=until)
    assert await end_of(await opened(vera.audit.WatchAuditEvents())) == "PERMISSION_MISSING"


async def test_a_stream_of_requests_ends_too(world: World) -> None:
    """A sender that goes on and on, by a key that is revoked meanwhile."""
    admin = (await world.organisation("acme")).admin
    made = await admin.identity.CreateApiKey(name="ci", scopes=[PERMISSION_TELEMETRY_WRITE])
    sender = admin.holding(made.secret)
    never = asyncio.Event()

    async def batches() -> AsyncIterator[UploadEventsRequest]:
        await never.wait()
        yield UploadEventsRequest()

    upload = sender.telemetry._stub.UploadEvents(batches(), metadata=sender.metadata())

    await eventually(lambda: world.server.gate.open_calls)
    await admin.identity.RevokeApiKey(api_key_id=made.api_key.id)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await upload
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_five_minutes_do_not_end_a_stream(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The access token is over and opens nothing new; the session goes on, and so does the stream,
    also while the database has no connection to spare for a moment."""
    admin = (await world.organisation("acme")).admin
    again, looks = world.server.gate.authenticate_again, 0
    answers = asyncio.Event()

    async def counted(call: Call) -> Caller:
        nonlocal looks
        looks += 1
        if looks < LOOKS_FAILED_MAX:
            raise Exhausted("SERVER_BUSY", "All database connections are in use.")
        caller = await again(call)
        if looks > 2 * LOOKS_FAILED_MAX:
            answers.set()
        return caller

    monkeypatch.setattr(world.server.gate, "authenticate_again", counted)
    stream = await opened(admin.audit.WatchAuditEvents())
    monkeypatch.setattr(tokens, "SKEW_S", -1000)
    with pytest.raises(Refused) as refused:
        await admin.identity.GetMe()
    assert refused.value.reason == "TOKEN_EXPIRED"
    async with asyncio.timeout(20):
        await answers.wait()
    ending = asyncio.create_task(end_of(stream))
    monkeypatch.undo()
    assert not ending.done()
    await admin.identity.Logout()
    assert await ending == "SESSION_ENDED"
