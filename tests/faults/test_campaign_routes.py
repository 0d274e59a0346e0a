"""Routes as targets: who answers when the first does not, at what cost, and again after a crash."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from chimera.v1.campaigns_pb2 import CampaignPlan, ExecutionState, RunState
from chimera.v1.health_pb2 import CircuitForce
from chimera.v1.routes_pb2 import FallbackCause, RouteStep, RouteStrategy
from tests.support.campaigns import results_of
from tests.support.workers import Stage, until
from tests.support.world import Refused

ORDERED = RouteStrategy.ROUTE_STRATEGY_ORDERED
WEIGHTED = RouteStrategy.ROUTE_STRATEGY_WEIGHTED
NAMES = ("guard-none", "guard-keyword", "guard-strict")


async def routed(
    stage: Stage,
    *,
    names: tuple[str, ...] = NAMES,
    strategy: RouteStrategy = ORDERED,
    steps: list[dict[str, Any]] | None = None,
    **plan: Any,
) -> CampaignPlan:
    """A plan whose only target is a route over models of the assistant."""
    made = await stage.plan(names, **plan)
    more = steps or [{} for _ in names]
    route = await stage.olivia.routes.CreateRoute(
        name="main",
        strategy=strategy,
        steps=[
            RouteStep(model_id=target.model_id, **step)
            for target, step in zip(made.targets, more, strict=True)
        ],
    )
    del made.targets[:]
    made.targets.add(route_id=route.route.id)
    return made


async def used(stage: Stage, run_id: str) -> Counter[str]:
    return Counter(result.model_used for result in await results_of(stage.olivia, run_id))


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "rate_limited", "retry_after_s": 30},
        {"kind": "status", "status": 500},
        {"kind": "hang"},
        {"kind": "cut"},
        {"kind": "status", "status": 401},
    ],
    ids=["429", "500", "timeout", "cut", "401"],
)
async def test_the_second_answers_for_the_first(stage: Stage, fault: dict[str, Any]) -> None:
    """Whatever is wrong with the first model, every cell is scored by the second, the attempts tell
    who was asked, the statistics who answered, and one hold covered both."""
    plan = await routed(stage, rows=20, concurrency=6, provider={"timeout_s": 1})
    await stage.assistant.fault({**fault, "model": "guard-none"})
    stage.worker()
    run = await stage.launched(plan)
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    assert (over.counts.scored, over.counts.failed) == (40, 0)
    await stage.books.check(run.id, cells=40)
    assert await used(stage, run.id) == {"guard-keyword": 40}
    summary = await stage.olivia.campaigns.GetRunSummary(run_id=run.id)
    assert [target.provider for target in summary.by_target] == ["route"]
    assert [(m.model, m.rate.scored) for m in summary.by_model_used] == [("guard-keyword", 40)]
    assert summary.by_model_used[0].rate.cost_usd == summary.overall.cost_usd
    attempts = await stage.books.attempts(run.id)
    assert {a["model_no"] for a in attempts} == {0, 1}
    # Once it was known to be down, nothing but probes went there.
    assert len([a for a in attempts if a["model_no"] == 0 and a["error_kind"] != "not_sent"]) < 30
    for a in attempts:
        assert a["reserve"] == a["worst_cost"] * (2 - a["model_no"])
    moved = next(
        a["cell_no"] for a in attempts if a["model_no"] == 0 and a["error_kind"] != "not_sent"
    )
    story = await stage.olivia.campaigns.GetExecution(run_id=run.id, cell_no=moved)
    went = [a.model_used for a in story.attempts if a.error_kind != "not_sent"]
    assert (went[0], went[-1]) == ("guard-none", "guard-keyword")
    ledger = await stage.books.rows(
        "SELECT m.name, sum(l.cost) AS cost FROM providers.ledger l JOIN providers.models m "
        "ON m.id = l.model_id WHERE l.run_id = %(run_id)s AND NOT l.discarded GROUP BY 1",
        run_id=run.id,
    )
    assert [row["name"] for row in ledger] == ["guard-keyword"]
    assert ledger[0]["cost"] == Decimal(over.counts.cost_usd)


async def test_what_is_wrong_with_the_request_is_wrong_everywhere(stage: Stage) -> None:
    """400 is the cell's end: no other model is asked."""
    plan = await routed(stage, rows=4, techniques=["plain"])
    await stage.assistant.fault(
        {"kind": "status", "status": 400, "model": "guard-none", "contains": "Variant 2."}
    )
    stage.worker()
    run = await stage.launched(plan)
    await stage.over(run.id)
    await stage.books.check(run.id, cells=4)
    failed = [
        (result.cell_no, result.error_kind, result.model_used, result.attempts)
        for result in await results_of(stage.olivia, run.id)
        if result.state == ExecutionState.EXECUTION_STATE_FAILED
    ]
    assert failed == [(2, "bad_request", "guard-none", 1)]
    assert set((await stage.assistant.stats())["calls"]) == {"guard-none"}


