"""The schedule of a campaign: made, replaced, ended, read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from chimera.audit import recording
from chimera.campaigns.freezing import freeze_plan
from chimera.campaigns.operations import get_campaign, lock_campaign
from chimera.campaigns.runs import LIVE
from chimera.campaigns.schedules.times import checked_start, next_after
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotFound, NotReady
from chimera.paging import Pages
from chimera.row_seals import RowSeals
from chimera.rows import enum_text
from chimera.settings import Settings
from chimera.v1.campaigns_pb2 import Campaign
from chimera.v1.schedules_pb2 import ListSchedulesRequest, Schedule, ScheduleCampaignRequest

SELECT_SCHEDULE = """
    SELECT campaign_id, state, state_reason, start_at,
           CASE WHEN cron IS NOT NULL
                THEN jsonb_build_object('expression', cron, 'time_zone', time_zone) END AS cron,
           next_at, scheduled_by, launch_count, last_run_id, last_launched_at, refused_at,
           refusal_reason, refusal_message, created_at, updated_at
      FROM campaigns.schedules
"""

FIND_SCHEDULE = sql(Schedule, SELECT_SCHEDULE + "WHERE campaign_id = %(campaign_id)s::uuid")

LIST_SCHEDULES = sql(
    Schedule,
    SELECT_SCHEDULE
    + """
     WHERE org_id = %(org_id)s AND (%(state)s::text IS NULL OR state = %(state)s)
       AND (%(after)s::uuid IS NULL OR campaign_id < %(after)s)
     ORDER BY campaign_id DESC LIMIT %(limit)s
    """,
    prepare=False,
)

NOW = sql(datetime, "SELECT clock_timestamp()")

PUT_SCHEDULE = sql(
    Nothing,
    """
    INSERT INTO campaigns.schedules AS s
        (campaign_id, org_id, start_at, cron, time_zone, next_at, scheduled_by, api_key_id)
    VALUES (%(campaign_id)s, %(org_id)s, %(start_at)s, %(cron)s, %(time_zone)s, %(next_at)s,
            %(scheduled_by)s, %(api_key_id)s)
    ON CONFLICT (campaign_id) DO UPDATE
       SET state = 'active', state_reason = '', start_at = EXCLUDED.start_at, cron = EXCLUDED.cron,
           time_zone = EXCLUDED.time_zone, next_at = EXCLUDED.next_at,
           scheduled_by = EXCLUDED.scheduled_by, api_key_id = EXCLUDED.api_key_id,
           refused_at = NULL, refusal_reason = '', refusal_message = ''
    """,
)

END_SCHEDULE = sql(
    Nothing,
    """
    UPDATE campaigns.schedules SET state = 'stopped', state_reason = %(reason)s, next_at = NULL
     WHERE campaign_id = %(campaign_id)s AND state = 'active'
    """,
)

SET_SCHEDULED = sql(
    Nothing, "UPDATE campaigns.campaigns SET state = 'scheduled' WHERE id = %(campaign_id)s"
)

# A campaign that waited goes back to what its newest run left.
SET_UNSCHEDULED = sql(
    Nothing,
    """
    UPDATE campaigns.campaigns c
       SET state = COALESCE((SELECT r.state FROM campaigns.runs r WHERE r.id = c.run_id), 'draft')
     WHERE c.id = %(campaign_id)s AND c.state = 'scheduled'
    """,
)


async def find_schedule(tx: Tx, campaign_id: str) -> Schedule:
    """Raises NotFound(SCHEDULE_NOT_FOUND)."""
    schedule = await tx.one(FIND_SCHEDULE, campaign_id=campaign_id)
    if schedule is None:
        raise NotFound("SCHEDULE_NOT_FOUND", "This campaign has no schedule.")
    return schedule


async def get_schedule(tx: Tx, campaign_id: str) -> Schedule:
    """Raises NotFound(CAMPAIGN_NOT_FOUND, SCHEDULE_NOT_FOUND)."""
    await get_campaign(tx, campaign_id)
    return await find_schedule(tx, campaign_id)


async def list_schedules(
    tx: Tx, pages: Pages, request: ListSchedulesRequest
) -> tuple[list[Schedule], str]:
    """A page, newest campaign first, and the token of the next."""
    size, after = pages.page(request)
    rows = await tx.all(
        LIST_SCHEDULES,
        org_id=tx.call.caller.org_id,
        state=enum_text(request, "state", request.state),
        after=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "campaign_id")


async def schedule_campaign(
    tx: Tx, request: ScheduleCampaignRequest, settings: Settings, row_seals: RowSeals
) -> tuple[Campaign, Schedule]:
    """Raises Invalid(SCHEDULE_INVALID), NotFound(CAMPAIGN_NOT_FOUND), NotReady(CAMPAIGN_BUSY), and
    what a launch refuses of a plan."""
    now = await tx.one(NOW)
    assert now is not None
    facts = _facts(request, now)
    campaign = await lock_campaign(tx, request.campaign_id)
    state = enum_text(campaign, "state", campaign.state) or ""
    old = await tx.one(FIND_SCHEDULE, campaign_id=campaign.id)
    is_active = old is not None and enum_text(old, "state", old.state) == "active"
    if state == "archived" or (state in LIVE and not is_active):
        raise NotReady(
            "CAMPAIGN_BUSY",
            f"A campaign that is {state} cannot be scheduled.",
            facts={"state": state},
        )
    await freeze_plan(tx, campaign.plan, settings, row_seals)
    caller = tx.call.caller
    await tx.run(
        PUT_SCHEDULE,
        campaign_id=campaign.id,
        org_id=caller.org_id,
        scheduled_by=caller.user_id,
        api_key_id=caller.api_key_id or None,
        **facts,
    )
    if state not in LIVE:
        await tx.run(SET_SCHEDULED, campaign_id=campaign.id)
    recording.record(
        tx,
        "campaign.schedule",
        "campaign",
        campaign.id,
        old={"state": state},
        new={name: str(value) for name, value in facts.items() if value is not None},
    )
    return await get_campaign(tx, campaign.id), await find_schedule(tx, campaign.id)


def _facts(request: ScheduleCampaignRequest, now: datetime) -> dict[str, Any]:
    if request.HasField("cron"):
        cron = request.cron
        next_at = next_after(cron.expression, cron.time_zone, now)
        return {
            "start_at": None,
            "cron": cron.expression,
            "time_zone": cron.time_zone,
            "next_at": next_at,
        }
    start_at = checked_start(request.start_at.ToDatetime(UTC), now)
    return {"start_at": start_at, "cron": None, "time_zone": None, "next_at": start_at}


async def unschedule_campaign(tx: Tx, campaign_id: str) -> tuple[Campaign, Schedule]:
    """A run that it started goes on. Raises NotFound(CAMPAIGN_NOT_FOUND, SCHEDULE_NOT_FOUND)."""
    campaign = await lock_campaign(tx, campaign_id)
    if not await tx.run(END_SCHEDULE, campaign_id=campaign.id, reason="unscheduled"):
        raise NotFound("SCHEDULE_NOT_FOUND", "This campaign has no schedule that is active.")
    await tx.run(SET_UNSCHEDULED, campaign_id=campaign.id)
    recording.record(
        tx,
        "campaign.unschedule",
        "campaign",
        campaign.id,
        old={"schedule": "active"},
        new={"schedule": "stopped"},
    )
    return await get_campaign(tx, campaign.id), await find_schedule(tx, campaign.id)
