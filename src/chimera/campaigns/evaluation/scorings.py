"""Scorings: the stored answers of a run judged by another scorer. judging.py does the work, and of
models that judge the run in judging_runs.py."""

from __future__ import annotations

from typing import Any

from chimera import outbox
from chimera.audit import recording
from chimera.campaigns.checking import checked_scorer
from chimera.campaigns.evaluation.judging_runs import cancel_judging, start_judging
from chimera.campaigns.runs import LIVE, check_run_level, get_run, refuse_judging
from chimera.campaigns.scorers import fingerprint, judges_of
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotFound, NotReady
from chimera.ids import new_id
from chimera.rows import enum_text
from chimera.v1.evaluation_pb2 import (
    CancelScoringRequest,
    RescoreRunRequest,
    ScoredAgain,
    Scoring,
)

CREATE_SCORING = sql(
    Nothing,
    """
    INSERT INTO campaigns.scorings (id, org_id, run_id, name, scorer, fingerprint, created_by)
    VALUES (%(id)s, %(org_id)s, %(run_id)s, %(name)s, %(scorer)s, %(fingerprint)s, %(user_id)s)
    """,
)

GET_SCORING = sql(
    Scoring,
    """
    SELECT s.id, s.run_id, s.name, s.state, s.scorer, s.fingerprint, s.answers, s.scored, s.successes,
           s.errored, s.flipped, s.created_by, s.created_at, s.finished_at,
           COALESCE(s.answers_total, j.cells_total) AS answers_total,
           j.id AS judging_run_id, COALESCE(j.state_reason, '') AS state_reason,
           COALESCE(trim_scale(m.settled)::text, '') AS cost_usd,
           (SELECT jsonb_agg(jsonb_build_object(
                'seat_no', t.seat_no, 'purpose', 'TURN_PURPOSE_' || upper(t.purpose),
                'target_name', t.target_name, 'calls', t.calls::text,
                'input_tokens', t.input_tokens::text, 'output_tokens', t.output_tokens::text,
                'cost_usd', trim_scale(t.settled)::text,
                'cost_usd_max', COALESCE(trim_scale(t.cost_max)::text, '')) ORDER BY t.seat_no)
              FROM campaigns.seats t WHERE t.run_id = j.id) AS judges
      FROM campaigns.scorings s
      LEFT JOIN campaigns.runs j ON j.scoring_id = s.id
      LEFT JOIN campaigns.run_money m ON m.run_id = j.id
     WHERE s.id = %(scoring_id)s
    """,
)

LIST_SCORINGS = sql(
    Scoring,
    """
    SELECT s.id, s.run_id, s.name, s.state, s.scorer, s.fingerprint, s.answers, s.scored, s.successes,
           s.errored, s.flipped, s.created_by, s.created_at, s.finished_at,
           COALESCE(s.answers_total, j.cells_total) AS answers_total,
           j.id AS judging_run_id, COALESCE(j.state_reason, '') AS state_reason
      FROM campaigns.scorings s
      LEFT JOIN campaigns.runs j ON j.scoring_id = s.id
     WHERE s.run_id = %(run_id)s AND (%(after)s::uuid IS NULL OR s.id < %(after)s)
     ORDER BY s.id DESC LIMIT %(limit)s
    """,
    prepare=False,
)

CANCEL_SCORING = sql(
    int,
    """
    UPDATE campaigns.scorings SET state = 'cancelled', finished_at = clock_timestamp()
     WHERE id = %(scoring_id)s AND state = 'running'
    RETURNING 1
    """,
)

LIST_VERDICTS = sql(
    ScoredAgain,
    """
    SELECT cell_no, is_successful, success_score::float8 AS success_score, reason, recorded_is_successful
      FROM campaigns.verdicts
     WHERE scoring_id = %(scoring_id)s AND cell_no > %(after)s
       AND (NOT %(flipped_only)s OR is_successful <> recorded_is_successful)
     ORDER BY cell_no LIMIT %(limit)s
    """,
)


