"""Roles and grants: what they give, what nobody may give, and when they end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pyotp
import pytest

from chimera.identity.endings import CHANGES
from chimera.v1.access_pb2 import GrantConditions, WeeklyHours
from chimera.v1.identity_pb2 import ROLE_ADMIN, ROLE_VIEWER
from chimera.v1.options_pb2 import (
    PERMISSION_AUDIT_READ,
    PERMISSION_OPERATE,
    PERMISSION_ROLE_MANAGE,
    PERMISSION_ROLE_READ,
    PERMISSION_TEAM_READ,
    PERMISSION_TEMPLATE_READ,
    PERMISSION_TEMPLATE_WRITE,
    PERMISSION_USER_MANAGE,
)
from tests.support.campaigns import secret_template
from tests.support.world import PASSWORD, Person, Refused, World


async def refusal(call: Any) -> str:
    with pytest.raises(Refused) as refused:
        await call
    return refused.value.reason


async def granted(
    admin: Person, to: Person, permissions: list[int], /, name: str = "extra", **conditions: Any
) -> str:
    """A role with these permissions, granted to somebody; the grant's id. They are refreshed."""
    role = (await admin.access.CreateRole(name=name, permissions=permissions)).role
    made = await admin.access.CreateGrant(
        role_id=role.id, user_id=to.user_id, conditions=GrantConditions(**conditions)
    )
    await to.refresh()
    grant_id: str = made.grant.id
    return grant_id


async def test_a_custom_role_adds_to_the_membership(world: World) -> None:
    """An auditor is a viewer who also reads the audit log, until the grant is revoked."""
    acme = await world.organisation("acme")
    victor = await acme.person("victor", role="viewer")
    assert await refusal(victor.audit.ListAuditEvents()) == "PERMISSION_MISSING"
    grant_id = await granted(acme.admin, victor, [PERMISSION_AUDIT_READ], name="auditor")
    await victor.audit.ListAuditEvents()
    assert PERMISSION_AUDIT_READ in (await victor.identity.GetMe()).permissions
    listed = (await acme.admin.access.ListGrants(user_id=victor.user_id)).grants
    assert [(grant.id, grant.role_name) for grant in listed] == [(grant_id, "auditor")]

    await acme.admin.access.RevokeGrant(grant_id=grant_id)
    assert await refusal(victor.audit.ListAuditEvents()) == "TOKEN_EXPIRED"
    await victor.refresh()
    assert await refusal(victor.audit.ListAuditEvents()) == "PERMISSION_MISSING"
    assert await refusal(acme.admin.access.RevokeGrant(grant_id=grant_id)) == "GRANT_NOT_FOUND"


async def test_built_in_roles_are_data_and_stay_as_they_are(world: World) -> None:
    """They are listed first; their names are taken in any spelling."""
    admin = (await world.organisation("acme")).admin
    listed = (await admin.access.ListRoles()).roles
    assert [(role.name, role.is_built_in) for role in listed] == [
        ("admin", True), ("user", True), ("viewer", True),
    ]  # fmt: skip
    assert list(listed[0].permissions) == list((await admin.identity.GetMe()).permissions)
    for name in ("Admin", "operator", "VIEWER"):
        asked = admin.access.CreateRole(name=name, permissions=[PERMISSION_TEAM_READ])
        assert await refusal(asked) == "ROLE_NAME_TAKEN"


async def test_a_role_that_changes_changes_for_everyone(world: World) -> None:
    """Widened, narrowed and deleted: holders have at once what it says now. The last writer with an
    old etag is told so."""
    acme = await world.organisation("acme")
    admin, victor = acme.admin, await acme.person("victor", role="viewer")
    await granted(admin, victor, [PERMISSION_TEMPLATE_WRITE], name="author")
    await victor.templates.ListTemplates()
    role = (await admin.access.ListRoles()).roles[-1]
    wider = await admin.access.UpdateRole(
        role_id=role.id,
        update_mask={"paths": ["permissions"]},
        permissions=[PERMISSION_TEMPLATE_WRITE, PERMISSION_AUDIT_READ],
        etag=role.etag,
    )
    await (await victor.refresh()).audit.ListAuditEvents()
    stale = admin.access.UpdateRole(
        role_id=role.id, update_mask={"paths": ["name"]}, name="writer", etag=role.etag
    )
    assert await refusal(stale) == "ETAG_MISMATCH"
    await admin.access.DeleteRole(role_id=role.id, etag=wider.role.etag)
    await victor.refresh()
    assert await refusal(victor.audit.ListAuditEvents()) == "PERMISSION_MISSING"
    assert not (await admin.access.ListGrants()).grants
    assert await refusal(admin.access.GetRole(role_id=role.id)) == "ROLE_NOT_FOUND"
    assert (await admin.access.CreateRole(name="author", permissions=[PERMISSION_TEAM_READ])).role


