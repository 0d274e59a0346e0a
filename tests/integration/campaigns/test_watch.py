"""Watching a run and reading its results: each result once, whatever happens in between."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest

from chimera.v1.campaigns_pb2 import RunState
from tests.support.campaigns import finished, results_of, worker
from tests.support.workers import Stage
from tests.support.world import Refused


@pytest.fixture
async def working(stage: Stage) -> AsyncIterator[Stage]:
    """A stage with a worker at work, in this process."""
    async with worker(stage.settings):
        yield stage


async def test_every_result_once_over_reconnects(working: Stage) -> None:
    """A watch that is cut off after every item and goes on from its cursor misses and repeats
    nothing."""
    await working.assistant.slow(5)
    run = await working.launched(await working.plan(rows=40, repetitions=2, concurrency=8))
    cursor, told, items = "", [], 0
    while len(told) < run.cells_total:
        watch = working.olivia.campaigns.WatchRun(
            run_id=run.id, cursor=cursor, include_executions=True
        )
        async for item in watch:
            told += [execution.cell_no for execution in item.executions]
            cursor, items = item.cursor, items + 1
            if item.executions:
                break
        await watch.aclose()
    assert sorted(told) == list(range(160))
    assert items > 2
    rest = [
        item
        async for item in working.olivia.campaigns.WatchRun(
            run_id=run.id, cursor=cursor, include_executions=True
        )
    ]
    assert not any(item.executions for item in rest)
    assert rest[-1].run.state == RunState.RUN_STATE_COMPLETED


async def test_an_old_transaction_hides_no_result(working: Stage) -> None:
    """Somebody keeps a transaction open that is older than the run. The watch of the finished run
    still tells every result before it ends."""
    old = await psycopg.AsyncConnection.connect(working.books.url)
    async with old:
        await old.execute("SELECT pg_current_xact_id()")
        run = await working.launched(await working.plan(rows=20))
        told = [
            execution.cell_no
            async for item in working.olivia.campaigns.WatchRun(
                run_id=run.id, include_executions=True
            )
            for execution in item.executions
        ]
        assert (await working.run(run.id)).state == RunState.RUN_STATE_COMPLETED
    assert sorted(told) == list(range(40))


async def test_a_cancelled_run_is_told_to_its_end(working: Stage) -> None:
    """What was in flight at the cancellation is recorded after it; the watch waits for it."""
    await working.assistant.slow(300)
    run = await working.launched(await working.plan(rows=40, concurrency=4))
    await working.results(run.id, 4)
    await working.olivia.campaigns.CancelCampaign(campaign_id=run.campaign_id)
    told = [
        execution.cell_no
        async for item in working.olivia.campaigns.WatchRun(run_id=run.id, include_executions=True)
        for execution in item.executions
    ]
    assert not await working.books.attempts(run.id, "sent")
    assert sorted(told) == await working.books.recorded(run.id)


async def test_large_results_fit_into_messages(working: Stage) -> None:
    """Answers of 190,000 characters: pages and watch items stay below what clients take by default,
    and nothing is left out."""
    await working.assistant.fault({"kind": "huge", "bytes": 190_000})
    plan = await working.plan(rows=30, techniques=["plain"], concurrency=30)
    run = await working.launched(plan)
    assert (await finished(working.olivia, run.id)).counts.scored == 30
    results = await results_of(working.olivia, run.id)
    assert [result.cell_no for result in results] == list(range(30))
    assert {len(result.response) for result in results} == {190_000}
    told = [
        execution.cell_no
        async for item in working.olivia.campaigns.WatchRun(run_id=run.id, include_executions=True)
        for execution in item.executions
    ]
    assert sorted(told) == list(range(30))
    halfway = ""
    async for item in working.olivia.campaigns.WatchRun(run_id=run.id, include_executions=True):
        halfway, first = item.cursor, [execution.cell_no for execution in item.executions]
        break
    rest = [
        execution.cell_no
        async for item in working.olivia.campaigns.WatchRun(
            run_id=run.id, cursor=halfway, include_executions=True
        )
        for execution in item.executions
    ]
    assert 0 < len(first) < 30
    assert sorted(first + rest) == list(range(30))


async def test_cursors_that_are_none(working: Stage) -> None:
    """Garbage, another run's cursor, and a page token are refused with a reason."""
    plan = await working.plan(rows=3, techniques=["plain"])
    one = await working.launched(plan, "one")
    other = await working.launched(plan, "other")
    await finished(working.olivia, one.id)
    await finished(working.olivia, other.id)
    cursor = [item async for item in working.olivia.campaigns.WatchRun(run_id=one.id)][-1].cursor
    page = await working.olivia.campaigns.ListExecutions(run_id=other.id, page_size=2)
    for bad in ("garbage", "\N{SNOWMAN}", "QUJD", cursor, page.next_page_token, cursor[:-2]):
        with pytest.raises(Refused) as refused:
            async for _ in working.olivia.campaigns.WatchRun(run_id=other.id, cursor=bad):
                pass
        assert (refused.value.code, refused.value.reason) == ("INVALID_ARGUMENT", "CURSOR_INVALID")
