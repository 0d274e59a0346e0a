"""Taking batches out of the store, so that they can be stored anew under another token.

Only what the buffer still holds, readable, is taken out: its frozen bytes are the truth, whatever the store
made of them. The roll-ups keep what they counted until the days of the batches are made anew (rollups.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import LiteralString, NamedTuple

from chimera.clickhouse import ClickHouse
from chimera.pools import settled
from chimera.telemetry.turns import Turn

# Partitions of months outside are not looked at.
TAKE_OUT: LiteralString = """
    DELETE FROM workload_events
     WHERE org_id = toUUID(%(org_id)s) AND batch_id IN %(batch_ids)s
       AND timestamp >= toDateTime64(%(first)s, 3, 'UTC') AND timestamp < toDateTime64(%(end)s, 3, 'UTC')
"""


class Removed(NamedTuple):
    """A batch, and the days (UTC) of its events."""

    batch_id: str
    days: frozenset[date]


async def take_out(
    turn: Turn, clickhouse: ClickHouse, org_id: str, batches: Sequence[Removed]
) -> None:
    """All events of at most a few hundred batches of one organisation; to be done again when it fails. In a
    turn of one's own: an insert beside it might bring some of them back. Raises Conflict when the turn is
    over, and the faults of the store."""
    days = frozenset[date]().union(*(batch.days for batch in batches))
    turn.check()
    # To its end: the server would go on with it while another process inserts.
    await settled(
        clickhouse.command(
            TAKE_OUT,
            {
                "org_id": org_id,
                "batch_ids": tuple(batch.batch_id for batch in batches),
                "first": min(days).isoformat(),
                "end": (max(days) + timedelta(days=1)).isoformat(),
            },
        )
    )
