"""How people get an account, and what outsiders learn from it: nothing."""

from __future__ import annotations

from typing import Any

import pytest

from chimera.db import Tx
from chimera.roundtrip import Asked
from chimera.server import Server
from chimera.settings import Settings
from chimera.v1.identity_pb2 import Role
from tests.integration.accounts.conftest import (
    Table,
    reason,
    registered,
    together,
)
from tests.support.post import Post
from tests.support.world import PASSWORD, World


async def test_somebody_registers_and_has_an_organisation(world: World, post: Post) -> None:
    """Olivia asks, reads her mail, chooses a password, signs in: she administers her own."""
    nobody = world.nobody()
    await nobody.account.Register(
        email="Olivia@Example.com", username="Olivia", organisation_name="Olivia's lab"
    )
    assert await reason(nobody.identity.Login(login="olivia", password=PASSWORD)) == (
        "CREDENTIALS_INVALID"
    )
    token = await post.token("olivia@example.com")
    made = await nobody.account.ConfirmRegistration(token=token, password=PASSWORD)
    assert made.user.role == Role.ROLE_ADMIN and made.user.HasField("email_verified_at")
    olivia = await world.log_in("olivia")
    me = await olivia.identity.GetMe()
    assert (me.organisation.name, me.user.email) == ("Olivia's lab", "olivia@example.com")
    assert await reason(nobody.account.ConfirmRegistration(token=token, password=PASSWORD)) == (
        "ONE_TIME_TOKEN_INVALID"
    )


