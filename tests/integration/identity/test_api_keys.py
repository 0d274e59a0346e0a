"""API keys: shown once, never more than their owner, gone when revoked."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from chimera.core import open_core
from chimera.identity.api_keys import _checksum, new_key
from chimera.identity.usage import flush_key_usage
from chimera.v1.identity_pb2 import ROLE_ADMIN
from chimera.v1.options_pb2 import (
    PERMISSION_API_KEY_MANAGE,
    PERMISSION_KILL_SWITCH,
    PERMISSION_OPERATE,
    PERMISSION_USER_MANAGE,
    PERMISSION_USER_READ,
)
from tests.support.world import PASSWORD, Person, Refused, World


async def test_a_key_does_what_its_owner_may(world: World) -> None:
    """Without scopes; and it is sent as a bearer or in a header of its own."""
    admin = (await world.organisation("acme")).admin
    made = await admin.identity.CreateApiKey(name="ci")
    assert made.secret.startswith(made.api_key.prefix + "_")
    assert made.api_key.expires_at.ToDatetime(UTC) < datetime.now(UTC) + timedelta(days=91)

    by_bearer = await admin.holding(made.secret).identity.GetMe()
    in_header = Person(admin.channel)
    in_header.metadata = lambda: (("x-api-key", made.secret),)  # type: ignore[method-assign]  # another way to send it
    assert await in_header.identity.GetMe() == by_bearer
    assert by_bearer.permissions == (await admin.identity.GetMe()).permissions


async def test_scopes_narrow_a_key(world: World) -> None:
    """A key for reading users reads users and does nothing else."""
    admin = (await world.organisation("acme")).admin
    made = await admin.identity.CreateApiKey(name="ci", scopes=[PERMISSION_USER_READ])
    robot = admin.holding(made.secret)
    assert len((await robot.identity.ListUsers()).users) == 1
    with pytest.raises(Refused) as refused:
        await robot.identity.CreateApiKey(name="another")
    assert (refused.value.code, refused.value.reason) == ("PERMISSION_DENIED", "PERMISSION_MISSING")
    with pytest.raises(Refused) as refused:
        await robot.identity.Logout()
    assert refused.value.reason == "SESSION_REQUIRED"


async def test_a_key_never_outgrows_its_owner(world: World, database_url: str) -> None:
    """The admin becomes a viewer: his key reads, and no longer creates."""
    admin = (await world.organisation("acme")).admin
    made = await admin.identity.CreateApiKey(
        name="ci", scopes=[PERMISSION_USER_READ, PERMISSION_USER_MANAGE]
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE identity.memberships SET role = 'viewer'")
    robot = admin.holding(made.secret)
    assert list((await robot.identity.GetMe()).permissions) == [PERMISSION_USER_READ]


async def test_nobody_gives_a_key_what_they_do_not_hold(world: World) -> None:
    """Neither a user the kill switch, nor an admin the installation."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia", role="user")
    for person, scope in [(olivia, PERMISSION_KILL_SWITCH), (acme.admin, PERMISSION_OPERATE)]:
        with pytest.raises(Refused) as refused:
            await person.identity.CreateApiKey(name="more", scopes=[scope])
        assert refused.value.reason == "SCOPE_NOT_HELD"


async def test_a_narrow_key_cannot_make_itself_more(world: World) -> None:
    """Neither by a key without scopes, nor by a key with more, nor by an administrator of its own."""
    admin = (await world.organisation("acme")).admin
    made = await admin.identity.CreateApiKey(
        name="narrow", scopes=[PERMISSION_API_KEY_MANAGE, PERMISSION_USER_MANAGE]
    )
    robot = admin.holding(made.secret)
    for scopes in ([], [PERMISSION_KILL_SWITCH]):
        with pytest.raises(Refused) as refused:
            await robot.identity.CreateApiKey(name="wide", scopes=scopes)
        assert refused.value.reason == "SCOPE_NOT_HELD"
    with pytest.raises(Refused) as refused:
        await robot.identity.CreateUser(
            email="mallory@example.com", username="mallory", role=ROLE_ADMIN, password=PASSWORD
        )
    assert refused.value.reason == "PERMISSION_MISSING"


