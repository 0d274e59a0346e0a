"""A provider, or somebody between, that lies: each lie alone is enough to be refused."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from chimera.v1.identity_pb2 import ROLE_USER
from tests.integration.federation.conftest import linked, signed_in, way_in
from tests.support.openid import (
    REDIRECT_URI,
    Provider,
    hostile_provider,
    redirected,
    rsa_key,
)
from tests.support.world import Refused, World

NOW = time.time()


async def refusal(call: Any) -> str:
    with pytest.raises(Refused) as refused:
        await call
    return refused.value.reason


def lie(**changed: Any) -> Callable[[Provider], None]:
    def tell(provider: Provider) -> None:
        for name, value in changed.items():
            setattr(provider, name, value)

    return tell


def _part(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unsigned(header: dict[str, Any], claims: dict[str, Any], alg: str = "none") -> str:
    parts = [json.dumps(value).encode() for value in ({**header, "alg": alg}, claims)]
    return ".".join([*map(_part, parts), ""])


def _by_client_secret(header: dict[str, Any], claims: dict[str, Any]) -> str:
    key = OctKey.import_key(b"client-secret-client-secret-client")
    return jwt.encode({**header, "alg": "HS256"}, claims, key, algorithms=["HS256"])


def _by_public_key(provider: Provider) -> None:
    """The classical confusion: the public key as the secret of an HMAC."""
    secret = provider.key.as_pem(private=False)

    def sign(header: dict[str, Any], claims: dict[str, Any]) -> str:
        unsigned = _unsigned(header, claims, "HS256").removesuffix(".")
        return f"{unsigned}.{_part(hmac.digest(secret, unsigned.encode(), 'sha256'))}"

    provider.sign = sign


def _by_another_key(provider: Provider) -> None:
    other = rsa_key("first", 1)
    provider.sign = lambda header, claims: jwt.encode(header, claims, other)


def _tampered(provider: Provider) -> None:
    def sign(header: dict[str, Any], claims: dict[str, Any]) -> str:
        head, _, signature = jwt.encode(header, claims, provider.key).split(".")
        body = json.dumps({**claims, "sub": "administrator"}).encode()
        return f"{head}.{_part(body)}.{signature}"

    provider.sign = sign


LIES: dict[str, Callable[[Provider], None]] = {
    "wrong nonce": lie(claims={"nonce": "another"}),
    "no nonce": lie(claims={"nonce": None}),
    "other issuer": lie(claims={"iss": "https://accounts.google.com"}),
    "no issuer": lie(claims={"iss": None}),
    "other audience": lie(claims={"aud": "somebody else"}),
    "no audience": lie(claims={"aud": None}),
    "several audiences without azp": lie(claims={"aud": ["client-1", "other"]}),
    "azp of somebody else": lie(claims={"azp": "other"}),
    "expired": lie(claims={"exp": NOW - 120}),
    "no expiry": lie(claims={"exp": None}),
    "expiry as text": lie(claims={"exp": "tomorrow"}),
    "issued tomorrow": lie(claims={"iat": NOW + 86400}),
    "issued yesterday": lie(claims={"iat": NOW - 86400}),
    "no time of issue": lie(claims={"iat": None}),
    "of another access token": lie(claims={"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}),
    "no subject": lie(claims={"sub": None}),
    "empty subject": lie(claims={"sub": ""}),
    "numeric subject": lie(claims={"sub": 7}),
    "endless subject": lie(claims={"sub": "x" * 256}),
    "alg none": lie(sign=_unsigned),
    "alg HS256 by client secret": lie(sign=_by_client_secret),
    "alg HS256 by public key": _by_public_key,
    "another key, same kid": _by_another_key,
    "unknown kid": lie(header={"kid": "unknown"}),
    "tampered": _tampered,
    "an access token": lie(header={"typ": "at+jwt"}),
    "an algorithm it does not use": lie(
        discovery={"id_token_signing_alg_values_supported": ["ES256"]}
    ),
    "no keys": lie(published=[]),
    "no ID token": lie(token_answer={"id_token": None}),
    "garbage for an ID token": lie(token_answer={"id_token": "a.b.c"}),
    "no access token": lie(token_answer={"access_token": None}),
    "another token type": lie(token_answer={"token_type": "mac"}),
    "discovery of another issuer": lie(discovery={"issuer": "https://accounts.google.com"}),
    "an endpoint inside": lie(discovery={"token_endpoint": "https://10.0.0.1/token"}),
    "an endpoint without https": lie(discovery={"jwks_uri": "http://example.com/jwks"}),
    "no endpoint": lie(discovery={"token_endpoint": None}),
    "iss of another provider": lie(redirect={"iss": "https://accounts.google.com"}),
    "iss left out": lie(redirect={"iss": ""}),
}


async def test_one_lie_is_enough(world: World) -> None:
    """The honest answer signs in; with one thing changed nobody is signed in and nobody made."""
    acme = await world.organisation("acme")
    refusals = {}
    for name, tell in LIES.items():
        async with hostile_provider() as provider:
            tell(provider)
            way = await way_in(acme, provider.issuer, name=name, new_user_role=ROLE_USER)
            refusals[name] = await refusal(signed_in(world.nobody(), way.id, redirected))
    assert refusals == dict.fromkeys(LIES, "SIGN_IN_FAILED")
    assert len((await acme.admin.identity.ListUsers()).users) == 1


async def test_the_honest_answer_signs_in(world: World, hostile: Provider) -> None:
    """So the lies above are refused for what they are; azp and several audiences may be honest."""
    acme = await world.organisation("acme")
    strange = "client id/1+ü"
    provider = await way_in(acme, hostile.issuer, new_user_role=ROLE_USER, client_id=strange)
    assert (await signed_in(world.nobody(), provider.id, redirected)).is_new_user
    hostile.claims = {"aud": [strange, "other"], "azp": strange, "at_hash": None}
    assert not (await signed_in(world.nobody(), provider.id, redirected)).is_new_user


async def test_what_was_used_is_worth_nothing(world: World, hostile: Provider) -> None:
    """A state again, a code again, a code of another sign-in, a handle of another, ten at once."""
    acme = await world.organisation("acme")
    provider = await way_in(acme, hostile.issuer, new_user_role=ROLE_USER)
    nobody = world.nobody()

    async def begun() -> dict[str, str]:
        started = await nobody.sign_in.StartSignIn(
            provider_id=provider.id, redirect_uri=REDIRECT_URI
        )
        return {"handle": started.handle, **await redirected(started.authorization_url)}

    first, second, third = await begun(), await begun(), await begun()
    outcomes = await asyncio.gather(
        *(nobody.sign_in.FinishSignIn(answer=first) for _ in range(10)), return_exceptions=True
    )
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Refused)]
    assert reasons == ["SIGN_IN_STATE_INVALID"] * 9
    swapped = {**second, "handle": third["handle"]}
    assert await refusal(nobody.sign_in.FinishSignIn(answer=swapped)) == "SIGN_IN_STATE_INVALID"
    replayed = {**second, "code": first["code"]}
    assert await refusal(nobody.sign_in.FinishSignIn(answer=replayed)) == "SIGN_IN_FAILED"
    injected = {**third, "code": (await begun())["code"]}
    assert await refusal(nobody.sign_in.FinishSignIn(answer=injected)) == "SIGN_IN_FAILED"
    made_up = {**first, "handle": "chs_" + "x" * 43}
    assert await refusal(nobody.sign_in.FinishSignIn(answer=made_up)) == "SIGN_IN_STATE_INVALID"


async def test_a_mixed_up_provider(world: World, hostile: Provider) -> None:
    """The person was sent to one provider and comes back with the code of another: it is not
    carried to the first one's token endpoint."""
    acme = await world.organisation("acme")
    async with hostile_provider() as attacker:
        honest = await way_in(acme, hostile.issuer, new_user_role=ROLE_USER)
        evil = await way_in(acme, attacker.issuer, name="evil")
        nobody = world.nobody()
        started = await nobody.sign_in.StartSignIn(provider_id=evil.id, redirect_uri=REDIRECT_URI)
        other = await nobody.sign_in.StartSignIn(provider_id=honest.id, redirect_uri=REDIRECT_URI)
        brought = await redirected(other.authorization_url)
        state = (await redirected(started.authorization_url))["state"]
        answer = {"handle": started.handle, **brought, "state": state}
        assert await refusal(nobody.sign_in.FinishSignIn(answer=answer)) == "SIGN_IN_FAILED"
        assert not attacker.token_requests, "the code did not reach the attacker"


