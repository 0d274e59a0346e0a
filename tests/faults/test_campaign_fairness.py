"""Large campaigns and small ones on one worker: nobody waits for somebody else's end."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

from chimera.campaigns.engine import leasing
from chimera.core import open_core
from chimera.v1.campaigns_pb2 import CampaignPlan, Run, RunState
from tests.support.campaigns import assistant_models, launched, secret_plan, secret_template
from tests.support.workers import Stage, until
from workers.tasks.campaigns import next_to_go


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


async def test_five_small_runs_beside_a_large_one(stage: Stage) -> None:
    """Started together on one worker, each of five small runs is over while the large one has
    recorded no more than a few times as many cells as all of them."""
    large = await stage.plan(rows=300, repetitions=10, concurrency=8)
    small = CampaignPlan()
    small.CopyFrom(large)
    small.repetitions = 2
    del small.prompts[0].rows[10:]
    await stage.assistant.slow(10)
    stage.worker()
    big_run = await stage.launched(large, "large")
    runs = [await launched(stage.olivia, small, f"small {number}") for number in range(5)]
    served: list[int] = []

    async def over(run: Run) -> None:
        await stage.over(run.id)
        served.append((await stage.run(big_run.id)).counts.recorded)

    await asyncio.gather(*[over(run) for run in runs])
    assert max(served) <= 3 * 5 * 40, served
    assert (await stage.run(big_run.id)).state == RunState.RUN_STATE_RUNNING
    for run in runs:
        await stage.books.check(run.id, cells=40)
    await stage.olivia.campaigns.CancelCampaign(campaign_id=big_run.campaign_id)


async def test_shards_are_given_out_in_fair_order(stage: Stage) -> None:
    """A higher priority first; then organisations in turn, however many runs one of them has; then
    the runs of an organisation in turn."""
    ivan = (await stage.world.organisation("globex")).admin
    plan = await stage.plan(rows=100, repetitions=4)
    acme = [(await launched(stage.olivia, plan, f"acme {n}")).id for n in range(3)]
    models = await assistant_models(ivan, stage.stack.assistant_url, ["guard-none"])
    theirs = secret_plan(await secret_template(ivan), models, rows=100, repetitions=4)
    globex = (await launched(ivan, theirs, "globex")).id
    async with open_core(stage.settings, "worker") as core:

        async def claimed() -> str:
            lease = await leasing.claim(core.db, owner=f"owner {time.monotonic()}", lease_s=60)
            assert lease is not None
            return lease.run_id

        order = [await claimed() for _ in range(8)]
        assert order == [acme[0], globex, acme[1], globex, acme[2], globex, acme[0], globex]
        theirs.limits.priority = 1
        urgent = (await launched(ivan, theirs, "urgent")).id
        assert [await claimed() for _ in range(3)] == [urgent] * 3


def test_who_makes_room() -> None:
    """A drive of lower priority at once; of equal priority one whose turn is over, or one of an
    organisation that has two places more than the one that waits."""

    def drive(org_id: str, priority: int = 0, age_s: float = 0.0) -> Any:
        started_at = time.monotonic() - age_s
        return SimpleNamespace(org_id=org_id, priority=priority, started_at=started_at)

    low, high = drive("a", -1), drive("a", 1, age_s=100)
    assert next_to_go([drive("a"), low, high], 0, "b", turn_s=30) is low
    assert next_to_go([drive("c"), high], 0, "b", turn_s=30) is None
    long = drive("a", age_s=40)
    assert next_to_go([drive("b"), long], 0, "c", turn_s=30) is long
    many = [drive("a", age_s=age_s) for age_s in (1, 3, 2)]
    crowd = cast(Any, [*many, drive("b", age_s=5)])
    assert next_to_go(crowd, 0, "c", turn_s=30) is many[1]
    assert next_to_go(crowd, 0, "a", turn_s=30) is None
