"""What the worker does: adds newly recorded results to the hours they were recorded in.

A flush row says which results a transaction recorded. Each run has a watermark over its flushes,
which moves in the transaction that adds them, so each result is in exactly one hour exactly once,
however often and by however many workers this runs.
"""

from __future__ import annotations

from chimera.call import NOBODY, Call
from chimera.core import Core
from chimera.db import Tx, sql

RUNS_A_ROUND = 500
FLUSHES_A_STEP = 200
# Calls of a cancelled run may still come back; nothing does after so long.
FINAL_AFTER = "1 hour"

FIND_RUNS = sql(
    dict,
    """
    SELECT r.id, r.org_id FROM campaigns.runs r
      LEFT JOIN campaigns.analysed a ON a.run_id = r.id
     WHERE a.is_final IS NOT TRUE AND r.id > %(after)s AND r.scoring_id IS NULL
     ORDER BY r.id LIMIT %(limit)s
    """,
)

# The row is there and held before anything is read: who comes second goes on from the first's end.
LOCK_PROGRESS = sql(
    str,
    """
    INSERT INTO campaigns.analysed AS a (run_id, org_id, xid)
    VALUES (%(run_id)s, %(org_id)s, '0')
    ON CONFLICT (run_id) DO UPDATE SET xid = a.xid
    RETURNING xid::text
    """,
)

FIND_STEP = sql(
    dict,
    """
    SELECT max(step.xid)::text AS upto, count(*) AS flushes
      FROM (SELECT f.xid FROM campaigns.flushes f
             WHERE f.run_id = %(run_id)s AND f.xid > %(after)s::text::xid8
               AND f.xid < pg_snapshot_xmin(pg_current_snapshot())
             ORDER BY f.xid LIMIT %(limit)s) AS step
    """,
)

ADD_RESULTS = sql(
    int,
    """
    WITH news AS (
        SELECT DISTINCT unnest(f.cells) AS cell_no FROM campaigns.flushes f
         WHERE f.run_id = %(run_id)s AND f.xid > %(after)s::text::xid8 AND f.xid <= %(upto)s::text::xid8
    ), added AS (
        INSERT INTO campaigns.windows AS w
            (campaign_id, window_start, technique, provider, model, org_id, results, attempts, scored,
             successes, failed, latency_ms_sum, input_tokens, output_tokens, cost)
        SELECT r.campaign_id, date_trunc('hour', e.recorded_at, 'UTC'),
               p.technique_names[e.technique_no + 1],
               split_part(p.target_names[e.target_no + 1], '/', 1),
               substr(p.target_names[e.target_no + 1], strpos(p.target_names[e.target_no + 1], '/') + 1),
               e.org_id, count(*), sum(e.attempts), count(*) FILTER (WHERE e.is_successful IS NOT NULL),
               count(*) FILTER (WHERE e.is_successful), count(*) FILTER (WHERE e.is_successful IS NULL),
               COALESCE(sum(e.latency_ms) FILTER (WHERE e.is_successful IS NOT NULL), 0),
               sum(e.input_tokens), sum(e.output_tokens), sum(e.cost)
          FROM news
          JOIN campaigns.executions e ON e.run_id = %(run_id)s AND e.cell_no = news.cell_no
          JOIN campaigns.runs r ON r.id = e.run_id
          JOIN campaigns.run_plans p ON p.run_id = e.run_id
         GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5
            ON CONFLICT (campaign_id, window_start, technique, provider, model) DO UPDATE
           SET results = w.results + EXCLUDED.results, attempts = w.attempts + EXCLUDED.attempts,
               scored = w.scored + EXCLUDED.scored, successes = w.successes + EXCLUDED.successes,
               failed = w.failed + EXCLUDED.failed,
               latency_ms_sum = w.latency_ms_sum + EXCLUDED.latency_ms_sum,
               input_tokens = w.input_tokens + EXCLUDED.input_tokens,
               output_tokens = w.output_tokens + EXCLUDED.output_tokens,
               cost = w.cost + EXCLUDED.cost, computed_at = now()
        RETURNING 1
    )
    UPDATE campaigns.analysed SET xid = %(upto)s::text::xid8 WHERE run_id = %(run_id)s
    RETURNING (SELECT count(*) FROM added)
    """,
)

CLOSE_RUN = sql(
    int,
    """
    UPDATE campaigns.analysed a SET is_final = true
      FROM campaigns.runs r
     WHERE a.run_id = %(run_id)s AND r.id = a.run_id
       AND r.finished_at < clock_timestamp() - %(after)s::text::interval
       AND NOT EXISTS (SELECT FROM campaigns.flushes f WHERE f.run_id = a.run_id AND f.xid > a.xid)
    RETURNING 1
    """,
)


async def collect(core: Core) -> int:
    """Brings the windows of every run up to date; how many flushes were added."""
    added, after = 0, NOBODY
    while True:
        async with core.db.begin(Call.by_worker("find_runs", seconds=30)) as tx:
            runs = await tx.all(FIND_RUNS, after=after, limit=RUNS_A_ROUND)
        for run in runs:
            added += await _collect_run(core, run["id"], run["org_id"])
        if len(runs) < RUNS_A_ROUND:
            return added
        after = runs[-1]["id"]


async def _collect_run(core: Core, run_id: str, org_id: str) -> int:
    added = 0
    while True:
        async with core.db.begin(Call.by_worker("collect_windows", org_id, seconds=60)) as tx:
            flushes = await _step(tx, run_id, org_id)
        added += flushes
        if flushes < FLUSHES_A_STEP:
            return added


async def _step(tx: Tx, run_id: str, org_id: str) -> int:
    after = await tx.one(LOCK_PROGRESS, run_id=run_id, org_id=org_id)
    step = await tx.one(FIND_STEP, run_id=run_id, after=after, limit=FLUSHES_A_STEP)
    if step is None or not step["flushes"]:
        await tx.one(CLOSE_RUN, run_id=run_id, after=FINAL_AFTER)
        return 0
    await tx.one(ADD_RESULTS, run_id=run_id, after=after, upto=step["upto"])
    flushes: int = step["flushes"]
    return flushes
