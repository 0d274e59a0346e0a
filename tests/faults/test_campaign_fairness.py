"""Large campaigns and small ones on one worker: nobody waits for somebody else's end."""

from __future__ import annotations

from chimera.v1.campaigns_pb2 import RunState
from tests.support.campaigns import assistant_models, launched, secret_plan, secret_template
from tests.support.workers import Stage, until


async def small_after_large(stage: Stage, *, priority: int, **worker: float) -> None:
    """A worker with one place is busy with a large campaign when another organisation launches a
    small one: the small one is over first, and the large one finishes after it."""
    large = await stage.plan(rows=100, repetitions=4, concurrency=4)
    await stage.assistant.slow(40)
    stage.worker(drives_max=1, **worker)
    big_run = await stage.launched(large)
    await stage.results(big_run.id, 8)

    ivan = (await stage.world.organisation("globex")).admin
    models = await assistant_models(ivan, stage.stack.assistant_url, ["guard-none"])
    small = secret_plan(await secret_template(ivan), models, rows=5, priority=priority)
    small_run = await launched(ivan, small)

    async def small_over() -> bool:
        run = (await ivan.campaigns.GetRun(run_id=small_run.id)).run
        return bool(run.state == RunState.RUN_STATE_COMPLETED)

    await until(small_over, "the small one is over")
    assert (await stage.run(big_run.id)).state == RunState.RUN_STATE_RUNNING
    await stage.books.check(small_run.id, cells=10)
    over = await stage.over(big_run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    await stage.books.check(big_run.id, cells=800)
    assert set((await stage.assistant.arrived(big_run.id)).values()) == {1}


async def test_equal_runs_take_turns(stage: Stage) -> None:
    """The large one makes room when its turn is over."""
    await small_after_large(stage, priority=0, turn_s=0.5)


async def test_a_higher_priority_does_not_wait_for_a_turn(stage: Stage) -> None:
    """The large one makes room at once."""
    await small_after_large(stage, priority=5, turn_s=600)
