"""Roles: the built-in ones, and those an organisation makes for itself."""

from __future__ import annotations

from typing import Any

from psycopg.errors import CheckViolation, UniqueViolation

from chimera.access.epochs import advance_epochs
from chimera.audit.leaf import Kind
from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql, violated
from chimera.faults import AlreadyExists, Denied, NotFound
from chimera.identity.roles import ROLES
from chimera.ids import new_id
from chimera.rows import enum_text
from chimera.updates import check_etag, checked_paths, must_be_given
from chimera.v1.access_pb2 import (
    AccessRole,
    CreateRoleRequest,
    DeleteRoleRequest,
    UpdateRoleRequest,
)
from chimera.v1.options_pb2 import Permission

UPDATABLE = ("name", "description", "permissions")
DESCRIPTIONS = {
    "admin": "Everything in the organisation.",
    "user": "Makes and runs campaigns, templates, keys and teams; sees colleagues.",
    "viewer": "Sees campaigns, templates, providers, teams and colleagues; changes nothing.",
}

SELECT_ROLE = """
    SELECT id, name, description, permissions, created_by, created_at, updated_at,
           to_char(updated_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') AS etag
      FROM identity.roles
     WHERE deleted_at IS NULL
"""
LIST_ROLES = sql(AccessRole, SELECT_ROLE + "ORDER BY lower(name)")
GET_ROLE = sql(AccessRole, SELECT_ROLE + "AND id = %(role_id)s")
LOCK_ROLE = sql(AccessRole, SELECT_ROLE + "AND id = %(role_id)s FOR UPDATE")


def built_in_roles() -> list[AccessRole]:
    """As data, strongest first."""
    return [
        AccessRole(
            name=name,
            description=DESCRIPTIONS[name],
            permissions=[Permission.Name(number) for number in sorted(ROLES[name])],
            is_built_in=True,
        )
        for name in DESCRIPTIONS
    ]


async def list_roles(tx: Tx) -> list[AccessRole]:
    """Built-in roles, then the organisation's own by name; an organisation has few."""
    return [*built_in_roles(), *await tx.all(LIST_ROLES)]


async def get_role(tx: Tx, role_id: str) -> AccessRole:
    """Raises NotFound(ROLE_NOT_FOUND)."""
    role = await tx.one(GET_ROLE, role_id=role_id)
    if role is None:
        raise _no_role()
    return role


async def lock_role(tx: Tx, role_id: str) -> AccessRole:
    """A role that is about to change or to be granted. Raises NotFound(ROLE_NOT_FOUND)."""
    role = await tx.one(LOCK_ROLE, role_id=role_id)
    if role is None:
        raise _no_role()
    return role


def _no_role() -> NotFound:
    return NotFound("ROLE_NOT_FOUND", "The organisation has no such role of its own.")


def check_may_give(tx: Tx, permissions: frozenset[int]) -> None:
    """Raises Denied(GRANT_EXCEEDS_GRANTOR) when the caller does not hold them all lastingly: what
    hangs on a condition (until tomorrow, from the office) could otherwise be made to stay."""
    missing = permissions - tx.call.caller.lasting
    if missing:
        names = sorted(Permission.Name(number).removeprefix("PERMISSION_") for number in missing)
        raise Denied(
            "GRANT_EXCEEDS_GRANTOR",
            f"You do not hold {', '.join(names)} yourself without a condition.",
            facts={"permissions": ",".join(names)},
        )


INSERT_ROLE = sql(
    Nothing,
    """
    INSERT INTO identity.roles (id, org_id, name, description, permissions, created_by)
    VALUES (%(id)s, %(org_id)s, %(name)s, %(description)s, %(permissions)s, %(created_by)s)
    """,
)


