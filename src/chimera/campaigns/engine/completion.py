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

# Of a run that stops: what is in flight is recorded, and so nothing of the shard is left to do.
CLOSE_SHARDS = sql(
    int,
    """
    UPDATE campaigns.shards s
       SET state = 'done', owner = '', lease_until = '-infinity'
      FROM unnest(%(shards)s::int[], %(fences)s::bigint[]) AS l (shard_no, fence)
     WHERE s.run_id = %(run_id)s AND s.shard_no = l.shard_no AND s.fence = l.fence
       AND s.owner = %(owner)s AND s.state = 'open'
       AND NOT EXISTS (SELECT FROM campaigns.attempts a
             WHERE a.run_id = %(run_id)s AND a.cell_no >= s.first_cell
               AND a.cell_no < s.first_cell + s.cells AND a.state = 'sent')
    RETURNING s.shard_no
    """,
)

# And those that nobody has ever held. Whoever is about to is stepped over: he closes it himself.
CLOSE_UNTOUCHED = sql(
    int,
    """
    WITH untouched AS MATERIALIZED (
        SELECT shard_no FROM campaigns.shards
         WHERE run_id = %(run_id)s AND state = 'open' AND fence = 0
         ORDER BY shard_no FOR UPDATE SKIP LOCKED
    )
    UPDATE campaigns.shards s SET state = 'done'
      FROM untouched u
     WHERE s.run_id = %(run_id)s AND s.shard_no = u.shard_no
    RETURNING s.shard_no
    """,
)

# All its answers have a verdict, or the reason why there is none.
FINISH_SCORING = sql(
    Nothing,
    """
    UPDATE campaigns.scorings SET state = 'completed', finished_at = clock_timestamp()
     WHERE id = %(scoring_id)s AND state = 'running'
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

# Nothing was scored at all: the run has failed, with the commonest reason. A run that a limit
# stopped has done what it was told, but for the limit of errors.
FINISH_RUN = sql(
    dict,
    """
    WITH counts AS (
        SELECT COALESCE(sum(scored), 0) AS scored, COALESCE(sum(successes), 0) AS successes,
               COALESCE(sum(failed), 0) AS failed,
               COALESCE(sum(scored + failed + parked), 0) AS recorded
          FROM campaigns.tallies WHERE run_id = %(run_id)s
    )
    UPDATE campaigns.runs r
       SET finished_at = clock_timestamp(), skipped = r.cells_total - c.recorded,
           state = CASE WHEN m.stop_reason = 'error_share' OR (c.scored = 0 AND c.recorded > 0)
               THEN 'failed' ELSE 'completed' END,
           state_reason = concat_ws('; ',
               CASE m.stop_reason
                   WHEN 'executions' THEN 'the limit of executions is reached'
                   WHEN 'tokens' THEN 'the limit of tokens lets no further call out'
                   WHEN 'wall_time' THEN 'the limit of time is reached'
                   WHEN 'error_share' THEN 'too many results are errors'
                   WHEN 'interval' THEN 'the interval is as narrow as was asked for' END,
               CASE WHEN c.scored = 0 AND c.recorded > 0 THEN
                   'no cell could be scored; the commonest error was ' ||
                   (SELECT error_kind
                      FROM (SELECT error_kind FROM campaigns.executions
                             WHERE run_id = %(run_id)s LIMIT 10000) AS first_ones
                     GROUP BY error_kind ORDER BY count(*) DESC LIMIT 1) END)
      FROM counts c, campaigns.run_money m
     WHERE r.id = %(run_id)s AND r.state IN ('running', 'paused') AND m.run_id = r.id
    RETURNING r.state, r.state_reason, c.recorded, c.scored, c.successes, c.failed, r.skipped,
              COALESCE(m.stop_reason, '') AS stop_reason
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


async def recount(tx: Tx, run_id: str, campaign_id: str) -> None:
    """Of a cancelled run, which has no last shard: brings up to date what follows its results."""
    await tx.run(LOCK_CAMPAIGN, campaign_id=campaign_id)
    await tx.run(CACHE_RATE, run_id=run_id, campaign_id=campaign_id, state=None)
    await outbox.enqueue(tx, "settle_template_use", run_id=run_id)


async def finish_shards(
    tx: Tx,
    run_id: str,
    campaign_id: str,
    owner: str,
    leases: Sequence[Lease],
    *,
    scoring_id: str = "",
    is_stopping: bool = False,
) -> None:
    """Marks shards done and, with the last of them, the run, and the scoring that it judges for. Of a
    run that stops, also shards that nobody has begun."""
    if not leases:
        return
    done = await tx.all(
        CLOSE_SHARDS if is_stopping else FINISH_SHARDS,
        run_id=run_id,
        owner=owner,
        shards=[lease.shard_no for lease in leases],
        fences=[lease.fence for lease in leases],
    )
    if is_stopping:
        done += await tx.all(CLOSE_UNTOUCHED, run_id=run_id)
    if not done:
        return
    await tx.run(LOCK_CAMPAIGN, campaign_id=campaign_id)
    state = None
    if await tx.one(COUNT_SHARDS, run_id=run_id, count=len(done)):
        over = await tx.one(FINISH_RUN, run_id=run_id)
        if over is not None:
            state = over["state"]
            if scoring_id:
                await tx.run(FINISH_SCORING, scoring_id=scoring_id)
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
                    "recorded": int(over["recorded"]),
                    "scored": int(over["scored"]),
                    "successes": int(over["successes"]),
                    "failed": int(over["failed"]),
                    "skipped": over["skipped"],
                    "stop_reason": over["stop_reason"],
                },
            )
    await tx.run(CACHE_RATE, run_id=run_id, campaign_id=campaign_id, state=state)
