"""Organisations, invitations, roles, and accounts that others manage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from chimera.v1.access_pb2 import GrantConditions
from chimera.v1.identity_pb2 import Role
from tests.integration.accounts.conftest import (
    Table,
    reason,
    registered,
)
from tests.support.post import Post
from tests.support.world import PASSWORD, Person, World

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
