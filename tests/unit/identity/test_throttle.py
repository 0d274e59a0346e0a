"""How the wait after wrong passwords grows, and whom it meets."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from chimera.faults import Exhausted
from chimera.identity import throttle
from chimera.identity.throttle import Subject, Throttle, delay_s, on_device, stranger


def test_the_wait_doubles_up_to_hours() -> None:
    """Four free, then 1, 2, 4, 8, 16; from the tenth on a quarter of an hour, growing."""
    assert [delay_s(n) for n in range(1, 10)] == [0] * 4 + [1, 2, 4, 8, 16]
    assert [delay_s(n) for n in (10, 11, 12, 40)] == [900, 1800, 3600, 14400]


def test_a_host_is_one_source_whatever_address_it_picks() -> None:
    """IPv6 counts by its /64; IPv4 and names are told apart."""
    assert stranger("olivia", "2001:db8::1").key == stranger("olivia", "2001:db8::ffff:2").key
    assert stranger("olivia", "2001:db8::1").key != stranger("olivia", "2001:db8:0:1::1").key
    assert stranger("olivia", "192.0.2.1").key != stranger("olivia", "192.0.2.2").key
    assert stranger("olivia", "192.0.2.1").key != stranger("oliver", "192.0.2.1").key
    assert stranger("olivia", "").key != stranger("oliver", "").key
    assert on_device("olivia", b"1").key != stranger("olivia", "").key


@pytest.fixture
async def alone() -> AsyncIterator[Throttle]:
    """Nothing listens on port 1: this process counts by itself."""
    redis = Redis.from_url("redis://127.0.0.1:1/0")
    yield Throttle(redis)
    await redis.aclose()


async def fail(at: Throttle, subject: Subject) -> int:
    async with at.attempt(subject) as attempt:
        return await attempt.failed()


async def test_without_redis_the_process_counts(
    alone: Throttle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After five failures a wait, which success would end; the table is bounded."""
    monkeypatch.setattr(throttle, "LOCAL_MAX", 6)
    olivia = stranger("olivia", "192.0.2.1")
    for _ in range(5):
        assert await fail(alone, olivia) == 0
    with pytest.raises(Exhausted) as refused:
        await fail(alone, olivia)
    assert refused.value.reason == "RATE_LIMITED"
    assert 0 < (refused.value.retry_after_s or 0) <= 1.1
    await fail(alone, stranger("olivia", "192.0.2.2"))  # elsewhere
    await alone.forgive(["olivia"])
    await fail(alone, olivia)
    for number in range(10):
        await fail(alone, stranger(str(number), "192.0.2.1"))
    assert len(alone._local.counts) <= 6


async def test_success_forgets(alone: Throttle) -> None:
    """Four failures and a success, and four more are free."""
    olivia = stranger("olivia", "192.0.2.1")
    for _ in range(4):
        await fail(alone, olivia)
    async with alone.attempt(olivia) as attempt:
        await attempt.succeeded()
    for _ in range(4):
        await fail(alone, olivia)
    assert not alone._local.under_way and not alone._queues


async def test_guesses_from_everywhere_lock_strangers_out(alone: Throttle) -> None:
    """Thirty addresses, one guess each: the next stranger waits, a known device does not."""
    locked = [await fail(alone, stranger("olivia", f"192.0.2.{n}")) for n in range(30)]
    assert locked == [0] * 29 + [900]
    with pytest.raises(Exhausted):
        await fail(alone, stranger("olivia", "198.51.100.1"))
    async with alone.attempt(on_device("olivia", b"hers")) as attempt:
        await attempt.succeeded()
    with pytest.raises(Exhausted):
        await fail(alone, stranger("olivia", "198.51.100.1"))
