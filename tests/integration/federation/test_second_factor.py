"""A sign-in elsewhere is one factor: who has set up a second one is asked for it, unless the provider
asked already and the organisation believes it."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import psycopg
import pyotp
import pytest

from chimera.v1.federation_pb2 import FinishSignInResponse, SignInProviderKind
from chimera.v1.identity_pb2 import ROLE_USER, SessionRestriction
from chimera.v1.options_pb2 import PERMISSION_OPERATE
from tests.integration.federation.conftest import linked, signed_in, way_in
from tests.support.openid import REDIRECT_URI, Provider, consent, redirected, says
from tests.support.world import PASSWORD, Organisation, Person, Refused, World

SUBJECT = "olivia@idp.example"
GITHUB = SignInProviderKind.SIGN_IN_PROVIDER_KIND_GITHUB


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


async def test_who_completes_a_sign_in_is_told_what_it_waits_for(
    world: World, hostile: Provider, database_url: str
) -> None:
    """Her password is too old, though it was not asked for."""
    olivia = await (acme := await world.organisation("acme")).person("olivia")
    provider = await way_in(acme, hostile.issuer)
    await linked(olivia, provider.id, redirected)
    totp = await with_factor(olivia, database_url)
    finished = await signed_in(world.nobody(), provider.id, redirected)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE identity.organisations SET password_age_days_max = 1")
        connection.execute(
            "UPDATE identity.users SET password_changed_at = now() - interval '2 days'"
        )
    done = await world.nobody().identity.CompleteLogin(
        challenge_token=finished.challenge.token, code=totp.now()
    )
    assert done.restriction == SessionRestriction.SESSION_RESTRICTION_PASSWORD_EXPIRED


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


async def test_a_provider_that_asked_already_is_believed_where_the_organisation_says_so(
    world: World, mock_issuer: str, database_url: str
) -> None:
    """Not by default, nor for what nobody named, nor for what is no list. What counts is in the log,
    as is who let it count; the session has both factors."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    provider = await way_in(acme, mock_issuer)
    browser = partial(consent, subject=SUBJECT)
    await linked(olivia, provider.id, browser)
    await with_factor(olivia, database_url)

    async def is_challenged(**claims: object) -> bool:
        await says(mock_issuer, SUBJECT, **claims)
        finished = await signed_in(world.nobody(), provider.id, browser)
        if finished.HasField("tokens"):
            olivia.credential = finished.tokens.access_token
        return bool(finished.challenge.token)

    async def believe(**values: list[str]) -> None:
        await acme.admin.sign_in.UpdateSignInProvider(
            sign_in_provider_id=provider.id, update_mask={"paths": list(values)}, **values
        )

    assert await is_challenged(amr=["pwd", "mfa"], acr="phr")
    await believe(second_factor_amr=["otp", "mfa"])
    for not_meant in (["pwd"], "mfa", [["mfa"]], {"mfa": True}, [], None):
        assert await is_challenged(amr=not_meant, acr="phr"), not_meant
    with psycopg.connect(database_url, autocommit=True) as connection:
        insist = "UPDATE identity.organisations SET requires_second_factor = %s"
        connection.execute(insist, [True])
        assert not await is_challenged(amr=["pwd", "mfa"])
        [session] = [s for s in (await olivia.account.ListSessions()).sessions if s.is_current]
        assert session.has_second_factor
        await olivia.templates.ListTemplates()
        connection.execute(insist, [False])

    await believe(second_factor_amr=[], second_factor_acr=["phr"])
    assert await is_challenged(amr=["pwd", "mfa"])
    assert not await is_challenged(acr="phr")
    started = await world.nobody().sign_in.StartSignIn(
        provider_id=provider.id, redirect_uri=REDIRECT_URI
    )
    assert "acr_values=phr" in started.authorization_url
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT f->>'name', f->>'value' FROM audit.pending, jsonb_array_elements(fields) f"
            " WHERE f->>'name' LIKE '%%second_factor%%'"
            "   AND facts->>'action' IN ('session.sign_in', 'sign_in_provider.update') ORDER BY id"
        ).fetchall()
    told = [value for name, value in rows if "new" in name]
    assert told == ['["mfa","otp"]', '"amr mfa"', '["phr"]', "[]", '"acr phr"']


