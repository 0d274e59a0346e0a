"""Freezing: a campaign's plan with everything it names, as the run will use it.

Versions, prices, addresses and parameters are copied into the frozen plan, so that nothing anybody
changes later changes what a run does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from chimera.campaigns.checking import chain_name, chain_steps, check_plan, scorer_spec
from chimera.campaigns.conversations.attacker import OUTPUT_TOKENS_MAX as ATTACKER_TOKENS_MAX
from chimera.campaigns.conversations.bounds import worst_cost_of_cell
from chimera.campaigns.conversations.freezing import strategy_facts
from chimera.campaigns.dataset_rows import bring_prompts
from chimera.campaigns.plan import BorrowedRows, RunPlan, freeze
from chimera.campaigns.scorers import fingerprint as scorer_fingerprint
from chimera.campaigns.scorers import judges_of, versions_of
from chimera.campaigns.suites.expanding import Expanded, expand_suites
from chimera.campaigns.techniques import TECHNIQUES, TechniqueError
from chimera.db import Tx
from chimera.faults import Invalid, NotReady, Violation
from chimera.providers.keys import check_host
from chimera.providers.owned_keys import find_default_key, get_key
from chimera.providers.pricing import prices_json
from chimera.providers.routes import fallback_causes, get_route
from chimera.providers.targets import Target as ModelTarget
from chimera.providers.targets import get_target
from chimera.row_seals import RowSeals, Seals, is_sealed
from chimera.rows import enum_text, struct_dict
from chimera.settings import Settings
from chimera.templates.content import declared
from chimera.templates.dataset_pins import pin_dataset
from chimera.templates.partials import Pin, expand
from chimera.templates.values import RenderError
from chimera.templates.versions import get_version
from chimera.v1.campaigns_pb2 import CampaignPlan, PromptSource, Target
from chimera.v1.datasets_pb2 import DatasetVersion
from chimera.v1.providers_pb2 import ProviderKey
from chimera.v1.templates_pb2 import TemplateVersion

OUTPUT_TOKENS_DEFAULT = 256
SHARD_CELLS_MIN, SHARD_CELLS_MAX = 64, 2500
SHARDS_WANTED = 64
SAMPLE_MAX = 2000
# Of a dataset's rows, so many are rendered at launch, evenly; one of the others that cannot be rendered
# is recorded as failed and never sent.
CHECKED_ROWS_MAX = 5000


@dataclass(frozen=True)
class Frozen:
    """A plan with everything it refers to, ready to be stored."""

    body: bytes
    plan_hash: str
    plan: RunPlan
    shard_cells: int
    # The versions with their partials expanded, in the order of the plan's prompts.
    versions: tuple[TemplateVersion, ...]

    @property
    def shards(self) -> int:
        return -(-self.plan.cells_total // self.shard_cells)


async def freeze_plan(
    tx: Tx, plan: CampaignPlan, settings: Settings, row_seals: RowSeals
) -> Frozen:
    """Resolves what the plan names and checks that every prompt can be made.

    Raises the refusals of LaunchCampaign. What grows with the plan runs in a thread: a plan of a
    hundred thousand rows takes a second, and other callers must not wait for it.
    """
    check_plan(plan)
    expanded = await expand_suites(tx, plan)
    pins = [
        await pin_dataset(tx, source.dataset_id, source.dataset_version)
        if source.dataset_id
        else None
        for source in plan.prompts
    ]
    _check_size(plan, expanded, pins, settings)
    versions = []
    for source in plan.prompts:
        version = await get_version(
            tx, source.template_id, source.version_number, label=source.label
        )
        versions.append(await expand(tx, version))
    tokens = _output_tokens_max(plan)
    targets = [await _facts_of(tx, target, tokens) for target in plan.targets]
    seats = await _seats(tx, plan)
    seals = row_seals.of(tx.call.caller.org_id)
    frozen = await asyncio.to_thread(_frozen, plan, expanded, versions, pins, targets, seats, seals)
    checked = {source: _checked_rows(rows) for source, rows in enumerate(frozen.plan.rows)}
    await bring_prompts(
        tx,
        frozen.plan,
        [frozen.plan.starts[source] + row_no for source, row_nos in checked.items()
         if isinstance(frozen.plan.rows[source], BorrowedRows) for row_no in row_nos],
    )  # fmt: skip
    await asyncio.to_thread(_check_prompts, frozen.plan, checked)
    return frozen


async def _facts_of(tx: Tx, target: Target, tokens: int) -> dict[str, Any]:
    """A model or a route, that may be asked for so many tokens."""
    if target.route_id:
        return await _route_facts(tx, target, tokens)
    return await _target_facts(tx, target.model_id, target.provider_key_id, tokens)


async def _seats(tx: Tx, plan: CampaignPlan) -> list[dict[str, Any]]:
    """The attacker first, then the judges in the order of the scorer: targets as the others are."""
    seats = []
    if plan.strategy.HasField("crescendo"):
        crescendo = plan.strategy.crescendo
        seats.append(
            {
                "purpose": "attacker",
                "path": "",
                "cost_usd_max": crescendo.attacker_cost_usd_max,
                "target": await _facts_of(tx, crescendo.attacker, ATTACKER_TOKENS_MAX),
            }
        )
    return seats + await judge_seats(tx, scorer_spec(plan.scorer))


async def judge_seats(tx: Tx, spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of the models that judge in a scorer."""
    seats = []
    for path, params in judges_of(spec):
        judge = Target(
            model_id=params["model_id"],
            route_id=params["route_id"],
            provider_key_id=params["provider_key_id"],
        )
        seats.append(
            {
                "purpose": "judge",
                "path": path,
                "cost_usd_max": params["cost_usd_max"],
                "target": await _facts_of(tx, judge, params["output_tokens_max"]),
            }
        )
    return seats


