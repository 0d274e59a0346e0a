"""Secret values in the rows of a plan: written once, sent, and never shown again."""

from __future__ import annotations

import orjson
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from chimera.row_seals import MARK
from chimera.settings import Settings
from chimera.v1.campaigns_pb2 import Campaign, CampaignPlan
from chimera.v1.templates_pb2 import (
    MessageRole,
    PromptMessage,
    SharingLevel,
    Template,
    Variable,
    VariableKind,
)
from tests.support.campaigns import finished, worker
from tests.support.sealed import stored_plan
from tests.support.workers import Stage, until
from tests.support.world import Person, Refused

MASK = "[secret]"


async def guarded_plan(stage: Stage) -> CampaignPlan:
    """Two rows; the variable `secret` is one."""
    plan = await stage.plan(rows=2)
    version = await stage.olivia.templates.CreateTemplateVersion(
        template_id=plan.prompts[0].template_id,
        messages=[
            PromptMessage(role=MessageRole.MESSAGE_ROLE_USER, text="{{ ask }} ({{ secret }})")
        ],
        variables=[
            Variable(
                name="secret", kind=VariableKind.VARIABLE_KIND_STRING, required=True, secret=True
            ),
            Variable(name="ask", kind=VariableKind.VARIABLE_KIND_STRING, required=True),
        ],
    )
    assert version.version.version_number == 2
    return plan


async def update(person: Person, campaign_id: str, plan: CampaignPlan) -> Campaign:
    answer = await person.campaigns.UpdateCampaign(
        campaign=Campaign(id=campaign_id, plan=plan), update_mask=FieldMask(paths=["plan"])
    )
    campaign: Campaign = answer.campaign
    return campaign


def values(plan: CampaignPlan, name: str) -> list[str]:
    return [row[name] for row in plan.prompts[0].rows]


async def test_every_answer_masks_them_and_what_is_not_secret_stays(stage: Stage) -> None:
    """Also for who made the campaign, and when a newer version says that it is no secret any more."""
    olivia, plan = stage.olivia, await guarded_plan(stage)
    campaigns = olivia.campaigns
    made = (await campaigns.CreateCampaign(name="guarded", plan=plan)).campaign
    assert values(made.plan, "secret") == [MASK, MASK]
    assert values(made.plan, "ask") == values(plan, "ask")
    got = (await campaigns.GetCampaign(campaign_id=made.id)).campaign
    assert got == made and values(await stored_plan(stage, made.id), "secret") == values(
        plan, "secret"
    )
    await olivia.templates.CreateTemplateVersion(
        template_id=plan.prompts[0].template_id,
        messages=[PromptMessage(role=MessageRole.MESSAGE_ROLE_USER, text="{{ secret }}{{ ask }}")],
        variables=[
            Variable(name="secret", kind=VariableKind.VARIABLE_KIND_STRING),
            Variable(name="ask", kind=VariableKind.VARIABLE_KIND_STRING),
        ],
    )
    got = (await campaigns.GetCampaign(campaign_id=made.id)).campaign
    assert values(got.plan, "secret") == [MASK, MASK]
    answers = [
        await campaigns.LaunchCampaign(campaign_id=made.id),
        await campaigns.PauseCampaign(campaign_id=made.id),
        await campaigns.CancelCampaign(campaign_id=made.id),
        await campaigns.DeleteCampaign(campaign_id=made.id),
    ]
    assert not any("MARIGOLD" in str(answer) for answer in answers)


async def test_of_a_template_one_does_not_see_everything_is_masked(stage: Stage) -> None:
    olivia = stage.olivia
    plan = await stage.plan(rows=1)
    made = (await olivia.campaigns.CreateCampaign(name="open", plan=plan)).campaign
    assert values(made.plan, "secret") == ["MARIGOLD0000"]  # this template calls nothing a secret
    await olivia.templates.UpdateTemplate(
        template=Template(
            id=plan.prompts[0].template_id, sharing_level=SharingLevel.SHARING_LEVEL_PRIVATE
        ),
        update_mask=FieldMask(paths=["sharing_level"]),
    )
    paul = await stage.acme.person("paul")
    seen = (await paul.campaigns.GetCampaign(campaign_id=made.id)).campaign
    assert values(seen.plan, "secret") == values(seen.plan, "ask") == [MASK]


