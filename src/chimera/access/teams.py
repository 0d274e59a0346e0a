"""Teams: people inside an organisation, changed by their leads and by those who manage teams."""

from __future__ import annotations

from typing import Any

from psycopg.errors import UniqueViolation

from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql, violated
from chimera.faults import AlreadyExists, Denied, NotFound
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.updates import check_etag, checked_paths, must_be_given
from chimera.v1.access_pb2 import (
    CreateTeamRequest,
    DeleteTeamRequest,
    ListTeamsRequest,
    Team,
    UpdateTeamRequest,
)
from chimera.v1.options_pb2 import Permission

UPDATABLE = ("name", "description")

SELECT_TEAM = """
    SELECT t.id, t.name, t.description,
           (SELECT count(*) FROM identity.team_members m WHERE m.team_id = t.id) AS member_count,
           own.user_id IS NOT NULL AS is_member, coalesce(own.is_lead, false) AS is_lead,
           t.created_by, t.created_at, t.updated_at,
           to_char(t.updated_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') AS etag
      FROM identity.teams t
      LEFT JOIN identity.team_members own ON own.team_id = t.id AND own.user_id = %(me)s::uuid
     WHERE t.deleted_at IS NULL
"""
GET_TEAM = sql(Team, SELECT_TEAM + "AND t.id = %(team_id)s::uuid")
# In the order of ids; a team's row is held while its members or its grants change.
LOCK_TEAMS = sql(
    str,
    """
    SELECT id FROM identity.teams WHERE id = ANY (%(team_ids)s::uuid[]) ORDER BY id
       FOR NO KEY UPDATE
    """,
)


async def get_team(tx: Tx, team_id: str) -> Team:
    """Raises NotFound(TEAM_NOT_FOUND)."""
    team = await tx.one(GET_TEAM, me=tx.call.caller.user_id, team_id=team_id)
    if team is None:
        raise NotFound("TEAM_NOT_FOUND", "There is no such team.")
    return team


async def lock_teams(tx: Tx, team_ids: list[str]) -> None:
    """Holds the rows until the end of the transaction."""
    await tx.all(LOCK_TEAMS, team_ids=team_ids)


async def lock_led_team(tx: Tx, team_id: str) -> Team:
    """A team the caller may change, held. Raises NotFound(TEAM_NOT_FOUND),
    Denied(PERMISSION_MISSING)."""
    await lock_teams(tx, [team_id])
    team = await get_team(tx, team_id)
    if not (team.is_lead or tx.call.caller.may(Permission.PERMISSION_TEAM_MANAGE)):
        raise Denied("PERMISSION_MISSING", "A team is changed by its leads.")
    return team


LIST_TEAMS = sql(
    Team,
    SELECT_TEAM
    + """
       AND (NOT %(own)s OR own.user_id IS NOT NULL)
       AND (%(after)s::uuid IS NULL OR t.id < %(after)s)
     ORDER BY t.id DESC
     LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_teams(tx: Tx, pages: Pages, request: ListTeamsRequest) -> tuple[list[Team], str]:
    """A page, newest first, and the token of the next."""
    caller = tx.call.caller
    scope = f"{caller.org_id}/{caller.user_id}"
    size, after = pages.page(request, scope)
    rows = await tx.all(
        LIST_TEAMS,
        me=caller.user_id,
        own=request.own,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "id", scope=scope)


INSERT_TEAM = sql(
    Nothing,
    """
    INSERT INTO identity.teams (id, org_id, name, description, created_by)
    VALUES (%(id)s, %(org_id)s, %(name)s, %(description)s, %(me)s)
    """,
)
INSERT_FIRST_LEAD = sql(
    Nothing,
    """
    INSERT INTO identity.team_members (org_id, team_id, user_id, is_lead, added_by)
    VALUES (%(org_id)s, %(id)s, %(me)s, true, %(me)s)
    """,
)


async def create_team(tx: Tx, request: CreateTeamRequest) -> Team:
    """With the caller as its lead. Raises AlreadyExists(TEAM_NAME_TAKEN)."""
    caller, team_id = tx.call.caller, new_id()
    name = request.name.strip()
    if not name:
        raise must_be_given("name")
    try:
        await tx.run(
            INSERT_TEAM,
            id=team_id,
            org_id=caller.org_id,
            name=name,
            description=request.description,
            me=caller.user_id,
        )
    except UniqueViolation as error:
        raise _taken(error) from None
    await tx.run(INSERT_FIRST_LEAD, id=team_id, org_id=caller.org_id, me=caller.user_id)
    team = await get_team(tx, team_id)
    record(tx, "team.create", "team", team_id, new=_facts(team))
    return team


def _taken(error: UniqueViolation) -> Exception:
    if violated(error) == "teams_name":
        return AlreadyExists("TEAM_NAME_TAKEN", "There is a team of this name already.")
    return error


UPDATE_TEAM = sql(
    Nothing,
    """
    UPDATE identity.teams SET
        name = CASE WHEN 'name' = ANY (%(paths)s) THEN %(name)s ELSE name END,
        description =
            CASE WHEN 'description' = ANY (%(paths)s) THEN %(description)s ELSE description END
     WHERE id = %(team_id)s
    """,
)


async def update_team(tx: Tx, request: UpdateTeamRequest) -> Team:
    """Raises NotFound(TEAM_NOT_FOUND), Denied, AlreadyExists(TEAM_NAME_TAKEN),
    Conflict(ETAG_MISMATCH), Invalid(UPDATE_MASK_INVALID, FIELD_INVALID)."""
    paths = checked_paths(request.update_mask.paths, UPDATABLE)
    name = request.name.strip()
    if "name" in paths and not name:
        raise must_be_given("name")
    old = await lock_led_team(tx, request.team_id)
    check_etag(request.etag, old.etag)
    try:
        await tx.run(
            UPDATE_TEAM, team_id=old.id, paths=paths, name=name, description=request.description
        )
    except UniqueViolation as error:
        raise _taken(error) from None
    team = await get_team(tx, old.id)
    record(tx, "team.update", "team", old.id, old=_facts(old), new=_facts(team))
    return team


DELETE_TEAM = sql(Nothing, "UPDATE identity.teams SET deleted_at = now() WHERE id = %(team_id)s")


async def delete_team(tx: Tx, request: DeleteTeamRequest) -> None:
    """The caller advances the epochs of its members. Raises NotFound(TEAM_NOT_FOUND), Denied,
    Conflict(ETAG_MISMATCH)."""
    old = await lock_led_team(tx, request.team_id)
    check_etag(request.etag, old.etag)
    await tx.run(DELETE_TEAM, team_id=old.id)
    record(tx, "team.delete", "team", old.id, old=_facts(old))


def _facts(team: Team) -> dict[str, Any]:
    return {"name": team.name, "description": team.description}
