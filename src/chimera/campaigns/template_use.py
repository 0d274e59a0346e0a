"""What a run makes of its templates: noted at launch, counted from its executions when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from chimera.campaigns.freezing import Frozen
from chimera.db import Tx, sql
from chimera.rows import struct_dict
from chimera.templates.usages import Outcome, Use, record_usages, settle_usages
from chimera.v1.campaigns_pb2 import Campaign


async def note(tx: Tx, run_id: str, campaign: Campaign, frozen: Frozen) -> None:
    """Part of the launch."""
    uses = [
        Use(version, [struct_dict(row) for row in source.rows[:1]], len(source.rows))
        for version, source in zip(frozen.versions, campaign.plan.prompts, strict=True)
    ]
    await record_usages(
        tx,
        run_id,
        campaign.id,
        uses,
        techniques=frozen.plan.technique_names,
    )


READ_PLAN = sql(bytes, "SELECT plan FROM campaigns.run_plans WHERE run_id = %(run_id)s")

# By prompt, so that the sources of a plan are added up over their ranges.
COUNT_BY_SOURCE = sql(
    dict,
    """
    SELECT width_bucket(e.prompt_no, %(starts)s::bigint[]) AS source, count(*) AS scored,
           count(*) FILTER (WHERE e.is_successful) AS successes,
           sum(e.success_score)::float8 AS score
      FROM campaigns.executions e
     WHERE e.run_id = %(run_id)s AND e.state = 'succeeded'
     GROUP BY 1
    """,
)


async def settle(tx: Tx, run_id: str) -> None:
    """Sets what the run's templates achieved; doing it again changes nothing."""
    body = await tx.one(READ_PLAN, run_id=run_id)
    if body is None:
        return
    sources = orjson.loads(body)["prompts"]
    counts = await tx.all(COUNT_BY_SOURCE, run_id=run_id, starts=list(_starts(sources)))
    await settle_usages(tx, run_id, _outcomes(sources, {row["source"]: row for row in counts}))


def _starts(sources: list[dict[str, Any]]) -> Iterator[int]:
    start = 0
    for source in sources:
        yield start
        start += len(source["rows"]) or 1


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
