"""Access tokens over the wire: only ours, only now, only for us."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import psycopg
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey

from chimera.core import open_core
from chimera.identity.signing_keys import SigningKeys, public_part
from chimera.identity.tokens import public_key
from tests.support.world import Refused, World


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    head, body, signature = token.split(".")
    return _read(head), _read(body), signature


def _read(part: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=="))
    return read


def _write(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


async def _refusal(world: World, token: str) -> str:
    with pytest.raises(Refused) as refused:
        await world.nobody().holding(token).identity.GetMe()
    assert refused.value.code == "UNAUTHENTICATED"
    return refused.value.reason


async def test_what_a_token_says(world: World) -> None:
    """Type, algorithm and claims, and five minutes."""
    person = (await world.organisation("acme")).admin
    header, claims, _signature = _parts(person.credential)
    assert (header["typ"], header["alg"]) == ("at+jwt", "EdDSA")
    assert claims.keys() == {
        "iss", "aud", "sub", "sid", "jti", "org", "authz_epoch", "exp", "iat",
    }  # fmt: skip
    assert claims["exp"] - claims["iat"] == 300
    assert claims["sub"] == person.user_id


async def test_tokens_we_did_not_sign_are_refused(world: World) -> None:
    """Changed, unsigned, under another algorithm or key, or signed by us for something else."""
    person = (await world.organisation("acme")).admin
    header, claims, signature = _parts(person.credential)
    async with open_core(world.settings, "app") as core:
        raw = (await (await SigningKeys.opened(core)).read()).raw
    fields = public_key(public_part(raw)).as_dict()
    ours = OKPKey.import_key({**fields, "d": base64.urlsafe_b64encode(raw).decode().rstrip("=")})
    foreign = OKPKey.generate_key("Ed25519")
    public = OctKey.import_key(base64.urlsafe_b64decode(ours.dict_value["x"] + "=="))

    def signed(key: Any, changed: dict[str, Any], **head: Any) -> str:
        algorithm = str(head.get("alg", "EdDSA"))
        return jwt.encode(header | head, claims | changed, key, algorithms=[algorithm])

    assert await _refusal(world, signed(ours, {"exp": int(time.time()) - 60})) == "TOKEN_EXPIRED"
    wrong = {
        "tampered": ".".join([_write(header), _write(claims | {"sub": "x"}), signature]),
        "cut": person.credential[:-4],
        "none": ".".join([_write(header | {"alg": "none"}), _write(claims), ""]),
        "confused": signed(public, {}, alg="HS256"),
        "foreign key, our id": signed(foreign, {}),
        "unknown key id": signed(foreign, {}, kid="0" * 16),
        "other type": signed(ours, {}, typ="JWT"),
        "other audience": signed(ours, {"aud": "somebody else"}),
        "several audiences": signed(ours, {"aud": ["chimera", "somebody else"]}),
        "other issuer": signed(ours, {"iss": "somebody else"}),
        "of tomorrow": signed(ours, {"iat": int(time.time()) + 86400}),
        "garbage": "garbage",
        "long": "x" * 5000,
    }
    refusals = {name: await _refusal(world, token) for name, token in wrong.items()}
    assert refusals == dict.fromkeys(wrong, "CREDENTIALS_INVALID")
    await world.nobody().holding(signed(ours, {})).identity.GetMe()


async def test_without_credentials_one_is_asked_for_them(world: World) -> None:
    """Missing is told apart from wrong."""
    assert await _refusal(world, "") == "CREDENTIALS_MISSING"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE identity.users SET state = 'disabled'", "ACCOUNT_DISABLED"),
        ("UPDATE identity.users SET authz_epoch = authz_epoch + 1", "TOKEN_EXPIRED"),
        ("DELETE FROM identity.memberships", "SESSION_ENDED"),
        ("UPDATE identity.sessions SET absolute_expires_at = now()", "SESSION_ENDED"),
    ],
)
async def test_a_valid_token_ends_with_what_it_stands_for(
    world: World, database_url: str, change: str, reason: str
) -> None:
    """The person is disabled, changed or removed meanwhile: soon the token is worth nothing."""
    person = (await world.organisation("acme")).admin
    await person.identity.GetMe()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(change)
    with pytest.raises(Refused) as refused:
        async with asyncio.timeout(30):
            while True:
                await person.identity.GetMe()
                await asyncio.sleep(0.01)  # or it runs into the limit of calls
    # Between two reads of the state the member may already be gone from the list of users.
    if refused.value.reason == "USER_NOT_FOUND":
        with pytest.raises(Refused) as refused:
            async with asyncio.timeout(30):
                while True:
                    await person.identity.ListApiKeys()
                    await asyncio.sleep(0.01)
    assert refused.value.reason == reason


async def test_a_changed_role_is_in_the_refreshed_token(world: World, database_url: str) -> None:
    """After the change the session goes on, with what the new role allows."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia", role="user")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE identity.memberships SET role = 'viewer' WHERE user_id = %s", [olivia.user_id]
        )
        connection.execute(
            "UPDATE identity.users SET authz_epoch = authz_epoch + 1 WHERE id = %s",
            [olivia.user_id],
        )
    answer = await olivia.identity.RefreshSession(refresh_token=olivia.tokens.refresh_token)
    viewer = await acme.person("victor", role="viewer")
    refreshed = await olivia.holding(answer.tokens.access_token).identity.GetMe()
    assert refreshed.permissions == (await viewer.identity.GetMe()).permissions
