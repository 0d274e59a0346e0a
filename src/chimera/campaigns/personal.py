"""What this context holds about a person."""

from __future__ import annotations

from typing import Any

from chimera.db import Tx, sql

LIST_PERSONAL_CAMPAIGNS = sql(
    dict,
    """
    SELECT id, name, description, objective, state, visibility, success_rate, created_at, updated_at,
           deleted_at
      FROM campaigns.campaigns
     WHERE org_id = %(org_id)s AND created_by = %(user_id)s ORDER BY id
    """,
)

LIST_PERSONAL_RUNS = sql(
    dict,
    """
    SELECT id, campaign_id, state, cells_total, created_at, finished_at FROM campaigns.runs
     WHERE org_id = %(org_id)s AND launched_by = %(user_id)s ORDER BY id
    """,
)


LIST_PERSONAL_SUITES = sql(
    dict,
    """
    SELECT id, name, description, created_at, updated_at, deleted_at
      FROM campaigns.technique_suites
     WHERE org_id = %(org_id)s AND created_by = %(user_id)s ORDER BY id
    """,
)

LIST_PERSONAL_SCHEDULES = sql(
    dict,
    """
    SELECT campaign_id, state, start_at, cron, time_zone, launch_count, created_at
      FROM campaigns.schedules
     WHERE org_id = %(org_id)s AND scheduled_by = %(user_id)s ORDER BY campaign_id
    """,
)


async def personal_data(tx: Tx, user_id: str) -> dict[str, list[dict[str, Any]]]:
    """Campaigns and suites the person made, and what they launched and scheduled, in the caller's
    organisation."""
    org_id = tx.call.caller.org_id
    return {
        "campaigns": await tx.all(LIST_PERSONAL_CAMPAIGNS, org_id=org_id, user_id=user_id),
        "runs": await tx.all(LIST_PERSONAL_RUNS, org_id=org_id, user_id=user_id),
        "suites": await tx.all(LIST_PERSONAL_SUITES, org_id=org_id, user_id=user_id),
        "schedules": await tx.all(LIST_PERSONAL_SCHEDULES, org_id=org_id, user_id=user_id),
    }
