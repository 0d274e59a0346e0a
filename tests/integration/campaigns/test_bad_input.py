"""What a campaign refuses: each with a published reason, and nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from chimera.v1.campaigns_pb2 import Campaign, CampaignPlan
from chimera.v1.errors_pb2 import ErrorReason
from tests.support.campaigns import assistant_models, secret_plan, secret_template
from tests.support.workers import Stage
from tests.support.world import Refused

WRITTEN = """
    SELECT (SELECT count(*) FROM campaigns.runs) + (SELECT count(*) FROM campaigns.run_plans)
         + (SELECT count(*) FROM campaigns.run_money) + (SELECT count(*) FROM campaigns.shards)
         + (SELECT count(*) FROM ops.outbox)
         + (SELECT count(*) FROM campaigns.campaigns WHERE state <> 'draft')
"""


async def refused(awaitable: Any) -> tuple[str, str]:
    """(code, reason), which must be a published one."""
    with pytest.raises(Refused) as caught:
        await awaitable
    assert f"ERROR_REASON_{caught.value.reason}" in ErrorReason.keys()  # noqa: SIM118  # no dict
    return caught.value.code, caught.value.reason


def unknown_model(plan: CampaignPlan) -> None:
    plan.targets[0].model_id = str(uuid4())


def unknown_template(plan: CampaignPlan) -> None:
    plan.prompts[0].template_id = str(uuid4())


def unknown_version(plan: CampaignPlan) -> None:
    plan.prompts[0].version_number = 99


def unknown_key(plan: CampaignPlan) -> None:
    plan.targets[0].provider_key_id = str(uuid4())


def missing_variable(plan: CampaignPlan) -> None:
    del plan.prompts[0].rows[1]["ask"]


def unknown_variable(plan: CampaignPlan) -> None:
    plan.prompts[0].rows[1]["surprise"] = "!"


def ill_typed_variable(plan: CampaignPlan) -> None:
    plan.prompts[0].rows[1]["ask"] = 7


def too_much_text(plan: CampaignPlan) -> None:
    plan.prompts[0].rows[1]["ask"] = "x" * 300_000


def no_prompts(plan: CampaignPlan) -> None:
    del plan.prompts[:]


def no_techniques(plan: CampaignPlan) -> None:
    del plan.techniques[:]


def no_targets(plan: CampaignPlan) -> None:
    del plan.targets[:]


def no_scorer(plan: CampaignPlan) -> None:
    plan.ClearField("scorer")


def too_many_cells(plan: CampaignPlan) -> None:
    plan.repetitions = 10_000
    row = plan.prompts[0].rows[0]
    for _ in range(600):
        plan.prompts[0].rows.add().CopyFrom(row)


AT_LAUNCH: list[tuple[Callable[[CampaignPlan], None], str]] = [
    (unknown_model, "MODEL_NOT_FOUND"),
    (unknown_template, "TEMPLATE_NOT_FOUND"),
    (unknown_version, "TEMPLATE_VERSION_NOT_FOUND"),
    (unknown_key, "PROVIDER_KEY_NOT_FOUND"),
    (missing_variable, "VARIABLE_MISSING"),
    (unknown_variable, "VARIABLE_UNKNOWN"),
    (ill_typed_variable, "VARIABLE_ILL_TYPED"),
    (too_much_text, "OUTPUT_TOO_LARGE"),
    (no_prompts, "PLAN_EMPTY"),
    (no_techniques, "PLAN_EMPTY"),
    (no_targets, "PLAN_EMPTY"),
    (no_scorer, "PLAN_EMPTY"),
    (too_many_cells, "PLAN_TOO_LARGE"),
]


@pytest.mark.parametrize("spoil, reason", AT_LAUNCH, ids=[spoil.__name__ for spoil, _ in AT_LAUNCH])
async def test_plans_that_cannot_be_launched(
    stage: Stage, spoil: Callable[[CampaignPlan], None], reason: str
) -> None:
    """Preview and launch refuse alike, and the campaign is still a draft."""
    plan = await stage.plan(rows=2)
    spoil(plan)
    campaigns = stage.olivia.campaigns
    made = (await campaigns.CreateCampaign(name="campaign", plan=plan)).campaign
    assert (await refused(campaigns.PreviewCampaign(campaign_id=made.id)))[1] == reason
    assert (await refused(campaigns.LaunchCampaign(campaign_id=made.id)))[1] == reason
    assert await stage.books.value(WRITTEN) == 0


def unknown_technique(plan: CampaignPlan) -> None:
    plan.techniques[0].steps[0].technique = "telepathy"


def bad_technique_parameter(plan: CampaignPlan) -> None:
    plan.techniques[0].steps[0].params["loudness"] = 11


def two_chains_of_one_name(plan: CampaignPlan) -> None:
    plan.techniques[1].CopyFrom(plan.techniques[0])


def unknown_scorer(plan: CampaignPlan) -> None:
    plan.scorer.kind = "tea_leaves"


def bad_scorer_parameter(plan: CampaignPlan) -> None:
    plan.scorer.params["canary"] = 7


def bad_money(plan: CampaignPlan) -> None:
    plan.limits.cost_usd_max = "-1"


def not_an_id(plan: CampaignPlan) -> None:
    plan.targets[0].model_id = "guard-none"


AT_CREATION: list[tuple[Callable[[CampaignPlan], None], str]] = [
    (unknown_technique, "TECHNIQUE_UNKNOWN"),
    (bad_technique_parameter, "TECHNIQUE_PARAMETER_INVALID"),
    (two_chains_of_one_name, "TECHNIQUE_PARAMETER_INVALID"),
    (unknown_scorer, "SCORER_UNKNOWN"),
    (bad_scorer_parameter, "SCORER_PARAMETER_INVALID"),
    (bad_money, "FIELD_INVALID"),
    (not_an_id, "FIELD_INVALID"),
]


@pytest.mark.parametrize(
    "spoil, reason", AT_CREATION, ids=[spoil.__name__ for spoil, _ in AT_CREATION]
)
async def test_plans_that_make_no_sense(
    stage: Stage, spoil: Callable[[CampaignPlan], None], reason: str
) -> None:
    """Refused before anything is stored, and as an update of a good draft, which stays as it was."""
    plan = await stage.plan(rows=2)
    campaigns = stage.olivia.campaigns
    good = (await campaigns.CreateCampaign(name="good", plan=plan)).campaign
    spoil(plan)
    creation = campaigns.CreateCampaign(name="bad", plan=plan)
    assert await refused(creation) == ("INVALID_ARGUMENT", reason)
    update = campaigns.UpdateCampaign(
        campaign=Campaign(id=good.id, plan=plan), update_mask=FieldMask(paths=["plan"])
    )
    assert await refused(update) == ("INVALID_ARGUMENT", reason)
    assert (await campaigns.GetCampaign(campaign_id=good.id)).campaign == good
    assert await stage.books.value("SELECT count(*) FROM campaigns.campaigns") == 1


async def test_targets_that_may_not_be_used(stage: Stage) -> None:
    """Off the list, without a key, and while all sending is stopped."""
    plan = await stage.plan(rows=2)
    campaigns = stage.olivia.campaigns
    campaign = (await campaigns.CreateCampaign(name="campaign", plan=plan)).campaign
    await stage.olivia.operations.SetKillSwitch(sending_stopped=True, reason="an incident")
    launch = campaigns.LaunchCampaign
    stopped = await refused(launch(campaign_id=campaign.id))
    assert stopped == ("FAILED_PRECONDITION", "SENDING_STOPPED")
    await stage.olivia.operations.SetKillSwitch(sending_stopped=False, reason="over")
    await stage.olivia.providers.DisallowTarget(model_id=plan.targets[0].model_id)
    forbidden = await refused(launch(campaign_id=campaign.id))
    assert forbidden == ("FAILED_PRECONDITION", "TARGET_NOT_ALLOWED")
    await stage.olivia.providers.AllowTarget(model_id=plan.targets[0].model_id)
    provider = (await stage.olivia.providers.ListProviders()).providers[0]
    away = {"id": provider.id, "base_url": provider.base_url.replace("127.0.0.1", "localhost")}
    back = {"id": provider.id, "base_url": provider.base_url}
    move, to_there = stage.olivia.providers.UpdateProvider, {"paths": ["base_url"]}
    await move(provider=away, update_mask=to_there)
    moved = await refused(launch(campaign_id=campaign.id))
    assert moved == ("FAILED_PRECONDITION", "PROVIDER_ADDRESS_CHANGED")
    await move(provider=back, update_mask=to_there)
    await stage.books.value(
        "WITH d AS (DELETE FROM providers.provider_keys RETURNING 1) SELECT count(*) FROM d"
    )
    keyless = await refused(launch(campaign_id=campaign.id))
    assert keyless == ("FAILED_PRECONDITION", "PROVIDER_KEY_MISSING")
    written = "SELECT count(*) FROM campaigns.runs"
    assert await stage.books.value(written) == 0


async def test_states_that_do_not_fit(stage: Stage) -> None:
    """Pausing a draft, launching twice, resuming what runs, changing what is frozen, ending what is
    over."""
    plan = await stage.plan(rows=2)
    campaigns = stage.olivia.campaigns
    campaign_id = (await campaigns.CreateCampaign(name="campaign", plan=plan)).campaign.id
    code = "FAILED_PRECONDITION"
    assert await refused(campaigns.PauseCampaign(campaign_id=campaign_id)) == (
        code,
        "CAMPAIGN_NOT_RUNNING",
    )
    assert await refused(campaigns.CancelCampaign(campaign_id=campaign_id)) == (
        code,
        "CAMPAIGN_ALREADY_OVER",
    )
    run = (await campaigns.LaunchCampaign(campaign_id=campaign_id)).run
    assert await refused(campaigns.LaunchCampaign(campaign_id=campaign_id)) == (
        code,
        "CAMPAIGN_NOT_DRAFT",
    )
    assert await refused(campaigns.ResumeCampaign(campaign_id=campaign_id)) == (
        code,
        "CAMPAIGN_NOT_PAUSED",
    )
    change = campaigns.UpdateCampaign(
        campaign=Campaign(id=campaign_id, plan=plan), update_mask=FieldMask(paths=["plan"])
    )
    assert await refused(change) == (code, "CAMPAIGN_NOT_DRAFT")
    await campaigns.CancelCampaign(campaign_id=campaign_id)
    assert await refused(campaigns.TuneRun(run_id=run.id, concurrency=3)) == (
        code,
        "CAMPAIGN_ALREADY_OVER",
    )
    assert await refused(campaigns.CancelCampaign(campaign_id=campaign_id)) == (
        code,
        "CAMPAIGN_ALREADY_OVER",
    )
    assert (await stage.run(run.id)).concurrency == 16


async def test_updates_that_are_refused(stage: Stage) -> None:
    """A stale etag and masks that name nothing, or something that is not there to be changed."""
    campaigns = stage.olivia.campaigns
    draft = (await campaigns.CreateCampaign(name="draft")).campaign
    renamed = Campaign(id=draft.id, name="renamed")
    mask = FieldMask(paths=["name"])
    await campaigns.UpdateCampaign(campaign=renamed, update_mask=mask, etag=draft.etag)
    stale = campaigns.UpdateCampaign(campaign=renamed, update_mask=mask, etag=draft.etag)
    assert await refused(stale) == ("ABORTED", "ETAG_MISMATCH")
    for paths in ([], ["state"], ["name", "plan.limits"], ["*"]):
        update = campaigns.UpdateCampaign(campaign=renamed, update_mask=FieldMask(paths=paths))
        assert await refused(update) == ("INVALID_ARGUMENT", "UPDATE_MASK_INVALID")
    taken = campaigns.CreateCampaign(name="RENAMED")
    assert await refused(taken) == ("ALREADY_EXISTS", "CAMPAIGN_NAME_TAKEN")


async def test_another_organisation_sees_nothing(stage: Stage) -> None:
    """Every RPC that names a campaign or a run answers a stranger as if there were none."""
    plan = await stage.plan(rows=2)
    campaign_id = (await stage.olivia.campaigns.CreateCampaign(name="mine", plan=plan)).campaign.id
    run_id = (await stage.olivia.campaigns.LaunchCampaign(campaign_id=campaign_id)).run.id
    ivan = (await stage.world.organisation("globex")).admin
    for rpc in (
        "GetCampaign",
        "DeleteCampaign",
        "UndeleteCampaign",
        "PreviewCampaign",
        "LaunchCampaign",
        "PauseCampaign",
        "ResumeCampaign",
        "CancelCampaign",
        "ListRuns",
    ):
        answer = await refused(getattr(ivan.campaigns, rpc)(campaign_id=campaign_id))
        assert answer == ("NOT_FOUND", "CAMPAIGN_NOT_FOUND"), rpc
    for rpc in ("GetRun", "GetRunSummary", "ListExecutions", "TuneRun"):
        answer = await refused(getattr(ivan.campaigns, rpc)(run_id=run_id))
        assert answer == ("NOT_FOUND", "RUN_NOT_FOUND"), rpc
    answer = await refused(ivan.campaigns.TuneRun(run_id=run_id, cost_usd_max="0.01"))
    assert answer == ("NOT_FOUND", "RUN_NOT_FOUND")
    assert (await stage.books.money(run_id)).cost_max is None
    answer = await refused(ivan.campaigns.GetExecution(run_id=run_id, cell_no=0))
    assert answer == ("NOT_FOUND", "RUN_NOT_FOUND")
    assert not (await ivan.campaigns.ListCampaigns()).campaigns

    async def watch() -> None:
        async for _ in ivan.campaigns.WatchRun(run_id=run_id):
            pass

    assert await refused(watch()) == ("NOT_FOUND", "RUN_NOT_FOUND")
    # Nor may a stranger send to somebody else's model with somebody else's template and key.
    theirs = (await ivan.campaigns.CreateCampaign(name="theirs", plan=plan)).campaign.id
    assert (await refused(ivan.campaigns.LaunchCampaign(campaign_id=theirs)))[0] == "NOT_FOUND"
    models = await assistant_models(ivan, stage.stack.assistant_url, ["guard-none"])
    borrowed = secret_plan(await secret_template(ivan), models)
    borrowed.targets[0].provider_key_id = await stage.books.value(
        "SELECT id::text FROM providers.provider_keys ORDER BY id LIMIT 1"
    )
    made = (await ivan.campaigns.CreateCampaign(name="borrowed", plan=borrowed)).campaign.id
    answer = await refused(ivan.campaigns.LaunchCampaign(campaign_id=made))
    assert answer == ("NOT_FOUND", "PROVIDER_KEY_NOT_FOUND")


async def test_pages_and_messages_that_cannot_be_read(stage: Stage) -> None:
    """Malformed page tokens, tokens of another question, and messages beyond the limit."""
    campaigns = stage.olivia.campaigns
    for name in ("one", "two", "three"):
        await campaigns.CreateCampaign(name=name)
    token = (await campaigns.ListCampaigns(page_size=1)).next_page_token
    assert len((await campaigns.ListCampaigns(page_size=5, page_token=token)).campaigns) == 2
    for bad in ("garbage", token[:-3], token + "AAAA", "\N{SNOWMAN}"):
        answer = await refused(campaigns.ListCampaigns(page_token=bad))
        assert answer == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    other = campaigns.ListCampaigns(page_token=token, show_deleted=True)
    assert await refused(other) == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    too_long = campaigns.CreateCampaign(name="x" * 201)
    assert await refused(too_long) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    plan = await stage.plan(rows=1)
    plan.prompts[0].rows[0]["ask"] = "x" * 9_000_000
    with pytest.raises(Refused) as caught:  # gRPC itself refuses it, before any of our code
        await campaigns.CreateCampaign(name="huge", plan=plan)
    assert caught.value.code == "RESOURCE_EXHAUSTED"
    assert await stage.books.value("SELECT count(*) FROM campaigns.campaigns") == 3