async def test_only_the_causes_that_were_named(stage: Stage) -> None:
    """A route that falls back for time limits alone waits out a refusal."""
    plan = await routed(
        stage,
        names=("guard-none", "guard-keyword"),
        steps=[{"fallback_on": [FallbackCause.FALLBACK_CAUSE_TIMEOUT], "timeout_s": 1}, {}],
        rows=6,
        techniques=["plain"],
        concurrency=1,
    )
    await stage.assistant.fault(
        {"kind": "rate_limited", "model": "guard-none", "next": 2, "retry_after_s": 0.1},
        {"kind": "hang", "model": "guard-none", "contains": "Variant 4."},
    )
    stage.worker()
    run = await stage.launched(plan)
    await stage.over(run.id)
    await stage.books.check(run.id, cells=6)
    assert await used(stage, run.id) == {"guard-none": 5, "guard-keyword": 1}


async def test_all_are_down_and_come_back(stage: Stage) -> None:
    """Every model of the route is down, one worker is killed meanwhile: the cells wait, and are
    scored when the last of the chain is back; money held for chains is given back to the last cent."""
    plan = await routed(stage, rows=30, concurrency=8)
    await stage.assistant.fault({"kind": "cut"})
    worker = stage.worker()
    run = await stage.launched(plan)

    async def all_shut() -> bool:
        return len((await stage.run(run.id)).waiting_for) == 3

    await until(all_shut, "three circuits are open")
    await stage.books.check(run.id)
    await worker.kill()
    await stage.assistant.heal()
    await stage.assistant.fault(
        {"kind": "cut", "model": "guard-none"}, {"kind": "cut", "model": "guard-keyword"}
    )
    stage.worker()
    over = await stage.over(run.id)
    assert (over.counts.scored, over.counts.failed) == (60, 0)
    await stage.books.check(run.id, cells=60)
    assert await used(stage, run.id) == {"guard-strict": 60}


async def test_an_open_circuit_is_gone_round_without_a_call(stage: Stage) -> None:
    """Held open by people, the first model gets no call at all; given back, it gets the rest."""
    plan = await routed(stage, names=("guard-none", "guard-keyword"), rows=60, concurrency=4)
    route = (await stage.olivia.routes.GetRoute(route_id=plan.targets[0].route_id)).route
    first = route.steps[0].model_id
    await stage.olivia.health.ForceCircuit(model_id=first, force=CircuitForce.CIRCUIT_FORCE_OPEN)
    await stage.assistant.slow(20)
    stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 20)
    assert set((await stage.assistant.stats())["calls"]) == {"guard-keyword"}
    await stage.olivia.health.ForceCircuit(model_id=first)
    await stage.over(run.id)
    await stage.books.check(run.id, cells=120)
    assert set((await stage.assistant.arrived(run.id)).values()) == {1}
    assert (await used(stage, run.id))["guard-none"] > 20


async def test_weights_can_be_repeated(stage: Stage) -> None:
    """Two runs of one seed choose the same model for every cell, about as often as its weight says;
    another worker takes over half-way and chooses no differently."""
    plan = await routed(
        stage,
        names=("guard-none", "guard-keyword"),
        strategy=WEIGHTED,
        steps=[{"weight": 3}, {"weight": 1}],
        rows=100,
        concurrency=8,
    )
    await stage.assistant.slow(10)
    worker = stage.worker()
    choices = []
    for name in ("first", "second"):
        run = await stage.launched(plan, name)
        if name == "first":
            await stage.results(run.id, 40)
            await worker.kill()
            stage.worker()
        await stage.over(run.id)
        await stage.books.check(run.id, cells=200)
        choices.append([result.model_used for result in await results_of(stage.olivia, run.id)])
    assert choices[0] == choices[1]
    assert 125 <= choices[0].count("guard-none") <= 175


async def test_a_route_is_frozen_at_launch(stage: Stage) -> None:
    """A changed and then deleted route changes nothing for the run; new launches are refused."""
    plan = await routed(stage, names=("guard-none", "guard-keyword"), rows=30, concurrency=2)
    route_id = plan.targets[0].route_id
    route = (await stage.olivia.routes.GetRoute(route_id=route_id)).route
    await stage.assistant.slow(20)
    run = await stage.launched(plan)
    changed = await stage.olivia.routes.UpdateRoute(
        route_id=route_id, strategy=ORDERED, steps=[route.steps[1]], etag=route.etag
    )
    assert changed.route.version_number == 2
    old = await stage.olivia.routes.GetRoute(route_id=route_id, version_number=1)
    assert list(old.route.steps) == list(route.steps)
    with pytest.raises(Refused) as stale:
        await stage.olivia.routes.DeleteRoute(route_id=route_id, etag=route.etag)
    assert stale.value.reason == "ETAG_MISMATCH"
    await stage.olivia.routes.DeleteRoute(route_id=route_id)
    stage.worker()
    await stage.over(run.id)
    assert await used(stage, run.id) == {"guard-none": 60}
    with pytest.raises(Refused) as gone:
        await stage.launched(plan, "again")
    assert gone.value.reason == "ROUTE_NOT_FOUND"


