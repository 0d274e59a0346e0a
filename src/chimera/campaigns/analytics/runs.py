"""Figures of a run, computed from its results when they are asked for."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import orjson

from chimera.campaigns.analytics.figures import Sums, figures_of
from chimera.campaigns.plan import row_count
from chimera.campaigns.runs import get_run
from chimera.db import Tx, sql
from chimera.templates.heads import list_heads
from chimera.v1.analytics_pb2 import (
    AnalyseRunResponse,
    ErrorCount,
    FiguresByName,
    Percentiles,
    RunSlice,
    SourceSlice,
)

# One pass: each group, and all of them together.
ANALYSE_RUN = sql(
    dict,
    """
    SELECT GROUPING(e.technique_no) = 1 AS is_total,
           max(p.technique_names[e.technique_no + 1]) AS technique,
           max(split_part(p.target_names[e.target_no + 1], '/', 1)) AS provider,
           max(substr(p.target_names[e.target_no + 1], strpos(p.target_names[e.target_no + 1], '/') + 1)) AS model,
           count(*) AS results, COALESCE(sum(e.attempts), 0)::bigint AS attempts,
           count(e.is_successful) AS scored, count(*) FILTER (WHERE e.is_successful) AS successes,
           count(*) FILTER (WHERE e.is_successful IS NULL) AS failed,
           COALESCE(sum(e.latency_ms) FILTER (WHERE e.is_successful IS NOT NULL), 0)::bigint AS latency_ms_sum,
           COALESCE(sum(e.input_tokens), 0)::bigint AS input_tokens,
           COALESCE(sum(e.output_tokens), 0)::bigint AS output_tokens,
           COALESCE(sum(e.cost), 0) AS cost,
           percentile_cont(ARRAY[0.5, 0.9, 0.95, 0.99])
               WITHIN GROUP (ORDER BY CASE WHEN e.is_successful IS NOT NULL THEN e.latency_ms END) AS latency
      FROM campaigns.executions e JOIN campaigns.run_plans p ON p.run_id = e.run_id
     WHERE e.run_id = %(run_id)s
     GROUP BY GROUPING SETS ((e.technique_no, e.target_no), ())
     ORDER BY is_total DESC, e.technique_no, e.target_no
    """,
)

READ_PLAN = sql(bytes, "SELECT plan FROM campaigns.run_plans WHERE run_id = %(run_id)s")

# By prompt number, of which a source of the plan has a range.
ANALYSE_SOURCES = sql(
    dict,
    """
    SELECT width_bucket(e.prompt_no, %(starts)s::bigint[]) AS source,
           count(*) AS results, COALESCE(sum(e.attempts), 0)::bigint AS attempts,
           count(e.is_successful) AS scored, count(*) FILTER (WHERE e.is_successful) AS successes,
           count(*) FILTER (WHERE e.is_successful IS NULL) AS failed,
           COALESCE(sum(e.latency_ms) FILTER (WHERE e.is_successful IS NOT NULL), 0)::bigint AS latency_ms_sum,
           COALESCE(sum(e.input_tokens), 0)::bigint AS input_tokens,
           COALESCE(sum(e.output_tokens), 0)::bigint AS output_tokens,
           COALESCE(sum(e.cost), 0) AS cost,
           percentile_cont(ARRAY[0.5, 0.9, 0.95, 0.99])
               WITHIN GROUP (ORDER BY CASE WHEN e.is_successful IS NOT NULL THEN e.latency_ms END) AS latency
      FROM campaigns.executions e
     WHERE e.run_id = %(run_id)s
     GROUP BY 1 ORDER BY 1
    """,
)

COUNT_ERRORS = sql(
    dict,
    """
    SELECT p.technique_names[e.technique_no + 1] AS technique, p.target_names[e.target_no + 1] AS target,
           e.error_kind AS kind, count(*) AS results
      FROM campaigns.executions e JOIN campaigns.run_plans p ON p.run_id = e.run_id
     WHERE e.run_id = %(run_id)s AND e.is_successful IS NULL
     GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    """,
)


async def analyse_run(tx: Tx, run_id: str) -> AnalyseRunResponse:
    """Raises NotFound(RUN_NOT_FOUND)."""
    run = await get_run(tx, run_id)
    rows = await tx.all(ANALYSE_RUN, run_id=run_id)
    errors = await tx.all(COUNT_ERRORS, run_id=run_id)
    total, *groups = rows
    answer = AnalyseRunResponse(run=run, total=RunSlice(figures=figures_of(total)))
    _add_latency(answer.total, total)
    kinds: dict[str, int] = {}
    for error in errors:
        kinds[error["kind"]] = kinds.get(error["kind"], 0) + error["results"]
    answer.total.errors.extend(ErrorCount(kind=k, results=n) for k, n in sorted(kinds.items()))
    for row in groups:
        one = answer.slices.add(
            technique=row["technique"],
            provider=row["provider"],
            model=row["model"],
            figures=figures_of(row),
        )
        _add_latency(one, row)
        target = f"{row['provider']}/{row['model']}"
        one.errors.extend(
            ErrorCount(kind=error["kind"], results=error["results"])
            for error in errors
            if (error["technique"], error["target"]) == (row["technique"], target)
        )
    await _add_sources(tx, run_id, answer)
    return answer


async def _add_sources(tx: Tx, run_id: str, answer: AnalyseRunResponse) -> None:
    body = await tx.one(READ_PLAN, run_id=run_id)
    assert body is not None  # made with the run
    sources = orjson.loads(body)["prompts"]
    starts = [0, *accumulate(row_count(source) for source in sources)][:-1]
    rows = {
        row["source"]: row for row in await tx.all(ANALYSE_SOURCES, run_id=run_id, starts=starts)
    }
    heads = await list_heads(tx, {source["template_id"] for source in sources})
    by_vulnerability: dict[str, Sums] = {}
    for number, source in enumerate(sources, start=1):
        head = heads.get(source["template_id"])
        dataset = source.get("dataset", {})
        one = answer.by_source.add(
            template_id=source["template_id"],
            version_number=source["version_number"],
            template_title=head.title if head else "",
            vulnerability_type=head.vulnerability_type if head else "",
            dataset_id=dataset.get("dataset_id", ""),
            dataset_version=dataset.get("version_number", 0),
        )
        if number in rows:
            one.figures.CopyFrom(figures_of(rows[number]))
            _add_latency(one, rows[number])
            by_vulnerability.setdefault(one.vulnerability_type, Sums()).add(rows[number])
    answer.by_vulnerability.extend(
        FiguresByName(name=name, figures=sums.figures())
        for name, sums in sorted(by_vulnerability.items())
    )


def _add_latency(one: RunSlice | SourceSlice, row: dict[str, Any]) -> None:
    if row["scored"]:
        p50, p90, p95, p99 = row["latency"]
        one.latency_ms.CopyFrom(Percentiles(p50=p50, p90=p90, p95=p95, p99=p99))
