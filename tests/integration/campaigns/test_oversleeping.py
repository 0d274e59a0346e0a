"""A drive that slept longer than its lease, and answers nobody could believe."""

from __future__ import annotations

from decimal import Decimal

import psycopg

from chimera.campaigns.engine import leasing
from chimera.core import open_core
from chimera.v1.campaigns_pb2 import RunState
from tests.support.workers import Stage


async def test_a_drive_does_not_take_its_own_shard_over(stage: Stage) -> None:
    """Its lease ran out, but it still has the cells in hand: only somebody else may take over."""
    run = await stage.launched(await stage.plan(rows=4, techniques=["plain"]))
    async with open_core(stage.settings, "worker") as core:
        mine = await leasing.claim(core.db, owner="me", lease_s=30, run_id=run.id)
        assert mine is not None
        with psycopg.connect(stage.settings.database_url.get_secret_value()) as connection:
            connection.execute(
                "UPDATE campaigns.shards SET lease_until = now() - interval '1 s' WHERE run_id = %s",
                [run.id],
            )
        assert await leasing.claim(core.db, owner="me", lease_s=30, run_id=run.id) is None
        theirs = await leasing.claim(core.db, owner="other", lease_s=30, run_id=run.id)
    assert theirs is not None
    assert (theirs.shard_no, theirs.fence) == (mine.shard_no, mine.fence + 1)


async def test_a_count_of_tokens_that_cannot_be_is_not_believed(stage: Stage) -> None:
    """A target reports hundreds of millions of tokens: the answers are scored, booked at their
    worst, and the run ends."""
    plan = await stage.plan(rows=4, techniques=["plain"], concurrency=2)
    await stage.assistant.fault(
        {
            "kind": "usage",
            "share": 1,
            "usage": {"prompt_tokens": 900_000_000, "completion_tokens": 900_000_000},
        }
    )
    stage.worker()
    run = await stage.launched(plan)
    over = await stage.over(run.id)
    assert over.state == RunState.RUN_STATE_COMPLETED
    assert over.counts.scored == 4
    assert over.counts.input_tokens == 0
    attempts = await stage.books.attempts(run.id)
    assert all(a["cost"] == a["worst_cost"] > 0 for a in attempts)
    assert Decimal(over.counts.cost_usd) == sum(a["worst_cost"] for a in attempts)
    await stage.books.check(run.id, cells=4)
