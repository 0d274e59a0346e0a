"""Launch: freezes the plan into a run. Everything that could refuse is asked in one transaction."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from chimera import outbox
from chimera.audit import recording
from chimera.campaigns.checking import chain_name, chain_steps, check_plan, scorer_spec
from chimera.campaigns.operations import get_campaign, lock_campaign
from chimera.campaigns.plan import RunPlan, freeze
from chimera.campaigns.runs import get_run
from chimera.campaigns.scorers import fingerprint as scorer_fingerprint
from chimera.campaigns.techniques import TECHNIQUES, TechniqueError
from chimera.db import Nothing, Tx, sql
from chimera.faults import Invalid, NotReady, Violation
from chimera.ids import new_id
from chimera.operations.operations import sending_stopped
from chimera.providers.keys import find_default_key, get_key
from chimera.providers.targets import get_target
from chimera.rows import decimal_text, enum_text, struct_dict
from chimera.settings import Settings
from chimera.templates.content import declared
from chimera.templates.values import RenderError
from chimera.templates.versions import get_version
from chimera.v1.campaigns_pb2 import Campaign, CampaignPlan, PreviewCampaignResponse, Run
from chimera.v1.templates_pb2 import TemplateVersion

CONCURRENCY_DEFAULT = 16
ATTEMPTS_DEFAULT = 4
OUTPUT_TOKENS_DEFAULT = 256
SHARD_CELLS_MIN, SHARD_CELLS_MAX = 64, 2500
SHARDS_WANTED = 64
RINGS_MAX = 4

INSERT_RUN = sql(
    Nothing,
    """
    INSERT INTO campaigns.runs
        (id, org_id, campaign_id, cells_total, shards_total, concurrency, attempts_max, priority, launched_by)
    VALUES (%(id)s, %(org_id)s, %(campaign_id)s, %(cells)s, %(shards)s, %(concurrency)s,
            %(attempts_max)s, %(priority)s, %(launched_by)s)
    """,
)

INSERT_PLAN = sql(
    Nothing,
    """
    INSERT INTO campaigns.run_plans
        (run_id, org_id, plan, plan_hash, prompt_count, technique_names, target_names, repetitions)
    VALUES (%(run_id)s, %(org_id)s, %(plan)s, %(plan_hash)s, %(prompts)s, %(techniques)s,
            %(targets)s, %(repetitions)s)
    """,
)

INSERT_MONEY = sql(
    Nothing,
    "INSERT INTO campaigns.run_money (run_id, org_id, cost_max) VALUES (%(run_id)s, %(org_id)s, %(cost_max)s)",
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

START_CAMPAIGN = sql(
    Nothing,
    """
    UPDATE campaigns.campaigns SET state = 'running', run_id = %(run_id)s, success_rate = NULL
     WHERE id = %(campaign_id)s
    """,
)

# run ids come from the database's clock, which also bounds the partitions they fall into.
NOW = sql(object, "SELECT clock_timestamp()")


@dataclass(frozen=True)
class Frozen:
    """A plan with everything it refers to, ready to be stored."""

    body: bytes
    plan_hash: str
    plan: RunPlan
    shard_cells: int

    @property
    def shards(self) -> int:
        return -(-self.plan.cells_total // self.shard_cells)


async def preview_campaign(tx: Tx, campaign_id: str, settings: Settings) -> PreviewCampaignResponse:
    """Counts and a bound on the cost, with the refusals of a launch."""
    campaign = await get_campaign(tx, campaign_id)
    frozen = await _freeze(tx, campaign.plan, settings)
    plan = frozen.plan
    return PreviewCampaignResponse(
        prompts=plan.prompt_count,
        techniques=len(plan.chains),
        targets=len(plan.targets),
        repetitions=plan.repetitions,
        cells=plan.cells_total,
        shards=frozen.shards,
        cost_usd_worst=decimal_text(_worst_cost(plan)),
    )


def _worst_cost(plan: RunPlan) -> Decimal:
    """Bound over a sample when the plan is large: the dearest cell seen times the cells."""
    step = max(1, plan.cells_total // 2000)
    sample = [plan.prepare(cell).worst_cost for cell in range(0, plan.cells_total, step)]
    return sum(sample, Decimal(0)) if step == 1 else max(sample) * plan.cells_total


async def launch_campaign(tx: Tx, campaign_id: str, settings: Settings) -> tuple[Campaign, Run]:
    """Starts a draft. The campaign's row is locked first, so of two launches one wins."""
    campaign = await lock_campaign(tx, campaign_id)
    if enum_text(campaign, "state", campaign.state) != "draft":
        raise NotReady("CAMPAIGN_NOT_DRAFT", "Only a draft can be launched.")
    stopped, why = await sending_stopped(tx)
    if stopped:
        raise NotReady("SENDING_STOPPED", f"All sending is stopped: {why}")
    frozen = await _freeze(tx, campaign.plan, settings)
    run_id = new_id(await tx.one(NOW))  # type: ignore[arg-type]  # a timestamptz is a datetime
    await _insert_run(tx, run_id, campaign, frozen)
    await tx.run(START_CAMPAIGN, campaign_id=campaign_id, run_id=run_id)
    concurrency = campaign.plan.limits.concurrency or CONCURRENCY_DEFAULT
    for _ in range(max(1, min(RINGS_MAX, frozen.shards, concurrency // 32))):
        await outbox.enqueue(tx, "drive_runs", run_id=run_id)
    recording.record(
        tx,
        "campaign.launch",
        "campaign",
        campaign_id,
        old={"state": "draft"},
        new={
            "state": "running",
            "run_id": run_id,
            "plan_hash": frozen.plan_hash,
            "cells": frozen.plan.cells_total,
        },
    )
    return await get_campaign(tx, campaign_id), await get_run(tx, run_id)


async def _insert_run(tx: Tx, run_id: str, campaign: Campaign, frozen: Frozen) -> None:
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
    )
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
    )
    cost_max = Decimal(limits.cost_usd_max) if limits.cost_usd_max else None
    await tx.run(INSERT_MONEY, run_id=run_id, org_id=org_id, cost_max=cost_max)
    await tx.run(
        INSERT_SHARDS,
        run_id=run_id,
        org_id=org_id,
        size=frozen.shard_cells,
        cells=plan.cells_total,
        shards=frozen.shards,
    )


async def _freeze(tx: Tx, plan: CampaignPlan, settings: Settings) -> Frozen:
    """Resolves what the plan names and checks that every cell can be made."""
    check_plan(plan)
    missing = [name for name in ("prompts", "techniques", "targets") if not getattr(plan, name)]
    if missing or not plan.HasField("scorer"):
        lacking = missing or ["scorer"]
        raise Invalid(
            "PLAN_EMPTY",
            f"The plan has no {', '.join(lacking)}: it makes no cell.",
            violations=[Violation(f"plan.{name}", "must not be empty") for name in lacking],
        )
    repetitions = plan.repetitions or 1
    prompts = sum(max(1, len(source.rows)) for source in plan.prompts)
    cells = prompts * len(plan.techniques) * len(plan.targets) * repetitions
    if cells > settings.cells_max:
        raise Invalid(
            "PLAN_TOO_LARGE",
            f"The plan makes {cells} cells; at most {settings.cells_max} are allowed.",
            facts={"cells": str(cells), "cells_max": str(settings.cells_max)},
        )
    spec = scorer_spec(plan.scorer)
    facts = {
        "format": 1,
        "prompts": [
            await _prompt_facts(tx, source, number) for number, source in enumerate(plan.prompts)
        ],
        "techniques": [
            {
                "name": chain_name(chain),
                "steps": [
                    {
                        "technique": step.technique,
                        "version": TECHNIQUES[step.technique].version,
                        "params": dict(step.params),
                    }
                    for step in chain_steps(chain)
                ],
            }
            for chain in plan.techniques
        ],
        "targets": [
            await _target_facts(tx, target.model_id, target.provider_key_id)
            for target in plan.targets
        ],
        "repetitions": repetitions,
        "scorer": spec,
        "scorer_fingerprint": scorer_fingerprint(spec),
        "generation": {
            "output_tokens_max": plan.generation.output_tokens_max or OUTPUT_TOKENS_DEFAULT,
            "temperature": _optional(plan.generation, "temperature"),
            "top_p": _optional(plan.generation, "top_p"),
            "stop": list(plan.generation.stop),
        },
        "seed": plan.seed,
    }
    body, plan_hash = freeze(facts)
    compiled = RunPlan(body)
    _check_prompts(compiled)
    size = min(SHARD_CELLS_MAX, max(SHARD_CELLS_MIN, -(-cells // SHARDS_WANTED)))
    return Frozen(body, plan_hash, compiled, size)


def _optional(message: Any, field: str) -> float | None:
    return getattr(message, field) if message.HasField(field) else None


async def _prompt_facts(tx: Tx, source: Any, number: int) -> dict[str, Any]:
    version: TemplateVersion = await get_version(tx, source.template_id, source.version_number)
    return {
        "template_id": version.template_id,
        "version_number": version.version_number,
        "content_hash": version.content_hash,
        "messages": [
            [enum_text(message, "role", message.role), message.text] for message in version.messages
        ],
        "variables": [asdict(variable) for variable in declared(version.variables)],
        "rows": [struct_dict(row) for row in source.rows],
    }


async def _target_facts(tx: Tx, model_id: str, key_id: str) -> dict[str, Any]:
    target = await get_target(tx, model_id)
    key = await get_key(tx, key_id) if key_id else await find_default_key(tx, target.provider_id)
    if key is None:
        raise NotReady(
            "PROVIDER_KEY_MISSING",
            f"You have no key for the provider {target.provider}; add one with CreateProviderKey.",
            facts={"provider_id": target.provider_id},
        )
    if key.provider_id != target.provider_id or not key.is_active:
        # A key must never travel to another provider's address.
        raise Invalid(
            "PROVIDER_KEY_NOT_FOUND",
            f"The key {key.name!r} is not an active key for the provider {target.provider}.",
            facts={"provider_key_id": key.id, "provider_id": target.provider_id},
        )
    return {
        "model_id": target.model_id,
        "model": target.model,
        "provider_id": target.provider_id,
        "provider": target.provider,
        "provider_type": target.provider_type,
        "base_url": target.base_url,
        "provider_key_id": key.id,
        "price_version_id": target.price_version_id,
        "prices": {
            "input_per_million": decimal_text(target.prices.input_per_million),
            "output_per_million": decimal_text(target.prices.output_per_million),
            "cached_input_per_million": decimal_text(target.prices.cached_input_per_million),
            "reasoning_per_million": decimal_text(target.prices.reasoning_per_million),
            "per_request": decimal_text(target.prices.per_request),
        },
        "timeout_s": target.timeout_s,
        "requests_per_minute": target.requests_per_minute,
        "tokens_per_minute": target.tokens_per_minute,
    }


def _check_prompts(plan: RunPlan) -> None:
    """Renders every row once: a missing or ill-typed variable is refused before anything runs."""
    for source, rows in enumerate(plan.rows):
        for number, row in enumerate(rows):
            try:
                plan.templates[source].render(row)
            except RenderError as error:
                field = f"plan.prompts[{source}].rows[{number}]"
                field += f".{error.variable}" if error.variable else ""
                raise Invalid(
                    error.reason.upper(),
                    f"{field}: {error}",
                    violations=[Violation(field, str(error), error.reason)],
                ) from None
    try:
        for technique_no in range(len(plan.chains)):
            plan.transformed(0, technique_no, 0)
    except TechniqueError as error:
        raise Invalid(error.reason.upper(), f"plan.techniques: {error.message}") from None
