"""Organisations, invitations, roles, and accounts that others manage."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from chimera.v1.access_pb2 import GrantConditions
from chimera.v1.identity_pb2 import Role
from chimera.v1.providers_pb2 import ProviderType
from tests.integration.accounts.conftest import (
    OTHER_PASSWORD,
    Table,
    reason,
    registered,
    together,
    with_factor,
)
from tests.support.post import Post
from tests.support.world import PASSWORD, Organisation, Person, World

ADMIN, USER, VIEWER = Role.ROLE_ADMIN, Role.ROLE_USER, Role.ROLE_VIEWER


async def test_one_person_in_two_organisations(world: World, post: Post) -> None:
    """Olivia founds a second one and goes there and back; what is in one is not seen in the other."""
    olivia = await registered(world, post, "olivia")
    home = (await olivia.identity.GetMe()).organisation.id
    made = await olivia.organisations.CreateOrganisation(name="Second")
    assert await reason(olivia.organisations.CreateOrganisation(name="second")) == (
        "ORGANISATION_NAME_TAKEN"
    )
    mine = (await olivia.organisations.ListMyOrganisations()).organisations
    assert [(one.name, one.is_current) for one in mine] == [("olivia's", True), ("Second", False)]
    switch = await olivia.organisations.SwitchOrganisation(organisation_id=made.organisation.id)
    there = olivia.holding(switch.tokens.access_token)
    assert (await there.identity.GetMe()).organisation.name == "Second"
    assert [u.id for u in (await there.identity.ListUsers()).users] == [olivia.user_id]
    sessions = (await there.account.ListSessions()).sessions
    assert {s.organisation_id for s in sessions} == {home, made.organisation.id}
    assert [s.is_current for s in sessions].count(True) == 1
    direct = await world.nobody().identity.Login(
        login="olivia.x", password=PASSWORD, organisation_id=made.organisation.id
    )
    me = await olivia.holding(direct.tokens.access_token).identity.GetMe()
    assert me.organisation.id == made.organisation.id
    stranger = await registered(world, post, "mallory")
    goes = stranger.organisations.SwitchOrganisation(organisation_id=home)
    assert await reason(goes) == "ORGANISATION_NOT_FOUND"


async def test_going_elsewhere_is_no_new_sign_in(world: World, post: Post, table: Table) -> None:
    """What is opened out of a session is as old, ends no later, and ends with it: by signing out, by
    ending it, when its token was stolen."""
    olivia = await registered(world, post, "olivia")
    home = (await olivia.identity.GetMe()).organisation.id
    second = (await olivia.organisations.CreateOrganisation(name="Second")).organisation.id
    stays = olivia.organisations.SwitchOrganisation(organisation_id=home)
    assert await reason(stays) == "ORGANISATION_IS_CURRENT"

    async def goes(person: Person, org_id: str) -> Person:
        answer = await person.organisations.SwitchOrganisation(organisation_id=org_id)
        gone = person.holding(answer.tokens.access_token)
        gone.tokens = answer.tokens
        return gone

    table.rows(
        "UPDATE identity.sessions SET created_at = now() - interval '89 days',"
        " absolute_expires_at = now() + interval '1 hour'"
    )
    signed_in = table.value("SELECT min(created_at) FROM identity.sessions")
    for way in ("logout", "end", "reuse"):
        root = olivia if way == "logout" else await world.log_in("olivia.x")
        there = await goes(root, second)
        back = await goes(there, home)
        if way == "logout":
            [(latest, oldest, last)] = table.rows(
                "SELECT max(absolute_expires_at) <= now() + interval '1 hour', max(signed_in_at),"
                " max(t.expires_at) <= now() + interval '1 hour'"
                " FROM identity.sessions s JOIN identity.refresh_tokens t ON t.session_id = s.id"
                " WHERE t.generation = 1 AND s.parent_id IS NOT NULL"
            )
            assert (latest, oldest, last) == (True, signed_in, True)
            await there.identity.Logout()
            assert await reason(root.identity.GetMe()) == "OK"
            assert await reason(back.identity.GetMe()) == "SESSION_ENDED"
            there = await goes(root, second)
            back = await goes(there, home)
            await root.identity.Logout()
        elif way == "end":
            safe = await world.log_in("olivia.x")
            listed = (await root.account.ListSessions()).sessions
            [current] = [one.id for one in listed if one.is_current]
            await safe.account.EndSession(session_id=current)
            assert await reason(safe.identity.GetMe()) == "OK"
        else:
            stolen = root.tokens.refresh_token
            await root.refresh()
            table.rows("UPDATE identity.refresh_tokens SET used_at = used_at - interval '11 s'")
            await reason(world.nobody().identity.RefreshSession(refresh_token=stolen))
        for person in (root, there, back):
            assert await reason(person.identity.GetMe()) == "SESSION_ENDED", way
            again = person.identity.RefreshSession(refresh_token=person.tokens.refresh_token)
            assert await reason(again) == "REFRESH_TOKEN_INVALID", way


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


async def test_who_belongs_nowhere_any_more_can_be_invited(
    world: World, post: Post, table: Table
) -> None:
    """Nobody leaves their last organisation; who is removed from it comes back as themselves by a mailed
    invitation, which proves the mailbox as a letter for a new password does."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    nobody = world.nobody()

    async def accept(org: Organisation, **given: str) -> str:
        await org.admin.organisations.CreateInvitation(role=USER, email="zoe@example.com")
        given |= {"invitation_code": await post.token("zoe@example.com")}
        return await reason(nobody.account.AcceptInvitation(**given))

    assert await accept(acme, username="zoe", password=PASSWORD) == "OK"
    zoe = await world.log_in("zoe")
    leaves = zoe.organisations.LeaveOrganisation(organisation_id=acme.id)
    assert await reason(leaves) == "LAST_ORGANISATION"
    assert await reason(zoe.identity.GetMe()) == "OK"
    totp, _codes = await with_factor(zoe)
    await zoe.identity.CreateApiKey(name="of back then")
    # As keys were left by those who went when going did not end them.
    left = "UPDATE identity.api_keys SET is_active = true WHERE user_id = %s"
    live = "SELECT count(*) FROM identity.api_keys WHERE is_active AND user_id = %s"
    # Not while she is somewhere.
    new = {"username": "zoe2", "password": OTHER_PASSWORD}
    assert await accept(globex, **new) == "EMAIL_TAKEN"
    await acme.admin.identity.DisableUser(user_id=zoe.user_id)
    await acme.admin.organisations.RemoveMember(user_id=zoe.user_id)
    assert await accept(globex, **new | {"username": "admin-acme"}) == "USERNAME_TAKEN"
    assert await accept(globex, **new) == "OK"
    table.a_while_later(zoe.user_id)
    assert await reason(world.log_in("zoe", PASSWORD)) == "CREDENTIALS_INVALID"
    opened = await nobody.identity.Login(login="zoe2", password=OTHER_PASSWORD, code=totp.now())
    me = await nobody.holding(opened.tokens.access_token).identity.GetMe()
    assert (me.user.id, me.organisation.id, me.user.is_managed_here) == (
        zoe.user_id,
        globex.id,
        True,
    )
    code = (await acme.admin.organisations.CreateInvitation(role=USER)).code
    back = nobody.holding(opened.tokens.access_token)
    table.rows(left, zoe.user_id)
    await back.organisations.RedeemInvitation(invitation_code=code)
    assert table.value(live, zoe.user_id) == 0
    leaves = back.organisations.LeaveOrganisation(organisation_id=globex.id)
    assert await reason(leaves) == "OK"
    await acme.admin.organisations.RemoveMember(user_id=zoe.user_id)
    table.rows(left, zoe.user_id)
    assert await accept(acme, username="zoe", password=PASSWORD) == "OK"
    assert table.value(live, zoe.user_id) == 0


