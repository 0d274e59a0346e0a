"""Token buckets, admission by class, and places for streams."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera import limits
from chimera.call import ANONYMOUS, Call, Caller
from chimera.faults import Exhausted
from chimera.limits import Buckets, CallLimits
from chimera.settings import Settings
from chimera.v1.options_pb2 import Access, RateClass


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(limits.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def caller(name: str) -> Caller:
    return Caller("user", org_id="o", user_id=name)


def call(rate: int, who: Caller = ANONYMOUS, address: str = "192.0.2.1") -> Call:
    return Call(who, "/m", time.monotonic() + 5, Access(rate=rate), ip_address=address)


def made(**changes: Any) -> CallLimits:
    return CallLimits(Settings.model_validate(changes), None)


def test_a_bucket_gives_its_burst_and_then_its_rate(clock: Clock) -> None:
    """And says how long to wait; waiting that long is enough, and asking early costs nothing."""
    bucket = Buckets(2.0, 3)
    assert [bucket.wait_s("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.wait_s("a") == 0.5 and bucket.wait_s("b") == 0
    clock.now += 0.25
    assert bucket.wait_s("a") == 0.25
    clock.now += 0.25
    assert bucket.wait_s("a") == 0 and bucket.wait_s("a") == 0.5
    clock.now += 3600
    assert [bucket.wait_s("a") == 0 for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.floats(0, 2), min_size=1, max_size=60))
def test_no_rhythm_gets_more_than_burst_and_rate(pauses: list[float]) -> None:
    now, passed = 0.0, 0
    bucket = Buckets(5.0, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits.time, "monotonic", lambda: now)
        for pause in pauses:
            now += pause
            passed += bucket.wait_s("a") == 0
    assert passed <= 4 + 5.0 * now + 1e-6


def test_strangers_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BUCKETS_MAX", 10)
    bucket = Buckets(1.0, 1)
    for number in range(100):
        bucket.wait_s(f"stranger {number}")
    assert len(bucket._levels) == 10
    assert bucket.wait_s("stranger 99") > 0, "the newest are remembered"


async def test_callers_have_a_bucket_for_each_class(clock: Clock) -> None:
    """A busy reader can still write, and his neighbour can still read."""
    given = made(reads_per_minute=6, writes_per_minute=6)
    await given.admit(call(RateClass.RATE_CLASS_READ, caller("olivia")))
    with pytest.raises(Exhausted) as caught:
        await given.admit(call(RateClass.RATE_CLASS_READ, caller("olivia")))
    assert (caught.value.reason, caught.value.retry_after_s) == ("RATE_LIMITED", 10.0)
    assert caught.value.facts == {"subject": "caller"}
    await given.admit(call(RateClass.RATE_CLASS_WRITE, caller("olivia")))
    await given.admit(call(RateClass.RATE_CLASS_READ, caller("oscar")))
    clock.now += 10
    await given.admit(call(RateClass.RATE_CLASS_READ, caller("olivia")))


async def test_an_organisation_has_a_bucket_for_all_its_callers(clock: Clock) -> None:
    """Keys and people together; another organisation is not touched, nor is another class, and who
    is over his own limit takes nothing from his colleagues."""
    given = made(reads_per_minute=12, reads_per_org_minute=18)
    read = RateClass.RATE_CLASS_READ

    async def subject(who: Caller) -> str:
        try:
            await given.admit(call(read, who))
        except Exhausted as refused:
            assert refused.retry_after_s and refused.retry_after_s > 0
            return refused.facts["subject"]
        return ""

    olivia, oscar = caller("olivia"), caller("oscar")
    assert [await subject(olivia) for _ in range(4)] == ["", "", "caller", "caller"]
    assert [await subject(oscar) for _ in range(2)] == ["", "organisation"]
    assert await subject(Caller("api_key", org_id="o", user_id="p", api_key_id="k")) != ""
    assert await subject(Caller("user", org_id="elsewhere", user_id="x")) == ""
    await given.admit(call(RateClass.RATE_CLASS_WRITE, olivia))


def test_every_class_has_its_limits() -> None:
    """A class more in the proto needs a setting more here."""
    given = made()
    classes = set(RateClass.values()) - {RateClass.RATE_CLASS_UNSPECIFIED}
    assert set(given.by_class) == classes
    assert set(given.by_org) == classes - {RateClass.RATE_CLASS_AUTH}


async def test_logins_are_counted_by_address(clock: Clock) -> None:
    """Whoever they claim to be; without Redis in this process."""
    given = made(logins_per_minute=6)
    await given.admit(call(RateClass.RATE_CLASS_AUTH))
    with pytest.raises(Exhausted) as caught:
        await given.admit(call(RateClass.RATE_CLASS_AUTH, caller("olivia")))
    assert caught.value.facts == {"subject": "address"}
    await given.admit(call(RateClass.RATE_CLASS_AUTH, address="192.0.2.2"))


def test_places_for_streams_are_given_back() -> None:
    """Of a caller and of the whole process, on every way out."""
    given = made(watchers_per_caller_max=2, watchers_max=3)
    olivia, oscar = caller("olivia"), caller("oscar")
    with given.watching(olivia), given.watching(olivia):
        with pytest.raises(Exhausted) as caught, given.watching(olivia):
            pass
        assert caught.value.reason == "TOO_MANY_WATCHERS"
        with (
            given.watching(oscar),
            pytest.raises(Exhausted),
            given.watching(caller("one too many")),
        ):
            pass
        with pytest.raises(RuntimeError), given.watching(oscar):
            raise RuntimeError("the stream broke")
        with given.watching(oscar):
            pass
    assert given.watches == {}
