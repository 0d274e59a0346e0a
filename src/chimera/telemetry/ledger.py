"""The ledger of the reconciler in PostgreSQL: how far batches were compared with the store, what was found
by day and producer, and what differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.paging import Pages
from chimera.v1.telemetry_pb2 import (
    ListReconciliationsRequest,
    ListReconciliationsResponse,
    Reconciliation,
)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Where the comparison of one organisation stands."""

    org_id: str
    xid: str
    batch_id: str
    is_asked: bool
    is_replacing: bool
    is_due: bool  # that the roll-ups are looked at


@dataclass(frozen=True, slots=True)
class Batch:
    xid: str
    batch_id: str
    producer: str
    events: int
    state: str
    created_at: datetime
    was_resent: bool
    was_requeued: bool
    fingerprint: int | None


LIST_LEDGERS = sql(
    Ledger,
    """
    SELECT t.org_id, COALESCE(v.xid, '0')::text AS xid,
           COALESCE(v.batch_id, '00000000-0000-0000-0000-000000000000'::uuid) AS batch_id,
           COALESCE(v.is_asked, false) AS is_asked, COALESCE(v.is_replacing, false) AS is_replacing,
           COALESCE(v.rollups_checked_at < clock_timestamp() - interval '1 day', true) AS is_due
      FROM (SELECT DISTINCT org_id FROM telemetry.totals) t
      LEFT JOIN telemetry.verified v ON v.org_id = t.org_id
     ORDER BY v.checked_at NULLS FIRST
    """,
)

LIST_UNVERIFIED = sql(
    Batch,
    """
    SELECT xid::text AS xid, batch_id, producer, events, state, created_at,
           resent_at IS NOT NULL AS was_resent, requeued_at IS NOT NULL AS was_requeued, fingerprint
      FROM telemetry.batches
     WHERE org_id = %(org_id)s AND (xid, batch_id) > (%(xid)s::xid8, %(batch_id)s::uuid)
       AND xid < pg_snapshot_xmin(pg_current_snapshot())
     ORDER BY batches.xid, batch_id LIMIT %(limit)s
    """,
)

LIST_DIFFERING = sql(
    Batch,
    """
    SELECT b.xid::text AS xid, b.batch_id, b.producer, b.events, b.state, b.created_at,
           b.resent_at IS NOT NULL AS was_resent, b.requeued_at IS NOT NULL AS was_requeued, b.fingerprint
      FROM telemetry.differing d JOIN telemetry.batches b ON b.batch_id = d.batch_id
     WHERE d.org_id = %(org_id)s AND b.state <> 'waiting'
     ORDER BY d.checked_at LIMIT %(limit)s
    """,
)

# Held over what moves the ledger, so that nothing is put back (dead_letters.py) in between.
LOCK_LEDGER = sql(
    Nothing,
    """
    INSERT INTO telemetry.verified (org_id) VALUES (%(org_id)s)
    ON CONFLICT (org_id) DO UPDATE SET checked_at = clock_timestamp()
    """,
)

# What was counted of the batches that are still there is taken out, for it is counted anew. An ask that
# comes from now on is for the next pass.
START_OVER = sql(
    Nothing,
    """
    WITH counted AS (
        SELECT (b.created_at AT TIME ZONE 'UTC')::date AS day, b.producer, sum(b.events) AS events,
               COALESCE(sum(b.events) FILTER (WHERE b.state = 'dead'), 0) AS dead
          FROM telemetry.batches b JOIN telemetry.verified v ON v.org_id = b.org_id
         WHERE b.org_id = %(org_id)s AND (b.xid, b.batch_id) <= (v.xid, v.batch_id)
           AND b.requeued_at IS NULL
           AND NOT EXISTS (SELECT FROM telemetry.differing d WHERE d.batch_id = b.batch_id)
         GROUP BY 1, 2
    ), taken_out AS (
        UPDATE telemetry.reconciliations r
           SET accepted = GREATEST(r.accepted - c.events, 0), dead = GREATEST(r.dead - c.dead, 0),
               stored = GREATEST(r.stored - c.events + c.dead, 0),
               found = GREATEST(r.found - c.events + c.dead, 0)
          FROM counted c
         WHERE r.org_id = %(org_id)s AND r.day = c.day AND r.producer = c.producer
    ), forgotten AS (
        DELETE FROM telemetry.differing WHERE org_id = %(org_id)s
    )
    UPDATE telemetry.verified
       SET xid = '0', batch_id = '00000000-0000-0000-0000-000000000000', is_asked = false,
           rollups_checked_at = '-infinity',
           -- Nothing vouches for it until it is compared again.
           verified_to = LEAST(verified_to, (SELECT min(b.created_at) FROM telemetry.batches b
                                              WHERE b.org_id = %(org_id)s AND b.state = 'stored'))
     WHERE org_id = %(org_id)s
    """,
)

LIST_REQUEUED = sql(
    str,
    """
    SELECT batch_id FROM telemetry.batches
     WHERE batch_id = ANY(%(batch_ids)s::uuid[]) AND requeued_at IS NOT NULL
    """,
)