async def test_nobody_gives_what_they_do_not_hold(world: World) -> None:
    """Neither in a role, nor by a grant, nor by widening a role, nor as a built-in role; and
    an administrator does not make operators."""
    acme = await world.organisation("acme")
    admin, rita = acme.admin, await acme.person("rita", role="user")
    await granted(admin, rita, [PERMISSION_ROLE_MANAGE, PERMISSION_ROLE_READ], name="role manager")
    access = rita.access
    mine = await access.CreateRole(name="mine", permissions=[PERMISSION_TEMPLATE_WRITE])
    strong = await admin.access.CreateRole(name="strong", permissions=[PERMISSION_AUDIT_READ])
    await access.CreateGrant(role_id=mine.role.id, user_id=admin.user_id)
    await admin.refresh()
    for asked in (
        access.CreateRole(name="more", permissions=[PERMISSION_AUDIT_READ]),
        access.CreateGrant(role_id=strong.role.id, user_id=rita.user_id),
        access.CreateGrant(built_in_role=ROLE_ADMIN, user_id=rita.user_id),
        access.UpdateRole(
            role_id=mine.role.id,
            update_mask={"paths": ["permissions"]},
            permissions=[PERMISSION_TEMPLATE_WRITE, PERMISSION_USER_MANAGE],
        ),
        admin.access.CreateRole(name="operators", permissions=[PERMISSION_OPERATE]),
    ):
        assert await refusal(asked) == "GRANT_EXCEEDS_GRANTOR"
    # Her key narrows her, and so what she may give with it.
    key = await rita.identity.CreateApiKey(name="roles", scopes=[PERMISSION_ROLE_MANAGE])
    asked = rita.holding(key.secret).access.CreateGrant(role_id=mine.role.id, user_id=rita.user_id)
    assert await refusal(asked) == "GRANT_EXCEEDS_GRANTOR"


async def test_what_hangs_on_a_condition_cannot_be_handed_on(world: World) -> None:
    """An administrator until tomorrow makes no lasting one: not by a grant, not as a user."""
    acme = await world.organisation("acme")
    admin, tom = acme.admin, await acme.person("tom", role="user")
    await admin.access.CreateGrant(
        built_in_role=ROLE_ADMIN,
        user_id=tom.user_id,
        conditions={"valid_until": datetime.now(UTC) + timedelta(days=1)},
    )
    await tom.refresh()
    await tom.audit.ListAuditEvents()
    for asked in (
        tom.access.CreateGrant(built_in_role=ROLE_ADMIN, user_id=tom.user_id),
        tom.access.CreateRole(name="reader", permissions=[PERMISSION_AUDIT_READ]),
    ):
        assert await refusal(asked) == "GRANT_EXCEEDS_GRANTOR"
    asked = tom.identity.CreateUser(
        email="friend@example.com", username="friend", role=ROLE_ADMIN, password=PASSWORD
    )
    assert await refusal(asked) == "PERMISSION_MISSING"


@pytest.mark.parametrize(
    ("conditions", "unmet"),
    [
        ({"valid_until": datetime(2020, 1, 1, tzinfo=UTC)}, "valid_until"),
        ({"valid_from": datetime(2099, 1, 1, tzinfo=UTC)}, "valid_from"),
        ({"source_networks": ["198.51.100.0/24"]}, "source_networks"),
        ({"source_networks": ["127.0.0.0/8"], "sign_in_age_max_s": 3600}, ""),
        ({"valid_until": datetime(2099, 1, 1, tzinfo=UTC)}, ""),
    ],
)
async def test_a_grant_counts_while_its_conditions_hold(
    world: World, conditions: dict[str, Any], unmet: str
) -> None:
    """Time and place are looked at on every call; the refusal names what is in the way."""
    acme = await world.organisation("acme")
    victor = await acme.person("victor", role="viewer")
    await granted(acme.admin, victor, [PERMISSION_AUDIT_READ], **conditions)
    if not unmet:
        await victor.audit.ListAuditEvents()
        return
    with pytest.raises(Refused) as refused:
        await victor.audit.ListAuditEvents()
    assert (refused.value.reason, refused.value.facts["unmet"]) == ("PERMISSION_MISSING", unmet)


