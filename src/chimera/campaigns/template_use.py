"""What a run makes of its templates: noted at launch, counted from its executions when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from chimera.campaigns.freezing import Frozen
from chimera.campaigns.plan import row_count
from chimera.db import Tx, sql
from chimera.templates.usages import Outcome, Use, record_usages, settle_usages
from chimera.v1.campaigns_pb2 import Campaign


async def note(tx: Tx, run_id: str, campaign: Campaign, frozen: Frozen) -> None:
    """Part of the launch."""
    uses = [
        Use(version, [rows[0]], len(rows))
        for version, rows in zip(frozen.versions, frozen.plan.rows, strict=True)
    ]
    await record_usages(
        tx,
        run_id,
        campaign.id,
        uses,
        techniques=frozen.plan.technique_names,
    )


READ_PLAN = sql(
    dict,
    """
    SELECT p.plan, r.id || r.origins AS line
      FROM campaigns.run_plans p JOIN campaigns.runs r ON r.id = p.run_id
     WHERE p.run_id = %(run_id)s
    """,
)

# By prompt, so that the sources of a plan are added up over their ranges.
COUNT_BY_SOURCE = sql(
    dict,
    """
    SELECT width_bucket(e.prompt_no, %(starts)s::bigint[]) AS source, count(*) AS scored,
           count(*) FILTER (WHERE e.is_successful) AS successes,
           sum(e.success_score)::float8 AS score
      FROM campaigns.executions e
     WHERE e.run_id = ANY(%(runs)s::uuid[]) AND e.state = 'succeeded'
     GROUP BY 1
    """,
)


async def settle(tx: Tx, run_id: str) -> None:
    """Sets what the run's templates achieved; doing it again changes nothing. A run that sends cells
    of another again belongs to the use that the first of the line noted."""
    found = await tx.one(READ_PLAN, run_id=run_id)
    if found is None:
        return
    sources = orjson.loads(found["plan"])["prompts"]
    line = found["line"]
    counts = await tx.all(COUNT_BY_SOURCE, runs=line, starts=list(_starts(sources)))
    await settle_usages(tx, line[-1], _outcomes(sources, {row["source"]: row for row in counts}))


def _starts(sources: list[dict[str, Any]]) -> Iterator[int]:
    start = 0
    for source in sources:
        yield start
        start += row_count(source)


def _outcomes(sources: list[dict[str, Any]], counts: dict[int, dict[str, Any]]) -> list[Outcome]:
    """A version that the plan names twice has one outcome."""
    sums: dict[tuple[str, int], list[float]] = {}
    for number, source in enumerate(sources, start=1):
        place = source["template_id"], source["version_number"]
        row = counts.get(number, {})
        figures = sums.setdefault(place, [0, 0, 0.0])
        for at, name in enumerate(("scored", "successes", "score")):
            figures[at] += row.get(name) or 0
    return [
        Outcome(*place, int(scored), int(successes), score / scored if scored else None)
        for place, (scored, successes, score) in sums.items()
    ]
