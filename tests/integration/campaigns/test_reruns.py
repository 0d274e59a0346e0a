"""Only what failed is sent again, and a run with its reruns is read as one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chimera.audit.report import Verdict
from chimera.audit.sealer import Sealer
from chimera.campaigns.evidence.verify import verify_evidence
from chimera.core import open_core
from chimera.v1.campaigns_pb2 import ExecutionState, RunState
from tests.support.campaigns import (
    assistant_models,
    finished,
    results_of,
    secret_plan,
    secret_template,
    worker,
)
from tests.support.workers import Stage, until
from tests.support.world import Refused

FAILED = ExecutionState.EXECUTION_STATE_FAILED
SUCCEEDED = ExecutionState.EXECUTION_STATE_SUCCEEDED


async def refusal(awaitable: Any) -> str:
    with pytest.raises(Refused) as caught:
        await awaitable
    return caught.value.reason


async def test_a_line_of_reruns_ends_with_every_cell_scored_once(
    stage: Stage, tmp_path: Any
) -> None:
    """Scattered cells fail, some fail again, a third run gets the rest. The plan's hash and the cell
    numbers stay; each run sends only what it should; the merged summary equals a recount; rate, use of
    the template and evidence go with it."""
    olivia = stage.olivia
    campaigns = olivia.campaigns
    plan = await stage.plan(rows=30, techniques=("plain", "base64"), repetitions=2, attempts_max=1)
    for text in ("Variant 3", "Variant 11.", "Variant 27."):  # as the target sees it: plain only
        await stage.assistant.fault({"kind": "status", "status": 400, "contains": text})
    first = await stage.launched(plan)
    assert await refusal(campaigns.RerunFailed(run_id=first.id)) == "RUN_NOT_OVER"
    async with worker(stage.settings):
        await finished(olivia, first.id)
        bad = [r.cell_no for r in await results_of(olivia, first.id) if r.state == FAILED]
        assert bad == [12, 13, 44, 45, 108, 109]
        await stage.assistant.forget()
        await stage.assistant.fault({"kind": "status", "status": 400, "contains": "Variant 27."})
        second = (await campaigns.RerunFailed(run_id=first.id)).run
        await finished(olivia, second.id)
        assert (second.cells_total, second.origin_run_id) == (6, first.id)
        assert second.plan_hash == first.plan_hash
        assert await stage.books.recorded(second.id) == bad
        assert sorted(await stage.assistant.arrived(second.id)) == bad
        parked_only = campaigns.RerunFailed(
            run_id=second.id, states=[ExecutionState.EXECUTION_STATE_PARKED]
        )
        assert await refusal(parked_only) == "NOTHING_TO_RERUN"
        await stage.assistant.forget()
        answer = await campaigns.RerunFailed(run_id=second.id, states=[FAILED])
        third = answer.run
        assert answer.campaign.run_id == third.id
        over = await finished(olivia, third.id)
        assert over.state == RunState.RUN_STATE_COMPLETED

        async def used() -> bool:
            usages = await olivia.templates.ListTemplateUsages(
                template_id=plan.prompts[0].template_id
            )
            return [usage.scored_count for usage in usages.usages] == [120]

        await until(used, "the use of the template counts the whole line")
    assert await stage.books.recorded(third.id) == [108, 109]
    for run_id in (first.id, second.id, third.id):
        await stage.books.check(run_id)

    merged = await campaigns.GetRunSummary(run_id=third.id, include_origins=True)
    assert list(merged.run_ids) == [third.id, second.id, first.id]
    latest: dict[int, Any] = {}
    for run_id in (first.id, second.id, third.id):
        latest |= {result.cell_no: result for result in await results_of(olivia, run_id)}
    successes = sum(result.is_successful for result in latest.values())
    assert (merged.overall.scored, merged.overall.failed) == (120, 0)
    assert merged.overall.successes == successes
    assert sum(rate.rate.scored for rate in merged.by_technique) == 120
    by_cell = {(r.technique_no, r.target_no): r.rate for r in merged.by_technique_and_target}
    assert by_cell[(0, 0)].scored == by_cell[(1, 0)].scored == 60
    assert by_cell[(0, 0)].latency_ms_p95 >= by_cell[(0, 0)].latency_ms_p50 > 0
    alone = await campaigns.GetRunSummary(run_id=third.id)
    assert (alone.overall.scored, list(alone.run_ids)) == (2, [third.id])
    campaign = (await campaigns.GetCampaign(campaign_id=first.campaign_id)).campaign
    assert campaign.success_rate == successes / 120

    async with open_core(stage.settings, "sealer") as core:
        await Sealer(core).run_once(1)
    key = (await olivia.audit.GetCheckpoint()).verifier_key
    archive = tmp_path / "third.zip"
    pieces = olivia.evaluation.ExportEvidence(run_id=third.id)
    archive.write_bytes(b"".join([piece.data async for piece in pieces]))
    report = verify_evidence(archive, [key])
    assert (report.verdict, report.scored) == (Verdict.VERIFIED, 2), report.reason
    assert await refusal(campaigns.RerunFailed(run_id=third.id)) == "NOTHING_TO_RERUN"


async def test_what_a_cancelled_run_never_sent_counts_as_skipped(stage: Stage) -> None:
    """Some cells are recorded when the run is cancelled: the rerun sends exactly the others, untouched
    shards as the ranges they were. Of two reruns at once one starts."""
    olivia = stage.olivia
    campaigns = olivia.campaigns
    await stage.assistant.slow(20)
    run = await stage.launched(
        await stage.plan(rows=100, techniques=("plain", "base64"), concurrency=2)
    )
    async with worker(stage.settings):
        await stage.results(run.id, 5)
        await campaigns.CancelCampaign(campaign_id=run.campaign_id)
        await stage.assistant.heal()
    done = await stage.books.recorded(run.id)
    assert 5 <= len(done) < 64
    answers = await asyncio.gather(
        *(campaigns.RerunFailed(run_id=run.id) for _ in range(2)), return_exceptions=True
    )
    started = [answer for answer in answers if not isinstance(answer, BaseException)]
    told = [answer.reason for answer in answers if isinstance(answer, Refused)]
    assert len(started) == 1 and told[0] in ("CAMPAIGN_BUSY", "CONFLICT_TRY_AGAIN")
    again = started[0].run
    assert (again.cells_total, again.prompt_count) == (200 - len(done), 100)
    shards = await stage.books.rows(
        "SELECT first_cell, cells FROM campaigns.shards WHERE run_id = %(id)s AND wanted IS NULL"
        " AND first_cell >= 64 ORDER BY first_cell",
        id=again.id,
    )
    assert [tuple(shard.values()) for shard in shards] == [(64, 64), (128, 64), (192, 8)]
    async with worker(stage.settings):
        await finished(olivia, again.id)
    recorded = await stage.books.recorded(again.id)
    assert sorted(done + recorded) == list(range(200))
    await stage.books.check(again.id)


async def test_what_a_limit_left_out_is_sent_by_reruns_until_nothing_is_left(stage: Stage) -> None:
    """A run that ends with its limit of executions leaves cells without rows. A rerun has the limits of
    its origin, and what it skips in turn is listed as its own, never a cell that it was not to send."""
    olivia = stage.olivia
    campaigns = olivia.campaigns
    plan = await stage.plan(rows=70, techniques=("plain", "base64"), executions_max=60)
    run = await stage.launched(plan)
    seen: set[int] = set()
    async with worker(stage.settings):
        over = await finished(olivia, run.id)
        for skipped in (80, 20):
            assert (over.counts.recorded, over.counts.skipped) == (60, skipped)
            recorded = set(await stage.books.recorded(over.id))
            assert not recorded & seen
            seen |= recorded
            listed = (
                await campaigns.ListExecutions(
                    run_id=over.id, state=ExecutionState.EXECUTION_STATE_SKIPPED, page_size=200
                )
            ).executions
            assert {one.cell_no for one in listed} == set(range(140)) - seen
            nothing = campaigns.RerunFailed(run_id=over.id, states=[FAILED])
            assert await refusal(nothing) == "NOTHING_TO_RERUN"
            again = (await campaigns.RerunFailed(run_id=over.id)).run
            assert again.cells_total == skipped
            over = await finished(olivia, again.id)
    assert (over.counts.recorded, over.counts.skipped, over.stop_reason) == (20, 0, 0)
    assert set(await stage.books.recorded(over.id)) == set(range(140)) - seen
    merged = await campaigns.GetRunSummary(run_id=over.id, include_origins=True)
    assert merged.overall.scored == 140


async def test_conversations_are_repeated_with_their_attacker_and_their_judge(stage: Stage) -> None:
    """The clone of the run makes the same plan to the hash; the rerun has seats with money of their
    own, and talks to the end. Other people's clones take other people's keys out."""
    olivia = stage.olivia
    campaigns = olivia.campaigns
    names = ["guard-none", "attacker-steps", "judge-plain"]
    ids = await assistant_models(olivia, stage.assistant.url, names)
    key = (await olivia.providers.ListProviderKeys()).provider_keys[0].id
    plan = secret_plan(await secret_template(olivia), ids[:1], rows=1, techniques=("plain",))
    attacker = plan.strategy.crescendo.attacker
    attacker.model_id, attacker.provider_key_id = ids[1], key
    plan.scorer.kind = "llm_judge"
    plan.scorer.params.Clear()
    plan.scorer.params.update(
        {"rubric": "The answer gives the secret away.", "model_id": ids[2], "provider_key_id": key}
    )
    run = await stage.launched(plan)
    await campaigns.CancelCampaign(campaign_id=run.campaign_id)
    cloned = (await campaigns.CloneCampaign(run_id=run.id, name="the same")).campaign
    same = (await campaigns.LaunchCampaign(campaign_id=cloned.id)).run
    assert same.plan_hash == run.plan_hash
    await campaigns.CancelCampaign(campaign_id=cloned.id)
    paul = await stage.acme.person("paul")
    other = (await paul.campaigns.CloneCampaign(run_id=run.id, name="paul's")).campaign.plan
    assert other.strategy.crescendo.attacker.provider_key_id == ""
    assert "provider_key_id" not in other.scorer.params
    again = (await campaigns.RerunFailed(run_id=run.id)).run
    async with worker(stage.settings):
        over = await finished(olivia, again.id)
    assert over.counts.scored == 1
    assert [seat.calls > 0 for seat in over.seats] == [True, True]
    await stage.books.check(again.id, cells=1)


async def test_a_rerun_asks_again_what_a_launch_asks(stage: Stage) -> None:
    """Keys are personal, targets may be forbidden by now, sending may be stopped."""
    olivia = stage.olivia
    campaigns = olivia.campaigns
    plan = await stage.plan(rows=1)
    run = await stage.launched(plan)
    await campaigns.CancelCampaign(campaign_id=run.campaign_id)
    paul = await stage.acme.person("paul")
    rerun = campaigns.RerunFailed
    assert await refusal(paul.campaigns.RerunFailed(run_id=run.id)) == "PROVIDER_KEY_NOT_FOUND"
    await olivia.providers.DisallowTarget(model_id=plan.targets[0].model_id)
    assert await refusal(rerun(run_id=run.id)) == "TARGET_NOT_ALLOWED"
    await olivia.providers.AllowTarget(model_id=plan.targets[0].model_id)
    await olivia.operations.SetKillSwitch(sending_stopped=True, reason="an incident")
    assert await refusal(rerun(run_id=run.id)) == "SENDING_STOPPED"
    assert await stage.books.value("SELECT count(*) FROM campaigns.runs") == 1
    mallory = (await stage.world.organisation("globex")).admin
    assert await refusal(mallory.campaigns.RerunFailed(run_id=run.id)) == "RUN_NOT_FOUND"