def _check_size(
    plan: CampaignPlan,
    expanded: Expanded,
    pins: Sequence[DatasetVersion | None],
    settings: Settings,
) -> None:
    missing = [name for name in ("prompts", "targets") if not getattr(plan, name)]
    if not expanded.chains:
        missing.append("techniques")
    if not plan.HasField("scorer"):
        missing.append("scorer")
    missing += [
        f"prompts[{place}].dataset_id"
        for place, pin in enumerate(pins)
        if pin is not None and not pin.row_count
    ]
    if missing:
        raise Invalid(
            "PLAN_EMPTY",
            f"The plan has no {', '.join(missing)}: it makes no cell.",
            violations=[Violation(f"plan.{name}", "must not be empty") for name in missing],
        )
    prompts = sum(
        max(1, len(source.rows)) if pin is None else pin.row_count
        for source, pin in zip(plan.prompts, pins, strict=True)
    )
    cells = prompts * len(expanded.chains) * len(plan.targets) * (plan.repetitions or 1)
    if cells > settings.cells_max:
        raise Invalid(
            "PLAN_TOO_LARGE",
            f"The plan makes {cells} cells; at most {settings.cells_max} are allowed.",
            facts={"cells": str(cells), "cells_max": str(settings.cells_max)},
        )


def _frozen(
    plan: CampaignPlan,
    expanded: Expanded,
    versions: Sequence[tuple[TemplateVersion, Sequence[Pin]]],
    datasets: Sequence[DatasetVersion | None],
    targets: Sequence[dict[str, Any]],
    seats: Sequence[dict[str, Any]],
    seals: Seals,
) -> Frozen:
    spec = scorer_spec(plan.scorer)
    facts: dict[str, Any] = {
        "format": 1,
        "prompts": [
            _prompt_facts(version, pins, source, dataset, seals)
            for (version, pins), source, dataset in zip(
                versions, plan.prompts, datasets, strict=True
            )
        ],
        **({"suites": expanded.pins} if expanded.pins else {}),
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
            for chain in expanded.chains
        ],
        "targets": list(targets),
        "repetitions": plan.repetitions or 1,
        "scorer": spec,
        "scorer_fingerprint": scorer_fingerprint(spec),
        "scorer_versions": versions_of(spec),
        "generation": {
            "output_tokens_max": _output_tokens_max(plan),
            "temperature": _optional(plan.generation, "temperature"),
            "top_p": _optional(plan.generation, "top_p"),
            "stop": list(plan.generation.stop),
        },
        "seed": plan.seed,
    }
    if plan.HasField("strategy"):
        facts["strategy"] = strategy_facts(
            plan.strategy,
            [
                prompt | {"rows": seals.opened(prompt["template_id"], prompt["rows"])}
                for prompt in facts["prompts"]
            ],
        )
    if seats:
        facts["seats"] = list(seats)
    body, plan_hash = freeze(facts)
    compiled = RunPlan(body, seals)
    wanted = -(-compiled.cells_total // SHARDS_WANTED)
    return Frozen(
        body,
        plan_hash,
        compiled,
        min(SHARD_CELLS_MAX, max(SHARD_CELLS_MIN, wanted)),
        tuple(version for version, _pins in versions),
    )


def _output_tokens_max(plan: CampaignPlan) -> int:
    return plan.generation.output_tokens_max or OUTPUT_TOKENS_DEFAULT


def _optional(message: Any, field: str) -> float | None:
    return getattr(message, field) if message.HasField(field) else None


def _prompt_facts(
    version: TemplateVersion,
    pins: Sequence[Pin],
    source: PromptSource,
    dataset: DatasetVersion | None,
    seals: Seals,
) -> dict[str, Any]:
    variables = declared(version.variables)
    secrets = {variable.name for variable in variables if variable.secret}
    return {
        **({"label": source.label} if source.label else {}),
        **({"partials": [asdict(pin) for pin in pins]} if pins else {}),
        "template_id": version.template_id,
        "version_number": version.version_number,
        "content_hash": version.content_hash,
        "messages": [
            [enum_text(message, "role", message.role), message.text] for message in version.messages
        ],
        "variables": [asdict(variable) for variable in variables],
        "rows": [
            _sealed(struct_dict(row), version.template_id, secrets, seals) for row in source.rows
        ],
        **({"dataset": _dataset_facts(dataset)} if dataset is not None else {}),
    }


def _sealed(
    row: dict[str, Any], template_id: str, secrets: Set[str], seals: Seals
) -> dict[str, Any]:
    """What was stored before its variable was called a secret is sealed now."""
    for name in secrets & row.keys():
        if not is_sealed(row[name]):
            row[name] = seals.seal(template_id, name, row[name])
    return row


def _dataset_facts(version: DatasetVersion) -> dict[str, Any]:
    """Its rows stay where they are: they never change, and anybody who has them can compute the hash."""
    return {
        "dataset_id": version.dataset_id,
        "version_number": version.version_number,
        "content_hash": version.content_hash,
        "row_count": version.row_count,
    }


async def _target_facts(tx: Tx, model_id: str, key_id: str, tokens: int) -> dict[str, Any]:
    target = await get_target(tx, model_id)
    if 0 < target.output_tokens_max < tokens:
        raise Invalid(
            "FIELD_INVALID",
            f"{target.name} writes at most {target.output_tokens_max} tokens.",
            violations=[
                Violation(
                    "plan.generation.output_tokens_max",
                    f"must be at most {target.output_tokens_max} for {target.name}",
                )
            ],
        )
    key = await get_key(tx, key_id) if key_id else await find_default_key(tx, target.provider_id)
    if key is None and not target.default_config.get("keyless"):
        raise NotReady(
            "PROVIDER_KEY_MISSING",
            f"You have no key for the provider {target.provider}; add one with CreateProviderKey.",
            facts={"provider_id": target.provider_id},
        )
    if key is not None:
        await _check_key(tx, key, target)
    return {
        "model_id": target.model_id,
        "model": target.model,
        "provider_id": target.provider_id,
        "provider": target.provider,
        "provider_type": target.provider_type,
        "base_url": target.base_url,
        "provider_key_id": "" if key is None else key.id,
        "price_version_id": target.price_version_id,
        "prices": prices_json(target.prices),
        "provider_config": target.default_config,
        "timeout_s": target.timeout_s,
        "requests_per_minute": target.requests_per_minute,
        "tokens_per_minute": target.tokens_per_minute,
    }


async def _check_key(tx: Tx, key: ProviderKey, target: ModelTarget) -> None:
    """A key must never travel to another provider's address, nor to one it was not stored for."""
    if key.provider_id != target.provider_id or not key.is_active:
        raise Invalid(
            "PROVIDER_KEY_NOT_FOUND",
            f"The key {key.name!r} is not an active key for the provider {target.provider}.",
            facts={"provider_key_id": key.id, "provider_id": target.provider_id},
        )
    await check_host(tx, key.id, target.base_url)


async def _route_facts(tx: Tx, target: Target, tokens: int) -> dict[str, Any]:
    """A version of a route; each of its models must be one the launch could send to directly."""
    route = await get_route(tx, target.route_id, target.route_version)
    steps = []
    for step in route.steps:
        facts = await _target_facts(tx, step.model_id, step.provider_key_id, tokens)
        if step.timeout_s:
            facts["timeout_s"] = step.timeout_s
        steps.append({"model": facts, "weight": step.weight, "fallback_on": fallback_causes(step)})
    return {
        "route_id": route.id,
        "route": route.name,
        "version_number": route.version_number,
        "strategy": enum_text(route, "strategy", route.strategy),
        "steps": steps,
    }


def _checked_rows(rows: Sequence[Any]) -> range:
    """Which rows of a source are rendered at launch: all that the plan itself holds."""
    if not isinstance(rows, BorrowedRows):
        return range(len(rows))
    return range(0, len(rows), -(-len(rows) // CHECKED_ROWS_MAX))


def _check_prompts(plan: RunPlan, checked: Mapping[int, range]) -> None:
    """Renders rows once: a missing or ill-typed variable is refused before anything runs."""
    for source, row_nos in checked.items():
        rows = plan.rows[source]
        for number in row_nos:
            try:
                plan.templates[source].render(rows[number])
            except RenderError as error:
                field = f"plan.prompts[{source}].rows[{number}]"
                if isinstance(rows, BorrowedRows):  # whose rows are counted from 1
                    field = f"plan.prompts[{source}].dataset_id.rows[{number + 1}]"
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


def sampled_prompts(plan: RunPlan) -> range:
    """An even sample of the prompts, for estimates; of few, all of them."""
    pairs = len(plan.chains) * len(plan.targets)
    return range(0, plan.prompt_count, max(1, plan.prompt_count * pairs // SAMPLE_MAX))


def worst_cost_of(plan: RunPlan) -> Decimal:
    """What the run can cost at most when every cell takes one attempt: exact while a technique and
    target have at most SAMPLE_MAX prompts between them, else the dearest of an even sample times
    their number. The rows of the sample must be there."""
    total = Decimal(0)
    pairs = len(plan.chains) * len(plan.targets)
    sampled = sampled_prompts(plan)
    for pair in range(pairs):
        costs = [
            _worst_cost(plan, (prompt_no * pairs + pair) * plan.repetitions)
            for prompt_no in sampled
        ]
        count = plan.prompt_count * plan.repetitions
        total += sum(costs) * plan.repetitions if sampled.step == 1 else max(costs) * count
    return total


def _worst_cost(plan: RunPlan, cell_no: int) -> Decimal:
    try:
        if plan.talk is not None:
            return worst_cost_of_cell(plan, cell_no)
        prepared = plan.prepare(cell_no)
        return prepared.worst_cost + prepared.reserve
    except (TechniqueError, RenderError):
        return Decimal(0)  # its text cannot be made: it is recorded as failed and never sent
