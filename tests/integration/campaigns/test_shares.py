"""What each share of a campaign allows, until it ends or is taken back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from chimera.settings import Settings
from chimera.v1.collaboration_pb2 import CampaignLevel
from tests.support.campaigns import finished, worker
from tests.support.collaboration import (
    LEVELS,
    NO_CAMPAIGN,
    TOO_LOW,
    Scene,
    allowed,
    changes,
    seen_by,
)
from tests.support.library import ask, told
from tests.support.world import Refused


async def test_each_share_allows_exactly_its_level(scene: Scene) -> None:
    """To a person and to a team, on a private campaign. Changing a share changes what it allows, and
    taking it back takes everything, at once."""
    await scene.show("private")
    peter, tom = scene.people["peter"], scene.people["tom"]
    takes = {name: level for name, (level, _) in changes(peter, scene).items()}
    assert await allowed(peter, scene) == set()
    for number, level in enumerate(LEVELS, start=1):
        share = await scene.share(level, user_id=peter.user_id)
        expected = {name for name, least in takes.items() if LEVELS.index(least) < number}
        assert await allowed(peter, scene) == expected, level
        held = (await peter.collaboration.GetCampaignAccess(campaign_id=scene.campaign_id)).level
        assert CampaignLevel.Name(held) == f"CAMPAIGN_LEVEL_{level.upper()}"
        assert share.shared_by == scene.people["olivia"].user_id and share.HasField("shared_at")
        await scene.share(level, team_id=scene.other_team)
        assert await allowed(tom, scene) == expected, f"team, {level}"
    assert await allowed(scene.people["ada"], scene) == set(takes), "an administrator may all"

    shared = (await peter.campaigns.ListCampaigns(shared_with_me=True)).campaigns
    assert [campaign.id for campaign in shared] == [scene.campaign_id]
    assert not (await scene.people["olivia"].campaigns.ListCampaigns(shared_with_me=True)).campaigns
    shares = (await peter.collaboration.ListCampaignShares(campaign_id=scene.campaign_id)).shares
    by_user = {share.user_id: share.id for share in shares}
    taking = {"campaign_id": scene.campaign_id, "share_id": by_user[peter.user_id]}
    await peter.collaboration.UnshareCampaign(**taking)
    assert await seen_by(peter, scene) == set()
    assert await allowed(peter, scene) == set()
    again = scene.people["olivia"].collaboration.UnshareCampaign(**taking)
    assert await told(again) == ("NOT_FOUND", "SHARE_NOT_FOUND")
    actions = ask(
        scene.world,
        """
        SELECT facts->>'action', count(*) FROM audit.pending
         WHERE facts->>'action' IN ('campaign.share', 'campaign.unshare', 'campaign.label', 'comment.create')
         GROUP BY 1
        """,
    )
    # Five levels, twice; and Peter, Tom and Ada as admins shared it with Tina.
    assert dict(actions)["campaign.share"] >= 13
    assert {"campaign.unshare", "campaign.label", "comment.create"} <= dict(actions).keys()


async def test_a_share_ends_at_its_moment_also_in_the_middle(scene: Scene) -> None:
    """An expired share is no share: nothing is seen, nothing done, and whoever leaves the team has
    lost what the team sees. Nobody is given what nobody is."""
    await scene.show("private")
    peter, tom, olivia = (scene.people[name] for name in ("peter", "tom", "olivia"))
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    share = {"campaign_id": scene.campaign_id, "permission": CampaignLevel.CAMPAIGN_LEVEL_EXECUTE}
    await olivia.collaboration.ShareCampaign(**share, user_id=peter.user_id, expires_at=tomorrow)
    await olivia.collaboration.ShareCampaign(**share, team_id=scene.other_team)
    assert len(await seen_by(peter, scene)) == len(await seen_by(tom, scene)) > 15
    # A day later.
    ask(
        scene.world,
        "UPDATE campaigns.shares SET expires_at = now() - interval '1 second' WHERE user_id IS NOT NULL",
    )
    assert await seen_by(peter, scene) == await allowed(peter, scene) == set()
    assert not any(found for found, _ in scene.rows_seen(peter, scene.acme.id).values())
    ask(scene.world, "DELETE FROM identity.team_members WHERE user_id = %(id)s", id=tom.user_id)
    assert await seen_by(tom, scene) == await allowed(tom, scene) == set()

    bad = ("INVALID_ARGUMENT", "FIELD_INVALID")
    past = datetime.now(UTC) - timedelta(days=1)
    gus = scene.people["gus"].user_id
    for whom in (
        {"user_id": peter.user_id, "expires_at": past},
        {"user_id": gus},
        {"team_id": scene.campaign_id},
        {},
        {"user_id": peter.user_id, "team_id": scene.other_team},
    ):
        assert await told(olivia.collaboration.ShareCampaign(**share, **whom)) == bad, whom
    for fields, answer in (
        ({"visibility": "CAMPAIGN_VISIBILITY_PUBLIC"}, bad),
        ({"visibility": "CAMPAIGN_VISIBILITY_TEAM"}, bad),
        ({"visibility": "CAMPAIGN_VISIBILITY_PRIVATE", "team_id": scene.team}, bad),
        (
            {"visibility": "CAMPAIGN_VISIBILITY_TEAM", "team_id": scene.other_team},
            ("NOT_FOUND", "TEAM_NOT_FOUND"),
        ),
    ):
        made = olivia.campaigns.CreateCampaign(name="senseless", **fields)
        assert await told(made) == answer, fields


async def test_the_books_count_what_is_not_shared_any_more(
    draft: Scene, settings: Settings
) -> None:
    """Peter launched a campaign that was taken from him: he sees nothing of it, and his usage, his
    budget and the reconciliation know of every call."""
    olivia, peter, admin = draft.people["olivia"], draft.people["peter"], draft.acme.admin
    await draft.show("private")
    share = await draft.share("execute", user_id=peter.user_id)
    async with worker(settings):
        run = (await peter.campaigns.LaunchCampaign(campaign_id=draft.campaign_id)).run
        await finished(peter, run.id)
    await olivia.collaboration.UnshareCampaign(campaign_id=draft.campaign_id, share_id=share.id)
    assert await told(peter.campaigns.GetRun(run_id=run.id)) == ("NOT_FOUND", "RUN_NOT_FOUND")
    assert (await peter.usage.QueryUsage()).totals.requests == 4
    budget = {"scope": {"kind": 2}, "period": 1, "limits": {"requests_max": 100}}
    await peter.budgets.SetBudget(**budget)
    remaining = (await peter.budgets.GetRemaining()).remaining
    assert [one.requests_settled for one in remaining] == [4]
    for person in (admin, peter):
        try:
            books = await person.usage.ReconcileUsage()
        except Refused as refused:
            assert person is peter and refused.reason == "PERMISSION_MISSING"
        else:
            assert not books.discrepancies and books.compared


async def test_what_is_deleted_stays_shared_and_comes_back_so(draft: Scene) -> None:
    """Only admins of it delete and bring back; other organisations see no deleted campaign."""
    olivia, peter, gus = (draft.people[name] for name in ("olivia", "peter", "gus"))
    campaign = {"campaign_id": draft.campaign_id}
    await draft.share("execute", user_id=peter.user_id)
    assert await told(peter.campaigns.DeleteCampaign(**campaign)) == TOO_LOW
    await draft.show("public")
    await gus.campaigns.GetCampaign(**campaign)
    await olivia.campaigns.DeleteCampaign(**campaign)
    assert await told(gus.campaigns.GetCampaign(**campaign)) == NO_CAMPAIGN
    for filters in ({}, {"shared_with_me": True}):
        assert not (await peter.campaigns.ListCampaigns(**filters)).campaigns
        assert (await peter.campaigns.ListCampaigns(**filters, show_deleted=True)).campaigns
    for gone in (
        peter.campaigns.PauseCampaign(**campaign),
        peter.collaboration.LabelCampaign(**campaign, add=["x"]),
        peter.collaboration.CreateComment(**campaign, text="gone?"),
        olivia.collaboration.ShareCampaign(**campaign, user_id=peter.user_id, permission=1),
    ):
        assert await told(gone) == NO_CAMPAIGN
    assert await told(peter.campaigns.UndeleteCampaign(**campaign)) == TOO_LOW
    await olivia.campaigns.UndeleteCampaign(**campaign)
    shared = (await peter.campaigns.ListCampaigns(shared_with_me=True)).campaigns
    assert [one.id for one in shared] == [draft.campaign_id]
    await gus.campaigns.GetCampaign(**campaign)
