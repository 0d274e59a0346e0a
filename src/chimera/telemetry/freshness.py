"""How far answers from the column store can be trusted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from chimera.call import Call
from chimera.db import sql
from chimera.pools import Database
from chimera.v1.telemetry_pb2 import Freshness

if TYPE_CHECKING:
    from chimera.telemetry.scope import Analytics

# now() is older than the snapshot: what was committed before it is seen here. Roll-ups that are being made
# anew lack some of their day, those to be made anew hold too much of it; what was made anew `since` may have
# been read while it was away.
READ_FRESHNESS = sql(
    dict,
    """
    SELECT now() AS at,
           LEAST(now(), v.rebuilding_from, (SELECT min(created_at) FROM telemetry.batches
                                             WHERE org_id = %(org_id)s AND state = 'waiting')) AS complete_to,
           CASE WHEN isfinite(v.verified_to) THEN LEAST(v.verified_to, v.rebuilding_from) END AS verified_to
      FROM (SELECT %(org_id)s::uuid AS org_id) o
      LEFT JOIN (SELECT org_id, verified_to,
                        LEAST(rebuilding_day, CASE WHEN rebuilt_at >= COALESCE(%(since)s, now())
                                                          - make_interval(secs => %(delay_s)s) THEN rebuilt_day END,
                              (SELECT min(day) FROM telemetry.stale_days WHERE org_id = %(org_id)s)
                             )::timestamp AT TIME ZONE 'UTC' AS rebuilding_from
                   FROM telemetry.verified) v ON v.org_id = o.org_id
    """,
)


@asynccontextmanager
async def reading(db: Database, analytics: Analytics, call: Call) -> AsyncIterator[Freshness]:
    """Freshness of what is read from the store inside: as it was before, so that what leaves the buffer in
    between is in the answer; or worse if something was taken out or made anew meanwhile. Where analytics read
    from a replica, its delay is taken off."""
    delay_s = await analytics.replica_delay_s(call)
    row = await _read(db, call, delay_s)
    freshness = _freshness(row, delay_s)
    yield freshness
    after = await _read(db, call, delay_s, row["at"])
    for name in ("complete_to", "verified_to"):
        if row[name] is not None and after[name] is not None:
            row[name] = min(row[name], after[name])
    freshness.CopyFrom(_freshness(row, delay_s))


async def _read(
    db: Database, call: Call, delay_s: float, since: datetime | None = None
) -> dict[str, Any]:
    async with db.look(call) as tx:
        row = await tx.one(READ_FRESHNESS, org_id=call.caller.org_id, since=since, delay_s=delay_s)
    assert row is not None
    return row


def _freshness(row: Mapping[str, Any], delay_s: float) -> Freshness:
    delay = timedelta(seconds=delay_s)
    freshness = Freshness(complete_to=row["complete_to"] - delay)
    if row["verified_to"] is not None:
        # What is not there yet cannot be vouched for.
        freshness.verified_to.FromDatetime(min(row["verified_to"], row["complete_to"] - delay))
    return freshness
