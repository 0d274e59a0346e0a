"""Limits that stop a run by itself: nothing new is sent, what is in flight is recorded, every other cell
counts as skipped; exact also when several workers send and some of them die."""

from __future__ import annotations

from typing import Any

import pytest

from chimera.v1.campaigns_pb2 import CampaignState, ExecutionState, Run, RunState, StopReason
from tests.support.campaigns import finished, launched, results_of
from tests.support.workers import Stage, until
from tests.support.world import Refused


async def standing(stage: Stage, run_id: str) -> dict[str, Any]:
    rows = await stage.books.rows(
        "SELECT * FROM campaigns.run_money WHERE run_id = %(run_id)s", run_id=run_id
    )
    return rows[0]


async def check_stopped(stage: Stage, run: Run, reason: Any) -> None:
    """The books hold, nothing is in flight or held, and every cell is a result or skipped."""
    assert run.stop_reason == reason
    assert run.state_reason
    await stage.books.check(run.id)
    assert not await stage.books.attempts(run.id, "sent")
    money = await standing(stage, run.id)
    assert (money["held"], money["tokens_held"]) == (0, 0)
    recorded = await stage.books.recorded(run.id)
    assert run.counts.recorded == len(recorded) == money["cells_recorded"]
    assert run.counts.recorded + run.counts.skipped == run.cells_total
    assert run.shards_done == run.shards_total
    assert len(set(recorded)) <= money["cells_begun"]


async def skipped_of(stage: Stage, run_id: str, **chosen: Any) -> list[Any]:
    found: list[Any] = []
    token = ""
    while True:
        page = await stage.olivia.campaigns.ListExecutions(
            run_id=run_id,
            state=ExecutionState.EXECUTION_STATE_SKIPPED,
            page_size=150,
            page_token=token,
            **chosen,
        )
        found += page.executions
        token = page.next_page_token
        if not token:
            return found


