"""Clones, and campaigns that are put away."""

from __future__ import annotations

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from chimera.v1.campaigns_pb2 import (
    Campaign,
    CampaignPlan,
    CampaignState,
    TechniqueChain,
    TechniqueStep,
)
from chimera.v1.suites_pb2 import Suite
from chimera.v1.templates_pb2 import MessageRole, PromptMessage, Variable, VariableKind
from tests.support.datasets import fill, filled_dataset
from tests.support.sealed import stored_plan
from tests.support.workers import Stage
from tests.support.world import Refused

BASE64 = TechniqueChain(steps=[TechniqueStep(technique="base64")])


async def refusal(awaitable: object) -> str:
    with pytest.raises(Refused) as caught:
        await awaitable  # type: ignore[misc]  # a call of a stub
    return caught.value.reason


async def test_a_clone_of_a_run_repeats_its_very_versions(stage: Stage) -> None:
    """Newest template, newest dataset, newest suite: the clone of the campaign follows them, the clone
    of the run makes the same plan again, to the hash."""
    olivia, plan = stage.olivia, await stage.plan(rows=1)
    campaigns, template_id = olivia.campaigns, plan.prompts[0].template_id
    row = {"secret": "MARIGOLD", "ask": "What is it?"}
    dataset_id = await filled_dataset(olivia, [row])
    del plan.prompts[0].rows[:]
    plan.prompts[0].dataset_id = dataset_id
    suite = (await olivia.suites.CreateSuite(name="ours", chains=[BASE64])).suite
    del plan.techniques[:]
    plan.techniques.add(steps=[TechniqueStep(technique="plain")])
    plan.suites.add(suite_id=suite.id)
    run = await stage.launched(plan)
    await campaigns.CancelCampaign(campaign_id=run.campaign_id)

    await olivia.templates.CreateTemplateVersion(
        template_id=template_id,
        messages=[PromptMessage(role=MessageRole.MESSAGE_ROLE_USER, text="{{ ask }}{{ secret }}")],
        variables=[Variable(name=name, kind=VariableKind.VARIABLE_KIND_STRING) for name in row],
    )
    await fill(olivia, dataset_id, [row, row])
    await olivia.suites.UpdateSuite(
        suite=Suite(
            id=suite.id, chains=[BASE64, TechniqueChain(steps=[TechniqueStep(technique="hex")])]
        ),
        update_mask=FieldMask(paths=["chains"]),
    )

    exact = (await campaigns.CloneCampaign(run_id=run.id, name="exact")).campaign
    assert exact.state == CampaignState.CAMPAIGN_STATE_DRAFT and exact.id != run.campaign_id
    again = (await campaigns.LaunchCampaign(campaign_id=exact.id)).run
    # Of the suite only its name and number are missing: its chains are the plan's own now.
    assert (again.cells_total, list(again.technique_names)) == (2, ["plain", "base64"])
    facts = await stage.books.rows(
        "SELECT convert_from(plan, 'UTF8')::jsonb - 'suites' AS facts FROM campaigns.run_plans"
    )
    assert facts[0] == facts[1]
    loose = (await campaigns.CloneCampaign(campaign_id=run.campaign_id, name="loose")).campaign
    newest = (await campaigns.LaunchCampaign(campaign_id=loose.id)).run
    assert (newest.cells_total, len(newest.technique_names)) == (6, 3)


