"""A campaign of many single-turn executions, from Launch until outbox drained and audit sealed.

    python -m bench campaign [--cells 20000] [--latency-ms 0] [--concurrency 64]
    python -m bench campaign --kill 20 [--cells 100000] [--seed 7]

With --kill, two workers do it and one of them is killed (-9) at a random moment and replaced, so many
times; then it is checked that every cell was recorded once and every cent booked once. Counts the CPU of server, worker, PostgreSQL, Redis and the ClickHouse engine; the target is apart.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import time
import urllib.request
from typing import Any

import orjson
import psycopg

from bench.installation import Installation, installation, until
from bench.processes import Usage
from tests.support.campaigns import (
    assistant_models,
    finished,
    launched,
    secret_plan,
    secret_template,
)
from tests.support.workers import Books


def main(options: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench campaign")
    parser.add_argument("--cells", type=int)
    parser.add_argument("--latency-ms", type=int, nargs="*", default=[0, 100])
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--kill", type=int, default=0)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args(options)
    chosen.cells = chosen.cells or (100_000 if chosen.kill else 20_000)
    if chosen.kill:
        return asyncio.run(_run_with_kills(chosen))
    print(
        f"import time: server {_import_s('chimera.server'):.2f} s, worker {_import_s('workers.main'):.2f} s"
    )
    asyncio.run(_run(chosen))


def _import_s(module: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - started


async def _run(chosen: argparse.Namespace) -> None:
    async with installation() as running:
        models = await assistant_models(
            running.admin, running.urls.assistant_url, ["guard-keyword"]
        )
        template = await secret_template(running.admin)
        await _measure(running, template, models, 1000, 64, "warm-up", show=False)
        for latency_ms in chosen.latency_ms:
            set_latency(running.urls.assistant_url, latency_ms)
            await _measure(
                running,
                template,
                models,
                chosen.cells,
                chosen.concurrency,
                f"{latency_ms} ms",
            )


async def _run_with_kills(chosen: argparse.Namespace) -> None:
    draw = random.Random(chosen.seed)
    cells = chosen.cells
    async with installation(lease_s=3, heartbeat_s=0.5) as running:
        models = await assistant_models(running.admin, running.urls.assistant_url, ["guard-none"])
        plan = secret_plan(
            await secret_template(running.admin),
            models,
            rows=cells // 20,
            repetitions=10,
            concurrency=chosen.concurrency,
        )
        running.start("worker-1", "workers.main", running.environment)
        names = ["worker", "worker-1"]
        started = time.perf_counter()
        run = await launched(running.admin, plan, "bench kills")
        for number, moment in enumerate(sorted(draw.sample(range(cells), chosen.kill)), start=2):

            async def reached(moment: int = moment) -> bool:
                now = (await running.admin.campaigns.GetRun(run_id=run.id)).run
                return now.counts.recorded >= moment

            await until(reached, timeout_s=600)
            running.kill(names.pop(draw.randrange(2)))
            names.append(f"worker-{number}")
            running.start(names[-1], "workers.main", running.environment)
        over = await finished(running.admin, run.id, timeout_s=900)
        took_s = time.perf_counter() - started
        books = Books(running.settings)
        await books.check(run.id, cells=cells)
        unknown = len(await books.attempts(run.id, "unknown"))
        print(
            f"{cells} cells in {took_s:.0f} s, {chosen.kill} workers killed (seed {chosen.seed}): "
            f"{over.counts.recorded} recorded, {over.counts.failed} failed, {over.counts.parked} parked, "
            f"{unknown} calls lost and booked at their worst; "
            "executions, counters, ledger, money and flushes agree"
        )


def set_latency(url: str, latency_ms: int) -> None:
    reset = urllib.request.Request(f"{url}/faults", method="DELETE")
    urllib.request.urlopen(reset).read()
    if latency_ms:
        rule = orjson.dumps({"kind": "latency", "ms": latency_ms})
        post = urllib.request.Request(
            f"{url}/faults", rule, {"content-type": "application/json"}, method="POST"
        )
        urllib.request.urlopen(post).read()


async def _measure(
    running: Installation,
    template: str,
    models: list[str],
    cells: int,
    concurrency: int,
    title: str,
    *,
    show: bool = True,
) -> None:
    repetitions = 10
    plan = secret_plan(
        template,
        models,
        rows=cells // (2 * repetitions),
        techniques=("plain", "base64"),
        repetitions=repetitions,
        concurrency=concurrency,
    )
    before = running.usages()
    started = time.perf_counter()
    run = await launched(running.admin, plan, name=f"bench {title} {time.time()}")
    over = await finished(running.admin, run.id, timeout_s=600)
    run_s = time.perf_counter() - started
    with psycopg.connect(running.urls.database_url, autocommit=True) as connection:

        async def drained() -> bool:
            row = connection.execute(
                """SELECT (SELECT count(*) FROM ops.outbox)
                        + (SELECT count(*) FROM audit.pending)
                        + (SELECT count(*) FROM telemetry.batches WHERE state = 'waiting')"""
            ).fetchone()
            return row is not None and row[0] == 0

        await until(drained)
    whole_s = time.perf_counter() - started
    after = running.usages()
    if show:
        assert over.counts.recorded == cells, over.counts
        _print(title, cells, run_s, whole_s, before, after)


def _print(
    title: str,
    cells: int,
    run_s: float,
    whole_s: float,
    before: dict[str, Usage],
    after: dict[str, Usage],
) -> None:
    per_1000 = {name: (after[name].cpu_s - before[name].cpu_s) * 1000 / cells for name in after}
    counted = sum(cost for name, cost in per_1000.items() if name != "target")
    print(
        f"\n{title}: {cells} executions, {cells / run_s:.0f}/s ({run_s:.1f} s; all drained and sealed {whole_s:.1f} s)"
    )
    rows: list[tuple[str, Any, Any]] = [
        (name, f"{cost:.3f}", f"{after[name].peak / 2**20:.0f}") for name, cost in per_1000.items()
    ]
    print(f"  {'part':12} {'CPU-s/1000':>10} {'peak MiB':>9}")
    for name, cost, peak in rows:
        print(f"  {name:12} {cost:>10} {peak:>9}")
    print(f"  {'counted':12} {counted:>10.3f}   (without the target)")