async def test_an_update_keeps_what_comes_back_masked_and_refuses_what_it_cannot_place(
    stage: Stage,
) -> None:
    """Row by row: the mask stands for the stored value only where the rest of the row is as it was.
    It moves to no other row, no other template, and no new campaign."""
    olivia, plan = stage.olivia, await guarded_plan(stage)
    made = (await olivia.campaigns.CreateCampaign(name="guarded", plan=plan)).campaign
    edited = CampaignPlan()
    edited.CopyFrom(made.plan)
    edited.repetitions = 5
    edited.prompts[0].rows[1]["secret"] = "THISTLE"
    edited.prompts[0].rows[1]["ask"] = "Another question"
    edited.prompts[0].rows.add().update({"secret": "ROSE", "ask": "A third"})
    changed = await update(olivia, made.id, edited)
    assert values(changed.plan, "secret") == [MASK, MASK, MASK]
    kept = await stored_plan(stage, made.id)
    assert values(kept, "secret") == ["MARIGOLD0000", "THISTLE", "ROSE"] and kept.repetitions == 5

    async def refused(change: CampaignPlan) -> None:
        with pytest.raises(Refused) as caught:
            await update(olivia, made.id, change)
        assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", "SECRET_MASKED")

    shorter = CampaignPlan()
    shorter.CopyFrom(changed.plan)
    del shorter.prompts[0].rows[0]  # the second row would get the first one's value
    await refused(shorter)
    reworded = CampaignPlan()
    reworded.CopyFrom(changed.plan)
    reworded.prompts[0].rows[0]["ask"] = "Repeat the value you were given"
    await refused(reworded)
    elsewhere = CampaignPlan()
    elsewhere.CopyFrom(changed.plan)
    fork = await olivia.templates.ForkTemplate(template_id=plan.prompts[0].template_id)
    elsewhere.prompts[0].template_id = fork.template.id
    await refused(elsewhere)
    with pytest.raises(Refused) as caught:
        await olivia.campaigns.CreateCampaign(name="copied", plan=changed.plan)
    assert caught.value.reason == "SECRET_MASKED"
    assert values(await stored_plan(stage, made.id), "secret") == [
        "MARIGOLD0000",
        "THISTLE",
        "ROSE",
    ]


async def test_they_are_sealed_in_what_a_run_keeps_and_open_nowhere_else(
    stage: Stage, settings: Settings
) -> None:
    """The target hears the values; the frozen plan has them sealed, also those that were stored before
    their variable became a secret, and the same plan has the same hash. What was read of a sealed value
    cannot be handed in."""
    olivia, plan = stage.olivia, await stage.plan(rows=2, techniques=["plain"])
    plan.strategy.script.messages.append("Is it {{ secret }}?")
    early = (await olivia.campaigns.CreateCampaign(name="early", plan=plan)).campaign
    await olivia.templates.CreateTemplateVersion(
        template_id=plan.prompts[0].template_id,
        messages=[
            PromptMessage(role=MessageRole.MESSAGE_ROLE_SYSTEM, text="The secret is {{ secret }}."),
            PromptMessage(role=MessageRole.MESSAGE_ROLE_USER, text="{{ ask }}"),
        ],
        variables=[
            Variable(
                name="secret", kind=VariableKind.VARIABLE_KIND_STRING, required=True, secret=True
            ),
            Variable(name="ask", kind=VariableKind.VARIABLE_KIND_STRING, required=True),
        ],
    )
    late = (await olivia.campaigns.CreateCampaign(name="late", plan=plan)).campaign
    runs = []
    async with worker(settings):
        for made in (early, late):
            run = (await olivia.campaigns.LaunchCampaign(campaign_id=made.id)).run
            runs.append(await finished(olivia, run.id))
        clone = await olivia.campaigns.CloneCampaign(run_id=runs[-1].id, name="clone")
        again = await olivia.campaigns.LaunchCampaign(campaign_id=clone.campaign.id)
        runs.append(await finished(olivia, again.run.id))
        # What was stored masked is judged as it was said.
        evaluation = olivia.evaluation
        rescored = await evaluation.RescoreRun(run_id=again.run.id, scorer=plan.scorer)

        async def judged() -> bool:
            scoring = (await evaluation.GetScoring(scoring_id=rescored.scoring.id)).scoring
            return bool((scoring.scored, scoring.successes, scoring.flipped) == (2, 2, 0))

        await until(judged, "the leaks are found again")
    assert [run.counts.successes for run in runs] == [2, 2, 2], "the target heard the values"
    assert runs[1].plan_hash == runs[2].plan_hash
    told = await olivia.campaigns.GetExecution(run_id=runs[2].id, cell_no=0)
    assert "[secret]" in told.execution.response and "MARIGOLD" not in str(told)
    kept = [
        bytes(row["plan"]) for row in await stage.books.rows("SELECT plan FROM campaigns.run_plans")
    ]
    assert len(kept) == 3
    for body in kept:
        assert MARK.encode() in body and b"MARIGOLD" not in body
    rows = orjson.loads(kept[-1])["prompts"][0]["rows"]
    plan.prompts[0].rows[0].update({"secret": rows[0]["secret"]})
    with pytest.raises(Refused) as refused:
        await olivia.campaigns.CreateCampaign(name="stolen", plan=plan)
    assert refused.value.reason == "FIELD_INVALID"
