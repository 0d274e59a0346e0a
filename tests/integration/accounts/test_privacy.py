"""What is held about a person, and its end."""

from __future__ import annotations

import json

from chimera.core import open_core
from chimera.settings import Settings
from tests.integration.accounts.conftest import Table, reason, registered, together, with_factor
from tests.support.campaigns import secret_template
from tests.support.post import Post
from tests.support.workers import until
from tests.support.world import PASSWORD, World
from workers.tasks.identity import erase_people, purge_accounts


async def test_the_export_holds_everything_and_no_secret(
    world: World, post: Post, table: Table
) -> None:
    """Two organisations, a key, a template, a session: all in one document."""
    olivia = await registered(world, post, "olivia")
    await olivia.organisations.CreateOrganisation(name="Second")
    key = (await olivia.identity.CreateApiKey(name="ci")).secret
    template_id = await secret_template(olivia)
    _, codes = await with_factor(olivia)
    document = (await olivia.privacy.ExportMyData()).document
    held = json.loads(document)
    assert held["user"]["email"] == "olivia@example.com"
    assert [o["name"] for o in held["organisations"]] == ["olivia's", "Second"]
    home = held["organisations"][0]
    assert [k["name"] for k in home["api_keys"]] == ["ci"]
    assert [t["id"] for t in home["templates"]] == [template_id]
    assert {"campaigns", "runs", "provider_keys", "usage", "audit_events", "teams"} <= home.keys()
    assert held["sessions"] and held["devices"]
    stored = table.value("SELECT password_hash FROM identity.users")
    for secret in (key, PASSWORD, stored, codes[0], olivia.tokens.refresh_token):
        assert secret.encode() not in document
    exported = table.value(
        "SELECT count(*) FROM audit.pending WHERE facts->>'action' = 'privacy.export'"
    )
    assert exported == 1


async def test_somebody_is_erased_after_the_time_of_grace(
    world: World, post: Post, settings: Settings, table: Table
) -> None:
    """Asked for, taken back, asked for again, due: nothing is left but an id and what she made."""
    olivia = await registered(world, post, "olivia")
    key = olivia.holding((await olivia.identity.CreateApiKey(name="olivia's ci")).secret)
    template_id = await secret_template(olivia)
    provider = await olivia.providers.CreateProvider(
        name="p", provider_type="PROVIDER_TYPE_OPENAI", base_url="https://api.example.com"
    )
    await olivia.providers.CreateProviderKey(
        provider_id=provider.provider.id, name="olivia's own", secret="sk-olivia-" + "x" * 20
    )
    await with_factor(olivia)
    assert await reason(olivia.privacy.CancelErasure()) == "ERASURE_NOT_REQUESTED"
    due = (await olivia.privacy.RequestErasure()).erase_at
    assert (await olivia.privacy.RequestErasure()).erase_at == due
    async with open_core(settings, "worker") as core:
        await erase_people({"core": core})
        assert await reason(olivia.identity.GetMe()) == "OK"
        await olivia.privacy.CancelErasure()
        table.rows("UPDATE identity.users SET erase_at = NULL")
        await olivia.privacy.RequestErasure()
        table.rows("UPDATE identity.users SET erase_at = now() - interval '1 second'")
        table.rows(
            """
            INSERT INTO identity.linked_identities (id, org_id, user_id, provider_name, issuer, subject)
            SELECT gen_random_uuid(), org_id, user_id, 'hub', 'https://hub.example', '42'
              FROM identity.memberships
            """
        )
        await erase_people({"core": core})
        await erase_people({"core": core})
    left = table.rows("SELECT u::text FROM identity.users u")
    assert len(left) == 1 and "olivia" not in left[0][0] and "argon2" not in left[0][0]
    assert table.value("SELECT id FROM identity.users").hex == olivia.user_id.replace("-", "")
    assert table.value("SELECT count(*) FROM audit.erasures WHERE state = 'open'") == 1
    for name in (
        "devices",
        "recovery_codes",
        "one_time_tokens",
        "refresh_tokens",
        "registrations",
        "linked_identities",
    ):
        query = f"SELECT count(*) FROM identity.{name}"  # noqa: S608 - names from this list
        assert table.value(query) == 0, name  # type: ignore[arg-type]  # as above
    assert table.rows("SELECT is_active, ip_address, user_agent FROM identity.sessions") == [
        (False, None, "")
    ]
    assert table.rows("SELECT is_active, name FROM identity.api_keys") == [(False, "")]
    assert table.rows(
        "SELECT is_active, is_default, name, prefix, last_four, sealed FROM providers.provider_keys"
    ) == [(False, False, "", "", "", {})]
    assert str(table.value("SELECT id FROM templates.templates")) == template_id

    async def ended() -> bool:
        return await reason(olivia.identity.GetMe()) in ("SESSION_ENDED", "ACCOUNT_DISABLED")

    await until(ended, "the session of who was erased ends")
    assert await reason(key.identity.GetMe()) in ("API_KEY_INVALID", "ACCOUNT_DISABLED")
    assert await reason(world.log_in("olivia.x")) == "CREDENTIALS_INVALID"
    assert (
        table.value("SELECT count(*) FROM audit.pending WHERE facts->>'action' = 'user.erase'") == 1
    )


