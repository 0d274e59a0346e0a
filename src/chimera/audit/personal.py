"""What this context holds about a person: what they did, and what was done to their account."""

from __future__ import annotations

from typing import Any

from chimera.db import Tx, sql

EVENTS_MAX = 10_000

LIST_PERSONAL_EVENTS = sql(
    dict,
    """
    SELECT id, occurred_at, action, entity, entity_id, outcome, facts
      FROM audit.events
     WHERE org_id = %(org_id)s
       AND (actor_id = %(user_id)s::uuid OR (entity = 'user' AND entity_id = %(user_id)s::text))
     ORDER BY id DESC LIMIT %(limit)s
    """,
)


async def personal_data(tx: Tx, user_id: str) -> dict[str, list[dict[str, Any]]]:
    """The newest EVENTS_MAX sealed events by or about the person in the caller's organisation."""
    events = await tx.all(
        LIST_PERSONAL_EVENTS, org_id=tx.call.caller.org_id, user_id=user_id, limit=EVENTS_MAX
    )
    return {"audit_events": events}
