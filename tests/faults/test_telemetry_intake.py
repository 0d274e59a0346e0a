"""Telemetry under load while its parts die: whatever was acknowledged is stored, exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from chimera.embedded.stack import Stack
from chimera.settings import Settings
from chimera.v1.telemetry_pb2 import EventBatch, TelemetryEvent
from tests.integration.telemetry.buffer import ask
from tests.integration.telemetry.sending import in_columns, in_rows, record, some_events, within
from tests.support.processes import eventually
from tests.support.workers import Worker
from tests.support.world import Organisation, Person, Refused, World


@pytest.fixture
def settings(settings: Settings, clickhouse_url: str) -> Settings:
    return settings.model_copy(update={"clickhouse_url": type(settings.redis_url)(clickhouse_url)})


class Workers:
    """Worker processes, one after the other."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder, self.started = settings, folder, 0
        self.now: Worker | None = None

    def start(self, **more: Any) -> Worker:
        self.started += 1
        log = self.folder / f"worker-{self.started}.log"
        self.now = Worker(self.settings, log, {"telemetry_flush_s": 0.1} | more)
        return self.now

    def has_begun(self) -> bool:
        return "worker.started" in (self.folder / f"worker-{self.started}.log").read_text()


@pytest.fixture
async def workers(settings: Settings, tmp_path: Path) -> AsyncIterator[Workers]:
    found = Workers(settings, tmp_path)
    try:
        yield found
    finally:
        if found.now is not None:
            await found.now.kill()
        for log in sorted(tmp_path.glob("worker-*.log")):
            print(f"--- {log.name}\n{log.read_text()[-4000:]}")  # shown when the test fails


class Load:
    """Senders that repeat a batch until it is acknowledged, in both forms; in rows, one of 21 is bad."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.acknowledged: list[EventBatch] = []
        self.tries = 0
        self.enough = asyncio.Event()

    async def send(self, lane: int) -> None:
        number = 0
        while not self.enough.is_set():
            number += 1
            events = some_events(20, lane * 10_000 + number, user_id=self.person.user_id)
            if lane % 2:
                batch = in_rows([*events, TelemetryEvent()], producer=f"lane-{lane}")
            else:
                batch = in_columns(events, producer=f"lane-{lane}")
            while True:
                self.tries += 1
                try:
                    receipt = await record(self.person, batch)
                except Refused as refused:
                    assert refused.code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED",
                                            "ABORTED", "CANCELLED"), refused  # fmt: skip
                    await asyncio.sleep(0.05)
                    continue
                assert (receipt.accepted, receipt.dead_lettered) == (20, lane % 2)
                break
            self.acknowledged.append(batch)

    async def more(self, batches: int) -> None:
        """Until so many more are acknowledged."""
        wanted = len(self.acknowledged) + batches
        await eventually(lambda: len(self.acknowledged) >= wanted, seconds=60)


async def books_balance(load: Load, acme: Organisation, url: str) -> None:
    """Everything is drained; accepted = stored + dead, stored = the store's rows = the roll-ups."""

    async def drained() -> bool:
        status = await acme.admin.telemetry.GetIngestStatus()
        return not status.waiting

    await eventually(drained, seconds=60)
    sent = 20 * len(load.acknowledged)
    bad = sum(len(batch.rows.events) > 20 for batch in load.acknowledged)
    status = await acme.admin.telemetry.GetIngestStatus()
    assert (status.accepted, status.stored, status.dead_lettered) == (sent + bad, sent, bad)
    assert ask(
        url, "SELECT count(), uniqExact(event_id), uniqExact(batch_id) FROM workload_events"
    ) == [(sent, sent, len(load.acknowledged))]
    rolled = (
        "SELECT sum(events), sum(errors), sum(latency_ms_sum), sum(cost), sum(fingerprint) FROM "
    )
    counted = ask(
        url,
        "SELECT count(), countIf(dimensions['error_kind'] != ''), sum(latency_ms), sum(cost),"
        " sum(cityHash64(event_id)) FROM workload_events",
    )
    for table in (
        "events_minute",
        "events_hourly",
        "events_daily",
        "event_slices_hourly WHERE dimension = 'user_id'",
        "event_slices_daily WHERE dimension = 'event_category'",
        "event_slices_daily WHERE dimension = 'model,technique'",
        "event_totals_daily",
        "event_slice_totals_daily WHERE dimension = 'model,technique'",
    ):
        assert ask(url, rolled + table) == counted
    points = ask(
        url, "SELECT sum(length(metrics.name)), sum(arraySum(metrics.value)) FROM workload_events"
    )
    for table in (
        "metrics_minute",
        "metrics_hourly",
        "metrics_daily",
        "metric_slices_hourly WHERE dimension = 'model'",
        "metric_slices_daily WHERE dimension = 'event_category,provider'",
        "metric_totals_daily",
        "metric_slice_totals_daily WHERE dimension = 'model'",
    ):
        ((number, total),) = ask(url, f"SELECT sum(points), sum(value_sum) FROM {table}")  # noqa: S608
        assert (number, total) == (points[0][0], pytest.approx(points[0][1]))
    series = await acme.admin.telemetry.QuerySeries(**within())
    assert sum(point.events for point in series.points) == sent


