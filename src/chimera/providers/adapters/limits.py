"""What providers say about their limits in the headers of an answer.

OpenAI (and those that copy it): `x-ratelimit-limit-requests`, `-remaining-`, `-reset-`, the same for
tokens; resets as "1s", "6m0s", "20ms". Anthropic: `anthropic-ratelimit-requests-limit`,
`-remaining`, `-reset` as RFC 3339, the same for tokens. Limits are per minute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime

RESET_MAX_S = 60.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

# Whoever wants to know puts a list here around a call; the exchange adds what its answer said.
HEARD: ContextVar[list[Told] | None] = ContextVar("HEARD", default=None)


@dataclass(frozen=True, slots=True)
class Told:
    """Limits per minute, 0 when not told; left: the smaller part that is left, 0 to 1; exhausted_s:
    when something is left again of what is spent, 0 while nothing is."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    left: float = 1.0
    exhausted_s: float = 0.0


def hear(headers: Mapping[str, str]) -> None:
    """Notes what an answer's headers say, if anybody listens and they say anything."""
    heard = HEARD.get()
    if heard is None:
        return
    if "x-ratelimit-limit-requests" in headers or "x-ratelimit-limit-tokens" in headers:
        heard.append(_told(headers, "x-ratelimit-{0}-{1}"))
    elif "anthropic-ratelimit-requests-limit" in headers:
        heard.append(_told(headers, "anthropic-ratelimit-{1}-{0}"))


def _told(headers: Mapping[str, str], form: str) -> Told:
    limits = []
    left, exhausted_s = 1.0, 0.0
    for what in ("requests", "tokens"):
        limit = _whole(headers.get(form.format("limit", what), ""))
        remaining = _whole(headers.get(form.format("remaining", what), ""))
        limits.append(limit or 0)
        if limit and remaining is not None:
            left = min(left, remaining / limit)
            if remaining == 0:
                exhausted_s = max(
                    exhausted_s, _reset_s(headers.get(form.format("reset", what), ""))
                )
    return Told(limits[0], limits[1], left, min(exhausted_s, RESET_MAX_S))


def _whole(value: str) -> int | None:
    return int(value) if value.isdecimal() and len(value) < 10 else None


def _reset_s(value: str) -> float:
    """Seconds until a reset, by a duration or a moment; 0 for what cannot be read."""
    parts = _DURATION.findall(value)
    if parts and "".join(number + unit for number, unit in parts) == value:
        return sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        return 0.0
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
