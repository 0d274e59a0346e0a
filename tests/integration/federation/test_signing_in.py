"""Signing in at a real OpenID provider, at GitHub's kind of server, and what links whom."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from chimera.core import open_core
from chimera.federation.flow import purge_sign_ins
from chimera.server import Server
from chimera.settings import Settings
from chimera.v1.federation_pb2 import SignInProviderKind
from chimera.v1.identity_pb2 import ROLE_USER, ROLE_VIEWER, SessionRestriction
from tests.integration.federation.conftest import linked, signed_in, way_in
from tests.support.openid import REDIRECT_URI, GitHub, Provider, consent, redirected
from tests.support.stack import settings_with
from tests.support.world import PASSWORD, Person, Refused, World

GITHUB = SignInProviderKind.SIGN_IN_PROVIDER_KIND_GITHUB


def olivia(url: str) -> Any:
    return consent(url, "olivia@idp.example")


async def refusal(call: Any) -> str:
    with pytest.raises(Refused) as refused:
        await call
    return refused.value.reason


async def test_linking_and_signing_in_at_a_real_provider(
    world: World, mock_issuer: str, database_url: str
) -> None:
    """Olivia links her account there, and from then on gets sessions like any other: they refresh,
    are in the audit log, and end by logging out."""
    acme = await world.organisation("acme")
    person = await acme.person("olivia")
    provider = await way_in(acme, mock_issuer)
    before = signed_in(world.nobody(), provider.id, olivia)
    assert await refusal(before) == "IDENTITY_NOT_LINKED"
    identity = await linked(person, provider.id, olivia)
    assert (identity.issuer, identity.subject) == (mock_issuer, "olivia@idp.example")

    finished = await signed_in(world.nobody(), provider.id, olivia)
    assert finished.user.id == person.user_id and not finished.is_new_user
    session = world.nobody().holding(finished.tokens.access_token)
    session.tokens = finished.tokens
    assert (await session.identity.GetMe()).user.id == person.user_id
    await (await session.refresh()).identity.GetMe()
    [listed] = (await session.sign_in.ListLinkedIdentities()).linked_identities
    assert listed.HasField("last_used_at")
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT facts->>'action' FROM audit.pending").fetchall()
    recorded = {action for (action,) in rows}
    assert {"session.sign_in", "linked_identity.create", "sign_in_provider.create"} <= recorded
    await session.identity.Logout()
    assert await refusal(session.identity.GetMe()) == "SESSION_ENDED"


async def test_who_says_no_at_the_provider(world: World, mock_issuer: str) -> None:
    """Gets no session, and the sign-in is over."""
    acme = await world.organisation("acme")
    provider = await way_in(acme, mock_issuer)
    asked = signed_in(world.nobody(), provider.id, partial(consent, subject=""), state="x")
    assert await refusal(asked) == "SIGN_IN_STATE_INVALID"
    started = await world.nobody().sign_in.StartSignIn(
        provider_id=provider.id, redirect_uri=REDIRECT_URI
    )
    state = parse_qs(urlsplit(started.authorization_url).query)["state"][0]
    answer = {"handle": started.handle, "state": state, "error": "access_denied"}
    for reason in ("SIGN_IN_FAILED", "SIGN_IN_STATE_INVALID"):
        assert await refusal(world.nobody().sign_in.FinishSignIn(answer=answer)) == reason


async def test_newcomers_of_an_organisation(
    world: World, hostile: Provider, database_url: str
) -> None:
    """Whom its provider vouches for becomes a user without a password, if the organisation wants;
    the next time they are known, and told what their session waits for. Two at once make one user."""
    acme = await world.organisation("acme")
    provider = await way_in(
        acme, hostile.issuer, new_user_role=ROLE_VIEWER, email_domains=["acme.example"]
    )
    outcomes = await asyncio.gather(
        *(signed_in(world.nobody(), provider.id, redirected) for _ in range(4)),
        return_exceptions=True,
    )
    made = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert sum(one.is_new_user for one in made) == 1
    again = await signed_in(world.nobody(), provider.id, redirected)
    assert not again.is_new_user and {one.user.id for one in made} == {again.user.id}
    assert (again.user.email, again.user.username) == ("newcomer@acme.example", "newcomer")
    assert again.user.role == ROLE_VIEWER
    assert not again.restriction
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE identity.organisations SET requires_second_factor = true")
    told = await signed_in(world.nobody(), provider.id, redirected)
    assert told.restriction == SessionRestriction.SESSION_RESTRICTION_SECOND_FACTOR
    for password in (PASSWORD, "x"):
        login = world.nobody().identity.Login(login="newcomer", password=password)
        assert await refusal(login) == "CREDENTIALS_INVALID"


async def test_addresses_of_a_provider_are_taken_as_it_names_them(
    world: World, hostile: Provider
) -> None:
    """An issuer that ends in a slash, endpoints that do and that have a query, as common ones have."""
    acme = await world.organisation("acme")
    issuer = hostile.issuer + "/"
    hostile.discovery = {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}authorize/?p=policy",
        "token_endpoint": f"{issuer}token/?p=policy",
    }
    hostile.claims = hostile.redirect = {"iss": issuer}
    provider = await way_in(acme, issuer, new_user_role=ROLE_VIEWER)
    finished = await signed_in(world.nobody(), provider.id, redirected)
    assert finished.user.role == ROLE_VIEWER
    person = world.nobody().holding(finished.tokens.access_token)
    [listed] = (await person.sign_in.ListLinkedIdentities()).linked_identities
    assert (provider.issuer, listed.issuer) == (issuer, issuer)
    started = await person.sign_in.StartLink(provider_id=provider.id, redirect_uri=REDIRECT_URI)
    query = parse_qs(urlsplit(started.authorization_url).query)
    assert query["p"] == ["policy"] and query["client_id"] == ["client-1"]


async def test_who_is_no_newcomer(world: World, hostile: Provider) -> None:
    """An address that is not verified, or of another domain, makes nobody a user."""
    acme = await world.organisation("acme")
    provider = await way_in(
        acme, hostile.issuer, new_user_role=ROLE_VIEWER, email_domains=["acme.example"]
    )
    for claims in (
        {"email_verified": False},
        {"email_verified": "true"},
        {"email": None},
        {"email": "newcomer@evil.example"},
        {"email": "newcomer@notacme.example"},
        {"email": "newcomer@acme.example.evil.example"},
    ):
        hostile.claims = claims
        asked = signed_in(world.nobody(), provider.id, redirected)
        assert await refusal(asked) == "IDENTITY_NOT_LINKED", claims
    assert len((await acme.admin.identity.ListUsers()).users) == 1


async def test_an_address_never_links_anybody(world: World, hostile: Provider) -> None:
    """The provider claims the administrator's verified address: no session of hers, no second
    account; and the same subject at another issuer is somebody else."""
    acme = await world.organisation("acme")
    provider = await way_in(acme, hostile.issuer, new_user_role=ROLE_USER)
    hostile.claims = {"email": "admin@acme.example.com", "sub": "victim"}
    asked = signed_in(world.nobody(), provider.id, redirected)
    assert await refusal(asked) == "IDENTITY_NOT_LINKED"
    assert len((await acme.admin.identity.ListUsers()).users) == 1


async def test_a_provider_vouches_inside_its_organisation_only(
    world: World, hostile: Provider
) -> None:
    """Globex runs a provider of its own with the same issuer: who is linked at acme's is nobody at
    globex's, and nobody of acme links at globex's."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    ours = await way_in(acme, hostile.issuer)
    theirs = await way_in(globex, hostile.issuer)
    await linked(acme.admin, ours.id, redirected)
    asked = signed_in(world.nobody(), theirs.id, redirected)
    assert await refusal(asked) == "IDENTITY_NOT_LINKED"
    foreign = acme.admin.sign_in.StartLink(provider_id=theirs.id, redirect_uri=REDIRECT_URI)
    assert await refusal(foreign) == "SIGN_IN_PROVIDER_NOT_FOUND"
    await linked(globex.admin, theirs.id, redirected)
    assert (await signed_in(world.nobody(), theirs.id, redirected)).user.id == globex.admin.user_id
    assert (await signed_in(world.nobody(), ours.id, redirected)).user.id == acme.admin.user_id