async def test_acknowledged_events_outlive_everything_that_dies(
    world: World, workers: Workers, running_stack: Stack, clickhouse_url: str
) -> None:
    """Under load: the worker is killed again and again, the column store is killed and stays away,
    Redis is flushed, PostgreSQL is killed. At the end the books balance."""
    import redis

    acme = await world.organisation("acme")
    load = Load(acme.admin)
    lanes = [asyncio.create_task(load.send(lane)) for lane in range(4)]
    try:
        for _ in range(3):
            worker = workers.start()
            await eventually(lambda: stored(acme), seconds=60)
            await load.more(5)
            await worker.kill()
            await load.more(3)
        workers.start()
        # One that finds no PostgreSQL while it starts ends, and is somebody else's to start again.
        await eventually(workers.has_begun, seconds=60)
        await asyncio.to_thread(running_stack.kill, "clickhouse")
        redis.Redis.from_url(running_stack.urls.redis_url).flushall()
        await load.more(20)
        await asyncio.to_thread(running_stack.kill, "postgres")
        await asyncio.to_thread(running_stack.restart, "postgres")
        await load.more(20)
        await asyncio.to_thread(running_stack.restart, "clickhouse")
        await load.more(10)
    finally:
        load.enough.set()
        results = await asyncio.gather(*lanes, return_exceptions=True)
    assert not [error for error in results if error]
    await books_balance(load, acme, clickhouse_url)


async def stored(acme: Organisation) -> bool:
    status = await acme.admin.telemetry.GetIngestStatus()
    return bool(status.stored)


async def test_a_lost_acknowledgement_is_asked_for_again(
    world: World, workers: Workers, clickhouse_url: str
) -> None:
    """The sender gives up at random moments and sends the same batch until it has an answer."""
    acme = await world.organisation("acme")
    workers.start()
    load = Load(acme.admin)
    for number in range(30):
        batch = (in_rows if number % 2 else in_columns)(
            some_events(20, number), str(uuid4()), "lossy"
        )
        for timeout_ms in (1, 3, 6, 10, 30_000):
            try:
                answer = await acme.admin.telemetry.RecordEvents(
                    batch=batch, timeout_s=timeout_ms / 1000
                )
            except Refused as refused:
                assert refused.code in ("DEADLINE_EXCEEDED", "ABORTED", "CANCELLED"), refused
            else:
                assert answer.receipt.accepted == 20
                break
        load.acknowledged.append(batch)
    await books_balance(load, acme, clickhouse_url)
