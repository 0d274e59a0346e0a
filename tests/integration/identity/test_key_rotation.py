"""API keys over their life: names, networks, rotation with overlap, and who looks after them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from chimera.core import open_core
from chimera.identity.usage import flush_key_usage
from chimera.settings import Settings
from chimera.v1.identity_pb2 import ApiKey
from chimera.v1.options_pb2 import (
    PERMISSION_API_KEY_MANAGE,
    PERMISSION_TEMPLATE_READ,
    PERMISSION_USER_MANAGE,
)
from tests.integration.server.conftest import Serve, probe, serve  # noqa: F401  # fixtures
from tests.support.world import Person, Refused, World


async def refusal(call: Any) -> str:
    with pytest.raises(Refused) as refused:
        await call
    return refused.value.reason


async def until_refused(person: Person) -> str:
    with pytest.raises(Refused) as refused:
        async with asyncio.timeout(30):
            while True:
                await person.identity.GetMe()
                await asyncio.sleep(0.01)
    return refused.value.reason


async def test_a_rotated_key_has_two_secrets_for_a_while(world: World, database_url: str) -> None:
    """Name, scopes, networks and id stay; the old secret works through the overlap, ends by itself,
    and the new one goes on."""
    admin = (await world.organisation("acme")).admin
    made = await admin.identity.CreateApiKey(
        name="ci", scopes=[PERMISSION_TEMPLATE_READ], source_networks=["127.0.0.0/8"]
    )
    rotated = await admin.identity.RotateApiKey(api_key_id=made.api_key.id, overlap_s=3600)
    assert rotated.secret.startswith(rotated.api_key.prefix + "_")
    assert rotated.api_key.previous_prefix == made.api_key.prefix
    for name in ("id", "name", "scopes", "source_networks"):
        assert getattr(rotated.api_key, name) == getattr(made.api_key, name)
    before, after = admin.holding(made.secret), admin.holding(rotated.secret)
    assert await before.identity.GetMe() == await after.identity.GetMe()

    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE identity.api_keys SET previous_expires_at = now()")
    assert await until_refused(before) == "API_KEY_INVALID"
    await after.identity.GetMe()


async def test_a_second_rotation_ends_the_oldest_secret(world: World) -> None:
    """Two live secrets and no more; without an overlap only the new one; revoking ends both."""
    admin = (await world.organisation("acme")).admin
    made = await admin.identity.CreateApiKey(name="ci")
    first = admin.holding(made.secret)
    second = admin.holding(
        (await admin.identity.RotateApiKey(api_key_id=made.api_key.id, overlap_s=600)).secret
    )
    third = admin.holding(
        (await admin.identity.RotateApiKey(api_key_id=made.api_key.id, overlap_s=600)).secret
    )
    assert await refusal(first.identity.GetMe()) == "API_KEY_INVALID"
    await second.identity.GetMe()
    fourth = admin.holding((await admin.identity.RotateApiKey(api_key_id=made.api_key.id)).secret)
    for gone in (second, third):
        assert await refusal(gone.identity.GetMe()) == "API_KEY_INVALID"
    await admin.identity.RevokeApiKey(api_key_id=made.api_key.id)
    assert await refusal(fourth.identity.GetMe()) == "API_KEY_INVALID"
    again = admin.identity.RotateApiKey(api_key_id=made.api_key.id)
    assert await refusal(again) == "API_KEY_NOT_ACTIVE"


async def test_a_repeated_rotation_rotates_once_and_shows_nothing(world: World) -> None:
    """The lost answer's secret is lost; the present one was not thrown away by asking again."""
    admin = (await world.organisation("acme")).admin
    made = await admin.identity.CreateApiKey(name="ci")
    asked = {"api_key_id": made.api_key.id, "overlap_s": 600, "request_id": str(uuid4())}
    first = await admin.identity.RotateApiKey(**asked)
    again = await admin.identity.RotateApiKey(**asked)
    assert (again.api_key, again.secret) == (first.api_key, "")
    for secret in (made.secret, first.secret):
        await admin.holding(secret).identity.GetMe()


async def test_a_narrow_key_cannot_take_a_wide_ones_secret(world: World) -> None:
    """Rotating shows a secret: only of what the key itself may do. Itself it may rotate."""
    admin = (await world.organisation("acme")).admin
    wide = await admin.identity.CreateApiKey(name="wide", scopes=[PERMISSION_USER_MANAGE])
    full = await admin.identity.CreateApiKey(name="full")
    made = await admin.identity.CreateApiKey(name="narrow", scopes=[PERMISSION_API_KEY_MANAGE])
    narrow = admin.holding(made.secret)
    for key in (wide, full):
        asked = narrow.identity.RotateApiKey(api_key_id=key.api_key.id)
        assert await refusal(asked) == "SCOPE_NOT_HELD"
    assert (await narrow.identity.RotateApiKey(api_key_id=made.api_key.id, overlap_s=9)).secret


async def test_names_are_unique_among_live_keys_of_one_owner(
    world: World, database_url: str
) -> None:
    """In any spelling; a colleague may have the same one, and an ended key's name is free."""
    acme = await world.organisation("acme")
    made = await acme.admin.identity.CreateApiKey(name="ci")
    assert await refusal(acme.admin.identity.CreateApiKey(name="CI")) == "API_KEY_NAME_TAKEN"
    await (await acme.person("olivia")).identity.CreateApiKey(name="ci")
    await acme.admin.identity.RevokeApiKey(api_key_id=made.api_key.id)
    await acme.admin.identity.CreateApiKey(name="ci")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE identity.api_keys SET expires_at = now()")
    await acme.admin.identity.CreateApiKey(name="Ci")