async def test_an_identity_belongs_to_one(world: World, hostile: Provider) -> None:
    """Who links it first has it; a finished link is of the person who started it, signed in and not
    with a key."""
    acme = await world.organisation("acme")
    person, oscar = await acme.person("olivia"), await acme.person("oscar")
    provider = await way_in(acme, hostile.issuer)
    await linked(person, provider.id, redirected)
    assert await refusal(linked(oscar, provider.id, redirected)) == "IDENTITY_TAKEN"
    hostile.claims = {"sub": "another"}
    started = await person.sign_in.StartLink(provider_id=provider.id, redirect_uri=REDIRECT_URI)
    answer = {"handle": started.handle, **await redirected(started.authorization_url)}
    assert await refusal(oscar.sign_in.FinishLink(answer=answer)) == "SIGN_IN_STATE_INVALID"
    started = await person.sign_in.StartLink(provider_id=provider.id, redirect_uri=REDIRECT_URI)
    answer = {"handle": started.handle, **await redirected(started.authorization_url)}
    as_sign_in = world.nobody().sign_in.FinishSignIn(answer=answer)
    assert await refusal(as_sign_in) == "SIGN_IN_STATE_INVALID"
    key = await person.identity.CreateApiKey(name="ci")
    by_key = person.holding(key.secret).sign_in.StartLink(
        provider_id=provider.id, redirect_uri=REDIRECT_URI
    )
    assert await refusal(by_key) == "SESSION_REQUIRED"


