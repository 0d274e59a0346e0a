"""Changing and resetting passwords, and what organisations ask of them."""

from __future__ import annotations

import json

from chimera.identity.endings import CHANGES
from chimera.v1.identity_pb2 import SessionRestriction
from chimera.v1.organisations_pb2 import OrganisationRules
from tests.integration.accounts.conftest import (
    OTHER_PASSWORD,
    Table,
    at,
    reason,
    registered,
    together,
    with_factor,
)
from tests.support.post import Post
from tests.support.world import PASSWORD, World


async def test_a_new_password_ends_the_other_sessions(
    world: World, post: Post, table: Table
) -> None:
    """Hers goes on, the other one's does not; nobody learns the old password is none any more but
    by the answer; she is told by mail."""
    olivia = await registered(world, post, "olivia")
    elsewhere = await world.log_in("olivia.x")
    change = olivia.account.ChangePassword
    assert await reason(change(current_password="wrong", new_password=OTHER_PASSWORD)) == (
        "PASSWORD_WRONG"
    )
    assert await reason(change(current_password=PASSWORD, new_password=PASSWORD)) == (
        "PASSWORD_USED_BEFORE"
    )
    assert await reason(change(current_password=PASSWORD, new_password="short one")) == (
        "PASSWORD_TOO_WEAK"
    )
    changed = await change(current_password=PASSWORD, new_password=OTHER_PASSWORD)
    assert changed.sessions_ended == 1
    assert await reason(elsewhere.identity.GetMe()) == "SESSION_ENDED"
    assert await reason(olivia.identity.GetMe()) == "OK"
    assert await reason(world.log_in("olivia.x")) == "CREDENTIALS_INVALID"
    await world.log_in("olivia.x", OTHER_PASSWORD)
    assert "password was changed" in (await post.letters_to("olivia@example.com"))[-1]
    assert table.value("SELECT count(*) FROM identity.password_history") == 1


async def test_an_api_key_changes_no_password(world: World) -> None:
    admin = (await world.organisation("acme")).admin
    key = admin.holding((await admin.identity.CreateApiKey(name="ci")).secret)
    call = key.account.ChangePassword(current_password=PASSWORD, new_password=OTHER_PASSWORD)
    assert await reason(call) == "SESSION_REQUIRED"


async def test_a_forgotten_password_is_chosen_anew(world: World, post: Post) -> None:
    """The link works once, ends all sessions, and makes the links sent before it worthless."""
    olivia = await registered(world, post, "olivia")
    nobody = world.nobody()
    links = []
    for _ in range(2):
        await nobody.account.RequestPasswordReset(email="olivia@example.com")
        links.append(await post.token("olivia@example.com"))
    reset = nobody.account.ResetPassword
    assert await reason(reset(token=links[1], password="too short")) == "PASSWORD_TOO_WEAK"
    assert await reason(reset(token=links[1], password=PASSWORD)) == "PASSWORD_USED_BEFORE"
    assert await reason(reset(token=links[1], password=OTHER_PASSWORD)) == "OK"
    for link in links:
        assert await reason(reset(token=link, password="yet another password")) == (
            "ONE_TIME_TOKEN_INVALID"
        )
    assert await reason(olivia.identity.GetMe()) == "SESSION_ENDED"
    await world.log_in("olivia.x", OTHER_PASSWORD)


async def test_of_parallel_resets_one_wins(world: World, post: Post) -> None:
    await registered(world, post, "olivia")
    nobody = world.nobody()
    await nobody.account.RequestPasswordReset(email="olivia@example.com")
    token = await post.token("olivia@example.com")
    reasons = await together(
        *(
            nobody.account.ResetPassword(token=token, password=f"password of number {n}")
            for n in range(6)
        )
    )
    assert reasons == ["OK"] + ["ONE_TIME_TOKEN_INVALID"] * 5 or reasons == (
        ["OK"] + ["ONE_TIME_TOKEN_INVALID"] * 5
    )


async def test_a_mailbox_is_not_filled_by_others(world: World, post: Post) -> None:
    """Five letters an hour of a kind, however often somebody asks and whoever has the address."""
    olivia = await registered(world, post, "olivia")
    before = len(await post.letters_to("olivia@example.com"))
    for _ in range(7):
        await world.nobody().account.RequestPasswordReset(email="olivia@example.com")
    assert len(await post.letters_to("olivia@example.com")) == before + 5

    for n in range(7):
        await at(world, f"203.0.113.{n}").account.Register(
            email="olivia@example.com", username=f"x{n}y", organisation_name=f"o{n}"
        )
    # With the one that confirmed her registration.
    assert len(await post.letters_to("olivia@example.com")) == before + 5 + 4

    zoe = {"email": "zoe@example.com"}
    await world.nobody().account.Register(**zoe, username="zoe", organisation_name="z")
    for n in range(7):
        await at(world, f"203.0.113.{n}").account.ResendVerification(**zoe)
    assert len(await post.letters_to("zoe@example.com")) == 5

    invite = olivia.organisations.CreateInvitation
    reasons = [await reason(invite(role=2, email="kim@example.com")) for _ in range(7)]
    assert reasons == ["OK"] * 5 + ["RATE_LIMITED"] * 2
    assert len(await post.letters_to("kim@example.com")) == 5


