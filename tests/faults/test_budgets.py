"""Many workers and campaigns against one small budget, while things break."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
import redis

from chimera.accounting.usage import aggregate_usage
from chimera.core import open_core
from chimera.embedded.stack import Stack
from chimera.settings import Settings
from chimera.v1.budgets_pb2 import BudgetPeriod, BudgetScope, BudgetScopeKind
from chimera.v1.campaigns_pb2 import CampaignPlan, RunState
from chimera.v1.routes_pb2 import RouteStep, RouteStrategy
from tests.support.accounting import limit, recount, waiting
from tests.support.campaigns import assistant_models
from tests.support.clock import Clock, clock
from tests.support.workers import Stage, open_stage, until
from tests.support.world import World

__all__ = ["clock"]  # a fixture

ORGANISATION = BudgetScope(kind=BudgetScopeKind.BUDGET_SCOPE_KIND_ORGANISATION)
PERSON = BudgetScope(kind=BudgetScopeKind.BUDGET_SCOPE_KIND_USER)
DAILY, MONTHLY = BudgetPeriod.BUDGET_PERIOD_DAILY, BudgetPeriod.BUDGET_PERIOD_MONTHLY


class Watchman:
    """Looks at the windows again and again: none may ever be over its limit."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.looks = stage, 0
        self.task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            await recount(self.stage)
            over = await self.stage.books.rows(
                "SELECT * FROM accounting.windows WHERE requests_settled + requests_held > requests_max"
                " OR cost_settled + cost_held > cost_max"
            )
            assert not over, over
            self.looks += 1
            await asyncio.sleep(0.01)

    async def content(self) -> int:
        """How often he looked and found nothing."""
        if self.task.done():
            self.task.result()
        self.task.cancel()
        return self.looks


async def test_many_workers_share_one_small_budget(stage: Stage) -> None:
    """Three workers, four campaigns, a budget of calls and one of money, and Redis flushed in the
    middle: at no moment is more settled and held than allowed, and in the end exactly as many calls
    have arrived as the budget has."""
    plan = await stage.plan(rows=40, repetitions=2, concurrency=16)
    await limit(stage.olivia, ORGANISATION, DAILY, requests=150)
    await limit(stage.olivia, PERSON, MONTHLY, cost="100")
    await stage.assistant.forget_stats()
    runs = [await stage.launched(plan, f"campaign {number}") for number in range(4)]
    watchman = Watchman(stage)
    for _ in range(3):
        stage.worker()
    await stage.arrivals(runs[0].id, 10)
    redis.Redis.from_url(stage.settings.redis_url.get_secret_value()).flushall()
    for run in runs:
        await waiting(stage, run.id)
    assert await watchman.content() > 10
    arrived = [(await stage.assistant.arrived(run.id)).total() for run in runs]
    # What a worker lost its lease over is booked, whether or not it had gone out.
    unknown = [len(await stage.books.attempts(run.id, "unknown")) for run in runs]
    assert 150 - sum(unknown) <= sum(arrived) <= 150
    rows = await stage.books.rows("SELECT * FROM accounting.windows WHERE period = 'daily'")
    assert [(row["requests_settled"], row["requests_held"]) for row in rows] == [(150, 0)]
    for run in runs:
        await stage.books.check(run.id)
    alerts = (await stage.olivia.alerts.ListAlerts()).alerts
    assert sorted(alert.threshold_percentage for alert in alerts) == [80, 90, 100]


