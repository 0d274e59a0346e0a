"""The end of shards, and of the run with its last one."""

from __future__ import annotations

from collections.abc import Sequence

from chimera import outbox
from chimera.audit import recording
from chimera.campaigns.engine.leasing import Lease
from chimera.db import Nothing, Tx, sql

# The count is belt and braces: a shard is done only when every cell of it is really recorded.
FINISH_SHARDS = sql(
    int,
    """
    UPDATE campaigns.shards s
       SET state = 'done', owner = '', lease_until = '-infinity'
      FROM unnest(%(shards)s::int[], %(fences)s::bigint[]) AS l (shard_no, fence)
     WHERE s.run_id = %(run_id)s AND s.shard_no = l.shard_no AND s.fence = l.fence
       AND s.owner = %(owner)s AND s.state = 'open'
       AND (SELECT count(*) FROM campaigns.executions e
             WHERE e.run_id = %(run_id)s AND e.cell_no >= s.first_cell
               AND e.cell_no < s.first_cell + s.cells) = COALESCE(cardinality(s.wanted), s.cells)
    RETURNING s.shard_no
    """,
)

# The campaign before its run, as whoever pauses or cancels it locks them.
LOCK_CAMPAIGN = sql(
    Nothing,
    "SELECT FROM campaigns.campaigns WHERE id = %(campaign_id)s FOR NO KEY UPDATE",
)

# Two workers that finish the last two shards wait for each other here, and the second sees both.
COUNT_SHARDS = sql(
    bool,
    """
    UPDATE campaigns.runs SET shards_done = shards_done + %(count)s
     WHERE id = %(run_id)s
    RETURNING shards_done = shards_total AS finished
    """,
)

# Nothing was scored at all: the run has failed, with the commonest reason.
FINISH_RUN = sql(
    dict,
    """
    WITH counts AS (
        SELECT sum(scored) AS scored, sum(successes) AS successes, sum(failed) AS failed
          FROM campaigns.tallies WHERE run_id = %(run_id)s
    )
    UPDATE campaigns.runs r
       SET finished_at = clock_timestamp(),
           state = CASE WHEN c.scored = 0 THEN 'failed' ELSE 'completed' END,
           state_reason = CASE WHEN c.scored = 0 THEN
               'no cell could be scored; the commonest error was ' ||
               (SELECT error_kind
                  FROM (SELECT error_kind FROM campaigns.executions
                         WHERE run_id = %(run_id)s LIMIT 10000) AS first_ones
                 GROUP BY error_kind ORDER BY count(*) DESC LIMIT 1)
               ELSE '' END
      FROM counts c
     WHERE r.id = %(run_id)s AND r.state IN ('running', 'paused')
    RETURNING r.state, r.state_reason, c.scored, c.successes, c.failed
    """,
)

# The cached rate follows the counters of the campaign's newest run, and of those whose unscored cells
# it sends again: no cell is scored in two of them.
CACHE_RATE = sql(
    Nothing,
    """
    UPDATE campaigns.campaigns c
       SET success_rate = t.successes::float8 / NULLIF(t.scored, 0),
           state = COALESCE(%(state)s::text, c.state)
      FROM (SELECT sum(scored) AS scored, sum(successes) AS successes
              FROM campaigns.tallies
             WHERE run_id = %(run_id)s
                OR run_id = ANY ((SELECT origins FROM campaigns.runs WHERE id = %(run_id)s)::uuid[])) t
     WHERE c.id = %(campaign_id)s AND c.run_id = %(run_id)s
    """,
)


async def finish_shards(
    tx: Tx, run_id: str, campaign_id: str, owner: str, leases: Sequence[Lease]
) -> None:
    """Marks shards done and, with the last of them, the run."""
    if not leases:
        return
    done = await tx.all(
        FINISH_SHARDS,
        run_id=run_id,
        owner=owner,
        shards=[lease.shard_no for lease in leases],
        fences=[lease.fence for lease in leases],
    )
    if not done:
        return
    await tx.run(LOCK_CAMPAIGN, campaign_id=campaign_id)
    state = None
    if await tx.one(COUNT_SHARDS, run_id=run_id, count=len(done)):
        over = await tx.one(FINISH_RUN, run_id=run_id)
        if over is not None:
            state = over["state"]
            # What its templates achieved is counted apart: this transaction holds the run.
            await outbox.enqueue(tx, "settle_template_use", run_id=run_id)
            recording.record(
                tx,
                f"run.{'fail' if state == 'failed' else 'complete'}",
                "run",
                run_id,
                new={
                    "state": state,
                    "state_reason": over["state_reason"],
                    "scored": int(over["scored"] or 0),
                    "successes": int(over["successes"] or 0),
                    "failed": int(over["failed"] or 0),
                },
            )
    await tx.run(CACHE_RATE, run_id=run_id, campaign_id=campaign_id, state=state)
