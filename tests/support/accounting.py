"""Budgets in tests: set one, see what is left, count everything again."""

from __future__ import annotations

from typing import Any

from chimera.v1.budgets_pb2 import Budget, BudgetLimits, BudgetScope, Remaining
from chimera.v1.campaigns_pb2 import Run, RunState
from tests.support.workers import Stage, until
from tests.support.world import Person


async def limit(
    person: Person,
    scope: BudgetScope,
    period: Any,
    *,
    requests: int | None = None,
    cost: str | None = None,
) -> Budget:
    limits = BudgetLimits(requests_max=requests, cost_usd_max=cost)
    answer = await person.budgets.SetBudget(scope=scope, period=period, limits=limits)
    budget: Budget = answer.budget
    return budget


async def remaining(person: Person, campaign_id: str = "") -> list[Remaining]:
    return list((await person.budgets.GetRemaining(campaign_id=campaign_id)).remaining)


async def waiting(stage: Stage, run_id: str) -> Run:
    """The run, once it is paused and nothing of it is in the air."""

    async def waits() -> Run | None:
        run = await stage.run(run_id)
        if run.state != RunState.RUN_STATE_PAUSED or await stage.books.attempts(run_id, "sent"):
            return None
        return run

    found: Run = await until(waits, "the run waits for its budget")
    return found


# What every window should say, by the ledger and the attempts.
RECOUNT = """
    WITH w AS (
        SELECT *, CASE period WHEN 'daily' THEN window_start + 1
                              ELSE (window_start + interval '1 month')::date END AS window_end
          FROM accounting.windows
    )
    SELECT w.scope_kind, w.period, w.window_start::text, w.requests_max, w.cost_max,
           w.requests_settled, w.cost_settled, w.requests_held, w.cost_held,
           l.requests AS ledger_requests, l.cost AS ledger_cost,
           a.requests AS sent_requests, a.cost AS sent_cost
      FROM w
     CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE entry_no = 0) AS requests, COALESCE(sum(l.cost), 0) AS cost
          FROM providers.ledger l JOIN campaigns.runs r ON r.id = l.run_id
         WHERE l.org_id = w.org_id AND l.sent_on >= w.window_start AND l.sent_on < w.window_end
           AND w.scope_id IN (r.org_id, r.launched_by, r.api_key_id, r.campaign_id, l.provider_key_id)
     ) l
     CROSS JOIN LATERAL (
        SELECT count(*) AS requests, COALESCE(sum(a.worst_cost + a.reserve), 0) AS cost
          FROM campaigns.attempts a JOIN campaigns.runs r ON r.id = a.run_id
         WHERE a.org_id = w.org_id AND a.state = 'sent'
           AND (a.sent_at AT TIME ZONE 'UTC')::date >= w.window_start
           AND (a.sent_at AT TIME ZONE 'UTC')::date < w.window_end
           AND w.scope_id IN (r.org_id, r.launched_by, r.api_key_id, r.campaign_id, a.provider_key_id)
     ) a
"""


async def recount(stage: Stage) -> int:
    """Between any two transactions, windows are what ledger and attempts say; how many."""
    rows = await stage.books.rows(RECOUNT)
    for row in rows:
        assert row["requests_settled"] == row["ledger_requests"], row
        assert row["cost_settled"] == row["ledger_cost"], row
        assert row["requests_held"] == row["sent_requests"], row
        assert row["cost_held"] == row["sent_cost"], row
    return len(rows)
