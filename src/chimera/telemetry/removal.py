"""Taking batches out of the store, so that they can be stored anew under another token.

Only what the buffer still holds is taken out: its frozen bytes are the truth, whatever the store made of
them. The roll-ups keep what they counted until the reconciler has compared their days.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import LiteralString

from chimera.clickhouse import ClickHouse
from chimera.pools import settled
from chimera.telemetry.turns import Turn

TAKE_OUT: LiteralString = """
    DELETE FROM workload_events
     WHERE org_id = toUUID(%(org_id)s) AND batch_id IN %(batch_ids)s
       AND UUIDToNum(batch_id) >= UUIDToNum(toUUID(%(first)s))
       AND UUIDToNum(batch_id) <= UUIDToNum(toUUID(%(last)s))
"""


async def take_out(turn: Turn, clickhouse: ClickHouse, batches: Iterable[tuple[str, str]]) -> None:
    """Of (organisation, batch) all events; to be done again when it fails. In a turn of one's own: an
    insert beside it might bring some of them back. Raises Conflict, Unavailable."""
    by_org: dict[str, list[str]] = defaultdict(list)
    for org_id, batch_id in batches:
        by_org[org_id].append(batch_id)
    for org_id, batch_ids in by_org.items():
        turn.check()
        values = {
            "org_id": org_id,
            "batch_ids": tuple(batch_ids),
            "first": min(batch_ids),
            "last": max(batch_ids),
        }
        # To its end: the server would go on with it while another process inserts.
        await settled(clickhouse.command(TAKE_OUT, values))