async def test_twenty_at_once_make_one_key_of_a_name(world: World) -> None:
    """The index decides, not a look beforehand."""
    admin = (await world.organisation("acme")).admin
    calls = [admin.identity.CreateApiKey(name="ci") for _ in range(20)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refusals = [outcome.reason for outcome in outcomes if isinstance(outcome, Refused)]
    assert len(refusals) == 19 and set(refusals) <= {"API_KEY_NAME_TAKEN", "CONFLICT_TRY_AGAIN"}


async def test_a_key_bound_to_networks(serve: Serve) -> None:  # noqa: F811  # the fixture
    """It works from inside and nowhere else: the peer counts, and what a client writes into
    X-Forwarded-For does not, unless a trusted proxy brought it."""

    def through(person: Person, forwarded: str) -> Person:
        held = person.metadata()
        person.metadata = lambda: (*held, ("x-forwarded-for", forwarded))  # type: ignore[method-assign]  # what a proxy adds
        return person

    networks = ["198.51.100.0/24", "2001:db8::/32"]
    async with serve() as probed:
        made = await probed.olivia.identity.CreateApiKey(name="ci", source_networks=networks)
        key = probed.olivia.holding(made.secret)
        assert await refusal(key.identity.GetMe()) == "API_KEY_NETWORK_REFUSED"
        forged = through(probed.olivia.holding(made.secret), "198.51.100.7")
        assert await refusal(forged.identity.GetMe()) == "API_KEY_NETWORK_REFUSED"
    async with serve(trusted_proxies=("127.0.0.0/8",)) as probed:
        for address in ("198.51.100.7", "2001:db8::7"):
            await through(probed.olivia.holding(made.secret), address).identity.GetMe()
        for address in ("203.0.113.9", "2001:db9::7", "198.51.100.7, 203.0.113.9"):
            outside = through(probed.olivia.holding(made.secret), address)
            assert await refusal(outside.identity.GetMe()) == "API_KEY_NETWORK_REFUSED"
        inside = through(probed.olivia.holding(made.secret), "198.51.100.7")
        everything = [PERMISSION_TEMPLATE_READ]
        for wider in ([], ["198.51.0.0/16"], ["198.51.100.0/24", "0.0.0.0/0"]):
            asked = inside.identity.CreateApiKey(
                name="wider", scopes=everything, source_networks=wider
            )
            assert await refusal(asked) == "SCOPE_NOT_HELD"
        await inside.identity.CreateApiKey(
            name="inside", scopes=everything, source_networks=["198.51.100.128/25"]
        )


@pytest.mark.parametrize("text", ["everywhere", "10.0.0.0/33", "1.2.3", "::/200"])
async def test_what_is_no_network(world: World, text: str) -> None:
    """Named by its place; host bits are cut off, single addresses are networks of one."""
    admin = (await world.organisation("acme")).admin
    with pytest.raises(Refused) as refused:
        await admin.identity.CreateApiKey(name="ci", source_networks=["10.1.2.3/8", text])
    assert "source_networks[1]" in refused.value.message
    made = await admin.identity.CreateApiKey(name="ci", source_networks=["10.1.2.3/8", "::1"])
    assert list(made.api_key.source_networks) == ["10.0.0.0/8", "::1/128"]


async def test_who_manages_users_looks_after_their_keys(world: World) -> None:
    """An administrator sees olivia's keys and ends one that leaked; another user does not, and
    nobody gets at a secret by rotating somebody else's."""
    acme = await world.organisation("acme")
    olivia, oscar = await acme.person("olivia"), await acme.person("oscar")
    made = await olivia.identity.CreateApiKey(name="leaked", metadata={"team": "red"})
    listed = await acme.admin.identity.ListApiKeys(user_id=olivia.user_id)
    assert [key.id for key in listed.api_keys] == [made.api_key.id]
    assert dict(listed.api_keys[0].metadata) == {"team": "red"}
    asked = oscar.identity.ListApiKeys(user_id=olivia.user_id)
    assert await refusal(asked) == "PERMISSION_MISSING"
    for person, rpc in [
        (oscar, oscar.identity.GetApiKey),
        (oscar, oscar.identity.RevokeApiKey),
        (acme.admin, acme.admin.identity.RotateApiKey),
    ]:
        assert await refusal(rpc(api_key_id=made.api_key.id)) == "API_KEY_NOT_FOUND", person.name
    await acme.admin.identity.RevokeApiKey(api_key_id=made.api_key.id)
    assert await refusal(olivia.holding(made.secret).identity.GetMe()) == "API_KEY_INVALID"


async def test_use_is_counted_with_where_it_came_from(world: World, settings: Settings) -> None:
    """Through both secrets of a rotated key, as one key; the last address is kept."""
    admin = (await world.organisation("acme")).admin
    made = await admin.identity.CreateApiKey(name="ci")
    rotated = await admin.identity.RotateApiKey(api_key_id=made.api_key.id, overlap_s=600)
    for secret in (made.secret, rotated.secret, rotated.secret):
        await admin.holding(secret).identity.GetMe()
    await world.server.stop(at_once=True)
    async with open_core(settings, "worker") as core:
        await flush_key_usage(core)
    await world.server.start()
    world.address = f"127.0.0.1:{world.server.port}"
    key: ApiKey = (
        await (await world.log_in("admin-acme")).identity.GetApiKey(api_key_id=made.api_key.id)
    ).api_key
    assert (key.usage_count, key.last_used_ip) == (3, "127.0.0.1")
    assert key.last_used_at.ToDatetime(UTC) > datetime.now(UTC) - timedelta(minutes=5)