async def test_known_and_unknown_addresses_get_the_same_answer_and_work(
    world: World, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statement for statement; what there is to say is in the mail."""
    await registered(world, post, "olivia")
    await post.deliver()
    done: list[str] = []
    send = Tx._send

    async def noted(tx: Tx, statements: list[Asked], *more: Any) -> Any:
        if tx.call.method.startswith("/chimera"):
            done.extend(statement.text.decode() for statement in statements)
        return await send(tx, statements, *more)

    monkeypatch.setattr(Tx, "_send", noted)
    works, answers = [], []
    for email in ("olivia@example.com", "nobody@example.com"):
        done.clear()
        account = world.nobody().account
        answers.append(
            [
                await account.Register(email=email, username="somebody", organisation_name="x"),
                await account.RequestPasswordReset(email=email),
                await account.ResendVerification(email=email),
            ]
        )
        works.append(list(done))
    assert answers[0] == answers[1]
    assert works[0] == works[1] and len(works[0]) == 10 and works[0].count("COMMIT") == 3
    monkeypatch.undo()
    [existing, reset] = (await post.letters_to("olivia@example.com"))[-2:]
    assert "one already" in existing and "reset-password" in reset
    [register, again] = await post.letters_to("nobody@example.com")
    assert "register" in register and "register" in again


async def test_names_that_are_taken_or_kept_are_found_out_late_and_mended(
    world: World, post: Post, table: Table
) -> None:
    """Nothing is reserved before the mailbox is proven; the link survives a name that is taken."""
    nobody = world.nobody()
    for name in ("anna", "ben"):
        await nobody.account.Register(
            email=f"{name}@example.com", username="Same.Name", organisation_name=name
        )
    first, second = await post.token("anna@example.com"), await post.token("ben@example.com")
    confirm = nobody.account.ConfirmRegistration
    assert await reason(confirm(token=first, password=PASSWORD)) == "OK"
    assert await reason(confirm(token=second, password=PASSWORD)) == "USERNAME_TAKEN"
    assert await reason(confirm(token=second, password=PASSWORD, username="root")) == (
        "FIELD_INVALID"
    )
    assert await reason(confirm(token=second, password="passwordpassword")) == "PASSWORD_TOO_WEAK"
    assert await reason(confirm(token=second, password=PASSWORD, username="ben")) == "OK"
    assert table.value("SELECT count(*) FROM identity.users") == 2
    assert table.value("SELECT count(*) FROM identity.organisations") == 2


async def test_of_parallel_confirmations_one_makes_the_account(
    world: World, post: Post, table: Table
) -> None:
    """A link that is opened eight times at once."""
    nobody = world.nobody()
    await nobody.account.Register(
        email="eve@example.com", username="eve", organisation_name="eve's"
    )
    token = await post.token("eve@example.com")
    reasons = await together(
        *(nobody.account.ConfirmRegistration(token=token, password=PASSWORD) for _ in range(8))
    )
    assert reasons.count("OK") == 1
    assert set(reasons) <= {
        "OK",
        "ONE_TIME_TOKEN_INVALID",
        "EMAIL_TAKEN",
        "USERNAME_TAKEN",
        "ORGANISATION_NAME_TAKEN",
    }
    assert table.value("SELECT count(*) FROM identity.users") == 1


async def test_a_token_is_good_for_its_purpose_until_its_day(
    world: World, post: Post, table: Table
) -> None:
    """Reset links confirm nothing, registration links reset nothing, old ones are worth nothing."""
    olivia = await registered(world, post, "olivia")
    nobody = world.nobody()
    await nobody.account.Register(email="new@example.com", username="new", organisation_name="new")
    registration = await post.token("new@example.com")
    await nobody.account.RequestPasswordReset(email="olivia@example.com")
    reset = await post.token("olivia@example.com")
    invalid = "ONE_TIME_TOKEN_INVALID"
    account = nobody.account
    assert await reason(account.ResetPassword(token=registration, password=PASSWORD)) == invalid
    assert await reason(account.ConfirmRegistration(token=reset, password=PASSWORD)) == invalid
    assert await reason(account.VerifyEmail(token=reset)) == invalid
    assert await reason(nobody.identity.CompleteLogin(challenge_token=reset, code="123456")) == (
        invalid
    )
    assert (
        await reason(olivia.organisations.RedeemInvitation(invitation_code=reset))
        == "INVITATION_INVALID"
    )
    table.rows("UPDATE identity.registrations SET expires_at = now() - interval '1 second'")
    table.rows("UPDATE identity.one_time_tokens SET expires_at = now() - interval '1 second'")
    assert await reason(account.ConfirmRegistration(token=registration, password=PASSWORD)) == (
        invalid
    )
    assert await reason(account.ResetPassword(token=reset, password="a different password!")) == (
        invalid
    )


@pytest.mark.parametrize(
    "username",
    ["аdmin", "olivia\u200b", "ol ivia", "olivia@x", "-olivia", "o" * 65, "ｏlivia", "ol\x00ivia"],
)
async def test_no_name_passes_for_another(world: World, username: str) -> None:
    """Other alphabets, invisible characters, look-alikes, addresses: a user name is plain."""
    call = world.nobody().account.Register(
        email="x@example.com", username=username, organisation_name="x"
    )
    assert await reason(call) == "FIELD_INVALID"


async def test_what_is_too_large_is_refused_before_any_work(world: World) -> None:
    account = world.nobody().account
    assert await reason(account.ResetPassword(token="x" * 201, password=PASSWORD)) == (
        "FIELD_INVALID"
    )
    assert await reason(account.ResetPassword(token="x", password="x" * 257)) == "FIELD_INVALID"
    assert await reason(account.RequestPasswordReset(email="x" * 400 + "@example.com")) == (
        "FIELD_INVALID"
    )


async def test_where_registration_is_not_open_only_the_invited_come(
    settings: Settings, post: Post
) -> None:
    """By invitation: with a code. Closed: not at all."""
    for mode, expected in (("invitation", "OK"), ("closed", "REGISTRATION_CLOSED")):
        server = Server(settings.model_copy(update={"registration": mode}))
        await server.start()
        world = World(server, settings)
        try:
            acme = await world.organisation(f"acme-{mode}")
            invited = await acme.admin.organisations.CreateInvitation(role=Role.ROLE_USER)
            nobody = world.nobody()
            ask = {"email": f"zoe@{mode}.example.com", "username": f"zoe-{mode}"}
            assert (
                await reason(nobody.account.Register(**ask, organisation_name="mine"))
                == "REGISTRATION_CLOSED"
            )
            code = invited.code
            assert await reason(nobody.account.Register(**ask, invitation_code=code)) == expected
            assert await reason(acme.admin.organisations.CreateOrganisation(name="x")) == (
                "PERMISSION_MISSING"
            )
        finally:
            await world.close()
            await server.stop(at_once=True)
    token = await post.token("zoe@invitation.example.com")
    assert token
