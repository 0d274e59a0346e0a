"""What a query to the column store may see and take, below any RPC."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, LiteralString
from uuid import uuid4

import pytest

from chimera.call import Call
from chimera.clickhouse import ClickHouse
from chimera.embedded.stack import StackUrls
from chimera.faults import Exhausted, Fault, Unavailable
from chimera.settings import Settings
from chimera.telemetry import quotas
from chimera.telemetry.scope import Analytics, Scope

ACME, RIVAL = str(uuid4()), str(uuid4())


@pytest.fixture
async def store(stack: StackUrls) -> AsyncIterator[ClickHouse]:
    clickhouse = ClickHouse(stack.clickhouse_url)
    try:
        yield clickhouse
    finally:
        await clickhouse.close()


async def ask(analytics: Analytics, statement: LiteralString, org_id: str = ACME) -> list[Any]:
    call = Call.by_worker("test", org_id, seconds=30)
    return await analytics.rows(call, Scope(org_id), statement, {}, rows_max=10)


LIMITS: dict[str, tuple[dict[str, Any], LiteralString, str]] = {
    "rows read": (
        {"telemetry_query_rows_max": 1000},
        "SELECT sum(number) FROM numbers(1001)",
        "QUERY_TOO_LARGE",
    ),
    "rows answered": ({}, "SELECT number FROM numbers(11)", "QUERY_TOO_LARGE"),
    "memory": (
        {"telemetry_query_bytes_max": 20_000_000},
        "SELECT length(groupArray(number)) FROM numbers(10000000)",
        "QUERY_TOO_LARGE",
    ),
    "time": (
        {"telemetry_query_s": 0.2, "telemetry_query_rows_max": 10**15},
        "SELECT sum(sipHash64(number)) FROM system.numbers",
        "DEADLINE_TOO_SHORT",
    ),
}


@pytest.mark.parametrize("limit", LIMITS)
async def test_no_query_takes_more_than_its_limit(store: ClickHouse, limit: str) -> None:
    """The store ends it, the caller learns which limit, and the next query is answered."""
    changes, statement, reason = LIMITS[limit]
    analytics = Analytics(store, Settings(**changes))
    with pytest.raises(Fault) as refused:
        await ask(analytics, statement)
    assert refused.value.reason == reason
    assert await ask(analytics, "SELECT sum(number) FROM numbers(10)") == [(45,)]


async def test_an_organisation_has_so_many_seconds_a_minute(store: ClickHouse) -> None:
    """What is over is refused with the time to wait; others are not touched."""
    analytics = Analytics(store, Settings(telemetry_query_s_per_org_minute=0.001))
    assert await ask(analytics, "SELECT sum(sipHash64(number)) > 0 FROM numbers(3000000)")
    with pytest.raises(Exhausted) as refused:
        await ask(analytics, "SELECT 1")
    assert refused.value.reason == "QUERY_TIME_USED"
    assert (refused.value.retry_after_s or 0) > 1
    assert await ask(analytics, "SELECT 1", RIVAL) == [(1,)]


class Slow(ClickHouse):
    """A server that works on what it is asked until it is told to answer."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.begun, self.may_answer = threading.Event(), threading.Event()
        self.may_answer.set()

    def _with_client(self, work: Callable[[Any], Any]) -> Any:
        self.begun.set()
        self.may_answer.wait(30)
        return super()._with_client(work)


async def test_a_query_given_up_has_its_place_and_costs_until_it_ends(
    stack: StackUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or whoever asks and hangs up takes all there is of the store, for nothing."""
    monkeypatch.setattr(quotas, "WAITING_MAX", 1)
    slow = Slow(stack.clickhouse_url)
    analytics = Analytics(
        slow, Settings(telemetry_queries_per_org=1, telemetry_query_s_per_org_minute=0.001)
    )
    try:
        assert await ask(analytics, "SELECT 1", RIVAL) == [(1,)]
        slow.begun.clear()
        slow.may_answer.clear()
        running = asyncio.create_task(ask(analytics, "SELECT 1"))
        await asyncio.to_thread(slow.begun.wait, 30)
        for _ in range(3):  # who waits for a place and gives up leaves the queue
            waiting = asyncio.create_task(ask(analytics, "SELECT 1"))
            await asyncio.sleep(0)
            running.cancel()
            waiting.cancel()
            assert await asyncio.gather(running, waiting, return_exceptions=True)
            await asyncio.sleep(0)
        waiting = asyncio.create_task(ask(analytics, "SELECT 1"))
        await asyncio.sleep(0)
        with pytest.raises(Exhausted) as refused:
            await ask(analytics, "SELECT 1")
        assert refused.value.reason == "TOO_MANY_QUERIES"
        slow.may_answer.set()
        with pytest.raises(Exhausted) as refused:
            await waiting
        assert refused.value.reason == "QUERY_TIME_USED"
    finally:
        slow.may_answer.set()
        await slow.close()


class Old(ClickHouse):
    """A server that does not know the setting, and says nothing."""

    asked: LiteralString = ""

    async def query(self, statement: LiteralString, params: Any, **more: Any) -> list[Any]:
        self.asked = statement
        more["limits"] = {
            name: value
            for name, value in (more.get("limits") or {}).items()
            if name != "additional_table_filters"
        }
        return await super().query(statement, params, **more)


async def test_a_store_that_ignores_filters_is_not_read(stack: StackUrls) -> None:
    """Organisations are kept apart by the server; where it does not, nothing is asked."""
    old = Old(stack.clickhouse_url)
    try:
        with pytest.raises(Unavailable) as refused:
            await ask(Analytics(old, Settings()), "SELECT 'theirs'")
        assert refused.value.reason == "STORE_WITHOUT_FILTERS"
        assert "theirs" not in old.asked
    finally:
        await old.close()
