"""What a plan will cost: expected and worst, by technique and target; and what its run did cost.

Expected is an estimate and says so: about four bytes a token of what is really sent, and answers as
long as the model's were lately; of a route, by its first model. Worst is the bound that holds are made
of; of a route, all its models in turn. Each cell takes one attempt in both; retries come on top.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from chimera.campaigns.conversations.bounds import longest, worst_cost_of_cell
from chimera.campaigns.dataset_rows import bring_prompts
from chimera.campaigns.freezing import freeze_plan, sampled_prompts
from chimera.campaigns.operations import get_campaign
from chimera.campaigns.plan import Model, RunPlan
from chimera.campaigns.runs import get_run, refuse_judging
from chimera.campaigns.techniques import TechniqueError
from chimera.db import Tx, sql
from chimera.providers.adapters import Usage
from chimera.providers.pricing import cost
from chimera.row_seals import RowSeals
from chimera.rows import decimal_text
from chimera.settings import Settings
from chimera.templates.values import RenderError
from chimera.v1.usage_pb2 import (
    CompareCostResponse,
    CostByCell,
    CostTotals,
    PreviewCostRequest,
    PreviewCostResponse,
)

BYTES_PER_TOKEN = 4
MESSAGE_TOKENS = 4  # what the chat format adds around each message
HISTORY_DAYS = 30


@dataclass(slots=True)
class Estimate:
    """Of all cells of one technique and target. Money in US dollars."""

    technique_no: int
    target_no: int
    cells: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    expected: Decimal = Decimal(0)
    worst: Decimal = Decimal(0)


# How long answers were, by model, in the days before; of calls that were answered.
LIST_ANSWER_LENGTHS = sql(
    dict,
    """
    SELECT model_id, sum(output_tokens)::float8 / sum(requests) AS output_tokens
      FROM accounting.usage_daily
     WHERE org_id = %(org_id)s::uuid AND model_id = ANY(%(models)s::uuid[])
       AND day < (%(before)s::timestamptz AT TIME ZONE 'UTC')::date
       AND day >= (%(before)s::timestamptz AT TIME ZONE 'UTC')::date - %(days)s::int
     GROUP BY model_id HAVING sum(requests) > 0 AND sum(output_tokens) > 0
    """,
)

NOW = sql(object, "SELECT clock_timestamp()")


async def _answer_lengths(tx: Tx, plan: RunPlan, before: Any) -> dict[str, float]:
    rows = await tx.all(
        LIST_ANSWER_LENGTHS,
        org_id=tx.call.caller.org_id,
        models=list({model.model_id for model in plan.models}),
        before=before,
        days=HISTORY_DAYS,
    )
    return {row["model_id"]: row["output_tokens"] for row in rows}


async def preview_cost(
    tx: Tx, request: PreviewCostRequest, settings: Settings, row_seals: RowSeals
) -> PreviewCostResponse:
    """Before a launch, with its refusals."""
    campaign = await get_campaign(tx, request.campaign_id)
    plan = (await freeze_plan(tx, campaign.plan, settings, row_seals)).plan
    lengths = await _answer_lengths(tx, plan, await tx.one(NOW))
    if request.HasField("output_tokens_expected"):
        given = float(request.output_tokens_expected)
        lengths = {model.model_id: given for model in plan.models}
    sampled = sampled_prompts(plan)
    await bring_prompts(tx, plan, sampled)
    estimates = await asyncio.to_thread(estimate, plan, lengths)
    rows, totals = _rows(plan, estimates, {})
    return PreviewCostResponse(
        totals=totals, by_technique_and_target=rows, is_sampled=sampled.step > 1
    )


def estimate(plan: RunPlan, answer_lengths: Mapping[str, float]) -> list[Estimate]:
    """By technique and target. answer_lengths: output tokens of an answer by model id; without one,
    half of what the plan allows."""
    pairs = len(plan.chains) * len(plan.targets)
    prompts = sampled_prompts(plan)
    found = []
    for pair in range(pairs):
        technique_no, target_no = divmod(pair, len(plan.targets))
        sampled = Estimate(technique_no, target_no)
        for prompt_no in prompts:
            _add(plan, sampled, (prompt_no * pairs + pair) * plan.repetitions, answer_lengths)
        scale = Decimal(plan.prompt_count * plan.repetitions) / len(prompts)
        sampled.cells = plan.prompt_count * plan.repetitions
        sampled.input_tokens = int(sampled.input_tokens * scale)
        sampled.output_tokens = int(sampled.output_tokens * scale)
        sampled.expected *= scale
        sampled.worst *= scale
        found.append(sampled)
    return found


def _add(
    plan: RunPlan, sampled: Estimate, cell_no: int, answer_lengths: Mapping[str, float]
) -> None:
    try:
        if plan.talk is not None:
            return _add_conversation(plan, sampled, cell_no, answer_lengths)
        prepared = plan.prepare(cell_no)
    except (TechniqueError, RenderError):
        return None  # its text cannot be made: it is recorded as failed and never sent
    model = plan.models[prepared.model_no]
    longest = prepared.request.max_tokens or 0
    answer = min(longest, round(answer_lengths.get(model.model_id, longest / 2)))
    size = sum(
        -(-len(message.content.encode()) // BYTES_PER_TOKEN) + MESSAGE_TOKENS
        for message in prepared.request.messages
    )
    usage = Usage(input_tokens=size, output_tokens=answer)
    sampled.input_tokens += size
    sampled.output_tokens += answer
    sampled.expected += min(cost(usage, model.prices), prepared.worst_cost)
    sampled.worst += prepared.worst_cost + prepared.reserve
    return None


def _add_conversation(
    plan: RunPlan, sampled: Estimate, cell_no: int, answer_lengths: Mapping[str, float]
) -> None:
    def model_of(seat: int | None) -> Model:
        return plan.models[plan.order(cell_no, seat)[0]]

    def answer_of(seat: int | None, most: int) -> int:
        return min(most, round(answer_lengths.get(model_of(seat).model_id, most / 2)))

    expected = Decimal(0)
    for calls in longest(plan, cell_no, _expected_tokens, answer_of):
        usage = Usage(input_tokens=calls.input_tokens, output_tokens=calls.output_tokens)
        sampled.input_tokens += calls.times * calls.input_tokens
        sampled.output_tokens += calls.times * calls.output_tokens
        expected += calls.times * cost(usage, model_of(calls.seat).prices)
    worst = worst_cost_of_cell(plan, cell_no)
    sampled.expected += min(expected, worst)
    sampled.worst += worst


def _expected_tokens(text: str) -> int:
    return -(-len(text.encode()) // BYTES_PER_TOKEN) + MESSAGE_TOKENS


FIND_PLAN = sql(
    dict,
    """
    SELECT p.plan, p.org_id, r.created_at FROM campaigns.run_plans p JOIN campaigns.runs r ON r.id = p.run_id
     WHERE r.id = %(run_id)s
    """,
)

# Which target a call was for is in its cell.
LIST_ACTUALS = sql(
    dict,
    """
    SELECT (l.cell_no / (p.repetitions * cardinality(p.target_names)) %% cardinality(p.technique_names))::int
               AS technique_no,
           (l.cell_no / p.repetitions %% cardinality(p.target_names))::int AS target_no,
           count(*) FILTER (WHERE l.entry_no = 0) AS requests, sum(l.input_tokens)::bigint AS input_tokens,
           sum(l.output_tokens)::bigint AS output_tokens, sum(l.cost) AS cost
      FROM providers.ledger l JOIN campaigns.run_plans p ON p.run_id = l.run_id
     WHERE l.run_id = %(run_id)s
     GROUP BY 1, 2
    """,
)


async def compare_cost(tx: Tx, run_id: str, row_seals: RowSeals) -> CompareCostResponse:
    """What was to be expected when the run was launched, beside what was booked. Raises NotFound."""
    refuse_judging(await get_run(tx, run_id))
    row = await tx.one(FIND_PLAN, run_id=run_id)
    assert row is not None  # made with the run
    created_at: datetime = row["created_at"]
    plan = await asyncio.to_thread(RunPlan, bytes(row["plan"]), row_seals.of(row["org_id"]))
    lengths = await _answer_lengths(tx, plan, created_at)
    sampled = sampled_prompts(plan)
    await bring_prompts(tx, plan, sampled)
    estimates = await asyncio.to_thread(estimate, plan, lengths)
    actuals = {
        (actual["technique_no"], actual["target_no"]): actual
        for actual in await tx.all(LIST_ACTUALS, run_id=run_id)
    }
    rows, totals = _rows(plan, estimates, actuals)
    return CompareCostResponse(
        totals=totals, by_technique_and_target=rows, is_sampled=sampled.step > 1
    )


def _rows(
    plan: RunPlan, estimates: Sequence[Estimate], actuals: Mapping[tuple[int, int], dict[str, Any]]
) -> tuple[list[CostByCell], CostTotals]:
    rows = []
    nothing = {"cost": Decimal(0), "requests": 0, "input_tokens": 0, "output_tokens": 0}
    for one in estimates:
        actual = actuals.get((one.technique_no, one.target_no), nothing)
        rows.append(
            CostByCell(
                technique_no=one.technique_no,
                technique=plan.technique_names[one.technique_no],
                target_no=one.target_no,
                target=plan.targets[one.target_no].name,
                cells=one.cells,
                input_tokens_expected=one.input_tokens,
                output_tokens_expected=one.output_tokens,
                cost_usd_expected=_money(one.expected),
                cost_usd_worst=_money(one.worst),
                cost_usd_actual=decimal_text(actual["cost"]),
                requests_actual=actual["requests"],
                input_tokens_actual=actual["input_tokens"],
                output_tokens_actual=actual["output_tokens"],
            )
        )
    totals = CostTotals(
        cells=sum(one.cells for one in estimates),
        cost_usd_expected=_money(sum((one.expected for one in estimates), Decimal(0))),
        cost_usd_worst=_money(sum((one.worst for one in estimates), Decimal(0))),
        cost_usd_actual=decimal_text(
            sum((actual["cost"] for actual in actuals.values()), Decimal(0))
        ),
        requests_actual=sum(actual["requests"] for actual in actuals.values()),
    )
    return rows, totals


def _money(amount: Decimal) -> str:
    return decimal_text(amount.quantize(Decimal("1e-12")))