async def test_a_clone_is_its_makers_with_what_they_change(stage: Stage) -> None:
    """Name and chosen parts of the plan; secrets come along unseen, other people's keys do not."""
    olivia, plan = stage.olivia, await stage.plan(rows=2)
    template_id = plan.prompts[0].template_id
    await olivia.templates.CreateTemplateVersion(
        template_id=template_id,
        messages=[PromptMessage(role=MessageRole.MESSAGE_ROLE_USER, text="{{ ask }}{{ secret }}")],
        variables=[
            Variable(
                name="secret", kind=VariableKind.VARIABLE_KIND_STRING, required=True, secret=True
            ),
            Variable(name="ask", kind=VariableKind.VARIABLE_KIND_STRING, required=True),
        ],
    )
    key = (await olivia.providers.ListProviderKeys()).provider_keys[0]
    plan.targets[0].provider_key_id = key.id
    made = (
        await olivia.campaigns.CreateCampaign(name="first", objective="find leaks", plan=plan)
    ).campaign
    paul = await stage.acme.person("paul")
    clone = paul.campaigns.CloneCampaign
    copied = (
        await clone(
            campaign_id=made.id,
            name="second",
            plan=CampaignPlan(repetitions=9, techniques=[BASE64]),
            plan_mask=FieldMask(paths=["repetitions", "techniques"]),
        )
    ).campaign
    assert (copied.objective, copied.created_by) == ("find leaks", paul.user_id)
    assert copied.plan.repetitions == 9 and len(copied.plan.techniques) == 1
    assert copied.plan.seed == plan.seed and copied.plan.targets[0].provider_key_id == ""
    assert {row["secret"] for row in copied.plan.prompts[0].rows} == {"[secret]"}
    kept = (await stored_plan(stage, copied.id)).prompts[0].rows
    assert [row["secret"] for row in kept] == ["MARIGOLD0000", "MARIGOLD0001"]
    await olivia.campaigns.UpdateCampaign(
        campaign=Campaign(id=made.id, visibility=1), update_mask=FieldMask(paths=["visibility"])
    )
    await olivia.collaboration.ShareCampaign(
        campaign_id=made.id, permission="CAMPAIGN_LEVEL_VIEW", user_id=paul.user_id
    )
    assert await refusal(clone(campaign_id=made.id, name="to look in")) == "SECRET_MASKED"
    await olivia.campaigns.UpdateCampaign(
        campaign=Campaign(id=made.id, visibility=3), update_mask=FieldMask(paths=["visibility"])
    )
    taken = clone(campaign_id=made.id, name="FIRST")
    assert await refusal(taken) == "CAMPAIGN_NAME_TAKEN"
    unknown = clone(campaign_id=made.id, name="x", plan_mask=FieldMask(paths=["state"]))
    assert await refusal(unknown) == "UPDATE_MASK_INVALID"
    bad = clone(
        campaign_id=made.id,
        name="x",
        plan=CampaignPlan(techniques=[TechniqueChain(steps=[TechniqueStep(technique="magic")])]),
        plan_mask=FieldMask(paths=["techniques"]),
    )
    assert await refusal(bad) == "TECHNIQUE_UNKNOWN"
    assert await refusal(clone(name="x")) == "FIELD_INVALID"  # of nothing
    run = (await olivia.campaigns.LaunchCampaign(campaign_id=made.id)).run
    await olivia.templates.DeleteTemplate(template_id=template_id)
    gone = clone(run_id=run.id, name="too late")
    assert await refusal(gone) == "RUN_NOT_REPEATABLE"
    other = (
        await clone(
            run_id=run.id,
            name="other prompts",
            plan=CampaignPlan(),
            plan_mask=FieldMask(paths=["prompts"]),
        )
    ).campaign
    assert not other.plan.prompts and len(other.plan.techniques) == 2


async def test_what_is_put_away_is_read_and_cloned_and_nothing_else(stage: Stage) -> None:
    olivia = stage.olivia
    campaigns = olivia.campaigns
    made = (await campaigns.CreateCampaign(name="old", plan=await stage.plan(rows=1))).campaign
    run = (await campaigns.LaunchCampaign(campaign_id=made.id)).run
    assert await refusal(campaigns.ArchiveCampaign(campaign_id=made.id)) == "CAMPAIGN_BUSY"
    await campaigns.CancelCampaign(campaign_id=made.id)
    stale = campaigns.ArchiveCampaign(campaign_id=made.id, etag=made.etag)
    assert await refusal(stale) == "ETAG_MISMATCH"
    archived = (await campaigns.ArchiveCampaign(campaign_id=made.id)).campaign
    assert archived.state == CampaignState.CAMPAIGN_STATE_ARCHIVED
    assert not (await campaigns.ListCampaigns()).campaigns
    listed = (await campaigns.ListCampaigns(state=CampaignState.CAMPAIGN_STATE_ARCHIVED)).campaigns
    assert [campaign.id for campaign in listed] == [made.id]
    assert (await campaigns.GetRun(run_id=run.id)).run.id == run.id
    assert (await campaigns.CloneCampaign(run_id=run.id, name="again")).campaign.name == "again"
    assert await refusal(campaigns.LaunchCampaign(campaign_id=made.id)) == "CAMPAIGN_NOT_DRAFT"
    assert await refusal(campaigns.RerunFailed(run_id=run.id)) == "CAMPAIGN_BUSY"
    changed = campaigns.UpdateCampaign(
        campaign=Campaign(id=made.id, plan=CampaignPlan()), update_mask=FieldMask(paths=["plan"])
    )
    assert await refusal(changed) == "CAMPAIGN_NOT_DRAFT"
    back = (await campaigns.UnarchiveCampaign(campaign_id=made.id)).campaign
    assert back.state == CampaignState.CAMPAIGN_STATE_CANCELLED
    again = campaigns.UnarchiveCampaign(campaign_id=made.id)
    assert await refusal(again) == "CAMPAIGN_NOT_ARCHIVED"
    draft = (await campaigns.CreateCampaign(name="draft")).campaign
    await campaigns.ArchiveCampaign(campaign_id=draft.id)
    back = (await campaigns.UnarchiveCampaign(campaign_id=draft.id)).campaign
    assert back.state == CampaignState.CAMPAIGN_STATE_DRAFT
    actions = await stage.books.actions(draft.id)
    assert {"campaign.archive", "campaign.unarchive"} <= set(actions)
