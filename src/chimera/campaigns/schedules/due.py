"""What happens when a schedule's time has come. The README of this folder says what must stay true."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from chimera.audit import recording
from chimera.audit.leaf import Outcome, Severity
from chimera.campaigns.engine.completion import LOCK_CAMPAIGN
from chimera.campaigns.launching import launch_locked
from chimera.campaigns.operations import lock_campaign
from chimera.campaigns.runs import LIVE
from chimera.campaigns.schedules.operations import END_SCHEDULE, SET_SCHEDULED, SET_UNSCHEDULED
from chimera.campaigns.schedules.times import next_after
from chimera.db import Nothing, Tx, sql
from chimera.faults import Conflict, Denied, Fault, NotReady, TimedOut, Unavailable
from chimera.row_seals import RowSeals
from chimera.rows import enum_text
from chimera.settings import Settings

# What is waited out, and not told as a refusal.
PASSING = (Conflict, Unavailable, TimedOut)


@dataclass(frozen=True, slots=True)
class Due:
    """A schedule whose time has come, and the database's time."""

    campaign_id: str
    org_id: str
    scheduled_by: str
    api_key_id: str
    cron: str | None
    time_zone: str | None
    next_at: datetime
    now: datetime

    @property
    def then(self) -> datetime | None:
        """When it comes next: later than now, however much was missed; None: never again."""
        if self.cron is None or self.time_zone is None:
            return None
        return next_after(self.cron, self.time_zone, self.now)


@dataclass(frozen=True, slots=True)
class Over:
    """A schedule whose run is over."""

    campaign_id: str
    org_id: str
    run_id: str
    run_state: str


LIST_DUE = sql(
    Due,
    """
    SELECT campaign_id, org_id, scheduled_by, COALESCE(api_key_id::text, '') AS api_key_id, cron,
           time_zone, next_at, clock_timestamp() AS now
      FROM campaigns.schedules WHERE state = 'active' AND next_at <= clock_timestamp()
     ORDER BY next_at LIMIT %(limit)s
    """,
)

LIST_OVER = sql(
    Over,
    """
    SELECT s.campaign_id, s.org_id, r.id AS run_id, r.state AS run_state
      FROM campaigns.schedules s JOIN campaigns.runs r ON r.id = s.watched_run_id
     WHERE r.state NOT IN ('running', 'paused')
     ORDER BY s.watched_run_id LIMIT %(limit)s
    """,
)


async def list_due(tx: Tx, limit: int) -> list[Due]:
    return await tx.all(LIST_DUE, limit=limit)


async def list_over(tx: Tx, limit: int) -> list[Over]:
    return await tx.all(LIST_OVER, limit=limit)


# Whoever finds the moment that was due has the launch; the campaign is locked before.
TAKE_TURN = sql(
    int,
    """
    UPDATE campaigns.schedules
       SET next_at = %(then)s, state = CASE WHEN %(then)s::timestamptz IS NULL THEN 'done' ELSE 'active' END
     WHERE campaign_id = %(campaign_id)s AND state = 'active' AND next_at = %(next_at)s
    RETURNING 1
    """,
)

NOTE_LAUNCH = sql(
    Nothing,
    """
    UPDATE campaigns.schedules
       SET launch_count = launch_count + 1, last_run_id = %(run_id)s,
           last_launched_at = clock_timestamp(), watched_run_id = %(run_id)s,
           refused_at = NULL, refusal_reason = '', refusal_message = ''
     WHERE campaign_id = %(campaign_id)s
    """,
)


async def launch_due(tx: Tx, due: Due, settings: Settings, row_seals: RowSeals) -> str:
    """Launches, in a transaction of the person who scheduled it; the run's id, or "" when another
    worker was first. Raises the refusals of a launch, NotReady(CAMPAIGN_BUSY)."""
    campaign = await lock_campaign(tx, due.campaign_id)
    turn = {"campaign_id": due.campaign_id, "next_at": due.next_at, "then": due.then}
    if await tx.one(TAKE_TURN, **turn) is None:
        return ""
    state = enum_text(campaign, "state", campaign.state) or ""
    if state in LIVE:
        raise NotReady("CAMPAIGN_BUSY", f"The run before is still {state}.", facts={"state": state})
    _campaign, run = await launch_locked(tx, campaign, settings, row_seals)
    await tx.run(NOTE_LAUNCH, campaign_id=due.campaign_id, run_id=run.id)
    return run.id


NOTE_REFUSAL = sql(
    int,
    """
    UPDATE campaigns.schedules
       SET refused_at = clock_timestamp(), refusal_reason = %(reason)s, refusal_message = %(message)s,
           next_at = %(then)s, state = CASE WHEN %(then)s::timestamptz IS NULL THEN 'stopped' ELSE 'active' END,
           state_reason = CASE WHEN %(then)s::timestamptz IS NULL THEN %(message)s ELSE '' END
     WHERE campaign_id = %(campaign_id)s AND state = 'active' AND next_at = %(next_at)s
    RETURNING 1
    """,
)


async def refuse_due(tx: Tx, due: Due, fault: Fault) -> None:
    """Writes down why nothing was launched; of somebody who may not any more, and of a single moment
    that has passed, the schedule stops. In a transaction of the worker's."""
    await tx.run(LOCK_CAMPAIGN, campaign_id=due.campaign_id)
    is_gone = isinstance(fault, Denied) or fault.reason == "CAMPAIGN_NOT_FOUND"
    then = None if is_gone else due.then
    noted = await tx.one(
        NOTE_REFUSAL,
        campaign_id=due.campaign_id,
        next_at=due.next_at,
        then=then,
        reason=fault.reason,
        message=fault.message,
    )
    if noted is None:
        return
    if then is None:
        await tx.run(SET_UNSCHEDULED, campaign_id=due.campaign_id)
    recording.record(
        tx,
        "schedule.stop" if then is None else "schedule.refuse",
        "campaign",
        due.campaign_id,
        new={"user_id": due.scheduled_by, "refusal": fault.reason},
        outcome=Outcome.FAILED,
        severity=Severity.WARNING,
        reason=fault.message,
    )


FORGET_RUN = sql(
    str,
    """
    UPDATE campaigns.schedules SET watched_run_id = NULL
     WHERE campaign_id = %(campaign_id)s AND watched_run_id = %(run_id)s
    RETURNING state
    """,
)

LOCK_WAITING = sql(
    bool,
    """
    SELECT state IN ('completed', 'failed') FROM campaigns.campaigns
     WHERE id = %(campaign_id)s AND deleted_at IS NULL FOR NO KEY UPDATE
    """,
)


async def settle_over(tx: Tx, over: Over) -> None:
    """After a run: the campaign waits for its next moment, or, cancelled, waits no more."""
    waits = await tx.one(LOCK_WAITING, campaign_id=over.campaign_id)
    if await tx.one(FORGET_RUN, campaign_id=over.campaign_id, run_id=over.run_id) != "active":
        return
    if over.run_state == "cancelled":
        await tx.run(END_SCHEDULE, campaign_id=over.campaign_id, reason="its run was cancelled")
        recording.record(
            tx,
            "schedule.stop",
            "campaign",
            over.campaign_id,
            new={"run_id": over.run_id},
            reason="its run was cancelled",
        )
    elif waits:
        await tx.run(SET_SCHEDULED, campaign_id=over.campaign_id)
