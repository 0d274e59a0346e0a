"""Invitations: who may use them, how often, and what ends them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from chimera.v1.access_pb2 import GrantConditions
from chimera.v1.identity_pb2 import Role
from chimera.v1.options_pb2 import Permission
from tests.integration.accounts.conftest import (
    Table,
    reason,
    together,
)
from tests.support.post import Post
from tests.support.world import PASSWORD, World

ADMIN, USER, VIEWER = Role.ROLE_ADMIN, Role.ROLE_USER, Role.ROLE_VIEWER


async def test_an_invitation_is_never_used_more_often_than_it_says(
    world: World, post: Post, table: Table
) -> None:
    """Eight people with accounts of their own hold a code for three."""
    acme = (await world.organisation("acme")).admin
    invited = await acme.organisations.CreateInvitation(role=VIEWER, uses_max=3)
    people = [(await world.organisation(f"org{n}")).admin for n in range(8)]
    reasons = await together(
        *(p.organisations.RedeemInvitation(invitation_code=invited.code) for p in people)
    )
    assert reasons == ["INVITATION_INVALID"] * 5 + ["OK"] * 3
    [listed] = (await acme.organisations.ListInvitations()).invitations
    assert (listed.uses, listed.is_open) == (3, False)
    joined = (await acme.identity.ListUsers()).users
    assert len(joined) == 4
    assert {u.is_managed_here for u in joined if u.role == VIEWER} == {False}
    assert table.value("SELECT count(*) FROM identity.redemptions") == 3


async def test_an_invitation_by_mail_is_for_its_address(world: World, post: Post) -> None:
    """The administrator never sees the code; nobody else can use it; it needs no second mail."""
    acme = (await world.organisation("acme")).admin
    made = await acme.organisations.CreateInvitation(role=USER, email="Zoe@example.com")
    assert not made.code
    code = await post.token("zoe@example.com")
    mallory = (await world.organisation("globex")).admin
    redeem = mallory.organisations.RedeemInvitation(invitation_code=code)
    assert await reason(redeem) == "INVITATION_INVALID"
    ask = world.nobody().account.Register(
        email="other@example.com", username="other", invitation_code=code
    )
    assert await reason(ask) == "INVITATION_INVALID"
    accept = {"invitation_code": code, "username": "zoe", "password": PASSWORD}
    nobody = world.nobody()
    reasons = await together(*(nobody.account.AcceptInvitation(**accept) for _ in range(4)))
    assert reasons.count("OK") == 1
    zoe = await world.log_in("zoe@example.com")
    me = await zoe.identity.GetMe()
    assert (me.organisation.name, me.user.role) == ("acme", USER)
    assert await reason(nobody.account.AcceptInvitation(**accept)) == "INVITATION_INVALID"


async def test_invitations_end(world: World, post: Post, table: Table) -> None:
    """Revoked, expired, redeemed twice, above one's own role."""
    acme = await world.organisation("acme")
    admin = acme.admin.organisations
    guest = (await world.organisation("globex")).admin.organisations
    code = (await admin.CreateInvitation(role=USER, uses_max=9)).code
    assert await reason(guest.RedeemInvitation(invitation_code=code)) == "OK"
    assert await reason(guest.RedeemInvitation(invitation_code=code)) == "ALREADY_A_MEMBER"
    assert table.value("SELECT max(uses) FROM identity.invitations") == 1
    other = (await world.organisation("third")).admin.organisations
    table.rows("UPDATE identity.invitations SET expires_at = now() - interval '1 second'")
    assert await reason(other.RedeemInvitation(invitation_code=code)) == "INVITATION_INVALID"
    made = await admin.CreateInvitation(role=USER)
    await admin.RevokeInvitation(invitation_id=made.invitation.id)
    assert await reason(other.RedeemInvitation(invitation_code=made.code)) == "INVITATION_INVALID"
    assert await reason(guest.RevokeInvitation(invitation_id=made.invitation.id)) == (
        "INVITATION_NOT_FOUND"
    )
    key = await acme.admin.identity.CreateApiKey(name="inviter", scopes=[6])
    narrow = acme.admin.holding(key.secret)
    assert await reason(narrow.organisations.CreateInvitation(role=ADMIN)) == "PERMISSION_MISSING"


