"""Usage by day: the ledger, summed up once.

Ledger rows commit out of order, so they are tailed by transaction: all rows of transactions before the
oldest one that is still running are there and will get no company. The mark moves in the transaction
of the sums, so running twice, or at once, or dying in between counts nothing twice. Corrections are
ledger rows like any others and find their way into the day of their call. With the same rows, each
provider key's calls are counted (providers/key_usage.py).
"""

from __future__ import annotations

import structlog

from chimera import metrics
from chimera.call import Call
from chimera.db import Nothing, sql
from chimera.pools import Database
from chimera.providers.key_usage import add_ledger

log = structlog.get_logger("chimera.usage")

BATCH_ROWS = 50_000  # many times what one transaction writes

# Of two aggregators the second finds nothing to do.
LOCK_MARK = sql(
    dict,
    """
    SELECT upto::text AS upto, pg_snapshot_xmin(pg_current_snapshot())::text AS safe,
           upto > pg_snapshot_xmax(pg_current_snapshot()) AS is_ahead
      FROM accounting.usage_mark FOR UPDATE SKIP LOCKED
    """,
)

# Up to which transaction a batch goes; all of them when fewer rows wait.
FIND_BOUND = sql(
    str,
    """
    SELECT COALESCE((SELECT xid FROM providers.ledger
                      WHERE xid >= %(upto)s::text::xid8 AND xid < %(safe)s::text::xid8
                      ORDER BY xid OFFSET %(batch)s LIMIT 1),
                    %(safe)s::text::xid8)::text
    """,
)

ADD_USAGE = sql(
    Nothing,
    """
    INSERT INTO accounting.usage_daily AS u
        (org_id, day, run_id, user_id, model_id, provider_key_id, technique_no, requests,
         input_tokens, output_tokens, cost, discarded_cost)
    SELECT org_id, COALESCE(sent_on, (booked_at AT TIME ZONE 'UTC')::date), run_id, user_id, model_id,
           COALESCE(provider_key_id, '00000000-0000-0000-0000-000000000000'),
           COALESCE(technique_no, -1), count(*) FILTER (WHERE entry_no = 0), sum(input_tokens),
           sum(output_tokens), sum(cost), COALESCE(sum(cost) FILTER (WHERE discarded), 0)
      FROM providers.ledger
     WHERE xid >= %(upto)s::text::xid8 AND xid < %(bound)s::text::xid8
     GROUP BY 1, 2, 3, 4, 5, 6, 7
     ORDER BY 1, 2, 3, 4, 5, 6, 7
        ON CONFLICT (org_id, day, run_id, user_id, model_id, provider_key_id, technique_no) DO UPDATE
       SET requests = u.requests + EXCLUDED.requests,
           input_tokens = u.input_tokens + EXCLUDED.input_tokens,
           output_tokens = u.output_tokens + EXCLUDED.output_tokens,
           cost = u.cost + EXCLUDED.cost,
           discarded_cost = u.discarded_cost + EXCLUDED.discarded_cost
    """,
)

MOVE_MARK = sql(
    Nothing,
    "UPDATE accounting.usage_mark SET upto = %(bound)s::text::xid8, moved_at = clock_timestamp()",
)


async def aggregate_usage(db: Database) -> int:
    """Sums up what the ledger got since the last time; how many sums moved."""
    moved = 0
    while True:
        async with db.begin(Call.by_worker("aggregate_usage", seconds=120)) as tx:
            mark = await tx.one(LOCK_MARK)
            if mark is None:
                return moved
            if mark["is_ahead"]:
                # A database that was restored into another cluster counts transactions anew.
                log.error("usage.mark_ahead", upto=mark["upto"])
                metrics.USAGE_DISCREPANCIES.labels("mark").set(1)
                return moved
            if mark["upto"] == mark["safe"]:
                return moved
            bound = await tx.one(FIND_BOUND, upto=mark["upto"], safe=mark["safe"], batch=BATCH_ROWS)
            assert bound is not None  # COALESCE without FROM has one row
            moved += await tx.run(ADD_USAGE, upto=mark["upto"], bound=bound)
            await add_ledger(tx, mark["upto"], bound)
            await tx.run(MOVE_MARK, bound=bound)
        if bound == mark["safe"]:
            return moved
