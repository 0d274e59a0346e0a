"""What this context holds about a person, and what becomes of it when they are erased."""

from __future__ import annotations

from typing import Any

from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql

LIST_PERSONAL_KEYS = sql(
    dict,
    """
    SELECT k.id, p.name AS provider, k.name, k.prefix, k.last_four, k.is_active,
           k.usage_count + COALESCE(u.requests, 0) AS usage_count,
           GREATEST(k.last_used_at, u.last_used_at) AS last_used_at, k.created_at
      FROM providers.provider_keys k JOIN providers.providers p ON p.id = k.provider_id
      LEFT JOIN providers.key_usage u ON u.provider_key_id = k.id
     WHERE k.org_id = %(org_id)s AND k.user_id = %(user_id)s
     ORDER BY k.id
    """,
)

SUM_USAGE = sql(
    dict,
    """
    SELECT m.name AS model, count(*) AS entries, sum(l.input_tokens) AS input_tokens,
           sum(l.output_tokens) AS output_tokens, sum(l.cost)::text AS cost_usd
      FROM providers.ledger l JOIN providers.models m ON m.id = l.model_id
     WHERE l.org_id = %(org_id)s AND l.user_id = %(user_id)s
     GROUP BY m.name ORDER BY m.name
    """,
)

REVOKE_PERSONAL_KEYS = sql(
    str,
    """
    UPDATE providers.provider_keys
       SET is_active = false, is_default = false, revoked_at = now(), sealed = '{}', rotate_at = NULL
     WHERE org_id = %(org_id)s AND user_id = %(user_id)s AND is_active
    RETURNING id
    """,
)

# By a worker. The row stays, for the ledger names it.
END_PERSONAL_KEYS = sql(
    Nothing,
    """
    UPDATE providers.provider_keys
       SET is_active = false, is_default = false, revoked_at = COALESCE(revoked_at, now()),
           sealed = '{}', rotate_at = NULL, name = '', prefix = '', last_four = ''
     WHERE user_id = %(user_id)s AND (is_active OR name <> '')
    """,
)


async def personal_data(tx: Tx, user_id: str) -> dict[str, list[dict[str, Any]]]:
    """Provider keys without their secrets, and usage, in the caller's organisation."""
    org_id = tx.call.caller.org_id
    return {
        "provider_keys": await tx.all(LIST_PERSONAL_KEYS, org_id=org_id, user_id=user_id),
        "usage": await tx.all(SUM_USAGE, org_id=org_id, user_id=user_id),
    }


async def revoke_personal_keys(tx: Tx, user_id: str) -> None:
    """Somebody leaves the caller's organisation: their keys' secrets are destroyed, the rows stay."""
    org_id = tx.call.caller.org_id
    for key_id in await tx.all(REVOKE_PERSONAL_KEYS, org_id=org_id, user_id=user_id):
        record(
            tx,
            "provider_key.revoke",
            "provider_key",
            key_id,
            new={"is_active": False},
            kind=Kind.SECURITY,
            severity=Severity.NOTICE,
        )


async def end_personal_keys(tx: Tx, user_id: str) -> int:
    """For a worker that erases somebody: their keys' secrets are destroyed; how many."""
    return await tx.run(END_PERSONAL_KEYS, user_id=user_id)
