"""Accepting events from inside the product, and what became of all that were accepted."""

from __future__ import annotations

from collections.abc import Sequence

from chimera import metrics
from chimera.db import Nothing, Tx, sql
from chimera.ids import new_id
from chimera.telemetry.events import Event, freeze
from chimera.v1.telemetry_pb2 import GetIngestStatusResponse

# Connections differ in their slot, so that transactions at the same time rarely queue for a row.
# Slot 0 is the drain's.
ACCEPT = sql(
    Nothing,
    """
    WITH batch AS (
        INSERT INTO telemetry.batches (batch_id, org_id, producer, body, events)
        VALUES (%(batch_id)s, %(org_id)s, %(producer)s, %(body)s, %(events)s)
    )
    INSERT INTO telemetry.totals (org_id, slot, accepted)
    VALUES (%(org_id)s, 1 + pg_backend_pid() %% 16, %(events)s)
    ON CONFLICT (org_id, slot) DO UPDATE SET accepted = totals.accepted + EXCLUDED.accepted
    """,
)

GET_INGEST_STATUS = sql(
    GetIngestStatusResponse,
    """
    SELECT t.accepted, t.stored, t.dead_lettered, t.discarded, w.waiting, w.oldest_waiting_at,
           (SELECT verified_to FROM telemetry.verified
             WHERE org_id = %(org_id)s AND isfinite(verified_to)) AS verified_to
      FROM (SELECT COALESCE(sum(accepted), 0)::bigint AS accepted,
                   COALESCE(sum(stored), 0)::bigint AS stored,
                   COALESCE(sum(dead), 0)::bigint AS dead_lettered,
                   COALESCE(sum(discarded), 0)::bigint AS discarded
              FROM telemetry.totals WHERE org_id = %(org_id)s) t,
           (SELECT COALESCE(sum(events), 0)::bigint AS waiting, min(created_at) AS oldest_waiting_at
              FROM telemetry.batches WHERE org_id = %(org_id)s AND state = 'waiting') w
    """,
)


async def accept(tx: Tx, producer: str, org_id: str, events: Sequence[Event]) -> None:
    """Takes a batch of events: once the caller's transaction commits they are never lost.

    One statement; call it late, for it locks a row of counters until COMMIT.
    """
    if not events:
        return
    count = len(events)
    await tx.run(
        ACCEPT,
        batch_id=new_id(),
        org_id=org_id,
        producer=producer,
        body=freeze(events),
        events=count,
    )
    tx.after_commit.append(lambda: metrics.TELEMETRY_EVENTS.labels("accepted").inc(count))


async def get_ingest_status(tx: Tx) -> GetIngestStatusResponse:
    status = await tx.one(GET_INGEST_STATUS, org_id=tx.call.caller.org_id)
    return status or GetIngestStatusResponse()
