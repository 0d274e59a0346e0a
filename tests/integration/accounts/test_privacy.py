"""What is held about a person, and its end."""

from __future__ import annotations

import json

from chimera.core import open_core
from chimera.identity.usage import KEY_ADDRESSES, KEY_COUNTS, flush_key_usage
from chimera.settings import Settings
from tests.integration.accounts.conftest import Table, reason, registered, with_factor
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
    """Asked for, taken back, asked for again, due: nothing is left but an id and what she made, also
    in an organisation that she has left."""
    olivia = await registered(world, post, "olivia")
    made = await olivia.identity.CreateApiKey(name="olivia's ci", source_networks=["127.0.0.0/8"])
    key = olivia.holding(made.secret)
    table.rows("UPDATE identity.api_keys SET last_used_ip = '203.0.113.77'")
    template_id = await secret_template(olivia)
    provider = await olivia.providers.CreateProvider(
        name="p", provider_type="PROVIDER_TYPE_OPENAI", base_url="https://api.example.com"
    )
    await olivia.providers.CreateProviderKey(
        provider_id=provider.provider.id, name="olivia's own", secret="sk-olivia-" + "x" * 20
    )
    acme = await world.organisation("acme")
    elsewhere = await acme.admin.providers.CreateProvider(
        name="p", provider_type="PROVIDER_TYPE_OPENAI", base_url="https://api.example.com"
    )
    await acme.admin.organisations.CreateInvitation(role=2, email="olivia@example.com")
    code = await post.token("olivia@example.com")
    joined = (await olivia.organisations.RedeemInvitation(invitation_code=code)).membership
    there = olivia.holding(
        (
            await olivia.organisations.SwitchOrganisation(organisation_id=joined.organisation_id)
        ).tokens.access_token
    )
    await there.providers.CreateProviderKey(
        provider_id=elsewhere.provider.id, name="olivia's too", secret="sk-olivia-" + "y" * 20
    )
    await acme.admin.organisations.RemoveMember(user_id=olivia.user_id)
    invited = "SELECT fields::text FROM audit.pending WHERE facts->>'action' = 'invitation.create'"
    assert "olivia" not in table.value(invited), "others' events outlive her"
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
        table.rows(
            "UPDATE identity.users SET erase_at = now() - interval '1 second' WHERE id = %s",
            olivia.user_id,
        )
        table.rows(
            """
            INSERT INTO identity.linked_identities (id, org_id, user_id, provider_name, issuer, subject)
            SELECT gen_random_uuid(), org_id, user_id, 'hub', 'https://hub.example', '42'
              FROM identity.memberships WHERE user_id = %s
            """,
            olivia.user_id,
        )
        await erase_people({"core": core})
        await erase_people({"core": core})
        # A use that was on its way into the table.
        await core.redis.hset(KEY_COUNTS, made.api_key.id, 1)
        await core.redis.hset(KEY_ADDRESSES, made.api_key.id, "203.0.113.78")
        await flush_key_usage(core)
    [left] = table.rows("SELECT u::text FROM identity.users u WHERE id = %s", olivia.user_id)
    assert "olivia" not in left[0] and "argon2" not in left[0]
    assert table.value("SELECT count(*) FROM audit.erasures WHERE state = 'open'") == 1
    for name in (
        "devices",
        "recovery_codes",
        "one_time_tokens",
        "refresh_tokens",
        "linked_identities",
    ):
        query = f"SELECT count(*) FROM identity.{name} WHERE user_id = %s"  # noqa: S608 - of this list
        assert table.value(query, olivia.user_id) == 0, name  # type: ignore[arg-type]  # as above
    assert table.value("SELECT count(*) FROM identity.registrations") == 0
    sessions = table.rows(
        "SELECT is_active, ip_address, user_agent FROM identity.sessions WHERE user_id = %s",
        olivia.user_id,
    )
    assert set(sessions) == {(False, None, "")}
    assert table.rows(
        "SELECT is_active, name, source_networks, last_used_ip FROM identity.api_keys"
    ) == [(False, "", [], None)]
    assert (
        table.rows(
            "SELECT is_active, is_default, name, prefix, last_four, sealed FROM providers.provider_keys"
        )
        == [(False, False, "", "", "", {})] * 2
    )
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


async def test_what_is_over_goes(
    world: World, post: Post, settings: Settings, table: Table
) -> None:
    """Old links, registrations, invitations, devices and ended sessions; what is young stays."""
    olivia = await registered(world, post, "olivia")
    await olivia.organisations.CreateInvitation(role=2)
    await world.nobody().account.RequestPasswordReset(email="olivia@example.com")
    await post.deliver()
    other = await world.log_in("olivia.x")
    await other.identity.Logout()
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
