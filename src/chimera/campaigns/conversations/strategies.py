"""Strategies: how many answers there may be, and what the target is asked for the next one.

A strategy sees the exchanges that were judged and did not succeed. Whether a call is made at all is
decided above it (talk.py): success, limits and judges are the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chimera.campaigns.conversations import attacker
from chimera.campaigns.techniques import Chain, Step, compile_chain

KINDS = ("script", "crescendo", "best_of_n")
TURNS_DEFAULT = BACKTRACKS_DEFAULT = TRIES_DEFAULT = 10
# As in the source of best-of-n; their parameters are its shares.
VARIATION = (
    {"technique": "scrambled_words", "params": {}},
    {"technique": "alternating_case", "params": {"pattern": "random"}},
    {"technique": "character_noise", "params": {}},
)


@dataclass(frozen=True)
class Strategy:
    """One of KINDS, or "" for a single answer. answers_max: of the target; over: why it ends when
    there have been so many. Limits of the cell: 0 and None are none."""

    kind: str = ""
    answers_max: int = 1
    over: str = "answered"
    messages: tuple[str, ...] = ()
    backtracks_max: int = 0
    variation: Chain | None = None
    turns_max: int = 0
    tokens_max: int = 0
    cost_usd_max: str = ""

    @property
    def answers_bound(self) -> int:
        return min(self.answers_max, self.turns_max) if self.turns_max else self.answers_max

    @property
    def first_seat(self) -> int | None:
        """Whose call comes first: the attacker's, which has the first seat, or the target's."""
        return 0 if self.kind == "crescendo" else None

    @property
    def attacker_tokens_max(self) -> int:
        return attacker.OUTPUT_TOKENS_MAX


def read_strategy(facts: Mapping[str, Any] | None) -> Strategy:
    """A frozen strategy; see freezing. Raises TechniqueError."""
    if facts is None:
        return Strategy()
    limits = facts["limits"]
    kind = facts["kind"]
    if kind == "script":
        messages = tuple(facts["messages"])
        return Strategy(kind, len(messages) + 1, "script_over", messages, **limits)
    if kind == "crescendo":
        return Strategy(
            kind,
            facts["turns_max"],
            "turns_max",
            backtracks_max=facts["backtracks_max"],
            **limits,
        )
    steps = [Step(step["technique"], step["params"]) for step in facts["variation"]]
    return Strategy(
        kind, facts["tries_max"], "tries_over", variation=compile_chain(steps), **limits
    )
