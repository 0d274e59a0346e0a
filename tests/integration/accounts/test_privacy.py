"""What is held about a person, and its end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chimera.core import open_core
from chimera.identity.usage import KEY_ADDRESSES, KEY_COUNTS, flush_key_usage
from chimera.privacy import export
from chimera.settings import Settings
from tests.integration.accounts.conftest import Table, reason, registered, together, with_factor
from tests.support.campaigns import secret_template
from tests.support.post import Post
from tests.support.workers import until
from tests.support.world import PASSWORD, World
from workers.tasks.identity import erase_people, purge_accounts


async def test_the_export_holds_everything_and_no_secret(
    world: World, post: Post, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two organisations, a key, a template, a session: all in one document, or in as many parts as it
    takes when there is much."""
    olivia = await registered(world, post, "olivia")
    await olivia.organisations.CreateOrganisation(name="Second")
    code = (await olivia.organisations.CreateInvitation(role=2)).code
    assert await reason(olivia.organisations.RedeemInvitation(invitation_code=code)) == (
        "ALREADY_A_MEMBER"
    )
    guest = await registered(world, post, "guest")
    await guest.organisations.RedeemInvitation(invitation_code=code)
    key = (
        await olivia.identity.CreateApiKey(name="ci", source_networks=["198.51.100.0/24"])
    ).secret
    table.rows(
        "UPDATE identity.api_keys SET last_used_ip = '203.0.113.77', metadata = '{\"note\": \"x\"}'"
    )
    await olivia.access.CreateGrant(built_in_role=3, user_id=olivia.user_id)
    await olivia.refresh()
    template_id = await secret_template(olivia)
    _, codes = await with_factor(olivia)
    document = (await olivia.privacy.ExportMyData()).document
    held = json.loads(document)
    assert held["user"]["email"] == "olivia@example.com"
    assert [o["name"] for o in held["organisations"]] == ["olivia's", "Second"]
    home = held["organisations"][0]
    [shown] = home["api_keys"]
    assert (shown["name"], shown["source_networks"], shown["last_used_ip"], shown["metadata"]) == (
        "ci",
        ["198.51.100.0/24"],
        "203.0.113.77",
        {"note": "x"},
    )
    assert [g["role"] for g in home["grants"]] == ["viewer"]
    theirs = json.loads((await guest.privacy.ExportMyData()).document)["organisations"]
    redeemed = [one["invited_by"] for org in theirs for one in org["redeemed_invitations"]]
    assert redeemed == [olivia.user_id]
    assert [t["id"] for t in home["templates"]] == [template_id]
    assert {"campaigns", "runs", "provider_keys", "usage", "audit_events", "teams"} <= home.keys()
    assert held["sessions"] and held["devices"]
    stored = table.value("SELECT password_hash FROM identity.users")
    for secret in (key, PASSWORD, stored, codes[0], olivia.tokens.refresh_token):
        assert secret.encode() not in document
    exported = table.value(
        "SELECT count(*) FROM audit.pending WHERE facts->>'action' = 'privacy.export'"
        " AND facts->>'actor_id' = %s",
        olivia.user_id,
    )
    assert exported == 1

    table.rows(
        """
        INSERT INTO audit.events (id, log_index, org_id, occurred_at, actor_kind, actor_id, action, entity,
                                  entity_id, outcome, severity, facts, fields, leaf, leaf_hash, previous_hash)
        SELECT overlay(gen_random_uuid()::text PLACING left(ops.uuid_floor(now())::text, 14) FROM 1 FOR 14)::uuid,
               n, %s, now(), 'user', %s, 'campaign.update', 'campaign', n::text, 'success', 'info', '{}',
               '[]', '', '', '' FROM generate_series(1, 90) n
        """,
        home["id"],
        olivia.user_id,
    )
    whole = await olivia.privacy.ExportMyData()
    assert not whole.next_page_token
    monkeypatch.setattr(export, "PART_BYTES", 1_500)
    monkeypatch.setattr(export, "EVENTS_AT_ONCE", 20)
    gathered: dict[str, Any] = {}
    token, first_token, parts = "", "", 0
    while token or not parts:
        answer = await olivia.privacy.ExportMyData(page_token=token)
        token, parts = answer.next_page_token, parts + 1
        first_token = first_token or token
        assert len(answer.document) < 6_000
        part = json.loads(answer.document)
        assert part["is_last_part"] == (not token)
        organisations = part.pop("organisations")
        for held, more in [(gathered, part)] + [
            (gathered.setdefault(one["id"], {}), one) for one in organisations
        ]:
            for name, value in more.items():
                held[name] = held.get(name, []) + value if isinstance(value, list) else value
    expected = json.loads(whole.document)
    expected |= {one["id"]: one for one in expected.pop("organisations")}
    assert parts > 10 and len(gathered[home["id"]]["audit_events"]) == 90
    assert gathered | {"exported_at": ""} == expected | {"exported_at": ""}
    foreign = guest.privacy.ExportMyData(page_token=first_token)
    assert await reason(foreign) == "PAGE_TOKEN_INVALID"


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
        redis: Any = core.redis
        await redis.hset(KEY_COUNTS, made.api_key.id, 1)
        await redis.hset(KEY_ADDRESSES, made.api_key.id, "203.0.113.78")
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


async def test_who_cannot_be_erased_holds_up_nobody(
    world: World, settings: Settings, table: Table
) -> None:
    """Anna's turn comes first and fails; Ben's is done all the same, and hers the next time."""
    acme = await world.organisation("acme")
    anna, ben = await acme.person("anna"), await acme.person("ben")
    due = "UPDATE identity.users SET erase_at = now() - make_interval(secs => %s) WHERE id = %s"
    table.rows(due, 2, anna.user_id)
    table.rows(due, 1, ben.user_id)
    stuck = f"CHECK (id <> '{anna.user_id}' OR erased_at IS NULL)"
    table.rows(f"ALTER TABLE identity.users ADD CONSTRAINT stuck {stuck}")  # type: ignore[arg-type]  # an id
    erased = "SELECT count(*) FROM identity.users WHERE erased_at IS NOT NULL AND id = ANY(%s)"
    async with open_core(settings, "worker") as core:
        await erase_people({"core": core})
        assert table.value(erased, [ben.user_id]) == 1
        assert table.value(erased, [anna.user_id]) == 0
        table.rows("ALTER TABLE identity.users DROP CONSTRAINT stuck")
        await erase_people({"core": core})
    assert table.value(erased, [anna.user_id]) == 1


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