NOTE_DIFFERING = sql(
    Nothing,
    """
    INSERT INTO telemetry.differing (batch_id, org_id, created_at, found, is_missing, is_surplus)
    VALUES (%(batch_id)s, %(org_id)s, %(created_at)s, %(found)s, %(is_missing)s, %(is_surplus)s)
    ON CONFLICT (batch_id) DO UPDATE
       SET found = EXCLUDED.found, is_missing = EXCLUDED.is_missing, is_surplus = EXCLUDED.is_surplus,
           checked_at = clock_timestamp()
    """,
)

CLEAR_DIFFERING = sql(
    Nothing, "DELETE FROM telemetry.differing WHERE batch_id = ANY(%(batch_ids)s::uuid[])"
)

IS_DIFFERING = sql(
    bool, "SELECT EXISTS (SELECT FROM telemetry.differing WHERE org_id = %(org_id)s)"
)

# Whatever lies past the last that was compared was accepted after verified_to, and so was what differs.
MOVE_VERIFIED = sql(
    Nothing,
    """
    UPDATE telemetry.verified
       SET xid = %(xid)s::xid8, batch_id = %(batch_id)s,
           verified_to = LEAST(now(),
               (SELECT min(created_at) FROM telemetry.batches
                 WHERE org_id = %(org_id)s AND (xid, batch_id) > (%(xid)s::xid8, %(batch_id)s::uuid)),
               (SELECT min(created_at) FROM telemetry.differing WHERE org_id = %(org_id)s))
     WHERE org_id = %(org_id)s
    """,
)

# What is not through with its days is due again in the next pass.
MARK_ROLLUPS = sql(
    Nothing,
    """
    UPDATE telemetry.verified
       SET rollups_checked_at = CASE WHEN %(is_through)s THEN clock_timestamp() ELSE '-infinity' END
     WHERE org_id = %(org_id)s
    """,
)

# The whole group may have been sent with it; alone it gets a token of its own. Once, unless somebody asked
# for it again.
RESEND = sql(
    int,
    """
    WITH resent AS (
        UPDATE telemetry.batches SET state = 'waiting', group_id = NULL, resent_at = clock_timestamp()
         WHERE batch_id = ANY(%(batch_ids)s::uuid[]) AND state = 'stored'
           AND (resent_at IS NULL OR %(again)s)
        RETURNING org_id, events
    ), counted AS (
        INSERT INTO telemetry.totals (org_id, slot, stored)
        SELECT org_id, 0, -sum(events) FROM resent GROUP BY org_id
        ON CONFLICT (org_id, slot) DO UPDATE SET stored = totals.stored + EXCLUDED.stored
    )
    SELECT count(*)::int FROM resent
    """,
)

ADD_RECONCILIATION = sql(
    Nothing,
    """
    INSERT INTO telemetry.reconciliations AS r
           (org_id, day, producer, accepted, stored, dead, found, resent_batches)
    VALUES (%(org_id)s, %(day)s, %(producer)s, %(accepted)s, %(stored)s, %(dead)s, %(stored)s, %(resent)s)
    ON CONFLICT (org_id, day, producer) DO UPDATE
       SET accepted = r.accepted + EXCLUDED.accepted, stored = r.stored + EXCLUDED.stored,
           dead = r.dead + EXCLUDED.dead, found = r.found + EXCLUDED.found,
           resent_batches = r.resent_batches + EXCLUDED.resent_batches,
           checked_at = clock_timestamp()
    """,
)

# What was not compared yet, what differs, and single events that never were in a batch of the buffer, are
# added as they are now.
LIST_RECONCILIATIONS = sql(
    Reconciliation,
    """
    WITH waiting AS (
        SELECT (created_at AT TIME ZONE 'UTC')::date AS day, producer, sum(events) AS events
          FROM telemetry.batches WHERE org_id = %(org_id)s AND state = 'waiting' GROUP BY 1, 2
    ), letters AS (
        SELECT (created_at AT TIME ZONE 'UTC')::date AS day, producer, count(*) AS events
          FROM telemetry.dead_letters WHERE org_id = %(org_id)s AND kind = 'event' GROUP BY 1, 2
    ), differing AS (
        SELECT (b.created_at AT TIME ZONE 'UTC')::date AS day, b.producer,
               COALESCE(sum(b.events) FILTER (WHERE b.state = 'stored'), 0) AS events,
               COALESCE(sum(d.found) FILTER (WHERE b.state = 'stored'), 0) AS found,
               count(*) FILTER (WHERE d.is_missing)::int AS missing,
               count(*) FILTER (WHERE d.is_surplus)::int AS surplus
          FROM telemetry.differing d JOIN telemetry.batches b ON b.batch_id = d.batch_id
         WHERE d.org_id = %(org_id)s GROUP BY 1, 2
    ), days AS (
        SELECT day, producer FROM telemetry.reconciliations WHERE org_id = %(org_id)s
        UNION SELECT day, producer FROM waiting UNION SELECT day, producer FROM letters
        UNION SELECT day, producer FROM differing
    )
    SELECT d.day::text AS day, d.producer,
           (COALESCE(r.accepted, 0) + COALESCE(f.events, 0) + COALESCE(w.events, 0)
            + COALESCE(l.events, 0))::bigint AS accepted,
           (COALESCE(r.stored, 0) + COALESCE(f.events, 0))::bigint AS stored,
           (COALESCE(r.dead, 0) + COALESCE(l.events, 0))::bigint AS dead_lettered,
           COALESCE(w.events, 0)::bigint AS waiting,
           (COALESCE(r.found, 0) + COALESCE(f.found, 0))::bigint AS found,
           COALESCE(f.missing, 0) AS missing_batches, COALESCE(f.surplus, 0) AS surplus_batches,
           COALESCE(r.resent_batches, 0) AS resent_batches, r.checked_at
      FROM days d
      LEFT JOIN telemetry.reconciliations r
             ON r.org_id = %(org_id)s AND r.day = d.day AND r.producer = d.producer
      LEFT JOIN differing f ON f.day = d.day AND f.producer = d.producer
      LEFT JOIN waiting w ON w.day = d.day AND w.producer = d.producer
      LEFT JOIN letters l ON l.day = d.day AND l.producer = d.producer
     WHERE (d.day::text, d.producer) < (%(day)s, %(producer)s)
     ORDER BY d.day DESC, d.producer DESC LIMIT %(limit)s
    """,
    prepare=False,
)