async def test_office_hours_in_their_own_zone(world: World) -> None:
    """Closed now, by a window of two hours that lies twelve hours away; open around now."""
    acme = await world.organisation("acme")
    victor = await acme.person("victor", role="viewer")
    now = datetime.now(UTC)
    minute = now.hour * 60 + now.minute

    def hours(offset: int) -> WeeklyHours:
        begin = (minute + offset) % 1440
        return WeeklyHours(
            time_zone="UTC", start_minute=begin, end_minute=(begin + 120) % 1440 or 1440
        )

    await granted(acme.admin, victor, [PERMISSION_AUDIT_READ], name="closed", hours=hours(720))
    assert await refusal(victor.audit.ListAuditEvents()) == "PERMISSION_MISSING"
    await granted(acme.admin, victor, [PERMISSION_AUDIT_READ], name="open", hours=hours(-60))
    await victor.audit.ListAuditEvents()


async def test_an_old_sign_in_does_not_do(world: World, database_url: str) -> None:
    """A key never signed in; a session is as old as its id, and what is opened out of it as well."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    olivia = await acme.person("olivia")
    await granted(acme.admin, olivia, [PERMISSION_AUDIT_READ], sign_in_age_max_s=300)
    await olivia.audit.ListAuditEvents()
    key = await olivia.identity.CreateApiKey(name="ci")
    assert await refusal(olivia.holding(key.secret).audit.ListAuditEvents()) == "PERMISSION_MISSING"
    explained = await olivia.access.ExplainAccess(
        permission=PERMISSION_AUDIT_READ, sign_in_age_s=301
    )
    assert (explained.allowed, list(explained.verdicts[0].unmet)) == (False, ["sign_in_age_max_s"])

    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO identity.memberships (org_id, user_id, role) VALUES (%s, %s, 'viewer')",
            [globex.id, olivia.user_id],
        )
        connection.execute("UPDATE identity.sessions SET created_at = now() - interval '1 hour'")
    session = olivia
    for org_id in (globex.id, acme.id):
        answer = await session.organisations.SwitchOrganisation(organisation_id=org_id)
        session = session.holding(answer.tokens.access_token)
    assert await refusal(session.audit.ListAuditEvents()) == "PERMISSION_MISSING"


async def test_a_second_factor_that_was_just_proven(world: World, database_url: str) -> None:
    """Olivia's sign-in by password does not do, her code does, and that of an hour ago does not."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    await granted(acme.admin, olivia, [PERMISSION_AUDIT_READ], second_factor_age_max_s=300)
    assert await refusal(olivia.audit.ListAuditEvents()) == "PERMISSION_MISSING"
    totp = pyotp.TOTP((await olivia.account.EnrollTotp()).secret)
    await olivia.account.ConfirmTotp(code=totp.now())
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE identity.users SET totp_step = 0")
        await olivia.account.StepUp(code=totp.now())
        await olivia.audit.ListAuditEvents()
        connection.execute(
            "UPDATE identity.sessions SET second_factor_at = now() - interval '1 hour'"
        )
    CHANGES.note()
    assert await refusal(olivia.audit.ListAuditEvents()) == "PERMISSION_MISSING"
    for age_s, allowed in ((None, False), (299, True), (301, False)):
        explained = await olivia.access.ExplainAccess(
            permission=PERMISSION_AUDIT_READ, second_factor_age_s=age_s
        )
        assert explained.allowed is allowed


async def test_only_own_things(world: World) -> None:
    """An author changes what she made and nothing else, whatever else the request says; she makes
    new ones, and lists none, for a list names nothing."""
    acme = await world.organisation("acme")
    admin, vera = acme.admin, await acme.person("vera", role="viewer")
    foreign = await secret_template(admin)
    await granted(admin, vera, [PERMISSION_TEMPLATE_WRITE], own_only=True)
    own = await secret_template(vera)
    change = {"update_mask": {"paths": ["description"]}}
    await vera.templates.UpdateTemplate(template={"id": own, "description": "mine"}, **change)
    asked = vera.templates.UpdateTemplate(template={"id": foreign, "description": "x"}, **change)
    with pytest.raises(Refused) as refused:
        await asked
    assert refused.value.facts["unmet"] == "own_only"
    nobodys = "00000000-0000-7000-8000-000000000000"
    for template_id in (foreign, nobodys):
        deleted = vera.templates.DeleteTemplate(template_id=template_id)
        assert await refusal(deleted) == "PERMISSION_MISSING"
    await vera.templates.DeleteTemplate(template_id=own)