async def test_who_would_leave_others_alone_finds_a_successor_first(world: World) -> None:
    acme = await world.organisation("acme")
    ben = await acme.person("ben")
    assert await reason(acme.admin.privacy.RequestErasure()) == "LAST_ADMIN"
    assert await reason(ben.privacy.RequestErasure()) == "OK"
    await acme.admin.organisations.ChangeMemberRole(user_id=ben.user_id, role=1)
    assert await reason(acme.admin.privacy.RequestErasure()) == "OK"


async def test_of_two_administrators_who_both_go_one_stays(world: World, table: Table) -> None:
    """As long as somebody else is there; who takes it back lets the other go."""
    acme = await world.organisation("acme")
    ben, cleo = await acme.person("ben", role="admin"), await acme.person("cleo")
    both = [acme.admin.privacy.RequestErasure(), ben.privacy.RequestErasure()]
    assert await together(*both) == ["LAST_ADMIN", "OK"]
    going = str(table.value("SELECT id FROM identity.users WHERE erase_at IS NOT NULL"))
    goes, stays = (ben, acme.admin) if going == ben.user_id else (acme.admin, ben)
    leaves = stays.organisations.LeaveOrganisation
    assert await reason(leaves(organisation_id=acme.id)) == "LAST_ADMIN"
    assert await reason(cleo.privacy.RequestErasure()) == "OK"
    assert await reason(cleo.privacy.CancelErasure()) == "OK"
    await goes.privacy.CancelErasure()
    assert await reason(stays.privacy.RequestErasure()) == "OK"


async def test_what_is_over_goes(
    world: World, post: Post, settings: Settings, table: Table
) -> None:
    """Old links, registrations, invitations, devices and ended sessions; what is young stays. A
    session whose refresh token has run out cannot go on: it is over, and marked so."""
    olivia = await registered(world, post, "olivia")
    await olivia.organisations.CreateInvitation(role=2)
    await world.nobody().account.RequestPasswordReset(email="olivia@example.com")
    await post.deliver()
    other = await world.log_in("olivia.x")
    await other.identity.Logout()
    idle = await world.log_in("olivia.x")
    table.rows(
        "UPDATE identity.refresh_tokens SET expires_at = now() - interval '1 day'"
        " WHERE session_id = (SELECT id FROM identity.sessions ORDER BY id DESC LIMIT 1)"
    )
    for stub in (olivia.account, olivia.identity):
        listing = (
            stub.ListSessions()
            if stub is olivia.account
            else stub.ListUserSessions(user_id=olivia.user_id)
        )
        assert [one.is_current for one in (await listing).sessions] == [True]
    names = ("one_time_tokens", "registrations", "invitations", "devices", "sessions")

    def counts() -> list[int]:
        return [
            table.value(f"SELECT count(*) FROM identity.{name}")  # type: ignore[arg-type]  # noqa: S608 - names from this list
            for name in names
        ]

    before = counts()
    assert all(before)
    async with open_core(settings, "worker") as core:
        await purge_accounts({"core": core})
        assert counts() == before
        newest = (await olivia.account.ListSessions(show_ended=True)).sessions[0]
        assert (newest.is_active, newest.ended_reason) == (False, "idle")
        assert await reason(idle.identity.GetMe()) == "SESSION_ENDED"
        for query in (
            "UPDATE identity.one_time_tokens SET expires_at = now() - interval '2 days'",
            "UPDATE identity.registrations SET expires_at = now() - interval '2 days'",
            "UPDATE identity.invitations SET expires_at = now() - interval '31 days'",
            "UPDATE identity.devices SET expires_at = now() - interval '1 day'",
            "UPDATE identity.sessions SET ended_at = now() - interval '31 days' WHERE NOT is_active",
        ):
            table.rows(query)  # type: ignore[arg-type]  # one of this list
        await purge_accounts({"core": core})
        await purge_accounts({"core": core})
    assert counts() == [0, 0, 0, 0, 1]
    assert await reason(olivia.identity.GetMe()) == "OK"
