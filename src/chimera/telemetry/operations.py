"""Accepting events, and reading them back. The caller's organisation is a condition of every query
to the column store, which has no row-level security: `_scoped` is the only way to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

from chimera import metrics
from chimera.call import NOBODY, Call
from chimera.clickhouse import ClickHouse
from chimera.db import Nothing, Tx, sql
from chimera.faults import Invalid
from chimera.ids import new_id
from chimera.rows import decimal_text
from chimera.telemetry.events import Event, freeze
from chimera.v1.telemetry_pb2 import (
    ExecutionPoint,
    GetExecutionSeriesRequest,
    GetIngestStatusResponse,
    ListEventsRequest,
    TelemetryEvent,
)

POINTS_MAX = 10_000
PAGE_DEFAULT = 50
# The newest events are nearly always of the last hour, which is little to read.
LOOK_BACK_S = (3600, 86_400, 10 * 365 * 86_400)

# Connections differ in their slot, so that transactions at the same time rarely queue for a row.
# Slot 0 is the drain's.
ACCEPT = sql(
    Nothing,
    """
    WITH batch AS (
        INSERT INTO telemetry.batches (batch_id, org_id, producer, body, events)
        VALUES (%(batch_id)s, %(org_id)s, %(producer)s, %(body)s, %(events)s)
    )
    INSERT INTO telemetry.totals (org_id, slot, accepted)
    VALUES (%(org_id)s, 1 + pg_backend_pid() %% 16, %(events)s)
    ON CONFLICT (org_id, slot) DO UPDATE SET accepted = totals.accepted + EXCLUDED.accepted
    """,
)

GET_INGEST_STATUS = sql(
    GetIngestStatusResponse,
    """
    SELECT t.accepted, t.stored, t.dead_lettered, w.waiting, w.oldest_waiting_at
      FROM (SELECT COALESCE(sum(accepted), 0)::bigint AS accepted,
                   COALESCE(sum(stored), 0)::bigint AS stored,
                   COALESCE(sum(dead), 0)::bigint AS dead_lettered
              FROM telemetry.totals WHERE org_id = %(org_id)s) t,
           (SELECT COALESCE(sum(events), 0)::bigint AS waiting, min(created_at) AS oldest_waiting_at
              FROM telemetry.batches WHERE org_id = %(org_id)s AND state = 'waiting') w
    """,
)

# now() is older than the snapshot: what was committed before it is seen here.
COMPLETE_TO = sql(
    datetime,
    """
    SELECT LEAST(now(), min(created_at))
      FROM telemetry.batches WHERE org_id = %(org_id)s AND state = 'waiting'
    """,
)


async def accept(tx: Tx, producer: str, org_id: str, events: Sequence[Event]) -> None:
    """Takes a batch of events: once the caller's transaction commits they are never lost.

    One statement; call it late, for it locks a row of counters until COMMIT.
    """
    if not events:
        return
    count = len(events)
    await tx.run(
        ACCEPT,
        batch_id=new_id(),
        org_id=org_id,
        producer=producer,
        body=freeze(events),
        events=count,
    )
    tx.after_commit.append(lambda: metrics.TELEMETRY_EVENTS.labels("accepted").inc(count))


async def get_ingest_status(tx: Tx) -> GetIngestStatusResponse:
    status = await tx.one(GET_INGEST_STATUS, org_id=tx.call.caller.org_id)
    return status or GetIngestStatusResponse()


async def complete_to(tx: Tx) -> datetime:
    """Everything accepted before this moment is in the column store already."""
    return await tx.one(COMPLETE_TO, org_id=tx.call.caller.org_id) or datetime.now(UTC)


class Scoped:
    """A query to the column store within one organisation; it must name %(org_id)s."""

    def __init__(self, text: LiteralString) -> None:
        if "WHERE org_id = %(org_id)s AND" not in text:
            raise ValueError("a query to the column store must begin its WHERE with org_id")
        self.text = text

    async def rows(
        self, clickhouse: ClickHouse, call: Call, rows_max: int, **params: Any
    ) -> list[tuple[Any, ...]]:
        org_id = str(UUID(call.caller.org_id))
        return await clickhouse.query(
            self.text, {**params, "org_id": org_id}, deadline=call.deadline, rows_max=rows_max
        )


LIST_EVENTS = Scoped(
    """
    SELECT event_id, toUnixTimestamp64Milli(timestamp), event_type, event_category, campaign_id,
           user_id, workload_id, correlation_id, metrics.name, metrics.value, dimensions,
           latency_ms, cost
      FROM workload_events
     WHERE org_id = %(org_id)s AND timestamp >= toDateTime(%(since_s)s, 'UTC')
       AND (%(event_type)s = '' OR event_type = %(event_type)s)
       AND (%(workload_id)s = '' OR workload_id = %(workload_id)s)
     ORDER BY timestamp DESC, event_id DESC LIMIT %(size)s
    """
)

EXECUTION_SERIES = Scoped(
    """
    SELECT toUnixTimestamp(hour), workload_id, sum(executions), sum(scored) AS answers,
           sum(successes), if(answers = 0, 0, sum(latency_ms_sum) / answers),
           if(answers = 0, 0, min(latency_ms_min)), max(latency_ms_max),
           if(answers = 0, 0, quantilesTDigestMerge(0.5, 0.95, 0.99)(latency_ms_q)[2]), sum(cost)
      FROM executions_hourly
     WHERE org_id = %(org_id)s AND hour >= toStartOfHour(toDateTime(%(from_s)s, 'UTC'))
       AND hour < toDateTime(%(to_s)s, 'UTC')
       AND (%(workload_id)s = '' OR workload_id = %(workload_id)s)
     GROUP BY hour, workload_id ORDER BY hour, workload_id LIMIT %(points)s
    """
)


async def list_events(
    clickhouse: ClickHouse, call: Call, request: ListEventsRequest
) -> list[TelemetryEvent]:
    """The newest events first, at most page_size (0: 50)."""
    size = request.page_size or PAGE_DEFAULT
    now_s = int(datetime.now(UTC).timestamp())
    rows: list[tuple[Any, ...]] = []
    for back_s in LOOK_BACK_S:
        rows = await LIST_EVENTS.rows(
            clickhouse,
            call,
            size,
            since_s=now_s - back_s,
            event_type=request.event_type,
            workload_id=request.workload_id,
            size=size,
        )
        if len(rows) == size:
            break
    return [_event(*row) for row in rows]


def _event(
    event_id: UUID,
    timestamp_ms: int,
    event_type: str,
    event_category: str,
    campaign_id: UUID,
    user_id: UUID,
    workload_id: str,
    correlation_id: str,
    names: list[str],
    values: list[float],
    dimensions: dict[str, str],
    latency_ms: int,
    cost: Any,
) -> TelemetryEvent:
    event = TelemetryEvent(
        event_id=str(event_id),
        event_type=event_type,
        event_category=event_category,
        campaign_id=_id(campaign_id),
        user_id=_id(user_id),
        workload_id=workload_id,
        correlation_id=correlation_id,
        metrics=dict(zip(names, values, strict=True)),
        dimensions=dimensions,
        latency_ms=latency_ms,
        cost_usd=decimal_text(cost),
    )
    event.timestamp.FromMilliseconds(timestamp_ms)
    return event


def _id(value: UUID) -> str:
    text = str(value)
    return "" if text == NOBODY else text


async def get_execution_series(
    clickhouse: ClickHouse, call: Call, request: GetExecutionSeriesRequest
) -> list[ExecutionPoint]:
    """Points of the hours that touch [from, to), by hour and run. Latency is of scored answers.

    Raises Invalid when `from` is not before `to`, or the answer would have over POINTS_MAX points.
    """
    # `from` is a word of Python.
    from_s, to_s = getattr(request, "from").ToSeconds(), request.to.ToSeconds()
    to_s += bool(request.to.nanos)
    if not 0 <= from_s < to_s <= 0xFFFF_FFFF:
        raise Invalid("FIELD_INVALID", "`from` must be before `to`, both between 1970 and 2106.")
    rows = await EXECUTION_SERIES.rows(
        clickhouse,
        call,
        POINTS_MAX + 1,
        from_s=from_s,
        to_s=to_s,
        workload_id=request.workload_id,
        points=POINTS_MAX + 1,
    )
    if len(rows) > POINTS_MAX:
        raise Invalid(
            "FIELD_INVALID", f"More than {POINTS_MAX} points; ask for less time or for one run."
        )
    return [_point(*row) for row in rows]


def _point(
    hour_s: int,
    workload_id: str,
    executions: int,
    scored: int,
    successes: int,
    average: float,
    least: int,
    most: int,
    p95: float,
    cost: Any,
) -> ExecutionPoint:
    point = ExecutionPoint(
        workload_id=workload_id,
        executions=executions,
        scored=scored,
        successes=successes,
        latency_ms_avg=average,
        latency_ms_min=least,
        latency_ms_max=most,
        latency_ms_p95=p95,
        cost_usd=decimal_text(cost),
    )
    point.hour.FromSeconds(hour_s)
    return point
