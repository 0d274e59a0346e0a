"""What the columns of an event's row repeat of its leaf, for people to list and search, compared.

Column by column, to name those that differ. (That all are alike, one text made of them all says faster:
`scanning.said_by`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from chimera.audit.leaf import Leaf

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

READ_COLUMNS = """
    SELECT e.id, e.org_id, e.actor_kind, e.actor_id, e.action, e.entity, e.entity_id, e.outcome,
           e.severity, e.facts,
           CASE WHEN isfinite(e.occurred_at)
                THEN (extract(epoch FROM e.occurred_at) * 1000000)::bigint END AS occurred_at
      FROM audit.leaves l
      JOIN audit.events e ON e.id = l.event_id
     WHERE l.log_index = %s AND e.leaf = %s
"""


def differing(leaf: Leaf, row: Mapping[str, Any]) -> list[str]:
    """The columns, and members of `facts`, of a row of READ_COLUMNS that do not say what the leaf says."""
    facts = row["facts"] if isinstance(row["facts"], dict) else {}
    wrong = [name for name, value in _columns(leaf).items() if row[name] != value]
    return wrong + [
        name for name, value in _facts(leaf).items() if (facts.get(name) or None) != value
    ]


def _columns(leaf: Leaf) -> dict[str, Any]:
    return {
        "id": leaf.event_id,
        "org_id": leaf.org_id,
        "occurred_at": (leaf.occurred_at - _EPOCH) // timedelta(microseconds=1),
        "actor_kind": leaf.actor_kind.value,
        "actor_id": _id(leaf.actor_id),
        "action": leaf.action,
        "entity": leaf.entity,
        "entity_id": leaf.entity_id or "",
        "outcome": leaf.outcome.value,
        "severity": leaf.severity.value,
    }


def _id(text: str | None) -> UUID | None:
    """As the sealer makes the column of it."""
    try:
        return None if text is None else UUID(text)
    except ValueError:
        return None


def _facts(leaf: Leaf) -> dict[str, str | None]:
    """The members of `facts` that are not columns too."""
    return {
        "session_id": None if leaf.session_id is None else str(leaf.session_id),
        "api_key_id": None if leaf.api_key_id is None else str(leaf.api_key_id),
        "kind": leaf.kind.value,
        "correlation_id": leaf.request_id,
    }
