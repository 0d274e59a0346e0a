"""What is known about a session or key is never older than two seconds."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from chimera.identity import authentication
from chimera.identity.authentication import Recent
from chimera.identity.endings import Changes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A monotonic clock that stands still until it is set."""
    stopped = SimpleNamespace(now=100.0)
    stopped.monotonic = lambda: stopped.now
    monkeypatch.setattr(authentication, "time", stopped)
    return stopped


async def test_a_state_is_read_anew_after_two_seconds(clock: SimpleNamespace) -> None:
    """Up to then it is remembered; its age counts from when the read began."""
    reads = []

    async def read(key: str) -> int:
        reads.append(key)
        clock.now += 0.5  # the read takes its time
        return len(reads)

    recent = Recent(read)
    assert [await recent.get("a"), await recent.get("a")] == [1, 1]
    clock.now = 101.9
    assert await recent.get("a") == 1
    clock.now = 102.0
    assert await recent.get("a") == 2


async def test_callers_that_miss_together_share_one_read(clock: SimpleNamespace) -> None:
    """And the one who gives up does not take it from the others."""
    reads = 0
    answer = asyncio.Event()

    async def read(key: str) -> str:
        nonlocal reads
        reads += 1
        await answer.wait()
        return key

    recent = Recent(read)
    callers = [asyncio.create_task(recent.get("a")) for _ in range(10)]
    await asyncio.sleep(0)
    callers[0].cancel()
    await asyncio.sleep(0)
    answer.set()
    assert await asyncio.gather(*callers[1:]) == ["a"] * 9
    assert reads == 1


async def test_a_read_that_failed_is_not_remembered(clock: SimpleNamespace) -> None:
    """The database was away for a moment."""
    answers = iter([OSError("away"), "here"])

    async def read(_key: str) -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    recent = Recent(read)
    with pytest.raises(OSError, match="away"):
        await recent.get("a")
    assert await recent.get("a") == "here"


async def test_the_memory_is_bounded(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made-up ids push each other out."""
    monkeypatch.setattr(authentication, "CACHE_MAX", 5)

    async def read(key: str) -> str:
        return key

    recent = Recent(read)
    for number in range(50):
        await recent.get(str(number))
    assert len(recent._reads) == 5


def test_endings_are_kept_as_long_as_caches_may_err(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then forgotten, oldest first."""
    from chimera.identity import endings

    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(endings, "time", clock)
    changes = Changes()
    changes.note_end("a")
    clock.now = 59.0
    changes.note_end("b")
    assert changes.has_ended("a") and changes.has_ended("b")
    clock.now = 61.0
    changes.note_end("c")
    assert not changes.has_ended("a") and changes.has_ended("b")
    assert changes.count == 0, "an end costs nobody else a read"
