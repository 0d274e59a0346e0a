"""SELECT statements of the analytics, put together from closed sets of fragments.

Nothing of a request becomes part of a statement: requests choose fragments, values are parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple

from chimera.v1.telemetry_pb2 import EventFilter, TelemetryDimension, TelemetryOrder, TelemetryStep

Dim = TelemetryDimension

# Dimensions: (field of EventFilter, column of the roll-ups, expression over events).
DIMENSIONS: dict[int, tuple[LiteralString, LiteralString, LiteralString]] = {
    Dim.TELEMETRY_DIMENSION_EVENT_TYPE: ("event_types", "event_type", "event_type"),
    Dim.TELEMETRY_DIMENSION_EVENT_CATEGORY: (
        "event_categories",
        "event_category",
        "event_category",
    ),
    Dim.TELEMETRY_DIMENSION_CAMPAIGN: ("campaign_ids", "campaign_id", "campaign_id"),
    Dim.TELEMETRY_DIMENSION_USER: ("user_ids", "user_id", "user_id"),
    Dim.TELEMETRY_DIMENSION_WORKLOAD: ("workload_ids", "workload_id", "workload_id"),
    Dim.TELEMETRY_DIMENSION_PROVIDER: ("providers", "provider", "dimensions['provider']"),
    Dim.TELEMETRY_DIMENSION_MODEL: ("models", "model", "dimensions['model']"),
    Dim.TELEMETRY_DIMENSION_TECHNIQUE: ("techniques", "technique", "dimensions['technique']"),
}


class Step(NamedTuple):
    """A width of time: its roll-ups, and how an event's time is cut to it."""

    seconds: int
    events: LiteralString
    metrics: LiteralString
    cut: LiteralString


STEPS: dict[int, Step] = {
    TelemetryStep.TELEMETRY_STEP_MINUTE: Step(
        60, "events_minute", "metrics_minute", "toStartOfMinute(toDateTime(timestamp, 'UTC'))"
    ),
    TelemetryStep.TELEMETRY_STEP_HOUR: Step(
        3600, "events_hourly", "metrics_hourly", "toStartOfHour(toDateTime(timestamp, 'UTC'))"
    ),
    TelemetryStep.TELEMETRY_STEP_DAY: Step(
        86_400, "events_daily", "metrics_daily", "toStartOfDay(toDateTime(timestamp, 'UTC'))"
    ),
}

# What is counted, always in this order: events, errors, cost, values: count, sum, min, max, percentiles.
EVENTS_ROLLED: LiteralString = (
    "sum(events), sum(errors), sum(cost), sum(timed), toFloat64(sum(latency_ms_sum)),"
    " toFloat64(min(latency_ms_min)), toFloat64(max(latency_ms_max))"
)
EVENTS_EXACT: LiteralString = (
    "count(), countIf(dimensions['error_kind'] != ''), sum(toDecimal128(cost, 12)),"
    " countIf(latency_ms > 0), toFloat64(sum(latency_ms)),"
    " toFloat64(minIf(latency_ms, latency_ms > 0)), toFloat64(max(latency_ms))"
)
METRIC_ROLLED: LiteralString = (
    "sum(points), toUInt64(0), toDecimal128(0, 12), sum(points), sum(value_sum), min(value_min),"
    " max(value_max)"
)
METRIC_EXACT: LiteralString = (
    "count(), toUInt64(0), toDecimal128(0, 12), count(), sum(value), min(value), max(value)"
)
# The last of them, by (of a metric, exact).
PERCENTILES: dict[tuple[bool, bool], LiteralString] = {
    (False, False): "quantilesTDigestMerge(0.5, 0.9, 0.95, 0.99)(latency_ms_q)",
    (False, True): "quantilesExactIf(0.5, 0.9, 0.95, 0.99)(latency_ms, latency_ms > 0)",
    (True, False): "quantilesTDigestMerge(0.5, 0.9, 0.95, 0.99)(value_q)",
    (True, True): "quantilesExact(0.5, 0.9, 0.95, 0.99)(value)",
}
NO_PERCENTILES: LiteralString = "emptyArrayFloat64()"
# By places in those lists.
Order = TelemetryOrder
ORDERS: dict[int, LiteralString] = {
    Order.TELEMETRY_ORDER_EVENTS: "n.1",
    Order.TELEMETRY_ORDER_ERRORS: "n.2",
    Order.TELEMETRY_ORDER_ERROR_RATE: "n.2 / n.1",
    Order.TELEMETRY_ORDER_COST: "n.3",
    Order.TELEMETRY_ORDER_AVERAGE: "if(n.4 = 0, 0, n.5 / n.4)",
    Order.TELEMETRY_ORDER_P95: "if(n.4 = 0, 0, n.8[3])",
}


