"""Budgets as people set them: administrators for everything, others tighter ones for what is theirs.

What must stay true: while a budget changes, nothing it concerns moves money. The organisation's lock
keeps launches out, and the money rows of all runs it concerns are held; under them the windows are
counted out of ledger and attempts, so a budget that is set at noon knows of the morning. A window that
a call opens later begins at nothing, for all that was sent before is in windows already.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from chimera.accounting.alerts import (
    Standing,
    level_of,
    note_level,
    raise_alerts,
    sees_everyone,
)
from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import Denied, Invalid, NotFound, Violation
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.rows import enum_text
from chimera.updates import check_etag
from chimera.v1.budgets_pb2 import (
    Budget,
    BudgetLimits,
    BudgetScope,
    ListBudgetsRequest,
    SetBudgetRequest,
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a budget is about, and whom it concerns beside the administrators."""

    kind: str
    id: str
    owner_id: str | None


FIND_OWNER = sql(
    dict,
    """
    SELECT user_id AS owner_id FROM identity.memberships
     WHERE %(kind)s = 'user' AND org_id = %(org_id)s::uuid AND user_id = %(id)s::uuid
    UNION ALL
    SELECT user_id FROM identity.api_keys
     WHERE %(kind)s = 'api_key' AND org_id = %(org_id)s::uuid AND id = %(id)s::uuid
    UNION ALL
    SELECT user_id FROM providers.provider_keys
     WHERE %(kind)s = 'provider_key' AND org_id = %(org_id)s::uuid AND id = %(id)s::uuid
    UNION ALL
    SELECT created_by FROM campaigns.campaigns
     WHERE %(kind)s = 'campaign' AND org_id = %(org_id)s::uuid AND id = %(id)s::uuid
    """,
)


async def get_scope(tx: Tx, scope: BudgetScope) -> Scope:
    """Raises NotFound(SCOPE_NOT_FOUND)."""
    caller = tx.call.caller
    kind = enum_text(scope, "kind", scope.kind) or ""
    if kind == "organisation" and scope.id in ("", caller.org_id):
        return Scope(kind, caller.org_id, None)
    id_ = scope.id or (caller.user_id if kind == "user" else "")
    row = None
    if id_ and kind != "organisation":
        row = await tx.one(FIND_OWNER, kind=kind, id=id_, org_id=caller.org_id)
    if row is None:
        raise NotFound("SCOPE_NOT_FOUND", f"There is no such {kind.replace('_', ' ')}.")
    return Scope(kind, id_, row["owner_id"])


def check_may_limit(tx: Tx, owner_id: str | None, scope_kind: str) -> bool:
    """Whether the caller sets the limits of administrators; else it sets its own.

    Raises Denied(BUDGET_NOT_YOURS); NotFound for other people's keys, which nobody else sees.
    """
    if sees_everyone(tx):
        return True
    if owner_id != tx.call.caller.user_id:
        if scope_kind in ("api_key", "provider_key"):
            raise NotFound("SCOPE_NOT_FOUND", f"You have no such {scope_kind.replace('_', ' ')}.")
        raise Denied(
            "BUDGET_NOT_YOURS", "Only administrators set budgets for others and the organisation."
        )
    return False


# Launches take it shared.
LOCK_ORGANISATION = sql(
    Nothing, "SELECT pg_advisory_xact_lock(hashtextextended('budgets ' || %(org_id)s::text, 0))"
)

# All runs whose money can still move: a call takes minutes, not a day.
LOCK_RUNS = sql(
    Nothing,
    """
    WITH l AS MATERIALIZED (
        SELECT m.run_id
          FROM campaigns.runs r JOIN campaigns.run_money m ON m.run_id = r.id
         WHERE r.org_id = %(org_id)s::uuid
           AND (r.state IN ('running', 'paused') OR r.finished_at > now() - interval '1 day')
           AND CASE %(kind)s WHEN 'user' THEN r.launched_by = %(id)s::uuid
                             WHEN 'api_key' THEN r.api_key_id = %(id)s::uuid
                             WHEN 'campaign' THEN r.campaign_id = %(id)s::uuid ELSE true END
         ORDER BY m.run_id FOR NO KEY UPDATE OF m
    )
    UPDATE campaigns.run_money m SET budgeted = true FROM l WHERE m.run_id = l.run_id
    """,
)


async def _lock(tx: Tx, kind: str, id_: str) -> None:
    org_id = tx.call.caller.org_id
    await tx.run(LOCK_ORGANISATION, org_id=org_id)
    await tx.run(LOCK_RUNS, org_id=org_id, kind=kind, id=id_)


