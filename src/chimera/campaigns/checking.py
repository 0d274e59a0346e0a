"""What a plan may say: techniques, scorers and their parameters, checked before anything is stored.

Whether the templates, models and keys it names exist is asked at launch, when it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chimera.campaigns.scorers import ScorerError, check_scorer
from chimera.campaigns.techniques import Step, TechniqueError, check_chain
from chimera.faults import Invalid, Violation
from chimera.rows import struct_dict
from chimera.v1.campaigns_pb2 import CampaignPlan, Scorer, TechniqueChain


def chain_steps(chain: TechniqueChain) -> list[Step]:
    return [Step(step.technique, struct_dict(step.params)) for step in chain.steps]


def chain_name(chain: TechniqueChain) -> str:
    return chain.name or "+".join(step.technique for step in chain.steps)


def scorer_spec(scorer: Scorer) -> dict[str, Any]:
    """A scorer message as the plain data that scorers are compiled from."""
    return {
        "kind": scorer.kind,
        "params": struct_dict(scorer.params),
        "operands": [scorer_spec(operand) for operand in scorer.operands],
    }


def check_plan(plan: CampaignPlan) -> None:
    """Raises Invalid with TECHNIQUE_* or SCORER_* and the path of what is wrong."""
    for number, source in enumerate(plan.prompts):
        given = len(source.rows) > 0
        if (source.dataset_id and given) or (source.dataset_version and not source.dataset_id):
            said = "give rows, or a dataset (and its version), not both"
            field = f"plan.prompts[{number}].dataset_id"
            violation = Violation(field, said, "FIELD_INVALID")
            raise Invalid("FIELD_INVALID", f"{field}: {said}", violations=[violation])
    check_chains(plan.techniques, "plan.techniques")
    if plan.HasField("scorer"):
        checked_scorer(plan.scorer, "plan.scorer")
    if plan.strategy.HasField("best_of_n"):
        try:
            check_chain(chain_steps(plan.strategy.best_of_n.variation))
        except TechniqueError as error:
            raise _invalid(error, "plan.strategy.best_of_n.variation") from None


def check_chains(chains: Sequence[TechniqueChain], field: str) -> None:
    """Raises Invalid with TECHNIQUE_* for a chain that cannot be used or a name used twice."""
    names = [chain_name(chain) for chain in chains]
    for number, chain in enumerate(chains):
        path = f"{field}[{number}]"
        try:
            check_chain(chain_steps(chain))
        except TechniqueError as error:
            raise _invalid(error, path) from None
        if names.index(names[number]) != number:
            raise Invalid(
                "TECHNIQUE_PARAMETER_INVALID",
                f"Two technique chains are called {names[number]!r}; name one of them.",
                violations=[Violation(f"{path}.name", "must be unique")],
            )


def checked_scorer(scorer: Scorer, path: str) -> dict[str, Any]:
    """Its specification. Raises Invalid with SCORER_* and the path of what is wrong."""
    spec = scorer_spec(scorer)
    try:
        check_scorer(spec)
    except ScorerError as error:
        raise _invalid(error, path) from None
    return spec


def _invalid(error: TechniqueError | ScorerError, path: str) -> Invalid:
    field = f"{path}.{error.field}" if error.field else path
    return Invalid(
        error.reason.upper(),
        f"{field}: {error.message}",
        violations=[Violation(field, error.message, error.reason)],
    )