async def test_who_prepared_an_account_does_not_come_back_with_its_owner(
    world: World, post: Post, table: Table
) -> None:
    """Mallory made it with an address she does not read, and a factor of hers."""
    mallory, globex = await world.organisation("mallory"), await world.organisation("globex")
    made = await mallory.admin.identity.CreateUser(
        email="zoe@example.com", username="vic", role=USER, password=PASSWORD
    )
    proven = "UPDATE identity.users SET email_verified_at = %s WHERE username = 'vic'"
    table.rows(proven, "2026-01-01")
    await with_factor(await world.log_in("vic"))
    table.rows(proven, None)
    await mallory.admin.organisations.RemoveMember(user_id=made.user.id)
    await globex.admin.organisations.CreateInvitation(role=USER, email="zoe@example.com")
    await world.nobody().account.AcceptInvitation(
        invitation_code=await post.token("zoe@example.com"), username="zoe", password=OTHER_PASSWORD
    )
    zoe = await world.log_in("zoe", OTHER_PASSWORD)
    me = (await zoe.identity.GetMe()).user
    assert (me.id, me.has_second_factor) == (made.user.id, False)
    assert table.value("SELECT count(*) FROM identity.recovery_codes") == 0


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


async def test_an_organisation_keeps_an_administrator(world: World, table: Table) -> None:
    """Of two who take it from each other at once, in whatever way, one stays, every time."""
    acme = await world.organisation("acme")
    anna = acme.admin
    ways = [
        lambda me, other: me.organisations.RemoveMember(user_id=other),
        lambda me, other: me.organisations.ChangeMemberRole(user_id=other, role=VIEWER),
        lambda me, other: me.identity.DisableUser(user_id=other),
        lambda me, other: me.identity.DeleteUser(user_id=other),
    ]
    for number, way in enumerate(ways):
        ben = await acme.person(f"ben{number}", role="admin")
        cleo = await acme.person(f"cleo{number}", role="admin")
        table.rows(
            "UPDATE identity.memberships SET role = 'viewer' WHERE org_id = %s AND user_id <> ALL(%s)",
            acme.id,
            [ben.user_id, cleo.user_id],
        )
        await asyncio.gather(reason(way(ben, cleo.user_id)), reason(way(cleo, ben.user_id)))
        left = table.value(
            "SELECT count(*) FROM identity.memberships m JOIN identity.users u ON u.id = m.user_id"
            " WHERE m.org_id = %s AND m.role = 'admin' AND u.state = 'active' AND u.deleted_at IS NULL",
            acme.id,
        )
        assert left == 1, f"way {number}"
        table.rows(
            "UPDATE identity.memberships SET role = 'admin' WHERE user_id = %s", anna.user_id
        )
        anna = acme.admin = await world.log_in("admin-acme")
    alone = (await world.organisation("alone")).admin
    me = alone.user_id
    for call in (
        alone.organisations.ChangeMemberRole(user_id=me, role=USER),
        alone.organisations.RemoveMember(user_id=me),
        alone.identity.DeleteUser(user_id=me),
        alone.organisations.LeaveOrganisation(
            organisation_id=(await alone.identity.GetMe()).organisation.id
        ),
    ):
        assert await reason(call) == "LAST_ADMIN"