async def test_every_model_of_a_route_must_be_allowed(stage: Stage) -> None:
    """The list of targets and the keys are asked for each step; bad routes and other people's are
    refused."""
    plan = await routed(stage, names=("guard-none", "guard-keyword"))
    route = (await stage.olivia.routes.GetRoute(route_id=plan.targets[0].route_id)).route
    second = route.steps[1].model_id
    await stage.olivia.providers.DisallowTarget(model_id=second)
    with pytest.raises(Refused) as forbidden:
        await stage.launched(plan)
    assert (forbidden.value.reason, forbidden.value.facts["model_id"]) == (
        "TARGET_NOT_ALLOWED",
        second,
    )
    step = RouteStep(model_id=second)
    for steps, strategy in (([step, step], ORDERED), ([step], WEIGHTED)):
        with pytest.raises(Refused) as wrong:
            await stage.olivia.routes.CreateRoute(name="x", strategy=strategy, steps=steps)
        assert wrong.value.reason == "ROUTE_INVALID"
    with pytest.raises(Refused) as taken:
        await stage.olivia.routes.CreateRoute(name="MAIN", strategy=ORDERED, steps=[step])
    assert taken.value.reason == "ROUTE_NAME_TAKEN"
    ivan = (await stage.world.organisation("globex")).admin
    assert not (await ivan.routes.ListRoutes()).routes
    for call in (
        ivan.routes.GetRoute(route_id=route.id),
        ivan.routes.DeleteRoute(route_id=route.id),
        ivan.routes.UpdateRoute(route_id=route.id, strategy=ORDERED, steps=[step]),
    ):
        with pytest.raises(Refused) as foreign:
            await call
        assert foreign.value.reason in ("ROUTE_NOT_FOUND", "MODEL_NOT_FOUND")
    assert [r.name for r in (await stage.olivia.routes.ListRoutes()).routes] == ["main"]


async def test_a_limit_of_money_holds_for_whole_chains(stage: Stage) -> None:
    """The first two models break off (which may have cost): what is booked and held for the chains
    never exceeds the limit, and the run pauses by itself when not one more chain fits."""
    plan = await routed(stage, rows=20, concurrency=8, attempts_max=3, cost_usd_max="0.01")
    await stage.assistant.fault(
        {"kind": "cut", "model": "guard-none", "share": 0.5, "seed": 1},
        {"kind": "cut", "model": "guard-keyword", "share": 0.5, "seed": 2},
    )
    stage.worker()
    run = await stage.launched(plan)

    async def paused() -> bool:
        money = await stage.books.money(run.id)
        assert money.cost_max is not None
        assert money.settled + money.held <= money.cost_max
        return (await stage.run(run.id)).state == RunState.RUN_STATE_PAUSED

    await until(paused, "the run has no money left")
    await stage.books.check(run.id)
    money = await stage.books.money(run.id)
    assert money.held == 0
    assert money.settled > Decimal("0.005")
    await stage.olivia.campaigns.TuneRun(run_id=run.id, cost_usd_max="")
    await stage.olivia.campaigns.ResumeCampaign(campaign_id=run.campaign_id)
    await stage.over(run.id)
    await stage.books.check(run.id, cells=40)


async def test_the_last_model_refuses_its_key(stage: Stage) -> None:
    """The first model is down and the second turns the key away: cells that had moved on to it come
    back to the first and wait for it; none is lost to the refusal but those that were refused."""
    plan = await routed(stage, names=("guard-none", "guard-keyword"), rows=30, concurrency=4)
    await stage.assistant.fault(
        {"kind": "cut", "model": "guard-none"},
        {"kind": "status", "status": 401, "model": "guard-keyword"},
    )
    stage.worker()
    run = await stage.launched(plan)

    async def refused() -> bool:
        attempts = await stage.books.attempts(run.id)
        waiting = (await stage.run(run.id)).waiting_for
        return bool(waiting) and sum(a["error_kind"] == "bad_key" for a in attempts) >= 3

    await until(refused, "the second was given up")
    await stage.assistant.heal()
    over = await stage.over(run.id)
    assert over.counts.recorded == 60
    assert over.counts.failed <= 6
    await stage.books.check(run.id, cells=60)
    assert set(await used(stage, run.id)) <= {"guard-none", "guard-keyword"}


async def test_a_model_that_was_down_long_ago_is_tried_anew(stage: Stage) -> None:
    """A circuit that opened yesterday and was not probed since costs a new run no cell: it probes
    first, and the model is back."""
    plan = await stage.plan(rows=10, concurrency=4)
    await stage.olivia.health.ForceCircuit(model_id=plan.targets[0].model_id)
    await stage.books.rows(
        "UPDATE providers.circuits SET state = 'open', cause = 'timeout', "
        "opened_at = now() - interval '1 day', open_until = now() - interval '1 day' "
        "RETURNING model_id"
    )
    stage.worker()
    run = await stage.launched(plan)
    over = await stage.over(run.id)
    assert (over.counts.scored, over.counts.failed) == (20, 0)
    await stage.books.check(run.id, cells=20)
