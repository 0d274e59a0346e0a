"""Alerts: somebody learns that a budget is nearly, or all, spent; once for each threshold.

An alert is a row, written in the transaction that crossed the threshold; its key is the budget, the
window and the type, so of many that cross it at the same moment one writes it. Who is told, by mail
and webhook, follows from the outbox after the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from chimera import outbox
from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotFound
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.rows import enum_text
from chimera.v1.budgets_pb2 import CostAlert, ListAlertsRequest
from chimera.v1.options_pb2 import Permission

THRESHOLDS = (80, 90, 100)


@dataclass(frozen=True, slots=True)
class Standing:
    """A window as it stands."""

    scope_kind: str
    scope_id: str
    period: str
    window_start: date
    requests_max: int | None
    cost_max: Decimal | None
    requests_settled: int
    cost_settled: Decimal
    alerted: int


def level_of(standing: Standing) -> int:
    """The highest threshold, in percent, that what is settled has reached; 0 for none."""
    reached = 0
    for settled, limit in (
        (standing.requests_settled, standing.requests_max),
        (standing.cost_settled, standing.cost_max),
    ):
        if limit is None or (not settled and limit):
            continue
        for threshold in THRESHOLDS:
            if settled * 100 >= limit * threshold:
                reached = max(reached, threshold)
    return reached


NOTE_LEVEL = sql(
    Nothing,
    """
    UPDATE accounting.windows SET alerted = %(level)s
     WHERE scope_kind = %(scope_kind)s AND scope_id = %(scope_id)s AND period = %(period)s
       AND window_start = %(window_start)s AND alerted < %(level)s
    """,
)

INSERT_ALERT = sql(
    str,
    """
    INSERT INTO accounting.alerts
        (id, org_id, budget_id, scope_kind, scope_id, period, window_start, alert_type,
         threshold_percentage, user_id, requests_settled, requests_max, cost_settled, cost_max)
    SELECT %(id)s::uuid, b.org_id, b.id, b.scope_kind, b.scope_id, b.period, %(window_start)s::date,
           b.period || '_' || %(threshold)s::int, %(threshold)s::int,
           b.owner_id,
           %(requests_settled)s::bigint, %(requests_max)s::bigint, %(cost_settled)s::numeric,
           %(cost_max)s::numeric
      FROM accounting.budgets b
     WHERE b.scope_kind = %(scope_kind)s AND b.scope_id = %(scope_id)s::uuid
       AND b.period = %(period)s
        ON CONFLICT (budget_id, window_start, alert_type) DO NOTHING
    RETURNING id
    """,
)


def _key(standing: Standing) -> dict[str, Any]:
    return {
        "scope_kind": standing.scope_kind,
        "scope_id": standing.scope_id,
        "period": standing.period,
        "window_start": standing.window_start,
    }


async def note_level(tx: Tx, standing: Standing) -> None:
    """What the window has reached counts as told; nobody is."""
    await tx.run(NOTE_LEVEL, level=level_of(standing), **_key(standing))


async def raise_alerts(tx: Tx, standings: Sequence[Standing], *, level: int = 0) -> None:
    """Writes the alerts that are due and asks for their announcement. The windows are locked.

    level: a threshold that counts as reached whatever is settled: 100 where not even one more call
    fits, though worst-case holds never let the last cent be spent.
    """
    for standing in standings:
        reached = max(level, level_of(standing))
        await tx.run(NOTE_LEVEL, level=reached, **_key(standing))
        for threshold in THRESHOLDS:
            if not standing.alerted < threshold <= reached:
                continue
            alert_id = await tx.one(
                INSERT_ALERT,
                id=new_id(),
                threshold=threshold,
                requests_settled=standing.requests_settled,
                requests_max=standing.requests_max,
                cost_settled=standing.cost_settled,
                cost_max=standing.cost_max,
                **_key(standing),
            )
            if alert_id is not None:
                await outbox.enqueue(tx, "announce_alert", alert_id=alert_id)


SELECT_ALERT = """
    SELECT id, budget_id,
           jsonb_build_object('kind', 'BUDGET_SCOPE_KIND_' || upper(scope_kind), 'id', scope_id) AS scope,
           alert_type, threshold_percentage, COALESCE(user_id::text, '') AS user_id,
           window_start::text, requests_settled, requests_max, cost_settled AS cost_settled_usd,
           cost_max AS cost_max_usd, triggered_at, acknowledged, acknowledged_at,
           COALESCE(acknowledged_by::text, '') AS acknowledged_by, note
      FROM accounting.alerts
     WHERE org_id = %(org_id)s::uuid AND (%(everyone)s OR user_id = %(user_id)s::uuid)
"""

GET_ALERT = sql(CostAlert, SELECT_ALERT + " AND id = %(alert_id)s::uuid")

LIST_ALERTS = sql(
    CostAlert,
    SELECT_ALERT
    + """
       AND (%(after)s::uuid IS NULL OR id < %(after)s)
       AND (%(type)s::text IS NULL OR alert_type = %(type)s)
       AND (%(open_only)s = false OR NOT acknowledged)
     ORDER BY id DESC LIMIT %(limit)s
    """,
    prepare=False,
)

ACKNOWLEDGE_ALERT = sql(
    Nothing,
    """
    UPDATE accounting.alerts
       SET acknowledged = true, acknowledged_at = now(), acknowledged_by = %(by)s, note = %(note)s
     WHERE id = %(alert_id)s AND NOT acknowledged
    """,
)


def sees_everyone(tx: Tx) -> bool:
    """Administrators see what concerns anybody in their organisation, others what concerns them."""
    return tx.call.caller.may(Permission.PERMISSION_BUDGET_MANAGE)


async def get_alert(tx: Tx, alert_id: str) -> CostAlert:
    """Raises NotFound(ALERT_NOT_FOUND)."""
    caller = tx.call.caller
    alert = await tx.one(
        GET_ALERT,
        alert_id=alert_id,
        org_id=caller.org_id,
        user_id=caller.user_id,
        everyone=sees_everyone(tx),
    )
    if alert is None:
        raise NotFound("ALERT_NOT_FOUND", "There is no such alert.")
    return alert


async def list_alerts(
    tx: Tx, pages: Pages, request: ListAlertsRequest
) -> tuple[list[CostAlert], str]:
    """A page, newest first, and the token of the next."""
    caller = tx.call.caller
    size, after = pages.page(request, scope=caller.user_id)
    rows = await tx.all(
        LIST_ALERTS,
        org_id=caller.org_id,
        user_id=caller.user_id,
        everyone=sees_everyone(tx),
        after=after[0] if after else None,
        type=enum_text(request, "alert_type", request.alert_type),
        open_only=request.unacknowledged_only,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "id", scope=caller.user_id)


async def acknowledge_alert(tx: Tx, alert_id: str, note: str) -> CostAlert:
    """Says that somebody has seen it; the first to say so stands. Raises NotFound."""
    before = await get_alert(tx, alert_id)
    await tx.run(ACKNOWLEDGE_ALERT, alert_id=alert_id, by=tx.call.caller.user_id, note=note)
    alert = await get_alert(tx, alert_id)
    record(
        tx,
        "alert.acknowledge",
        "alert",
        alert_id,
        old={"acknowledged": before.acknowledged},
        new={"acknowledged": alert.acknowledged, "note": alert.note},
    )
    return alert
