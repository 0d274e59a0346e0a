"""A large campaign and small ones, started together on one worker: how much longer the small ones take
than alone.

    python -m bench fairness [--large 100000] [--small 200] [--count 5] [--latency-ms 0 50]

A multiple of 1 would mean that nobody notices the others; of --count + 1, that all share evenly what
the worker can do.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from bench.campaign import set_latency
from bench.installation import Installation, installation
from chimera.v1.campaigns_pb2 import CampaignPlan
from tests.support.campaigns import (
    assistant_models,
    finished,
    launched,
    secret_plan,
    secret_template,
)


def main(options: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench fairness")
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--small", type=int, default=200)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--latency-ms", type=int, nargs="*", default=[0, 50])
    asyncio.run(_run(parser.parse_args(options)))


async def _run(chosen: argparse.Namespace) -> None:
    async with installation() as running:
        models = await assistant_models(
            running.admin, running.urls.assistant_url, ["guard-keyword"]
        )
        template = await secret_template(running.admin)
        small = secret_plan(template, models, rows=chosen.small // 4, repetitions=2)
        large = secret_plan(template, models, rows=chosen.large // 20, repetitions=10)
        await _taken(running, small, "warm-up")
        for latency_ms in chosen.latency_ms:
            set_latency(running.urls.assistant_url, latency_ms)
            await _measure(running, small, large, chosen.count, latency_ms)


async def _measure(
    running: Installation, small: CampaignPlan, large: CampaignPlan, count: int, latency_ms: int
) -> None:
    alone = min([await _taken(running, small, f"alone {n} {latency_ms}") for n in range(3)])
    big = await launched(running.admin, large, f"large {latency_ms}")
    together = sorted(
        await asyncio.gather(
            *[_taken(running, small, f"small {n} {latency_ms}") for n in range(count)]
        )
    )
    served = (await running.admin.campaigns.GetRun(run_id=big.id)).run.counts.recorded
    await running.admin.campaigns.CancelCampaign(campaign_id=big.campaign_id)
    await finished(running.admin, big.id, timeout_s=60)
    multiples = ", ".join(f"{taken_s / alone:.1f}" for taken_s in together)
    print(
        f"\n{latency_ms} ms: alone {alone:.2f} s; {count} together with the large one {multiples}"
    )
    print(f"  times as long; meanwhile the large one recorded {served} of {big.cells_total}")


async def _taken(running: Installation, plan: CampaignPlan, name: str) -> float:
    """Seconds from the launch to the end."""
    started = time.perf_counter()
    run = await launched(running.admin, plan, f"{name} {time.time()}")
    await finished(running.admin, run.id, timeout_s=600)
    return time.perf_counter() - started