async def rescore_run(tx: Tx, request: RescoreRunRequest) -> Scoring:
    """Starts a scoring; one in which models judge has a run of its own (judging_runs.py). Raises
    NotFound(RUN_NOT_FOUND), Denied(CAMPAIGN_LEVEL_TOO_LOW), NotReady (RUN_NOT_OVER, RUN_JUDGES),
    Invalid(SCORER_*), and what start_judging raises."""
    spec = checked_scorer(request.scorer, "scorer")
    run = await check_run_level(tx, request.run_id, "execute")
    refuse_judging(run)
    if enum_text(run, "state", run.state) in LIVE:
        raise NotReady("RUN_NOT_OVER", "The run still records results; wait for its end.")
    scoring_id = new_id()
    facts: dict[str, Any] = {"scoring_id": scoring_id, "fingerprint": fingerprint(spec)}
    await tx.run(
        CREATE_SCORING,
        id=scoring_id,
        org_id=tx.call.caller.org_id,
        user_id=tx.call.caller.user_id,
        run_id=request.run_id,
        name=request.name,
        scorer=request.scorer.SerializeToString(deterministic=True),
        fingerprint=facts["fingerprint"],
    )
    if judges_of(spec):
        facts |= await start_judging(tx, scoring_id, run, spec)
    else:
        await outbox.enqueue(tx, "judge_again", scoring_id=scoring_id)
    recording.record(tx, "run.rescore", "run", request.run_id, new=facts)
    return await get_scoring(tx, scoring_id)


async def cancel_scoring(tx: Tx, request: CancelScoringRequest) -> Scoring:
    """Raises NotFound(SCORING_NOT_FOUND), Denied(CAMPAIGN_LEVEL_TOO_LOW), NotReady(SCORING_OVER)."""
    scoring = await get_scoring(tx, request.scoring_id)
    run = await check_run_level(tx, scoring.run_id, "execute")
    if await tx.one(CANCEL_SCORING, scoring_id=scoring.id) is None:
        raise NotReady("SCORING_OVER", "Only a scoring that is going on can be cancelled.")
    await cancel_judging(tx, scoring.id, run.campaign_id, request.reason)
    recording.record(
        tx,
        "run.cancel_scoring",
        "run",
        scoring.run_id,
        old={"scoring_id": scoring.id, "state": "running"},
        new={"scoring_id": scoring.id, "state": "cancelled"},
        reason=request.reason,
    )
    return await get_scoring(tx, scoring.id)


async def get_scoring(tx: Tx, scoring_id: str) -> Scoring:
    """Raises NotFound(SCORING_NOT_FOUND), also when the run is not the caller's to see."""
    scoring = await tx.one(GET_SCORING, scoring_id=scoring_id)
    if scoring is None:
        raise _not_found()
    try:
        await get_run(tx, scoring.run_id)
    except NotFound:
        raise _not_found() from None
    return scoring


async def list_scorings(tx: Tx, run_id: str, *, after: str | None, limit: int) -> list[Scoring]:
    """Newest first. Raises NotFound(RUN_NOT_FOUND)."""
    await get_run(tx, run_id)
    return await tx.all(LIST_SCORINGS, run_id=run_id, after=after, limit=limit)


async def list_verdicts(
    tx: Tx, scoring_id: str, *, flipped_only: bool, after: int | None, limit: int
) -> list[ScoredAgain]:
    """By cell number. Raises NotFound(SCORING_NOT_FOUND)."""
    await get_scoring(tx, scoring_id)
    return await tx.all(
        LIST_VERDICTS,
        scoring_id=scoring_id,
        flipped_only=flipped_only,
        after=-1 if after is None else after,
        limit=limit,
    )


def _not_found() -> NotFound:
    return NotFound("SCORING_NOT_FOUND", "There is no such scoring.")
