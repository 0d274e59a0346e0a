"""Who goes: what ends with them, who has to stay, and how they come back."""

from __future__ import annotations

import asyncio

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
