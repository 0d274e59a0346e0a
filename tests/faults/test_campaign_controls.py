"""People at the controls of a live run: pause, cancel, tune, limit, forbid, across dead workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

from chimera.v1.campaigns_pb2 import CampaignState, RunState
from tests.support.campaigns import results_of
from tests.support.workers import Money, Stage, until

LEASED = "SELECT count(*) FROM campaigns.shards WHERE lease_until > clock_timestamp()"


async def at_rest(stage: Stage) -> None:
    """Waits until no worker holds a shard: nothing can be sent from here on."""

    async def free() -> bool:
        return bool(await stage.books.value(LEASED) == 0)

    await until(free, "the workers let go")


async def test_pause_and_resume_across_a_restart(stage: Stage) -> None:
    """Paused with one worker, resumed with another: nothing is sent between, nothing twice."""
    plan = await stage.plan(rows=20, repetitions=2, concurrency=4)
    await stage.assistant.slow(40)
    worker = stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 10)
    answer = await stage.olivia.campaigns.PauseCampaign(campaign_id=run.campaign_id, reason="lunch")
    assert answer.campaign.state == CampaignState.CAMPAIGN_STATE_PAUSED
    await at_rest(stage)
    assert await worker.terminate() == 0
    assert not await stage.books.attempts(run.id, "sent")
    await stage.books.check(run.id)
    paused = await stage.run(run.id)
    assert (paused.state, paused.state_reason) == (RunState.RUN_STATE_PAUSED, "lunch")
    assert paused.counts.recorded == (await stage.assistant.arrived(run.id)).total() < 80

    stage.worker()
    await stage.olivia.campaigns.ResumeCampaign(campaign_id=run.campaign_id)
    over = await stage.over(run.id)
    assert (over.state, over.state_reason) == (RunState.RUN_STATE_COMPLETED, "")
    await stage.books.check(run.id, cells=80)
    assert set((await stage.assistant.arrived(run.id)).values()) == {1}


async def test_cancel_records_what_is_in_flight(stage: Stage) -> None:
    """What was sent is recorded, the rest is never sent, and nothing stays held."""
    plan = await stage.plan(rows=40, repetitions=2, concurrency=4)
    await stage.assistant.slow(100)
    stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 8)
    await stage.olivia.campaigns.CancelCampaign(campaign_id=run.campaign_id)
    await at_rest(stage)
    over = await stage.run(run.id)
    assert over.state == RunState.RUN_STATE_CANCELLED
    await stage.books.check(run.id)
    assert not await stage.books.attempts(run.id, "sent")
    assert over.counts.recorded == (await stage.assistant.arrived(run.id)).total() < 100


async def test_cancel_after_the_worker_was_lost(stage: Stage) -> None:
    """The worker of a cancelled run is dead and nobody will take its shards over: what it had in
    flight is booked at its worst all the same, and nothing stays held."""
    plan = await stage.plan(rows=40, concurrency=4)
    await stage.assistant.slow(100)
    worker = stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 8)
    await worker.kill()
    in_flight = await stage.books.attempts(run.id, "sent")
    assert in_flight
    await stage.olivia.campaigns.CancelCampaign(campaign_id=run.campaign_id)
    arrived = (await stage.assistant.arrived(run.id)).total()
    stage.worker()

    async def settled() -> bool:
        return not await stage.books.attempts(run.id, "sent")

    await until(settled, "nothing is held any more")
    await stage.books.check(run.id)
    assert (await stage.books.money(run.id)).held == 0
    unknown = await stage.books.attempts(run.id, "unknown")
    assert [a["cell_no"] for a in unknown] == [a["cell_no"] for a in in_flight]
    assert (await stage.assistant.arrived(run.id)).total() == arrived


async def test_tuning_the_concurrency(stage: Stage) -> None:
    """Never more in flight than the limit says, and as much as a new limit says soon after."""
    plan = await stage.plan(rows=100, repetitions=2, concurrency=2)
    await stage.assistant.slow(40)
    stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 10)
    assert (await stage.assistant.stats())["max_in_flight"] <= 2
    await stage.olivia.campaigns.TuneRun(run_id=run.id, concurrency=8)

    async def wide() -> bool:
        return bool((await stage.assistant.stats())["max_in_flight"] == 8)

    await until(wide, "eight calls are in flight")
    await stage.olivia.campaigns.TuneRun(run_id=run.id, concurrency=20)
    over = await stage.over(run.id)
    assert (await stage.assistant.stats())["max_in_flight"] <= 20
    await stage.books.check(run.id, cells=400)
    assert over.concurrency == 20


async def test_two_workers_share_the_concurrency(stage: Stage) -> None:
    """Three places and two workers: together they keep to three."""
    plan = await stage.plan(rows=100, repetitions=2, concurrency=3)
    await stage.assistant.slow(40)
    stage.worker()
    stage.worker()
    run = await stage.launched(plan)

    async def both() -> bool:
        # Lifting a switch that is not set rings for every run; a ring may find the busy one again.
        await stage.olivia.operations.SetKillSwitch(sending_stopped=False, reason="ring")
        owners = "SELECT count(DISTINCT owner) FROM campaigns.shards WHERE lease_until > clock_timestamp()"
        return bool(await stage.books.value(owners) == 2)

    await until(both, "both workers are on it", every_s=0.3)

    async def settled_in() -> bool:
        await stage.assistant.forget_stats()
        return bool((await stage.assistant.stats())["max_in_flight"] <= 3)

    done = len(await stage.books.recorded(run.id))
    await stage.results(run.id, done + 20)
    await until(settled_in, "three in flight")
    await stage.over(run.id)
    assert (await stage.assistant.stats())["max_in_flight"] <= 3
    await stage.books.check(run.id, cells=400)


@asynccontextmanager
async def watching_the_money(stage: Stage, run_id: str) -> AsyncIterator[list[Money]]:
    """Everything that was to be seen of a run's money meanwhile."""
    seen: list[Money] = []

    async def look() -> None:
        while True:
            seen.append(await stage.books.money(run_id))
            await asyncio.sleep(0.005)

    task = asyncio.create_task(look())
    try:
        yield seen
    finally:
        task.cancel()


