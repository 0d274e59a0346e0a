"""What this context holds about a person."""

from __future__ import annotations

from typing import Any

from chimera.db import Tx, sql

GET_PERSON = sql(
    dict,
    """
    SELECT id, email, username, display_name, picture_url, state, is_superuser, preferences, metadata,
           email_verified_at, last_login_at, password_changed_at, failed_login_attempts, locked_until,
           totp_confirmed_at AS second_factor_since, erase_at, home_org_id, created_at, updated_at
      FROM identity.users WHERE id = %(user_id)s
    """,
)

LIST_DEVICES = sql(
    dict,
    """
    SELECT id, user_agent, created_at, last_used_at, expires_at FROM identity.devices
     WHERE user_id = %(user_id)s ORDER BY id
    """,
)

LIST_PERSONAL_SESSIONS = sql(
    dict,
    """
    SELECT id, org_id, device_info, host(ip_address) AS ip_address, user_agent, is_active, ended_reason,
           created_at, last_used_at, ended_at, absolute_expires_at
      FROM identity.sessions WHERE user_id = %(user_id)s ORDER BY id
    """,
)

LIST_OWN_ORGANISATIONS = sql(
    dict, "SELECT id, name, role, joined_at FROM identity.own_organisations()"
)

LIST_PERSONAL_KEYS = sql(
    dict,
    """
    SELECT id, name, prefix, scopes, is_active, expires_at, usage_count, last_used_at, created_at
      FROM identity.api_keys WHERE org_id = %(org_id)s AND user_id = %(user_id)s ORDER BY id
    """,
)

LIST_PERSONAL_TEAMS = sql(
    dict,
    """
    SELECT t.id, t.name, m.is_lead, m.created_at
      FROM identity.team_members m JOIN identity.teams t ON t.id = m.team_id
     WHERE m.org_id = %(org_id)s AND m.user_id = %(user_id)s ORDER BY t.id
    """,
)

LIST_PERSONAL_INVITATIONS = sql(
    dict,
    """
    SELECT id, role, email, uses, uses_max, expires_at, revoked_at, created_at
      FROM identity.invitations
     WHERE org_id = %(org_id)s AND created_by = %(user_id)s ORDER BY id
    """,
)


async def person(tx: Tx, user_id: str) -> dict[str, Any]:
    """The account, wherever it belongs."""
    return {
        "user": await tx.one(GET_PERSON, user_id=user_id),
        "devices": await tx.all(LIST_DEVICES, user_id=user_id),
        "sessions": await tx.all(LIST_PERSONAL_SESSIONS, user_id=user_id),
    }


async def own_organisations(tx: Tx) -> list[dict[str, Any]]:
    """id, name, role, joined_at of each."""
    return await tx.all(LIST_OWN_ORGANISATIONS)


async def personal_data(tx: Tx, user_id: str) -> dict[str, list[dict[str, Any]]]:
    """API keys without their secrets, teams, invitations, in the caller's organisation."""
    org_id = tx.call.caller.org_id
    return {
        "api_keys": await tx.all(LIST_PERSONAL_KEYS, org_id=org_id, user_id=user_id),
        "teams": await tx.all(LIST_PERSONAL_TEAMS, org_id=org_id, user_id=user_id),
        "invitations": await tx.all(LIST_PERSONAL_INVITATIONS, org_id=org_id, user_id=user_id),
    }
