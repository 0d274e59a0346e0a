"""Reruns: the cells of a run that have no scored result, sent again in a new run.

The new run has the plan, the plan's hash and the cell numbers of its origin, and goes back to it (and
to the origin's origins). So a cell is scored in at most one run of such a line, and its latest result
is the one in the newest run that has any.
"""

from __future__ import annotations

import asyncio

from chimera import outbox
from chimera.accounting.remaining import admit_launch
from chimera.accounting.windows import Purse
from chimera.audit import recording
from chimera.campaigns.launching import NOW, RINGS_MAX, check_sending
from chimera.campaigns.operations import get_campaign, lock_campaign
from chimera.campaigns.plan import RunPlan
from chimera.campaigns.runs import (
    LIST_MODEL_TALLIES,
    LIST_MODELS,
    LIVE,
    get_run,
    refuse_judging,
    summary_of,
)
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotReady
from chimera.ids import new_id
from chimera.providers.keys import check_host
from chimera.providers.owned_keys import get_key
from chimera.providers.targets import get_target
from chimera.rows import enum_text
from chimera.v1.campaigns_pb2 import (
    Campaign,
    Execution,
    GetRunSummaryResponse,
    RerunFailedRequest,
    Run,
)

SHARD_CELLS = 2500
STATES = ("failed", "parked", "skipped")

READ_ORIGIN = sql(
    dict,
    """
    SELECT r.id || r.origins AS origins, r.concurrency, p.plan, p.plan_hash, m.cost_max
      FROM campaigns.runs r
      JOIN campaigns.run_plans p ON p.run_id = r.id
      JOIN campaigns.run_money m ON m.run_id = r.id
     WHERE r.id = %(run_id)s
    """,
)

# Cells that a limit or somebody left out have no rows. Shards without any result are taken over whole;
# the other wanted cells go evenly over new ones: those whose result is wanted again, and those without.
INSERT_SHARDS = sql(
    dict,
    """
    WITH unfinished AS MATERIALIZED (
        SELECT s.first_cell, s.cells, s.wanted, r.recorded > 0 AS begun
          FROM campaigns.shards s
         CROSS JOIN LATERAL (
            SELECT count(*) AS recorded FROM campaigns.executions e
             WHERE e.run_id = %(origin)s AND e.cell_no >= s.first_cell
               AND e.cell_no < s.first_cell + s.cells) r
         WHERE s.run_id = %(origin)s AND 'skipped' = ANY(%(states)s::text[])
           AND r.recorded < COALESCE(cardinality(s.wanted), s.cells)
    ), scattered AS (
        SELECT e.cell_no FROM campaigns.executions e
         WHERE e.run_id = %(origin)s AND e.state = ANY(%(states)s::text[])
        UNION ALL
        SELECT c.cell_no
          FROM unfinished u
         CROSS JOIN LATERAL (
            SELECT unnest(u.wanted) AS cell_no
             UNION ALL
            SELECT generate_series(u.first_cell, u.first_cell + u.cells - 1) WHERE u.wanted IS NULL) c
         WHERE u.begun
           AND NOT EXISTS (SELECT FROM campaigns.executions e
                            WHERE e.run_id = %(origin)s AND e.cell_no = c.cell_no)
    ), placed AS (
        SELECT cell_no, (row_number() OVER (ORDER BY cell_no) - 1) / %(size)s::int AS part FROM scattered
    ), ranges AS (
        SELECT min(cell_no) AS first_cell, max(cell_no) - min(cell_no) + 1 AS cells,
               CASE WHEN count(*) < max(cell_no) - min(cell_no) + 1
                    THEN array_agg(cell_no ORDER BY cell_no) END AS wanted
          FROM placed GROUP BY part
        UNION ALL
        SELECT first_cell, cells, wanted FROM unfinished WHERE NOT begun
    ), made AS (
        INSERT INTO campaigns.shards (run_id, shard_no, org_id, first_cell, cells, wanted)
        SELECT %(run_id)s, row_number() OVER (ORDER BY first_cell) - 1, %(org_id)s, first_cell, cells, wanted
          FROM ranges
        RETURNING cells, wanted
    )
    SELECT count(*)::int AS shards, COALESCE(sum(COALESCE(cardinality(wanted), cells)), 0)::bigint AS cells
      FROM made
    """,
)

INSERT_RUN = sql(
    Nothing,
    """
    INSERT INTO campaigns.runs
        (id, org_id, campaign_id, cells_total, shards_total, concurrency, attempts_max, priority, launched_by,
         api_key_id, origins)
    SELECT %(id)s, org_id, campaign_id, cells_total, shards_total, concurrency, attempts_max, priority,
           %(launched_by)s, %(api_key_id)s, %(origins)s::uuid[]
      FROM campaigns.runs WHERE id = %(origin)s
    """,
)

