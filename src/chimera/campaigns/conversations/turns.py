"""Turns: what the calls of a conversation brought, and what follows them: the next call or the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from chimera.campaigns.evidence.digest import transcript_hash
from chimera.providers.adapters import Message
from chimera.rows import decimal_text

TARGET, ATTACKER, JUDGE = "target", "attacker", "judge"


@dataclass(frozen=True, slots=True)
class Turn:
    """A recorded call, as it is stored: secret values are masked in all texts.

    message: what an attacker wants said, None when its reply could not be read. marks: of a target's
    answer that a judge looks at, what the other scorers said by place. is_successful: of other
    answers, and of a judge's reply that could be read. error_kind: why an answer could not be scored.
    """

    turn_no: int
    purpose: str
    model_no: int
    attempt_no: int
    request: str
    reply: str
    cost: Decimal
    started_at: datetime
    reply_truncated: bool = False
    finish_reason: str = ""
    message: str | None = None
    marks: Mapping[str, Any] | None = None
    is_successful: bool | None = None
    success_score: float | None = None
    verdict_reason: str = ""
    error_kind: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    latency_ms: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """The next call. seat: place in the plan's seats, None for the cell's own target. request: what
    is kept of it, its last message masked."""

    turn_no: int
    purpose: str
    seat: int | None
    messages: tuple[Message, ...]
    request: str
    output_tokens_max: int
    seed: int


@dataclass(frozen=True, slots=True)
class End:
    """The verdict on a conversation. turn_no: of the answer it is about."""

    state: str
    ended_by: str
    reason: str
    turn_no: int | None = None
    is_successful: bool | None = None
    score: float | None = None
    error_kind: str = ""


def turn_facts(turn: Turn) -> dict[str, Any]:
    """A turn as the transcript's hash pins it."""
    return {
        "turn_no": turn.turn_no,
        "purpose": turn.purpose,
        "model_no": turn.model_no,
        "attempt_no": turn.attempt_no,
        "request": turn.request,
        "reply": turn.reply,
        "is_successful": turn.is_successful,
        "input_tokens": turn.input_tokens,
        "output_tokens": turn.output_tokens,
        "cost": decimal_text(turn.cost),
    }


def transcript_of(turns: Sequence[Turn]) -> str:
    return transcript_hash([turn_facts(turn) for turn in turns])