async def test_a_role_changes_at_once(world: World) -> None:
    """Ben's old token is refused, his next one allows what his new role does."""
    acme = await world.organisation("acme")
    ben = await acme.person("ben", role="viewer")
    changed = await acme.admin.organisations.ChangeMemberRole(user_id=ben.user_id, role=USER)
    assert changed.user.role == USER
    answer = await ben.identity.RefreshSession(refresh_token=ben.tokens.refresh_token)
    ben.credential = answer.tokens.access_token
    assert (await ben.identity.GetMe()).user.role == USER
    await acme.admin.organisations.RemoveMember(user_id=ben.user_id)
    assert await reason(ben.identity.GetMe()) == "SESSION_ENDED"
    assert await reason(world.log_in(f"ben-{acme.id[-8:]}")) == "CREDENTIALS_INVALID"


async def test_who_is_removed_leaves_nothing_behind(world: World, post: Post, table: Table) -> None:
    """Keys, also those to providers, and invitations of somebody who goes are over for good: they
    open nothing now, nor when the person is let in again."""
    acme = await world.organisation("acme")
    ben = await registered(world, post, "ben")

    async def joins() -> Person:
        code = (await acme.admin.organisations.CreateInvitation(role=ADMIN)).code
        await ben.organisations.RedeemInvitation(invitation_code=code)
        answer = await ben.organisations.SwitchOrganisation(organisation_id=acme.id)
        return ben.holding(answer.tokens.access_token)

    async def leaves(person: Person) -> None:
        await person.organisations.LeaveOrganisation(organisation_id=acme.id)

    async def is_removed(person: Person) -> None:
        await acme.admin.organisations.RemoveMember(user_id=ben.user_id)

    provider = await acme.admin.providers.CreateProvider(
        name="p", provider_type=ProviderType.PROVIDER_TYPE_OPENAI, base_url="https://api.openai.com"
    )
    for goes in (leaves, is_removed):
        there = await joins()
        key = there.holding((await there.identity.CreateApiKey(name="old")).secret)
        await there.providers.CreateProviderKey(
            provider_id=provider.provider.id, name="own", secret="sk-0123456789"
        )
        back = (await there.organisations.CreateInvitation(role=ADMIN, uses_max=9)).code
        assert await reason(key.identity.GetMe()) == "OK"
        await goes(there)
        assert await reason(key.identity.GetMe()) == "API_KEY_INVALID"
        redeems = ben.organisations.RedeemInvitation(invitation_code=back)
        assert await reason(redeems) == "INVITATION_INVALID"
        await joins()
        assert table.value("SELECT count(*) FROM identity.api_keys WHERE is_active") == 0
        assert (
            table.value(
                "SELECT count(*) FROM providers.provider_keys WHERE is_active OR sealed <> '{}'"
            )
            == 0
        )
        ended = table.rows(
            "SELECT facts->>'action' FROM audit.pending WHERE facts->>'entity_id' IN"
            " (SELECT id::text FROM identity.api_keys UNION SELECT id::text FROM identity.invitations"
            "  UNION SELECT id::text FROM providers.provider_keys)"
            " AND facts->>'action' IN ('api_key.revoke', 'provider_key.revoke', 'invitation.revoke')"
        )
        await is_removed(there)
    assert sorted(action for [action] in ended) == sorted(
        2 * ["api_key.revoke", "invitation.revoke", "provider_key.revoke"]
    )


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


