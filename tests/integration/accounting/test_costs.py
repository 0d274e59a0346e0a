"""What a campaign will cost is told before, and compared with what it did."""

from __future__ import annotations

from decimal import Decimal

import pytest

from chimera.v1.campaigns_pb2 import RunState
from chimera.v1.routes_pb2 import RouteStep, RouteStrategy
from tests.support.workers import Stage
from tests.support.world import Refused


async def test_a_preview_is_kept(stage: Stage) -> None:
    """By technique and target, expected below worst; the sums are the totals; base64 costs more than
    plain; afterwards the actual cost stands beside both, below the worst, and is the ledger's."""
    plan = await stage.plan(["guard-none", "guard-keyword"], rows=3, repetitions=2)
    made = await stage.olivia.campaigns.CreateCampaign(name="dear", plan=plan)
    before = await stage.olivia.costs.PreviewCost(campaign_id=made.campaign.id)
    rows = before.by_technique_and_target
    assert [(row.technique, row.target) for row in rows] == [
        (technique, f"assistant/{model}")
        for technique in ("plain", "base64")
        for model in ("guard-none", "guard-keyword")
    ]
    assert before.totals.cells == 24 == sum(row.cells for row in rows)
    for name in ("cost_usd_expected", "cost_usd_worst"):
        parts = sum(Decimal(getattr(row, name)) for row in rows)
        assert parts == Decimal(getattr(before.totals, name))
    assert 0 < Decimal(before.totals.cost_usd_expected) < Decimal(before.totals.cost_usd_worst)
    assert Decimal(rows[2].cost_usd_expected) > Decimal(rows[0].cost_usd_expected)
    worst = await stage.olivia.campaigns.PreviewCampaign(campaign_id=made.campaign.id)
    assert worst.cost_usd_worst == before.totals.cost_usd_worst

    short = await stage.olivia.costs.PreviewCost(
        campaign_id=made.campaign.id, output_tokens_expected=1
    )
    assert Decimal(short.totals.cost_usd_expected) < Decimal(before.totals.cost_usd_expected)

    run = (await stage.olivia.campaigns.LaunchCampaign(campaign_id=made.campaign.id)).run
    stage.worker()
    assert (await stage.over(run.id)).state == RunState.RUN_STATE_COMPLETED
    after = await stage.olivia.costs.CompareCost(run_id=run.id)
    assert after.totals.cost_usd_expected == before.totals.cost_usd_expected
    assert Decimal(after.totals.cost_usd_actual) == (await stage.books.money(run.id)).settled
    assert after.totals.requests_actual == 24
    for row in after.by_technique_and_target:
        assert 0 < Decimal(row.cost_usd_actual) < Decimal(row.cost_usd_worst)
        assert row.requests_actual == 6


async def test_a_route_is_expected_at_its_first_and_bounded_by_all(stage: Stage) -> None:
    """The estimate is that of the model that is tried first; the worst is that each is tried."""
    plan = await stage.plan(["guard-none", "guard-keyword"], rows=2, techniques=["plain"])
    apart = await stage.olivia.campaigns.CreateCampaign(name="apart", plan=plan)
    singles = await stage.olivia.costs.PreviewCost(campaign_id=apart.campaign.id)
    steps = [RouteStep(model_id=target.model_id) for target in plan.targets]
    route = await stage.olivia.routes.CreateRoute(
        name="main", strategy=RouteStrategy.ROUTE_STRATEGY_ORDERED, steps=steps
    )
    del plan.targets[:]
    plan.targets.add(route_id=route.route.id)
    made = await stage.olivia.campaigns.CreateCampaign(name="routed", plan=plan)
    routed = await stage.olivia.costs.PreviewCost(campaign_id=made.campaign.id)
    (row,) = routed.by_technique_and_target
    assert (row.target, row.cells) == ("route/main", 2)
    assert row.cost_usd_expected == singles.by_technique_and_target[0].cost_usd_expected
    assert row.cost_usd_worst == singles.totals.cost_usd_worst
    run = (await stage.olivia.campaigns.LaunchCampaign(campaign_id=made.campaign.id)).run
    stage.worker()
    await stage.over(run.id)
    after = (await stage.olivia.costs.CompareCost(run_id=run.id)).by_technique_and_target[0]
    assert (after.requests_actual, after.cost_usd_worst) == (2, row.cost_usd_worst)


async def test_strangers_learn_no_costs(stage: Stage) -> None:
    globex = await stage.world.organisation("globex")
    run = await stage.launched(await stage.plan(rows=1))
    for call, reason in (
        (globex.admin.costs.PreviewCost(campaign_id=run.campaign_id), "CAMPAIGN_NOT_FOUND"),
        (globex.admin.costs.CompareCost(run_id=run.id), "RUN_NOT_FOUND"),
    ):
        with pytest.raises(Refused) as caught:
            await call
        assert caught.value.reason == reason
