"""How budgets stand now: for those who ask, and for a launch."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from chimera.accounting.windows import Purse, window_end
from chimera.db import Nothing, Tx, sql
from chimera.faults import Exhausted, NotFound
from chimera.rows import decimal_text
from chimera.v1.budgets_pb2 import (
    BudgetLimits,
    BudgetScope,
    Remaining,
)

LIST_STANDINGS = sql(
    dict,
    """
    SELECT b.scope_kind, b.scope_id, b.period, d.window_start,
           least(b.requests_max, b.own_requests_max) AS requests_max,
           least(b.cost_max, b.own_cost_max) AS cost_max,
           COALESCE(w.requests_settled, 0) AS requests_settled,
           COALESCE(w.requests_held, 0) AS requests_held,
           COALESCE(w.cost_settled, 0) AS cost_settled, COALESCE(w.cost_held, 0) AS cost_held
      FROM unnest(%(kinds)s::text[], %(ids)s::uuid[]) WITH ORDINALITY AS s (scope_kind, scope_id, place)
      JOIN accounting.budgets b USING (scope_kind, scope_id)
     CROSS JOIN LATERAL (
        SELECT CASE b.period WHEN 'daily' THEN t.today ELSE date_trunc('month', t.today)::date END AS window_start
          FROM (SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date AS today) t) d
      LEFT JOIN accounting.windows w ON w.scope_kind = b.scope_kind AND w.scope_id = b.scope_id
       AND w.period = b.period AND w.window_start = d.window_start
     WHERE b.org_id = %(org_id)s::uuid
     ORDER BY s.place, b.period
    """,
)


async def _standings(tx: Tx, scopes: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    listed = list(dict.fromkeys(scopes))
    return await tx.all(
        LIST_STANDINGS,
        org_id=tx.call.caller.org_id,
        kinds=[kind for kind, _ in listed],
        ids=[id_ for _, id_ in listed],
    )


LIST_OWN_KEYS = sql(
    dict,
    """
    SELECT 'api_key' AS kind, id FROM identity.api_keys
     WHERE org_id = %(org_id)s::uuid AND user_id = %(user_id)s::uuid AND is_active
    UNION ALL
    SELECT 'provider_key', id FROM providers.provider_keys
     WHERE org_id = %(org_id)s::uuid AND user_id = %(user_id)s::uuid AND is_active
    """,
)

FIND_CAMPAIGN = sql(
    str, "SELECT id FROM campaigns.campaigns WHERE id = %(campaign_id)s AND org_id = %(org_id)s"
)


async def get_remaining(tx: Tx, campaign_id: str) -> list[Remaining]:
    """Of every budget a call of the caller would be under. Raises NotFound(CAMPAIGN_NOT_FOUND)."""
    caller = tx.call.caller
    scopes = [("organisation", caller.org_id), ("user", caller.user_id)]
    keys = await tx.all(LIST_OWN_KEYS, org_id=caller.org_id, user_id=caller.user_id)
    scopes += [(row["kind"], row["id"]) for row in keys]
    if campaign_id:
        if not await tx.one(FIND_CAMPAIGN, campaign_id=campaign_id, org_id=caller.org_id):
            raise NotFound("CAMPAIGN_NOT_FOUND", "There is no such campaign.")
        scopes.append(("campaign", campaign_id))
    return [_remaining(row) for row in await _standings(tx, scopes)]


def _remaining(row: dict[str, Any]) -> Remaining:
    limits = BudgetLimits(requests_max=row["requests_max"])
    found = Remaining(
        scope=BudgetScope(
            kind=f"BUDGET_SCOPE_KIND_{row['scope_kind'].upper()}", id=row["scope_id"]
        ),
        period=f"BUDGET_PERIOD_{row['period'].upper()}",
        requests_settled=row["requests_settled"],
        requests_held=row["requests_held"],
        cost_settled_usd=decimal_text(row["cost_settled"]),
        cost_held_usd=decimal_text(row["cost_held"]),
    )
    start = datetime.combine(row["window_start"], datetime.min.time(), UTC)
    found.window_start.FromDatetime(start)
    found.window_end.FromDatetime(window_end(row["period"], row["window_start"]))
    if row["requests_max"] is not None:
        used = row["requests_settled"] + row["requests_held"]
        found.requests_left = max(0, row["requests_max"] - used)
    if row["cost_max"] is not None:
        limits.cost_usd_max = decimal_text(row["cost_max"])
        left = row["cost_max"] - row["cost_settled"] - row["cost_held"]
        found.cost_left_usd = decimal_text(max(Decimal(0), left))
    found.limits.CopyFrom(limits)
    return found


# Whoever sets a budget takes it for itself: no run is made that a new budget does not know of.
LOCK_LAUNCH = sql(
    Nothing,
    "SELECT pg_advisory_xact_lock_shared(hashtextextended('budgets ' || %(org_id)s::text, 0))",
)


async def admit_launch(tx: Tx, purse: Purse, provider_key_ids: Iterable[str]) -> bool:
    """Whether any budget concerns the run. Raises Exhausted(BUDGET_SPENT) when one has nothing
    left."""
    await tx.run(LOCK_LAUNCH, org_id=purse.org_id)
    scopes = [scope for key_id in provider_key_ids for scope in purse.scopes(key_id)]
    rows = await _standings(tx, scopes)
    for row in rows:
        requests_max, cost_max = row["requests_max"], row["cost_max"]
        if (
            requests_max is not None
            and row["requests_settled"] + row["requests_held"] >= requests_max
        ) or (cost_max is not None and row["cost_settled"] + row["cost_held"] >= cost_max):
            raise _spent(row)
    return bool(rows)


def _spent(row: dict[str, Any]) -> Exhausted:
    end = window_end(row["period"], row["window_start"])
    return Exhausted(
        "BUDGET_SPENT",
        f"Nothing is left of {name_of(row['scope_kind'], row['period'])} until"
        f" {end:%Y-%m-%d %H:%M} UTC; an administrator can raise it.",
        facts={
            "subject": f"{row['scope_kind']}:{row['scope_id']}",
            "period": row["period"],
            "window_end": end.isoformat(),
        },
        retry_after_s=max(1.0, (end - datetime.now(UTC)).total_seconds()),
    )


def name_of(scope_kind: str, period: str) -> str:
    """Such as: the daily budget of the provider key."""
    return f"the {period} budget of the {scope_kind.replace('_', ' ').replace('api', 'API')}"
