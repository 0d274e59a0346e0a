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
from tests.support.campaigns import finished, results_of, worker
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
    """All that has no result is sent by the rerun, in ranges; of two reruns at once one starts."""
    olivia = stage.olivia
    campaigns = olivia.campaigns
    run = await stage.launched(await stage.plan(rows=100, techniques=("plain", "base64")))
    await campaigns.CancelCampaign(campaign_id=run.campaign_id)
    answers = await asyncio.gather(
        *(campaigns.RerunFailed(run_id=run.id) for _ in range(2)), return_exceptions=True
    )
    started = [answer for answer in answers if not isinstance(answer, BaseException)]
    told = [answer.reason for answer in answers if isinstance(answer, Refused)]
    assert len(started) == 1 and told[0] in ("CAMPAIGN_BUSY", "CONFLICT_TRY_AGAIN")
    again = started[0].run
    assert (again.cells_total, again.prompt_count) == (200, 100)
    shards = await stage.books.rows(
        "SELECT wanted FROM campaigns.shards WHERE run_id = %(id)s", id=again.id
    )
    assert all(shard["wanted"] is None for shard in shards)
    async with worker(stage.settings):
        over = await finished(olivia, again.id)
    assert over.counts.recorded == 200
    await stage.books.check(again.id, cells=200)


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
