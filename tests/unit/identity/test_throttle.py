"""How the wait after wrong passwords grows, and whom it meets."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from chimera.identity import throttle
from chimera.identity.throttle import Throttle, delay_s, key_of


def test_the_wait_doubles_up_to_a_quarter_of_an_hour() -> None:
    """Four free, then 1, 2, 4, 8, 16; locked from the tenth on."""
    assert [delay_s(n) for n in range(1, 13)] == [0] * 4 + [1, 2, 4, 8, 16] + [900] * 3


def test_a_host_is_one_source_whatever_address_it_picks() -> None:
    """IPv6 counts by its /64; IPv4 and names are told apart."""
    assert key_of("olivia", "2001:db8::1") == key_of("olivia", "2001:db8::ffff:2")
    assert key_of("olivia", "2001:db8::1") != key_of("olivia", "2001:db8:0:1::1")
    assert key_of("olivia", "192.0.2.1") != key_of("olivia", "192.0.2.2")
    assert key_of("olivia", "192.0.2.1") != key_of("oliver", "192.0.2.1")
    assert key_of("olivia", "") != key_of("oliver", "")


async def test_without_redis_the_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens on port 1; the table is bounded and success empties it."""
    redis = Redis.from_url("redis://127.0.0.1:1/0")
    local = Throttle(redis)
    monkeypatch.setattr(throttle, "LOCAL_MAX", 3)
    assert [await local.failed("a") for _ in range(5)] == [1, 2, 3, 4, 5]
    assert 0 < await local.wait_s("a") <= 1
    assert await local.wait_s("b") == 0
    await local.succeeded("a")
    assert await local.wait_s("a") == 0
    for number in range(10):
        await local.failed(str(number))
    assert len(local._local) == 3
    await redis.aclose()
