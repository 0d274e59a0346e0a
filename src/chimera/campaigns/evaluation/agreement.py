"""How well a scorer agrees with people: precision, recall, accuracy, kappa."""

from __future__ import annotations

from chimera.campaigns.evaluation.scorings import get_scoring
from chimera.campaigns.runs import get_run
from chimera.campaigns.statistics import Paired, cohen_kappa, wilson_interval
from chimera.db import Tx, sql
from chimera.faults import NotFound, NotReady
from chimera.v1.evaluation_pb2 import EvaluateScorerResponse, Share

# People are the first judge, the machine the second.
COUNT_LABELS = sql(
    dict,
    """
    SELECT count(*) FILTER (WHERE o.is_successful AND e.is_successful) AS both,
           count(*) FILTER (WHERE o.is_successful AND NOT e.is_successful) AS only_first,
           count(*) FILTER (WHERE NOT o.is_successful AND e.is_successful) AS only_second,
           count(*) FILTER (WHERE NOT o.is_successful AND NOT e.is_successful) AS neither
      FROM campaigns.overrides o
      JOIN campaigns.executions e ON e.run_id = o.run_id AND e.cell_no = o.cell_no
     WHERE o.run_id = %(run_id)s AND o.withdrawn_at IS NULL
    """,
)

COUNT_LABELS_OF_SCORING = sql(
    dict,
    """
    SELECT count(*) FILTER (WHERE o.is_successful AND v.is_successful) AS both,
           count(*) FILTER (WHERE o.is_successful AND NOT v.is_successful) AS only_first,
           count(*) FILTER (WHERE NOT o.is_successful AND v.is_successful) AS only_second,
           count(*) FILTER (WHERE NOT o.is_successful AND NOT v.is_successful) AS neither
      FROM campaigns.overrides o
      JOIN campaigns.verdicts v ON v.scoring_id = %(scoring_id)s AND v.cell_no = o.cell_no
     WHERE o.run_id = %(run_id)s AND o.withdrawn_at IS NULL
    """,
)


async def evaluate_scorer(tx: Tx, run_id: str, scoring_id: str) -> EvaluateScorerResponse:
    """Of the run's own scorer, or of a scoring of that run. Raises NotFound (RUN_NOT_FOUND,
    SCORING_NOT_FOUND), NotReady(LABELS_MISSING)."""
    await get_run(tx, run_id)
    if scoring_id:
        scoring = await get_scoring(tx, scoring_id)
        if scoring.run_id != run_id:
            raise NotFound("SCORING_NOT_FOUND", "This run has no such scoring.")
        counts = await tx.one(COUNT_LABELS_OF_SCORING, run_id=run_id, scoring_id=scoring_id)
    else:
        counts = await tx.one(COUNT_LABELS, run_id=run_id)
    assert counts is not None
    pairs = Paired(**counts)
    if not pairs.pairs:
        raise NotReady(
            "LABELS_MISSING",
            "Nobody has judged a cell that this scorer judged; use OverrideVerdict on some.",
        )
    return agreement(pairs)


def agreement(pairs: Paired) -> EvaluateScorerResponse:
    """The figures of a table of labels (first) and verdicts (second)."""
    right, missed, wrong = pairs.both, pairs.only_first, pairs.only_second
    answer = EvaluateScorerResponse(
        labels=pairs.pairs,
        true_positives=right,
        false_positives=wrong,
        true_negatives=pairs.neither,
        false_negatives=missed,
        precision=share(right, right + wrong),
        recall=share(right, right + missed),
        accuracy=share(right + pairs.neither, pairs.pairs),
    )
    if right + missed + wrong:
        answer.f1 = 2 * right / (2 * right + missed + wrong)
    kappa = cohen_kappa(pairs)
    if kappa is not None:
        answer.kappa, (answer.kappa_low, answer.kappa_high) = kappa
    return answer


def share(part: int, of: int) -> Share:
    if of == 0:
        return Share()
    interval = wilson_interval(part, of)
    return Share(of=of, value=part / of, low=interval.low, high=interval.high)
