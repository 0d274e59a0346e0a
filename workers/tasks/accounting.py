"""Usage by day, and the proof of the books."""

from __future__ import annotations

from typing import Any

from chimera.accounting import reconciling, usage


async def aggregate_usage(ctx: dict[str, Any]) -> None:
    """The ledger into daily usage."""
    await usage.aggregate_usage(ctx["core"].db)


async def reconcile_usage(ctx: dict[str, Any]) -> None:
    """Counts all books again; what differs is an alarm."""
    await reconciling.reconcile_all(ctx["core"].db)
