"""The run that asks the models of a scoring.

A model that judges costs money and takes time, so its calls are those of a run: with attempts, leases,
holds, pace, circuits, budgets, the kill switch and a ledger, and nothing of it built a second time.
The plan is the judged run's with the other scorer; its cells are the stored answers, under the same
numbers, and only judges are asked (conversations/judgement.py). Each recorded cell is a verdict of
the scoring (engine/telling.py). The campaign shows nothing of such a run: it has no rate, and is not
the campaign's newest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from chimera import outbox
from chimera.accounting.remaining import admit_launch
from chimera.accounting.windows import Purse
from chimera.audit import recording
from chimera.campaigns.engine.completion import LOCK_CAMPAIGN
from chimera.campaigns.freezing import judge_seats
from chimera.campaigns.launching import INSERT_PLAN, INSERT_SEATS, NOW, RINGS_MAX, check_sending
from chimera.campaigns.operations import lock_campaign
from chimera.campaigns.plan import RunPlan, freeze
from chimera.campaigns.scorers import fingerprint, versions_of
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotReady
from chimera.ids import new_id
from chimera.v1.campaigns_pb2 import Run

SHARD_ANSWERS = 200  # bounds what a worker has in memory

READ_JUDGED = sql(dict, "SELECT plan, plan_hash FROM campaigns.run_plans WHERE run_id = %(run_id)s")

# Concurrency and the like as the judged run had them; what may be spent is the judges' own.
INSERT_RUN = sql(
    Nothing,
    """
    INSERT INTO campaigns.runs
        (id, org_id, campaign_id, cells_total, shards_total, concurrency, attempts_max, priority, launched_by,
         api_key_id, scoring_id)
    SELECT %(id)s, org_id, campaign_id, cells_total, shards_total, concurrency, attempts_max, priority,
           %(launched_by)s, %(api_key_id)s, %(scoring_id)s
      FROM campaigns.runs WHERE id = %(judged)s
    """,
)

INSERT_MONEY = sql(
    Nothing,
    """
    INSERT INTO campaigns.run_money (run_id, org_id, budgeted)
    VALUES (%(run_id)s, %(org_id)s, %(budgeted)s)
    """,
)

# The answers that are there, evenly over shards; also those that were kept although nobody could judge
# them.
INSERT_SHARDS = sql(
    dict,
    """
    WITH placed AS (
        SELECT cell_no, (row_number() OVER (ORDER BY cell_no) - 1) / %(size)s::int AS part
          FROM campaigns.executions
         WHERE run_id = %(judged)s AND (state = 'succeeded' OR (state = 'failed' AND response <> ''))
    ), ranges AS (
        SELECT min(cell_no) AS first_cell, max(cell_no) - min(cell_no) + 1 AS cells,
               CASE WHEN count(*) < max(cell_no) - min(cell_no) + 1
                    THEN array_agg(cell_no ORDER BY cell_no) END AS wanted
          FROM placed GROUP BY part
    ), made AS (
        INSERT INTO campaigns.shards (run_id, shard_no, org_id, first_cell, cells, wanted)
        SELECT %(run_id)s, row_number() OVER (ORDER BY first_cell) - 1, %(org_id)s, first_cell, cells, wanted
          FROM ranges
        RETURNING cells, wanted
    )
    SELECT count(*)::int AS shards, COALESCE(sum(COALESCE(cardinality(wanted), cells)), 0)::bigint AS answers
      FROM made
    """,
)

SET_SIZE = sql(
    Nothing,
    """
    UPDATE campaigns.runs SET cells_total = %(answers)s, shards_total = %(shards)s WHERE id = %(id)s
    """,
)

CANCEL_RUN = sql(
    str,
    """
    UPDATE campaigns.runs
       SET state = 'cancelled', state_reason = %(reason)s, finished_at = clock_timestamp()
     WHERE scoring_id = %(scoring_id)s AND state IN ('running', 'paused')
    RETURNING id::text
    """,
)

END_WAIT = sql(Nothing, "DELETE FROM accounting.waits WHERE run_id = %(run_id)s")


async def start_judging(
    tx: Tx, scoring_id: str, run: Run, spec: Mapping[str, Any]
) -> dict[str, Any]:
    """Starts the run of a scoring; what the audit log is told of it. Raises NotReady (SENDING_STOPPED,
    NOTHING_TO_JUDGE), NotFound(CAMPAIGN_NOT_FOUND), Exhausted(BUDGET_SPENT) and the refusals of a
    launch for the models that judge."""
    campaign = await lock_campaign(tx, run.campaign_id)  # or it could be deleted meanwhile
    await check_sending(tx)
    judged = await tx.one(READ_JUDGED, run_id=run.id)
    assert judged is not None  # made with the run
    seats = await judge_seats(tx, spec)
    origin = {"run_id": run.id, "plan_hash": judged["plan_hash"]}
    body, plan_hash, plan = await asyncio.to_thread(
        _frozen, bytes(judged["plan"]), origin, spec, seats
    )
    caller = tx.call.caller
    purse = Purse(caller.org_id, caller.user_id, campaign.id, caller.api_key_id)
    asked = plan.models[plan.target_models :]
    budgeted = await admit_launch(tx, purse, {model.provider_key_id for model in asked})
    run_id = new_id(await tx.one(NOW))  # type: ignore[arg-type]  # a timestamptz is a datetime
    await tx.run(
        INSERT_RUN,
        id=run_id,
        judged=run.id,
        scoring_id=scoring_id,
        launched_by=caller.user_id,
        api_key_id=caller.api_key_id or None,
    )
    await tx.name_run(run_id)
    made = await tx.one(
        INSERT_SHARDS, run_id=run_id, org_id=caller.org_id, judged=run.id, size=SHARD_ANSWERS
    )
    if made is None or not made["answers"]:
        raise NotReady("NOTHING_TO_JUDGE", "The run has no answer that could be judged.")
    await tx.run(SET_SIZE, id=run_id, answers=made["answers"], shards=made["shards"])
    await tx.run(
        INSERT_PLAN,
        run_id=run_id,
        org_id=caller.org_id,
        plan=body,
        plan_hash=plan_hash,
        prompts=plan.prompt_count,
        techniques=plan.technique_names,
        targets=[target.name for target in plan.targets],
        repetitions=plan.repetitions,
        model_ids=[model.model_id for model in plan.models],
        model_names=[model.name for model in plan.models],
    )
    await tx.run(INSERT_MONEY, run_id=run_id, org_id=caller.org_id, budgeted=budgeted)
    await tx.run(
        INSERT_SEATS,
        run_id=run_id,
        org_id=caller.org_id,
        purposes=[seat.purpose for seat in plan.seats],
        names=[seat.target.name for seat in plan.seats],
        costs=[seat.cost_max for seat in plan.seats],
    )
    for _ in range(min(RINGS_MAX, made["shards"])):
        await outbox.enqueue(tx, "drive_runs", run_id=run_id)
    facts = {"run_id": run_id, "plan_hash": plan_hash, "cells": made["answers"]}
    # What the evidence of the run begins with.
    recording.record(
        tx,
        "run.judge",
        "run",
        run_id,
        new={**facts, "scoring_id": scoring_id, "judged_run_id": run.id},
    )
    return {"judging_run_id": run_id, "plan_hash": plan_hash, "answers": made["answers"]}


def _frozen(
    body: bytes, origin: dict[str, str], spec: Mapping[str, Any], seats: list[dict[str, Any]]
) -> tuple[bytes, str, RunPlan]:
    facts = orjson.loads(body)
    facts.pop("strategy", None)
    facts |= {
        "scorer": spec,
        "scorer_fingerprint": fingerprint(spec),
        "scorer_versions": versions_of(spec),
        "seats": seats,
        "judged": origin,
    }
    body, plan_hash = freeze(facts)
    return body, plan_hash, RunPlan(body)


async def cancel_judging(tx: Tx, scoring_id: str, campaign_id: str, reason: str) -> None:
    """Ends the run of a scoring, which is held, if it has one that is live."""
    await tx.run(LOCK_CAMPAIGN, campaign_id=campaign_id)
    run_id = await tx.one(CANCEL_RUN, scoring_id=scoring_id, reason=reason)
    if run_id is not None:
        await tx.run(END_WAIT, run_id=run_id)
        await outbox.enqueue(tx, "settle_run", run_id=run_id)
