"""Senders over a real channel: batches in rows and columns, streams, and a naive recount of them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from chimera.v1 import telemetry_pb2_grpc
from chimera.v1.telemetry_pb2 import (
    BatchReceipt,
    EventBatch,
    EventColumns,
    EventRows,
    StreamEventsRequest,
    TelemetryEvent,
    TextColumn,
    UploadEventsRequest,
)
from tests.support.world import Person, Refused

TYPES, MODELS = ("llm.call", "tool.call", "template.rated"), ("guard-1", "guard-2", "")


def stamp(at: datetime) -> Timestamp:
    moment = Timestamp()
    moment.FromMilliseconds(round(at.timestamp() * 1000))
    return moment


def within(hours: float = 5.0) -> dict[str, Timestamp]:
    now = datetime.now(UTC)
    return {"from": stamp(now - timedelta(hours=hours)), "to": stamp(now + timedelta(minutes=1))}


def some_events(
    count: int, seed: int = 0, *, hours: int = 3, **fields: Any
) -> list[TelemetryEvent]:
    """Events of all kinds over some hours; the same for the same seed and hour."""
    chance = random.Random(seed)
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours)
    events = []
    for number in range(count):
        model = chance.choice(MODELS)
        event = TelemetryEvent(
            event_id=str(UUID(int=chance.getrandbits(128))),
            timestamp=stamp(start + timedelta(milliseconds=chance.randrange(hours * 3_600_000))),
            event_type=chance.choice(TYPES),
            event_category="test",
            workload_id=f"load-{chance.randrange(3)}",
            correlation_id=f"call-{number}",
            session_id=f"session-{chance.randrange(5)}",
            latency_ms=chance.choice([0, chance.randrange(1, 2000)]),
            cost_usd=f"0.{chance.randrange(10**9):012d}",
            payload=chance.choice(["", '{"a": "ü"}']),
            **fields,
        )
        if model:
            event.dimensions["model"] = model
            event.dimensions["provider"] = "assistant"
            event.dimensions["technique"] = ("plain", "base64")[number % 2]
            event.metrics["tokens"] = chance.randrange(1000) / (1, 1000)[number % 2]
            event.metric_units["tokens"] = "tokens"
        if chance.random() < 0.1:
            event.dimensions["error_kind"] = "timeout"
        events.append(event)
    return events


def in_rows(
    events: Iterable[TelemetryEvent], batch_id: str = "", producer: str = "test"
) -> EventBatch:
    return EventBatch(
        producer=producer, batch_id=batch_id or str(uuid4()), rows=EventRows(events=events)
    )


def coded(values: Sequence[str]) -> TextColumn:
    dictionary = sorted(set(values))
    return TextColumn(dictionary=dictionary, codes=[dictionary.index(value) for value in values])


def in_columns(
    events: Sequence[TelemetryEvent], batch_id: str = "", producer: str = "test"
) -> EventBatch:
    """The same events column by column; missing metrics are NaN, missing dimensions empty."""
    columns = EventColumns(
        count=len(events),
        event_ids=b"".join(UUID(event.event_id).bytes for event in events),
        timestamps_ms=[event.timestamp.ToMilliseconds() for event in events],
        event_types=coded([event.event_type for event in events]),
        event_categories=coded([event.event_category for event in events]),
        workload_ids=coded([event.workload_id for event in events]),
        campaign_ids=coded([event.campaign_id for event in events]),
        user_ids=coded([event.user_id for event in events]),
        session_ids=coded([event.session_id for event in events]),
        correlation_ids=coded([event.correlation_id for event in events]),
        payloads=[event.payload for event in events],
        latencies_ms=[event.latency_ms for event in events],
        costs_picousd=[int(event.cost_usd.partition(".")[2] or 0) for event in events],
    )
    for name in sorted({name for event in events for name in event.metrics}):
        values = [dict(event.metrics).get(name, float("nan")) for event in events]
        columns.metrics.add(name=name, unit="tokens", values=values)
    for name in sorted({name for event in events for name in event.dimensions}):
        values = [dict(event.dimensions).get(name, "") for event in events]
        columns.dimensions.add(name=name, values=coded(values))
    return EventBatch(producer=producer, batch_id=batch_id or str(uuid4()), columns=columns)


def combinations(count: int, metrics: int) -> EventBatch:
    """A small message that asks for many roll-ups: no two events have anything in common."""
    places = range(count)
    columns = EventColumns(
        count=count,
        event_types=TextColumn(dictionary=["x"]),
        event_categories=TextColumn(dictionary=[f"c{n}" for n in places], codes=places),
        workload_ids=TextColumn(dictionary=[str(uuid4()) for _ in places], codes=places),
    )
    for name in ("provider", "model", "technique"):
        texts = TextColumn(dictionary=[f"{name}{n}" for n in places], codes=places)
        columns.dimensions.add(name=name, values=texts)
    for number in range(metrics):
        columns.metrics.add(name=f"m{number}", values=[float(n) for n in places])
    return EventBatch(producer="test", batch_id=str(uuid4()), columns=columns)


async def record(person: Person, batch: EventBatch) -> BatchReceipt:
    answer = await person.telemetry.RecordEvents(batch=batch)
    receipt: BatchReceipt = answer.receipt
    return receipt


async def upload(person: Person, batches: Iterable[EventBatch]) -> list[BatchReceipt]:
    stub = telemetry_pb2_grpc.TelemetryServiceStub(person.channel)
    requests = [UploadEventsRequest(batch=batch) for batch in batches]
    try:
        answer = await stub.UploadEvents(iter(requests), metadata=person.metadata())
    except grpc.aio.AioRpcError as error:
        raise Refused(error) from None
    return list(answer.receipts)


async def stream(person: Person, batches: Iterable[EventBatch]) -> AsyncIterator[BatchReceipt]:
    stub = telemetry_pb2_grpc.TelemetryServiceStub(person.channel)
    requests = (StreamEventsRequest(batch=batch) for batch in batches)
    try:
        async for answer in stub.StreamEvents(requests, metadata=person.metadata()):
            yield answer.receipt
    except grpc.aio.AioRpcError as error:
        raise Refused(error) from None
