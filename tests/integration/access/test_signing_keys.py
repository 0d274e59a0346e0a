"""Signing keys: rotation that nobody notices, and tokens that others verify from the JWKS alone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import psycopg
import pytest
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from chimera.core import Core, open_core
from chimera.identity import signing_keys
from chimera.identity.signing_keys import NewSigningKey, destroy_retired, rotate_when_due
from chimera.settings import Settings
from tests.support.processes import eventually, free_port
from tests.support.stack import settings_with
from tests.support.world import Person, Refused, World

METRICS_PORT = free_port()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings_with(
        settings,
        metrics_listen=f"127.0.0.1:{METRICS_PORT}",
        issuer="https://chimera.example",
        signing_key_lead_s=1.5,
    )


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{METRICS_PORT}") as session:
        yield session


async def published(http: aiohttp.ClientSession) -> dict[str, Any]:
    async with http.get("/.well-known/jwks.json") as answer:
        assert answer.status == 200 and answer.content_type == "application/jwk-set+json"
        found: dict[str, Any] = await answer.json(content_type=None)
    return found


def verified(token: str, jwks: dict[str, Any]) -> dict[str, Any]:
    """As somebody else would: from the document, the issuer and the audience."""
    claims = jwt.decode(token, KeySet.import_key_set(jwks), algorithms=["EdDSA"]).claims
    assert (claims["iss"], claims["aud"]) == ("https://chimera.example", "chimera")
    assert claims["exp"] > time.time()
    return dict(claims)


def kid_of(token: str) -> str:
    import base64

    head = token.partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(head + "=="))["kid"])


async def operator_of(world: World) -> Person:
    return (await world.organisation("acme", operator=True)).admin


async def test_others_verify_tokens_offline_through_a_rotation(
    world: World, http: aiohttp.ClientSession
) -> None:
    """The new key is in the document before it signs; tokens of the old one verify there and here
    until they expire; then the server signs with the new one, without a restart."""
    person = await operator_of(world)
    before = await published(http)
    assert verified(person.credential, before)["sub"] == person.user_id
    rotated = (await person.signing_keys.RotateSigningKey()).signing_key
    old_kid = kid_of(person.credential)
    assert rotated.kid != old_kid and not rotated.is_signing

    async def has_both() -> bool:
        return {key["kid"] for key in (await published(http))["keys"]} == {old_kid, rotated.kid}

    await eventually(has_both)
    ahead = await published(http)
    old = person.credential

    async def signs_with_the_new_one() -> bool:
        await person.refresh()
        return kid_of(person.credential) == rotated.kid

    await eventually(signs_with_the_new_one)
    assert verified(person.credential, ahead), "by a document from before the key signed"
    assert verified(old, await published(http))
    await person.holding(old).identity.GetMe()
    with pytest.raises((JoseError, ValueError)):
        verified(person.credential, before)
    keys = (await person.signing_keys.ListSigningKeys()).signing_keys
    assert [(key.is_signing, key.is_published) for key in keys] == [(True, True), (False, True)]
    lasts = keys[1].verifies_until.seconds - keys[0].signs_from.seconds
    assert lasts >= world.settings.access_token_s, "until the last token it signed has expired"
    over_rpc = await world.nobody().signing_keys.GetJwks()
    assert json.loads(over_rpc.jwks) == await published(http)


async def test_the_document_holds_nothing_private(
    world: World, http: aiohttp.ClientSession
) -> None:
    """Public parts, what they are for, and how long it may be kept; discovery leads to it."""
    for key in (await published(http))["keys"]:
        assert key.keys() == {"kty", "crv", "x", "kid", "use", "alg"}
    async with http.get("/.well-known/jwks.json") as answer:
        assert answer.headers["Cache-Control"] == "public, max-age=60"
    async with http.get("/.well-known/openid-configuration") as answer:
        found = await answer.json()
    assert found["issuer"] == "https://chimera.example"
    assert found["jwks_uri"] == "https://chimera.example/.well-known/jwks.json"
    async with http.get("/metrics") as answer:
        assert "chimera_rpc_seconds" in await answer.text()


async def test_a_leaked_key_is_withdrawn_at_once(world: World, http: aiohttp.ClientSession) -> None:
    """Tokens under it are refused by every process within seconds, and its document entry goes; a
    refresh gives a token under the new key."""
    person = await operator_of(world)
    await person.identity.GetMe()
    new = (await person.signing_keys.RotateSigningKey(withdraw_others=True)).signing_key
    assert new.is_signing

    async def is_refused() -> bool:
        try:
            await person.identity.GetMe()
        except Refused as refused:
            return refused.reason == "CREDENTIALS_INVALID"
        return False

    await eventually(is_refused)
    await (await person.refresh()).identity.GetMe()
    assert kid_of(person.credential) == new.kid

    async def is_alone() -> bool:
        return [key["kid"] for key in (await published(http))["keys"]] == [new.kid]

    await eventually(is_alone)


async def test_a_worker_rotates_when_it_is_time(
    world: World, settings: Settings, database_url: str
) -> None:
    """Not before; once, when several workers find it due at the same moment. A private key that
    verifies nothing any more is destroyed."""
    async with open_core(settings, "worker") as core:
        assert not await rotate_when_due(core)
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "UPDATE identity.signing_keys SET signs_from = now() - interval '31 days'"
            )
            done = await asyncio.gather(*(rotate_when_due(core) for _ in range(5)))
            assert sorted(done) == [False] * 4 + [True]
            assert not await rotate_when_due(core)
            assert await destroy_retired(core) == 0
            connection.execute(
                "UPDATE identity.signing_keys SET verifies_until = now() WHERE version = 1"
            )
            assert await destroy_retired(core) == 1
            left = connection.execute(
                "SELECT version FROM ops.secrets WHERE name = 'access-token'"
            ).fetchall()
    assert left == [(2,)]
    await world.organisation("acme")  # somebody signs in


async def test_a_worker_that_was_overtaken_rotates_nothing(
    world: World, settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between finding it due and making the key, another worker rotates from beginning to end."""
    make = signing_keys.make_signing_key

    async def overtaken(core: Core, *version: int) -> NewSigningKey:
        monkeypatch.undo()
        assert await rotate_when_due(core)
        return await make(core, *version)

    async with open_core(settings, "worker") as core:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "UPDATE identity.signing_keys SET signs_from = now() - interval '31 days'"
            )
        monkeypatch.setattr(signing_keys, "make_signing_key", overtaken)
        assert not await rotate_when_due(core)


async def test_only_operators_rotate(world: World) -> None:
    """An organisation's administrator neither rotates nor lists."""
    admin = (await world.organisation("acme")).admin
    for rpc in ("RotateSigningKey", "ListSigningKeys"):
        with pytest.raises(Refused) as refused:
            await getattr(admin.signing_keys, rpc)()
        assert refused.value.reason == "PERMISSION_MISSING"
