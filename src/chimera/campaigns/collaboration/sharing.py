"""Sharing a campaign: with one person or team, and with every organisation."""

from __future__ import annotations

from psycopg.errors import ForeignKeyViolation

from chimera.audit.leaf import Kind
from chimera.audit.recording import record
from chimera.campaigns.collaboration.levels import bad_field
from chimera.campaigns.operations import get_campaign, lock_campaign
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotFound
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.rows import enum_text
from chimera.v1.campaigns_pb2 import Campaign, CampaignVisibility
from chimera.v1.collaboration_pb2 import (
    CampaignShare,
    ListCampaignSharesRequest,
    SetCampaignPublicRequest,
    ShareCampaignRequest,
    UnshareCampaignRequest,
)

PUT_SHARE = sql(
    CampaignShare,
    """
    INSERT INTO campaigns.shares (id, org_id, campaign_id, user_id, team_id, permission, shared_by,
                                  expires_at)
    VALUES (%(id)s, %(org_id)s, %(campaign_id)s, NULLIF(%(user_id)s, '')::uuid,
            NULLIF(%(team_id)s, '')::uuid, %(permission)s, %(shared_by)s, %(expires_at)s)
    ON CONFLICT (campaign_id, user_id, team_id) DO UPDATE
       SET permission = EXCLUDED.permission, expires_at = EXCLUDED.expires_at,
           shared_by = EXCLUDED.shared_by, shared_at = now()
    RETURNING id, campaign_id, user_id, team_id, permission, shared_by, shared_at, expires_at
    """,
)


async def share_campaign(tx: Tx, request: ShareCampaignRequest) -> CampaignShare:
    """Raises NotFound(CAMPAIGN_NOT_FOUND), Denied(CAMPAIGN_LEVEL_TOO_LOW), Invalid(FIELD_INVALID)."""
    if bool(request.user_id) is bool(request.team_id):
        raise bad_field("user_id", "give a user or a team, and not both")
    await lock_campaign(tx, request.campaign_id, needed="admin")
    expires_at = request.expires_at.ToJsonString() if request.HasField("expires_at") else None
    permission = enum_text(request, "permission", request.permission)
    try:
        share = await tx.one(
            PUT_SHARE,
            id=new_id(),
            org_id=tx.call.caller.org_id,
            campaign_id=request.campaign_id,
            user_id=request.user_id,
            team_id=request.team_id,
            permission=permission,
            shared_by=tx.call.caller.user_id,
            expires_at=expires_at,
        )
    except ForeignKeyViolation:
        field = "user_id" if request.user_id else "team_id"
        raise bad_field(field, "is nobody in your organisation") from None
    assert share is not None  # an upsert without a condition returns its row
    record(
        tx,
        "campaign.share",
        "campaign",
        request.campaign_id,
        new={
            "user_id": request.user_id,
            "team_id": request.team_id,
            "permission": permission,
            "expires_at": expires_at or "",
        },
        kind=Kind.SECURITY,
    )
    return share


REMOVE_SHARE = sql(
    dict,
    """
    DELETE FROM campaigns.shares WHERE campaign_id = %(campaign_id)s AND id = %(share_id)s
    RETURNING COALESCE(user_id::text, '') AS user_id, COALESCE(team_id::text, '') AS team_id, permission
    """,
)


async def unshare_campaign(tx: Tx, request: UnshareCampaignRequest) -> None:
    """Raises NotFound(CAMPAIGN_NOT_FOUND, SHARE_NOT_FOUND), Denied(CAMPAIGN_LEVEL_TOO_LOW)."""
    await lock_campaign(tx, request.campaign_id, needed="admin")
    old = await tx.one(REMOVE_SHARE, campaign_id=request.campaign_id, share_id=request.share_id)
    if old is None:
        raise NotFound("SHARE_NOT_FOUND", "The campaign has no such share.")
    record(tx, "campaign.unshare", "campaign", request.campaign_id, old=old, kind=Kind.SECURITY)


LIST_SHARES = sql(
    CampaignShare,
    """
    SELECT id, campaign_id, user_id, team_id, permission, shared_by, shared_at, expires_at
      FROM campaigns.shares
     WHERE campaign_id = %(campaign_id)s AND (%(after)s::uuid IS NULL OR id > %(after)s)
     ORDER BY id LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_shares(
    tx: Tx, pages: Pages, request: ListCampaignSharesRequest
) -> tuple[list[CampaignShare], str]:
    """A page, those that have expired too. Raises NotFound(CAMPAIGN_NOT_FOUND)."""
    size, after = pages.page(request)
    await get_campaign(tx, request.campaign_id)
    rows = await tx.all(
        LIST_SHARES,
        campaign_id=request.campaign_id,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "id")


SET_VISIBILITY = sql(
    Nothing,
    """
    UPDATE campaigns.campaigns SET visibility = %(visibility)s, team_id = NULL WHERE id = %(campaign_id)s
    """,
)


async def set_public(tx: Tx, request: SetCampaignPublicRequest) -> Campaign:
    """Closed again, it is its organisation's. Raises NotFound(CAMPAIGN_NOT_FOUND),
    Denied(CAMPAIGN_LEVEL_TOO_LOW) for a campaign of others."""
    old = await lock_campaign(tx, request.campaign_id, needed="admin")
    was_public = old.visibility == CampaignVisibility.CAMPAIGN_VISIBILITY_PUBLIC
    if request.is_public is not was_public:
        visibility = "public" if request.is_public else "organisation"
        await tx.run(SET_VISIBILITY, campaign_id=old.id, visibility=visibility)
    record(
        tx,
        "campaign.set_public",
        "campaign",
        old.id,
        old={"is_public": was_public},
        new={"is_public": request.is_public},
        kind=Kind.SECURITY,
    )
    return await get_campaign(tx, old.id)
