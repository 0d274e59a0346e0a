"""Launch: freezes the plan into a run. Everything that could refuse is asked in one transaction."""

from __future__ import annotations

import asyncio

from chimera import outbox
from chimera.accounting.remaining import admit_launch
from chimera.accounting.windows import Purse
from chimera.audit import recording
from chimera.campaigns import template_use
from chimera.campaigns.dataset_rows import bring_prompts
from chimera.campaigns.freezing import Frozen, freeze_plan, sampled_prompts, worst_cost_of
from chimera.campaigns.operations import get_campaign, lock_campaign
from chimera.campaigns.runs import get_run, money_limits
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotReady
from chimera.ids import new_id
from chimera.operations.operations import sending_stopped
from chimera.row_seals import RowSeals
from chimera.rows import decimal_text, enum_text
from chimera.settings import Settings
from chimera.v1.campaigns_pb2 import Campaign, PreviewCampaignResponse, Run

CONCURRENCY_DEFAULT = 16
ATTEMPTS_DEFAULT = 4
RINGS_MAX = 4

INSERT_RUN = sql(
    Nothing,
    """
    INSERT INTO campaigns.runs
        (id, org_id, campaign_id, cells_total, shards_total, concurrency, attempts_max, priority, launched_by,
         api_key_id)
    VALUES (%(id)s, %(org_id)s, %(campaign_id)s, %(cells)s, %(shards)s, %(concurrency)s,
            %(attempts_max)s, %(priority)s, %(launched_by)s, %(api_key_id)s)
    """,
)

INSERT_PLAN = sql(
    Nothing,
    """
    INSERT INTO campaigns.run_plans
        (run_id, org_id, plan, plan_hash, prompt_count, technique_names, target_names, repetitions,
         model_ids, model_names)
    VALUES (%(run_id)s, %(org_id)s, %(plan)s, %(plan_hash)s, %(prompts)s, %(techniques)s,
            %(targets)s, %(repetitions)s, %(model_ids)s, %(model_names)s)
    """,
)

INSERT_MONEY = sql(
    Nothing,
    """
    INSERT INTO campaigns.run_money (run_id, org_id, cost_max, budgeted, executions_max, tokens_max,
        wall_time_s, error_share_max, error_cells_min, interval_width_max)
    VALUES (%(run_id)s, %(org_id)s, %(cost_max)s, %(budgeted)s, %(executions_max)s, %(tokens_max)s,
        %(wall_time_s)s, %(error_share_max)s, %(error_cells_min)s, %(interval_width_max)s)
    """,
)

INSERT_SHARDS = sql(
    Nothing,
    """
    INSERT INTO campaigns.shards (run_id, shard_no, org_id, first_cell, cells)
    SELECT %(run_id)s, n, %(org_id)s, n * %(size)s::bigint,
           least(%(size)s::bigint, %(cells)s::bigint - n * %(size)s::bigint)
      FROM generate_series(0, %(shards)s::int - 1) AS n
    """,
)

INSERT_SEATS = sql(
    Nothing,
    """
    INSERT INTO campaigns.seats (run_id, seat_no, org_id, purpose, target_name, cost_max)
    SELECT %(run_id)s, s.seat_no - 1, %(org_id)s, s.purpose, s.name, s.cost_max
      FROM unnest(%(purposes)s::text[], %(names)s::text[], %(costs)s::numeric[])
           WITH ORDINALITY AS s (purpose, name, cost_max, seat_no)
    """,
)

START_CAMPAIGN = sql(
    Nothing,
    """
    UPDATE campaigns.campaigns SET state = 'running', run_id = %(run_id)s, success_rate = NULL
     WHERE id = %(campaign_id)s
    """,
)

# run ids come from the database's clock, which also bounds the partitions they fall into.
NOW = sql(object, "SELECT clock_timestamp()")


async def preview_campaign(
    tx: Tx, campaign_id: str, settings: Settings, row_seals: RowSeals
) -> PreviewCampaignResponse:
    """Counts and a bound on the cost, with the refusals of a launch."""
    campaign = await get_campaign(tx, campaign_id)
    frozen = await freeze_plan(tx, campaign.plan, settings, row_seals)
    plan = frozen.plan
    await bring_prompts(tx, plan, sampled_prompts(plan))
    return PreviewCampaignResponse(
        prompts=plan.prompt_count,
        techniques=len(plan.chains),
        targets=len(plan.targets),
        repetitions=plan.repetitions,
        cells=plan.cells_total,
        shards=frozen.shards,
        cost_usd_worst=decimal_text(await asyncio.to_thread(worst_cost_of, plan)),
    )


