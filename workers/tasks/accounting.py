"""Usage by day, the proof of the books, and the announcement of alerts."""

from __future__ import annotations

from typing import Any

from chimera.accounting import deliveries, reconciling, usage
from workers.tasks import task


async def aggregate_usage(ctx: dict[str, Any]) -> None:
    """The ledger into daily usage."""
    await usage.aggregate_usage(ctx["core"].db)


async def reconcile_usage(ctx: dict[str, Any]) -> None:
    """Counts all books again; what differs is an alarm."""
    await reconciling.reconcile_all(ctx["core"].db)


@task
async def announce_alert(ctx: dict[str, Any], org_id: str | None, args: dict[str, Any]) -> None:
    """Mails and deliveries of an alert."""
    await deliveries.announce_alert(ctx["core"], org_id or "", args["alert_id"])


@task
async def deliver_webhook(ctx: dict[str, Any], org_id: str | None, args: dict[str, Any]) -> None:
    """One try; the next one, if it must be, is asked for with its outcome."""
    await deliveries.deliver(ctx["core"], ctx["session"], org_id or "", args["delivery_id"])
