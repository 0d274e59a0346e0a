"""The mail about an alert, written at the moment it is sent."""

from __future__ import annotations

from typing import Any

from chimera.accounting.remaining import name_of
from chimera.call import Call
from chimera.core import Core
from chimera.db import sql
from chimera.mail import Mail

FIND_LETTER = sql(
    dict,
    """
    SELECT u.email, u.display_name, a.scope_kind, a.period, a.window_start::text, a.threshold_percentage,
           a.requests_settled, a.requests_max, trim_scale(a.cost_settled)::text AS cost_settled,
           trim_scale(a.cost_max)::text AS cost_max, a.acknowledged
      FROM accounting.alerts a
      JOIN identity.memberships m ON m.org_id = a.org_id AND m.user_id = %(user_id)s::uuid
      JOIN identity.users u ON u.id = m.user_id AND u.deleted_at IS NULL
     WHERE a.id = %(alert_id)s
    """,
)


async def write_alert(core: Core, org_id: str | None, args: dict[str, Any]) -> Mail | None:
    """None when the person has left, or somebody has acknowledged the alert already."""
    call = Call.by_worker("write_alert", org_id or "", seconds=10)
    async with core.db.begin(call) as tx:
        row = await tx.one(FIND_LETTER, alert_id=args["alert_id"], user_id=args["user_id"])
    if row is None or row["acknowledged"]:
        return None
    name = name_of(row["scope_kind"], row["period"])
    lines = [
        f"{row['threshold_percentage']} % of {name} is spent (window of {row['window_start']}).",
        "",
    ]
    if row["cost_max"] is not None:
        lines.append(f"Money: {row['cost_settled']} of {row['cost_max']} US dollars.")
    if row["requests_max"] is not None:
        lines.append(f"Requests: {row['requests_settled']} of {row['requests_max']}.")
    if row["threshold_percentage"] >= 100:
        lines.append("Runs under it wait until the window turns or the budget is raised.")
    lines += ["", f"Acknowledge it: alert {args['alert_id']}."]
    subject = f"{row['threshold_percentage']} % of {name} is spent"
    return Mail(row["email"], subject, "\n".join(lines) + "\n")