SELECT_BUDGET = """
    SELECT id, jsonb_build_object('kind', 'BUDGET_SCOPE_KIND_' || upper(scope_kind), 'id', scope_id) AS scope,
           period, jsonb_strip_nulls(jsonb_build_object('requests_max', requests_max,
                'cost_usd_max', trim_scale(cost_max)::text)) AS limits,
           jsonb_strip_nulls(jsonb_build_object('requests_max', own_requests_max,
                'cost_usd_max', trim_scale(own_cost_max)::text)) AS own_limits,
           COALESCE(owner_id::text, '') AS owner_id, set_by, created_at, updated_at,
           md5((requests_max, cost_max, own_requests_max, own_cost_max)::text) AS etag
      FROM accounting.budgets
     WHERE org_id = %(org_id)s::uuid
"""

FIND_BUDGET = sql(
    Budget,
    SELECT_BUDGET
    + " AND scope_kind = %(kind)s AND scope_id = %(id)s::uuid AND period = %(period)s",
)

UPSERT_BUDGET = sql(
    Nothing,
    """
    INSERT INTO accounting.budgets AS b (id, org_id, scope_kind, scope_id, period, requests_max,
        cost_max, own_requests_max, own_cost_max, owner_id, set_by)
    VALUES (%(id)s, %(org_id)s, %(kind)s, %(scope_id)s, %(period)s,
        CASE WHEN %(manages)s THEN %(requests_max)s::bigint END,
        CASE WHEN %(manages)s THEN %(cost_max)s::numeric END,
        CASE WHEN NOT %(manages)s THEN %(requests_max)s::bigint END,
        CASE WHEN NOT %(manages)s THEN %(cost_max)s::numeric END, %(owner_id)s, %(set_by)s)
    ON CONFLICT (scope_kind, scope_id, period) DO UPDATE
       SET requests_max = CASE WHEN %(manages)s THEN EXCLUDED.requests_max ELSE b.requests_max END,
           cost_max = CASE WHEN %(manages)s THEN EXCLUDED.cost_max ELSE b.cost_max END,
           own_requests_max = CASE WHEN %(manages)s THEN b.own_requests_max
                                   ELSE EXCLUDED.own_requests_max END,
           own_cost_max = CASE WHEN %(manages)s THEN b.own_cost_max ELSE EXCLUDED.own_cost_max END,
           set_by = EXCLUDED.set_by
    """,
)


async def set_budget(tx: Tx, request: SetBudgetRequest) -> Budget:
    """Raises NotFound(SCOPE_NOT_FOUND), Denied(BUDGET_NOT_YOURS), Invalid(BUDGET_ABOVE_CEILING),
    Conflict(ETAG_MISMATCH)."""
    scope = await get_scope(tx, request.scope)
    manages = check_may_limit(tx, scope.owner_id, scope.kind)
    period = enum_text(request, "period", request.period) or ""
    await tx.see_all_campaigns()
    await _lock(tx, scope.kind, scope.id)
    caller, key = tx.call.caller, {"kind": scope.kind, "id": scope.id, "period": period}
    old = await tx.one(FIND_BUDGET, org_id=caller.org_id, **key)
    check_etag(request.etag, old.etag if old is not None else "")
    limits = request.limits
    if not manages and old is not None:
        _check_ceiling(limits, old.limits)
    await tx.run(
        UPSERT_BUDGET,
        id=new_id(),
        org_id=caller.org_id,
        kind=scope.kind,
        scope_id=scope.id,
        period=period,
        manages=manages,
        requests_max=limits.requests_max if limits.HasField("requests_max") else None,
        cost_max=Decimal(limits.cost_usd_max) if limits.HasField("cost_usd_max") else None,
        owner_id=scope.owner_id,
        set_by=caller.user_id,
    )
    budget = await tx.one(FIND_BUDGET, org_id=caller.org_id, **key)
    assert budget is not None
    await _open_windows(tx, scope.kind, scope.id, period)
    record(tx, "budget.set", "budget", budget.id, old=_facts(old), new=_facts(budget))
    return budget


def _check_ceiling(wanted: BudgetLimits, ceiling: BudgetLimits) -> None:
    for name in ("requests_max", "cost_usd_max"):
        if not (wanted.HasField(name) and ceiling.HasField(name)):
            continue
        highest = getattr(ceiling, name)
        if Decimal(getattr(wanted, name)) > Decimal(highest):
            raise Invalid(
                "BUDGET_ABOVE_CEILING",
                f"An administrator set {highest}; you may set less, not more.",
                facts={"ceiling": str(highest)},
                violations=[
                    Violation(f"limits.{name}", f"at most {highest}", "BUDGET_ABOVE_CEILING")
                ],
            )


