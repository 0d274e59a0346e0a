"""Members of teams."""

from __future__ import annotations

from psycopg.errors import ForeignKeyViolation

from chimera.access.epochs import advance_epochs
from chimera.access.roles import check_may_give
from chimera.access.teams import get_team, lock_led_team, lock_teams
from chimera.audit.leaf import Kind
from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import Denied, NotFound
from chimera.identity.roles import ROLES, scope_numbers
from chimera.identity.users import get_user
from chimera.paging import Pages
from chimera.standing import confirm_standing
from chimera.v1.access_pb2 import (
    ListTeamMembersRequest,
    RemoveTeamMemberRequest,
    SetTeamMemberRequest,
    TeamMember,
)
from chimera.v1.options_pb2 import Permission

SELECT_MEMBER = """
    SELECT m.team_id, m.user_id, u.display_name, u.username, m.is_lead, m.added_by, m.created_at
      FROM identity.team_members m
      JOIN identity.users u ON u.id = m.user_id
     WHERE m.team_id = %(team_id)s::uuid AND u.deleted_at IS NULL
"""
GET_MEMBER = sql(TeamMember, SELECT_MEMBER + "AND m.user_id = %(user_id)s::uuid")
LIST_MEMBERS = sql(
    TeamMember,
    SELECT_MEMBER
    + """
       AND (%(after)s::uuid IS NULL OR m.user_id > %(after)s)
     ORDER BY m.user_id
     LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_team_members(
    tx: Tx, pages: Pages, request: ListTeamMembersRequest
) -> tuple[list[TeamMember], str]:
    """A page by user id, and the token of the next. Raises NotFound(TEAM_NOT_FOUND)."""
    await get_team(tx, request.team_id)
    org_id = tx.call.caller.org_id
    size, after = pages.page(request, org_id)
    rows = await tx.all(
        LIST_MEMBERS,
        team_id=request.team_id,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "user_id", scope=org_id)


PUT_MEMBER = sql(
    Nothing,
    """
    INSERT INTO identity.team_members (org_id, team_id, user_id, is_lead, added_by)
    VALUES (%(org_id)s, %(team_id)s, %(user_id)s, %(is_lead)s, %(added_by)s)
    ON CONFLICT (team_id, user_id) DO UPDATE SET is_lead = EXCLUDED.is_lead
    """,
)

TEAM_GRANTS = sql(
    dict,
    """
    SELECT g.built_in_role, r.permissions
      FROM identity.grants g
      LEFT JOIN identity.roles r ON r.id = g.role_id
     WHERE g.team_id = %(team_id)s AND g.revoked_at IS NULL
       AND (g.role_id IS NULL OR r.deleted_at IS NULL)
    """,
)


async def set_team_member(tx: Tx, request: SetTeamMemberRequest, *, step_up_s: int) -> TeamMember:
    """step_up_s: how old the caller's proof may be when the newcomer is given roles by it.

    Raises NotFound(TEAM_NOT_FOUND, USER_NOT_FOUND), Denied(PERMISSION_MISSING,
    GRANT_EXCEEDS_GRANTOR), NotReady(STEP_UP_REQUIRED).
    """
    team = await lock_led_team(tx, request.team_id)
    before = await tx.one(GET_MEMBER, team_id=team.id, user_id=request.user_id)
    if before is None:
        await get_user(tx, request.user_id)
        await _check_may_take_in(tx, team.id, is_member=team.is_member, step_up_s=step_up_s)
    try:
        await tx.run(
            PUT_MEMBER,
            org_id=tx.call.caller.org_id,
            team_id=team.id,
            user_id=request.user_id,
            is_lead=request.is_lead,
            added_by=tx.call.caller.user_id,
        )
    except ForeignKeyViolation:
        raise NotFound("USER_NOT_FOUND", "The user left the organisation.") from None
    if before is None:
        await _advance_if_granted(tx, team.id, request.user_id)
    member = await tx.one(GET_MEMBER, team_id=team.id, user_id=request.user_id)
    if member is None:
        raise NotFound("USER_NOT_FOUND", "The user is being deleted.")
    record(
        tx,
        "team_member.set",
        "team",
        team.id,
        old={"user_id": before.user_id, "is_lead": before.is_lead} if before else None,
        new={"user_id": member.user_id, "is_lead": member.is_lead},
        kind=Kind.SECURITY,
    )
    return member


async def _check_may_take_in(tx: Tx, team_id: str, *, is_member: bool, step_up_s: int) -> None:
    """A newcomer gets all that was granted to the team, so it is asked who is there, as for a grant.
    Who belongs to it has the very same, under the same conditions; everybody else must hold it. A key
    may be narrower than its owner."""
    caller, granted = tx.call.caller, await tx.all(TEAM_GRANTS, team_id=team_id)
    if granted:
        caller.check_stepped_up(step_up_s)
        confirm_standing(tx)
    if is_member and caller.kind == "user":
        return
    for grant in granted:
        built_in = grant["built_in_role"]
        check_may_give(tx, ROLES[built_in] if built_in else scope_numbers(grant["permissions"]))


REMOVE_MEMBER = sql(
    Nothing,
    "DELETE FROM identity.team_members WHERE team_id = %(team_id)s AND user_id = %(user_id)s",
)


async def _advance_if_granted(tx: Tx, team_id: str, user_id: str) -> None:
    """Belonging to a team changes what somebody may do only if it holds something."""
    if await tx.all(TEAM_GRANTS, team_id=team_id):
        await advance_epochs(tx, user_ids=[user_id])


async def remove_team_member(tx: Tx, request: RemoveTeamMemberRequest) -> None:
    """Raises NotFound(TEAM_NOT_FOUND, TEAM_MEMBER_NOT_FOUND), Denied(PERMISSION_MISSING)."""
    caller = tx.call.caller
    await lock_teams(tx, [request.team_id])
    team = await get_team(tx, request.team_id)
    leaves = request.user_id == caller.user_id and caller.kind == "user"
    leads = team.is_lead and caller.may(Permission.PERMISSION_TEAM_WRITE)
    if not (leaves or leads or caller.may(Permission.PERMISSION_TEAM_MANAGE)):
        raise Denied("PERMISSION_MISSING", "A team is changed by its leads.")
    if not await tx.run(REMOVE_MEMBER, team_id=team.id, user_id=request.user_id):
        raise NotFound("TEAM_MEMBER_NOT_FOUND", "The team has no such member.")
    await _advance_if_granted(tx, team.id, request.user_id)
    old = {"user_id": request.user_id}
    record(tx, "team_member.remove", "team", team.id, old=old, kind=Kind.SECURITY)
