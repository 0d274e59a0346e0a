"""Labels: free tags of campaigns, or key=value, and how many campaigns have each."""

from __future__ import annotations

from chimera.audit.recording import record
from chimera.campaigns.collaboration.levels import bad_field
from chimera.campaigns.operations import LABELS_MAX, get_campaign, lock_campaign
from chimera.db import Nothing, Tx, sql
from chimera.paging import Pages
from chimera.templates.operations import normal_tags
from chimera.v1.campaigns_pb2 import Campaign
from chimera.v1.collaboration_pb2 import (
    CampaignLabel,
    LabelCampaignRequest,
    ListCampaignLabelsRequest,
)

SET_LABELS = sql(
    Nothing,
    "UPDATE campaigns.campaigns SET labels = %(labels)s WHERE id = %(campaign_id)s",
)


async def label_campaign(tx: Tx, request: LabelCampaignRequest) -> Campaign:
    """Takes `remove` away, then adds `add`. Raises NotFound(CAMPAIGN_NOT_FOUND),
    Denied(CAMPAIGN_LEVEL_TOO_LOW), Invalid(FIELD_INVALID)."""
    old = await lock_campaign(tx, request.campaign_id, needed="edit")
    gone = set(normal_tags(request.remove))
    kept = [label for label in old.labels if label not in gone]
    labels = normal_tags([*kept, *request.add])
    if len(labels) > LABELS_MAX:
        raise bad_field("add", f"a campaign has at most {LABELS_MAX} labels")
    await tx.run(SET_LABELS, campaign_id=old.id, labels=labels)
    record(
        tx,
        "campaign.label",
        "campaign",
        old.id,
        old={"labels": list(old.labels)},
        new={"labels": labels},
    )
    return await get_campaign(tx, old.id)


COUNT_LABELS = sql(
    CampaignLabel,
    """
    SELECT l.label, count(*) AS campaigns
      FROM campaigns.campaigns c CROSS JOIN unnest(c.labels) AS l (label)
     WHERE c.org_id = %(org_id)s AND c.deleted_at IS NULL
     GROUP BY l.label
    HAVING %(count)s::bigint IS NULL OR count(*) < %(count)s
        OR (count(*) = %(count)s AND l.label COLLATE "C" > %(label)s)
     ORDER BY count(*) DESC, l.label COLLATE "C" LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_labels(
    tx: Tx, pages: Pages, request: ListCampaignLabelsRequest
) -> tuple[list[CampaignLabel], str]:
    """A page, the most used first."""
    size, after = pages.page(request)
    rows = await tx.all(
        COUNT_LABELS,
        org_id=tx.call.caller.org_id,
        count=after[0] if after else None,
        label=after[1] if after else "",
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "campaigns", "label")
