"""What this context holds about a person. Erasing it is part of identity/erasure.py."""

from __future__ import annotations

from typing import Any

from chimera.db import Tx, sql

LIST_PERSONAL_LINKS = sql(
    dict,
    """
    SELECT id, provider_name, issuer, subject, email, display_name, created_at, last_used_at
      FROM identity.linked_identities
     WHERE org_id = %(org_id)s AND user_id = %(user_id)s ORDER BY id
    """,
)


async def personal_data(tx: Tx, user_id: str) -> dict[str, list[dict[str, Any]]]:
    """Who the person is at sign-in providers, in the caller's organisation."""
    org_id = tx.call.caller.org_id
    return {"linked_identities": await tx.all(LIST_PERSONAL_LINKS, org_id=org_id, user_id=user_id)}