async def create_role(tx: Tx, request: CreateRoleRequest) -> AccessRole:
    """Raises AlreadyExists(ROLE_NAME_TAKEN), Denied(GRANT_EXCEEDS_GRANTOR)."""
    check_may_give(tx, frozenset(request.permissions))
    role_id = new_id()
    try:
        await tx.run(
            INSERT_ROLE,
            id=role_id,
            org_id=tx.call.caller.org_id,
            name=request.name,
            description=request.description,
            permissions=_texts(request),
            created_by=tx.call.caller.user_id,
        )
    except (UniqueViolation, CheckViolation) as error:
        raise _taken(error) from None
    role = await get_role(tx, role_id)
    record(tx, "role.create", "role", role_id, new=_facts(role), kind=Kind.SECURITY)
    return role


def _taken(error: UniqueViolation | CheckViolation) -> Exception:
    if violated(error) in ("roles_name", "roles_not_built_in"):
        return AlreadyExists("ROLE_NAME_TAKEN", "There is a role of this name already.")
    return error


UPDATE_ROLE = sql(
    Nothing,
    """
    UPDATE identity.roles SET
        name = CASE WHEN 'name' = ANY (%(paths)s) THEN %(name)s ELSE name END,
        description =
            CASE WHEN 'description' = ANY (%(paths)s) THEN %(description)s ELSE description END,
        permissions = CASE WHEN 'permissions' = ANY (%(paths)s)
                           THEN %(permissions)s::text[] ELSE permissions END
     WHERE id = %(role_id)s
    """,
)


async def update_role(tx: Tx, request: UpdateRoleRequest) -> AccessRole:
    """Everyone who has the role has the new one. Raises NotFound(ROLE_NOT_FOUND),
    AlreadyExists(ROLE_NAME_TAKEN), Denied(GRANT_EXCEEDS_GRANTOR), Conflict(ETAG_MISMATCH),
    Invalid(UPDATE_MASK_INVALID, FIELD_INVALID)."""
    paths = checked_paths(request.update_mask.paths, UPDATABLE)
    for name in ("name", "permissions"):
        if name in paths and not getattr(request, name):
            raise must_be_given(name)
    old = await lock_role(tx, request.role_id)
    check_etag(request.etag, old.etag)
    if "permissions" in paths:
        check_may_give(tx, frozenset(request.permissions) - frozenset(old.permissions))
    try:
        await tx.run(
            UPDATE_ROLE,
            role_id=old.id,
            paths=paths,
            name=request.name,
            description=request.description,
            permissions=_texts(request),
        )
    except (UniqueViolation, CheckViolation) as error:
        raise _taken(error) from None
    if "permissions" in paths:
        await _advance_holders(tx, old.id)
    role = await get_role(tx, old.id)
    record(tx, "role.update", "role", old.id, old=_facts(old), new=_facts(role), kind=Kind.SECURITY)
    return role


LIST_GRANTEES = sql(
    dict,
    "SELECT user_id, team_id FROM identity.grants WHERE role_id = %(role_id)s AND revoked_at IS NULL",
)
DELETE_ROLE = sql(Nothing, "UPDATE identity.roles SET deleted_at = now() WHERE id = %(role_id)s")


async def delete_role(tx: Tx, request: DeleteRoleRequest) -> None:
    """Its grants stop counting with it. Raises NotFound(ROLE_NOT_FOUND), Conflict(ETAG_MISMATCH)."""
    old = await lock_role(tx, request.role_id)
    check_etag(request.etag, old.etag)
    await _advance_holders(tx, old.id)
    await tx.run(DELETE_ROLE, role_id=old.id)
    record(tx, "role.delete", "role", old.id, old=_facts(old), kind=Kind.SECURITY)


async def _advance_holders(tx: Tx, role_id: str) -> None:
    grantees = await tx.all(LIST_GRANTEES, role_id=role_id)
    await advance_epochs(
        tx,
        user_ids=[row["user_id"] for row in grantees if row["user_id"]],
        team_ids=[row["team_id"] for row in grantees if row["team_id"]],
    )


def _texts(request: CreateRoleRequest | UpdateRoleRequest) -> list[str]:
    """Permissions as they are stored."""
    return sorted(str(enum_text(request, "permissions", one)) for one in request.permissions)


def _facts(role: AccessRole) -> dict[str, Any]:
    return {
        "name": role.name,
        "description": role.description,
        "permissions": [enum_text(role, "permissions", one) for one in role.permissions],
    }
