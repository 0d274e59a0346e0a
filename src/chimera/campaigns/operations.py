"""Campaigns as people edit them: create, read, list, update, delete."""

from __future__ import annotations

import hashlib
from typing import Any

from psycopg.errors import UniqueViolation

from chimera.audit import recording
from chimera.campaigns.checking import check_plan
from chimera.campaigns.collaboration.levels import (
    Level,
    bad_field,
    check_level,
    check_visibility,
)
from chimera.campaigns.secrecy import restore_masked, seal_rows
from chimera.db import Tx, sql, violated
from chimera.faults import AlreadyExists, NotFound, NotReady
from chimera.ids import new_id
from chimera.row_seals import RowSeals
from chimera.rows import enum_text
from chimera.templates.operations import normal_tags
from chimera.updates import check_etag, checked_paths, must_be_given
from chimera.v1.campaigns_pb2 import (
    Campaign,
    CreateCampaignRequest,
    ListCampaignsRequest,
    UpdateCampaignRequest,
)

PAST_ALL_IDS = "ffffffff-ffff-ffff-ffff-ffffffffffff"
UPDATABLE = ("name", "description", "objective", "visibility", "team_id", "plan")
LABELS_MAX = 50

CREATE_CAMPAIGN = sql(
    Campaign,
    """
    INSERT INTO campaigns.campaigns
        (id, org_id, name, description, objective, visibility, team_id, labels, plan, created_by)
    VALUES (%(id)s, %(org_id)s, %(name)s, %(description)s, %(objective)s,
            COALESCE(%(visibility)s, 'organisation'), NULLIF(%(team_id)s, '')::uuid, %(labels)s,
            %(plan)s, %(created_by)s)
    RETURNING id, name, description, objective, state, visibility, team_id,
              NULLIF(labels, '{}') AS labels, plan, run_id, success_rate,
              created_by, created_at, updated_at, deleted_at, xmin::text AS etag
    """,
)

GET_CAMPAIGN = sql(
    Campaign,
    """
    SELECT id, name, description, objective, state, visibility, team_id,
           NULLIF(labels, '{}') AS labels, plan, run_id, success_rate,
           created_by, created_at, updated_at, deleted_at, xmin::text AS etag
      FROM campaigns.campaigns WHERE id = %(campaign_id)s
    """,
)

# A generic plan is right for it: the index gives order and range, the optional filters only sift.
LIST_CAMPAIGNS = sql(
    Campaign,
    """
    SELECT id, name, description, objective, state, visibility, team_id,
           NULLIF(labels, '{}') AS labels, run_id, success_rate,
           created_by, created_at, updated_at, deleted_at, xmin::text AS etag
      FROM campaigns.campaigns
     WHERE org_id = %(org_id)s
       AND id < %(before)s
       AND (state = %(state)s::text OR (%(state)s IS NULL AND state <> 'archived'))
       AND (%(show_deleted)s OR deleted_at IS NULL)
     ORDER BY id DESC LIMIT %(limit)s
    """,
)

# Narrowed by labels, to what was shared by name, or to what others have made public.
FIND_CAMPAIGNS = sql(
    Campaign,
    """
    SELECT id, name, description, objective, state, visibility, team_id,
           NULLIF(labels, '{}') AS labels, run_id, success_rate,
           created_by, created_at, updated_at, deleted_at, xmin::text AS etag
      FROM campaigns.campaigns
     WHERE CASE WHEN %(elsewhere)s THEN visibility = 'public' AND org_id <> %(org_id)s
                ELSE org_id = %(org_id)s END
       AND id < %(before)s
       AND (state = %(state)s::text OR (%(state)s IS NULL AND state <> 'archived'))
       AND (%(show_deleted)s OR deleted_at IS NULL)
       AND labels @> %(labels)s::text[]
       AND (NOT %(shared)s OR id = ANY ((SELECT campaigns.own_shares())::uuid[]))
     ORDER BY id DESC LIMIT %(limit)s
    """,
    prepare=False,
)

LOCK_CAMPAIGN = sql(
    Campaign,
    """
    SELECT id, name, description, objective, state, visibility, team_id, labels, plan, run_id,
           created_by, deleted_at, xmin::text AS etag
      FROM campaigns.campaigns WHERE id = %(campaign_id)s FOR NO KEY UPDATE
    """,
)

