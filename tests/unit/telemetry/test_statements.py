"""Which roll-up answers a question."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from chimera.telemetry.statements import ALONE, DIMENSIONS, IN_SLICES, STEPS, Question, series
from chimera.v1.telemetry_pb2 import EventFilter, TelemetryDimension, TelemetryStep

D = TelemetryDimension
HOUR, DAY = TelemetryStep.TELEMETRY_STEP_HOUR, TelemetryStep.TELEMETRY_STEP_DAY


def question(group_by: Any = (), **fields: Any) -> Question:
    given = {
        "step": STEPS[HOUR],
        "filter": EventFilter(),
        "metric": "",
        "is_exact": False,
        "with_percentiles": True,
        "may_slice": True,
    }
    return Question(group_by=group_by, **(given | fields))


@pytest.mark.parametrize("metric", ["", "tokens"])
def test_one_dimension_beside_the_type_is_answered_from_slices(metric: str) -> None:
    """However it is named: as a group, in the filter, or both."""
    table = "metric_slices_hourly" if metric else "event_slices_hourly"
    assert question(metric=metric).slice == "event_category"
    assert f" FROM {table} WHERE" in series(question(metric=metric))
    for number, (field, column) in DIMENSIONS.items():
        chosen = EventFilter(
            event_types=["a"], **({field: ["b"]} if field != "event_types" else {})
        )
        for group_by in ([], [number], [number, IN_SLICES]):
            asked = question(group_by, filter=chosen, metric=metric)
            assert asked.slice == ("event_category" if number == IN_SLICES else column)
            assert f" FROM {table} WHERE" in series(asked)


@pytest.mark.parametrize("metric", ["", "tokens"])
def test_days_of_all_types_are_answered_from_totals(metric: str) -> None:
    """Who names the type of events, as a group or in the filter, reads what has it; whole or sliced."""
    kind, whole = ("metric", "metrics_daily") if metric else ("event", "events_daily")
    three = [D.TELEMETRY_DIMENSION_MODEL, D.TELEMETRY_DIMENSION_TECHNIQUE, ALONE]
    for group_by, table, of_types in (
        ([], f"{kind}_slice_totals_daily", f"{kind}_slices_daily"),
        (three[:2], f"{kind}_slice_totals_daily", f"{kind}_slices_daily"),
        (three, f"{kind}_totals_daily", whole),
    ):
        asked = question(group_by, metric=metric, step=STEPS[DAY])
        typed = question(
            group_by, metric=metric, step=STEPS[DAY], filter=EventFilter(event_types=["a"])
        )
        named = question([*group_by[:2], IN_SLICES], metric=metric, step=STEPS[DAY])
        assert f" FROM {table} WHERE" in series(asked)
        assert f" FROM {of_types} WHERE" in series(typed)
        assert f" FROM {kind}_slices_daily WHERE" in series(named)


def test_two_dimensions_are_answered_from_pairs() -> None:
    """As groups, in the filter, or one of each; in the order that the slices have them in."""
    numbers = [n for n in DIMENSIONS if n not in (IN_SLICES, ALONE)]
    for one, two in combinations(numbers, 2):
        (first, column), (second, other) = DIMENSIONS[one], DIMENSIONS[two]
        for asked in (
            question([two, one]),
            question([one, IN_SLICES], filter=EventFilter(**{second: ["x"]})),
            question([two], filter=EventFilter(**{first: ["x"]}, event_types=["a"])),
            question(filter=EventFilter(**{first: ["x"], second: ["x"]})),
        ):
            assert asked.slice == f"{column},{other}"
            assert (asked.column(one), asked.column(two)) == ("slice", "other")
            assert " FROM event_slices_hourly WHERE" in series(asked)


def test_what_no_slice_has_is_answered_from_all_combinations() -> None:
    """Three dimensions, and the workload with another."""
    numbers = [n for n in DIMENSIONS if n != IN_SLICES]
    for three in combinations(numbers, 3):
        assert not question(three).slice
        assert not question(three[:2], filter=EventFilter(**{DIMENSIONS[three[2]][0]: ["x"]})).slice
    for number in set(numbers) - {ALONE}:
        asked = question([number], filter=EventFilter(workload_ids=["w"]))
        assert not asked.slice
        assert " FROM events_hourly WHERE" in series(asked)


def test_slices_answer_only_who_may_see_everything() -> None:
    """They do not say whose events are in them, and there are none of minutes or single events."""
    assert not question(may_slice=False).slice
    assert not question(step=STEPS[TelemetryStep.TELEMETRY_STEP_MINUTE]).slice
    assert not question(is_exact=True).slice
    assert " FROM workload_events WHERE" in series(question(is_exact=True))
