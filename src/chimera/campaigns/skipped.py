"""Cells that a limit left out. They have no rows: what is in the plan of a run that was stopped and
not among its results was skipped."""

from __future__ import annotations

from chimera.db import Tx, sql
from chimera.rows import enum_text
from chimera.v1.campaigns_pb2 import Execution, ListExecutionsRequest, Run

STEP_CELLS = 20_000

# Of a stretch of cell numbers; a cell stands in the plan by arithmetic (campaigns/plan.py).
LIST_SKIPPED = sql(
    Execution,
    """
    SELECT p.run_id, n.cell_no, t.prompt_no, t.technique_no, t.target_no, t.iteration_number,
           'skipped' AS state, p.technique_names[t.technique_no + 1] AS technique_applied,
           split_part(p.target_names[t.target_no + 1], '/', 1) AS provider_used,
           substr(p.target_names[t.target_no + 1], strpos(p.target_names[t.target_no + 1], '/') + 1)
               AS model_used
      FROM campaigns.run_plans p
     CROSS JOIN generate_series(%(first)s::bigint, %(last)s::bigint) AS n (cell_no)
     CROSS JOIN LATERAL (
        SELECT n.cell_no / (p.repetitions * cardinality(p.target_names)
                            * cardinality(p.technique_names)) AS prompt_no,
               (n.cell_no / (p.repetitions * cardinality(p.target_names))
                   %% cardinality(p.technique_names))::int AS technique_no,
               (n.cell_no / p.repetitions %% cardinality(p.target_names))::int AS target_no,
               (n.cell_no %% p.repetitions)::int AS iteration_number
     ) t
     WHERE p.run_id = %(run_id)s
       -- A run that goes back to another one has only the cells of its shards to skip.
       AND (NOT %(is_partial)s OR EXISTS (
            SELECT FROM campaigns.shards s
             WHERE s.run_id = %(run_id)s AND n.cell_no >= s.first_cell
               AND n.cell_no < s.first_cell + s.cells
               AND (s.wanted IS NULL OR n.cell_no = ANY(s.wanted))))
       AND (%(technique_no)s::int IS NULL OR t.technique_no = %(technique_no)s)
       AND (%(target_no)s::int IS NULL OR t.target_no = %(target_no)s)
       AND NOT EXISTS (SELECT FROM campaigns.executions e
                        WHERE e.run_id = %(run_id)s AND e.cell_no = n.cell_no
                          AND e.cell_no BETWEEN %(first)s AND %(last)s)
     ORDER BY n.cell_no LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_skipped(
    tx: Tx, run: Run, request: ListExecutionsRequest, *, after: int | None, limit: int
) -> tuple[list[Execution], bool]:
    """By cell number, at most `limit`, and whether there are more."""
    if not run.counts.skipped or request.HasField("is_successful"):
        return [], False
    found: list[Execution] = []
    first = 0 if after is None else after + 1
    end = _end(run)
    while first < end and len(found) <= limit:
        last = min(first + STEP_CELLS, end) - 1
        found += await tx.all(
            LIST_SKIPPED,
            run_id=run.id,
            first=first,
            last=last,
            is_partial=bool(run.origin_run_id or run.scoring_id),
            technique_no=request.technique_no if request.HasField("technique_no") else None,
            target_no=request.target_no if request.HasField("target_no") else None,
            limit=limit + 1 - len(found),
        )
        first = last + 1
    return found[:limit], len(found) > limit


async def find_skipped(tx: Tx, run: Run, cell_no: int) -> Execution | None:
    """The cell, if it was left out."""
    if not run.counts.skipped or not 0 <= cell_no < _end(run):
        return None
    return await tx.one(
        LIST_SKIPPED,
        run_id=run.id,
        first=cell_no,
        last=cell_no,
        is_partial=bool(run.origin_run_id or run.scoring_id),
        technique_no=None,
        target_no=None,
        limit=1,
    )


def _end(run: Run) -> int:
    """Of the plan's cell numbers."""
    pairs = len(run.technique_names) * len(run.target_names)
    return run.prompt_count * pairs * run.repetitions


def asks_for_skipped(request: ListExecutionsRequest) -> bool:
    return enum_text(request, "state", request.state) == "skipped"
