"""What this context holds about a person, and what becomes of it when they are erased."""

from __future__ import annotations

from typing import Any

from chimera.db import Nothing, Tx, sql

LIST_PERSONAL_CAMPAIGNS = sql(
    dict,
    """
    SELECT id, name, description, objective, state, visibility, labels, success_rate, created_at,
           updated_at, deleted_at
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

LIST_PERSONAL_COMMENTS = sql(
    dict,
    """
    SELECT id, campaign_id, run_id, cell_no, reply_to, text, created_at, edited_at, deleted_at
      FROM campaigns.comments
     WHERE org_id = %(org_id)s AND created_by = %(user_id)s ORDER BY id
    """,
)

LIST_PERSONAL_SHARES = sql(
    dict,
    """
    SELECT id, campaign_id, user_id, team_id, permission, shared_by, shared_at, expires_at
      FROM campaigns.shares
     WHERE org_id = %(org_id)s AND (user_id = %(user_id)s OR shared_by = %(user_id)s) ORDER BY id
    """,
)

LIST_PERSONAL_VERDICTS = sql(
    dict,
    """
    SELECT id, run_id, cell_no, is_successful, reason, created_at, withdrawn_at
      FROM campaigns.overrides
     WHERE org_id = %(org_id)s AND created_by = %(user_id)s ORDER BY id
    """,
)

# By a worker. Threads keep their places, without what was said.
ERASE_COMMENTS = sql(
    Nothing,
    """
    UPDATE campaigns.comments SET text = '', deleted_at = COALESCE(deleted_at, clock_timestamp())
     WHERE org_id = %(org_id)s AND created_by = %(user_id)s AND (text <> '' OR deleted_at IS NULL)
    """,
)

END_SHARES = sql(
    Nothing,
    "DELETE FROM campaigns.shares WHERE org_id = %(org_id)s AND user_id = %(user_id)s",
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
    """Campaigns the person made, suites they made, what they launched and scheduled, what they said
    and judged, and shares they gave or got, in the caller's organisation; also of campaigns they do
    not see any more."""
    await tx.see_all_campaigns()
    own = {"org_id": tx.call.caller.org_id, "user_id": user_id}
    return {
        "campaigns": await tx.all(LIST_PERSONAL_CAMPAIGNS, **own),
        "runs": await tx.all(LIST_PERSONAL_RUNS, **own),
        "campaign_comments": await tx.all(LIST_PERSONAL_COMMENTS, **own),
        "campaign_shares": await tx.all(LIST_PERSONAL_SHARES, **own),
        "verdicts": await tx.all(LIST_PERSONAL_VERDICTS, **own),
        "suites": await tx.all(LIST_PERSONAL_SUITES, **own),
        "schedules": await tx.all(LIST_PERSONAL_SCHEDULES, **own),
    }


async def erase_personal_data(tx: Tx, user_id: str) -> None:
    """For a worker that erases somebody, in one organisation. What they said goes, and what was
    shared with them; what they made, judged and gave stays without a name. Safe to run twice."""
    own = {"org_id": tx.call.caller.org_id, "user_id": user_id}
    await tx.run(ERASE_COMMENTS, **own)
    await tx.run(END_SHARES, **own)
