"""Circuits that all workers share: one probe at a time, cells that wait and then go on, people who
hold a circuit, and money that is exact through all of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from chimera.v1.campaigns_pb2 import RunState
from chimera.v1.health_pb2 import CircuitForce, CircuitState, HealthState
from tests.support.processes import free_port
from tests.support.workers import Stage, until

CIRCUIT = "SELECT * FROM providers.circuits"


async def circuit_is(stage: Stage, model_id: str, *states: CircuitState) -> None:
    async def reached() -> bool:
        found = (await stage.olivia.health.GetCircuit(model_id=model_id)).circuit
        return found.state in states

    await until(reached, f"the circuit is {states}")


async def test_a_run_outlives_an_outage(stage: Stage) -> None:
    """The only model is down for a while and two workers drive the run: its circuit opens for both,
    the run says what it waits for, one probe at a time goes out, and when the model is back every
    cell is scored; none has failed for it."""
    plan = await stage.plan(rows=60, concurrency=12, attempts_max=4)
    model_id = plan.targets[0].model_id
    await stage.assistant.slow(20)
    stage.worker()
    stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 10)
    await stage.assistant.heal()
    await stage.assistant.fault({"kind": "status", "status": 500})
    await circuit_is(stage, model_id, CircuitState.CIRCUIT_STATE_OPEN)

    async def probed() -> bool:
        row = (await stage.books.rows(CIRCUIT))[0]
        return bool(row["probe_no"] >= 2)

    await until(probed, "two probes have gone out")
    waiting = await stage.run(run.id)
    assert waiting.state == RunState.RUN_STATE_RUNNING
    assert [(w.model_id, w.cause) for w in waiting.waiting_for] == [(model_id, "server_error")]
    down = (await stage.olivia.health.ListProviderHealth()).health[0]
    assert (down.state, down.is_healthy) == (HealthState.HEALTH_STATE_DOWN, False)
    before = (await stage.assistant.arrived(run.id)).total()
    await stage.books.check(run.id)
    row = (await stage.books.rows(CIRCUIT))[0]
    # All calls that were in flight may have failed, and what was retried before ten were counted.
    assert row["consecutive_failures"] < 60
    await stage.assistant.heal()
    over = await stage.over(run.id)
    assert (over.counts.scored, over.counts.failed) == (120, 0)
    assert not over.waiting_for
    await stage.books.check(run.id, cells=120)
    assert before < (await stage.assistant.arrived(run.id)).total()
    up = (await stage.olivia.health.GetCircuit(model_id=model_id)).circuit
    assert (up.state, up.cause) == (CircuitState.CIRCUIT_STATE_CLOSED, "")


async def test_one_probe_over_the_whole_cluster(stage: Stage) -> None:
    """Three workers and a model that hangs: while its circuit is not closed, never more than one call
    is out to see; the run ends when patience does."""
    plan = await stage.plan(rows=100, concurrency=30, attempts_max=2, provider={"timeout_s": 1})
    await stage.assistant.fault({"kind": "hang"})
    for _ in range(3):
        stage.worker(circuit_patience_s=5)
    run = await stage.launched(plan)
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_FAILED
    await stage.books.check(run.id, cells=200)
    row = (await stage.books.rows(CIRCUIT))[0]
    opened_at = row["opened_at"]
    probes = [
        a
        for a in await stage.books.attempts(run.id)
        if a["sent_at"] > opened_at and a["error_kind"] != "not_sent"
    ]
    assert 1 <= len(probes) <= row["probe_no"]
    ends = sorted(probes, key=lambda a: a["sent_at"])
    for earlier, later in pairwise(ends):
        assert earlier["settled_at"] <= later["sent_at"], "two probes at a time"


async def test_the_prober_is_killed(stage: Stage) -> None:
    """The worker that has the probe out is killed: its right to it runs out, another worker probes,
    and the run is completed."""
    plan = await stage.plan(rows=30, concurrency=10, provider={"timeout_s": 2})
    model_id = plan.targets[0].model_id
    await stage.assistant.fault({"kind": "hang"})
    worker = stage.worker()
    run = await stage.launched(plan)

    async def probing() -> Any:
        rows = await stage.books.rows(CIRCUIT)
        return rows and rows[0]["state"] == "half_open"

    await until(probing, "a probe is out")
    await worker.kill()
    await stage.assistant.heal()
    stage.worker()
    over = await stage.over(run.id)
    assert (over.counts.scored, over.counts.failed) == (60, 0)
    await stage.books.check(run.id, cells=60)
    closed = (await stage.olivia.health.GetCircuit(model_id=model_id)).circuit
    assert closed.state == CircuitState.CIRCUIT_STATE_CLOSED


async def test_people_hold_a_circuit(stage: Stage) -> None:
    """Held open, nothing goes out and the run waits, longer than its patience, and whoever watches it
    is told; given back, it goes on. Operators do the same for all. Each is in the audit log with its
    reason."""
    plan = await stage.plan(rows=60, repetitions=2, concurrency=4)
    model_id = plan.targets[0].model_id
    await stage.assistant.slow(30)
    stage.worker(circuit_patience_s=0.2)
    run = await stage.launched(plan)
    await stage.results(run.id, 10)
    health = stage.olivia.health
    forced = await health.ForceCircuit(
        model_id=model_id, force=CircuitForce.CIRCUIT_FORCE_OPEN, reason="maintenance"
    )
    assert forced.circuit.force == CircuitForce.CIRCUIT_FORCE_OPEN
    assert forced.circuit.forced_by == stage.olivia.user_id

    async def quiet() -> bool:
        before = (await stage.assistant.stats())["calls_total"]
        waiting = (await stage.run(run.id)).waiting_for
        sent = await stage.books.attempts(run.id, "sent")
        after = (await stage.assistant.stats())["calls_total"]
        return bool(waiting) and not sent and before == after

    await until(quiet, "nothing is in flight")
    waiting = await stage.run(run.id)
    assert [w.cause for w in waiting.waiting_for] == ["forced"]
    assert waiting.state == RunState.RUN_STATE_RUNNING
    await stage.books.check(run.id)
    await health.ForceInstallationCircuit(
        model_id=model_id, force=CircuitForce.CIRCUIT_FORCE_OPEN, reason="for all"
    )
    await health.ForceCircuit(model_id=model_id, reason="over")
    await until(quiet, "it is held for all")
    async for item in stage.olivia.campaigns.WatchRun(run_id=run.id):
        if item.run.waiting_for:
            assert [(w.model_id, w.cause) for w in item.run.waiting_for] == [(model_id, "forced")]
            break
    await health.ForceInstallationCircuit(model_id=model_id, reason="over for all")
    over = await stage.over(run.id)
    assert (over.counts.scored, over.counts.failed) == (240, 0)
    await stage.books.check(run.id, cells=240)
    assert set((await stage.assistant.arrived(run.id)).values()) == {1}
    events = (await stage.olivia.audit.ListAuditEvents(action="circuit.force")).events
    assert {event.reason for event in events} == {"maintenance", "over"}
    events = (await stage.olivia.audit.ListAuditEvents(action="circuit.force_installation")).events
    assert {event.reason for event in events} == {"for all", "over for all"}


async def test_held_closed_calls_decide_nothing(stage: Stage) -> None:
    """Somebody insists: the calls go on failing, cell by cell, and no circuit opens."""
    plan = await stage.plan(
        rows=20,
        concurrency=8,
        attempts_max=2,
        provider={"url": f"http://127.0.0.1:{free_port()}"},
    )
    model_id = plan.targets[0].model_id
    await stage.olivia.health.ForceCircuit(
        model_id=model_id, force=CircuitForce.CIRCUIT_FORCE_CLOSED, reason="let me see"
    )
    stage.worker()
    run = await stage.launched(plan)
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_FAILED
    await stage.books.check(run.id, cells=40)
    attempts = await stage.books.attempts(run.id)
    assert len([a for a in attempts if a["error_kind"] == "unreachable"]) == 80
    assert (await stage.books.rows(CIRCUIT))[0]["state"] == "closed"


async def test_a_flapping_model(stage: Stage) -> None:
    """Down, up and down again, twice, and the worker killed in between: every cell is scored in the
    end, and the books are exact."""
    plan = await stage.plan(rows=150, concurrency=10, attempts_max=6)
    model_id = plan.targets[0].model_id
    await stage.assistant.slow(20)
    worker = stage.worker()
    run = await stage.launched(plan)
    for round_no in range(2):
        await stage.results(run.id, 20 + 40 * round_no)
        await stage.assistant.heal()
        await stage.assistant.fault({"kind": "cut"})
        await circuit_is(
            stage,
            model_id,
            CircuitState.CIRCUIT_STATE_OPEN,
            CircuitState.CIRCUIT_STATE_HALF_OPEN,
        )
        if round_no == 1:
            await worker.kill()
            worker = stage.worker()
        await stage.assistant.heal()
        await stage.assistant.slow(20)
    over = await stage.over(run.id)
    assert (over.counts.scored, over.counts.failed) == (300, 0)
    await stage.books.check(run.id, cells=300)
