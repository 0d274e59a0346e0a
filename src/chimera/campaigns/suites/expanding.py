"""A plan's suites turned into chains, with what was pinned of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chimera.campaigns.checking import chain_name, chain_steps
from chimera.campaigns.suites.content import built_in_suites
from chimera.campaigns.suites.operations import get_suite, no_suite
from chimera.db import Tx
from chimera.faults import Invalid, Violation
from chimera.v1.campaigns_pb2 import CampaignPlan, SuiteUse, TechniqueChain
from chimera.v1.suites_pb2 import BuiltInSuite, Suite

CHAINS_MAX = 500


@dataclass(frozen=True)
class Expanded:
    """Chains in the order of the plan, and what the frozen plan says of its suites."""

    chains: list[TechniqueChain]
    pins: list[dict[str, Any]]


async def expand_suites(tx: Tx, plan: CampaignPlan) -> Expanded:
    """Raises NotFound(SUITE_NOT_FOUND), Invalid(TECHNIQUE_PARAMETER_INVALID, PLAN_TOO_LARGE)."""
    chains = {chain_name(chain): chain for chain in plan.techniques}
    pins = []
    for place, use in enumerate(plan.suites):
        suite = await _find(tx, use)
        pin = {
            "name": suite.name,
            "version_number": suite.version_number,
            "content_hash": suite.content_hash,
        }
        pins.append(pin | ({"suite_id": suite.id} if isinstance(suite, Suite) else {}))
        for chain in suite.chains:
            there = chains.setdefault(chain_name(chain), chain)
            if chain_steps(there) != chain_steps(chain):
                raise _two_of_one_name(f"plan.suites[{place}]", chain_name(chain))
    if len(chains) > CHAINS_MAX:
        raise Invalid(
            "PLAN_TOO_LARGE", f"The plan has {len(chains)} techniques; at most {CHAINS_MAX}."
        )
    return Expanded(list(chains.values()), pins)


async def _find(tx: Tx, use: SuiteUse) -> Suite | BuiltInSuite:
    if use.suite_id:
        suite = await get_suite(tx, use.suite_id, use.version_number)
        if suite.HasField("deleted_at"):
            raise no_suite()
        return suite
    for built_in in built_in_suites():
        if built_in.name == use.built_in and use.version_number in (0, built_in.version_number):
            return built_in
    raise no_suite()


def _two_of_one_name(field: str, name: str) -> Invalid:
    said = f"brings a chain {name!r} that differs from another of this name in the plan"
    return Invalid(
        "TECHNIQUE_PARAMETER_INVALID", f"{field} {said}.", violations=[Violation(field, said)]
    )
