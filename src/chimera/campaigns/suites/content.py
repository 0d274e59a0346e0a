"""What a suite's chains are as data, and their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from typing import Any

from chimera.audit.canonical import canonical_json
from chimera.campaigns.checking import chain_name, chain_steps
from chimera.campaigns.suites.built_in import BUILT_IN_SUITES, BuiltIn
from chimera.campaigns.techniques import Step
from chimera.v1.campaigns_pb2 import TechniqueChain
from chimera.v1.suites_pb2 import BuiltInSuite


def chains_hash(chains: Iterable[TechniqueChain]) -> str:
    """SHA-256 (hex) over [[name, [[technique, params], ...]], ...] as canonical JSON."""
    facts = [
        [chain_name(chain), [[step.technique, dict(step.params)] for step in chain_steps(chain)]]
        for chain in chains
    ]
    return hashlib.sha256(canonical_json(facts)).hexdigest()


@cache
def built_in_suites() -> list[BuiltInSuite]:
    """By name."""
    return [_message(suite) for _name, suite in sorted(BUILT_IN_SUITES.items())]


def _message(suite: BuiltIn) -> BuiltInSuite:
    chains = [_chain(steps) for steps in suite.chains]
    return BuiltInSuite(
        name=suite.name,
        title=suite.title,
        description=suite.description,
        version_number=suite.version,
        content_hash=chains_hash(chains),
        chains=chains,
    )


def _chain(steps: Iterable[Step]) -> TechniqueChain:
    chain = TechniqueChain()
    for step in steps:
        params: dict[str, Any] = dict(step.params)
        chain.steps.add(technique=step.technique).params.update(params)
    return chain
