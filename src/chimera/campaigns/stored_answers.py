"""Stored answers on their way to other scorers, and to the judges of a run that judges them.

Only what is about to be judged is in memory: a run may have millions of answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import structlog

from chimera.campaigns.conversations.judgement import STORED, Judgement
from chimera.campaigns.conversations.talk import marks_of
from chimera.campaigns.conversations.turns import TARGET, Turn
from chimera.campaigns.plan import RunPlan
from chimera.campaigns.scorers import Response
from chimera.campaigns.scorers.llm_judge import JUDGED_CHARS_MAX
from chimera.db import Tx, sql

log = structlog.get_logger("chimera.judging")

READ_STORED = sql(
    dict,
    """
    SELECT cell_no, response, original_prompt, transformed_prompt, finish_reason, model_no, started_at
      FROM campaigns.executions
     WHERE run_id = %(run_id)s AND cell_no = ANY(%(cells)s::bigint[])
    """,
)


def response_of(plan: RunPlan, row: dict[str, Any]) -> Response:
    """A stored answer as scorers see it, with the value of a secret variable where its mask stands.
    row: of campaigns.executions."""
    prompt_no = plan.cell(row["cell_no"]).prompt_no
    return Response(
        text=plan.unmasked(prompt_no, row["response"]),
        prompt=plan.unmasked(prompt_no, row["transformed_prompt"]),
        original_prompt=plan.unmasked(prompt_no, row["original_prompt"]),
        variables=plan.prompt(prompt_no).variables,
        finish_reason=row["finish_reason"] or "",
    )


async def bring_answers(tx: Tx, plan: RunPlan, cells: Iterable[int]) -> None:
    """Of a run that judges: makes the answers of these cells readable. Their prompts must be."""
    talk = plan.talk
    if not isinstance(talk, Judgement):
        return
    wanted = sorted(set(cells) - talk.answers.keys())
    for row in await tx.all(READ_STORED, run_id=talk.run_id, cells=wanted):
        talk.answers[row["cell_no"]] = _judged_without_asking(plan, talk, row)


def keep_answers(plan: RunPlan, ranges: Iterable[tuple[int, int]]) -> None:
    """Lets go of all answers but those of the cells in these ranges (first, end)."""
    talk = plan.talk
    if isinstance(talk, Judgement):
        spans = list(ranges)
        talk.answers = {
            cell_no: answer
            for cell_no, answer in talk.answers.items()
            if any(first <= cell_no < end for first, end in spans)
        }


def _judged_without_asking(plan: RunPlan, talk: Judgement, row: dict[str, Any]) -> Turn:
    """The answer with what the scorers say that need nobody; judges are shown no more of it than is
    kept here."""
    said: dict[str, Any]
    try:
        said = {"marks": marks_of(talk.panel.marks(response_of(plan, row)))}
    except Exception as error:
        # A scorer that breaks on an answer decides nothing about it.
        log.error("judging.scorer_failed", error=type(error).__name__)
        reason = f"the scorer failed: {getattr(error, 'reason', type(error).__name__)}"
        said = {"error_kind": "scorer_error", "verdict_reason": reason}
    return Turn(
        turn_no=STORED,
        purpose=TARGET,
        model_no=row["model_no"] or 0,
        attempt_no=0,
        request=row["transformed_prompt"],
        reply=row["response"][: JUDGED_CHARS_MAX + 1],  # one more says that it goes on
        cost=Decimal(0),
        started_at=row["started_at"],
        finish_reason=row["finish_reason"] or "",
        **said,
    )
