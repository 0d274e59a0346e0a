"""Budgets as people set them and as runs meet them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from chimera.v1.budgets_pb2 import BudgetPeriod, BudgetScope, BudgetScopeKind
from chimera.v1.campaigns_pb2 import RunState
from tests.support.accounting import limit, recount, remaining, waiting
from tests.support.campaigns import assistant_models
from tests.support.workers import Stage
from tests.support.world import Refused, World

ORGANISATION = BudgetScope(kind=BudgetScopeKind.BUDGET_SCOPE_KIND_ORGANISATION)
USER = BudgetScope(kind=BudgetScopeKind.BUDGET_SCOPE_KIND_USER)
DAILY, MONTHLY = BudgetPeriod.BUDGET_PERIOD_DAILY, BudgetPeriod.BUDGET_PERIOD_MONTHLY


def of_user(user_id: str) -> BudgetScope:
    return BudgetScope(kind=BudgetScopeKind.BUDGET_SCOPE_KIND_USER, id=user_id)


async def test_people_set_tighter_budgets_for_themselves(world: World) -> None:
    """An administrator's limit is a ceiling; below it, whom it concerns may set a limit of their
    own, and takes only that one away again. Others' budgets are the administrator's business."""
    acme = await world.organisation("acme")
    ursula, victor = await acme.person("ursula"), await acme.person("victor")
    given = await limit(acme.admin, of_user(ursula.user_id), DAILY, cost="5")
    own = await limit(ursula, USER, DAILY, cost="2", requests=10)
    assert own.id == given.id
    assert (own.limits.cost_usd_max, own.own_limits.cost_usd_max) == ("5", "2")
    (left,) = await remaining(ursula)
    assert (left.cost_left_usd, left.requests_left) == ("2", 10)

    with pytest.raises(Refused) as caught:
        await limit(ursula, USER, DAILY, cost="6")
    assert caught.value.reason == "BUDGET_ABOVE_CEILING"
    for scope in (ORGANISATION, of_user(victor.user_id)):
        with pytest.raises(Refused) as caught:
            await limit(ursula, scope, DAILY, cost="1")
        assert caught.value.reason == "BUDGET_NOT_YOURS"
    with pytest.raises(Refused) as caught:
        await victor.budgets.GetBudget(budget_id=own.id)
    assert caught.value.reason == "BUDGET_NOT_FOUND"
    assert not (await victor.budgets.ListBudgets()).budgets

    # Who read it before that sets nothing by it.
    stale = {"scope": USER, "period": DAILY, "limits": own.own_limits, "etag": given.etag}
    with pytest.raises(Refused) as caught:
        await ursula.budgets.SetBudget(**stale)
    assert caught.value.reason == "ETAG_MISMATCH"
    await ursula.budgets.SetBudget(**{**stale, "etag": own.etag})

    await ursula.budgets.DeleteBudget(budget_id=own.id)
    (left,) = await remaining(ursula)
    assert left.cost_left_usd == "5"
    assert not left.HasField("requests_left")
    await acme.admin.budgets.DeleteBudget(budget_id=own.id)
    assert not await remaining(ursula)


async def test_nothing_is_launched_without_budget(stage: Stage) -> None:
    """The refusal is a QuotaFailure that says whose budget it is and when it turns."""
    plan = await stage.plan(rows=2)
    await limit(stage.olivia, ORGANISATION, MONTHLY, requests=0)
    with pytest.raises(Refused) as caught:
        await stage.launched(plan)
    refused = caught.value
    assert (refused.code, refused.reason) == ("RESOURCE_EXHAUSTED", "BUDGET_SPENT")
    quota = next(d for d in refused.details if type(d).__name__ == "QuotaFailure")
    assert quota.violations[0].subject == f"organisation:{stage.acme.id}"
    assert any(type(d).__name__ == "RetryInfo" for d in refused.details)


async def test_a_run_waits_for_its_budget_and_goes_on_when_it_grows(stage: Stage) -> None:
    """Twelve calls a day for forty-eight cells: exactly twelve go out, the run says why it is
    paused, and nothing moves any more. With a larger budget it goes on by itself to the end."""
    plan = await stage.plan(rows=12, repetitions=2, concurrency=8)
    await limit(stage.olivia, ORGANISATION, DAILY, requests=12)
    run = await stage.launched(plan)
    stage.worker()
    waits = await waiting(stage, run.id)
    assert "daily budget of the organisation is spent" in waits.state_reason
    assert (await stage.assistant.arrived(run.id)).total() == 12
    (left,) = await remaining(stage.olivia)
    assert (left.requests_settled, left.requests_held, left.requests_left) == (12, 0, 0)

    await limit(stage.olivia, ORGANISATION, DAILY, requests=1000)
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await stage.books.check(run.id, cells=48)
    await recount(stage)
    (left,) = await remaining(stage.olivia)
    assert left.requests_settled == (await stage.assistant.arrived(run.id)).total() == 48


async def test_money_is_never_overspent_by_worst_case_holds(stage: Stage) -> None:
    """A budget of money: what is settled stays below it, and what was spent is what the ledger says."""
    plan = await stage.plan(rows=12, repetitions=2, concurrency=8)
    await limit(stage.olivia, USER, MONTHLY, cost="0.001")
    run = await stage.launched(plan)
    stage.worker()
    await waiting(stage, run.id)
    (left,) = await remaining(stage.olivia)
    assert Decimal(0) < Decimal(left.cost_settled_usd) <= Decimal("0.001")
    assert Decimal(left.cost_held_usd) == 0
    assert Decimal(left.cost_settled_usd) == (await stage.books.money(run.id)).settled
    await recount(stage)


async def test_a_budget_set_in_flight_knows_of_the_morning(stage: Stage) -> None:
    """Set while a run is at work, it counts what was spent and what is in the air, and stops the
    run at once when that is more than it allows. Taken away, the run goes on."""
    plan = await stage.plan(rows=30, repetitions=2, concurrency=4)
    await stage.assistant.slow(40)
    run = await stage.launched(plan)
    stage.worker()
    await stage.results(run.id, 10)
    budget = await limit(stage.olivia, ORGANISATION, DAILY, requests=5)
    (left,) = await remaining(stage.olivia)
    assert left.requests_settled + left.requests_held >= 10
    assert left.requests_left == 0
    await recount(stage)
    await waiting(stage, run.id)
    sent = (await stage.assistant.arrived(run.id)).total()
    await recount(stage)
    assert sent < 120

    await stage.olivia.budgets.DeleteBudget(budget_id=budget.id)
    assert (await stage.over(run.id)).state == RunState.RUN_STATE_COMPLETED
    await stage.books.check(run.id, cells=120)


async def test_every_scope_holds(stage: Stage) -> None:
    """Organisation, person, API key, provider key, campaign: each alone stops a run at its number."""
    plan = await stage.plan(rows=4, repetitions=2, concurrency=4)
    key = (await stage.olivia.providers.ListProviderKeys()).provider_keys[0]
    api = await stage.olivia.identity.CreateApiKey(name="robot")
    robot = stage.olivia.holding(api.secret)
    kinds = BudgetScopeKind
    stage.worker()
    for number, scope in enumerate(
        (
            ORGANISATION,
            of_user(stage.olivia.user_id),
            BudgetScope(kind=kinds.BUDGET_SCOPE_KIND_API_KEY, id=api.api_key.id),
            BudgetScope(kind=kinds.BUDGET_SCOPE_KIND_PROVIDER_KEY, id=key.id),
            BudgetScope(kind=kinds.BUDGET_SCOPE_KIND_CAMPAIGN),
        )
    ):
        made = await robot.campaigns.CreateCampaign(name=f"campaign {number}", plan=plan)
        before = 0
        if not scope.id and scope.kind == kinds.BUDGET_SCOPE_KIND_CAMPAIGN:
            scope.id = made.campaign.id
        else:
            # What earlier rounds spent counts, for these scopes go over campaigns.
            probe = await limit(stage.olivia, scope, DAILY, requests=1_000_000)
            left = await remaining(stage.olivia)
            before = left[0].requests_settled
            await stage.olivia.budgets.DeleteBudget(budget_id=probe.id)
        budget = await limit(stage.olivia, scope, DAILY, requests=before + 3)
        run = (await robot.campaigns.LaunchCampaign(campaign_id=made.campaign.id)).run
        await waiting(stage, run.id)
        assert (await stage.assistant.arrived(run.id)).total() == 3, scope
        await recount(stage)
        await stage.olivia.campaigns.CancelCampaign(campaign_id=made.campaign.id)
        await stage.olivia.budgets.DeleteBudget(budget_id=budget.id)


async def test_a_waiting_run_obeys_people(stage: Stage) -> None:
    """Paused by hand it does not go on by itself, however much budget there is."""
    plan = await stage.plan(rows=4, concurrency=4)
    await limit(stage.olivia, ORGANISATION, DAILY, requests=3)
    run = await stage.launched(plan)
    stage.worker()
    await waiting(stage, run.id)
    await stage.olivia.campaigns.PauseCampaign(campaign_id=run.campaign_id, reason="lunch")
    await limit(stage.olivia, ORGANISATION, DAILY, requests=1000)
    assert await stage.books.value("SELECT count(*) FROM accounting.waits") == 0
    assert (await stage.run(run.id)).state == RunState.RUN_STATE_PAUSED
    await stage.olivia.campaigns.ResumeCampaign(campaign_id=run.campaign_id)
    assert (await stage.over(run.id)).state == RunState.RUN_STATE_COMPLETED


async def test_the_day_turns(stage: Stage) -> None:
    """A run that waits goes on with the new day, in a window of its own; yesterday's calls stay in
    yesterday's, also what comes back only now."""
    plan = await stage.plan(rows=6, concurrency=4)
    await limit(stage.olivia, ORGANISATION, DAILY, requests=7)
    run = await stage.launched(plan)
    stage.worker()
    await waiting(stage, run.id)
    # It was all a day ago.
    await stage.books.value(
        """
        WITH a AS (UPDATE accounting.windows SET window_start = window_start - 1 RETURNING 1),
             b AS (UPDATE campaigns.attempts SET sent_at = sent_at - interval '1 day' RETURNING 1),
             c AS (UPDATE providers.ledger SET sent_on = sent_on - 1 RETURNING 1),
             d AS (UPDATE accounting.waits SET window_start = window_start - 1,
                          until = until - interval '1 day' RETURNING 1)
        SELECT count(*) FROM d
        """
    )
    assert (await stage.over(run.id)).state == RunState.RUN_STATE_COMPLETED
    rows = await stage.books.rows(
        "SELECT requests_settled, requests_held FROM accounting.windows ORDER BY window_start"
    )
    assert [(row["requests_settled"], row["requests_held"]) for row in rows] == [(7, 0), (5, 0)]
    await recount(stage)


