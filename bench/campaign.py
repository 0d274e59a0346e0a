"""A campaign of many single-turn executions, from Launch until outbox drained and audit sealed.

    python -m bench campaign [--cells 20000] [--latency-ms 0] [--concurrency 64]

Counts the CPU of server, worker, PostgreSQL, Redis and the ClickHouse engine; the target is apart.
"""

from __future__ import annotations

import argparse
import asyncio
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


def main(options: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench campaign")
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--latency-ms", type=int, nargs="*", default=[0, 100])
    parser.add_argument("--concurrency", type=int, default=64)
    chosen = parser.parse_args(options)
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
            _set_latency(running.urls.assistant_url, latency_ms)
            await _measure(
                running,
                template,
                models,
                chosen.cells,
                chosen.concurrency,
                f"{latency_ms} ms",
            )


def _set_latency(url: str, latency_ms: int) -> None:
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
