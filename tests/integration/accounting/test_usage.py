"""Usage by day equals the ledger, whatever runs how often; and what does not is found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import psycopg
import pytest

from chimera import metrics
from chimera.accounting.reconciling import reconcile_all
from chimera.accounting.usage import aggregate_usage
from chimera.core import Core, open_core
from chimera.settings import Settings
from chimera.v1.budgets_pb2 import BudgetPeriod, BudgetScope, BudgetScopeKind
from chimera.v1.campaigns_pb2 import RunState
from chimera.v1.usage_pb2 import UsageDimension
from tests.support.accounting import limit
from tests.support.workers import Stage, until

DIMENSIONS = [number for number in UsageDimension.values() if number]


@pytest.fixture
async def core(settings: Settings) -> AsyncIterator[Core]:
    async with open_core(settings, "worker") as opened:
        yield opened


async def spent(stage: Stage) -> str:
    """A finished run with some failed calls in it; its id."""
    made = await stage.plan(rows=6, repetitions=2, concurrency=8, attempts_max=8)
    await stage.assistant.fault({"kind": "status", "status": 500, "next": 3})
    run = await stage.launched(made)
    stage.worker()
    assert (await stage.over(run.id)).state == RunState.RUN_STATE_COMPLETED
    return run.id


async def test_usage_is_the_ledger_however_often_it_is_summed(stage: Stage, core: Core) -> None:
    """Before, between and after aggregations, by several at once: the report says what the ledger
    says, by every dimension, page by page."""
    run_id = await spent(stage)
    ledger = await stage.books.rows(
        "SELECT count(*) FILTER (WHERE entry_no = 0) AS requests, sum(cost) AS cost, "
        "sum(input_tokens) AS tokens FROM providers.ledger"
    )

    async def totals() -> tuple[int, Decimal, int]:
        found = (await stage.olivia.usage.QueryUsage()).totals
        return found.requests, Decimal(found.cost_usd), found.input_tokens

    expected = (ledger[0]["requests"], ledger[0]["cost"], ledger[0]["tokens"])
    assert expected[0] > 24, "no call failed"
    assert await totals() == expected
    await asyncio.gather(*(aggregate_usage(core.db) for _ in range(4)))
    await aggregate_usage(core.db)
    assert await aggregate_usage(core.db) == 0
    assert await totals() == expected
    assert (
        await stage.books.value("SELECT sum(requests) FROM accounting.usage_daily") == expected[0]
    )

    # A key's count is of calls, not of workers that opened it.
    (key,) = (await stage.olivia.providers.ListProviderKeys()).provider_keys
    assert key.usage_count == expected[0]
    assert key.last_used_at.ToNanoseconds() > key.created_at.ToNanoseconds()

    for dimension in DIMENSIONS:
        rows, token, pages = [], "", 0
        while True:
            page = await stage.olivia.usage.QueryUsage(
                group_by=[dimension], page_size=1, page_token=token
            )
            rows += page.rows
            pages += 1
            token = page.next_page_token
            if not token:
                break
        assert sum(row.sums.requests for row in rows) == expected[0]
        assert sum(Decimal(row.sums.cost_usd) for row in rows) == expected[1]
        assert pages == len(rows)
    (by_run,) = (
        await stage.olivia.usage.QueryUsage(group_by=[UsageDimension.USAGE_DIMENSION_RUN])
    ).rows
    assert by_run.run_id == run_id
    (by_provider,) = (
        await stage.olivia.usage.QueryUsage(group_by=[UsageDimension.USAGE_DIMENSION_PROVIDER])
    ).rows
    assert (by_provider.provider, by_provider.provider_id) == ("assistant", key.provider_id)
    techniques = (
        await stage.olivia.usage.QueryUsage(group_by=[UsageDimension.USAGE_DIMENSION_TECHNIQUE])
    ).rows
    assert [row.technique for row in techniques] == ["base64", "plain"]


async def test_people_see_their_own_usage(stage: Stage) -> None:
    """Administrators see everybody's, others what they used themselves."""
    await spent(stage)
    ursula = await stage.acme.person("ursula")
    assert (await ursula.usage.QueryUsage()).totals.requests == 0
    found = await ursula.usage.QueryUsage(user_id=stage.olivia.user_id)
    assert (found.totals.requests, len(found.rows)) == (0, 0)


async def test_books_that_hold_are_proven_and_a_wrong_digit_is_found(
    stage: Stage, core: Core
) -> None:
    """Every sum is counted again. One unit in the last decimal, one request, one lost ledger row:
    each is named by the check that it breaks."""
    organisation = BudgetScope(kind=BudgetScopeKind.BUDGET_SCOPE_KIND_ORGANISATION)
    await limit(stage.olivia, organisation, BudgetPeriod.BUDGET_PERIOD_MONTHLY, requests=10_000)
    await spent(stage)
    await aggregate_usage(core.db)
    whole = await stage.olivia.usage.ReconcileUsage()
    assert not whole.discrepancies
    assert whole.compared >= 5
    assert await reconcile_all(core.db) == 0

    for check, damage in (
        ("usage", "UPDATE accounting.usage_daily SET cost = cost + 0.000000000001"),
        ("window", "UPDATE accounting.windows SET requests_settled = requests_settled - 1"),
        ("window", "UPDATE accounting.windows SET cost_held = 0.000000000001"),
        ("run", "UPDATE campaigns.run_money SET held = 0.000000000001"),
        ("executions", "UPDATE campaigns.executions SET cost = 0 WHERE cell_no = 0"),
        ("key", "UPDATE providers.key_usage SET requests = requests + 1"),
    ):
        async with await psycopg.AsyncConnection.connect(stage.books.url) as connection:
            assert (await connection.execute(damage.encode())).rowcount
        found = (await stage.olivia.usage.ReconcileUsage()).discrepancies
        assert check in {item.check for item in found}, damage
    assert await reconcile_all(core.db) >= 4
    assert metrics.USAGE_DISCREPANCIES.labels("window")._value.get() == 1


async def test_corrections_reach_the_day_of_their_call(stage: Stage, core: Core) -> None:
    """A worker freezes, its calls are booked at their worst and summed up; when it wakes, what they
    really cost follows as corrections, and the sums with it."""
    plan = await stage.plan(rows=20, repetitions=2, concurrency=8)
    await stage.assistant.slow(300)
    frozen = stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 16)
    frozen.freeze()
    stage.worker()
    assert (await stage.over(run.id)).state == RunState.RUN_STATE_COMPLETED
    await aggregate_usage(core.db)
    # From the ledger: a transaction that was frozen half-way holds the aggregation back.
    at_worst = await stage.books.value("SELECT sum(cost) FROM providers.ledger")
    frozen.thaw()

    async def corrected() -> bool:
        return bool(
            await stage.books.value(
                "SELECT count(*) FROM providers.ledger WHERE kind = 'correction'"
            )
        )

    async def known() -> bool:
        return not await stage.books.attempts(run.id, "unknown")

    await until(corrected, "what was unknown is corrected")
    await until(known, "nothing is unknown any more")
    await aggregate_usage(core.db)
    assert await stage.books.value("SELECT sum(cost) FROM accounting.usage_daily") < at_worst
    assert not (await stage.olivia.usage.ReconcileUsage()).discrepancies