# What of each span of time (4.66 hours: the first 24 bits of an id) was stored and is still in the buffer.
SUM_STORED = sql(
    dict,
    """
    SELECT left(b.batch_id::text, 6) AS span, sum(LEAST(b.events, d.found))::bigint AS events,
           count(*) FILTER (WHERE d.found IS DISTINCT FROM 0) AS batches, min(b.batch_id::text) AS oldest
      FROM telemetry.batches b LEFT JOIN telemetry.differing d ON d.batch_id = b.batch_id
     WHERE b.org_id = %(org_id)s AND b.state = 'stored' GROUP BY 1
    """,
)

FIND_OLDEST_VERIFIED = sql(
    datetime, "SELECT min(verified_to) FROM telemetry.verified WHERE isfinite(verified_to)"
)

FIND_VERIFIED_TO = sql(
    datetime,
    """
    SELECT verified_to FROM telemetry.verified WHERE org_id = %(org_id)s AND isfinite(verified_to)
    """,
)

ASK = sql(
    Nothing,
    """
    INSERT INTO telemetry.verified AS v (org_id, is_asked, is_replacing)
    VALUES (%(org_id)s, true, %(replaces)s)
    ON CONFLICT (org_id) DO UPDATE
       SET is_asked = true, is_replacing = v.is_replacing OR EXCLUDED.is_replacing
    """,
)


@dataclass(frozen=True, slots=True)
class Kept:
    """One that differs, as it was accepted."""

    batch_id: str
    body: bytes


LIST_REPLACEABLE = sql(
    Kept,
    """
    SELECT batch_id, body
      FROM (SELECT b.batch_id, b.body,
                   sum(octet_length(b.body)) OVER (ORDER BY b.batch_id) - octet_length(b.body) AS before
              FROM telemetry.differing d JOIN telemetry.batches b ON b.batch_id = d.batch_id
             WHERE d.org_id = %(org_id)s AND b.state = 'stored' AND b.batch_id > %(after)s::uuid
             ORDER BY b.batch_id LIMIT %(limit)s) kept
     WHERE before < %(bytes_max)s ORDER BY batch_id
    """,
)

NOTE_STALE = sql(
    Nothing,
    """
    INSERT INTO telemetry.stale_days (org_id, day) SELECT %(org_id)s, unnest(%(days)s::date[])
    ON CONFLICT DO NOTHING
    """,
)

# Asked for anew meanwhile, it is for the next pass.
REPLACED = sql(
    Nothing, "UPDATE telemetry.verified SET is_replacing = is_asked WHERE org_id = %(org_id)s"
)


async def ask(tx: Tx, *, replaces: bool) -> None:
    """The next pass compares everything of the caller's organisation again, with the roll-ups. replaces:
    what the store has in part, twice or altered is stored anew from the buffer."""
    org_id = tx.call.caller.org_id
    await tx.run(ASK, org_id=org_id, replaces=replaces)
    record(tx, "telemetry.reconcile", "organisation", org_id, new={"replaces": replaces})


async def list_reconciliations(
    tx: Tx, pages: Pages, request: ListReconciliationsRequest
) -> ListReconciliationsResponse:
    """The newest day first."""
    org_id = tx.call.caller.org_id
    size, position = pages.page(request)
    day, producer = position or ("9999-12-31", "")
    rows = await tx.all(
        LIST_RECONCILIATIONS, org_id=org_id, day=day, producer=producer, limit=size + 1
    )
    verified_to = await tx.one(FIND_VERIFIED_TO, org_id=org_id)
    return ListReconciliationsResponse(
        reconciliations=rows[:size],
        next_page_token=pages.next_token(request, rows, size, "day", "producer"),
        verified_to=verified_to,
    )
