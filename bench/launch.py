"""Launching a campaign of 1,000,000 cells: time to answer and memory of the server.

python -m bench launch [--cells 1000000]
"""

from __future__ import annotations

import argparse
import asyncio
import time

from bench.installation import installation
from bench.processes import usage
from tests.support.campaigns import assistant_models, secret_plan, secret_template


def main(options: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench launch")
    parser.add_argument("--cells", type=int, default=1_000_000)
    asyncio.run(_run(parser.parse_args(options).cells))


async def _run(cells: int) -> None:
    async with installation() as running:
        running.children["worker"].terminate()
        running.children["worker"].wait()
        models = await assistant_models(running.admin, running.urls.assistant_url, ["guard-none"])
        template = await secret_template(running.admin)
        pid = running.children["server"].pid
        for number in range(4):
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