async def test_executions_and_tokens_are_never_exceeded(stage: Stage) -> None:
    """Two runs on three workers, one of which is killed with calls in flight: one records exactly as
    many cells as it may, the other takes no more tokens than it may and nearly all of them. What they
    left out is listed, in no rate, and no part of a comparison."""
    plan = await stage.plan(rows=100, repetitions=2, concurrency=12)
    await stage.assistant.slow(20)
    plan.limits.executions_max = 150
    workers = [stage.worker() for _ in range(3)]
    counted = await stage.launched(plan, "counted")
    plan.limits.executions_max = 0
    plan.limits.tokens_max = 20_000
    metered = await launched(stage.olivia, plan, "metered")
    await stage.results(counted.id, 30)
    await workers[0].kill()

    over = await stage.over(counted.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await check_stopped(stage, over, StopReason.STOP_REASON_EXECUTIONS)
    assert (over.counts.recorded, over.counts.skipped) == (150, 250)
    watched = await finished(stage.olivia, counted.id)
    assert watched.counts == over.counts
    results = await results_of(stage.olivia, counted.id)
    skipped = await skipped_of(stage, counted.id)
    cells = [result.cell_no for result in results] + [cell.cell_no for cell in skipped]
    assert sorted(cells) == list(range(400))
    assert [cell.cell_no for cell in skipped] == sorted(cell.cell_no for cell in skipped)
    encoded = await skipped_of(stage, counted.id, technique_no=1)
    assert encoded == [cell for cell in skipped if cell.technique_applied == "base64"] != []
    one = (
        await stage.olivia.campaigns.GetExecution(run_id=counted.id, cell_no=skipped[0].cell_no)
    ).execution
    assert one == skipped[0]
    assert one.state == ExecutionState.EXECUTION_STATE_SKIPPED
    summary = await stage.olivia.campaigns.GetRunSummary(run_id=counted.id)
    assert summary.overall.scored + summary.overall.failed == 150
    analysed = (await stage.olivia.analytics.AnalyseRun(run_id=counted.id)).total.figures
    assert (analysed.results, analysed.scored) == (150, over.counts.scored)

    over = await stage.over(metered.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await check_stopped(stage, over, StopReason.STOP_REASON_TOKENS)
    money = await standing(stage, metered.id)
    worst = max(attempt["worst_tokens"] for attempt in await stage.books.attempts(metered.id))
    assert 20_000 - worst < money["tokens_settled"] <= 20_000
    assert over.counts.input_tokens + over.counts.output_tokens <= money["tokens_settled"]
    assert 0 < over.counts.recorded < 400


async def test_time_counts_while_it_runs(stage: Stage) -> None:
    """An hour is allowed. A pause of two hours takes nothing of it; two hours of running end the run,
    which records what is in flight and cannot be changed any more."""
    plan = await stage.plan(rows=200, concurrency=4, wall_time_s=3600)
    await stage.assistant.slow(20)
    stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 8)
    await stage.olivia.campaigns.PauseCampaign(campaign_id=run.campaign_id)
    earlier = (
        "WITH e AS (UPDATE campaigns.runs SET running_since = running_since - interval '2 hours' "
        "WHERE id = %(run_id)s RETURNING 1) SELECT count(*) FROM e"
    )
    await stage.books.value(earlier, run_id=run.id)
    await stage.olivia.campaigns.ResumeCampaign(campaign_id=run.campaign_id)
    await stage.results(run.id, len(await stage.books.recorded(run.id)) + 8)
    await stage.assistant.heal()
    await stage.assistant.slow(12_000)

    async def slow_ones_fly() -> bool:
        return bool((await stage.assistant.stats())["in_flight"] == 4)

    await until(slow_ones_fly, "four slow calls fly")
    await stage.books.value(earlier, run_id=run.id)

    async def stopping() -> Run | None:
        now = await stage.run(run.id)
        return now if now.stop_reason else None

    now = await until(stopping, "the run stops")
    assert now.state == RunState.RUN_STATE_RUNNING
    with pytest.raises(Refused) as refused:
        await stage.olivia.campaigns.TuneRun(run_id=run.id, wall_time_s=0)
    assert refused.value.reason == "RUN_STOPPING"
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await check_stopped(stage, over, StopReason.STOP_REASON_WALL_TIME)
    assert not await stage.books.attempts(run.id, "unknown")
    arrived = await stage.assistant.arrived(run.id)
    assert sorted(arrived) == await stage.books.recorded(run.id), "what was sent was not recorded"


async def test_errors_and_narrow_intervals_stop_a_run(stage: Stage) -> None:
    """Half of the results may be errors, from ten on: a target that refuses every request fails the
    run. Another run ends when its rate is known well enough."""
    plan = await stage.plan(rows=100, concurrency=4)
    plan.limits.error_share_max = 0.5
    plan.limits.error_cells_min = 10
    await stage.assistant.fault({"kind": "status", "status": 400})
    stage.worker()
    broken = await stage.launched(plan, "broken")
    over = await stage.over(broken.id)
    assert over.state == RunState.RUN_STATE_FAILED
    await check_stopped(stage, over, StopReason.STOP_REASON_ERROR_SHARE)
    assert 10 <= over.counts.failed < 100
    campaign = (await stage.olivia.campaigns.GetCampaign(campaign_id=broken.campaign_id)).campaign
    assert campaign.state == CampaignState.CAMPAIGN_STATE_FAILED

    await stage.assistant.heal()
    plan.limits.ClearField("error_share_max")
    plan.limits.interval_width_max = 0.2
    narrow = await launched(stage.olivia, plan, "narrow")
    over = await stage.over(narrow.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await check_stopped(stage, over, StopReason.STOP_REASON_INTERVAL)
    overall = (await stage.olivia.campaigns.GetRunSummary(run_id=narrow.id)).overall
    assert overall.high - overall.low <= 0.2
    assert over.counts.skipped > 0


async def test_limits_change_while_it_runs(stage: Stage) -> None:
    """Raised before they are reached, lowered below what was begun, and lifted; what nobody could do
    any more is refused."""
    plan = await stage.plan(rows=30, concurrency=2, executions_max=10)
    await stage.assistant.slow(60)
    run = await stage.launched(plan)
    tune = stage.olivia.campaigns.TuneRun
    tuned = (await tune(run_id=run.id, executions_max=30, tokens_max=1_000_000)).run
    assert (tuned.limits.executions_max, tuned.limits.tokens_max) == (30, 1_000_000)
    assert (tuned.limits.concurrency, tuned.limits.error_cells_min) == (2, 20)
    stage.worker()
    await stage.results(run.id, 12)
    await tune(run_id=run.id, executions_max=5, tokens_max=0)
    over = await stage.over(run.id)
    await check_stopped(stage, over, StopReason.STOP_REASON_EXECUTIONS)
    assert 12 <= over.counts.recorded < 30, "what was begun is recorded, and nothing more"
    with pytest.raises(Refused) as refused:
        await tune(run_id=run.id, executions_max=0)
    assert refused.value.reason == "CAMPAIGN_ALREADY_OVER"

    lifted = await launched(stage.olivia, plan, "lifted")
    await tune(run_id=lifted.id, executions_max=0)
    over = await stage.over(lifted.id)
    assert (over.counts.recorded, over.counts.skipped) == (60, 0)
    assert over.stop_reason == StopReason.STOP_REASON_UNSPECIFIED


async def test_a_cancelled_run_is_counted(stage: Stage) -> None:
    """What its templates achieved, its rate and its holds follow what it recorded."""
    plan = await stage.plan(rows=100, concurrency=4)
    await stage.assistant.slow(20)
    doomed = stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 20)
    await stage.olivia.campaigns.CancelCampaign(campaign_id=run.campaign_id)
    await doomed.kill()
    stage.worker()

    async def settled() -> bool:
        usages = await stage.olivia.templates.ListTemplateUsages(
            template_id=plan.prompts[0].template_id
        )
        return bool(usages.usages[0].settled_at.seconds)

    await until(settled, "the usages are settled")
    over = await stage.run(run.id)
    usages = (
        await stage.olivia.templates.ListTemplateUsages(template_id=plan.prompts[0].template_id)
    ).usages
    assert (usages[0].scored_count, usages[0].success_count) == (
        over.counts.scored,
        over.counts.successes,
    )
    campaign = (await stage.olivia.campaigns.GetCampaign(campaign_id=run.campaign_id)).campaign
    assert campaign.success_rate == over.counts.successes / over.counts.scored
    await stage.books.check(run.id)
    assert not await stage.books.attempts(run.id, "sent")
    money = await standing(stage, run.id)
    assert (money["held"], money["tokens_held"]) == (0, 0)