async def test_what_is_no_second_factor_is_not_believed(world: World, hostile: Provider) -> None:
    """A password, a place; anything of a provider without ID tokens; and a token that is not sound."""
    acme = await world.organisation("acme")
    for given in (
        {"second_factor_amr": ["mfa", "pwd"]},
        {"second_factor_amr": ["geo"]},
        {"second_factor_amr": ["two words"]},
        {"second_factor_acr": ["0"]},
        {"second_factor_amr": ["mfa"], "kind": GITHUB},
    ):
        assert await reason(way_in(acme, hostile.issuer, **given)) == "FIELD_INVALID", given
    provider = await way_in(acme, hostile.issuer, second_factor_amr=["mfa"])
    for paths in ("second_factor_amr", "second_factor_acr"):
        change = acme.admin.sign_in.UpdateSignInProvider(
            sign_in_provider_id=provider.id, update_mask={"paths": [paths]},
            second_factor_amr=["pwd"], second_factor_acr=["0"],
        )  # fmt: skip
        assert await reason(change) == "FIELD_INVALID"
    hostile.claims = {"amr": ["mfa"], "nonce": "another"}
    assert await reason(signed_in(world.nobody(), provider.id, redirected)) == "SIGN_IN_FAILED"


async def test_a_factor_is_as_old_as_the_provider_says(
    world: World, hostile: Provider, database_url: str
) -> None:
    """And from before all time when it does not say: no condition on its age is met. Going to another
    organisation makes it no younger, and what a provider vouched for is left behind."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    provider = await way_in(acme, hostile.issuer, second_factor_amr=["hwk"])
    await linked(olivia, provider.id, redirected)
    globex = await world.organisation("globex")
    invited = await globex.admin.organisations.CreateInvitation(role=ROLE_USER, uses_max=1)
    await olivia.organisations.RedeemInvitation(invitation_code=invited.code)
    await olivia.refresh()

    def newest() -> tuple[float | None, bool]:
        with psycopg.connect(database_url) as connection:
            row = connection.execute(
                "SELECT extract(epoch FROM second_factor_at)::float8, is_vouched"
                "  FROM identity.sessions WHERE user_id = %s ORDER BY created_at DESC LIMIT 1",
                [olivia.user_id],
            ).fetchone()
        assert row is not None
        return row

    async def goes(person: Person) -> None:
        await person.organisations.SwitchOrganisation(organisation_id=globex.id)

    now = int(time.time())
    for told, kept in (
        (now - 3600, now - 3600), (None, 0), (now + 3600, 0), (-5, 0), ("now", 0), (True, 0),
    ):  # fmt: skip
        hostile.claims = {"amr": ["hwk"], "auth_time": told}
        finished = await signed_in(world.nobody(), provider.id, redirected)
        assert newest() == (kept, True), told
    await goes(world.nobody().holding(finished.tokens.access_token))
    assert newest() == (None, False)

    totp = await with_factor(olivia, database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE identity.sessions SET second_factor_at = to_timestamp(%s) WHERE user_id = %s",
            [now - 3600, olivia.user_id],
        )
    await goes(olivia)
    assert newest() == (now - 3600, False)

    # Her own second factor is asked for before another organisation sees her.
    finished = await signed_in(world.nobody(), provider.id, redirected)
    session = world.nobody().holding(finished.tokens.access_token)
    assert await reason(goes(session)) == "STEP_UP_REQUIRED"
    await session.account.StepUp(code=totp.now())
    await goes(session)
    factor_at, is_vouched = newest()
    assert factor_at is not None and factor_at >= now and not is_vouched


async def guest(acme: Organisation, globex: Organisation, olivia: Person | None = None) -> Person:
    """Olivia of acme (or somebody else), in a session at globex, where she belongs as well."""
    olivia = olivia or await acme.person("olivia")
    invited = await globex.admin.organisations.CreateInvitation(role=ROLE_USER, uses_max=1)
    await olivia.organisations.RedeemInvitation(invitation_code=invited.code)
    await olivia.refresh()
    switched = await olivia.organisations.SwitchOrganisation(organisation_id=globex.id)
    there = olivia.holding(switched.tokens.access_token)
    there.user_id = olivia.user_id
    return there


async def test_a_provider_has_no_say_over_accounts_of_others(
    world: World, hostile: Provider, database_url: str
) -> None:
    """Who runs globex's provider can sign in there as Olivia, whose account is acme's: not past her
    second factor, whatever the provider claims; and without one neither into acme nor at her account,
    until she has proved who she is here."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    olivia = await guest(acme, globex)
    provider = await way_in(globex, hostile.issuer, second_factor_amr=["mfa"])
    await linked(olivia, provider.id, redirected)
    hostile.claims = {"amr": ["mfa"], "auth_time": int(time.time())}

    finished = await signed_in(world.nobody(), provider.id, redirected)
    session = world.nobody().holding(finished.tokens.access_token)
    assert (await session.identity.GetMe()).organisation.id == globex.id
    [kept] = [s for s in (await session.account.ListSessions()).sessions if s.is_current]
    assert not kept.has_second_factor and not kept.HasField("auth_time")
    for call in (
        session.organisations.SwitchOrganisation(organisation_id=acme.id),
        session.account.ChangeEmail(new_email="mallory@globex.example"),
        session.account.EnrollTotp(),
        session.privacy.ExportMyData(),
        session.privacy.RequestErasure(),
    ):
        assert await reason(call) == "STEP_UP_REQUIRED"
    await session.account.StepUp(password=PASSWORD)
    await session.organisations.SwitchOrganisation(organisation_id=acme.id)
    session.user_id = olivia.user_id
    await with_factor(session, database_url)
    finished = await signed_in(world.nobody(), provider.id, redirected)
    assert finished.challenge.token and not finished.HasField("tokens")


