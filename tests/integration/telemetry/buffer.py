"""A buffer with producers: batches of recorded executions, and what both stores say about them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
from clickhouse_driver import Client

from chimera.call import Call
from chimera.clickhouse import ClickHouse
from chimera.core import Core, open_core
from chimera.settings import Settings
from chimera.telemetry.events import Event, Recorded, RunFacts, execution_events
from chimera.telemetry.operations import accept, get_ingest_status
from chimera.v1.telemetry_pb2 import GetIngestStatusResponse


@dataclass
class Producer:
    """One run of one organisation, and everything it had accepted."""

    core: Core
    org_id: str = field(default_factory=lambda: str(uuid4()))
    run: RunFacts = field(default_factory=lambda: RunFacts(*(str(uuid4()) for _ in range(4))))
    recorded: list[Recorded] = field(default_factory=list)

    async def flush(self, count: int = 8, *, days_ago: int = 0) -> None:
        """Records `count` more executions and has their events accepted as one batch."""
        new = some_executions(len(self.recorded), count, days_ago)
        await self.offer(execution_events(self.run, new))
        self.recorded += new

    async def offer(self, events: Sequence[Event]) -> None:
        async with self.core.db.begin(self.call()) as tx:
            await accept(tx, "engine", self.org_id, events)

    async def status(self) -> GetIngestStatusResponse:
        async with self.core.db.begin(self.call()) as tx:
            return await get_ingest_status(tx)

    def call(self) -> Call:
        return Call.by_worker("test", self.org_id)


def some_executions(first_cell: int, count: int, days_ago: int = 0) -> list[Recorded]:
    """Executions of all kinds over three hours; the same for the same cells."""
    chance = random.Random(first_cell)
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(
        days=days_ago, hours=2
    )
    found = []
    for cell_no in range(first_cell, first_cell + count):
        state = chance.choice(["succeeded", "succeeded", "succeeded", "failed", "skipped"])
        answered = state == "succeeded"
        found.append(
            Recorded(
                cell_no=cell_no,
                started_at=start + timedelta(seconds=chance.randrange(3 * 3600)),
                state=state,
                is_successful=chance.random() < 0.3 if answered else None,
                score=chance.random() if answered else None,
                technique="base64",
                provider="assistant",
                model="guard-1",
                error_kind="" if answered else "timeout",
                latency_ms=chance.randrange(1, 3000) if state != "skipped" else 0,
                input_tokens=120,
                output_tokens=60,
                cost_usd=Decimal(chance.randrange(10**6)).scaleb(-12),
            )
        )
    return found


@asynccontextmanager
async def open_worker(settings: Settings, clickhouse_url: str) -> AsyncIterator[tuple[Core, Any]]:
    """A worker's core and its column store."""
    async with open_core(settings, "worker") as core:
        clickhouse = ClickHouse(clickhouse_url)
        try:
            yield core, clickhouse
        finally:
            await clickhouse.close()


def recount(producers: Sequence[Producer]) -> list[tuple[Any, ...]]:
    """The roll-up as it must be, counted the plain way from what the producers recorded."""
    rows = []
    for producer in producers:
        hours: dict[datetime, list[Recorded]] = {}
        for one in producer.recorded:
            hour = one.started_at.replace(minute=0, second=0, microsecond=0, tzinfo=None)
            hours.setdefault(hour, []).append(one)
        for hour, found in hours.items():
            latencies = [one.latency_ms for one in found if one.state == "succeeded"]
            rows.append(
                (
                    producer.org_id,
                    producer.run.run_id,
                    hour,
                    len(found),
                    len(latencies),
                    sum(one.is_successful is True for one in found),
                    sum(latencies),
                    min(latencies, default=2**32 - 1),
                    max(latencies, default=0),
                    sum((one.cost_usd for one in found), Decimal(0)),
                )
            )
    return sorted(rows)


def rolled_up(clickhouse_url: str) -> list[tuple[Any, ...]]:
    """The roll-up as it is."""
    rows = ask(
        clickhouse_url,
        """
        SELECT toString(org_id), workload_id, hour, sum(executions), sum(scored), sum(successes),
               sum(latency_ms_sum), min(latency_ms_min), max(latency_ms_max), sum(cost)
          FROM executions_hourly GROUP BY org_id, workload_id, hour
        """,
    )
    return sorted(rows)


def stored_events(clickhouse_url: str) -> tuple[int, int]:
    """How many events the store has, and how many different ones."""
    found: tuple[int, int] = ask(
        clickhouse_url, "SELECT count(), uniqExact(event_id) FROM workload_events"
    )[0]
    return found


def ask(clickhouse_url: str, query: str) -> list[Any]:
    with Client.from_url(clickhouse_url) as client:
        rows: list[Any] = client.execute(query)
        return rows


def run_sql(database_url: str, statement: str, *params: Any) -> list[Any]:
    """As a superuser, past every policy."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), params)
        return cursor.fetchall() if cursor.description else []
