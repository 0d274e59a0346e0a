"""Teams: who changes them, what membership gives, and what happens at the same moment."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from chimera.identity.endings import CHANGES
from chimera.v1.identity_pb2 import ROLE_ADMIN
from chimera.v1.options_pb2 import PERMISSION_AUDIT_READ, PERMISSION_TEAM_WRITE
from tests.support.world import PASSWORD, Refused, World


async def refusal(call: Any) -> str:
    with pytest.raises(Refused) as refused:
        await call
    return refused.value.reason


async def test_a_team_and_its_life(world: World) -> None:
    """Made, renamed, listed, left and deleted; the one who makes it leads it, and its name is free
    when it is gone."""
    acme = await world.organisation("acme")
    olivia, oscar = await acme.person("olivia"), await acme.person("oscar")
    made = (await olivia.teams.CreateTeam(name=" Red ", description="attacks")).team
    assert (made.name, made.member_count, made.is_lead) == ("Red", 1, True)
    asked = oscar.teams.CreateTeam(name="RED")
    assert await refusal(asked) == "TEAM_NAME_TAKEN"
    changed = (
        await olivia.teams.UpdateTeam(
            team_id=made.id, update_mask={"paths": ["name"]}, name="Purple", etag=made.etag
        )
    ).team
    assert (changed.name, changed.description) == ("Purple", "attacks")
    await olivia.teams.SetTeamMember(team_id=made.id, user_id=oscar.user_id)
    members = (await oscar.teams.ListTeamMembers(team_id=made.id)).members
    assert {(one.username.partition("-")[0], one.is_lead) for one in members} == {
        ("olivia", True), ("oscar", False),
    }  # fmt: skip
    await oscar.refresh()
    assert [team.id for team in (await oscar.teams.ListTeams(own=True)).teams] == [made.id]
    await oscar.teams.RemoveTeamMember(team_id=made.id, user_id=oscar.user_id)
    await oscar.refresh()
    assert not (await oscar.teams.ListTeams(own=True)).teams
    assert len((await oscar.teams.ListTeams()).teams) == 1
    again = olivia.teams.RemoveTeamMember(team_id=made.id, user_id=oscar.user_id)
    assert await refusal(again) == "TEAM_MEMBER_NOT_FOUND"
    await olivia.teams.DeleteTeam(team_id=made.id)
    assert (
        await refusal((await olivia.refresh()).teams.GetTeam(team_id=made.id)) == "TEAM_NOT_FOUND"
    )
    await oscar.teams.CreateTeam(name="purple")


async def test_a_team_is_changed_by_its_leads(world: World) -> None:
    """Not by its members, nor by other users; by whoever manages teams. A lead can make another,
    and a viewer who leads still changes nothing."""
    acme = await world.organisation("acme")
    olivia, oscar = await acme.person("olivia"), await acme.person("oscar")
    victor = await acme.person("victor", role="viewer")
    team_id = (await olivia.teams.CreateTeam(name="red")).team.id
    await olivia.teams.SetTeamMember(team_id=team_id, user_id=oscar.user_id)
    await oscar.refresh()
    rename = {"team_id": team_id, "update_mask": {"paths": ["name"]}, "name": "blue"}
    for asked in (
        oscar.teams.UpdateTeam(**rename),
        oscar.teams.DeleteTeam(team_id=team_id),
        oscar.teams.SetTeamMember(team_id=team_id, user_id=oscar.user_id, is_lead=True),
        oscar.teams.RemoveTeamMember(team_id=team_id, user_id=olivia.user_id),
        victor.teams.CreateTeam(name="mine"),
    ):
        assert await refusal(asked) == "PERMISSION_MISSING"
    await olivia.teams.SetTeamMember(team_id=team_id, user_id=oscar.user_id, is_lead=True)
    await oscar.teams.UpdateTeam(**rename)
    await oscar.teams.SetTeamMember(team_id=team_id, user_id=victor.user_id, is_lead=True)
    await victor.refresh()
    assert await refusal(victor.teams.UpdateTeam(**rename)) == "PERMISSION_MISSING"
    asked = victor.teams.RemoveTeamMember(team_id=team_id, user_id=oscar.user_id)
    assert await refusal(asked) == "PERMISSION_MISSING"
    await acme.admin.teams.RemoveTeamMember(team_id=team_id, user_id=olivia.user_id)


async def test_a_team_gives_its_roles_to_its_members(world: World) -> None:
    """Joining gives, leaving and the team's end take away; leads take in whom they like."""
    acme = await world.organisation("acme")
    admin, lena = acme.admin, await acme.person("lena")
    team_id = (await lena.teams.CreateTeam(name="auditors")).team.id
    role = await admin.access.CreateRole(name="auditor", permissions=[PERMISSION_AUDIT_READ])
    await admin.access.CreateGrant(role_id=role.role.id, team_id=team_id)
    await (await lena.refresh()).audit.ListAuditEvents()
    victor = await acme.person("victor", role="viewer")
    await lena.teams.SetTeamMember(team_id=team_id, user_id=victor.user_id)
    await (await victor.refresh()).audit.ListAuditEvents()
    explained = await victor.access.ExplainAccess(permission=PERMISSION_AUDIT_READ)
    assert [(v.role_name, v.team_name) for v in explained.verdicts] == [("auditor", "auditors")]
    await lena.teams.RemoveTeamMember(team_id=team_id, user_id=victor.user_id)
    await victor.refresh()
    assert await refusal(victor.audit.ListAuditEvents()) == "PERMISSION_MISSING"
    await lena.teams.DeleteTeam(team_id=team_id)
    await lena.refresh()
    assert await refusal(lena.audit.ListAuditEvents()) == "PERMISSION_MISSING"


