"""One's own account, and what administrators do with those of others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from chimera.v1.identity_pb2 import Role, UserState
from tests.integration.accounts.conftest import (
    OTHER_PASSWORD,
    Table,
    reason,
    registered,
    together,
    with_factor,
)
from tests.support.post import Post
from tests.support.world import PASSWORD, Person, World


def struct(**values: Any) -> Struct:
    made = Struct()
    made.update(values)
    return made


async def prefer(person: Person, **values: Any) -> str:
    return await reason(
        person.account.UpdateMe(
            user={"preferences": struct(**values)}, update_mask={"paths": ["preferences"]}
        )
    )


async def test_preferences_are_kept_and_have_rules(world: World) -> None:
    """A closed list, bounded; what breaks a rule changes nothing."""
    olivia = (await world.organisation("acme")).admin
    good = {
        "theme": "dark",
        "language": "pt-BR",
        "time_zone": "Europe/Berlin",
        "page_size": 100,
        "notifications": {"email": True, "digest": False},
        "dashboard": {"columns": ["name", "state"]},
    }
    assert await prefer(olivia, **good) == "OK"
    for bad in (
        {"theme": "pink"},
        {"language": "not a language"},
        {"time_zone": "Mars/Olympus"},
        {"page_size": 0},
        {"page_size": True},
        {"notifications": {"email": "yes"}},
        {"notifications": {"sms": True}},
        {"colour": "red"},
        {"dashboard": {"a": {"b": {"c": {"d": {"e": 1}}}}}},
        {"dashboard": {"much": "x" * 20_000}},
    ):
        assert await prefer(olivia, **bad) == "FIELD_INVALID"
    kept = (await olivia.identity.GetMe()).user.preferences
    assert dict(kept)["theme"] == "dark" and kept["notifications"]["digest"] is False


async def test_a_profile_is_ones_own(world: World) -> None:
    """Name, user name, picture; not another's; not while somebody else changed it."""
    acme = await world.organisation("acme")
    ben = await acme.person("ben")
    update = ben.account.UpdateMe

    async def change(**fields: Any) -> str:
        return await reason(update(user=fields, update_mask={"paths": list(fields)}))

    assert await change(display_name="Ben B.", picture_url="https://example.com/b.png") == "OK"
    assert await change(username="BEN.new") == "OK"
    assert (await ben.identity.GetMe()).user.username == "ben.new"
    assert await change(username="admin-acme") == "USERNAME_TAKEN"
    assert await change(username="") == "FIELD_INVALID"
    assert await change(username="Root") == "FIELD_INVALID"  # kept for the installation
    assert await change(username="bеn") == "FIELD_INVALID"  # its second letter is Cyrillic
    assert await change(picture_url="javascript:alert(1)") == "FIELD_INVALID"
    assert await change(role=1) == "UPDATE_MASK_INVALID"
    assert await change(metadata=struct(a=1)) == "UPDATE_MASK_INVALID"
    of_admin = {"id": acme.admin.user_id, "display_name": "x"}
    mask = {"paths": ["display_name"]}
    assert await reason(update(user=of_admin, update_mask=mask)) == "USER_NOT_FOUND"
    etag = (await ben.identity.GetMe()).user.etag
    assert await change(display_name="B") == "OK"
    late = update(user={"display_name": "late"}, update_mask=mask, etag=etag)
    assert await reason(late) == "ETAG_MISMATCH"


