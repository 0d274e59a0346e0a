"""When a lane shrinks, waits, and gives its target up."""

from __future__ import annotations

from typing import Any

import pytest

from chimera.campaigns.engine import lanes
from chimera.campaigns.engine.lanes import Lane, retry_delay_s
from chimera.campaigns.engine.pace import Pace
from chimera.providers.adapters import ProviderError


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

    target: Any = None
    return Lane(target, None, Pace(Redis(port=1), "credential", 0, 0), window_max=10)


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


async def test_a_dead_target_is_probed_and_given_up(lane: Lane, clock: Clock) -> None:
    """Ten failures in a row close the lane for a while; then one call at a time, and the third
    failed probe is the last."""
    for _ in range(10):
        await lane.failed(SERVER_ERROR)
    waits = []
    while not lane.given_up:
        assert lane.places() == 0
        waits.append(lane.open_until - clock.now)
        clock.now = lane.open_until
        assert lane.places() == 1
        await lane.failed(SERVER_ERROR)
    assert waits == [0.5, 2.0, 8.0]
    assert lane.given_up == "server_error"


async def test_one_success_closes_the_circuit(lane: Lane, clock: Clock) -> None:
    """And failures start to be counted anew."""
    for _ in range(10):
        await lane.failed(SERVER_ERROR)
    clock.now = lane.open_until
    lane.succeeded()
    assert lane.places() == 10
    for _ in range(9):
        await lane.failed(SERVER_ERROR)
    assert lane.places() == 10


async def test_the_requests_own_fault_is_not_the_targets(lane: Lane) -> None:
    """Any number of refused requests leaves the lane as it is."""
    for _ in range(100):
        await lane.failed(ProviderError("bad_request", "400", http_status=400))
    assert (lane.places(), lane.given_up) == (10, "")


def test_backoff_obeys_the_provider_and_is_bounded() -> None:
    asked = ProviderError("rate_limited", "429", retryable=True, retry_after_s=30.0)
    assert retry_delay_s(1, asked) == 30.0
    assert all(0 <= retry_delay_s(errors, SERVER_ERROR) <= 20 for errors in range(1, 40))
