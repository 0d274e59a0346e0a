"""What is dropped when its time is over. What was spent is not: ledger, usage and alerts stay.

    windows      120 days after they began: a late answer still settles against the day of its call,
                 and the reconciler looks 40 days back
    deliveries   30 days after they were delivered or given up, with their tries

The policies of the tables know the same times, so a mistake here can drop nothing younger.
"""

from __future__ import annotations

from chimera.db import Nothing, Tx, sql

PURGE_WINDOWS = sql(
    Nothing,
    """
    DELETE FROM accounting.windows
     WHERE window_start < (clock_timestamp() AT TIME ZONE 'UTC')::date - 120
    """,
)
PURGE_DELIVERIES = sql(
    Nothing,
    "DELETE FROM accounting.deliveries WHERE finished_at < clock_timestamp() - interval '30 days'",
)


async def purge_accounting(tx: Tx) -> tuple[int, int]:
    """How many windows and deliveries went, of all organisations."""
    return await tx.run(PURGE_WINDOWS), await tx.run(PURGE_DELIVERIES)
