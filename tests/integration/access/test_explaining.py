"""ExplainAccess says what the gate does, over random roles, grants, conditions and keys."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chimera.v1.access_pb2 import GrantVerdict
from chimera.v1.identity_pb2 import ROLE_USER, ROLE_VIEWER
from chimera.v1.options_pb2 import (
    PERMISSION_AUDIT_READ,
    PERMISSION_CAMPAIGN_READ,
    PERMISSION_OPERATE,
    PERMISSION_PROVIDER_READ,
    PERMISSION_TELEMETRY_READ,
    PERMISSION_TEMPLATE_READ,
    PERMISSION_TEMPLATE_WRITE,
    PERMISSION_USER_MANAGE,
)
from tests.support.campaigns import secret_template
from tests.support.world import Organisation, Person, Refused, World

PERMISSIONS = [
    PERMISSION_AUDIT_READ,
    PERMISSION_CAMPAIGN_READ,
    PERMISSION_PROVIDER_READ,
    PERMISSION_TELEMETRY_READ,
    PERMISSION_TEMPLATE_READ,
    PERMISSION_TEMPLATE_WRITE,
    PERMISSION_USER_MANAGE,
]
NOW = datetime.now(UTC)


def random_conditions(chance: random.Random, template_ids: list[str]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if chance.random() < 0.3:
        made["valid_until"] = NOW + timedelta(days=chance.choice([-1, 1]))
    elif chance.random() < 0.3:
        made["valid_from"] = NOW - timedelta(days=chance.choice([-2, 2]))
    if chance.random() < 0.3:
        made["source_networks"] = [chance.choice(["127.0.0.0/8", "192.0.2.0/24"])]
    if chance.random() < 0.2:
        made["sign_in_age_max_s"] = 3600
    if chance.random() < 0.25:
        made["own_only"] = True
    if chance.random() < 0.25:
        made["resource_ids"] = [chance.choice(template_ids)]
    return made


async def let_in(call: Any) -> bool:
    """Whether the gate lets a call in, whatever comes of it."""
    try:
        await call
    except Refused as refused:
        return refused.code not in ("PERMISSION_DENIED", "UNAUTHENTICATED")
    return True


async def random_access(
    chance: random.Random, acme: Organisation, someone: Person, templates: list[str]
) -> None:
    """Up to four grants, some to a team, some of built-in roles."""
    admin = acme.admin
    team_id = (await admin.teams.CreateTeam(name=f"team of {someone.name}")).team.id
    await admin.teams.SetTeamMember(team_id=team_id, user_id=someone.user_id)
    for number in range(chance.randint(1, 4)):
        granted: dict[str, Any] = {"built_in_role": ROLE_USER}
        if chance.random() < 0.8:
            role = await admin.access.CreateRole(
                name=f"{someone.name}.{number}",
                permissions=chance.sample(PERMISSIONS, chance.randint(1, 4)),
            )
            granted = {"role_id": role.role.id}
        to = {"team_id": team_id} if chance.random() < 0.4 else {"user_id": someone.user_id}
        await admin.access.CreateGrant(
            **granted, **to, conditions=random_conditions(chance, templates)
        )
        await admin.refresh()


@pytest.mark.parametrize("seed", range(4))
async def test_the_explanation_is_the_decision(world: World, seed: int) -> None:
    """Thirty-odd calls by people and keys with random access: each is let in if and only if the
    explanation says so, and an explained refusal names what the gate names."""
    chance = random.Random(seed)
    acme = await world.organisation("acme")
    foreign = await secret_template(acme.admin)
    refused = allowed = 0
    for number in range(3):
        someone = await acme.person(f"p{number}", role=chance.choice(["viewer", "user"]))
        own = None
        if await let_in(someone.templates.CreateTemplate()):  # a user: may make one of their own
            own = await secret_template(someone)
        templates = [foreign, own or foreign]
        key = None
        if own:
            scopes = chance.sample([PERMISSION_TEMPLATE_READ, PERMISSION_TEMPLATE_WRITE], 1)
            networks = chance.choice([[], ["127.0.0.1"], ["192.0.2.0/24"]])
            key = await someone.identity.CreateApiKey(
                name="key", scopes=scopes, source_networks=networks
            )
        await random_access(chance, acme, someone, templates)
        await someone.refresh()
        asking = [(someone, "")]
        if key is not None:
            asking.append((someone.holding(key.secret), key.api_key.id))
        for who, api_key_id in asking:
            for rpc, call, about in (
                ("AuditService/ListAuditEvents", who.audit.ListAuditEvents(), ""),
                ("CampaignService/ListCampaigns", who.campaigns.ListCampaigns(), ""),
                ("ProviderService/ListProviders", who.providers.ListProviders(), ""),
                ("IdentityService/GetMe", who.identity.GetMe(), ""),
                ("IdentityService/CreateUser", who.identity.CreateUser(), ""),
                ("TemplateService/CreateTemplate", who.templates.CreateTemplate(), ""),
                *(
                    (f"TemplateService/{name}", getattr(who.templates, name)(template_id=one), one)
                    for one in templates
                    for name in ("GetTemplate", "ListTemplateVersions", "CreateTemplateVersion")
                ),
            ):
                explained = await acme.admin.access.ExplainAccess(
                    user_id=someone.user_id,
                    rpc=rpc,
                    resource_id=about,
                    api_key_id=api_key_id,
                    address="127.0.0.1",
                )
                assert await let_in(call) == explained.allowed, f"{rpc} {about}: {explained}"
                allowed += explained.allowed
                refused += not explained.allowed
    assert allowed > 5 and refused > 5, "the dice were loaded"


async def test_what_an_explanation_tells(world: World) -> None:
    """Each source by its name, with the conditions in the way; and what bars a key."""
    acme = await world.organisation("acme")
    admin, victor = acme.admin, await acme.person("victor", role="viewer")
    await admin.access.CreateGrant(
        built_in_role=ROLE_USER,
        user_id=victor.user_id,
        conditions={"valid_until": datetime(2020, 1, 1, tzinfo=UTC), "own_only": True},
    )
    explained = await admin.access.ExplainAccess(
        user_id=victor.user_id, permission=PERMISSION_TEMPLATE_READ
    )
    assert explained.allowed
    assert [(v.source, v.role_name) for v in explained.verdicts] == [
        (GrantVerdict.SOURCE_MEMBERSHIP, "viewer"),
        (GrantVerdict.SOURCE_USER_GRANT, "user"),
    ]
    assert list(explained.verdicts[1].unmet) == ["valid_until", "own_only"]
    last_year = await admin.access.ExplainAccess(
        user_id=victor.user_id,
        rpc="TemplateService/CreateTemplate",
        at=datetime(2019, 12, 31, tzinfo=UTC),
    )
    assert last_year.allowed and last_year.permission == PERMISSION_TEMPLATE_WRITE

    key = await admin.identity.CreateApiKey(
        name="ci", scopes=[PERMISSION_CAMPAIGN_READ], source_networks=["192.0.2.0/24"]
    )
    barred = await admin.access.ExplainAccess(
        permission=PERMISSION_TEMPLATE_READ, api_key_id=key.api_key.id
    )
    assert (barred.allowed, list(barred.barriers)) == (
        False, ["api_key_scopes", "api_key_networks"],
    )  # fmt: skip
    await admin.identity.RevokeApiKey(api_key_id=key.api_key.id)
    ended = await admin.access.ExplainAccess(
        permission=PERMISSION_CAMPAIGN_READ, api_key_id=key.api_key.id, address="192.0.2.1"
    )
    assert (ended.allowed, list(ended.barriers)) == (False, ["api_key_state"])


async def test_who_may_ask(world: World) -> None:
    """Everyone about themselves; about colleagues those who read roles; nobody about strangers."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    assert not (await olivia.access.ExplainAccess(permission=PERMISSION_OPERATE)).allowed
    assert (await olivia.access.ExplainAccess(rpc="IdentityService/Login")).allowed
    for asked, reason in (
        ({"user_id": acme.admin.user_id, "permission": ROLE_VIEWER}, "PERMISSION_MISSING"),
        ({"rpc": "IdentityService/Nonesuch"}, "FIELD_INVALID"),
        ({"rpc": "NoService/Nonesuch"}, "FIELD_INVALID"),
        ({}, "FIELD_INVALID"),
    ):
        with pytest.raises(Refused) as refused:
            await olivia.access.ExplainAccess(**asked)
        assert refused.value.reason == reason
