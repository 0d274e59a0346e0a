"""Taking over: an account is its mailbox's owner's, whoever made it, and while somebody else is in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chimera.identity.authentication import Recent
from chimera.v1.identity_pb2 import Role
from chimera.v1.options_pb2 import Permission
from tests.integration.accounts.conftest import (
    OTHER_PASSWORD,
    Table,
    reason,
    registered,
    with_factor,
)
from tests.integration.federation.conftest import linked, signed_in, way_in
from tests.support.openid import hostile_provider, redirected
from tests.support.post import Post
from tests.support.world import PASSWORD, Organisation, Person, World


async def test_an_account_that_somebody_prepared_is_its_mailbox_owners(
    world: World, post: Post
) -> None:
    """Mallory makes an account for Vic's address, with a password and ways in of her own. When Vic
    proves the mailbox none of them is left, neither here nor in another organisation of hers."""
    mallory = await registered(world, post, "mallory")
    hers = Organisation(world, (await mallory.identity.GetMe()).organisation.id, mallory)
    globex, acme = await world.organisation("globex"), await world.organisation("acme")
    await mallory.identity.CreateUser(
        email="vic@example.com", username="vic", role=Role.ROLE_USER, password=PASSWORD
    )
    prepared = await world.log_in("vic@example.com")
    key = prepared.holding((await prepared.identity.CreateApiKey(name="k")).secret)
    code = (await globex.admin.organisations.CreateInvitation(role=Role.ROLE_USER)).code
    await prepared.organisations.RedeemInvitation(invitation_code=code)
    there = await prepared.organisations.SwitchOrganisation(organisation_id=globex.id)
    there = prepared.holding(there.tokens.access_token)
    other_key = there.holding((await there.identity.CreateApiKey(name="k")).secret)
    async with hostile_provider() as hostile:
        provider = await way_in(hers, hostile.issuer)
        await linked(prepared, provider.id, redirected)
        await with_factor(prepared)
        await acme.admin.organisations.CreateInvitation(
            role=Role.ROLE_USER, email="vic@example.com"
        )
        invitation = await post.token("vic@example.com")
        redeem = prepared.organisations.RedeemInvitation
        assert await reason(redeem(invitation_code=invitation)) == "EMAIL_NOT_PROVEN"

        # The letter that proves an address is the one that chooses a password.
        await world.nobody().account.ResendVerification(email="vic@example.com")
        assert "was set up for the account before ends" in (
            await post.letters_to("vic@example.com")
        )[-1].replace("\n", " ")
        token = await post.token("vic@example.com")
        await world.nobody().account.ResetPassword(token=token, password=OTHER_PASSWORD)
        vic = await world.log_in("vic@example.com", OTHER_PASSWORD)
        await vic.organisations.RedeemInvitation(invitation_code=invitation)
        assert await reason(key.identity.GetMe()) == "API_KEY_INVALID"
        assert await reason(other_key.identity.GetMe()) == "API_KEY_INVALID"
        assert await reason(prepared.identity.GetMe()) == "SESSION_ENDED"
        assert await reason(signed_in(world.nobody(), provider.id, redirected)) == (
            "IDENTITY_NOT_LINKED"
        )

        # Who proved it before keeps what they set up.
        await linked(vic, provider.id, redirected)
        await world.nobody().account.RequestPasswordReset(email="vic@example.com")
        token = await post.token("vic@example.com")
        assert "before ends" not in (await post.letters_to("vic@example.com"))[-1]
        await world.nobody().account.ResetPassword(token=token, password=PASSWORD)
        assert await reason(signed_in(world.nobody(), provider.id, redirected)) == "OK"


async def test_who_prepared_an_account_does_not_come_back_with_its_owner(
    world: World, post: Post, table: Table
) -> None:
    """Mallory made it with an address she does not read, and a factor of hers."""
    mallory, globex = await world.organisation("mallory"), await world.organisation("globex")
    made = await mallory.admin.identity.CreateUser(
        email="zoe@example.com", username="vic", role=Role.ROLE_USER, password=PASSWORD
    )
    proven = "UPDATE identity.users SET email_verified_at = %s WHERE username = 'vic'"
    table.rows(proven, "2026-01-01")
    await with_factor(await world.log_in("vic"))
    table.rows(proven, None)
    await mallory.admin.organisations.RemoveMember(user_id=made.user.id)
    await globex.admin.organisations.CreateInvitation(role=Role.ROLE_USER, email="zoe@example.com")
    await world.nobody().account.AcceptInvitation(
        invitation_code=await post.token("zoe@example.com"), username="zoe", password=OTHER_PASSWORD
    )
    zoe = await world.log_in("zoe", OTHER_PASSWORD)
    me = (await zoe.identity.GetMe()).user
    assert (me.id, me.has_second_factor) == (made.user.id, False)
    assert table.value("SELECT count(*) FROM identity.recovery_codes") == 0


KEYS_ONLY = [Permission.PERMISSION_API_KEY_MANAGE]


@pytest.fixture
def believing(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process believes for long what it has once seen."""
    get = Recent.get

    async def long_ago(self: Any, key: str, _age_s: float = 0.0) -> Any:
        return await get(self, key, 3600.0)

    monkeypatch.setattr(Recent, "get", long_ago)