async def test_redirect_uris_are_compared_letter_by_letter(world: World, hostile: Provider) -> None:
    acme = await world.organisation("acme")
    provider = await way_in(acme, hostile.issuer)
    for uri in (
        REDIRECT_URI + "/",
        REDIRECT_URI + "?x=1",
        REDIRECT_URI.upper(),
        "https://evil.example/signed-in",
        "https://chimera.example.evil.example/signed-in",
    ):
        asked = world.nobody().sign_in.StartSignIn(provider_id=provider.id, redirect_uri=uri)
        assert await refusal(asked) == "FIELD_INVALID"


async def test_the_providers_keys_rotate(world: World, hostile: Provider) -> None:
    """A key nobody has seen makes the set be fetched anew, once; the old key is then refused. A
    flood of made-up key ids fetches a few times and no more."""
    acme = await world.organisation("acme")
    provider = await way_in(acme, hostile.issuer, new_user_role=ROLE_USER)
    await signed_in(world.nobody(), provider.id, redirected)
    await signed_in(world.nobody(), provider.id, redirected)
    assert hostile.jwks_fetches == 1
    old = hostile.key
    hostile.key = rsa_key("second")
    await signed_in(world.nobody(), provider.id, redirected)
    await signed_in(world.nobody(), provider.id, redirected)
    assert hostile.jwks_fetches == 2
    hostile.published, hostile.key = [hostile.key], old
    for _ in range(6):
        assert await refusal(signed_in(world.nobody(), provider.id, redirected)) == "SIGN_IN_FAILED"
    assert hostile.jwks_fetches <= 5


async def test_a_provider_that_is_away_or_endless(world: World, hostile: Provider) -> None:
    """Is said to be away, or refused; no crash, and nothing of its answer is passed on."""
    acme = await world.organisation("acme")
    provider = await way_in(acme, "http://127.0.0.1:9")
    asked = world.nobody().sign_in.StartSignIn(provider_id=provider.id, redirect_uri=REDIRECT_URI)
    assert await refusal(asked) == "DEPENDENCY_UNAVAILABLE"
    await way_in(acme, hostile.issuer, name="endless")
    hostile.discovery = {"padding": "x" * 300_000}
    provider = await way_in(acme, hostile.issuer, name="other")
    asked = world.nobody().sign_in.StartSignIn(provider_id=provider.id, redirect_uri=REDIRECT_URI)
    assert await refusal(asked) == "SIGN_IN_FAILED"
    hostile.discovery = {}
    await linked(acme.admin, provider.id, redirected)
