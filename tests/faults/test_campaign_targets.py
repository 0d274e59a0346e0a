"""Targets that misbehave: each cell is recorded once, with a typed error or an answer, and errors
are in no rate."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from chimera.v1.campaigns_pb2 import ExecutionState, RunState
from tests.support.campaigns import results_of
from tests.support.processes import free_port
from tests.support.workers import Stage

FAULTS: dict[str, tuple[dict[str, Any], str, bool]] = {
    # name: (fault, error kind of its attempts, whether they may have cost something)
    "rate limits": (
        {"kind": "rate_limited", "next": 6, "retry_after_s": 0.2},
        "rate_limited",
        False,
    ),
    "errors of the server": ({"kind": "status", "status": 500, "next": 6}, "server_error", True),
    "overload": ({"kind": "status", "status": 503, "next": 6}, "overloaded", False),
    "hangs": ({"kind": "hang", "next": 4}, "timeout", True),
    "hangs in the body": ({"kind": "hang", "where": "body", "next": 4}, "timeout", True),
    "cut connections": ({"kind": "cut", "next": 4}, "connection_lost", True),
    "cuts in the body": ({"kind": "cut", "where": "body", "next": 4}, "connection_lost", True),
    "broken JSON": ({"kind": "malformed_json", "next": 4}, "bad_response", True),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_passing_fault_is_ridden_out(stage: Stage, name: str) -> None:
    """A few calls fail in one way; they are tried again, and the attempts tell the story."""
    fault, kind, costs = FAULTS[name]
    plan = await stage.plan(
        rows=12, techniques=["plain"], concurrency=4, attempts_max=6, provider={"timeout_s": 1}
    )
    await stage.assistant.fault(fault)
    stage.worker()
    run = await stage.launched(plan)
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    assert (over.counts.scored, over.counts.failed) == (12, 0)
    await stage.books.check(run.id, cells=12)
    failed = [a for a in await stage.books.attempts(run.id) if a["error_kind"]]
    assert [a["error_kind"] for a in failed] == [kind] * fault["next"]
    assert all((a["cost"] == a["worst_cost"]) is costs for a in failed)
    assert all(a["cost"] == 0 for a in failed) is not costs
    arrived = await stage.assistant.arrived(run.id)
    assert arrived.total() == 12 + fault["next"]


async def test_lasting_faults_are_typed_and_in_no_rate(stage: Stage) -> None:
    """Some prompts always fail, each in its own way: bounded attempts, a typed error, no part in the
    rate; an answer without usage counts, at its worst cost."""
    plan = await stage.plan(
        rows=12, techniques=["plain"], concurrency=4, attempts_max=3, provider={"timeout_s": 1}
    )
    await stage.assistant.fault(
        {"kind": "rate_limited", "contains": "Variant 1.", "retry_after_s": 0.1},
        {"kind": "status", "status": 500, "contains": "Variant 2."},
        {"kind": "hang", "contains": "Variant 3."},
        {"kind": "cut", "where": "body", "contains": "Variant 4."},
        {"kind": "malformed_json", "contains": "Variant 5."},
        {"kind": "huge", "bytes": 2_000_000, "contains": "Variant 6."},
        {"kind": "status", "status": 400, "contains": "Variant 7."},
        {"kind": "usage", "contains": "Variant 8."},
        {"kind": "huge", "bytes": 150_000, "contains": "Variant 9."},
    )
    stage.worker()
    run = await stage.launched(plan)
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await stage.books.check(run.id, cells=12)
    results = await results_of(stage.olivia, run.id)
    failed = {
        result.cell_no: (result.error_kind, result.attempts)
        for result in results
        if result.state == ExecutionState.EXECUTION_STATE_FAILED
    }
    assert failed == {
        1: ("rate_limited", 3),
        2: ("server_error", 3),
        3: ("timeout", 3),
        4: ("connection_lost", 3),
        5: ("bad_response", 3),
        6: ("response_too_large", 1),
        7: ("bad_request", 1),
    }
    assert not any(result.HasField("is_successful") for result in results if result.error_kind)
    assert (over.counts.scored, over.counts.failed) == (5, 7)
    summary = await stage.olivia.campaigns.GetRunSummary(run_id=run.id)
    assert (summary.overall.scored, summary.overall.failed) == (5, 7)
    assert summary.overall.rate == summary.overall.successes / 5
    without_usage = await stage.olivia.campaigns.GetExecution(run_id=run.id, cell_no=8)
    attempt = without_usage.attempts[0]
    assert Decimal(attempt.cost_usd) == Decimal(attempt.worst_cost_usd) > 0
    assert without_usage.execution.cost_usd == attempt.cost_usd
    assert len(results[9].response) == 150_000
    story = (await stage.olivia.campaigns.GetExecution(run_id=run.id, cell_no=2)).attempts
    assert [(a.attempt_no, a.error_kind, a.http_status) for a in story] == [
        (number, "server_error", 500) for number in (1, 2, 3)
    ]


async def test_half_of_all_calls_fail(stage: Stage) -> None:
    """Every second call is refused or breaks off, for as long as the run lasts."""
    plan = await stage.plan(rows=30, concurrency=8, attempts_max=10)
    await stage.assistant.fault(
        {"kind": "status", "status": 503, "share": 0.25, "seed": 1},
        {"kind": "cut", "where": "body", "share": 0.25, "seed": 2},
    )
    stage.worker()
    run = await stage.launched(plan)
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await stage.books.check(run.id, cells=60)
    attempts = await stage.books.attempts(run.id)
    assert max(attempt["attempt_no"] for attempt in attempts) <= 10
    assert (await stage.assistant.arrived(run.id)).total() == len(
        [a for a in attempts if a["error_kind"] != "not_sent"]
    )


async def test_nobody_listens(stage: Stage) -> None:
    """A target on a closed port is given up after bounded attempts; the run fails and says why."""
    plan = await stage.plan(
        rows=150,
        repetitions=4,
        concurrency=8,
        attempts_max=2,
        provider={"url": f"http://127.0.0.1:{free_port()}"},
    )
    stage.worker(circuit_patience_s=3)
    run = await stage.launched(plan)
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_FAILED
    assert "unreachable" in over.state_reason
    assert over.counts.failed == over.cells_total == 1200
    await stage.books.check(run.id, cells=1200)
    attempts = [a for a in await stage.books.attempts(run.id) if a["error_kind"] != "not_sent"]
    assert {a["error_kind"] for a in attempts} == {"unreachable"}
    assert len(attempts) < 40
    assert Decimal(over.counts.booked_usd) == 0


async def test_the_key_is_refused(stage: Stage) -> None:
    """401 for every call: given up after a few, without sending the rest."""
    plan = await stage.plan(rows=40, concurrency=4)
    await stage.assistant.fault({"kind": "status", "status": 401})
    stage.worker()
    run = await stage.launched(plan)
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_FAILED
    assert "bad_key" in over.state_reason
    await stage.books.check(run.id, cells=80)
    assert (await stage.assistant.arrived(run.id)).total() < 20
    # Which is the key's fault and not the model's: others may send to it.
    circuit = await stage.books.rows("SELECT state, last_error_kind FROM providers.circuits")
    assert circuit == [{"state": "closed", "last_error_kind": "bad_key"}]


async def test_a_dead_target_does_not_harm_a_healthy_one(stage: Stage) -> None:
    """One model refuses the key, the other answers: the run completes with the healthy one scored."""
    plan = await stage.plan(["guard-none", "guard-strict"], rows=30, concurrency=8)
    await stage.assistant.fault({"kind": "status", "status": 401, "model": "guard-strict"})
    stage.worker()
    run = await stage.launched(plan)
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await stage.books.check(run.id, cells=120)
    summary = await stage.olivia.campaigns.GetRunSummary(run_id=run.id)
    rates = {target.model: target.rate for target in summary.by_target}
    assert (rates["guard-none"].scored, rates["guard-none"].failed) == (60, 0)
    assert (rates["guard-strict"].scored, rates["guard-strict"].failed) == (0, 60)
    assert not rates["guard-strict"].HasField("rate")


async def test_texts_that_cannot_be_made(stage: Stage) -> None:
    """A prompt that grows beyond all bounds in its technique fails alone, and does so as well after
    its target was given up."""
    plan = await stage.plan(
        ["guard-none", "guard-strict"], rows=3, techniques=["plain", "binary"], concurrency=1
    )
    plan.prompts[0].rows[2]["ask"] = "x" * 100_000
    await stage.assistant.fault({"kind": "status", "status": 401, "model": "guard-strict"})
    stage.worker()
    run = await stage.launched(plan)
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await stage.books.check(run.id, cells=12)
    kinds = {
        (result.model_used, result.technique_applied): result.error_kind
        for result in await results_of(stage.olivia, run.id)
        if result.prompt_no == 2
    }
    assert kinds["guard-none", "binary"] == kinds["guard-strict", "binary"] != ""
    assert kinds["guard-strict", "plain"] == "bad_key"


async def test_a_target_that_makes_us_wait_does_not_hold_up_another(stage: Stage) -> None:
    """One model asks for a long pause: the other one's cells are all done meanwhile."""
    plan = await stage.plan(["guard-strict", "guard-none"], rows=15, concurrency=4)
    await stage.assistant.fault(
        {"kind": "rate_limited", "model": "guard-strict", "retry_after_s": 30}
    )
    stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 30)
    done = {result.model_used for result in await results_of(stage.olivia, run.id)}
    assert done == {"guard-none"}
    await stage.olivia.campaigns.CancelCampaign(campaign_id=run.campaign_id)
    await stage.books.check(run.id)
