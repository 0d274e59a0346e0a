"""What budgets cost: reserving and settling against six windows, and a campaign with and without.

    python -m bench budgets [--cells 10000]

The floor of a reservation is the same rows locked and moved by raw SQL in a transaction of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg

from bench.campaign import _measure
from bench.installation import Installation, installation
from bench.processes import usage
from chimera.accounting.windows import Purse, Settled, Want, day_of, move
from chimera.call import Call
from chimera.core import Core, open_core
from chimera.v1.budgets_pb2 import BudgetLimits, BudgetPeriod, BudgetScope, BudgetScopeKind
from tests.support.campaigns import assistant_models, secret_template

ROUNDS, PER_SECOND, SECONDS = 400, 200, 5
WORST, COST = Decimal("0.0004"), Decimal("0.0001")


def main(options: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench budgets")
    parser.add_argument("--cells", type=int, default=10_000)
    asyncio.run(_run(parser.parse_args(options).cells))


async def _run(cells: int) -> None:
    async with installation() as running:
        models = await assistant_models(
            running.admin, running.urls.assistant_url, ["guard-keyword"]
        )
        template = await secret_template(running.admin)
        await _measure(running, template, models, 1000, 64, "warm-up", show=False)
        for title in ("without budgets", "under four windows"):
            await _measure(running, template, models, cells, 64, title)
            await _limit_everything(running)
        async with open_core(running.settings, "worker") as core:
            purse = await _purse(running)
            for size in (1, 16, 64):
                await _throughput(running, core, purse, size)
            await _latency(core, purse)


async def _limit_everything(running: Installation) -> None:
    me = running.admin
    for kind in (
        BudgetScopeKind.BUDGET_SCOPE_KIND_ORGANISATION,
        BudgetScopeKind.BUDGET_SCOPE_KIND_USER,
    ):
        for period in (BudgetPeriod.BUDGET_PERIOD_DAILY, BudgetPeriod.BUDGET_PERIOD_MONTHLY):
            await me.budgets.SetBudget(
                scope=BudgetScope(kind=kind),
                period=period,
                limits=BudgetLimits(requests_max=10**12, cost_usd_max="9999999"),
            )


async def _purse(running: Installation) -> Purse:
    """The administrator's last campaign, with two windows of its own."""
    campaign = (await running.admin.campaigns.ListCampaigns()).campaigns[0]
    for period in (BudgetPeriod.BUDGET_PERIOD_DAILY, BudgetPeriod.BUDGET_PERIOD_MONTHLY):
        await running.admin.budgets.SetBudget(
            scope=BudgetScope(kind=BudgetScopeKind.BUDGET_SCOPE_KIND_CAMPAIGN, id=campaign.id),
            period=period,
            limits=BudgetLimits(requests_max=10**12, cost_usd_max="9999999"),
        )
    with psycopg.connect(running.urls.database_url) as connection:
        row = connection.execute(
            "SELECT org_id::text, created_by::text FROM campaigns.campaigns WHERE id = %s",
            [campaign.id],
        ).fetchone()
    assert row is not None
    return Purse(row[0], row[1], campaign.id)


async def _reserve(core: Core, purse: Purse, size: int) -> None:
    """Settles a batch and holds the next, as a tick does."""
    async with core.db.begin(Call.by_worker("bench", purse.org_id)) as tx:
        at = datetime.now(UTC)
        back = [Settled(None, day_of(at), size, WORST * size, size, COST * size)]
        await move(tx, purse, at, back, [Want("", WORST)] * size)


async def _throughput(running: Installation, core: Core, purse: Purse, size: int) -> None:
    today = datetime.now(UTC).date()
    connection = await psycopg.AsyncConnection.connect(
        core.settings.role_url("worker"), autocommit=True
    )
    keys = list(purse.windows(None, today))

    async def raw() -> None:
        async with connection.transaction():
            await connection.execute("SELECT set_config('app.org_id', %s, true)", [purse.org_id])
            for key in keys:
                await connection.execute(
                    "UPDATE accounting.windows SET requests_settled = requests_settled + %s,"
                    " cost_settled = cost_settled + %s WHERE scope_kind = %s AND scope_id = %s"
                    " AND period = %s AND window_start = %s",
                    [0, 0, *key],
                )

    for title, body in (("move", lambda: _reserve(core, purse, size)), ("raw SQL", raw)):
        mine, theirs, took_s = await _costs(running, body)
        calls = ROUNDS * size
        print(
            f"{title:8} batch {size:3}: {ROUNDS / took_s:6.0f} transactions/s, per 1,000 calls "
            f"{mine * 1e6 / calls:7.1f} CPU-ms here, {theirs * 1e6 / calls:7.1f} in PostgreSQL"
        )
    await connection.close()


async def _costs(
    running: Installation, body: Callable[[], Awaitable[Any]]
) -> tuple[float, float, float]:
    postgres = running.stack.pid("postgres")
    for _ in range(20):
        await body()
    here, there, clock = time.process_time(), usage(postgres).cpu_s, time.perf_counter()
    for _ in range(ROUNDS):
        await body()
    return (
        time.process_time() - here,
        usage(postgres).cpu_s - there,
        time.perf_counter() - clock,
    )


async def _latency(core: Core, purse: Purse) -> None:
    """Single calls at a steady rate: what reserving and settling adds to each."""
    took: list[float] = []

    places = asyncio.Semaphore(8)  # connections

    async def one() -> None:
        clock = time.perf_counter()
        async with places:
            await _reserve(core, purse, 1)
        took.append((time.perf_counter() - clock) * 1000)

    tasks = []
    started = time.perf_counter()
    for number in range(PER_SECOND * SECONDS):
        await asyncio.sleep(max(0.0, started + number / PER_SECOND - time.perf_counter()))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    took.sort()
    print(
        f"{PER_SECOND} single calls a second: p50 {took[len(took) // 2]:.1f} ms, "
        f"p99 {took[len(took) * 99 // 100]:.1f} ms, load {os.getloadavg()[0]:.1f}"
    )
