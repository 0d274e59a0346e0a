"""When a lane shrinks, waits, and gives its target up."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from chimera.campaigns.engine import lanes
from chimera.campaigns.engine.lanes import LOOK_AGAIN_S, Lane, retry_delay_s
from chimera.campaigns.engine.pace import Pace
from chimera.providers.adapters import ProviderError
from chimera.providers.circuits import FAILURES_TO_OPEN, Stand


class Clock:
    """The lanes' monotonic clock."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lanes, "time", clock)
    return clock


@pytest.fixture
def lane(clock: Clock) -> Lane:
    """Ten places, no rate limit; its pace keeps to itself, for nobody listens on the port."""
    from redis.asyncio import Redis

    model: Any = SimpleNamespace(model_id="m")
    return Lane(model, None, Pace(Redis(port=1), "credential", 0, 0), window_max=10)


SERVER_ERROR = ProviderError("server_error", "500", retryable=True, may_have_cost=True)


async def test_a_spent_quota_gives_up(lane: Lane) -> None:
    """429 that will not pass: there is no use in waiting."""
    spent = ProviderError("rate_limited", "429 (insufficient_quota)", http_status=429)
    for _ in range(3):
        assert not lane.given_up
        await lane.failed(spent)
    assert lane.given_up == "rate_limited"
    assert lane.places() == 0


async def test_a_rate_limit_shrinks_once_a_burst_and_grows_back(lane: Lane, clock: Clock) -> None:
    """Ten refusals at once are one signal; success makes room again, up to the limit."""
    limited = ProviderError("rate_limited", "429", http_status=429, retryable=True)
    for _ in range(10):
        await lane.failed(limited)
    assert (lane.places(), lane.given_up) == (7, "")
    clock.now += 1
    await lane.failed(limited)
    assert lane.places() == 4
    for _ in range(8 * 20):
        lane.succeeded()
    assert lane.places() == 10


def stand(
    state: str = "closed", *, forced: str = "", wait_s: float = 0, down_s: float = 0
) -> Stand:
    return Stand(0, state, forced, "server_error", wait_s, down_s, 0, 0)


async def test_ten_failures_in_a_row_shut_the_lane(lane: Lane, clock: Clock) -> None:
    """At once and with news for the others; nothing but a probe goes out until the circuit closes."""
    for number in range(FAILURES_TO_OPEN):
        assert lane.places() == 10, number
        await lane.failed(SERVER_ERROR)
    assert lane.is_shut and lane.has_news
    assert lane.places() == 0
    assert lane.blocked_until > clock.now
    signs = lane.take_signs()
    assert signs is not None
    assert (signs.failures, signs.in_a_row, signs.is_alive) == (10, 10, False)
    lane.obey(stand("open", wait_s=2))
    assert lane.blocked_until == clock.now + 2
    lane.obey(stand("closed"))
    assert lane.places() == 7  # it has just come back
    for _ in range(FAILURES_TO_OPEN - 1):
        await lane.failed(SERVER_ERROR)
    assert not lane.is_shut


async def test_an_answer_between_keeps_the_lane_open(lane: Lane) -> None:
    for _ in range(5 * FAILURES_TO_OPEN):
        await lane.failed(SERVER_ERROR)
        lane.succeeded()
    assert not lane.is_shut


async def test_patience_ends_but_not_with_people(lane: Lane, clock: Clock) -> None:
    """Nothing has come back for longer than a run waits; a circuit that people hold is waited for."""
    lane.obey(stand("open", down_s=lane.patience_s + 1))
    assert not lane.given_up, "nobody has waited here"
    clock.now += LOOK_AGAIN_S
    lane.obey(stand("open", down_s=lane.patience_s - 1))
    assert not lane.given_up
    lane.obey(stand("closed", forced="open"))
    assert (lane.given_up, lane.blocked_until) == ("", math.inf)
    lane.obey(stand("open", down_s=lane.patience_s + 1))
    assert lane.given_up == "server_error"


async def test_a_circuit_held_closed_lets_everything_pass(lane: Lane) -> None:
    lane.obey(stand("open", forced="closed", down_s=10_000))
    assert (lane.places(), lane.given_up) == (10, "")


async def test_the_requests_own_fault_is_not_the_targets(lane: Lane) -> None:
    """Any number of refused requests leaves the lane as it is."""
    for _ in range(100):
        await lane.failed(ProviderError("bad_request", "400", http_status=400))
    assert (lane.places(), lane.given_up) == (10, "")


def test_backoff_obeys_the_provider_and_is_bounded() -> None:
    asked = ProviderError("rate_limited", "429", retryable=True, retry_after_s=30.0)
    assert retry_delay_s(1, asked) == 30.0
    assert all(0 <= retry_delay_s(errors, SERVER_ERROR) <= 20 for errors in range(1, 40))
