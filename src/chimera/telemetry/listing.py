"""Single events from the store, newest first, page by page; and the hourly series of executions."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

from chimera.call import NOBODY, Call
from chimera.faults import Invalid
from chimera.paging import Pages, rows_that_fit
from chimera.pools import Database
from chimera.rows import decimal_text
from chimera.telemetry import statements
from chimera.telemetry.freshness import reading
from chimera.telemetry.queries import POINTS_MAX, SECONDS_MAX
from chimera.telemetry.scope import Analytics, scope_of
from chimera.v1.telemetry_pb2 import (
    EventFilter,
    ExecutionPoint,
    GetExecutionSeriesRequest,
    GetExecutionSeriesResponse,
    ListEventsRequest,
    ListEventsResponse,
    TelemetryEvent,
)

# The newest events are nearly always of the last hour, which is little to read.
LOOK_BACK_MS = (3_600_000, 86_400_000, 10 * 86_400_000, 10 * 365 * 86_400_000)
AHEAD_MS = 86_400_000  # of whoever told the time of an event
LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"

EVENTS: LiteralString = """
    SELECT event_id, toUnixTimestamp64Milli(timestamp) AS at, event_type, event_category, campaign_id,
           user_id, workload_id, correlation_id, metrics.name, metrics.value, metrics.unit,
           dimensions, latency_ms, cost, session_id, payload
      FROM workload_events
     WHERE org_id = %(org_id)s AND timestamp >= fromUnixTimestamp64Milli(%(from_ms)s, 'UTC')
       AND timestamp <= fromUnixTimestamp64Milli(%(to_ms)s, 'UTC')
       AND (timestamp, event_id) < (fromUnixTimestamp64Milli(%(to_ms)s, 'UTC'), toUUID(%(before)s))
       AND (%(event_type)s = '' OR event_type = %(event_type)s)
       AND (%(workload_id)s = '' OR workload_id = %(workload_id)s)
       AND (%(correlation_id)s = '' OR correlation_id = %(correlation_id)s)
       AND (%(session_id)s = '' OR session_id = %(session_id)s)
"""
NEWEST_FIRST: LiteralString = " ORDER BY timestamp DESC, event_id DESC LIMIT %(size)s"

EXECUTION_SERIES: LiteralString = """
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


async def list_events(
    db: Database, analytics: Analytics, pages: Pages, call: Call, request: ListEventsRequest
) -> ListEventsResponse:
    """The newest first. Raises NotFound(CAMPAIGN_NOT_VISIBLE), Invalid(QUERY_TOO_LARGE)."""
    scope = await scope_of(db, call, request.filter)
    size, position = pages.page(request)
    # `from` is a word of Python.
    from_ms = getattr(request, "from").ToMilliseconds()
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    to_ms, before = now_ms + AHEAD_MS, LAST_ID
    if request.HasField("to"):
        # The end itself is not in the range.
        to_ms, before = min(to_ms, request.to.ToMilliseconds()), NOBODY
    if position is not None:
        to_ms, before = position
    chosen = statements.conditions(request.filter)

    async def fetch(after: tuple[int, str], limit: int) -> list[TelemetryEvent]:
        to_ms, before = after
        rows: list[tuple[Any, ...]] = []
        for back_ms in LOOK_BACK_MS:
            since_ms = min(now_ms, to_ms) - back_ms
            rows = await analytics.rows(
                call,
                scope,
                EVENTS + chosen + NEWEST_FIRST,
                {
                    **statements.values(request.filter),
                    "from_ms": max(from_ms, since_ms, 0),
                    "to_ms": max(0, to_ms),
                    "before": before,
                    "event_type": request.event_type,
                    "workload_id": request.workload_id,
                    "correlation_id": request.correlation_id,
                    "session_id": request.session_id,
                    "size": limit,
                },
                rows_max=limit,
            )
            if len(rows) >= limit or from_ms >= since_ms:
                break
        return [event_message(*row) for row in rows]

    async with reading(db, analytics, call) as freshness:
        events, has_more = await rows_that_fit(fetch, (to_ms, before), size, _position)
    answer = ListEventsResponse(events=events, freshness=freshness)
    if has_more:
        answer.next_page_token = pages.next_token_at(request, _position(events[-1]))
    return answer


def _position(event: TelemetryEvent) -> tuple[int, str]:
    return event.timestamp.ToMilliseconds(), event.event_id


def event_message(
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
    units: list[str],
    dimensions: dict[str, str],
    latency_ms: int,
    cost: Decimal,
    session_id: str,
    payload: str,
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
        latency_ms=min(latency_ms, 2**31 - 1),
        cost_usd=decimal_text(cost),
        session_id=session_id,
        payload=payload,
        metric_units={name: unit for name, unit in zip(names, units, strict=True) if unit},
    )
    event.timestamp.FromMilliseconds(timestamp_ms)
    return event


def _id(value: UUID) -> str:
    text = str(value)
    return "" if text == NOBODY else text


async def get_execution_series(
    db: Database, analytics: Analytics, call: Call, request: GetExecutionSeriesRequest
) -> GetExecutionSeriesResponse:
    """Points of the hours that touch [from, to), by hour and run. Latency is of scored answers.

    Raises Invalid when `from` is not before `to`, or the answer would have over POINTS_MAX points.
    """
    # `from` is a word of Python.
    from_s = getattr(request, "from").ToMilliseconds() // 1000
    to_s = -(-request.to.ToMilliseconds() // 1000)
    if not 0 <= from_s < to_s <= SECONDS_MAX:
        raise Invalid("FIELD_INVALID", "`from` must be before `to`, both between 1970 and 2106.")
    scope = await scope_of(db, call, EventFilter())
    async with reading(db, analytics, call) as freshness:
        rows = await analytics.rows(
            call,
            scope,
            EXECUTION_SERIES,
            {
                "from_s": from_s,
                "to_s": to_s,
                "workload_id": request.workload_id,
                "points": POINTS_MAX + 1,
            },
            rows_max=POINTS_MAX + 1,
        )
    if len(rows) > POINTS_MAX:
        raise Invalid(
            "FIELD_INVALID", f"More than {POINTS_MAX} points; ask for less time or for one run."
        )
    return GetExecutionSeriesResponse(
        points=[_point(*row) for row in rows],
        complete_to=freshness.complete_to,
        freshness=freshness,
    )


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
    cost: Decimal,
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