UPDATE_CAMPAIGN = sql(
    Campaign,
    """
    UPDATE campaigns.campaigns
       SET name = CASE WHEN 'name' = ANY(%(paths)s::text[]) THEN %(name)s ELSE name END,
           description = CASE WHEN 'description' = ANY(%(paths)s::text[]) THEN %(description)s ELSE description END,
           objective = CASE WHEN 'objective' = ANY(%(paths)s::text[]) THEN %(objective)s ELSE objective END,
           visibility = CASE WHEN 'visibility' = ANY(%(paths)s::text[]) THEN %(visibility)s ELSE visibility END,
           team_id = CASE WHEN 'visibility' = ANY(%(paths)s::text[])
                          THEN NULLIF(%(team_id)s, '')::uuid ELSE team_id END,
           plan = CASE WHEN 'plan' = ANY(%(paths)s::text[]) THEN %(plan)s ELSE plan END
     WHERE id = %(campaign_id)s
    RETURNING id, name, description, objective, state, visibility, team_id,
              NULLIF(labels, '{}') AS labels, plan, run_id, success_rate,
              created_by, created_at, updated_at, deleted_at, xmin::text AS etag
    """,
)

DELETE_CAMPAIGN = sql(
    Campaign,
    """
    UPDATE campaigns.campaigns SET deleted_at = now() WHERE id = %(campaign_id)s
    RETURNING id, name, description, objective, state, visibility, team_id,
              NULLIF(labels, '{}') AS labels, plan, run_id, success_rate,
              created_by, created_at, updated_at, deleted_at, xmin::text AS etag
    """,
)

UNDELETE_CAMPAIGN = sql(
    Campaign,
    """
    UPDATE campaigns.campaigns SET deleted_at = NULL WHERE id = %(campaign_id)s
    RETURNING id, name, description, objective, state, visibility, team_id,
              NULLIF(labels, '{}') AS labels, plan, run_id, success_rate,
              created_by, created_at, updated_at, deleted_at, xmin::text AS etag
    """,
)


def not_found() -> NotFound:
    return NotFound("CAMPAIGN_NOT_FOUND", "There is no such campaign.")


def name_taken(error: UniqueViolation) -> AlreadyExists:
    assert violated(error) == "campaigns_name", violated(error)
    return AlreadyExists("CAMPAIGN_NAME_TAKEN", "A campaign of this name exists already.")


async def create_campaign(tx: Tx, request: CreateCampaignRequest, row_seals: RowSeals) -> Campaign:
    """A draft; its plan may still be incomplete, but what it names must make sense."""
    check_plan(request.plan)
    await restore_masked(tx, request.plan)
    await seal_rows(tx, request.plan, row_seals)
    return await insert_campaign(tx, request, "campaign.create")


async def insert_campaign(tx: Tx, request: CreateCampaignRequest, action: str) -> Campaign:
    """A draft of a plan that was checked before. Raises AlreadyExists(CAMPAIGN_NAME_TAKEN),
    Invalid(FIELD_INVALID), NotFound(TEAM_NOT_FOUND)."""
    await check_visibility(tx, request.visibility, request.team_id)
    caller = tx.call.caller
    try:
        campaign = await tx.one(
            CREATE_CAMPAIGN,
            id=new_id(),
            org_id=caller.org_id,
            name=request.name,
            description=request.description,
            objective=request.objective,
            visibility=enum_text(request, "visibility", request.visibility),
            team_id=request.team_id,
            labels=normal_tags(request.labels),
            plan=request.plan.SerializeToString(deterministic=True),
            created_by=caller.user_id,
        )
    except UniqueViolation as error:
        raise name_taken(error) from None
    assert campaign is not None
    recording.record(tx, action, "campaign", campaign.id, new=_audited(campaign))
    return campaign


async def get_campaign(tx: Tx, campaign_id: str) -> Campaign:
    campaign = await tx.one(GET_CAMPAIGN, campaign_id=campaign_id)
    if campaign is None:
        raise not_found()
    return campaign


async def list_campaigns(
    tx: Tx, into: Any, request: ListCampaignsRequest, *, after: str | None, limit: int
) -> None:
    """Newest first, without plans; appended to the repeated field `into`."""
    narrowed: dict[str, Any] = {
        "org_id": tx.call.caller.org_id,
        "before": after or PAST_ALL_IDS,
        "limit": limit,
        "state": enum_text(request, "state", request.state),
        "show_deleted": request.show_deleted,
    }
    if not (request.labels or request.shared_with_me or request.public_elsewhere):
        await tx.fill(into, LIST_CAMPAIGNS, **narrowed)
        return
    await tx.fill(
        into,
        FIND_CAMPAIGNS,
        **narrowed,
        labels=normal_tags(request.labels),
        shared=request.shared_with_me,
        elsewhere=request.public_elsewhere,
    )