async def test_the_last_way_in_stays(world: World, hostile: Provider, database_url: str) -> None:
    """Without a password one identity has to stay, also when two are unlinked at once; with one,
    none has to."""
    acme = await world.organisation("acme")
    provider = await way_in(acme, hostile.issuer, new_user_role=ROLE_USER)
    finished = await signed_in(world.nobody(), provider.id, redirected)
    person = world.nobody().holding(finished.tokens.access_token)
    for _ in range(6):  # nothing is guessed at what is not there
        assert await refusal(person.account.StepUp(password="anything")) == "PASSWORD_NOT_SET"
    change = person.account.ChangePassword(current_password="a", new_password="anything at all")
    assert await refusal(change) == "PASSWORD_NOT_SET"
    hostile.claims = {"sub": "subject-2"}
    await linked(person, provider.id, redirected)
    listed = (await person.sign_in.ListLinkedIdentities()).linked_identities
    with psycopg.connect(database_url) as connection:  # somebody else is at the same account
        connection.execute(
            "SELECT FROM identity.users WHERE id = %s FOR UPDATE", [finished.user.id]
        )
        asked = person.sign_in.UnlinkIdentity(linked_identity_id=listed[0].id)
        assert await refusal(asked) == "CONFLICT_TRY_AGAIN"
    outcomes = await asyncio.gather(
        *(person.sign_in.UnlinkIdentity(linked_identity_id=one.id) for one in listed),
        return_exceptions=True,
    )
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Refused)]
    assert reasons == ["LAST_WAY_IN"]
    # Nor does one at a provider that is switched off or gone let anybody in.
    second = await way_in(acme, hostile.issuer, name="second", client_id="client-2")
    [left] = (await person.sign_in.ListLinkedIdentities()).linked_identities
    hostile.claims = {"sub": "subject-of-client-2"}
    dead = await linked(person, second.id, redirected)
    unlink = person.sign_in.UnlinkIdentity
    await acme.admin.sign_in.UpdateSignInProvider(
        sign_in_provider_id=second.id, update_mask={"paths": ["is_enabled"]}, is_enabled=False
    )
    assert await refusal(unlink(linked_identity_id=left.id)) == "LAST_WAY_IN"
    await acme.admin.sign_in.DeleteSignInProvider(sign_in_provider_id=second.id)
    assert await refusal(unlink(linked_identity_id=left.id)) == "LAST_WAY_IN"
    await unlink(linked_identity_id=dead.id)
    hostile.claims = {"sub": "subject-3"}
    mine = await linked(acme.admin, provider.id, redirected)
    foreign = person.sign_in.UnlinkIdentity(linked_identity_id=mine.id)
    assert await refusal(foreign) == "LINKED_IDENTITY_NOT_FOUND"
    await acme.admin.sign_in.UnlinkIdentity(linked_identity_id=mine.id)
    asked = signed_in(world.nobody(), provider.id, redirected, handle="")
    assert await refusal(asked) == "FIELD_INVALID"


