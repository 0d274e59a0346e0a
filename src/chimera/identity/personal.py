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
    SELECT id, name, prefix, scopes, source_networks, metadata, is_active, expires_at, rotated_at,
           usage_count, last_used_at, host(last_used_ip) AS last_used_ip, created_at
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

# What was granted to them themselves; their role is part of the membership.
LIST_PERSONAL_GRANTS = sql(
    dict,
    """
    SELECT g.id, COALESCE(r.name, g.built_in_role) AS role, g.conditions, g.granted_by, g.granted_at,
           g.revoked_at
      FROM identity.grants g LEFT JOIN identity.roles r ON r.id = g.role_id
     WHERE g.org_id = %(org_id)s AND g.user_id = %(user_id)s ORDER BY g.id
    """,
)

LIST_PERSONAL_REDEMPTIONS = sql(
    dict,
    """
    SELECT r.invitation_id, i.role, i.email, i.created_by AS invited_by, r.created_at
      FROM identity.redemptions r JOIN identity.invitations i ON i.id = r.invitation_id
     WHERE r.org_id = %(org_id)s AND r.user_id = %(user_id)s ORDER BY r.created_at, r.invitation_id
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
    """API keys without their secrets, teams, roles that were granted, invitations made and redeemed,
    in the caller's organisation."""
    own = {"org_id": tx.call.caller.org_id, "user_id": user_id}
    return {
        "api_keys": await tx.all(LIST_PERSONAL_KEYS, **own),
        "teams": await tx.all(LIST_PERSONAL_TEAMS, **own),
        "grants": await tx.all(LIST_PERSONAL_GRANTS, **own),
        "invitations": await tx.all(LIST_PERSONAL_INVITATIONS, **own),
        "redeemed_invitations": await tx.all(LIST_PERSONAL_REDEMPTIONS, **own),
    }
