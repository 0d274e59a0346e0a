"""What this context holds about a person: what they did, and what was done to their account."""

from __future__ import annotations

from typing import Any

from chimera.db import Tx, sql

LIST_PERSONAL_EVENTS = sql(
    dict,
    """
    SELECT id, occurred_at, action, entity, entity_id, outcome, facts
      FROM audit.events
     WHERE org_id = %(org_id)s
       AND (actor_id = %(user_id)s::uuid OR (entity = 'user' AND entity_id = %(user_id)s::text))
       AND (%(after)s::uuid IS NULL OR id > %(after)s::uuid)
     ORDER BY id LIMIT %(limit)s
    """,
    prepare=False,
)


async def personal_events(tx: Tx, user_id: str, *, after: str, limit: int) -> list[dict[str, Any]]:
    """Sealed events by or about the person in the caller's organisation, in their order."""
    return await tx.all(
        LIST_PERSONAL_EVENTS,
        org_id=tx.call.caller.org_id,
        user_id=user_id,
        after=after or None,
        limit=limit,
    )
