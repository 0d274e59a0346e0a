"""Workers that die, freeze or are told to go: every cell is recorded once, every cent is booked once."""

from __future__ import annotations

from chimera.v1.campaigns_pb2 import ExecutionState, RunState
from tests.support.campaigns import results_of
from tests.support.workers import Stage, until


async def test_a_killed_worker_is_replaced(stage: Stage) -> None:
    """kill -9 of the only worker in the middle of a shard. Another one finishes; what was recorded
    is not called again, and only what was in flight may arrive twice."""
    plan = await stage.plan(rows=40, repetitions=2, concurrency=8)
    await stage.assistant.slow(50)
    first = stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 40)
    await first.kill()

    in_flight = await stage.books.attempts(run.id, "sent")
    recorded = await stage.books.recorded(run.id)
    before = await stage.assistant.arrived(run.id)
    assert 0 < len(recorded) < run.cells_total
    assert in_flight
    await stage.books.check(run.id)

    stage.worker()
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await stage.books.check(run.id, cells=160)
    assert over.counts.recorded == over.counts.scored == 160
    after = await stage.assistant.arrived(run.id)
    assert {cell: after[cell] for cell in recorded} == {cell: before[cell] for cell in recorded}
    twice = {cell for cell, calls in after.items() if calls > 1}
    assert twice <= {attempt["cell_no"] for attempt in in_flight}
    unknown = await stage.books.attempts(run.id, "unknown")
    assert [a["cell_no"] for a in unknown] == [a["cell_no"] for a in in_flight]
    assert all(a["cost"] == a["worst_cost"] > 0 for a in unknown)


async def test_a_frozen_worker_loses_its_fence(stage: Stage) -> None:
    """A worker is stopped beyond its lease, another takes its shards over and is half done when the
    first wakes up: it sends nothing of what it had in hand, and what it gets back is only booked."""
    plan = await stage.plan(rows=20, repetitions=2, concurrency=8)
    await stage.assistant.slow(1500)
    frozen = stage.worker()
    run = await stage.launched(plan)
    await stage.arrivals(run.id, 8)  # all that may fly, before any comes back
    frozen.freeze()
    await stage.assistant.heal()
    await stage.assistant.slow(300)
    in_hand = await stage.books.attempts(run.id, "sent")
    arrived = await stage.assistant.arrived(run.id)
    committed_only = {a["cell_no"] for a in in_hand} - set(arrived)
    assert committed_only, "nothing was committed ahead"

    async def answered() -> bool:
        return not (await stage.assistant.stats())["in_flight"]

    await until(answered, "what is in flight comes back to nobody")
    stage.worker()

    async def taken_over() -> bool:
        return bool(await stage.books.attempts(run.id, "unknown"))

    await until(taken_over, "the shards are taken over")
    frozen.thaw()
    over = await stage.over(run.id)

    assert over.state == RunState.RUN_STATE_COMPLETED
    await stage.books.check(run.id, cells=80)
    first_attempts = {
        int(name.split(":")[1])
        for name in (await stage.assistant.stats(run.id))["cells"]
        if name.endswith(":1")
    }
    assert not committed_only & first_attempts, "the frozen worker sent without its lease"
    settled = await stage.books.rows(
        "SELECT cell_no, cost FROM providers.ledger WHERE run_id = %(run_id)s AND kind = 'correction'",
        run_id=run.id,
    )
    assert settled, "the late answers were not booked"


async def test_a_worker_told_to_go_leaves_nothing_behind(stage: Stage) -> None:
    """SIGTERM in the middle: what is in flight is recorded, leases are free at once, another worker
    goes on, and nothing was called twice."""
    plan = await stage.plan(rows=40, repetitions=2, concurrency=8)
    await stage.assistant.slow(50)
    first = stage.worker(lease_s=60)
    run = await stage.launched(plan)
    await stage.results(run.id, 40)
    assert await first.terminate() == 0

    assert not await stage.books.attempts(run.id, "sent")
    leased = "SELECT count(*) FROM campaigns.shards WHERE lease_until > clock_timestamp()"
    assert await stage.books.value(leased) == 0
    await stage.books.check(run.id)
    stage.worker()
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await stage.books.check(run.id, cells=160)
    assert not await stage.books.attempts(run.id, "unknown")
    assert set((await stage.assistant.arrived(run.id)).values()) == {1}


async def test_a_worker_told_to_go_does_not_wait_for_ever(stage: Stage) -> None:
    """The target hangs and the worker has only a second to drain: it goes, its leases are free at
    once all the same, and what it leaves is booked at its worst by the next."""
    plan = await stage.plan(rows=20, techniques=["plain"], concurrency=4)
    await stage.assistant.fault({"kind": "hang", "next": 4})
    first = stage.worker(lease_s=60, drain_s=1)
    run = await stage.launched(plan)
    await stage.arrivals(run.id, 4)
    assert await first.terminate() == 0
    stage.worker()
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await stage.books.check(run.id, cells=20)


async def test_a_cell_that_kills_its_workers_is_parked(stage: Stage) -> None:
    """One prompt makes whoever scores its answer die. After a few losses its cell is set aside with
    the evidence; those that flew with it, and all others, are finished."""
    plan = await stage.plan(rows=20, techniques=["plain"], concurrency=4)
    hook = stage.folder / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(POISON)
    deadly = {"PYTHONPATH": str(hook), "lease_s": 1.0, "heartbeat_s": 0.3}
    run = await stage.launched(plan)
    deaths = 0
    worker = stage.worker(**deadly)

    async def over_or_dead() -> bool:
        return bool((await stage.run(run.id)).finished_at.seconds) or (
            worker.process.child.poll() is not None
        )

    while True:
        await until(over_or_dead, "the run ends or its worker dies")
        if worker.process.child.poll() is None:
            break
        assert worker.process.child.returncode == 86
        deaths += 1
        assert deaths < 6, "the cell was never parked"
        worker = stage.worker(**deadly)

    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    assert (over.counts.parked, over.counts.scored) == (1, 19)
    await stage.books.check(run.id, cells=20)
    parked = [
        result
        for result in await results_of(stage.olivia, run.id)
        if result.state == ExecutionState.EXECUTION_STATE_PARKED
    ]
    assert parked[0].cell_no == 7
    assert parked[0].error_kind == "worker_lost"
    assert "3 times" in parked[0].verdict_reason
    evidence = await stage.olivia.campaigns.GetExecution(run_id=run.id, cell_no=7)
    assert len(evidence.attempts) == deaths == 3


# Ends the process when the answer to one prompt is scored, as a fault in native code would.
POISON = """
import importlib.util, os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "chimera.campaigns.engine.calling":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            scored = module._scored

            def deadly(send, reply, judge, run_id):
                if "Variant 7." in send.prepared.prompt.text:
                    os._exit(86)
                return scored(send, reply, judge, run_id)

            module._scored = deadly

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""
