"""Telemetry when processes die: each event once, in the source and in the roll-up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from chimera.clickhouse import ClickHouse
from chimera.core import Core
from chimera.embedded.stack import Stack
from chimera.faults import Unavailable
from chimera.ids import new_id
from chimera.settings import Settings
from chimera.telemetry.drain import drain
from tests.integration.telemetry.buffer import (
    Producer,
    open_worker,
    recount,
    rolled_up,
    run_sql,
    stored_events,
)
from tests.support.processes import eventually
from workers.loops import hold

# A worker that is killed right after the store has confirmed an insert, before it is marked.
KILLED_AFTER_INSERT = """
import asyncio, os, signal, sys
from chimera.clickhouse import ClickHouse
from chimera.core import open_core
from chimera.settings import Settings
from chimera.telemetry.drain import drain

class Fatal(ClickHouse):
    async def insert(self, *args):
        await super().insert(*args)
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    settings = Settings()
    async with open_core(settings, "worker") as core:
        await drain(core, Fatal(settings.clickhouse_url.get_secret_value()))

asyncio.run(main())
"""


@pytest.fixture
async def worker(settings: Settings, clickhouse_url: str) -> AsyncIterator[tuple[Core, ClickHouse]]:
    async with open_worker(settings, clickhouse_url) as opened:
        yield opened


async def test_a_worker_killed_between_insert_and_mark_doubles_nothing(
    worker: tuple[Core, ClickHouse], settings: Settings, clickhouse_url: str
) -> None:
    """The group, which falls into two partitions of the store, is sent again as it was, even though
    new batches came meanwhile."""
    core, clickhouse = worker
    producer = Producer(core)
    for days_ago in (0, 40, 0, 40, 0):
        await producer.flush(16, days_ago=days_ago)
    environment = {
        **os.environ,
        "CHIMERA_DATABASE_URL": settings.database_url.get_secret_value(),
        "CHIMERA_REDIS_URL": settings.redis_url.get_secret_value(),
        "CHIMERA_CLICKHOUSE_URL": clickhouse_url,
        "CHIMERA_HOME": str(settings.home),
    }
    died = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", KILLED_AFTER_INSERT], env=environment, check=False
    )
    assert died.returncode == -signal.SIGKILL
    assert stored_events(clickhouse_url) == (80, 80)
    assert (await producer.status()).waiting == 80
    await producer.flush(16)

    assert await drain(core, clickhouse) == 96

    assert stored_events(clickhouse_url) == (96, 96)
    assert rolled_up(clickhouse_url) == recount([producer])
    status = await producer.status()
    assert (status.accepted, status.stored, status.waiting) == (96, 96, 0)


async def test_events_outlive_a_column_store_that_is_killed(
    worker: tuple[Core, ClickHouse], running_stack: Stack, clickhouse_url: str
) -> None:
    """Killed in the middle of draining and away for a while: accepted = stored + waiting at every
    moment, and after its return everything is there once."""
    core, clickhouse = worker
    producer = Producer(core)
    await producer.flush(64)
    assert await drain(core, clickhouse) == 64
    for _ in range(20):
        await producer.flush(64)
    under_way = asyncio.create_task(drain(core, clickhouse))
    await asyncio.sleep(0)
    await asyncio.to_thread(running_stack.kill, "clickhouse")
    try:
        (caught,) = await asyncio.gather(under_way, return_exceptions=True)
        assert isinstance(caught, Unavailable | int)
        for _ in range(3):
            await producer.flush(64)
            status = await producer.status()
            assert status.accepted == status.stored + status.waiting
            assert status.waiting >= 64
            with pytest.raises(Unavailable):
                await drain(core, clickhouse)
    finally:
        await asyncio.to_thread(running_stack.restart, "clickhouse")

    while await drain(core, clickhouse):
        pass
    assert stored_events(clickhouse_url) == (24 * 64,) * 2
    assert rolled_up(clickhouse_url) == recount([producer])
    status = await producer.status()
    assert (status.accepted, status.stored, status.waiting) == (24 * 64, 24 * 64, 0)


async def test_two_drains_at_once_store_each_event_once(
    worker: tuple[Core, ClickHouse], settings: Settings, clickhouse_url: str
) -> None:
    """A worker that lost its lease without noticing drains beside its successor."""
    core, clickhouse = worker
    producer = Producer(core)
    async with open_worker(settings, clickhouse_url) as (other, other_clickhouse):
        for _ in range(4):
            for _ in range(4):
                await producer.flush(16)
            await asyncio.gather(drain(core, clickhouse), drain(other, other_clickhouse))
    while await drain(core, clickhouse):
        pass
    assert stored_events(clickhouse_url) == (256, 256)
    assert rolled_up(clickhouse_url) == recount([producer])
    status = await producer.status()
    assert (status.accepted, status.stored, status.waiting) == (256, 256, 0)


async def test_a_lease_is_kept_while_its_holder_is_at_work(
    worker: tuple[Core, ClickHouse], database_url: str
) -> None:
    """A body that takes longer than the lease stays alone; one whose lease is lost is cancelled."""
    core, _ = worker
    stopping, is_over = asyncio.Event(), asyncio.Event()
    inside: list[str] = []
    cancelled: list[str] = []

    def lease() -> tuple[str, float]:
        query = "SELECT owner, extract(epoch FROM lease_until) FROM ops.leases WHERE name = 'long'"
        ((owner, until),) = run_sql(database_url, query)
        return owner, float(until)

    async def body_of(owner: str) -> bool:
        assert not inside
        inside.append(owner)
        try:
            await is_over.wait()
        except asyncio.CancelledError:
            cancelled.append(owner)
            raise
        finally:
            inside.remove(owner)
        return False

    holders = [
        asyncio.create_task(
            hold(
                core.db,
                "long",
                owner,
                0.05,
                stopping,
                lambda _fence, own=owner: body_of(own),
                lease_s=0.9,
            )
        )
        for owner in (new_id(), new_id())
    ]
    await eventually(lambda: len(inside) == 1)
    first, until = lease()
    assert inside == [first]
    await eventually(lambda: lease()[1] > until + 2)
    assert (lease()[0], inside, cancelled) == (first, [first], [])

    run_sql(
        database_url,
        "UPDATE ops.leases SET owner = %s, fence = fence + 1 WHERE name = 'long'",
        new_id(),
    )
    await eventually(lambda: cancelled == [first])
    is_over.set()
    stopping.set()
    await asyncio.gather(*holders)


async def test_a_cancelled_drain_is_continued(
    worker: tuple[Core, ClickHouse], clickhouse_url: str
) -> None:
    """Cancelled at several points of its way; the insert under way may or may not have counted."""
    core, clickhouse = worker
    producer = Producer(core)
    for turns in range(0, 60, 6):
        await producer.flush(16)
        task = asyncio.create_task(drain(core, clickhouse))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    while (await producer.status()).waiting:
        await drain(core, clickhouse)
    assert stored_events(clickhouse_url) == (160, 160)
    assert rolled_up(clickhouse_url) == recount([producer])
