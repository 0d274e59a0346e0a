"""Clones: a new draft from a campaign's plan as it is, or from what a run of it really used.

The plan of a campaign that has run does not change any more, so a run's clone is that plan with every
"newest" replaced by what the run pinned, and its suites by their chains.
"""

from __future__ import annotations

from typing import Any

import orjson

from chimera.campaigns.checking import check_plan, scorer_spec
from chimera.campaigns.collaboration.levels import find_level, is_own_team
from chimera.campaigns.operations import get_campaign, insert_campaign
from chimera.campaigns.runs import get_run, refuse_judging
from chimera.campaigns.scorers import fingerprint as scorer_fingerprint
from chimera.campaigns.secrecy import holds_secrets, restore_masked, seal_rows
from chimera.campaigns.techniques import TECHNIQUES
from chimera.db import Tx, sql
from chimera.faults import Denied, Fault, NotFound, NotReady
from chimera.providers.owned_keys import get_key
from chimera.providers.routes import get_route
from chimera.row_seals import RowSeals
from chimera.rows import struct_dict
from chimera.templates.partials import expand
from chimera.templates.versions import get_version
from chimera.updates import checked_paths
from chimera.v1.campaigns_pb2 import (
    Campaign,
    CampaignPlan,
    CampaignVisibility,
    CloneCampaignRequest,
    CreateCampaignRequest,
    Scorer,
    Target,
    TechniqueChain,
)

MASKABLE = (
    "prompts", "techniques", "suites", "targets", "repetitions", "scorer", "strategy", "generation",
    "limits", "seed",
)  # fmt: skip

READ_PLAN = sql(bytes, "SELECT plan FROM campaigns.run_plans WHERE run_id = %(run_id)s")


async def clone_campaign(tx: Tx, request: CloneCampaignRequest, row_seals: RowSeals) -> Campaign:
    """Raises NotFound(CAMPAIGN_NOT_FOUND, RUN_NOT_FOUND), NotReady(RUN_NOT_REPEATABLE),
    AlreadyExists(CAMPAIGN_NAME_TAKEN), Invalid(UPDATE_MASK_INVALID) and what a plan is refused for."""
    paths = checked_paths(request.plan_mask.paths, MASKABLE) if request.plan_mask.paths else []
    campaign_id = request.campaign_id
    if request.run_id:
        run = await get_run(tx, request.run_id)
        refuse_judging(run)
        campaign_id = run.campaign_id
    source = await get_campaign(tx, campaign_id)
    plan = CampaignPlan()
    plan.CopyFrom(source.plan)
    if request.run_id:
        await _pin(tx, plan, request.run_id, paths)
    _override(plan, request.plan, paths)
    check_plan(plan)
    may_use_secrets = await find_level(tx, source.id) in ("edit", "execute", "admin")
    if "prompts" in paths:
        await restore_masked(tx, plan, source.plan if may_use_secrets else None)
    elif not may_use_secrets and await holds_secrets(tx, plan):
        # Whoever launches a plan can send its values to a model of their own.
        raise Denied(
            "SECRET_MASKED",
            "The plan holds secret values that are not yours to send: give prompts of your own"
            " (plan_mask), or ask for EDIT on the campaign.",
        )
    await seal_rows(tx, plan, row_seals)
    await _own_keys_only(tx, plan)
    wanted = CreateCampaignRequest(
        name=request.name,
        description=source.description,
        objective=source.objective,
        labels=source.labels,
        plan=plan,
    )
    await _set_visibility(tx, wanted, request, source)
    return await insert_campaign(tx, wanted, "campaign.clone")


async def _set_visibility(
    tx: Tx, wanted: CreateCampaignRequest, request: CloneCampaignRequest, source: Campaign
) -> None:
    """As asked for, or as the source; what is public or another team's is closed first."""
    if request.visibility:
        wanted.visibility, wanted.team_id = request.visibility, request.team_id
    elif source.visibility == CampaignVisibility.CAMPAIGN_VISIBILITY_PUBLIC:
        wanted.visibility = CampaignVisibility.CAMPAIGN_VISIBILITY_ORGANISATION
    elif source.team_id and not await is_own_team(tx, source.team_id):
        wanted.visibility = CampaignVisibility.CAMPAIGN_VISIBILITY_PRIVATE
    else:
        wanted.visibility, wanted.team_id = source.visibility, source.team_id


def _override(plan: CampaignPlan, given: CampaignPlan, paths: list[str]) -> None:
    for path in paths:
        plan.ClearField(path)
        plan.MergeFrom(CampaignPlan(**{path: getattr(given, path)}))