# What somebody can make that outlasts their session.
LASTING: dict[str, Callable[[Person, str, str], Awaitable[Any]]] = {
    "key": lambda p, *_: p.identity.CreateApiKey(name="k"),
    "user": lambda p, *_: p.identity.CreateUser(
        email="eve@example.com", username="eve", role=Role.ROLE_USER, password=PASSWORD
    ),
    "invitation": lambda p, *_: p.organisations.CreateInvitation(role=Role.ROLE_USER),
    "factor": lambda p, *_: p.account.EnrollTotp(),
    "address": lambda p, *_: p.account.ChangeEmail(new_email="eve@example.com"),
    "organisation": lambda p, *_: p.organisations.CreateOrganisation(name="Eve's"),
    "grant": lambda p, accomplice, _: p.access.CreateGrant(
        user_id=accomplice, built_in_role=Role.ROLE_ADMIN
    ),
    "team": lambda p, accomplice, team: p.teams.SetTeamMember(team_id=team, user_id=accomplice),
    "role": lambda p, accomplice, _: p.organisations.ChangeMemberRole(
        user_id=accomplice, role=Role.ROLE_ADMIN
    ),
}


@pytest.mark.parametrize("what", LASTING)
async def test_what_lasts_is_made_by_who_is_still_there(
    world: World, table: Table, believing: None, what: str
) -> None:
    """A session that another process has just ended is believed here for a moment. It may look around;
    it makes nothing that outlasts it."""
    acme = await world.organisation("acme")
    admin, accomplice = acme.admin, await acme.person("eve")
    team = (await admin.teams.CreateTeam(name="strong")).team.id
    await admin.access.CreateGrant(team_id=team, built_in_role=Role.ROLE_ADMIN)
    await admin.refresh()
    await admin.identity.GetMe()
    table.rows("UPDATE identity.sessions SET is_active = false WHERE user_id = %s", admin.user_id)
    assert await reason(admin.identity.GetMe()) == "OK"
    assert await reason(LASTING[what](admin, accomplice.user_id, team)) == "SESSION_ENDED"


async def test_an_ended_key_makes_no_other(world: World, table: Table, believing: None) -> None:
    """Nor does one of somebody who was disabled."""
    acme = await world.organisation("acme")
    ben = await acme.person("ben")
    for number, end in enumerate(
        (
            "UPDATE identity.api_keys SET is_active = false WHERE user_id = %s",
            "UPDATE identity.users SET state = 'disabled' WHERE id = %s",
        )
    ):
        made = await ben.identity.CreateApiKey(name=f"k{number}", scopes=KEYS_ONLY)
        key = ben.holding(made.secret)
        assert await reason(key.identity.ListApiKeys()) == "OK"
        table.rows(end, ben.user_id)
        assert await reason(key.identity.ListApiKeys()) == "OK"
        makes = key.identity.CreateApiKey(name="other", scopes=KEYS_ONLY)
        assert await reason(makes) == "API_KEY_INVALID"
    assert table.value("SELECT count(*) FROM identity.api_keys WHERE name = 'other'") == 0


async def test_nothing_is_made_beside_a_take_over(world: World, post: Post, table: Table) -> None:
    """Mallory, who prepared Vic's account, makes keys by a session and by a key as fast as she can while
    Vic takes it over. None of them is left."""
    acme = await world.organisation("acme")
    for number in range(3):
        name = f"vic{number}"
        await acme.admin.identity.CreateUser(
            email=f"{name}@example.com", username=name, role=Role.ROLE_USER, password=PASSWORD
        )
        prepared = await world.log_in(f"{name}@example.com")
        made = await prepared.identity.CreateApiKey(name="first", scopes=KEYS_ONLY)
        key = prepared.holding(made.secret)
        await world.nobody().account.ResendVerification(email=f"{name}@example.com")
        token = await post.token(f"{name}@example.com")

        async def makes_keys(hand: Person, which: str) -> str:
            for count in range(10_000):
                makes = hand.identity.CreateApiKey(name=f"{which}{count}", scopes=KEYS_ONLY)
                if (told := await reason(makes)) != "OK":
                    return told
            raise AssertionError("nobody ended it")

        makers = asyncio.gather(
            *(makes_keys(prepared, letter) for letter in "ab"),
            *(makes_keys(key, letter) for letter in "cd"),
        )
        await world.nobody().account.ResetPassword(token=token, password=OTHER_PASSWORD)
        ended = await makers
        left = table.value(
            "SELECT count(*) FROM identity.api_keys WHERE user_id = %s AND is_active",
            prepared.user_id,
        )
        assert (left, set(ended)) == (0, {"SESSION_ENDED", "API_KEY_INVALID"})
