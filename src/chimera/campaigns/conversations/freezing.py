"""A strategy as a frozen plan keeps it: every default filled in, every text checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chimera.campaigns.conversations.strategies import (
    BACKTRACKS_DEFAULT,
    TRIES_DEFAULT,
    TURNS_DEFAULT,
    VARIATION,
)
from chimera.campaigns.techniques import TECHNIQUES
from chimera.faults import Invalid, Violation
from chimera.rows import struct_dict
from chimera.templates.rendering import compile_template
from chimera.templates.values import RenderError, Variable
from chimera.v1.campaigns_pb2 import Strategy


def strategy_facts(strategy: Strategy, prompts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """prompts: frozen, whose variables a script may use. Raises Invalid(STRATEGY_INVALID)."""
    limits = strategy.limits
    facts: dict[str, Any] = {
        "kind": strategy.WhichOneof("kind"),
        "limits": {
            "turns_max": limits.turns_max,
            "tokens_max": limits.tokens_max,
            "cost_usd_max": limits.cost_usd_max,
        },
    }
    match facts["kind"]:
        case "script":
            _check_script(strategy.script.messages, prompts)
            facts["messages"] = list(strategy.script.messages)
        case "crescendo":
            facts["turns_max"] = strategy.crescendo.turns_max or TURNS_DEFAULT
            facts["backtracks_max"] = strategy.crescendo.backtracks_max or BACKTRACKS_DEFAULT
        case _:
            facts["tries_max"] = strategy.best_of_n.tries_max or TRIES_DEFAULT
            facts["variation"] = [
                {**step, "version": TECHNIQUES[step["technique"]].version}
                for step in _variation(strategy)
            ]
    return facts


def _variation(strategy: Strategy) -> Sequence[dict[str, Any]]:
    return [
        {"technique": step.technique, "params": struct_dict(step.params)}
        for step in strategy.best_of_n.variation.steps
    ] or list(VARIATION)


def _check_script(messages: Sequence[str], prompts: Sequence[dict[str, Any]]) -> None:
    """Every message can be filled from every row that the plan itself holds."""
    for number, text in enumerate(messages):
        field = f"plan.strategy.script.messages[{number}]"
        for source, prompt in enumerate(prompts):
            variables = [
                Variable(**{**variable, "choices": tuple(variable["choices"])})
                for variable in prompt["variables"]
            ]
            try:
                template = compile_template([("user", text)], variables)
                for row in prompt["rows"] or [{}]:
                    template.render(row)
            except RenderError as error:
                if error.reason == "variable_missing" and "is required" in error.message:
                    continue  # the prompt itself lacks it, and says so
                raise Invalid(
                    "STRATEGY_INVALID",
                    f"{field}: with the variables of plan.prompts[{source}]: {error}",
                    violations=[Violation(field, str(error), error.reason)],
                ) from None