class Question(NamedTuple):
    """What is asked of which source. `step` is that of the roll-up; of a series also of the answer."""

    step: Step
    group_by: Sequence[int]
    filter: EventFilter
    metric: str
    is_exact: bool
    with_percentiles: bool


def series(question: Question) -> LiteralString:
    """Rows (start in seconds, group, numbers) by time and group."""
    cut = question.step.cut if question.is_exact else "bucket"
    return (
        f"SELECT toUnixTimestamp({cut}) AS at, {_groups(question)} AS g, tuple({_numbers(question)})"  # noqa: S608 - closed sets
        f" FROM {_source(question)} WHERE {_conditions(question)}"
        " GROUP BY at, g ORDER BY at, g LIMIT %(rows)s"
    )


def top(question: Question, order: int) -> LiteralString:
    """Rows (0, group, numbers), the greatest first."""
    by = ORDERS[order or TelemetryOrder.TELEMETRY_ORDER_EVENTS]
    return (
        f"SELECT 0, {_groups(question)} AS g, tuple({_numbers(question)}) AS n"  # noqa: S608 - closed sets
        f" FROM {_source(question)} WHERE {_conditions(question)}"
        f" GROUP BY g ORDER BY {by} DESC, g LIMIT %(rows)s"
    )


def conditions(filter: EventFilter, *, is_exact: bool) -> LiteralString:
    """The filter's own conditions, each led by AND."""
    text: LiteralString = ""
    for field, column, expression in DIMENSIONS.values():
        if getattr(filter, field):
            text += f" AND {expression if is_exact else column} IN %({field})s"
    return text


def values(filter: EventFilter) -> dict[str, Any]:
    """What those conditions name."""
    return {
        field: tuple(getattr(filter, field))
        for field, _, _ in DIMENSIONS.values()
        if getattr(filter, field)
    }


def _groups(question: Question) -> LiteralString:
    texts: list[LiteralString] = []
    for number in question.group_by:
        _, column, expression = DIMENSIONS[number]
        texts.append(f"toString({expression if question.is_exact else column})")
    return "[" + ", ".join(texts) + "]" if texts else "emptyArrayString()"


def _numbers(question: Question) -> LiteralString:
    if question.metric:
        numbers = METRIC_EXACT if question.is_exact else METRIC_ROLLED
    else:
        numbers = EVENTS_EXACT if question.is_exact else EVENTS_ROLLED
    percentiles = NO_PERCENTILES
    if question.with_percentiles:
        percentiles = PERCENTILES[bool(question.metric), question.is_exact]
    return f"{numbers}, {percentiles}"


def _source(question: Question) -> LiteralString:
    if not question.is_exact:
        return question.step.metrics if question.metric else question.step.events
    if question.metric:
        return "workload_events ARRAY JOIN metrics.name AS metric, metrics.value AS value"
    return "workload_events"


def _conditions(question: Question) -> LiteralString:
    time: LiteralString = (
        "timestamp >= fromUnixTimestamp64Milli(%(from_ms)s, 'UTC')"
        " AND timestamp < fromUnixTimestamp64Milli(%(to_ms)s, 'UTC')"
        if question.is_exact
        else "bucket >= toDateTime(intDiv(%(from_ms)s, 1000), 'UTC')"
        " AND bucket < toDateTime(intDiv(%(to_ms)s, 1000), 'UTC')"
    )
    metric: LiteralString = " AND metric = %(metric)s" if question.metric else ""
    chosen = conditions(question.filter, is_exact=question.is_exact)
    return f"org_id = %(org_id)s AND {time}{metric}{chosen}"