async def _pin(tx: Tx, plan: CampaignPlan, run_id: str, paths: list[str]) -> None:
    """Replaces what the plan leaves open by what the run used. Fields that are replaced anyway are
    left alone."""
    body = await tx.one(READ_PLAN, run_id=run_id)
    assert body is not None  # made with the run
    facts = orjson.loads(bytes(body))
    if "prompts" not in paths:
        for place, (source, used) in enumerate(zip(plan.prompts, facts["prompts"], strict=True)):
            source.version_number, source.label = used["version_number"], ""
            if source.dataset_id:
                source.dataset_version = used["dataset"]["version_number"]
            await _check_template(tx, used, f"plan.prompts[{place}]")
    if not {"techniques", "suites"} & set(paths):
        _check_techniques(facts)
        del plan.suites[:]
        del plan.techniques[:]
        plan.techniques.extend(_chain(used) for used in facts["techniques"])
    if "targets" not in paths:
        for target, used in zip(plan.targets, facts["targets"], strict=True):
            _pin_route(target, used)
    for seat in facts.get("seats", ()):
        if seat["purpose"] == "attacker" and "strategy" not in paths:
            _pin_route(plan.strategy.crescendo.attacker, seat["target"])
        elif seat["purpose"] == "judge" and "scorer" not in paths:
            await _check_judge(tx, seat["target"])
    if "scorer" not in paths and (
        scorer_fingerprint(scorer_spec(plan.scorer)) != facts["scorer_fingerprint"]
    ):
        raise _not_repeatable("the scorer has another version now")


def _pin_route(target: Target, used: dict[str, Any]) -> None:
    if target.route_id:
        target.route_version = used["version_number"]


async def _check_judge(tx: Tx, used: dict[str, Any]) -> None:
    """A judge's route is always taken at its newest."""
    if "route_id" in used:
        newest = await get_route(tx, used["route_id"], 0)
        if newest.version_number != used["version_number"]:
            raise _not_repeatable(f"the route {newest.name} of a judge has another version now")


async def _check_template(tx: Tx, used: dict[str, Any], where: str) -> None:
    """What a version includes is found again at launch; it must still be what the run used."""
    try:
        version = await get_version(tx, used["template_id"], used["version_number"])
        expanded, pins = await expand(tx, version)
    except Fault as fault:
        raise _not_repeatable(f"the template of {where} cannot be used ({fault.reason})") from None
    hashes = [pin["content_hash"] for pin in used.get("partials", ())]
    if expanded.content_hash != used["content_hash"] or hashes != [p.content_hash for p in pins]:
        raise _not_repeatable(f"a text that the template of {where} includes has changed")


def _check_techniques(facts: dict[str, Any]) -> None:
    for chain in facts["techniques"]:
        for step in chain["steps"]:
            known = TECHNIQUES.get(step["technique"])
            if known is None or known.version != step["version"]:
                raise _not_repeatable(f"the technique {step['technique']} has another version now")


def _not_repeatable(why: str) -> NotReady:
    return NotReady(
        "RUN_NOT_REPEATABLE",
        f"The run cannot be repeated exactly: {why}. Clone the campaign, or replace that part of the"
        " plan.",
    )


def _chain(used: dict[str, Any]) -> TechniqueChain:
    chain = TechniqueChain(name=used["name"])
    for step in used["steps"]:
        chain.steps.add(technique=step["technique"]).params.update(step["params"])
    return chain


async def _own_keys_only(tx: Tx, plan: CampaignPlan) -> None:
    """Keys are personal: the clone uses the caller's default ones where the source's are another's."""
    targets = list(plan.targets)
    if plan.strategy.HasField("crescendo"):
        targets.append(plan.strategy.crescendo.attacker)
    for target in targets:
        if target.provider_key_id and not await _is_own(tx, target.provider_key_id):
            target.provider_key_id = ""
    if plan.HasField("scorer"):
        await _own_judges_keys_only(tx, plan.scorer)


async def _own_judges_keys_only(tx: Tx, scorer: Scorer) -> None:
    given = struct_dict(scorer.params).get("provider_key_id")
    if given and not await _is_own(tx, str(given)):
        del scorer.params["provider_key_id"]
    for operand in scorer.operands:
        await _own_judges_keys_only(tx, operand)


async def _is_own(tx: Tx, key_id: str) -> bool:
    try:
        await get_key(tx, key_id)
    except NotFound:
        return False
    return True