async def test_nobody_lifts_themselves(world: World) -> None:
    """A user and a viewer change no role, invite nobody, delete nobody, make no operator."""
    acme = await world.organisation("acme")
    for role in ("user", "viewer"):
        person = await acme.person(f"p-{role}", role=role)
        me, admin = person.user_id, acme.admin.user_id
        calls = [
            person.organisations.ChangeMemberRole(user_id=me, role=ADMIN),
            person.organisations.CreateInvitation(role=ADMIN),
            person.organisations.RemoveMember(user_id=admin),
            person.identity.DeleteUser(user_id=admin),
            person.identity.SendPasswordReset(user_id=admin),
            person.identity.ResetSecondFactor(user_id=admin),
            person.identity.EndUserSessions(user_id=admin),
            person.identity.SetSuperuser(user_id=me, is_superuser=True),
        ]
        assert {await reason(call) for call in calls} == {"PERMISSION_MISSING"}
    sets = acme.admin.identity.SetSuperuser(user_id=acme.admin.user_id, is_superuser=True)
    assert await reason(sets) == "PERMISSION_MISSING"


async def test_nobody_manages_somebody_who_may_do_more(world: World) -> None:
    """Whatever it is held by: an operator's mark, or a role that was granted. A guest's mark is no
    matter of the organisation's, which may show them out."""
    root, acme = await world.organisation("root", operator=True), await world.organisation("acme")
    ben, boss, helper = [await acme.person(name) for name in ("ben", "boss", "helper")]
    await root.admin.identity.SetSuperuser(user_id=ben.user_id, is_superuser=True)
    access = acme.admin.access
    desk = (await access.CreateRole(name="helpdesk", permissions=[1, 2])).role  # USER_READ, _MANAGE
    await access.CreateGrant(role_id=desk.id, user_id=helper.user_id)
    until = GrantConditions(valid_until=datetime.now(UTC) + timedelta(days=1))
    await access.CreateGrant(built_in_role=ADMIN, user_id=boss.user_id, conditions=until)
    await helper.refresh()
    for person, above in ((acme.admin, ben), (helper, boss)):
        user_id = above.user_id
        for call in (
            person.identity.ResetSecondFactor(user_id=user_id),
            person.identity.SendPasswordReset(user_id=user_id),
            person.identity.EndUserSessions(user_id=user_id),
            person.identity.DisableUser(user_id=user_id),
            person.identity.DeleteUser(user_id=user_id),
            person.organisations.ChangeMemberRole(user_id=user_id, role=VIEWER),
            person.organisations.RemoveMember(user_id=user_id),
        ):
            assert await reason(call) == "PERMISSION_MISSING"
    assert await reason(helper.identity.DisableUser(user_id=ben.user_id)) == "PERMISSION_MISSING"
    assert await reason(acme.admin.identity.DisableUser(user_id=boss.user_id)) == "OK"
    code = (await acme.admin.organisations.CreateInvitation(role=VIEWER)).code
    await root.admin.organisations.RedeemInvitation(invitation_code=code)
    shown_out = acme.admin.organisations.RemoveMember(user_id=root.admin.user_id)
    assert await reason(shown_out) == "OK"


