"""Telemetry's periodic work beside the drain."""

from __future__ import annotations

from typing import Any

from chimera.core import Core
from chimera.telemetry import summaries


async def refresh_user_summaries(ctx: dict[str, Any]) -> None:
    """What each person has and did, as of now."""
    core: Core = ctx["core"]
    await summaries.refresh_user_summaries(core)


async def purge_receipts(ctx: dict[str, Any]) -> None:
    """Receipts of batches that nobody sends again."""
    core: Core = ctx["core"]
    await summaries.purge_receipts(core)
