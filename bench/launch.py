"""Launching a campaign of 1,000,000 cells: time to answer and memory of the server.

python -m bench launch [--cells 1000000] [--dataset-rows 0]

With --dataset-rows the prompts are that many rows of a dataset, as many techniques and repetitions as
make up the cells.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from bench.installation import installation
from bench.processes import usage
from tests.support.campaigns import assistant_models, secret_plan, secret_template
from tests.support.datasets import filled_dataset


def main(options: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench launch")
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--dataset-rows", type=int, default=0)
    given = parser.parse_args(options)
    asyncio.run(_run(given.cells, given.dataset_rows))


async def _run(cells: int, dataset_rows: int) -> None:
    async with installation() as running:
        running.children["worker"].terminate()
        running.children["worker"].wait()
        models = await assistant_models(running.admin, running.urls.assistant_url, ["guard-none"])
        template = await secret_template(running.admin)
        pid = running.children["server"].pid
        dataset_id = ""
        if dataset_rows:
            rows = ({"secret": f"M{n:07d}", "ask": f"Variant {n}?"} for n in range(dataset_rows))
            dataset_id = await filled_dataset(running.admin, rows)
        for number in range(4):
            if dataset_id:
                plan = secret_plan(template, models, rows=0, techniques=("plain",))
                plan.repetitions = cells // dataset_rows
                plan.prompts[0].dataset_id = dataset_id
            else:
                plan = secret_plan(template, models, rows=100, repetitions=cells // 200)
            made = await running.admin.campaigns.CreateCampaign(name=f"large {number}", plan=plan)
            before, started = usage(pid), time.perf_counter()
            answer = await running.admin.campaigns.LaunchCampaign(campaign_id=made.campaign.id)
            took_s, after = time.perf_counter() - started, usage(pid)
            print(
                f"{answer.run.cells_total} cells in {answer.run.shards_total} shards: answered in "
                f"{took_s * 1000:.0f} ms, server CPU {(after.cpu_s - before.cpu_s) * 1000:.0f} ms, "
                f"resident {before.resident / 2**20:.0f} -> {after.resident / 2**20:.0f} MiB"
            )
