"""Scorings: the stored answers of a run judged by another scorer. judging.py does the work."""

from __future__ import annotations

from chimera import outbox
from chimera.audit import recording
from chimera.campaigns.checking import checked_scorer
from chimera.campaigns.runs import LIVE, check_run_level, get_run
from chimera.campaigns.scorers import fingerprint, judges_of
from chimera.db import Tx, sql
from chimera.faults import Invalid, NotFound, NotReady, Violation
from chimera.ids import new_id
from chimera.rows import enum_text
from chimera.v1.evaluation_pb2 import RescoreRunRequest, ScoredAgain, Scoring

CREATE_SCORING = sql(
    Scoring,
    """
    INSERT INTO campaigns.scorings (id, org_id, run_id, name, scorer, fingerprint, created_by)
    VALUES (%(id)s, %(org_id)s, %(run_id)s, %(name)s, %(scorer)s, %(fingerprint)s, %(user_id)s)
    RETURNING id, run_id, name, state, scorer, fingerprint, answers, scored, successes, errored,
              flipped, created_by, created_at, finished_at
    """,
)

GET_SCORING = sql(
    Scoring,
    """
    SELECT id, run_id, name, state, scorer, fingerprint, answers, scored, successes, errored, flipped,
           created_by, created_at, finished_at
      FROM campaigns.scorings WHERE id = %(scoring_id)s
    """,
)

LIST_SCORINGS = sql(
    Scoring,
    """
    SELECT id, run_id, name, state, scorer, fingerprint, answers, scored, successes, errored, flipped,
           created_by, created_at, finished_at
      FROM campaigns.scorings
     WHERE run_id = %(run_id)s AND (%(after)s::uuid IS NULL OR id < %(after)s)
     ORDER BY id DESC LIMIT %(limit)s
    """,
    prepare=False,
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
    """Starts a scoring. Raises NotFound(RUN_NOT_FOUND), Denied(CAMPAIGN_LEVEL_TOO_LOW),
    NotReady(RUN_NOT_OVER), Invalid(SCORER_*)."""
    spec = checked_scorer(request.scorer, "scorer")
    if judges_of(spec):
        raise Invalid(
            "SCORER_NEEDS_CALLS",
            "A scoring sends nothing, and this scorer asks a model. Give it to a campaign instead.",
            violations=[Violation("scorer", "must not contain llm_judge")],
        )
    run = await check_run_level(tx, request.run_id, "execute")
    if enum_text(run, "state", run.state) in LIVE:
        raise NotReady("RUN_NOT_OVER", "The run still records results; wait for its end.")
    scoring = await tx.one(
        CREATE_SCORING,
        id=new_id(),
        org_id=tx.call.caller.org_id,
        user_id=tx.call.caller.user_id,
        run_id=request.run_id,
        name=request.name,
        scorer=request.scorer.SerializeToString(deterministic=True),
        fingerprint=fingerprint(spec),
    )
    assert scoring is not None
    await outbox.enqueue(tx, "judge_again", scoring_id=scoring.id)
    facts = {"scoring_id": scoring.id, "fingerprint": scoring.fingerprint}
    recording.record(tx, "run.rescore", "run", request.run_id, new=facts)
    return scoring


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
