"""What is read from the headers in which providers tell of their limits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from multidict import CIMultiDict

from chimera.providers.adapters.limits import HEARD, Told, hear


def heard(headers: dict[str, str]) -> Told | None:
    told: list[Told] = []
    token = HEARD.set(told)
    try:
        hear(CIMultiDict(headers))
    finally:
        HEARD.reset(token)
    return told[0] if told else None


def openai(limit: str, remaining: str, reset: str, what: str = "requests") -> dict[str, str]:
    return {
        f"X-RateLimit-Limit-{what}": limit,
        f"X-RateLimit-Remaining-{what}": remaining,
        f"X-RateLimit-Reset-{what}": reset,
    }


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        (openai("60", "30", "1s"), Told(60, 0, 0.5, 0)),
        (openai("60", "0", "20ms"), Told(60, 0, 0, 0.02)),
        (openai("60", "0", "6m0s"), Told(60, 0, 0, 60)),
        (openai("60", "60", "0s") | openai("1000", "0", "1m3.5s", "tokens"), Told(60, 1000, 0, 60)),
        (openai("60", "0", "soon"), Told(60, 0, 0, 0)),
        (openai("many", "-1", ""), Told(0, 0, 1, 0)),
        ({"Retry-After": "3"}, None),
    ],
)
def test_openai(headers: dict[str, str], told: Told | None) -> None:
    assert heard(headers) == told


def test_anthropic() -> None:
    reset = (datetime.now(UTC) + timedelta(seconds=10)).isoformat().replace("+00:00", "Z")
    told = heard(
        {
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-tokens-limit": "1000",
            "anthropic-ratelimit-tokens-remaining": "0",
            "anthropic-ratelimit-tokens-reset": reset,
        }
    )
    assert told is not None
    assert (told.requests_per_minute, told.tokens_per_minute, told.left) == (50, 1000, 0)
    assert 8 < told.exhausted_s <= 10


def test_nobody_listens() -> None:
    """Outside a call that asked for it nothing is kept."""
    assert HEARD.get() is None
    hear(openai("60", "30", "1s"))
