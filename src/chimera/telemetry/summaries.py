"""The summary of each person, made anew by a worker; read through a function that filters."""

from __future__ import annotations

from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, sql

REFRESH_USER_SUMMARIES = sql(Nothing, "SELECT telemetry.refresh_user_summaries()")

PURGE_RECEIPTS = sql(
    Nothing, "DELETE FROM telemetry.receipts WHERE created_at < now() - interval '8 days'"
)


async def refresh_user_summaries(core: Core) -> None:
    """Readers see the old one meanwhile; two at a time wait for each other."""
    async with core.db.begin(Call.by_worker("telemetry.summaries", seconds=300)) as tx:
        await tx.run(REFRESH_USER_SUMMARIES)


async def purge_receipts(core: Core) -> None:
    """A batch sent again after more than a week is a new one."""
    async with core.db.begin(Call.by_worker("telemetry.receipts", seconds=60)) as tx:
        await tx.run(PURGE_RECEIPTS)