async def lock_campaign(
    tx: Tx, campaign_id: str, *, etag: str = "", needed: Level = "execute", deleted: bool = False
) -> Campaign:
    """The campaign, held against changes by others until the transaction ends. Raises
    NotFound(CAMPAIGN_NOT_FOUND) also when it is deleted (or with `deleted` never for that),
    Denied(CAMPAIGN_LEVEL_TOO_LOW), Conflict(ETAG_MISMATCH)."""
    campaign = await tx.one(LOCK_CAMPAIGN, campaign_id=campaign_id)
    if campaign is None:  # no policy lets the caller change it
        if not deleted and (await get_campaign(tx, campaign_id)).HasField("deleted_at"):
            raise not_found()
        await check_level(tx, campaign_id, needed)
        raise not_found()  # until a moment ago
    if campaign.HasField("deleted_at") and not deleted:
        raise not_found()
    if campaign.created_by != tx.call.caller.user_id:
        await check_level(tx, campaign_id, needed)
    check_etag(etag, campaign.etag)
    return campaign


async def update_campaign(tx: Tx, request: UpdateCampaignRequest, row_seals: RowSeals) -> Campaign:
    """Name, description, objective and visibility at any time; the plan only of a draft. Whose it
    is to see, only admins of the campaign decide."""
    given = request.campaign
    paths = checked_paths(request.update_mask.paths, UPDATABLE)
    for field in ("name", "visibility"):
        if field in paths and not getattr(given, field):
            raise must_be_given(f"campaign.{field}")
    if "team_id" in paths and "visibility" not in paths:
        raise bad_field("campaign.team_id", "is named together with visibility")
    needed: Level = "admin" if "visibility" in paths else "edit"
    before = await lock_campaign(tx, given.id, etag=request.etag, needed=needed)
    if "visibility" in paths:
        await check_visibility(tx, given.visibility, given.team_id)
    if "plan" in paths:
        if enum_text(before, "state", before.state) != "draft":
            raise NotReady("CAMPAIGN_NOT_DRAFT", "The plan of a launched campaign is frozen.")
        check_plan(given.plan)
        await restore_masked(tx, given.plan, before.plan)
        await seal_rows(tx, given.plan, row_seals)
    try:
        campaign = await tx.one(
            UPDATE_CAMPAIGN,
            campaign_id=given.id,
            paths=paths,
            name=given.name,
            description=given.description,
            objective=given.objective,
            visibility=enum_text(given, "visibility", given.visibility),
            team_id=given.team_id,
            plan=given.plan.SerializeToString(deterministic=True),
        )
    except UniqueViolation as error:
        raise name_taken(error) from None
    assert campaign is not None
    recording.record(
        tx, "campaign.update", "campaign", campaign.id, old=_audited(before), new=_audited(campaign)
    )
    return campaign


async def delete_campaign(tx: Tx, campaign_id: str, etag: str) -> Campaign:
    before = await lock_campaign(tx, campaign_id, etag=etag, needed="admin")
    state = enum_text(before, "state", before.state)
    if state in ("running", "paused"):
        raise NotReady(
            "CAMPAIGN_NOT_DRAFT", "A live campaign must be cancelled before it is deleted."
        )
    if state == "scheduled":
        raise NotReady("CAMPAIGN_BUSY", "A scheduled campaign must be unscheduled first.")
    if await tx.one(IS_JUDGED, campaign_id=campaign_id):
        raise NotReady("CAMPAIGN_BUSY", "Models judge answers of it: cancel that scoring first.")
    campaign = await tx.one(DELETE_CAMPAIGN, campaign_id=campaign_id)
    assert campaign is not None
    recording.record(tx, "campaign.delete", "campaign", campaign_id, new={"deleted": True})
    return campaign


async def undelete_campaign(tx: Tx, campaign_id: str) -> Campaign:
    """Brings a campaign back; undeleting one that is not deleted changes nothing."""
    before = await lock_campaign(tx, campaign_id, needed="admin", deleted=True)
    recording.record(
        tx,
        "campaign.undelete",
        "campaign",
        campaign_id,
        old={"deleted": before.HasField("deleted_at")},
        new={"deleted": False},
    )
    if not before.HasField("deleted_at"):
        return await get_campaign(tx, campaign_id)
    try:
        campaign = await tx.one(UNDELETE_CAMPAIGN, campaign_id=campaign_id)
    except UniqueViolation as error:
        raise name_taken(error) from None
    assert campaign is not None
    return campaign


# Calls go on as long as one does.
IS_JUDGED = sql(
    bool,
    """
    SELECT EXISTS (SELECT FROM campaigns.runs
                    WHERE campaign_id = %(campaign_id)s AND scoring_id IS NOT NULL
                      AND state IN ('running', 'paused'))
    """,
)


def _audited(campaign: Campaign) -> dict[str, Any]:
    """What the log keeps of a campaign: the plan by its digest, for it may be megabytes."""
    plan = campaign.plan.SerializeToString(deterministic=True)
    return {
        "name": campaign.name,
        "description": campaign.description,
        "objective": campaign.objective,
        "visibility": enum_text(campaign, "visibility", campaign.visibility) or "",
        "team_id": campaign.team_id,
        "plan_sha256": hashlib.sha256(plan).hexdigest(),
    }