async def test_an_invitation_is_worth_no_more_than_who_made_it(world: World, table: Table) -> None:
    """It ends when its maker may do less, is disabled or deleted; where they are a guest, it opens
    nothing while their home has disabled them."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    zoe = (await world.organisation("third")).admin.organisations
    admin = acme.admin
    ways = [
        lambda user_id: admin.organisations.ChangeMemberRole(user_id=user_id, role=USER),
        lambda user_id: admin.identity.DisableUser(user_id=user_id),
        lambda user_id: admin.identity.DeleteUser(user_id=user_id),
        lambda user_id: globex.admin.identity.DisableUser(user_id=user_id),
    ]
    for number, way in enumerate(ways):
        home = globex if number == 3 else acme
        ben = await home.person(f"ben{number}", role="admin")
        if home is globex:
            table.rows(
                "INSERT INTO identity.memberships (org_id, user_id, role) VALUES (%s, %s, 'admin')",
                acme.id,
                ben.user_id,
            )
            answer = await ben.organisations.SwitchOrganisation(organisation_id=acme.id)
            made = ben.holding(answer.tokens.access_token)
        else:
            made = ben
        code = (await made.organisations.CreateInvitation(role=ADMIN)).code
        await way(ben.user_id)
        redeems = zoe.RedeemInvitation(invitation_code=code)
        assert await reason(redeems) == "INVITATION_INVALID", f"way {number}"
    open_ones = (await admin.organisations.ListInvitations()).invitations
    assert [one.is_open for one in open_ones[1:]] == [False, False, False]
    ben = await acme.person("ben")
    invited = await admin.organisations.CreateInvitation(role=USER)
    await admin.organisations.ChangeMemberRole(user_id=ben.user_id, role=ADMIN)
    assert await reason(zoe.RedeemInvitation(invitation_code=invited.code)) == "OK"


async def test_a_grant_that_ends_takes_its_invitations_along(world: World, table: Table) -> None:
    """Ben administers by a grant; what he made meanwhile opens nothing afterwards. Nor does it when he might
    invite until a time that is over."""
    acme = await world.organisation("acme")
    admin = acme.admin
    first, second = [(await world.organisation(name)).admin.organisations for name in ("b", "c")]
    ben = await acme.person("ben", role="viewer")
    given = await admin.access.CreateGrant(user_id=ben.user_id, built_in_role=ADMIN)
    await ben.refresh()
    code = (await ben.organisations.CreateInvitation(role=ADMIN, uses_max=9)).code
    assert await reason(first.RedeemInvitation(invitation_code=code)) == "OK"
    await admin.access.RevokeGrant(grant_id=given.grant.id)
    assert await reason(second.RedeemInvitation(invitation_code=code)) == "INVITATION_INVALID"
    invites = [Permission.PERMISSION_INVITATION_MANAGE]
    role = (await admin.access.CreateRole(name="host", permissions=invites)).role.id
    until = GrantConditions()
    until.valid_until.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    await admin.access.CreateGrant(user_id=ben.user_id, role_id=role, conditions=until)
    await ben.refresh()
    late = (await ben.organisations.CreateInvitation(role=Role.ROLE_VIEWER)).code
    table.rows(
        "UPDATE identity.grants SET conditions ="
        " jsonb_set(conditions, '{valid_until}', '\"2026-01-01T00:00:00Z\"') WHERE conditions <> '{}'"
    )
    assert await reason(second.RedeemInvitation(invitation_code=late)) == "INVITATION_INVALID"
    # It was not used up by who was turned away.
    made = (await admin.organisations.ListInvitations()).invitations
    assert [(one.uses, one.uses_max) for one in made] == [(0, 1), (1, 9)]