async def test_a_disabled_account_stays_out(
    world: World, hostile: Provider, database_url: str
) -> None:
    """Whatever the provider says."""
    acme = await world.organisation("acme")
    provider = await way_in(acme, hostile.issuer, new_user_role=ROLE_USER)
    finished = await signed_in(world.nobody(), provider.id, redirected)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE identity.users SET state = 'disabled' WHERE id = %s", [finished.user.id]
        )
    asked = signed_in(world.nobody(), provider.id, redirected)
    assert await refusal(asked) == "ACCOUNT_DISABLED"


async def test_github_is_known_by_the_number_of_the_account(world: World, github: GitHub) -> None:
    """There is no ID token: the user endpoint tells. A login name that changes hands changes
    nothing, and only the primary verified address counts."""
    acme = await world.organisation("acme")
    provider = await way_in(
        acme, github.origin, kind=GITHUB, new_user_role=ROLE_USER, email_domains=["acme.example"]
    )
    first = await signed_in(world.nobody(), provider.id, redirected)
    assert (first.user.email, first.user.username) == ("octocat@acme.example", "octocat")
    github.account = {"id": 583231, "login": "renamed"}
    assert (await signed_in(world.nobody(), provider.id, redirected)).user.id == first.user.id
    github.account = {"id": 7, "login": "octocat"}
    asked = signed_in(world.nobody(), provider.id, redirected)
    assert await refusal(asked) == "IDENTITY_NOT_LINKED"
    github.emails = [{"email": "seven@acme.example", "primary": True, "verified": False}]
    asked = signed_in(world.nobody(), provider.id, redirected)
    assert await refusal(asked) == "IDENTITY_NOT_LINKED"
    wrong_code = signed_in(world.nobody(), provider.id, redirected, code="made-up")
    assert await refusal(wrong_code) == "SIGN_IN_FAILED"


async def test_providers_of_the_installation(
    settings: Settings, github: GitHub, hostile: Provider
) -> None:
    """By settings, for everyone who links; they make nobody a user. An option is shown by its name,
    a secret never."""
    given = {"client_id": "client", "client_secret": "client-secret"}
    common: dict[str, Any] = {**given, "redirect_uris": [REDIRECT_URI]}
    providers = [
        {"name": "github", "kind": "github", "issuer": github.origin, **common},
        {"name": "corporate", "kind": "oidc", "issuer": hostile.issuer, **common},
        {"name": "google", "kind": "google", **common},
    ]
    changed = settings_with(settings, sign_in_providers=providers)
    assert "client-secret" not in repr(changed)
    server = Server(changed)
    await server.start()
    world = World(server, changed)
    try:
        acme = await world.organisation("acme")
        mine = await way_in(acme, hostile.issuer, name="ours")
        options = (await world.nobody().sign_in.ListSignInOptions()).options
        assert [one.provider_id for one in options] == ["github", "corporate", "google"]
        options = (await world.nobody().sign_in.ListSignInOptions(organisation_id=acme.id)).options
        assert [one.name for one in options] == ["github", "corporate", "google", "ours"]
        for name in ("github", "corporate"):
            asked = signed_in(world.nobody(), name, redirected)
            assert await refusal(asked) == "IDENTITY_NOT_LINKED"
            await linked(acme.admin, name, redirected)
            finished = await signed_in(world.nobody(), name, redirected)
            assert finished.user.id == acme.admin.user_id
        apart = signed_in(world.nobody(), mine.id, redirected)
        assert await refusal(apart) == "IDENTITY_NOT_LINKED"
    finally:
        await world.close()
        await server.stop(at_once=True)


async def test_unfinished_sign_ins_are_purged(
    world: World, hostile: Provider, settings: Settings, database_url: str
) -> None:
    """They lie sealed until then: the table alone tells nothing of what is in them."""
    acme = await world.organisation("acme")
    provider = await way_in(acme, hostile.issuer)
    started = await world.nobody().sign_in.StartSignIn(
        provider_id=provider.id, redirect_uri=REDIRECT_URI
    )
    query = parse_qs(urlsplit(started.authorization_url).query)
    assert query["code_challenge_method"] == ["S256"] and started.handle not in str(query)
    with psycopg.connect(database_url, autocommit=True) as connection:
        [(row,)] = connection.execute("SELECT s::text FROM identity.sign_ins s").fetchall()
        for text in (started.handle, query["nonce"][0], provider.id):
            assert text not in row and text.encode().hex() not in row
        connection.execute("UPDATE identity.sign_ins SET expires_at = now()")
        late = {"handle": started.handle, **await redirected(started.authorization_url)}
        asked = world.nobody().sign_in.FinishSignIn(answer=late)
        assert await refusal(asked) == "SIGN_IN_STATE_INVALID"
        async with open_core(settings, "worker") as core:
            assert await purge_sign_ins(core) == 1