async def test_a_letter_written_twice_holds_one_good_link(
    world: World, post: Post, table: Table
) -> None:
    """The worker died after sending: the second letter's link works, the first one's does not."""
    await registered(world, post, "olivia")
    await world.nobody().account.RequestPasswordReset(email="olivia@example.com")
    [row] = table.rows(
        "SELECT id, org_id, args FROM ops.outbox WHERE args->>'kind' = 'password_reset'"
    )
    first = await post.token("olivia@example.com")
    table.rows(
        "INSERT INTO ops.outbox (id, org_id, task, args) VALUES (%s, NULL, 'send_mail', %s::jsonb)",
        row[0],
        json.dumps(row[2]),
    )
    second = await post.token("olivia@example.com")
    reset = world.nobody().account.ResetPassword
    assert await reason(reset(token=first, password=OTHER_PASSWORD)) == "ONE_TIME_TOKEN_INVALID"
    assert await reason(reset(token=second, password=OTHER_PASSWORD)) == "OK"


async def test_the_rules_of_an_organisation_hold(world: World, post: Post) -> None:
    """Length, classes and history; for those who join as well."""
    olivia = await registered(world, post, "olivia")
    rules = OrganisationRules(
        password_characters_min=20, password_classes_min=3, password_history=3
    )
    await olivia.organisations.UpdateOrganisation(update_mask={"paths": ["rules"]}, rules=rules)
    got = await olivia.organisations.GetOrganisationRules()
    assert got.rules == rules

    async def change(current: str, new: str) -> str:
        return await reason(
            olivia.account.ChangePassword(current_password=current, new_password=new)
        )

    first, second = "Battery-staple-horse-1", "Battery-staple-horse-2"
    assert await change(PASSWORD, "Nineteen-char-long1") == "PASSWORD_TOO_WEAK"
    assert await change(PASSWORD, "only lower case and spaces") == "PASSWORD_TOO_WEAK"
    assert await change(PASSWORD, first) == "OK"
    assert await change(first, second) == "OK"
    assert await change(second, first) == "PASSWORD_USED_BEFORE"
    create = olivia.identity.CreateUser(
        email="new@example.com", username="new", role=2, password="only lower case and spaces"
    )
    assert await reason(create) == "PASSWORD_TOO_WEAK"


async def test_with_a_second_factor_a_shorter_password_does(
    world: World, post: Post, table: Table
) -> None:
    """Eight characters, but none of those that leaked most often."""
    olivia = await registered(world, post, "olivia")
    await with_factor(olivia)
    change = olivia.account.ChangePassword
    assert await reason(change(current_password=PASSWORD, new_password="sunshine1")) == (
        "PASSWORD_TOO_WEAK"
    )
    assert await reason(change(current_password=PASSWORD, new_password="7kQz!w0p")) == "OK"


async def test_an_old_password_has_to_go(world: World, post: Post, table: Table) -> None:
    """Signing in still works; nothing else does, until another one is chosen."""
    olivia = await registered(world, post, "olivia")
    await olivia.organisations.UpdateOrganisation(
        update_mask={"paths": ["rules"]},
        rules=OrganisationRules(password_characters_min=8, password_age_days_max=30),
    )
    table.rows("UPDATE identity.users SET password_changed_at = now() - interval '31 days'")
    opened = await world.nobody().identity.Login(login="olivia.x", password=PASSWORD)
    assert opened.restriction == SessionRestriction.SESSION_RESTRICTION_PASSWORD_EXPIRED
    late = world.nobody().holding(opened.tokens.access_token)
    assert await reason(late.identity.ListUsers()) == "PASSWORD_EXPIRED"
    assert await reason(late.identity.GetMe()) == "OK"
    await late.account.ChangePassword(current_password=PASSWORD, new_password=OTHER_PASSWORD)
    assert await reason(late.identity.ListUsers()) == "OK"


async def test_sensitive_calls_ask_again_who_is_there(
    world: World, post: Post, table: Table
) -> None:
    """After a quarter of an hour her session does everything but those; StepUp renews it. API keys,
    which cannot prove anything anew, are let through where they are allowed at all."""
    olivia = await registered(world, post, "olivia")
    key = olivia.holding((await olivia.identity.CreateApiKey(name="ci", scopes=[3, 1])).secret)

    def grow_old() -> None:
        table.rows("UPDATE identity.sessions SET auth_time = now() - interval '16 minutes'")
        CHANGES.note()

    grow_old()
    assert await reason(olivia.identity.CreateApiKey(name="late")) == "STEP_UP_REQUIRED"
    assert await reason(olivia.account.EnrollTotp()) == "STEP_UP_REQUIRED"
    assert await reason(olivia.identity.ListUsers()) == "OK"
    assert await reason(key.identity.CreateApiKey(name="by key", scopes=[1])) == "OK"
    assert await reason(olivia.account.StepUp(password="wrong")) == "PASSWORD_WRONG"
    assert await reason(olivia.account.StepUp()) == "FIELD_INVALID"
    await olivia.account.StepUp(password=PASSWORD)
    assert await reason(olivia.identity.CreateApiKey(name="now")) == "OK"

    totp, _ = await with_factor(olivia)
    table.a_while_later(olivia.user_id)
    grow_old()
    assert await reason(olivia.account.StepUp(password=PASSWORD)) == "FIELD_INVALID"
    # Nor does the password do by another name.
    await olivia.account.ChangePassword(current_password=PASSWORD, new_password=OTHER_PASSWORD)
    assert await reason(olivia.identity.CreateApiKey(name="sly")) == "STEP_UP_REQUIRED"
    code = totp.now()
    assert await reason(olivia.account.StepUp(code=code)) == "OK"
    assert await reason(olivia.account.StepUp(code=code)) == "CODE_INVALID"
    assert await reason(olivia.identity.CreateApiKey(name="later")) == "OK"
