"""Who sees a campaign and all that belongs to it, level by level."""

from __future__ import annotations

from chimera.call import NOBODY
from tests.support.collaboration import (
    NO_CAMPAIGN,
    TOO_LOW,
    Scene,
    changes,
    reads,
    seen_by,
)
from tests.support.library import told


async def test_each_visibility_is_seen_by_exactly_its_people_in_everything(scene: Scene) -> None:
    """By every RPC, and by PostgreSQL itself, table by table: all rows, or none."""
    people, acme = scene.people, scene.acme
    everything = {*reads(people["olivia"], scene), "list"}
    inside = set(people) - {"gus"}
    stages: dict[str, set[str]] = {
        "private": {"olivia", "ada"},
        "team": {"olivia", "ada", "tina"},
        "organisation": inside,
        "public": inside | {"gus"},
    }
    usages = {"template_id": scene.template_id}
    for visibility, readers in stages.items():
        await scene.show(visibility)
        for name, person in people.items():
            expected = everything if name in readers else set()
            assert await seen_by(person, scene) == expected, (visibility, name)
            org_id = "" if name == "gus" else acme.id
            if org_id and name != "ada":
                rows = scene.rows_seen(person, org_id)
                wrong = {
                    table: counts
                    for table, counts in rows.items()
                    if counts[0] != (counts[1] if name in readers else 0)
                }
                assert not wrong, (
                    f"{visibility}, {name}: (seen, there) of {wrong}; a table of a campaign or run"
                    " needs the policy `seen`, see 0030_sharing.sql"
                )
                used = (await person.templates.ListTemplateUsages(**usages)).usages
                assert bool(used) is (name in readers), (visibility, name)
    rows = scene.rows_seen(people["olivia"], acme.id)
    full = {"campaigns", "runs", "run_plans", "run_money", "shards", "attempts", "executions", "flushes",
            "tallies", "overrides", "scorings", "verdicts", "windows", "comments"}  # fmt: skip
    assert full <= {table for table, (_, there) in rows.items() if there}
    await scene.show("private")
    operator = scene.rows_seen(people["gus"], NOBODY, role="operator")
    seen = {table for table, (found, _) in operator.items() if found}
    assert seen == {"runs", "shards", "attempts"}, "operators see that there is work, not what"
    await scene.show("public")
    # What is said inside the organisation stays there.
    gus = people["gus"].collaboration
    assert not (await gus.ListComments(campaign_id=scene.campaign_id)).comments
    assert not (await gus.ListCampaignShares(campaign_id=scene.campaign_id)).shares
    assert (await gus.GetCampaignAccess(campaign_id=scene.campaign_id)).level == 1
    update = people["gus"].campaigns.UpdateCampaign(
        campaign={"id": scene.campaign_id, "name": "his"}, update_mask={"paths": ["name"]}
    )
    assert await told(update) == TOO_LOW


async def test_the_role_must_allow_it_too(draft: Scene) -> None:
    """A viewer with an ADMIN share still changes nothing; an API key only within its scopes."""
    draft.run_id = draft.campaign_id  # nobody gets as far as looking for it
    vera = await draft.acme.person("vera", role="viewer")
    await draft.show("private")
    await draft.share("admin", user_id=vera.user_id)
    denied = ("PERMISSION_DENIED", "PERMISSION_MISSING")
    for name, (level, call) in changes(vera, draft).items():
        if level != "view":
            assert await told(call()) == denied, name
    await vera.campaigns.GetCampaign(campaign_id=draft.campaign_id)
    # A key for reading, of an administrator, does not reach what is private to others.
    key = await draft.acme.admin.identity.CreateApiKey(
        name="read", scopes=["PERMISSION_CAMPAIGN_READ"]
    )
    reader = draft.acme.admin.holding(key.secret)
    get = reader.campaigns.GetCampaign(campaign_id=draft.campaign_id)
    assert await told(get) == NO_CAMPAIGN
    public = {"campaign_id": draft.campaign_id, "is_public": True}
    assert await told(draft.people["olivia"].collaboration.SetCampaignPublic(**public)) == denied
