"""Grants: a role for a user or a team, as long as its conditions hold."""

from __future__ import annotations

from datetime import UTC
from zoneinfo import ZoneInfo

import orjson
from google.protobuf.json_format import MessageToDict
from psycopg.errors import ForeignKeyViolation

from chimera.access.epochs import advance_epochs
from chimera.access.roles import check_may_give, lock_role
from chimera.access.teams import get_team, lock_teams
from chimera.audit.leaf import Kind
from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import Invalid, NotFound, Violation
from chimera.identity.decisions import network_of
from chimera.identity.roles import ROLES
from chimera.identity.users import get_user
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.rows import enum_text
from chimera.v1.access_pb2 import (
    CreateGrantRequest,
    Grant,
    GrantConditions,
    ListGrantsRequest,
)

SELECT_GRANT = """
    SELECT g.id, g.role_id, g.built_in_role, coalesce(r.name, g.built_in_role) AS role_name,
           g.user_id, g.team_id, g.conditions, g.granted_by, g.granted_at
      FROM identity.grants g
      LEFT JOIN identity.roles r ON r.id = g.role_id
     WHERE g.revoked_at IS NULL AND (g.role_id IS NULL OR r.deleted_at IS NULL)
"""
GET_GRANT = sql(Grant, SELECT_GRANT + "AND g.id = %(grant_id)s")

INSERT_GRANT = sql(
    Nothing,
    """
    INSERT INTO identity.grants
           (id, org_id, role_id, built_in_role, user_id, team_id, conditions, granted_by)
    VALUES (%(id)s, %(org_id)s, %(role_id)s, %(built_in_role)s, %(user_id)s, %(team_id)s,
            %(conditions)s::jsonb, %(granted_by)s)
    """,
)


async def create_grant(tx: Tx, request: CreateGrantRequest) -> Grant:
    """Raises NotFound(ROLE_NOT_FOUND, USER_NOT_FOUND, TEAM_NOT_FOUND),
    Denied(GRANT_EXCEEDS_GRANTOR), Invalid(FIELD_INVALID)."""
    conditions = checked_conditions(request.conditions)
    built_in = enum_text(request, "built_in_role", request.built_in_role)
    if built_in:
        permissions = ROLES[built_in]
    else:
        # Locked: it cannot become more between this look and the COMMIT.
        permissions = frozenset((await lock_role(tx, request.role_id)).permissions)
    check_may_give(tx, permissions)
    if request.team_id:
        # Whoever is being taken into the team right now is checked against this grant, or this
        # waits and the epoch of the newcomer grows with the others'.
        await lock_teams(tx, [request.team_id])
        await get_team(tx, request.team_id)
    else:
        await get_user(tx, request.user_id)
    grant_id = new_id()
    try:
        await tx.run(
            INSERT_GRANT,
            id=grant_id,
            org_id=tx.call.caller.org_id,
            role_id=request.role_id or None,
            built_in_role=built_in,
            user_id=request.user_id or None,
            team_id=request.team_id or None,
            conditions=orjson.dumps(_stored(conditions)).decode(),
            granted_by=tx.call.caller.user_id,
        )
    except ForeignKeyViolation:
        raise NotFound("USER_NOT_FOUND", "The grantee is gone.") from None
    await _advance(tx, request)
    grant = await get_grant(tx, grant_id)
    record(tx, "grant.create", "grant", grant_id, new=_facts(grant), kind=Kind.SECURITY)
    return grant


def checked_conditions(conditions: GrantConditions) -> GrantConditions:
    """In canonical form. Raises Invalid(FIELD_INVALID) for what could never be checked."""
    checked = GrantConditions()
    checked.CopyFrom(conditions)
    for place, text in enumerate(conditions.source_networks):
        try:
            checked.source_networks[place] = str(network_of(text))
        except ValueError:
            raise _wrong(f"source_networks[{place}]", "is not a network in CIDR notation") from None
    if conditions.HasField("hours"):
        try:
            ZoneInfo(conditions.hours.time_zone)
        except (KeyError, ValueError, OSError):
            raise _wrong("hours.time_zone", "is not an IANA time zone") from None
        if conditions.hours.start_minute == conditions.hours.end_minute:
            raise _wrong("hours.end_minute", "must differ from start_minute")
    is_window = conditions.HasField("valid_from") and conditions.HasField("valid_until")
    if is_window and (
        conditions.valid_until.ToDatetime(UTC) <= conditions.valid_from.ToDatetime(UTC)
    ):
        raise _wrong("valid_until", "must be after valid_from")
    return checked


def _wrong(name: str, said: str) -> Invalid:
    field = f"conditions.{name}"
    violation = Violation(field, said, "FIELD_INVALID")
    return Invalid("FIELD_INVALID", f"{field}: {said}", violations=[violation])


def _stored(conditions: GrantConditions) -> dict[str, object]:
    return MessageToDict(conditions, preserving_proto_field_name=True)


async def get_grant(tx: Tx, grant_id: str) -> Grant:
    """A grant that stands. Raises NotFound(GRANT_NOT_FOUND)."""
    grant = await tx.one(GET_GRANT, grant_id=grant_id)
    if grant is None:
        raise NotFound("GRANT_NOT_FOUND", "There is no such grant.")
    return grant


LIST_GRANTS = sql(
    Grant,
    SELECT_GRANT
    + """
       AND (%(user_id)s::uuid IS NULL OR g.user_id = %(user_id)s)
       AND (%(team_id)s::uuid IS NULL OR g.team_id = %(team_id)s)
       AND (%(role_id)s::uuid IS NULL OR g.role_id = %(role_id)s)
       AND (%(after)s::uuid IS NULL OR g.id < %(after)s)
     ORDER BY g.id DESC
     LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_grants(tx: Tx, pages: Pages, request: ListGrantsRequest) -> tuple[list[Grant], str]:
    """A page, newest first, and the token of the next."""
    org_id = tx.call.caller.org_id
    size, after = pages.page(request, org_id)
    rows = await tx.all(
        LIST_GRANTS,
        user_id=request.user_id or None,
        team_id=request.team_id or None,
        role_id=request.role_id or None,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "id", scope=org_id)


REVOKE_GRANT = sql(
    Nothing,
    "UPDATE identity.grants SET revoked_at = now() WHERE id = %(grant_id)s AND revoked_at IS NULL",
)


async def revoke_grant(tx: Tx, grant_id: str) -> None:
    """Raises NotFound(GRANT_NOT_FOUND), also when it was revoked before."""
    grant = await get_grant(tx, grant_id)
    if not await tx.run(REVOKE_GRANT, grant_id=grant_id):
        raise NotFound("GRANT_NOT_FOUND", "The grant was revoked a moment ago.")
    await _advance(tx, grant)
    record(tx, "grant.revoke", "grant", grant_id, old=_facts(grant), kind=Kind.SECURITY)


async def _advance(tx: Tx, grant: CreateGrantRequest | Grant) -> None:
    await advance_epochs(
        tx,
        user_ids=[grant.user_id] if grant.user_id else [],
        team_ids=[grant.team_id] if grant.team_id else [],
    )


def _facts(grant: Grant) -> dict[str, object]:
    return {
        "role_name": grant.role_name,
        "role_id": grant.role_id,
        "user_id": grant.user_id,
        "team_id": grant.team_id,
        "conditions": _stored(grant.conditions),
    }