async def test_a_hold_of_yesterday_settles_there(stage: Stage) -> None:
    """Calls are in the air when the day turns: what they held is given back to yesterday. A budget that
    is set only then knows of both days, and tells nobody of yesterday."""
    plan = await stage.plan(rows=8, concurrency=4, techniques=["plain"])
    await limit(stage.olivia, ORGANISATION, DAILY, requests=100)
    await stage.assistant.fault({"kind": "latency", "ms": 1500})
    run = await stage.launched(plan)
    stage.worker()
    await stage.arrivals(run.id, 4)
    held = await stage.books.value("SELECT sum(requests_held) FROM accounting.windows")
    assert held >= 4
    await stage.books.value(
        """
        WITH a AS (UPDATE accounting.windows SET window_start = window_start - 1 RETURNING 1),
             b AS (UPDATE campaigns.attempts SET sent_at = sent_at - interval '1 day' RETURNING 1)
        SELECT count(*) FROM b
        """
    )
    await stage.assistant.heal()
    assert (await stage.over(run.id)).state == RunState.RUN_STATE_COMPLETED
    rows = await stage.books.rows(
        "SELECT requests_settled, requests_held FROM accounting.windows ORDER BY window_start"
    )
    assert sum(row["requests_settled"] for row in rows) == 8
    assert rows[0]["requests_settled"] >= 4
    assert [row["requests_held"] for row in rows] == [0] * len(rows)
    await limit(stage.olivia, USER, DAILY, requests=1)
    await recount(stage)
    mine = await stage.books.rows(
        "SELECT window_start::text, requests_settled FROM accounting.windows"
        " WHERE scope_kind = 'user' ORDER BY window_start"
    )
    assert mine[0]["requests_settled"] == rows[0]["requests_settled"]
    assert len(mine) == 2
    told = (await stage.olivia.alerts.ListAlerts()).alerts
    assert mine[0]["window_start"] not in {alert.window_start for alert in told}


async def test_a_spent_key_does_not_stop_the_others(stage: Stage) -> None:
    """Two providers, one of whose keys may make three calls: the other target is finished, and only
    then does the run wait for the key."""
    plan = await stage.plan(rows=6, concurrency=4, techniques=["plain"])
    key = (await stage.olivia.providers.ListProviderKeys()).provider_keys[0]
    (other,) = await assistant_models(
        stage.olivia, stage.stack.assistant_url, ["guard-keyword"], name="second"
    )
    plan.targets.add(model_id=other)
    scope = BudgetScope(kind=BudgetScopeKind.BUDGET_SCOPE_KIND_PROVIDER_KEY, id=key.id)
    await limit(stage.olivia, scope, DAILY, requests=3)
    run = await stage.launched(plan)
    stage.worker()
    waits = await waiting(stage, run.id)
    assert "daily budget of the provider key is spent" in waits.state_reason
    recorded = await stage.books.recorded(run.id)
    assert len(recorded) == 9 == (await stage.assistant.arrived(run.id)).total()
    assert {cell for cell in range(12) if cell % 2 == 1} <= set(recorded)
    await recount(stage)