async def test_administrators_see_more_than_others(world: World) -> None:
    """Metadata, preferences and locks of other people are for who manages users."""
    acme = await world.organisation("acme")
    ben, vera = await acme.person("ben"), await acme.person("vera", role="viewer")
    await prefer(ben, theme="dark")
    await acme.admin.identity.UpdateUser(
        user={"id": ben.user_id, "metadata": struct(cost_centre="7")},
        update_mask={"paths": ["metadata"]},
    )
    by_admin = (await acme.admin.identity.GetUser(user_id=ben.user_id)).user
    assert by_admin.metadata["cost_centre"] == "7" and by_admin.is_managed_here
    for seen in (
        (await vera.identity.GetUser(user_id=ben.user_id)).user,
        next(u for u in (await vera.identity.ListUsers()).users if u.id == ben.user_id),
    ):
        assert not seen.HasField("metadata") and not seen.HasField("preferences")
        assert not seen.HasField("password_changed_at")
    assert (await ben.identity.GetMe()).user.metadata["cost_centre"] == "7"


async def test_deleting_and_bringing_back(world: World, table: Table) -> None:
    """The id stays; the address may be taken meanwhile, and then the way back is closed."""
    acme = await world.organisation("acme")
    ben = await acme.person("ben")
    email = (await ben.identity.GetMe()).user.email
    identity = acme.admin.identity
    gone = (await identity.DeleteUser(user_id=ben.user_id)).user
    assert gone.HasField("deleted_at")
    assert await reason(ben.identity.GetMe()) in ("SESSION_ENDED", "ACCOUNT_DISABLED")
    assert await reason(world.log_in(email)) == "CREDENTIALS_INVALID"
    assert await reason(identity.GetUser(user_id=ben.user_id)) == "USER_NOT_FOUND"
    shown = (await identity.ListUsers(show_deleted=True)).users
    assert ben.user_id in {user.id for user in shown}
    assert (await identity.UndeleteUser(user_id=ben.user_id)).user.id == ben.user_id
    await world.log_in(email)

    await identity.DeleteUser(user_id=ben.user_id)
    await identity.CreateUser(email=email, username="ben-2", role=2, password=PASSWORD)
    assert await reason(identity.UndeleteUser(user_id=ben.user_id)) == "EMAIL_TAKEN"
    assert table.value("SELECT count(*) FROM identity.users WHERE email = %s", email) == 2


async def test_disabling_shuts_out_and_enabling_lets_in(world: World) -> None:
    acme = await world.organisation("acme")
    ben = await acme.person("ben")
    email = (await ben.identity.GetMe()).user.email
    off = (await acme.admin.identity.DisableUser(user_id=ben.user_id)).user
    assert off.state == UserState.USER_STATE_DISABLED
    assert await reason(ben.identity.GetMe()) in ("SESSION_ENDED", "ACCOUNT_DISABLED")
    assert await reason(world.log_in(email)) == "CREDENTIALS_INVALID"
    await acme.admin.identity.EnableUser(user_id=ben.user_id)
    await world.log_in(email)


async def test_a_new_address_counts_when_it_is_proven(world: World, post: Post) -> None:
    """The old one is told twice; the link is for its own purpose and once; links that were sent to
    the old address are worth nothing afterwards."""
    olivia = await registered(world, post, "olivia")
    await registered(world, post, "ben")
    await world.nobody().account.RequestPasswordReset(email="olivia@example.com")
    reset = await post.token("olivia@example.com")
    await olivia.account.ChangeEmail(new_email="New@example.com")
    assert (await olivia.identity.GetMe()).user.email == "olivia@example.com"
    token = await post.token("new@example.com")
    reasons = await together(*(world.nobody().account.VerifyEmail(token=token) for _ in range(5)))
    assert reasons == ["OK"] + ["ONE_TIME_TOKEN_INVALID"] * 4
    assert (await olivia.identity.GetMe()).user.email == "new@example.com"
    told = await post.letters_to("olivia@example.com")
    assert "asked to change" in told[-2] and "was changed" in told[-1]
    stale = world.nobody().account.ResetPassword(token=reset, password="another long password")
    assert await reason(stale) == "ONE_TIME_TOKEN_INVALID"
    await olivia.account.ChangeEmail(new_email="ben@example.com")
    taken = world.nobody().account.VerifyEmail(token=await post.token("ben@example.com"))
    assert await reason(taken) == "EMAIL_TAKEN"