async def test_only_named_things(world: World) -> None:
    """A reviewer of one template reads and changes that one. Nothing changes by naming it twice or
    not at all, and the grant gives no say over others."""
    acme = await world.organisation("acme")
    admin, rosa = acme.admin, await acme.person("rosa", role="viewer")
    named, other = await secret_template(admin), await secret_template(admin)
    for template_id in (named, other):  # the share says what she may do, the grant with which
        await admin.templates.ShareTemplate(
            template_id=template_id, user_id=rosa.user_id, permission="SHARE_PERMISSION_ADMIN"
        )
    await granted(
        admin, rosa, [PERMISSION_TEMPLATE_WRITE, PERMISSION_TEMPLATE_READ], resource_ids=[named]
    )
    assert (await rosa.templates.DeleteTemplate(template_id=named)).template.id == named
    for asked in (
        rosa.templates.DeleteTemplate(template_id=other),
        rosa.templates.CreateTemplate(title="new"),
        rosa.access.CreateRole(name="more", permissions=[PERMISSION_TEMPLATE_WRITE]),
    ):
        assert await refusal(asked) == "PERMISSION_MISSING"


@pytest.mark.parametrize(
    ("conditions", "field"),
    [
        ({"source_networks": ["10.0.0.0/8", "office"]}, "conditions.source_networks[1]"),
        ({"hours": {"time_zone": "Mars/Base", "end_minute": 5}}, "conditions.hours.time_zone"),
        ({"hours": {"time_zone": "../passwd", "end_minute": 5}}, "conditions.hours.time_zone"),
        (
            {"hours": {"time_zone": "UTC", "start_minute": 5, "end_minute": 5}},
            "conditions.hours.end_minute",
        ),
        (
            {
                "valid_from": datetime(2030, 1, 2, tzinfo=UTC),
                "valid_until": datetime(2030, 1, 1, tzinfo=UTC),
            },
            "conditions.valid_until",
        ),
    ],
)
async def test_conditions_that_could_never_be_checked(
    world: World, conditions: dict[str, Any], field: str
) -> None:
    """Are refused with the field's name, and no grant is made."""
    acme = await world.organisation("acme")
    with pytest.raises(Refused) as refused:
        await acme.admin.access.CreateGrant(
            built_in_role=ROLE_VIEWER, user_id=acme.admin.user_id, conditions=conditions
        )
    assert refused.value.reason == "FIELD_INVALID" and field in refused.value.message
    assert not (await acme.admin.access.ListGrants()).grants


async def test_a_condition_of_a_later_release_does_not_hold(
    world: World, database_url: str
) -> None:
    """What this release cannot check gives nothing, and nothing breaks."""
    acme = await world.organisation("acme")
    victor = await acme.person("victor", role="viewer")
    await granted(acme.admin, victor, [PERMISSION_AUDIT_READ])
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute('UPDATE identity.grants SET conditions = \'{"moon_phase": "full"}\'')
    await victor.refresh()
    assert await refusal(victor.audit.ListAuditEvents()) == "PERMISSION_MISSING"


async def test_two_organisations_do_not_touch(world: World) -> None:
    """Roles, teams and people of the other are not found, whichever of them a grant names."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    role = (await acme.admin.access.CreateRole(name="r", permissions=[PERMISSION_TEAM_READ])).role
    team = (await acme.admin.teams.CreateTeam(name="red")).team
    mine = (await globex.admin.access.CreateRole(name="r", permissions=[PERMISSION_TEAM_READ])).role
    access = globex.admin.access
    for asked, reason in (
        (access.CreateGrant(role_id=role.id, user_id=globex.admin.user_id), "ROLE_NOT_FOUND"),
        (access.CreateGrant(role_id=mine.id, user_id=acme.admin.user_id), "USER_NOT_FOUND"),
        (access.CreateGrant(role_id=mine.id, team_id=team.id), "TEAM_NOT_FOUND"),
        (
            access.ExplainAccess(user_id=acme.admin.user_id, permission=PERMISSION_TEAM_READ),
            "USER_NOT_FOUND",
        ),
        (
            globex.admin.teams.SetTeamMember(team_id=team.id, user_id=globex.admin.user_id),
            "TEAM_NOT_FOUND",
        ),
    ):
        assert await refusal(asked) == reason
    assert not (await access.ListGrants()).grants
    assert [r.id for r in (await access.ListRoles()).roles if r.id] == [mine.id]
