"""What this context holds about a person."""

from __future__ import annotations

from typing import Any

from chimera.db import Tx, sql

LIST_PERSONAL_TEMPLATES = sql(
    dict,
    """
    SELECT id, title, description, technique_type, vulnerability_type, tags, state, sharing_level,
           version_number, created_at, updated_at, deleted_at
      FROM templates.templates
     WHERE org_id = %(org_id)s AND created_by = %(user_id)s ORDER BY id
    """,
)

LIST_PERSONAL_VERSIONS = sql(
    dict,
    """
    SELECT template_id, version_number, messages, variables, change_note, created_at
      FROM templates.versions
     WHERE org_id = %(org_id)s AND created_by = %(user_id)s ORDER BY id
    """,
)

LIST_PERSONAL_RATINGS = sql(
    dict,
    """
    SELECT id, template_id, version_number, rating, is_effective, review, campaign_id, created_at,
           updated_at
      FROM templates.ratings
     WHERE org_id = %(org_id)s AND user_id = %(user_id)s ORDER BY id
    """,
)


async def personal_data(tx: Tx, user_id: str) -> dict[str, list[dict[str, Any]]]:
    """Templates and versions the person made, and ratings they gave, in the caller's organisation."""
    org_id = tx.call.caller.org_id
    return {
        "templates": await tx.all(LIST_PERSONAL_TEMPLATES, org_id=org_id, user_id=user_id),
        "template_versions": await tx.all(LIST_PERSONAL_VERSIONS, org_id=org_id, user_id=user_id),
        "template_ratings": await tx.all(LIST_PERSONAL_RATINGS, org_id=org_id, user_id=user_id),
    }