async def launch_campaign(
    tx: Tx, campaign_id: str, settings: Settings, row_seals: RowSeals
) -> tuple[Campaign, Run]:
    """Starts a draft. The campaign's row is locked first, so of two launches one wins."""
    campaign = await lock_campaign(tx, campaign_id)
    if enum_text(campaign, "state", campaign.state) != "draft":
        raise NotReady("CAMPAIGN_NOT_DRAFT", "Only a draft can be launched.")
    return await launch_locked(tx, campaign, settings, row_seals)


async def check_sending(tx: Tx) -> None:
    """Raises NotReady(SENDING_STOPPED)."""
    stopped, why = await sending_stopped(tx)
    if stopped:
        raise NotReady("SENDING_STOPPED", f"All sending is stopped: {why}")


async def launch_locked(
    tx: Tx, campaign: Campaign, settings: Settings, row_seals: RowSeals
) -> tuple[Campaign, Run]:
    """Freezes the plan of a campaign that is locked and fit to be launched, and starts a run."""
    await check_sending(tx)
    frozen = await freeze_plan(tx, campaign.plan, settings, row_seals)
    run_id = new_id(await tx.one(NOW))  # type: ignore[arg-type]  # a timestamptz is a datetime
    await _insert_run(tx, run_id, campaign, frozen, await _is_budgeted(tx, campaign, frozen))
    await tx.run(START_CAMPAIGN, campaign_id=campaign.id, run_id=run_id)
    await template_use.note(tx, run_id, campaign, frozen)
    concurrency = campaign.plan.limits.concurrency or CONCURRENCY_DEFAULT
    for _ in range(max(1, min(RINGS_MAX, frozen.shards, concurrency // 32))):
        await outbox.enqueue(tx, "drive_runs", run_id=run_id)
    recording.record(
        tx,
        "campaign.launch",
        "campaign",
        campaign.id,
        old={"state": enum_text(campaign, "state", campaign.state)},
        new={
            "state": "running",
            "run_id": run_id,
            "plan_hash": frozen.plan_hash,
            "cells": frozen.plan.cells_total,
        },
    )
    return await get_campaign(tx, campaign.id), await get_run(tx, run_id)


async def _is_budgeted(tx: Tx, campaign: Campaign, frozen: Frozen) -> bool:
    """Whether budgets concern the run. Raises Exhausted(BUDGET_SPENT)."""
    caller = tx.call.caller
    purse = Purse(caller.org_id, caller.user_id, campaign.id, caller.api_key_id)
    return await admit_launch(tx, purse, {model.provider_key_id for model in frozen.plan.models})


async def _insert_run(
    tx: Tx, run_id: str, campaign: Campaign, frozen: Frozen, budgeted: bool
) -> None:
    limits, plan, org_id = campaign.plan.limits, frozen.plan, tx.call.caller.org_id
    await tx.run(
        INSERT_RUN,
        id=run_id,
        org_id=org_id,
        campaign_id=campaign.id,
        cells=plan.cells_total,
        shards=frozen.shards,
        concurrency=limits.concurrency or CONCURRENCY_DEFAULT,
        attempts_max=limits.attempts_max or ATTEMPTS_DEFAULT,
        priority=limits.priority,
        launched_by=tx.call.caller.user_id,
        api_key_id=tx.call.caller.api_key_id or None,
    )
    await tx.name_run(run_id)  # its shards are many
    await tx.run(
        INSERT_PLAN,
        run_id=run_id,
        org_id=org_id,
        plan=frozen.body,
        plan_hash=frozen.plan_hash,
        prompts=plan.prompt_count,
        techniques=plan.technique_names,
        targets=[target.name for target in plan.targets],
        repetitions=plan.repetitions,
        model_ids=[model.model_id for model in plan.models],
        model_names=[model.name for model in plan.models],
    )
    await tx.run(
        INSERT_MONEY, run_id=run_id, org_id=org_id, budgeted=budgeted, **money_limits(limits)
    )
    if plan.seats:
        await tx.run(
            INSERT_SEATS,
            run_id=run_id,
            org_id=org_id,
            purposes=[seat.purpose for seat in plan.seats],
            names=[seat.target.name for seat in plan.seats],
            costs=[seat.cost_max for seat in plan.seats],
        )
    await tx.run(
        INSERT_SHARDS,
        run_id=run_id,
        org_id=org_id,
        size=frozen.shard_cells,
        cells=plan.cells_total,
        shards=frozen.shards,
    )
