"""A long campaign whose workers are killed at random: exact all the same."""

from __future__ import annotations

import random
from functools import partial

from chimera.v1.campaigns_pb2 import RunState
from tests.support.workers import Stage, until

CELLS, KILLS, SEED = 10_000, 4, 20240229


async def recorded(stage: Stage, run_id: str, count: int) -> bool:
    tallied = "SELECT COALESCE(sum(scored), 0) FROM campaigns.tallies WHERE run_id = %(run_id)s"
    return bool(await stage.books.value(tallied, run_id=run_id) >= count)


async def test_random_kills_lose_and_repeat_nothing(stage: Stage) -> None:
    """10,000 cells on two workers, one of which is killed with -9 at a random moment and replaced,
    four times: each cell is recorded once, each cent is booked once, and the target is called twice
    only for what was in flight when its worker died."""
    draw = random.Random(SEED)
    plan = await stage.plan(rows=500, repetitions=10, concurrency=64)
    workers = [stage.worker(), stage.worker()]
    run = await stage.launched(plan)
    assert run.cells_total == CELLS
    for moment in sorted(draw.sample(range(200, CELLS - 1500), KILLS)):
        await until(partial(recorded, stage, run.id, moment), f"{moment} results")
        await workers.pop(draw.randrange(2)).kill()
        workers.append(stage.worker())
    over = await stage.over(run.id)

    assert over.state == RunState.RUN_STATE_COMPLETED
    assert over.counts.recorded == over.counts.scored == CELLS
    await stage.books.check(run.id, cells=CELLS)
    unknown = {attempt["cell_no"] for attempt in await stage.books.attempts(run.id, "unknown")}
    assert unknown, "nobody was killed with calls in flight"
    arrived = await stage.assistant.arrived(run.id)
    assert len(arrived) == CELLS
    assert {cell for cell, calls in arrived.items() if calls > 1} <= unknown
