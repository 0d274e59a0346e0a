"""Series and rankings: the question is fitted to a roll-up, asked, and answered in whole numbers."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from chimera.call import NOBODY, Call
from chimera.faults import Invalid
from chimera.pools import Database
from chimera.telemetry import statements
from chimera.telemetry.freshness import reading
from chimera.telemetry.scope import Analytics, Scope, scope_of
from chimera.telemetry.statements import STEPS, Question
from chimera.v1.telemetry_pb2 import (
    EventNumbers,
    QuerySeriesRequest,
    QuerySeriesResponse,
    QueryTopRequest,
    QueryTopResponse,
    TelemetryOrder,
    TelemetryStep,
)

POINTS_MAX = 10_000
TOP_DEFAULT = 10
MINUTES_UP_TO_S, HOURS_UP_TO_S = 6 * 3600, 31 * 86_400
# A ranking has no steps to show: coarser ones are quicker.
TOP_HOURS_UP_TO_S = 8 * 86_400
SECONDS_MAX = 0xFFFF_FFFF
# Events and minutes; hours and days are kept for a year. A day before they go, nothing is chosen of them.
KEPT_MS = 90 * 86_400_000
CHOSEN_UP_TO_MS = KEPT_MS - 86_400_000


class Range(NamedTuple):
    """Whole steps, in milliseconds."""

    step: TelemetryStep
    from_ms: int
    to_ms: int


def fitted(
    request: Any,
    step: TelemetryStep | None,
    *,
    hours_up_to_s: int = HOURS_UP_TO_S,
    is_exact: bool = False,
) -> Range:
    """The request's range in steps of a roll-up, or of the wanted width.

    Raises Invalid when `from` is not before `to`, there would be more than POINTS_MAX steps, or it
    needs what is not kept for so long.
    """
    # `from` is a word of Python.
    from_ms = getattr(request, "from").ToMilliseconds()
    to_ms = request.to.ToMilliseconds()
    if not 0 <= from_ms < to_ms <= SECONDS_MAX * 1000:
        raise Invalid("FIELD_INVALID", "`from` must be before `to`, both between 1970 and 2106.")
    seconds = (to_ms - from_ms) / 1000
    age_ms = time.time() * 1000 - from_ms
    if age_ms > KEPT_MS and (is_exact or step == TelemetryStep.TELEMETRY_STEP_MINUTE):
        raise Invalid(
            "FIELD_INVALID",
            "Events and minutes are kept for 90 days; ask for hours or days, and not exactly.",
        )
    if not step:
        step = TelemetryStep.TELEMETRY_STEP_DAY
        if seconds <= MINUTES_UP_TO_S and age_ms <= CHOSEN_UP_TO_MS:
            step = TelemetryStep.TELEMETRY_STEP_MINUTE
        elif seconds <= hours_up_to_s:
            step = TelemetryStep.TELEMETRY_STEP_HOUR
    width_ms = STEPS[step].seconds * 1000
    if seconds * 1000 / width_ms > POINTS_MAX:
        raise Invalid(
            "QUERY_TOO_LARGE", f"More than {POINTS_MAX} steps; ask for less time or a larger step."
        )
    if is_exact:
        return Range(step, from_ms, to_ms)
    return Range(step, from_ms // width_ms * width_ms, -(-to_ms // width_ms) * width_ms)


async def query_series(
    db: Database, analytics: Analytics, call: Call, request: QuerySeriesRequest
) -> QuerySeriesResponse:
    """Raises Invalid(FIELD_INVALID, QUERY_TOO_LARGE), NotFound(CAMPAIGN_NOT_VISIBLE)."""
    scope = await scope_of(db, call, request.filter)
    within = fitted(request, request.step, is_exact=request.is_exact)
    question = _question(request, within, scope, request.with_percentiles)
    # First the buffer, then the store: what leaves the one in between is in the other.
    async with reading(db, analytics, call) as freshness:
        rows = await analytics.rows(
            call,
            scope,
            statements.series(question),
            _params(question, within, POINTS_MAX + 1),
            rows_max=POINTS_MAX + 1,
            merges_sketches=question.merges_sketches,
        )
    if len(rows) > POINTS_MAX:
        raise Invalid(
            "QUERY_TOO_LARGE",
            f"More than {POINTS_MAX} points; ask for less time, a larger step or fewer groups.",
        )
    answer = QuerySeriesResponse(step=within.step, freshness=freshness)
    for row in rows:
        _fill(answer.points.add(), *row)
    getattr(answer, "from").FromMilliseconds(within.from_ms)
    answer.to.FromMilliseconds(within.to_ms)
    return answer


async def query_top(
    db: Database, analytics: Analytics, call: Call, request: QueryTopRequest
) -> QueryTopResponse:
    """Raises what query_series raises."""
    scope = await scope_of(db, call, request.filter)
    within = fitted(request, None, hours_up_to_s=TOP_HOURS_UP_TO_S, is_exact=request.is_exact)
    by_percentile = request.order == TelemetryOrder.TELEMETRY_ORDER_P95
    question = _question(request, within, scope, request.with_percentiles or by_percentile)
    size = request.size or TOP_DEFAULT
    async with reading(db, analytics, call) as freshness:
        rows = await analytics.rows(
            call,
            scope,
            statements.top(question, request.order),
            _params(question, within, size),
            rows_max=size,
            merges_sketches=question.merges_sketches,
        )
    answer = QueryTopResponse(freshness=freshness)
    for row in rows:
        _fill(answer.groups.add(), *row)
    getattr(answer, "from").FromMilliseconds(within.from_ms)
    answer.to.FromMilliseconds(within.to_ms)
    return answer


def _question(request: Any, within: Range, scope: Scope, with_percentiles: bool) -> Question:
    # Minutes have no sketches: a few values each are counted as soon as merged.
    is_counted = with_percentiles and within.step == TelemetryStep.TELEMETRY_STEP_MINUTE
    return Question(
        STEPS[within.step],
        request.group_by,
        request.filter,
        request.metric,
        request.is_exact or is_counted,
        with_percentiles,
        may_slice=scope.is_whole,
    )


def _params(question: Question, within: Range, rows: int) -> dict[str, Any]:
    return {
        **statements.values(question.filter),
        "metric": question.metric,
        "from_ms": within.from_ms,
        "to_ms": within.to_ms,
        "rows": rows,
    }


def _fill(
    numbers: EventNumbers,
    start_s: int,
    events: int,
    errors: int,
    cost_usd: str,
    count: int,
    total: float,
    least: float,
    most: float,
    p50: float,
    p90: float,
    p95: float,
    p99: float,
    *group: str,
) -> None:
    """With a row. Field by field where it is: of thousands, keyword arguments take nearly twice as long,
    and messages that are copied there three times."""
    if group:
        numbers.group.extend(["" if text == NOBODY else text for text in group])
    numbers.events = events
    if errors:
        numbers.errors = errors
        numbers.error_rate = errors / events
    numbers.cost_usd = cost_usd
    if start_s:
        numbers.start.seconds = start_s
    if count:
        values = numbers.values
        values.count, values.sum, values.average = count, total, total / count
        values.min, values.max = least, most
        values.p50, values.p90, values.p95, values.p99 = p50, p90, p95, p99