async def test_no_organisation_vouches_for_an_operator(
    world: World, hostile: Provider, database_url: str
) -> None:
    """Who runs acme's provider signs in as Ben, whose account is acme's, and as a guest from the
    installation's own organisation: neither session operates, nor does one, or a key, from before Ben
    was made an operator; his own second factor makes him one."""
    root, acme = await world.organisation("root", operator=True), await world.organisation("acme")
    ben = await acme.person("ben")
    provider = await way_in(acme, hostile.issuer, second_factor_amr=["mfa"])
    await linked(ben, provider.id, redirected)
    totp = await with_factor(ben, database_url)

    async def forged(subject: str) -> Person:
        hostile.claims = {"sub": subject, "amr": ["mfa"]}
        person = world.nobody()
        finished = await signed_in(person, provider.id, redirected)
        person.credential, person.tokens = finished.tokens.access_token, finished.tokens
        return person

    async def operates(person: Person) -> bool:
        return PERMISSION_OPERATE in (await person.identity.GetMe()).permissions

    subject = (await ben.sign_in.ListLinkedIdentities()).linked_identities[0].subject
    early = await forged(subject)
    key = early.holding((await early.identity.CreateApiKey(name="early")).secret)
    await root.admin.identity.SetSuperuser(user_id=ben.user_id, is_superuser=True)
    late = await forged(subject)
    for person in (await early.refresh(), key, late):
        assert not await operates(person)
        lifts = person.identity.SetSuperuser(user_id=acme.admin.user_id, is_superuser=True)
        assert await reason(lifts) == "PERMISSION_MISSING"
    for person in (early, late):
        makes = person.identity.CreateApiKey(name="forged")
        assert await reason(makes) == "STEP_UP_REQUIRED"
    await late.account.StepUp(code=totp.now())
    assert await operates(late)
    made = await late.identity.CreateApiKey(name="late")
    assert await operates(late.holding(made.secret))

    there = await guest(root, acme, root.admin)
    hostile.claims = {"sub": "the operator"}
    await linked(there, provider.id, redirected)
    assert await operates(there)
    assert not await operates(await forged("the operator"))