async def test_the_cost_limit_is_never_exceeded(stage: Stage) -> None:
    """Two workers run into the limit: the run pauses and says why; with a higher one it finishes."""
    plan = await stage.plan(rows=60, repetitions=2, concurrency=8)
    await stage.assistant.slow(10)
    campaign = (await stage.olivia.campaigns.CreateCampaign(name="dear", plan=plan)).campaign
    preview = await stage.olivia.campaigns.PreviewCampaign(campaign_id=campaign.id)
    worst = Decimal(preview.cost_usd_worst)
    plan.limits.cost_usd_max = f"{worst / 40:.12f}"
    limited = (await stage.olivia.campaigns.CreateCampaign(name="limited", plan=plan)).campaign
    stage.worker()
    stage.worker()
    launch = await stage.olivia.campaigns.LaunchCampaign(campaign_id=limited.id)
    run = launch.run
    async with watching_the_money(stage, run.id) as seen:

        async def paused() -> bool:
            return (await stage.run(run.id)).state == RunState.RUN_STATE_PAUSED

        await until(paused, "the run pauses")
        await at_rest(stage)
        held_up = await stage.run(run.id)
        assert held_up.state_reason == "the cost limit is reached"
        assert 0 < held_up.counts.recorded < 240
        await stage.books.check(run.id)
        got = await stage.olivia.campaigns.GetCampaign(campaign_id=limited.id)
        assert got.campaign.state == CampaignState.CAMPAIGN_STATE_PAUSED

        await stage.olivia.campaigns.TuneRun(run_id=run.id, cost_usd_max=f"{worst:.12f}")
        await stage.olivia.campaigns.ResumeCampaign(campaign_id=limited.id)
        over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await stage.books.check(run.id, cells=240)
    assert any(money.held > 0 for money in seen)
    for money in seen:
        assert money.cost_max is not None
        assert money.settled + money.held <= money.cost_max


async def test_a_limit_set_while_calls_are_in_flight(stage: Stage) -> None:
    """A run without a limit gets one: what was in flight by then counts."""
    plan = await stage.plan(rows=60, repetitions=2, concurrency=8)
    await stage.assistant.slow(30)
    stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 20)
    booked = Decimal((await stage.run(run.id)).counts.booked_usd)
    await stage.olivia.campaigns.TuneRun(run_id=run.id, cost_usd_max=f"{booked * 3:.12f}")
    async with watching_the_money(stage, run.id) as seen:

        async def paused() -> bool:
            return (await stage.run(run.id)).state == RunState.RUN_STATE_PAUSED

        await until(paused, "the run pauses")
        await at_rest(stage)
    await stage.books.check(run.id)
    assert all(money.held >= 0 for money in seen)
    assert seen[-1].settled <= booked * 3


async def test_the_kill_switch(stage: Stage) -> None:
    """Nothing goes out any more soon after it is thrown, and the run goes on when it is lifted."""
    plan = await stage.plan(rows=40, concurrency=4)
    await stage.assistant.slow(100)
    stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 8)
    await stage.olivia.operations.SetKillSwitch(sending_stopped=True, reason="an incident")
    before = (await stage.assistant.arrived(run.id)).total()
    await at_rest(stage)
    stopped = await stage.run(run.id)
    after = (await stage.assistant.arrived(run.id)).total()
    assert stopped.state == RunState.RUN_STATE_RUNNING
    assert stopped.counts.recorded == after <= before + 12
    await stage.books.check(run.id)

    await stage.olivia.operations.SetKillSwitch(sending_stopped=False, reason="it is over")
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await stage.books.check(run.id, cells=80)
    assert set((await stage.assistant.arrived(run.id)).values()) == {1}


async def test_a_target_is_forbidden_under_a_run(stage: Stage) -> None:
    """Of two targets one is taken off the list: its cells fail with the reason, unsent, the other's
    are scored; the cost limit has nothing to do with it."""
    plan = await stage.plan(
        ["guard-none", "guard-strict"], rows=40, concurrency=4, cost_usd_max="100"
    )
    await stage.assistant.slow(50)
    stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 10)
    forbidden = plan.targets[1].model_id
    await stage.olivia.providers.DisallowTarget(model_id=forbidden)
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await stage.books.check(run.id, cells=160)
    results = await results_of(stage.olivia, run.id)
    refused = [result for result in results if result.error_kind]
    assert {result.error_kind for result in refused} == {"target_not_allowed"}
    assert {result.model_used for result in refused} == {"guard-strict"}
    assert 40 < len(refused) < 80
    calls = (await stage.assistant.stats())["calls"]
    assert calls["guard-none"] == 80
    assert calls["guard-strict"] == 80 - len(refused)


async def test_the_only_target_is_forbidden(stage: Stage) -> None:
    """Then nothing can be scored any more; what was scored before stands."""
    plan = await stage.plan(rows=40, concurrency=4, cost_usd_max="100")
    await stage.assistant.slow(50)
    stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 10)
    await stage.olivia.providers.DisallowTarget(model_id=plan.targets[0].model_id)
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    assert over.counts.scored >= 10
    assert over.counts.scored + over.counts.failed == 80
    await stage.books.check(run.id, cells=80)