async def test_a_killed_worker_leaves_no_phantom_holds(stage: Stage) -> None:
    """kill -9 with calls in the air: their holds become what they may have cost, in the window of
    their day, and nothing stays held; the budget is never exceeded by it."""
    plan = await stage.plan(rows=20, repetitions=2, concurrency=8)
    await limit(stage.olivia, ORGANISATION, DAILY, requests=60)
    await limit(stage.olivia, ORGANISATION, MONTHLY, cost="0.02")
    await stage.assistant.slow(80)
    first = stage.worker()
    run = await stage.launched(plan)
    watchman = Watchman(stage)
    await stage.results(run.id, 16)
    await first.kill()
    lost = await stage.books.attempts(run.id, "sent")
    assert lost
    held = await stage.books.value("SELECT sum(requests_held) FROM accounting.windows")
    assert held == 2 * len(lost)

    stage.worker()
    await waiting(stage, run.id)
    assert await watchman.content() > 10
    unknown = await stage.books.attempts(run.id, "unknown")
    assert len(unknown) == len(lost)
    rows = await stage.books.rows("SELECT * FROM accounting.windows ORDER BY period")
    assert [row["requests_held"] for row in rows] == [0, 0]
    assert [row["cost_held"] for row in rows] == [Decimal(0), Decimal(0)]
    assert rows[0]["requests_settled"] == 60 or rows[1]["cost_settled"] > Decimal("0.018")
    await recount(stage)


async def test_a_run_does_not_wait_for_a_lost_message(stage: Stage) -> None:
    """The budget grows while no worker runs and Redis is empty: the run goes on all the same."""
    plan = await stage.plan(rows=4, concurrency=4)
    await limit(stage.olivia, ORGANISATION, DAILY, requests=2)
    run = await stage.launched(plan)
    worker = stage.worker()
    await waiting(stage, run.id)
    await worker.terminate()
    await limit(stage.olivia, ORGANISATION, DAILY, requests=100)
    redis.Redis.from_url(stage.settings.redis_url.get_secret_value()).flushall()
    stage.worker()
    await until(lambda: _over(stage, run.id), "the run ends")


async def _over(stage: Stage, run_id: str) -> bool:
    return len(await stage.books.recorded(run_id)) == 8


async def routed(stage: Stage) -> CampaignPlan:
    """A plan whose only target is a route over two providers, each with a key of its own."""
    plan = await stage.plan(rows=20, concurrency=6)
    first = plan.targets[0].model_id
    url = stage.stack.assistant_url
    second = (await assistant_models(stage.olivia, url, ["guard-keyword"], name="second"))[0]
    route = await stage.olivia.routes.CreateRoute(
        name="main",
        strategy=RouteStrategy.ROUTE_STRATEGY_ORDERED,
        steps=[RouteStep(model_id=first), RouteStep(model_id=second)],
    )
    del plan.targets[:]
    plan.targets.add(route_id=route.route.id)
    return plan


async def test_a_route_goes_over_two_keys(stage: Stage) -> None:
    """The first model is down and the second has a key of its own with a small budget; a worker is
    killed on the way. Each call counts with the key it went out with, what is held for the rest of
    the route is given back, and the run goes on when the second key has room again."""
    plan = await routed(stage)
    keys = await stage.books.rows(
        "SELECT k.id::text, p.name FROM providers.provider_keys k"
        " JOIN providers.providers p ON p.id = k.provider_id ORDER BY k.id"
    )
    scopes = [
        BudgetScope(kind=BudgetScopeKind.BUDGET_SCOPE_KIND_PROVIDER_KEY, id=key["id"])
        for key in keys
    ]
    await limit(stage.olivia, ORGANISATION, DAILY, cost="1")
    await limit(stage.olivia, scopes[0], DAILY, requests=1000, cost="1")
    await limit(stage.olivia, scopes[1], DAILY, requests=25, cost="1")
    await stage.assistant.fault({"kind": "cut", "model": "guard-none"})
    await stage.assistant.slow(30)
    watchman = Watchman(stage)
    worker = stage.worker()
    run = await stage.launched(plan)
    await stage.results(run.id, 5)
    await worker.kill()
    stage.worker()
    assert "provider key" in (await waiting(stage, run.id)).state_reason
    assert (await stage.assistant.stats())["calls"]["guard-keyword"] <= 25
    await recount(stage)

    await limit(stage.olivia, scopes[1], DAILY, requests=1000, cost="1")
    over = await stage.over(run.id)
    assert (over.counts.scored, over.counts.failed) == (40, 0)
    assert await watchman.content() > 10
    await stage.books.check(run.id, cells=40)
    await recount(stage)
    attempts = await stage.books.attempts(run.id)
    assert any(attempt["reserve"] > 0 for attempt in attempts)
    went = Counter(
        str(attempt["provider_key_id"])
        for attempt in attempts
        if attempt["error_kind"] != "not_sent"
    )
    rows = await stage.books.rows(
        "SELECT scope_id::text, requests_settled, requests_held, cost_held"
        " FROM accounting.windows WHERE scope_kind = 'provider_key'"
    )
    assert {row["scope_id"]: row["requests_settled"] for row in rows} == went
    assert {(row["requests_held"], row["cost_held"]) for row in rows} == {(0, Decimal(0))}


