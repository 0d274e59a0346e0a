"""What a worker does for a scoring: judges the stored answers, a portion at a time.

A portion's verdicts, the counters and the position move in one transaction, so a lost worker loses
nothing and a second one repeats nothing.
"""

from __future__ import annotations

from typing import Any

from chimera.call import Call
from chimera.campaigns.checking import scorer_spec
from chimera.campaigns.dataset_rows import bring_rows, keep_rows
from chimera.campaigns.plan import RunPlan
from chimera.campaigns.scorers import Judge, ScorerError, compile_scorer
from chimera.campaigns.stored_answers import response_of
from chimera.core import Core
from chimera.db import Nothing, sql
from chimera.v1.campaigns_pb2 import Scorer
from chimera.v1.evaluation_pb2 import ScoredAgain

PORTION = 200

OPEN_SCORING = sql(
    dict,
    """
    SELECT s.run_id, s.scorer, s.position, p.plan
      FROM campaigns.scorings s JOIN campaigns.run_plans p ON p.run_id = s.run_id
     WHERE s.id = %(scoring_id)s AND s.state = 'running'
    """,
)

# Also answers that were kept although nobody could judge them: a scorer or a judge failed.
READ_ANSWERS = sql(
    dict,
    """
    SELECT cell_no, response, original_prompt, transformed_prompt, finish_reason, is_successful
      FROM campaigns.executions
     WHERE run_id = %(run_id)s AND cell_no > %(after)s
       AND (state = 'succeeded' OR (state = 'failed' AND response <> ''))
     ORDER BY cell_no LIMIT %(limit)s
    """,
)

COUNT_ANSWERS = sql(
    Nothing,
    """
    UPDATE campaigns.scorings s
       SET answers_total = (SELECT count(*) FROM campaigns.executions e
             WHERE e.run_id = s.run_id
               AND (e.state = 'succeeded' OR (e.state = 'failed' AND e.response <> '')))
     WHERE s.id = %(scoring_id)s AND s.answers_total IS NULL
    """,
)

# Whoever moves the position on owns the portion: another worker with the same one changes nothing.
MOVE_ON = sql(
    int,
    """
    UPDATE campaigns.scorings
       SET position = %(position)s, answers = answers + %(answers)s, scored = scored + %(scored)s,
           successes = successes + %(successes)s, errored = errored + %(errored)s,
           flipped = flipped + %(flipped)s,
           state = CASE WHEN %(is_last)s THEN 'completed' ELSE state END,
           finished_at = CASE WHEN %(is_last)s THEN now() END
     WHERE id = %(scoring_id)s AND state = 'running' AND position = %(was)s
    RETURNING 1
    """,
)

STORE_VERDICTS = sql(
    Nothing,
    """
    INSERT INTO campaigns.verdicts
        (scoring_id, cell_no, org_id, is_successful, success_score, reason, recorded_is_successful)
    SELECT %(scoring_id)s, v.cell_no, %(org_id)s, v.success, v.score, v.reason, v.recorded
      FROM unnest(%(cells)s::bigint[], %(successes)s::boolean[], %(scores)s::real[],
                  %(reasons)s::text[], %(recorded)s::boolean[])
           AS v (cell_no, success, score, reason, recorded)
    """,
)


async def judge_again(core: Core, org_id: str, scoring_id: str) -> None:
    """Judges what is left of a scoring. Safe to run twice and at once."""
    opening = Call.by_worker("judge_again", org_id, seconds=60)
    async with core.db.begin(opening) as tx:
        opened = await tx.one(OPEN_SCORING, scoring_id=scoring_id)
        await tx.run(COUNT_ANSWERS, scoring_id=scoring_id)
    if opened is None:
        return
    plan = RunPlan(opened["plan"], core.row_seals.of(org_id))
    judge = compile_scorer(scorer_spec(Scorer.FromString(opened["scorer"])))
    position: int | None = opened["position"]
    while position is not None:
        position = await _judge_portion(
            core, org_id, scoring_id, opened["run_id"], plan, judge, position
        )


async def _judge_portion(
    core: Core,
    org_id: str,
    scoring_id: str,
    run_id: str,
    plan: RunPlan,
    judge: Judge,
    position: int,
) -> int | None:
    """The position after the portion; None when there is nothing left, or another worker has it."""
    async with core.db.begin(Call.by_worker("judge_again", org_id, seconds=60)) as tx:
        rows = await tx.all(READ_ANSWERS, run_id=run_id, after=position, limit=PORTION)
        await bring_rows(tx, plan, [row["cell_no"] for row in rows])
        verdicts = [_judged(plan, judge, row) for row in rows]
        keep_rows(plan, ())
        moved = await tx.one(
            MOVE_ON,
            scoring_id=scoring_id,
            was=position,
            position=rows[-1]["cell_no"] if rows else position,
            answers=len(rows),
            scored=sum(verdict.HasField("is_successful") for verdict in verdicts),
            successes=sum(verdict.is_successful for verdict in verdicts),
            errored=sum(not verdict.HasField("is_successful") for verdict in verdicts),
            flipped=sum(
                verdict.HasField("is_successful")
                and verdict.HasField("recorded_is_successful")
                and verdict.is_successful != verdict.recorded_is_successful
                for verdict in verdicts
            ),
            is_last=len(rows) < PORTION,
        )
        if moved is None:
            return None
        await tx.run(
            STORE_VERDICTS,
            scoring_id=scoring_id,
            org_id=org_id,
            cells=[verdict.cell_no for verdict in verdicts],
            successes=[
                verdict.is_successful if verdict.HasField("is_successful") else None
                for verdict in verdicts
            ],
            scores=[
                verdict.success_score if verdict.HasField("success_score") else None
                for verdict in verdicts
            ],
            reasons=[verdict.reason for verdict in verdicts],
            recorded=[row["is_successful"] for row in rows],
        )
    return rows[-1]["cell_no"] if len(rows) == PORTION else None


def _judged(plan: RunPlan, judge: Judge, row: dict[str, Any]) -> ScoredAgain:
    """A verdict, or why there is none: an answer that cannot be judged is errored, not resisted."""
    again = ScoredAgain(cell_no=row["cell_no"])
    if row["is_successful"] is not None:
        again.recorded_is_successful = bool(row["is_successful"])
    try:
        verdict = judge(response_of(plan, row))
    except ScorerError as error:
        again.reason = f"the scorer failed: {error.reason}"
        return again
    again.is_successful, again.success_score = verdict.success, verdict.score
    again.reason = verdict.reason[:1000]
    return again
