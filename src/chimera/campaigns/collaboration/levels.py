"""What the caller may do with a campaign. PostgreSQL knows (campaigns.own_level); here is how to ask."""

from __future__ import annotations

from typing import Literal, cast

from chimera.db import Tx, sql
from chimera.faults import Denied, Invalid, NotFound, Violation
from chimera.v1.campaigns_pb2 import CampaignVisibility

Level = Literal["view", "comment", "edit", "execute", "admin"]
LEVELS: tuple[Level, ...] = ("view", "comment", "edit", "execute", "admin")

OWN_LEVEL = sql(str, "SELECT campaigns.own_level(%(campaign_id)s::uuid)")


async def find_level(tx: Tx, campaign_id: str) -> Level | None:
    """None when the caller does not see the campaign."""
    return cast(Level | None, await tx.one(OWN_LEVEL, campaign_id=campaign_id))


async def check_level(tx: Tx, campaign_id: str, needed: Level) -> None:
    """Raises NotFound(CAMPAIGN_NOT_FOUND), Denied(CAMPAIGN_LEVEL_TOO_LOW)."""
    held = await find_level(tx, campaign_id)
    if held is None:
        raise NotFound("CAMPAIGN_NOT_FOUND", "There is no such campaign.")
    if LEVELS.index(held) < LEVELS.index(needed):
        raise Denied(
            "CAMPAIGN_LEVEL_TOO_LOW",
            f"That takes {needed.upper()} on the campaign, and you have {held.upper()};"
            " ask whoever made it, or an administrator.",
            facts={"needed": needed, "held": held},
        )


OWN_TEAM = sql(bool, "SELECT %(team_id)s::uuid = ANY (identity.own_teams()) AS mine")


async def is_own_team(tx: Tx, team_id: str) -> bool:
    """Whether the caller belongs to it."""
    mine = await tx.one(OWN_TEAM, team_id=team_id)
    return bool(mine)


async def check_visibility(tx: Tx, visibility: int, team_id: str) -> None:
    """A team goes with its visibility, and is one of the caller's. Raises Invalid(FIELD_INVALID),
    NotFound(TEAM_NOT_FOUND)."""
    if visibility == CampaignVisibility.CAMPAIGN_VISIBILITY_PUBLIC:
        raise bad_field("visibility", "is opened to everybody by SetCampaignPublic alone")
    if (visibility == CampaignVisibility.CAMPAIGN_VISIBILITY_TEAM) is not bool(team_id):
        raise bad_field("team_id", "goes with the visibility team, and only with it")
    if team_id and not await is_own_team(tx, team_id):
        raise NotFound("TEAM_NOT_FOUND", "You are in no such team.")


def bad_field(field: str, message: str) -> Invalid:
    violation = Violation(field, message, "FIELD_INVALID")
    return Invalid("FIELD_INVALID", f"{field}: {message}", violations=[violation])