async def test_an_operators_key_operates_only_if_it_says_so(world: World) -> None:
    """Scopes without `operate` make an operator's key an ordinary one."""
    admin = (await world.organisation("acme", operator=True)).admin
    narrow = await admin.identity.CreateApiKey(name="narrow", scopes=[PERMISSION_USER_READ])
    with pytest.raises(Refused) as refused:
        await admin.holding(narrow.secret).identity.ListApiKeys()
    assert refused.value.reason == "PERMISSION_MISSING"
    full = await admin.identity.CreateApiKey(name="full")
    permissions = (await admin.holding(full.secret).identity.GetMe()).permissions
    assert PERMISSION_OPERATE in permissions


async def test_a_repeated_request_gets_the_key_but_not_its_secret(world: World) -> None:
    """The answer was lost; asking again makes no second key and shows nothing."""
    admin = (await world.organisation("acme")).admin
    request_id = str(uuid4())
    first = await admin.identity.CreateApiKey(name="ci", request_id=request_id)
    again = await admin.identity.CreateApiKey(name="ci", request_id=request_id)
    assert again.api_key == first.api_key
    assert (bool(first.secret), again.secret) == (True, "")
    assert len((await admin.identity.ListApiKeys()).api_keys) == 1
    with pytest.raises(Refused) as refused:
        await admin.identity.CreateApiKey(name="other", request_id=request_id)
    assert refused.value.reason == "REQUEST_ID_REUSED"


async def test_a_revoked_key_is_refused_at_once_here(world: World) -> None:
    """It was in use a moment ago, so the process knows it by heart."""
    admin = (await world.organisation("acme")).admin
    made = await admin.identity.CreateApiKey(name="ci")
    robot = admin.holding(made.secret)
    await robot.identity.GetMe()
    revoked = await admin.identity.RevokeApiKey(api_key_id=made.api_key.id)
    assert not revoked.api_key.is_active
    with pytest.raises(Refused) as refused:
        await robot.identity.GetMe()
    assert (refused.value.code, refused.value.reason) == ("UNAUTHENTICATED", "API_KEY_INVALID")


async def test_a_key_revoked_by_another_process_is_refused_soon(
    world: World, database_url: str
) -> None:
    """Only the row tells: the calls go on until the cached state is read anew, and then end."""
    admin = (await world.organisation("acme")).admin
    robot = admin.holding((await admin.identity.CreateApiKey(name="ci")).secret)
    await robot.identity.GetMe()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE identity.api_keys SET is_active = false")
    with pytest.raises(Refused) as refused:
        async with asyncio.timeout(30):
            while True:
                await robot.identity.GetMe()
                await asyncio.sleep(0.01)
    assert refused.value.reason == "API_KEY_INVALID"


@pytest.mark.parametrize(
    "change", ["letter", "checksum", "secret", "expired", "unknown", "environment"]
)
async def test_a_key_that_is_not_right_is_refused(
    world: World, database_url: str, change: str
) -> None:
    """One letter off, a known id with a made-up secret, unknown, past its end, of elsewhere."""
    admin = (await world.organisation("acme")).admin
    secret = (await admin.identity.CreateApiKey(name="ci")).secret
    if change == "secret":  # its state is remembered already, and must not vouch for others
        await admin.holding(secret).identity.GetMe()
    head, tail = secret[:30], secret[31:]
    wrong = {
        "letter": head + ("A" if secret[30] != "A" else "B") + tail,
        "checksum": secret[:-1] + ("A" if secret[-1] != "A" else "B"),
        "secret": _other_secret(secret),
        "expired": secret,
        "unknown": new_key("test"),
        "environment": new_key("live"),
    }[change]
    if change == "expired":
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("UPDATE identity.api_keys SET expires_at = now()")
    with pytest.raises(Refused) as refused:
        await admin.holding(wrong).identity.GetMe()
    assert refused.value.reason == "API_KEY_INVALID"


