"""Campaigns that are put away: read, compared and cloned, but not listed, run or changed."""

from __future__ import annotations

from chimera.audit import recording
from chimera.campaigns.operations import get_campaign, lock_campaign
from chimera.db import Tx, sql
from chimera.faults import NotReady
from chimera.rows import enum_text
from chimera.v1.campaigns_pb2 import Campaign

ARCHIVE = sql(
    object,
    "UPDATE campaigns.campaigns SET state = 'archived' WHERE id = %(campaign_id)s",
)

# As its newest run left it.
UNARCHIVE = sql(
    str,
    """
    UPDATE campaigns.campaigns c
       SET state = COALESCE((SELECT r.state FROM campaigns.runs r WHERE r.id = c.run_id), 'draft')
     WHERE c.id = %(campaign_id)s
    RETURNING c.state
    """,
)


async def archive_campaign(tx: Tx, campaign_id: str, etag: str) -> Campaign:
    """Raises NotFound(CAMPAIGN_NOT_FOUND), NotReady(CAMPAIGN_BUSY), Conflict(ETAG_MISMATCH)."""
    before = await lock_campaign(tx, campaign_id, etag=etag, needed="edit")
    state = enum_text(before, "state", before.state) or ""
    if state in ("running", "paused", "scheduled"):
        raise NotReady(
            "CAMPAIGN_BUSY",
            f"This campaign is {state}: cancel or unschedule it before you archive it.",
            facts={"state": state},
        )
    if state != "archived":
        await tx.run(ARCHIVE, campaign_id=campaign_id)
    recording.record(
        tx,
        "campaign.archive",
        "campaign",
        campaign_id,
        old={"state": state},
        new={"state": "archived"},
    )
    return await get_campaign(tx, campaign_id)


async def unarchive_campaign(tx: Tx, campaign_id: str) -> Campaign:
    """Raises NotFound(CAMPAIGN_NOT_FOUND), NotReady(CAMPAIGN_NOT_ARCHIVED)."""
    before = await lock_campaign(tx, campaign_id, needed="edit")
    state = enum_text(before, "state", before.state)
    if state != "archived":
        raise NotReady("CAMPAIGN_NOT_ARCHIVED", f"This campaign is {state}, not archived.")
    now = await tx.one(UNARCHIVE, campaign_id=campaign_id)
    recording.record(
        tx,
        "campaign.unarchive",
        "campaign",
        campaign_id,
        old={"state": "archived"},
        new={"state": now},
    )
    return await get_campaign(tx, campaign_id)