async def test_an_account_without_a_password_waits_for_its_person(world: World, post: Post) -> None:
    """The administrator names no password: a mail lets Zoe choose it; before, nobody gets in."""
    acme = (await world.organisation("acme")).admin
    made = await acme.identity.CreateUser(email="zoe@example.com", username="zoe", role=2)
    assert made.user.state == UserState.USER_STATE_UNVERIFIED
    assert await reason(world.log_in("zoe")) == "CREDENTIALS_INVALID"
    first = await post.token("zoe@example.com")
    await world.nobody().account.ResendVerification(email="zoe@example.com")
    second = await post.token("zoe@example.com")
    await world.nobody().account.ResetPassword(token=second, password=PASSWORD)
    zoe = await world.log_in("zoe")
    me = (await zoe.identity.GetMe()).user
    assert me.state == UserState.USER_STATE_ACTIVE and me.HasField("email_verified_at")
    again = world.nobody().account.ResetPassword(token=first, password="another long password")
    assert await reason(again) == "ONE_TIME_TOKEN_INVALID"


async def test_an_address_given_by_an_administrator_is_proven_by_a_new_password(
    world: World, post: Post
) -> None:
    acme = await world.organisation("acme")
    ben = await acme.person("ben")
    email = (await ben.identity.GetMe()).user.email
    assert not (await ben.identity.GetMe()).user.HasField("email_verified_at")
    await world.nobody().account.ResendVerification(email=email)
    token = await post.token(email)
    await world.nobody().account.ResetPassword(token=token, password=OTHER_PASSWORD)
    ben = await world.log_in(email, OTHER_PASSWORD)
    assert (await ben.identity.GetMe()).user.HasField("email_verified_at")


@pytest.mark.parametrize("is_delivered", [True, False])
async def test_what_a_thief_asked_for_ends_with_what_the_notice_advises(
    world: World, post: Post, is_delivered: bool
) -> None:
    """A change of address that was asked for in a stolen session, its letter sent or still waiting;
    also when she answers from a session in another organisation."""
    acme = await world.organisation("acme")
    olivia = await registered(world, post, "olivia")
    code = (await acme.admin.organisations.CreateInvitation(role=Role.ROLE_USER)).code
    await olivia.organisations.RedeemInvitation(invitation_code=code)
    there = await olivia.organisations.SwitchOrganisation(organisation_id=acme.id)
    there = olivia.holding(there.tokens.access_token)
    answers: list[Callable[[], Awaitable[Any]]] = [
        lambda: there.account.EndOtherSessions(),
        lambda: there.account.ChangePassword(
            current_password=PASSWORD, new_password=OTHER_PASSWORD
        ),
        lambda: with_factor(there),
    ]
    for number, answer in enumerate(answers):
        password = PASSWORD if number < 2 else OTHER_PASSWORD
        thief = await world.log_in("olivia.x", password)
        address = f"thief{number}@evil.example"
        await thief.account.ChangeEmail(new_email=address)
        if is_delivered:
            token = await post.token(address)
            await answer()
            verify = world.nobody().account.VerifyEmail(token=token)
            assert await reason(verify) == "ONE_TIME_TOKEN_INVALID"
        else:
            await answer()
            assert not await post.letters_to(address)


@pytest.mark.parametrize("call", ["EndUserSessions", "ResetSecondFactor"])
async def test_what_a_thief_asked_for_ends_with_the_administrators_help(
    world: World, post: Post, call: str
) -> None:
    acme = await world.organisation("acme")
    ben = await acme.person("ben")
    await with_factor(ben)
    await ben.account.ChangeEmail(new_email="thief@evil.example")
    token = await post.token("thief@evil.example")
    await getattr(acme.admin.identity, call)(user_id=ben.user_id)
    verify = world.nobody().account.VerifyEmail(token=token)
    assert await reason(verify) == "ONE_TIME_TOKEN_INVALID"