@dataclass(frozen=True, slots=True)
class Opened(Standing):
    """A window with the limits as they are now. is_current: the clock is in it."""

    is_current: bool


# What windows hold already: usage up to the watermark, the ledger after it, and the calls in flight,
# which are in open shards that somebody holds or held. The window of now, and each other in which
# there were calls: a clock that is put back over midnight, or that was ahead until now, comes back to
# them. Those of days before the last month stay uncounted.
OPEN_WINDOWS = sql(
    Opened,
    """
    WITH b AS MATERIALIZED (
        SELECT b.*, d.today,
               CASE b.period WHEN 'daily' THEN d.today ELSE date_trunc('month', d.today)::date END AS start,
               (date_trunc('month', d.today) - interval '1 month')::date AS since
          FROM accounting.budgets b
         CROSS JOIN (SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date AS today) d
         WHERE b.scope_kind = %(kind)s AND b.scope_id = %(id)s::uuid AND b.period = %(period)s
    ), moved AS (
        SELECT u.day, u.run_id, u.provider_key_id, u.requests, u.cost, 0 AS held, 0 AS cost_held
          FROM b JOIN accounting.usage_daily u ON u.org_id = b.org_id AND u.day >= b.since
        UNION ALL
        SELECT COALESCE(l.sent_on, (l.booked_at AT TIME ZONE 'UTC')::date), l.run_id, l.provider_key_id,
               CASE l.entry_no WHEN 0 THEN 1 ELSE 0 END, l.cost, 0, 0
          FROM b JOIN providers.ledger l ON l.org_id = b.org_id
           AND l.xid >= (SELECT upto FROM accounting.usage_mark)
           AND COALESCE(l.sent_on, (l.booked_at AT TIME ZONE 'UTC')::date) >= b.since
        UNION ALL
        SELECT (a.sent_at AT TIME ZONE 'UTC')::date, a.run_id, a.provider_key_id, 0, 0, 1,
               a.worst_cost + a.reserve
          FROM b JOIN campaigns.runs r ON r.org_id = b.org_id
           AND (r.state IN ('running', 'paused') OR r.finished_at > now() - interval '1 day')
          JOIN campaigns.shards s ON s.run_id = r.id AND s.state = 'open' AND isfinite(s.lease_until)
          JOIN campaigns.attempts a ON a.run_id = s.run_id AND a.cell_no >= s.first_cell
           AND a.cell_no < s.first_cell + s.cells AND a.state = 'sent'
           AND (a.sent_at AT TIME ZONE 'UTC')::date >= b.since
    ), counted AS (
        SELECT CASE b.period WHEN 'daily' THEN m.day ELSE date_trunc('month', m.day)::date END AS start,
               m.requests, m.cost, m.held, m.cost_held
          FROM b CROSS JOIN moved m JOIN campaigns.runs r ON r.id = m.run_id
         WHERE CASE b.scope_kind WHEN 'user' THEN r.launched_by = b.scope_id
                                 WHEN 'api_key' THEN r.api_key_id = b.scope_id
                                 WHEN 'campaign' THEN r.campaign_id = b.scope_id
                                 WHEN 'provider_key' THEN m.provider_key_id = b.scope_id
                                 ELSE true END
        UNION ALL
        SELECT start, 0, 0, 0, 0 FROM b
        UNION ALL
        SELECT w.window_start, 0, 0, 0, 0
          FROM b JOIN accounting.windows w USING (scope_kind, scope_id, period)
         WHERE w.window_start >= b.since
    ), sums AS (
        SELECT start, sum(requests) AS requests, sum(cost) AS cost, sum(held) AS held,
               sum(cost_held) AS cost_held
          FROM counted GROUP BY start
    )
    INSERT INTO accounting.windows AS x (scope_kind, scope_id, period, window_start, org_id,
        requests_max, cost_max, requests_settled, cost_settled, requests_held, cost_held)
    SELECT b.scope_kind, b.scope_id, b.period, s.start, b.org_id,
           least(b.requests_max, b.own_requests_max), least(b.cost_max, b.own_cost_max),
           s.requests, s.cost, s.held, s.cost_held
      FROM b CROSS JOIN sums s
     ORDER BY s.start
    ON CONFLICT (scope_kind, scope_id, period, window_start) DO UPDATE
       SET requests_max = EXCLUDED.requests_max, cost_max = EXCLUDED.cost_max
    RETURNING scope_kind, scope_id, period, window_start, requests_max, cost_max, requests_settled,
              cost_settled, alerted, window_start = (SELECT b.start FROM b) AS is_current
    """,
    prepare=False,
)