# What its shards add up to: they can be made only of a run that is there.
SET_SIZE = sql(
    Nothing,
    """
    UPDATE campaigns.runs SET cells_total = %(cells)s, shards_total = %(shards)s WHERE id = %(id)s
    """,
)

INSERT_PLAN = sql(
    Nothing,
    """
    INSERT INTO campaigns.run_plans
        (run_id, org_id, plan, plan_hash, prompt_count, technique_names, target_names, repetitions,
         model_ids, model_names)
    SELECT %(id)s, org_id, plan, plan_hash, prompt_count, technique_names, target_names, repetitions,
           model_ids, model_names
      FROM campaigns.run_plans WHERE run_id = %(origin)s
    """,
)

INSERT_MONEY = sql(
    Nothing,
    """
    INSERT INTO campaigns.run_money (run_id, org_id, cost_max, budgeted, executions_max, tokens_max,
        wall_time_s, error_share_max, error_cells_min, interval_width_max)
    SELECT %(id)s, org_id, cost_max, %(budgeted)s, executions_max, tokens_max, wall_time_s,
           error_share_max, error_cells_min, interval_width_max
      FROM campaigns.run_money WHERE run_id = %(origin)s
    """,
)

# Who sits in on conversations, each with its own limit again.
INSERT_SEATS = sql(
    Nothing,
    """
    INSERT INTO campaigns.seats (run_id, seat_no, org_id, purpose, target_name, cost_max)
    SELECT %(id)s, seat_no, org_id, purpose, target_name, cost_max
      FROM campaigns.seats WHERE run_id = %(origin)s
    """,
)

START_CAMPAIGN = sql(
    Nothing,
    "UPDATE campaigns.campaigns SET state = 'running', run_id = %(run_id)s WHERE id = %(campaign_id)s",
)


async def rerun_failed(tx: Tx, request: RerunFailedRequest) -> tuple[Campaign, Run]:
    """Raises NotFound(RUN_NOT_FOUND, PROVIDER_KEY_NOT_FOUND), NotReady(RUN_NOT_OVER, CAMPAIGN_BUSY,
    NOTHING_TO_RERUN, SENDING_STOPPED, TARGET_NOT_ALLOWED), Exhausted(BUDGET_SPENT)."""
    origin = await get_run(tx, request.run_id)
    refuse_judging(origin)
    campaign = await lock_campaign(tx, origin.campaign_id)
    if enum_text(origin, "state", origin.state) in LIVE:
        raise NotReady("RUN_NOT_OVER", "The run still records results; wait for its end.")
    state = enum_text(campaign, "state", campaign.state) or ""
    if state in (*LIVE, "scheduled", "archived"):
        raise NotReady("CAMPAIGN_BUSY", f"The campaign is {state}.", facts={"state": state})
    await check_sending(tx)
    facts = await tx.one(READ_ORIGIN, run_id=origin.id)
    assert facts is not None  # read above
    plan = await asyncio.to_thread(RunPlan, bytes(facts["plan"]))
    budgeted = await _admit(tx, campaign, plan)
    run_id = new_id(await tx.one(NOW))  # type: ignore[arg-type]  # a timestamptz is a datetime
    copied = {"id": run_id, "origin": origin.id}
    await tx.run(
        INSERT_RUN,
        **copied,
        launched_by=tx.call.caller.user_id,
        api_key_id=tx.call.caller.api_key_id or None,
        origins=facts["origins"],
    )
    await tx.name_run(run_id)
    wanted = await tx.one(
        INSERT_SHARDS,
        run_id=run_id,
        org_id=tx.call.caller.org_id,
        origin=origin.id,
        states=[enum_text(Execution, "state", one) for one in request.states] or list(STATES),
        size=SHARD_CELLS,
    )
    if wanted is None or not wanted["cells"]:
        raise NotReady("NOTHING_TO_RERUN", "Every such cell of the run has its result.")
    await tx.run(SET_SIZE, id=run_id, cells=wanted["cells"], shards=wanted["shards"])
    await tx.run(INSERT_PLAN, **copied)
    await tx.run(INSERT_MONEY, **copied, budgeted=budgeted)
    await tx.run(INSERT_SEATS, **copied)
    await tx.run(START_CAMPAIGN, campaign_id=campaign.id, run_id=run_id)
    for _ in range(min(RINGS_MAX, wanted["shards"])):
        await outbox.enqueue(tx, "drive_runs", run_id=run_id)
    recording.record(
        tx,
        "run.rerun_failed",
        "campaign",
        campaign.id,
        old={"state": state},
        new={
            "state": "running",
            "run_id": run_id,
            "origin_run_id": origin.id,
            "plan_hash": facts["plan_hash"],
            "cells": wanted["cells"],
        },
    )
    return await get_campaign(tx, campaign.id), await get_run(tx, run_id)