async def test_an_account_is_managed_by_its_home(world: World) -> None:
    """Globex's administrator joins acme; acme's can remove him there, and touch nothing else."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    code = (await acme.admin.organisations.CreateInvitation(role=USER)).code
    guest = globex.admin
    await guest.organisations.RedeemInvitation(invitation_code=code)
    identity, user_id = acme.admin.identity, guest.user_id
    for call in (
        identity.DisableUser(user_id=user_id),
        identity.DeleteUser(user_id=user_id),
        identity.ResetSecondFactor(user_id=user_id),
        identity.SendPasswordReset(user_id=user_id),
        identity.UpdateUser(
            user={"id": user_id, "username": "mine"}, update_mask={"paths": ["username"]}
        ),
    ):
        assert await reason(call) == "USER_MANAGED_ELSEWHERE"
    assert await reason(acme.admin.organisations.RemoveMember(user_id=user_id)) == "OK"
    assert await reason(guest.identity.GetMe()) == "OK"


async def test_operators_make_operators(world: World, table: Table) -> None:
    """Of any organisation; the last one stays."""
    root = (await world.organisation("installation", operator=True)).admin
    ben = (await world.organisation("acme")).admin
    set_superuser = root.identity.SetSuperuser
    assert await reason(set_superuser(user_id=root.user_id, is_superuser=False)) == "USER_NOT_FOUND"
    await set_superuser(user_id=ben.user_id, is_superuser=True)
    again = await world.log_in("admin-acme")
    assert (await again.identity.GetMe()).user.is_superuser
    assert await reason(again.operations.ListStuckShards()) == "OK"
    await set_superuser(user_id=ben.user_id, is_superuser=False)
    assert table.value("SELECT count(*) FROM identity.users WHERE is_superuser") == 1


async def test_the_installation_keeps_an_operator(world: World, table: Table) -> None:
    """The last one cannot go in any way; one who is to be erased is no other."""
    root = await world.organisation("installation", operator=True)
    ann, me = await root.person("ann", role="admin"), root.admin
    assert await reason(ann.identity.DisableUser(user_id=me.user_id)) == "PERMISSION_MISSING"
    ways_out = (
        lambda: me.identity.DisableUser(user_id=me.user_id),
        lambda: me.identity.DeleteUser(user_id=me.user_id),
        lambda: me.organisations.RemoveMember(user_id=me.user_id),
        lambda: me.organisations.LeaveOrganisation(organisation_id=root.id),
        lambda: me.privacy.RequestErasure(),
    )
    for goes in ways_out:
        assert await reason(goes()) == "LAST_ADMIN"
    await me.identity.SetSuperuser(user_id=ann.user_id, is_superuser=True)
    ann = await world.log_in(f"ann-{root.id[-8:]}")
    asked = await together(me.privacy.RequestErasure(), ann.privacy.RequestErasure())
    assert asked == ["LAST_ADMIN", "OK"]
    stays = table.value("SELECT id FROM identity.users WHERE is_superuser AND erase_at IS NULL")
    other = me if str(stays) == me.user_id else ann
    takes = other.identity.SetSuperuser(user_id=str(stays), is_superuser=False)
    assert await reason(takes) == "USER_NOT_FOUND"
    assert await reason(other.identity.DisableUser(user_id=str(stays))) == "LAST_ADMIN"


async def test_a_key_sees_its_own_organisation_only(world: World) -> None:
    """Not where else its owner belongs, nor who they are elsewhere."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    code = (await globex.admin.organisations.CreateInvitation(role=USER)).code
    await acme.admin.organisations.RedeemInvitation(invitation_code=code)
    acme.admin = await world.log_in("admin-acme")
    made = await acme.admin.identity.CreateApiKey(name="narrow", scopes=[40])  # TELEMETRY_READ
    key = acme.admin.holding(made.secret)
    for person, names in ((key, ["acme"]), (acme.admin, ["acme", "globex"])):
        mine = (await person.organisations.ListMyOrganisations()).organisations
        assert [one.name for one in mine] == names
    assert await reason(key.sign_in.ListLinkedIdentities()) == "SESSION_REQUIRED"


async def test_an_operator_who_went_does_not_come_back_as_one(world: World, post: Post) -> None:
    """Nobody else's invitation brings an operator's account to life; without the mark it comes back as any."""
    root = await world.organisation("root", operator=True)
    mallory = await world.organisation("mallory")
    nobody = world.nobody()

    async def accept(org: Organisation, username: str) -> str:
        await org.admin.organisations.CreateInvitation(role=USER, email="zoe@example.com")
        code = await post.token("zoe@example.com")
        return await reason(
            nobody.account.AcceptInvitation(
                invitation_code=code, username=username, password=PASSWORD
            )
        )

    assert await accept(root, "zoe") == "OK"
    zoe = await world.log_in("zoe")
    await root.admin.identity.SetSuperuser(user_id=zoe.user_id, is_superuser=True)
    await root.admin.identity.DisableUser(user_id=zoe.user_id)
    await root.admin.organisations.RemoveMember(user_id=zoe.user_id)
    assert await accept(mallory, "zoe2") == "EMAIL_TAKEN"
    await root.admin.identity.SetSuperuser(user_id=zoe.user_id, is_superuser=False)
    assert await accept(mallory, "zoe2") == "OK"
    assert not (await (await world.log_in("zoe2")).identity.GetMe()).user.is_superuser
