"""From a template to verified results, through the public API."""

from __future__ import annotations

from decimal import Decimal

from chimera.embedded.stack import StackUrls
from chimera.settings import Settings
from chimera.v1.campaigns_pb2 import CampaignState, ExecutionState, RunState
from tests.support.campaigns import (
    assistant_models,
    finished,
    launched,
    results_of,
    secret_plan,
    secret_template,
    worker,
)
from tests.support.world import World


async def test_a_campaign_runs_to_its_end(
    world: World, stack: StackUrls, settings: Settings
) -> None:
    """Olivia's campaign of 2 x 2 x 2 x 3 cells completes, and its counters equal a recount."""
    acme = await world.organisation("acme")
    olivia = acme.admin
    models = await assistant_models(olivia, stack.assistant_url, ["guard-none", "guard-strict"])
    plan = secret_plan(await secret_template(olivia), models, repetitions=3)

    async with worker(settings):
        run = await launched(olivia, plan)
        over = await finished(olivia, run.id)

    assert over.state == RunState.RUN_STATE_COMPLETED
    assert over.counts.recorded == over.cells_total == 24
    results = await results_of(olivia, run.id)
    assert [result.cell_no for result in results] == list(range(24))
    assert all(r.state == ExecutionState.EXECUTION_STATE_SUCCEEDED for r in results)
    assert over.counts.successes == sum(r.is_successful for r in results)
    assert Decimal(over.counts.cost_usd) == sum(Decimal(r.cost_usd) for r in results) > 0
    assert over.counts.booked_usd == over.counts.cost_usd
    by_model = {
        model: {
            r.is_successful
            for r in results
            if r.model_used == model and r.technique_applied == "plain"
        }
        for model in ("guard-none", "guard-strict")
    }
    assert by_model == {"guard-none": {True}, "guard-strict": {False}}
    campaign = (await olivia.campaigns.GetCampaign(campaign_id=run.campaign_id)).campaign
    assert campaign.state == CampaignState.CAMPAIGN_STATE_COMPLETED
    assert campaign.success_rate == over.counts.successes / over.counts.scored
