"""SELECT statements of the analytics, put together from closed sets of fragments.

Nothing of a request becomes part of a statement: requests choose fragments, values are parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple

from chimera.v1.telemetry_pb2 import EventFilter, TelemetryDimension, TelemetryOrder, TelemetryStep

Dim = TelemetryDimension

# Dimensions: (field of EventFilter, column of the events and roll-ups).
DIMENSIONS: dict[int, tuple[LiteralString, LiteralString]] = {
    Dim.TELEMETRY_DIMENSION_EVENT_TYPE: ("event_types", "event_type"),
    Dim.TELEMETRY_DIMENSION_EVENT_CATEGORY: ("event_categories", "event_category"),
    Dim.TELEMETRY_DIMENSION_CAMPAIGN: ("campaign_ids", "campaign_id"),
    Dim.TELEMETRY_DIMENSION_USER: ("user_ids", "user_id"),
    Dim.TELEMETRY_DIMENSION_WORKLOAD: ("workload_ids", "workload_id"),
    Dim.TELEMETRY_DIMENSION_PROVIDER: ("providers", "provider"),
    Dim.TELEMETRY_DIMENSION_MODEL: ("models", "model"),
    Dim.TELEMETRY_DIMENSION_TECHNIQUE: ("techniques", "technique"),
}


class Rolled(NamedTuple):
    """The roll-ups of one width: by all dimensions at once, and by one or two at a time ("": there are
    none)."""

    whole: LiteralString
    slices: LiteralString


class Step(NamedTuple):
    """A width of time: its roll-ups, and how an event's time is cut to it. Totals are the same roll-ups
    with all types of events together."""

    seconds: int
    events: Rolled
    metrics: Rolled
    cut: LiteralString
    event_totals: Rolled | None = None
    metric_totals: Rolled | None = None


STEPS: dict[int, Step] = {
    TelemetryStep.TELEMETRY_STEP_MINUTE: Step(
        60,
        Rolled("events_minute", ""),
        Rolled("metrics_minute", ""),
        "toStartOfMinute(toDateTime(timestamp, 'UTC'))",
    ),
    TelemetryStep.TELEMETRY_STEP_HOUR: Step(
        3600,
        Rolled("events_hourly", "event_slices_hourly"),
        Rolled("metrics_hourly", "metric_slices_hourly"),
        "toStartOfHour(toDateTime(timestamp, 'UTC'))",
    ),
    TelemetryStep.TELEMETRY_STEP_DAY: Step(
        86_400,
        Rolled("events_daily", "event_slices_daily"),
        Rolled("metrics_daily", "metric_slices_daily"),
        "toStartOfDay(toDateTime(timestamp, 'UTC'))",
        Rolled("event_totals_daily", "event_slice_totals_daily"),
        Rolled("metric_totals_daily", "metric_slice_totals_daily"),
    ),
}
IDS = ("campaign_id", "user_id")
# A column of every roll-up but totals, of slices too; the dimension whose slices are summed up for all
# together; and the one that is in no slice by two.
IN_SLICES = TelemetryDimension.TELEMETRY_DIMENSION_EVENT_TYPE
FEWEST = TelemetryDimension.TELEMETRY_DIMENSION_EVENT_CATEGORY
ALONE = TelemetryDimension.TELEMETRY_DIMENSION_WORKLOAD
# Columns of slices with the values of their dimensions.
IN_SLICE: tuple[LiteralString, ...] = ("slice", "other")

# What is counted, under names that are no column's. Those of all values of a latency or metric are left
# alone by groups that have none.
EVENTS_ROLLED: LiteralString = (
    "sum(events) AS n_events, sum(errors) AS n_errors, sum(cost) AS n_cost, sum(timed) AS n_values,"
    " toFloat64(sum(latency_ms_sum)) AS v_sum, toFloat64(min(latency_ms_min)) AS v_min,"
    " toFloat64(max(latency_ms_max)) AS v_max"
)
EVENTS_EXACT: LiteralString = (
    "count() AS n_events, countIf(error_kind != '') AS n_errors,"
    " sum(toDecimal128(cost, 12)) AS n_cost, countIf(latency_ms > 0) AS n_values,"
    " toFloat64(sum(latency_ms)) AS v_sum, toFloat64(minIf(latency_ms, latency_ms > 0)) AS v_min,"
    " toFloat64(max(latency_ms)) AS v_max"
)
METRIC_ROLLED: LiteralString = (
    "sum(points) AS n_events, 0 AS n_errors, 0 AS n_cost, n_events AS n_values,"
    " sum(value_sum) AS v_sum, min(value_min) AS v_min, max(value_max) AS v_max"
)
METRIC_EXACT: LiteralString = (
    "count() AS n_events, 0 AS n_errors, 0 AS n_cost, n_events AS n_values, sum(value) AS v_sum,"
    " min(value) AS v_min, max(value) AS v_max"
)
# By (of a metric, exact).
PERCENTILES: dict[tuple[bool, bool], LiteralString] = {
    (False, False): "quantilesDDMerge(0.02, 0.5, 0.9, 0.95, 0.99)(latency_ms_sketch)",
    (False, True): "quantilesExactIf(0.5, 0.9, 0.95, 0.99)(latency_ms, latency_ms > 0)",
    # As it is in the sketch, see migration 0005.
    (True, False): (
        "arrayMap(one -> one / 1e10, quantilesDDMerge(0.02, 0.5, 0.9, 0.95, 0.99)(value_sketch))"
    ),
    (True, True): "quantilesExact(0.5, 0.9, 0.95, 0.99)(value)",
}
# At most three are grouped by.
GROUPS: tuple[LiteralString, ...] = ("g1", "g2", "g3")
NO_PERCENTILES: LiteralString = "emptyArrayFloat64()"
# Within the extremes, for a sketch is off by a share of the value; none of no value.
WITHIN: LiteralString = (
    "if(isNaN(raw[1]), [], arrayMap(one -> least(greatest(one, v_min), v_max), raw)) AS p"
)
# Costs as texts and percentiles one by one (0 where there are none), which the driver reads many times
# faster than decimals and arrays.
ANSWERED: LiteralString = (
    "n_events, n_errors, toString(n_cost), n_values, v_sum, v_min, v_max, p[1], p[2], p[3], p[4]"
)
Order = TelemetryOrder
ORDERS: dict[int, LiteralString] = {
    Order.TELEMETRY_ORDER_EVENTS: "n_events",
    Order.TELEMETRY_ORDER_ERRORS: "n_errors",
    Order.TELEMETRY_ORDER_ERROR_RATE: "n_errors / n_events",
    Order.TELEMETRY_ORDER_COST: "n_cost",
    Order.TELEMETRY_ORDER_AVERAGE: "if(n_values = 0, 0, v_sum / n_values)",
    Order.TELEMETRY_ORDER_P95: "if(n_values = 0, 0, p[3])",
}


class Question(NamedTuple):
    """What is asked of which source. `step` is that of the roll-up; of a series also of the answer.

    may_slice: whether the caller may read slices, which do not say whose events are in them.
    """

    step: Step
    group_by: Sequence[int]
    filter: EventFilter
    metric: str
    is_exact: bool
    with_percentiles: bool
    may_slice: bool

    @property
    def rolled(self) -> Rolled:
        step = self.step
        of_all_types = step.metric_totals if self.metric else step.event_totals
        if of_all_types and IN_SLICES not in self.group_by and not self.filter.event_types:
            return of_all_types
        return step.metrics if self.metric else step.events

    @property
    def merges_sketches(self) -> bool:
        return self.with_percentiles and not self.is_exact

    @property
    def sliced_by(self) -> tuple[int, ...]:
        """The dimensions of the slices that answer this, in their order; none: no slices do, for each is
        by one or two (and the event type)."""
        if self.is_exact or not self.may_slice or not self.rolled.slices:
            return ()
        used = tuple(
            number
            for number, (field, _) in DIMENSIONS.items()
            if number != IN_SLICES and (number in self.group_by or getattr(self.filter, field))
        )
        if len(used) > 2 or (len(used) == 2 and ALONE in used):
            return ()
        return used or (FEWEST,)

    @property
    def slice(self) -> LiteralString:
        """What those slices have in `dimension`; "": no slices answer this."""
        return ",".join([DIMENSIONS[number][1] for number in self.sliced_by])

    def column(self, number: int) -> LiteralString:
        """Where the source has a dimension."""
        if number in self.sliced_by:
            return IN_SLICE[self.sliced_by.index(number)]
        return DIMENSIONS[number][1]


def series(question: Question) -> LiteralString:
    """Rows (start in seconds, what is answered, the values grouped by) by time and group."""
    cut = question.step.cut if question.is_exact else "bucket"
    names = _names(question)
    return (
        f"SELECT at, {ANSWERED}{names} FROM ("  # noqa: S608 - closed sets
        f"SELECT toUnixTimestamp({cut}) AS at, {_numbers(question)}{_texts(question)}"
        f" FROM {_source(question)} WHERE {_conditions(question)} GROUP BY at{_keys(question)}"
        f") ORDER BY at{names} LIMIT %(rows)s"
    )


def top(question: Question, order: int) -> LiteralString:
    """Rows (0, what is answered, the values grouped by), the greatest first."""
    by = ORDERS[order or TelemetryOrder.TELEMETRY_ORDER_EVENTS]
    names = _names(question)
    return (
        f"SELECT 0, {ANSWERED}{names} FROM ("  # noqa: S608 - closed sets
        f"SELECT emptyArrayString() AS g0, {_numbers(question)}{_texts(question)}"
        f" FROM {_source(question)} WHERE {_conditions(question)} GROUP BY g0{_keys(question)}"
        f") ORDER BY {by} DESC{names} LIMIT %(rows)s"
    )


def conditions(filter: EventFilter) -> LiteralString:
    """The filter's own conditions on events or their roll-ups, each led by AND."""
    text: LiteralString = ""
    for field, column in DIMENSIONS.values():
        if getattr(filter, field):
            text += f" AND {column} IN %({field})s"
    return text