async def test_a_killed_worker_holds_nothing_for_the_rest_of_a_route(stage: Stage) -> None:
    """What its calls may have cost is booked; what was held for the models after them comes back."""
    plan = await routed(stage)
    await limit(stage.olivia, ORGANISATION, DAILY, cost="1")
    await stage.assistant.fault({"kind": "hang"})
    worker = stage.worker()
    run = await stage.launched(plan)
    await stage.arrivals(run.id, 4)
    watchman = Watchman(stage)
    await worker.kill()
    lost = await stage.books.attempts(run.id, "sent")
    assert lost and all(attempt["reserve"] > 0 for attempt in lost)
    await stage.assistant.heal()
    stage.worker()
    await stage.over(run.id)
    assert await watchman.content() > 10
    await recount(stage)
    rows = await stage.books.rows("SELECT requests_held, cost_held FROM accounting.windows")
    assert [(row["requests_held"], row["cost_held"]) for row in rows] == [(0, Decimal(0))]


async def test_a_wait_for_one_key_notices_the_other_model(stage: Stage) -> None:
    """The first model is down and the budget of the second one's key is spent, so the run waits. When
    the first is back the run goes on with it, though the other budget stays spent all day."""
    plan = await routed(stage)
    keys = await stage.books.rows("SELECT k.id::text FROM providers.provider_keys k ORDER BY k.id")
    second = BudgetScope(kind=BudgetScopeKind.BUDGET_SCOPE_KIND_PROVIDER_KEY, id=keys[1]["id"])
    await limit(stage.olivia, second, DAILY, requests=5)
    await stage.assistant.fault({"kind": "cut", "model": "guard-none"})
    stage.worker()
    run = await stage.launched(plan)
    assert "provider key" in (await waiting(stage, run.id)).state_reason
    rows = await stage.books.rows("SELECT other_models, other_keys FROM accounting.waits")
    first_model = await stage.books.value(
        "SELECT id FROM providers.models WHERE name = 'guard-none'"
    )
    assert rows == [{"other_models": [first_model], "other_keys": [UUID(keys[0]["id"])]}]

    await stage.assistant.heal()

    async def over() -> bool:
        # It looks every half minute; the test does not wait for that.
        await stage.books.rows(
            "UPDATE accounting.waits SET created_at = created_at - interval '1 minute' RETURNING run_id"
        )
        return (await stage.run(run.id)).state == RunState.RUN_STATE_COMPLETED

    await until(over, "the run goes on with its first model", every_s=0.3)
    await stage.books.check(run.id, cells=40)
    await recount(stage)
    spent = await stage.books.rows("SELECT requests_settled, requests_max FROM accounting.windows")
    assert spent == [{"requests_settled": 5, "requests_max": 5}]


@pytest.fixture
async def timeless(
    clock: Clock, world: World, running_stack: Stack, settings: Settings, tmp_path: Path
) -> AsyncIterator[Stage]:
    """A stage whose database's clock can be put forward and back."""
    async with open_stage(world, running_stack.urls, settings, tmp_path) as opened:
        yield opened