async def _admit(tx: Tx, campaign: Campaign, plan: RunPlan) -> bool:
    """What a launch asks anew: the plan's keys must be the caller's, its models allowed, and budgets
    must have something left. Whether budgets concern the run."""
    keys = {(m.provider_key_id, m.base_url) for m in plan.models if m.provider_key_id}
    for key_id, base_url in sorted(keys):
        key = await get_key(tx, key_id)
        if not key.is_active:
            raise NotReady("PROVIDER_KEY_REVOKED", f"The key {key.name!r} is not active any more.")
        await check_host(tx, key_id, base_url)
    for model_id in sorted({model.model_id for model in plan.models}):
        await get_target(tx, model_id)
    caller = tx.call.caller
    purse = Purse(caller.org_id, caller.user_id, campaign.id, caller.api_key_id)
    return await admit_launch(tx, purse, {model.provider_key_id for model in plan.models})


# --- the line of runs as one ------------------------------------------------------------------------

LIST_LINE = sql(
    str,
    """
    SELECT o.id::text FROM campaigns.runs r
     CROSS JOIN LATERAL unnest(r.id || r.origins) WITH ORDINALITY AS o (id, place)
     WHERE r.id = %(run_id)s ORDER BY o.place
    """,
)

# The latest result of each cell: that of the newest run that has one.
LIST_LATEST = sql(
    dict,
    """
    WITH latest AS MATERIALIZED (
        SELECT DISTINCT ON (e.cell_no) e.technique_no, e.target_no, e.model_no, e.state, e.is_successful,
               e.latency_ms, e.cost, e.input_tokens, e.output_tokens
          FROM campaigns.executions e
         WHERE e.run_id = ANY(%(runs)s::uuid[])
         ORDER BY e.cell_no, e.run_id DESC
    )
    SELECT GROUPING(technique_no, target_no, model_no) AS kind, technique_no, target_no, model_no,
           count(*) FILTER (WHERE state = 'succeeded') AS scored,
           count(*) FILTER (WHERE is_successful) AS successes,
           count(*) FILTER (WHERE state IN ('failed', 'parked')) AS failed,
           COALESCE(sum(latency_ms) FILTER (WHERE state = 'succeeded'), 0)::bigint AS latency_ms_sum,
           sum(cost) AS cost, sum(input_tokens)::bigint AS input_tokens,
           sum(output_tokens)::bigint AS output_tokens,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE state = 'succeeded') AS p50,
           percentile_disc(0.95) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE state = 'succeeded') AS p95
      FROM latest
     GROUP BY GROUPING SETS ((), (technique_no), (target_no), (technique_no, target_no), (model_no))
     ORDER BY technique_no, target_no, model_no
    """,
)

# Values of GROUPING over technique, target, model: which of them a row is not about.
ALL, BY_TECHNIQUE, BY_TARGET, BY_BOTH, BY_MODEL = 0b111, 0b011, 0b101, 0b001, 0b110


async def summarise_with_origins(tx: Tx, run_id: str) -> GetRunSummaryResponse:
    """As of one run, each cell by its latest result in the line. Costs are those of the results that
    count; what the others cost is in the runs they belong to. Raises NotFound(RUN_NOT_FOUND)."""
    run = await get_run(tx, run_id)
    line = await tx.all(LIST_LINE, run_id=run_id)
    for origin_id in line:
        await tx.name_run(origin_id)
    rows = await tx.all(LIST_LATEST, runs=line)
    latencies = {
        (row["technique_no"], row["target_no"]): row
        for row in rows
        if row["kind"] in (ALL, BY_TECHNIQUE, BY_TARGET, BY_BOTH)
    }
    models = await tx.one(LIST_MODELS, run_id=run_id)
    summary = summary_of(
        run,
        [row for row in rows if row["kind"] == BY_BOTH],
        latencies,
        models,
        [row for row in rows if row["kind"] == BY_MODEL and row["model_no"] is not None]
        if await tx.all(LIST_MODEL_TALLIES, run_id=run_id)
        else [],
    )
    summary.run_ids[:] = line
    return summary
