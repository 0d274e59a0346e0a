"""A sign-in elsewhere is one factor: who has set up a second one is asked for it."""

from __future__ import annotations

from typing import Any

import psycopg
import pyotp
import pytest

from chimera.v1.federation_pb2 import FinishSignInResponse
from tests.integration.federation.conftest import linked, signed_in, way_in
from tests.support.openid import Provider, redirected
from tests.support.world import Person, Refused, World


async def reason(call: Any) -> str:
    with pytest.raises(Refused) as refused:
        await call
    return refused.value.reason


async def with_factor(person: Person, database_url: str) -> pyotp.TOTP:
    """Somebody's authenticator, whose present code was not used yet."""
    totp = pyotp.TOTP((await person.account.EnrollTotp()).secret)
    await person.account.ConfirmTotp(code=totp.now())
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE identity.users SET totp_step = 0 WHERE id = %s", [person.user_id]
        )
    return totp


async def test_the_provider_does_not_replace_the_second_factor(
    world: World, hostile: Provider, database_url: str
) -> None:
    """Her account at the provider alone opens nothing: a challenge, good for one session and with a
    right code only; that session has both factors, also where the organisation insists on them."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    provider = await way_in(acme, hostile.issuer)
    await linked(olivia, provider.id, redirected)
    totp = await with_factor(olivia, database_url)

    finished = await signed_in(world.nobody(), provider.id, redirected)
    assert {field.name for field, _ in finished.ListFields()} == {"challenge"}
    nobody = world.nobody()
    token = finished.challenge.token
    wrong = nobody.identity.CompleteLogin(challenge_token=token, code="00000")
    assert await reason(wrong) == "FIELD_INVALID"
    wrong = nobody.identity.CompleteLogin(challenge_token=token, code=totp.at(0))
    assert await reason(wrong) == "CODE_INVALID"
    done = await nobody.identity.CompleteLogin(challenge_token=token, code=totp.now())
    assert done.user.id == olivia.user_id
    again = nobody.identity.CompleteLogin(challenge_token=token, code=totp.now())
    assert await reason(again) == "ONE_TIME_TOKEN_INVALID"
    session = nobody.holding(done.tokens.access_token)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE identity.organisations SET requires_second_factor = true")
    [kept] = [s for s in (await session.account.ListSessions()).sessions if s.is_current]
    assert kept.has_second_factor
    await session.identity.ListUsers()
    with psycopg.connect(database_url) as connection:
        recorded = connection.execute(
            "SELECT facts->>'action', facts->>'entity' FROM audit.pending WHERE facts->>'actor_id' = %s"
            " AND facts->>'outcome' = 'success' ORDER BY id DESC LIMIT 2",
            [olivia.user_id],
        ).fetchall()
    assert recorded == [("session.complete_login", "session"), ("session.sign_in", "user")]


async def test_a_challenge_ends_with_the_account(
    world: World, hostile: Provider, database_url: str
) -> None:
    """She is disabled between the two steps."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    provider = await way_in(acme, hostile.issuer)
    await linked(olivia, provider.id, redirected)
    totp = await with_factor(olivia, database_url)
    finished: FinishSignInResponse = await signed_in(world.nobody(), provider.id, redirected)
    await acme.admin.identity.DisableUser(user_id=olivia.user_id)
    late = world.nobody().identity.CompleteLogin(
        challenge_token=finished.challenge.token, code=totp.now()
    )
    assert await reason(late) == "ONE_TIME_TOKEN_INVALID"
