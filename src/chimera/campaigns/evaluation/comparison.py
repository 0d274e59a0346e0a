"""Two runs cell by cell: which verdicts flipped, and whether that is more than chance.

Cells are paired by what was asked, not by their numbers, so runs of different plans can be compared:
the same original prompt, technique, repetition and (unless models are compared) target. Prompts that
occur several times in a run are paired in their order. A cell without a scored partner is in no
count of pairs.
"""

from __future__ import annotations

from typing import Any

from chimera.campaigns.runs import get_run
from chimera.campaigns.statistics import Paired, mcnemar_p, paired_difference
from chimera.db import Tx, sql
from chimera.faults import NotReady
from chimera.v1.evaluation_pb2 import (
    CompareRunsResponse,
    Flip,
    PairCounts,
    PairedTest,
    PairedTestByTechnique,
    Pairing,
)

# The scored cells of both runs with what they are paired by.
KEYED = """
    WITH scored AS MATERIALIZED (
        SELECT e.run_id, e.cell_no, md5(e.original_prompt) AS prompt, e.iteration_number,
               p.technique_names[e.technique_no + 1] AS technique,
               p.target_names[e.target_no + 1] AS target_name,
               CASE WHEN %(across_targets)s THEN '' ELSE p.target_names[e.target_no + 1] END AS target,
               COALESCE(o.is_successful, e.is_successful) AS success
          FROM campaigns.executions e
          JOIN campaigns.run_plans p ON p.run_id = e.run_id
          LEFT JOIN campaigns.overrides o ON o.run_id = e.run_id AND o.cell_no = e.cell_no
                                         AND o.withdrawn_at IS NULL AND %(reviewed)s
         WHERE e.run_id IN (%(first)s, %(second)s)
    ), keyed AS (
        SELECT *, row_number() OVER (PARTITION BY run_id, prompt, iteration_number, technique, target
                                     ORDER BY cell_no) AS occurrence
          FROM scored WHERE success IS NOT NULL
    )"""

COUNT_PAIRS = sql(
    dict,
    KEYED  # noqa: S608 - both parts stand in this module
    + """
    SELECT COALESCE(a.technique, b.technique) AS technique,
           count(*) FILTER (WHERE a.success AND b.success) AS both,
           count(*) FILTER (WHERE a.success AND NOT b.success) AS only_first,
           count(*) FILTER (WHERE b.success AND NOT a.success) AS only_second,
           count(*) FILTER (WHERE NOT a.success AND NOT b.success) AS neither,
           count(*) FILTER (WHERE b.run_id IS NULL) AS first_unpaired,
           count(*) FILTER (WHERE a.run_id IS NULL) AS second_unpaired
      FROM (SELECT * FROM keyed WHERE run_id = %(first)s) a
      FULL JOIN (SELECT * FROM keyed WHERE run_id = %(second)s) b
        USING (prompt, iteration_number, technique, target, occurrence)
     GROUP BY 1 ORDER BY 1
    """,
)

LIST_FLIPS = sql(
    Flip,
    KEYED  # noqa: S608 - both parts stand in this module
    + """, flips AS (
        SELECT a.cell_no AS first_cell_no, b.cell_no AS second_cell_no, a.technique,
               a.target_name AS first_target, b.target_name AS second_target,
               a.success AS first_is_successful
          FROM (SELECT * FROM keyed WHERE run_id = %(first)s) a
          JOIN (SELECT * FROM keyed WHERE run_id = %(second)s) b
         USING (prompt, iteration_number, technique, target, occurrence)
         WHERE a.success <> b.success AND a.cell_no > %(after)s
         ORDER BY a.cell_no LIMIT %(limit)s
    )
    SELECT f.first_cell_no, f.second_cell_no, f.technique, f.first_target, f.second_target,
           left(e.original_prompt, 4000) AS original_prompt, f.first_is_successful
      FROM flips f
      JOIN campaigns.executions e ON e.run_id = %(first)s AND e.cell_no = f.first_cell_no
     ORDER BY f.first_cell_no
    """,
)


async def compare_runs(tx: Tx, pairing: Pairing) -> CompareRunsResponse:
    """Raises NotFound(RUN_NOT_FOUND), NotReady(RUNS_NOT_COMPARABLE)."""
    await _check(tx, pairing)
    rows = await tx.all(COUNT_PAIRS, **_params(pairing))
    answer = CompareRunsResponse(
        first_unpaired=sum(row["first_unpaired"] for row in rows),
        second_unpaired=sum(row["second_unpaired"] for row in rows),
    )
    total = Paired(0, 0, 0, 0)
    for row in rows:
        pairs = Paired(row["both"], row["only_first"], row["only_second"], row["neither"])
        total = Paired(*(left + right for left, right in zip(total, pairs, strict=True)))
        answer.by_technique.append(
            PairedTestByTechnique(technique=row["technique"], test=paired_test(pairs))
        )
    answer.test.CopyFrom(paired_test(total))
    return answer


async def list_flips(tx: Tx, pairing: Pairing, *, after: int | None, limit: int) -> list[Flip]:
    """By cell of the first run. Raises as compare_runs."""
    await _check(tx, pairing)
    return await tx.all(
        LIST_FLIPS, **_params(pairing), after=-1 if after is None else after, limit=limit
    )


def paired_test(pairs: Paired) -> PairedTest:
    test = PairedTest(counts=PairCounts(**pairs._asdict()))
    if pairs.pairs:
        difference, interval = paired_difference(pairs)
        test.difference, test.low, test.high = difference, interval.low, interval.high
        test.p_value = mcnemar_p(pairs.only_first, pairs.only_second)
    return test


async def _check(tx: Tx, pairing: Pairing) -> None:
    first = await get_run(tx, pairing.first_run_id)
    second = await get_run(tx, pairing.second_run_id)
    if pairing.across_targets and (len(first.target_names) != 1 or len(second.target_names) != 1):
        raise NotReady(
            "RUNS_NOT_COMPARABLE",
            "Cells can be paired across targets only when each run has one target.",
        )


def _params(pairing: Pairing) -> dict[str, Any]:
    return {
        "first": pairing.first_run_id,
        "second": pairing.second_run_id,
        "across_targets": pairing.across_targets,
        "reviewed": pairing.reviewed,
    }
