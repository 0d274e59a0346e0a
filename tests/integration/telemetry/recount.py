"""A naive recount of events, and numbers of the roll-ups held against it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pytest

from chimera.v1.telemetry_pb2 import (
    EventNumbers,
    TelemetryDimension,
    TelemetryEvent,
    TelemetryStep,
)

D = TelemetryDimension
KEYS: dict[int, Callable[[TelemetryEvent], str]] = {
    D.TELEMETRY_DIMENSION_EVENT_TYPE: lambda e: e.event_type,
    D.TELEMETRY_DIMENSION_EVENT_CATEGORY: lambda e: e.event_category,
    D.TELEMETRY_DIMENSION_CAMPAIGN: lambda e: e.campaign_id,
    D.TELEMETRY_DIMENSION_USER: lambda e: e.user_id,
    D.TELEMETRY_DIMENSION_WORKLOAD: lambda e: e.workload_id,
    D.TELEMETRY_DIMENSION_PROVIDER: lambda e: dict(e.dimensions).get("provider", ""),
    D.TELEMETRY_DIMENSION_MODEL: lambda e: dict(e.dimensions).get("model", ""),
    D.TELEMETRY_DIMENSION_TECHNIQUE: lambda e: dict(e.dimensions).get("technique", ""),
}
WIDTHS = {
    TelemetryStep.TELEMETRY_STEP_MINUTE: 60,
    TelemetryStep.TELEMETRY_STEP_HOUR: 3600,
    TelemetryStep.TELEMETRY_STEP_DAY: 86_400,
}


def recount(
    events: Sequence[TelemetryEvent], width_s: int, group_by: Sequence[int], metric: str = ""
) -> dict[tuple[Any, ...], list[TelemetryEvent]]:
    found = defaultdict(list)
    for event in events:
        if metric and metric not in event.metrics:
            continue
        start = event.timestamp.seconds // width_s * width_s if width_s else 0
        found[start, *(KEYS[number](event) for number in group_by)].append(event)
    return found


def check(numbers: EventNumbers, events: Sequence[TelemetryEvent], metric: str = "") -> None:
    """Sums, counts, extremes and averages are exact; percentiles within the sketch's error."""
    values = sorted(e.metrics[metric] if metric else e.latency_ms for e in events)
    if not metric:
        values = [value for value in values if value]
        assert numbers.errors == sum("error_kind" in event.dimensions for event in events)
        assert numbers.error_rate == pytest.approx(numbers.errors / len(events))
        assert Decimal(numbers.cost_usd) == sum(Decimal(event.cost_usd) for event in events)
    assert numbers.events == len(events)
    assert numbers.values.count == len(values)
    if not values:
        return
    assert numbers.values.sum == pytest.approx(sum(values))
    assert numbers.values.average == pytest.approx(sum(values) / len(values))
    assert (numbers.values.min, numbers.values.max) == (values[0], values[-1])
    for share, found in ((0.5, numbers.values.p50), (0.95, numbers.values.p95)):
        # Of one neighbour or between both, and off by two percent at most.
        place = int(share * (len(values) - 1))
        after = values[min(place + 1, len(values) - 1)]
        assert values[place] * 0.9799 <= found <= after * 1.0201