async def test_a_team_is_no_way_around_the_rule(world: World) -> None:
    """Who manages teams cannot take himself into one that may do more than he may; nor can a lead's
    narrow key take anybody in."""
    acme = await world.organisation("acme")
    admin, tim = acme.admin, await acme.person("tim")
    role = await admin.access.CreateRole(name="team office", permissions=[74])  # TEAM_MANAGE
    await admin.access.CreateGrant(role_id=role.role.id, user_id=tim.user_id)
    await tim.refresh()
    team_id = (await admin.teams.CreateTeam(name="admins")).team.id
    await tim.teams.SetTeamMember(team_id=team_id, user_id=tim.user_id)
    await tim.teams.RemoveTeamMember(team_id=team_id, user_id=(await tim.refresh()).user_id)
    await tim.refresh()
    await admin.access.CreateGrant(built_in_role=ROLE_ADMIN, team_id=team_id)
    await admin.refresh()
    asked = tim.teams.SetTeamMember(team_id=team_id, user_id=tim.user_id)
    assert await refusal(asked) == "GRANT_EXCEEDS_GRANTOR"
    key = await admin.identity.CreateApiKey(name="teams", scopes=[PERMISSION_TEAM_WRITE])
    asked = admin.holding(key.secret).teams.SetTeamMember(team_id=team_id, user_id=tim.user_id)
    assert await refusal(asked) == "GRANT_EXCEEDS_GRANTOR"


async def test_taking_somebody_into_a_team_with_roles_is_a_grant(
    world: World, database_url: str
) -> None:
    """It asks who is there as every other grant does; a team without roles gives nothing."""
    acme = await world.organisation("acme")
    admin, mallory = acme.admin, await acme.person("mallory", role="viewer")
    chiefs, choir = [(await admin.teams.CreateTeam(name=n)).team.id for n in ("chiefs", "choir")]
    await admin.access.CreateGrant(built_in_role=ROLE_ADMIN, team_id=chiefs)
    await admin.refresh()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE identity.sessions SET auth_time = now() - interval '5 days'")
    CHANGES.note()
    newcomer = {"team_id": chiefs, "user_id": mallory.user_id}
    assert await refusal(admin.teams.SetTeamMember(**newcomer)) == "STEP_UP_REQUIRED"
    await admin.teams.SetTeamMember(team_id=choir, user_id=mallory.user_id)
    await admin.account.StepUp(password=PASSWORD)
    await admin.teams.SetTeamMember(**newcomer)


async def test_of_two_writers_with_one_etag_one_wins(world: World) -> None:
    """The other is told to read again; a repeated request is answered once more."""
    olivia = await (await world.organisation("acme")).person("olivia")
    team = (await olivia.teams.CreateTeam(name="red")).team
    changes = [
        olivia.teams.UpdateTeam(
            team_id=team.id,
            update_mask={"paths": ["description"]},
            description=text,
            etag=team.etag,
        )
        for text in ("one", "two", "three")
    ]
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Refused)]
    assert len(reasons) == 2 and set(reasons) <= {"ETAG_MISMATCH", "CONFLICT_TRY_AGAIN"}
    repeated = {"name": "blue", "request_id": str(uuid4())}
    assert await olivia.teams.CreateTeam(**repeated) == await olivia.teams.CreateTeam(**repeated)
    assert len((await olivia.teams.ListTeams(own=True)).teams) == 2


async def test_twenty_take_one_name(world: World) -> None:
    """Exactly one team is made."""
    olivia = await (await world.organisation("acme")).person("olivia")
    calls = [olivia.teams.CreateTeam(name="red") for _ in range(20)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Refused)]
    assert len(reasons) == 19 and set(reasons) <= {"TEAM_NAME_TAKEN", "CONFLICT_TRY_AGAIN"}


async def test_another_organisations_teams_do_not_exist(world: World) -> None:
    """Neither in lists nor by id; the same name is free."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    team_id = (await acme.admin.teams.CreateTeam(name="red")).team.id
    for rpc in ("GetTeam", "DeleteTeam", "ListTeamMembers"):
        asked = getattr(globex.admin.teams, rpc)(team_id=team_id)
        assert await refusal(asked) == "TEAM_NOT_FOUND"
    assert not (await globex.admin.teams.ListTeams()).teams
    await globex.admin.teams.CreateTeam(name="red")