BOOKS = """
    SELECT (SELECT sum(cost) FROM providers.ledger) AS ledger,
           (SELECT count(*) FROM providers.ledger WHERE entry_no = 0) AS calls,
           (SELECT sum(cost) FROM accounting.usage_daily) AS daily,
           (SELECT sum(requests) FROM accounting.usage_daily) AS daily_calls,
           (SELECT sum(cost) FROM campaigns.executions) AS executions,
           (SELECT sum(cost) FROM providers.ledger WHERE discarded) AS discarded
"""
BY_DAY = """
    SELECT COALESCE(l.day, u.day) AS day, l.cost AS ledger, u.cost AS daily
      FROM (SELECT sent_on AS day, sum(cost) AS cost FROM providers.ledger GROUP BY 1) l
      FULL JOIN (SELECT day, sum(cost) AS cost FROM accounting.usage_daily GROUP BY 1) u USING (day)
     ORDER BY 1
"""


async def test_crashes_while_the_clock_jumps(timeless: Stage, clock: Clock) -> None:
    """Three campaigns on two workers that are killed one after the other, while the clock goes over
    midnights and the end of a month, and back: no window is ever exceeded, no hold is left, and
    ledger, daily usage, results and what was discarded agree to the last decimal, day by day."""
    stage, chance = timeless, random.Random(7)
    clock.jump(0)
    plan = await stage.plan(rows=12, repetitions=2, concurrency=8, attempts_max=9)
    await limit(stage.olivia, ORGANISATION, DAILY, requests=40)
    await limit(stage.olivia, ORGANISATION, MONTHLY, requests=95, cost="100")
    await limit(stage.olivia, PERSON, MONTHLY, cost="100")
    await stage.assistant.fault(
        {"kind": "latency", "ms": 25}, {"kind": "status", "status": 500, "next": 12}
    )
    runs = [await stage.launched(plan, f"campaign {number}") for number in range(3)]
    watchman = Watchman(stage)
    alive = [stage.worker(), stage.worker()]
    recorded = 0

    async def something_happened() -> bool:
        """Some more results, or everybody waits for a budget of this day or month."""
        now = await stage.books.value("SELECT count(*) FROM campaigns.executions")
        idle = await stage.books.value(
            """
            SELECT bool_and(r.state <> 'running'
                            AND COALESCE(w.until > clock_timestamp(), r.state <> 'paused'))
              FROM campaigns.runs r LEFT JOIN accounting.waits w ON w.run_id = r.id
            """
        )
        return bool(now >= recorded + 10 or idle)

    # Somebody dies only before a jump ahead: their leases are over then.
    for time_no, is_deadly in ((1, True), (2, False), (3, True), (2, False), (4, False), (5, True)):
        await until(something_happened, "calls come back, or the budget is spent")
        recorded = await stage.books.value("SELECT count(*) FROM campaigns.executions")
        if is_deadly:
            await alive.pop(chance.randrange(2)).kill()
            alive.append(stage.worker())
        clock.jump(time_no)
    await until(something_happened, "calls come back on the last day")
    assert await watchman.content() > 10
    for period in (DAILY, MONTHLY):
        await limit(stage.olivia, ORGANISATION, period, requests=1_000_000)
    for run in runs:
        await stage.over(run.id)
        await stage.books.check(run.id, cells=48)
    await recount(stage)
    rows = await stage.books.rows(
        "SELECT sum(requests_held) AS requests, sum(cost_held) AS cost FROM accounting.windows"
    )
    assert rows == [{"requests": 0, "cost": Decimal(0)}]

    for worker in alive:
        await worker.terminate()
    async with open_core(stage.settings, "worker") as core:

        async def summed() -> bool:
            await aggregate_usage(core.db)
            books = (await stage.books.rows(BOOKS))[0]
            return bool(books["calls"] == books["daily_calls"])

        await until(summed, "the ledger is summed up")
    books = (await stage.books.rows(BOOKS))[0]
    assert books["ledger"] == books["daily"] == books["executions"] + books["discarded"], books
    days = await stage.books.rows(BY_DAY)
    assert all(row["ledger"] == row["daily"] for row in days), days
    assert len(days) >= 3 and len({row["day"].month for row in days}) == 2, days
    # Reports end with the day of the database.
    assert Decimal((await stage.olivia.usage.QueryUsage()).totals.cost_usd) == books["ledger"]
    assert not (await stage.olivia.usage.ReconcileUsage()).discrepancies