def _other_secret(key: str) -> str:
    """The id of a real key with the secret of nobody's, checksum and all."""
    body = "_".join([*key.split("_")[:3], new_key("test").split("_")[3]])
    return f"{body}_{_checksum(body)}"


async def test_a_key_lasts_at_most_a_year(world: World) -> None:
    """And says which field was wrong."""
    admin = (await world.organisation("acme")).admin
    with pytest.raises(Refused) as refused:
        await admin.identity.CreateApiKey(
            name="ci", expires_at=datetime.now(UTC) + timedelta(days=366)
        )
    assert refused.value.reason == "FIELD_INVALID"


async def test_a_key_makes_no_key_that_outlasts_it(world: World) -> None:
    """Neither another one nor itself anew; its owner does."""
    admin = (await world.organisation("acme")).admin
    soon = datetime.now(UTC) + timedelta(hours=1)
    scopes = [PERMISSION_API_KEY_MANAGE, PERMISSION_USER_READ]
    made = await admin.identity.CreateApiKey(name="short", scopes=scopes, expires_at=soon)
    other = await admin.identity.CreateApiKey(name="long", scopes=scopes)
    key = admin.holding(made.secret).identity
    children = [
        await key.CreateApiKey(name="child", scopes=scopes),
        await key.RotateApiKey(api_key_id=other.api_key.id),
        await key.RotateApiKey(api_key_id=made.api_key.id, overlap_s=600),
    ]
    ends = [child.api_key.expires_at.ToDatetime(UTC) for child in children]
    assert ends == [made.api_key.expires_at.ToDatetime(UTC)] * 3
    key = admin.holding(children[-1].secret).identity
    later = {"scopes": scopes, "expires_at": soon + timedelta(hours=1)}
    with pytest.raises(Refused) as refused:
        await key.CreateApiKey(name="later", **later)
    assert refused.value.reason == "SCOPE_NOT_HELD"
    mine = await admin.identity.RotateApiKey(api_key_id=made.api_key.id)
    assert mine.api_key.expires_at.ToDatetime(UTC) > soon


async def test_keys_are_their_owners_alone(world: World) -> None:
    """A colleague neither sees nor ends them; pages go through all of one's own."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    keys = [await acme.admin.identity.CreateApiKey(name=f"key {n}") for n in range(5)]
    assert not (await olivia.identity.ListApiKeys()).api_keys
    with pytest.raises(Refused) as refused:
        await olivia.identity.RevokeApiKey(api_key_id=keys[0].api_key.id)
    assert refused.value.reason == "API_KEY_NOT_FOUND"

    names, token = [], ""
    while True:
        page = await acme.admin.identity.ListApiKeys(page_size=2, page_token=token)
        names += [key.name for key in page.api_keys]
        token = page.next_page_token
        if not token:
            break
    assert names == [f"key {n}" for n in (4, 3, 2, 1, 0)]


async def test_use_is_counted(world: World) -> None:
    """Seven calls, flushed by the server when it stops and by a worker's task, make seven."""
    admin = (await world.organisation("acme")).admin
    made = await admin.identity.CreateApiKey(name="ci")
    for _ in range(7):
        await admin.holding(made.secret).identity.GetMe()
    await world.server.stop(at_once=True)
    async with open_core(world.settings, "worker") as core:
        assert await flush_key_usage(core) == 2  # the key, and the session that made it
        assert await flush_key_usage(core) == 0
    await world.server.start()
    world.address = f"127.0.0.1:{world.server.port}"
    key = (await (await world.log_in("admin-acme")).identity.ListApiKeys()).api_keys[0]
    assert key.usage_count == 7
    assert key.HasField("last_used_at")