async def _open_windows(tx: Tx, kind: str, id_: str, period: str) -> None:
    """Windows with the limits as they are now, counted out where they are new. Only of the current
    one somebody is told: what was spent before there was a limit is no news."""
    for opened in await tx.all(OPEN_WINDOWS, kind=kind, id=id_, period=period):
        if level_of(opened) <= opened.alerted:
            continue
        if opened.is_current:
            await raise_alerts(tx, [opened])
        else:
            await note_level(tx, opened)


GET_BUDGET = sql(
    Budget,
    SELECT_BUDGET
    + """
       AND id = %(budget_id)s::uuid
       AND (%(everyone)s OR owner_id = %(user_id)s::uuid OR scope_kind = 'organisation')
    """,
)

LIST_BUDGETS = sql(
    Budget,
    SELECT_BUDGET
    + """
       AND (%(everyone)s OR owner_id = %(user_id)s::uuid OR scope_kind = 'organisation')
       AND (%(kind)s::text IS NULL OR scope_kind = %(kind)s)
       AND (%(after)s::uuid IS NULL OR id < %(after)s)
     ORDER BY id DESC LIMIT %(limit)s
    """,
    prepare=False,
)


async def get_budget(tx: Tx, budget_id: str) -> Budget:
    """Raises NotFound(BUDGET_NOT_FOUND)."""
    caller = tx.call.caller
    budget = await tx.one(
        GET_BUDGET,
        budget_id=budget_id,
        org_id=caller.org_id,
        user_id=caller.user_id,
        everyone=sees_everyone(tx),
    )
    if budget is None:
        raise NotFound("BUDGET_NOT_FOUND", "There is no such budget.")
    return budget


async def list_budgets(
    tx: Tx, pages: Pages, request: ListBudgetsRequest
) -> tuple[list[Budget], str]:
    """A page, newest first, and the token of the next."""
    caller = tx.call.caller
    size, after = pages.page(request, scope=caller.user_id)
    rows = await tx.all(
        LIST_BUDGETS,
        org_id=caller.org_id,
        user_id=caller.user_id,
        everyone=sees_everyone(tx),
        kind=enum_text(request, "kind", request.kind),
        after=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "id", scope=caller.user_id)


# The caller's own limits go; the row with them when there is nothing else in it.
DELETE_OWN = sql(
    Nothing,
    """
    UPDATE accounting.budgets SET own_requests_max = NULL, own_cost_max = NULL
     WHERE id = %(budget_id)s AND num_nonnulls(requests_max, cost_max) > 0
    """,
)
DELETE_BUDGET = sql(Nothing, "DELETE FROM accounting.budgets WHERE id = %(budget_id)s")
DELETE_WINDOWS = sql(
    Nothing,
    """
    DELETE FROM accounting.windows
     WHERE scope_kind = %(kind)s AND scope_id = %(id)s AND period = %(period)s
    """,
)


async def delete_budget(tx: Tx, budget_id: str) -> None:
    """Raises NotFound(BUDGET_NOT_FOUND), Denied(BUDGET_NOT_YOURS)."""
    old = await get_budget(tx, budget_id)
    kind = enum_text(old.scope, "kind", old.scope.kind) or ""
    period = enum_text(old, "period", old.period) or ""
    manages = check_may_limit(tx, old.owner_id or None, kind)
    await tx.see_all_campaigns()
    await _lock(tx, kind, old.scope.id)
    if not manages and await tx.run(DELETE_OWN, budget_id=budget_id):
        await _open_windows(tx, kind, old.scope.id, period)
    else:
        await tx.run(DELETE_BUDGET, budget_id=budget_id)
        await tx.run(DELETE_WINDOWS, kind=kind, id=old.scope.id, period=period)
    record(tx, "budget.delete", "budget", budget_id, old=_facts(old))


def _facts(budget: Budget | None) -> dict[str, Any]:
    """What the audit log shows of a budget."""
    if budget is None:
        return {}
    facts: dict[str, Any] = {
        "scope_kind": enum_text(budget.scope, "kind", budget.scope.kind),
        "scope_id": budget.scope.id,
        "period": enum_text(budget, "period", budget.period),
    }
    for layer, limits in (("", budget.limits), ("own_", budget.own_limits)):
        for name in ("requests_max", "cost_usd_max"):
            if limits.HasField(name):
                facts[layer + name] = getattr(limits, name)
    return facts
