"""Workers that are lost in runs over a dataset, and in reruns of scattered cells."""

from __future__ import annotations

from tests.support.datasets import filled_dataset
from tests.support.workers import Stage


async def test_a_lost_worker_leaves_no_gap_in_a_run_over_a_dataset_nor_in_its_rerun(
    stage: Stage,
) -> None:
    """kill -9 in the middle of both: whoever takes over reads the rows anew, sends only what is wanted,
    and every cell is recorded once."""
    olivia = stage.olivia
    rows = [{"secret": f"M{n:03d}", "ask": f"What is it? No {n}."} for n in range(90)]
    plan = await stage.plan(rows=1, techniques=("plain", "base64"), concurrency=8, attempts_max=2)
    del plan.prompts[0].rows[:]
    plan.prompts[0].dataset_id = await filled_dataset(olivia, rows)
    await stage.assistant.slow(40)
    await stage.assistant.fault({"kind": "status", "status": 400, "contains": "5."})
    run = await stage.launched(plan)
    lost = stage.worker()
    await stage.results(run.id, 40)
    await lost.kill()
    heir = stage.worker()
    await stage.over(run.id)
    await stage.books.check(run.id, cells=180)
    bad = [2 * number for number in range(5, 90, 10)]
    failed = await stage.books.rows(
        "SELECT cell_no, original_prompt FROM campaigns.executions "
        "WHERE run_id = %(id)s AND state = 'failed' ORDER BY cell_no",
        id=run.id,
    )
    assert [row["cell_no"] for row in failed] == bad
    assert [row["original_prompt"] for row in failed] == [rows[cell // 2]["ask"] for cell in bad]

    await stage.assistant.forget()
    await stage.assistant.slow(400)
    again = (await olivia.campaigns.RerunFailed(run_id=run.id)).run
    await stage.arrivals(again.id, 1)
    await heir.kill()
    await stage.assistant.heal()
    stage.worker()
    await stage.over(again.id)
    await stage.books.check(again.id)
    assert await stage.books.recorded(again.id) == bad
    assert set(await stage.assistant.arrived(again.id)) == set(bad)