def values(filter: EventFilter) -> dict[str, Any]:
    """What those conditions name. Ids as the store writes them, for a slice has them as texts."""
    return {
        field: tuple(text.lower() if column in IDS else text for text in getattr(filter, field))
        for field, column in DIMENSIONS.values()
        if getattr(filter, field)
    }


def _texts(question: Question) -> LiteralString:
    """What is grouped by, each led by a comma, as texts under its name in _names."""
    texts: LiteralString = ""
    for number, name in zip(question.group_by, GROUPS, strict=False):
        texts += f", toString({question.column(number)}) AS {name}"
    return texts


def _names(question: Question) -> LiteralString:
    names: LiteralString = ""
    for _, name in zip(question.group_by, GROUPS, strict=False):
        names += f", {name}"
    return names


def _keys(question: Question) -> LiteralString:
    """The columns themselves: the texts are made once a group, not once a row."""
    keys: LiteralString = ""
    for number in question.group_by:
        keys += f", {question.column(number)}"
    return keys


def _numbers(question: Question) -> LiteralString:
    if question.metric:
        numbers = METRIC_EXACT if question.is_exact else METRIC_ROLLED
    else:
        numbers = EVENTS_EXACT if question.is_exact else EVENTS_ROLLED
    percentiles = NO_PERCENTILES
    if question.with_percentiles:
        percentiles = PERCENTILES[bool(question.metric), question.is_exact]
    return f"{numbers}, {percentiles} AS raw, {WITHIN}"


def _source(question: Question) -> LiteralString:
    if not question.is_exact:
        return question.rolled.slices if question.slice else question.rolled.whole
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
    chosen: LiteralString = " AND metric = %(metric)s" if question.metric else ""
    if question.slice:
        chosen += f" AND dimension = '{question.slice}'"
    for number, (field, _) in DIMENSIONS.items():
        if getattr(question.filter, field):
            chosen += f" AND {question.column(number)} IN %({field})s"
    return f"org_id = %(org_id)s AND {time}{chosen}"
