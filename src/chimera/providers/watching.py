"""Health as it changes, for whoever watches.

A cursor is the moment of a look: everything that was told by then has been told, so a watch that goes
on from it misses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

from chimera.call import Call
from chimera.db import sql
from chimera.paging import Pages
from chimera.pools import Database
from chimera.providers.health import POINT_S, WINDOWS_S, get_provider_health, health_of
from chimera.v1.health_pb2 import WatchHealthRequest, WatchHealthResponse

POLL_S = 1.0
NOWHERE = "0"  # no transaction has this number: a watch that has told nothing yet

# Rows are updated in place, so the newest change of each is found however many there were. Only what
# is older than every open transaction is told; the rest comes with the next look. Time alone is a
# change too: failures fall out of the five minutes that a state is about.
LIST_CHANGED = sql(
    dict,
    """
    SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS horizon,
           extract(epoch FROM statement_timestamp())::float8 AS looked_at,
           %(since)s::text::xid8 > pg_snapshot_xmax(pg_current_snapshot()) AS is_ahead,
           ARRAY(
               SELECT m.provider_id FROM providers.circuits c JOIN providers.models m ON m.id = c.model_id
                WHERE c.org_id = %(org_id)s::uuid AND c.xid >= %(since)s::text::xid8
                  AND c.xid < pg_snapshot_xmin(pg_current_snapshot())
               UNION
               SELECT m.provider_id FROM providers.circuits c JOIN providers.models m ON m.id = c.model_id
                WHERE c.org_id = %(org_id)s::uuid
                  AND EXISTS (SELECT FROM providers.health_points p
                               WHERE p.org_id = c.org_id AND p.model_id = c.model_id AND p.failures > 0
                                 AND p.at > to_timestamp(%(looked_at)s::float8 - %(window_s)s::int)
                                 AND p.at <= statement_timestamp() - make_interval(secs => %(window_s)s::int))
               UNION
               SELECT m.provider_id FROM providers.circuit_holds h JOIN providers.models m ON m.id = h.model_id
                WHERE h.xid >= %(since)s::text::xid8 AND h.xid < pg_snapshot_xmin(pg_current_snapshot())
               UNION
               SELECT b.provider_id FROM providers.probes b
                WHERE (b.org_id IS NULL OR b.org_id = %(org_id)s::uuid) AND b.xid >= %(since)s::text::xid8
                  AND b.xid < pg_snapshot_xmin(pg_current_snapshot())) AS providers
    """,
)


async def watch_health(
    db: Database, pages: Pages, request: WatchHealthRequest, call: Call
) -> AsyncIterator[WatchHealthResponse]:
    """Every provider once, unless `cursor` says from where on; then what changes, until the caller
    goes. Each look is short: a stream must not hold a transaction open."""
    purpose = f"watch-health/{request.provider_id}"
    only = [request.provider_id] if request.provider_id else None
    since, looked_at = NOWHERE, 0.0
    if request.cursor:
        # Before there was a time in it, a cursor was its transaction alone.
        since, looked_at, *_ = *pages.open(purpose, request.cursor, reason="CURSOR_INVALID"), 0.0
    while True:
        async with db.look(call) as tx:
            if only and since == NOWHERE:
                await get_provider_health(tx, only[0])
            changed = await tx.one(
                LIST_CHANGED,
                org_id=call.caller.org_id,
                since=since,
                looked_at=looked_at,
                window_s=WINDOWS_S[1] + POINT_S,
            )
            assert changed is not None  # a SELECT without FROM has one row
            # A database that was restored into another cluster counts transactions anew.
            tells_all = since == NOWHERE or changed["is_ahead"]
            ids = only if tells_all else _chosen(changed["providers"], only)
            found = await health_of(tx, ids) if ids is None or ids else []
        before = pages.seal(purpose, [since, looked_at])
        since, looked_at = changed["horizon"], changed["looked_at"]
        after = pages.seal(purpose, [since, looked_at])
        for number, health in enumerate(found, 1):
            # Whoever leaves in the middle has not heard the rest.
            cursor = after if number == len(found) else before
            yield WatchHealthResponse(cursor=cursor, health=health)
        await asyncio.sleep(POLL_S)


def _chosen(changed: Iterable[str], only: Sequence[str] | None) -> list[str]:
    return [each for each in changed if only is None or each in only]