async def test_an_administrator_keeps_providers(
    world: World, hostile: Provider, database_url: str
) -> None:
    """Made, switched off, given a new secret, deleted; the secret is in no answer and no column."""
    acme = await world.organisation("acme")
    provider = await way_in(acme, hostile.issuer)
    admin: Person = acme.admin
    await linked(admin, provider.id, redirected)

    async def change(paths: list[str], **given: Any) -> Any:
        answer = await admin.sign_in.UpdateSignInProvider(
            sign_in_provider_id=provider.id, update_mask={"paths": paths}, **given
        )
        return answer.sign_in_provider

    await change(["client_secret"], client_secret="wrong")
    asked = signed_in(world.nobody(), provider.id, redirected)
    assert await refusal(asked) == "SIGN_IN_FAILED"
    await change(["client_secret", "name"], client_secret="client-secret", name="main")
    await signed_in(world.nobody(), provider.id, redirected)
    assert (await admin.sign_in.ListSignInProviders()).sign_in_providers[0].name == "main"
    [identity] = (await admin.sign_in.ListLinkedIdentities()).linked_identities
    assert identity.provider_name == "main"
    with psycopg.connect(database_url) as connection:
        [(row,)] = connection.execute("SELECT p::text FROM identity.sign_in_providers p").fetchall()
    assert "client-secret" not in row and "sealed" not in str(provider)
    await change(["is_enabled"], is_enabled=False)
    for done in ("switched off", "deleted"):
        asked = signed_in(world.nobody(), provider.id, redirected)
        assert await refusal(asked) == "SIGN_IN_PROVIDER_NOT_FOUND", done
        if done == "switched off":
            await admin.sign_in.DeleteSignInProvider(sign_in_provider_id=provider.id)


async def test_where_a_provider_may_not_be(world: World) -> None:
    """Nothing inside, nothing without https but loopback where the setting allows it."""
    acme = await world.organisation("acme")
    for issuer in (
        "http://accounts.example.com",
        "https://169.254.169.254",
        "https://10.0.0.1",
        "https://metadata.internal",
        "https://user@accounts.example.com",
        "ftp://accounts.example.com",
        "https://accounts.example.com?tenant=acme",
        "https://[accounts.example.com",
        "",
    ):
        assert await refusal(way_in(acme, issuer)) == "BASE_URL_REFUSED", issuer


async def test_where_a_browser_may_not_be_sent(world: World) -> None:
    """Codes go over https, or to the person's own machine."""
    acme = await world.organisation("acme")
    for uri in (
        "http://chimera.example/in",
        "https://chimera.example/in#x",
        "javascript:alert(1)",
        "https://u@chimera.example/in",
        "/in",
    ):
        asked = acme.admin.sign_in.CreateSignInProvider(
            name="x",
            kind=SignInProviderKind.SIGN_IN_PROVIDER_KIND_GOOGLE,
            client_id="x",
            client_secret="x",
            redirect_uris=["http://127.0.0.1:9000/in", uri],
        )
        assert await refusal(asked) == "FIELD_INVALID", uri


async def test_who_is_unlinked_while_they_sign_in_stays_outside(
    world: World, hostile: Provider, database_url: str
) -> None:
    """The account is taken over between the look for the identity and the session."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    provider = await way_in(acme, hostile.issuer)
    await linked(olivia, provider.id, redirected)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with await psycopg.AsyncConnection.connect(database_url) as owner:
        await owner.execute(
            "UPDATE identity.users SET password_changed_at = now() WHERE id = %s", [olivia.user_id]
        )
        await owner.execute(
            "DELETE FROM identity.linked_identities WHERE user_id = %s", [olivia.user_id]
        )
        signs_in = asyncio.create_task(signed_in(world.nobody(), provider.id, redirected))
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as looker:
            while not signs_in.done():
                if await (await looker.execute(waits)).fetchone() != (0,):
                    break
        await owner.commit()
        assert await refusal(signs_in) == "IDENTITY_NOT_LINKED"
