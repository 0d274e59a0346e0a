"""Stored figures of campaigns: by hour or day, and sliced by any dimension."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from chimera.campaigns.analytics.figures import Sums
from chimera.campaigns.operations import get_campaign
from chimera.db import Tx, sql
from chimera.faults import Invalid, Violation
from chimera.v1.analytics_pb2 import (
    Dimension,
    FiguresByName,
    ListWindowsRequest,
    Slice,
    SliceRatesRequest,
    SliceRatesResponse,
    Window,
    WindowGrain,
)

SLICES_MAX = 1000
RANGE_DEFAULT = timedelta(days=30)
DIMENSIONS = ("campaign", "technique", "provider", "model", "day", "hour", "label")

# Starts of the newest windows first, then everything in them.
LIST_WINDOWS = sql(
    dict,
    """
    WITH starts AS (
        SELECT DISTINCT date_trunc(%(grain)s::text, window_start, 'UTC') AS start
          FROM campaigns.windows
         WHERE campaign_id = %(campaign_id)s
           AND (%(before)s::timestamptz IS NULL
                OR window_start < %(before)s::timestamptz)
         ORDER BY 1 DESC LIMIT %(limit)s
    )
    SELECT date_trunc(%(grain)s::text, w.window_start, 'UTC') AS start, w.technique, w.provider,
           sum(w.results)::bigint AS results, sum(w.attempts)::bigint AS attempts,
           sum(w.scored)::bigint AS scored, sum(w.successes)::bigint AS successes,
           sum(w.failed)::bigint AS failed, sum(w.latency_ms_sum)::bigint AS latency_ms_sum,
           sum(w.input_tokens)::bigint AS input_tokens, sum(w.output_tokens)::bigint AS output_tokens,
           sum(w.cost) AS cost, max(w.computed_at) AS computed_at
      FROM campaigns.windows w
     WHERE w.campaign_id = %(campaign_id)s
       AND w.window_start >= (SELECT min(start) FROM starts)
       AND (%(before)s::timestamptz IS NULL OR w.window_start < %(before)s::timestamptz)
     GROUP BY 1, 2, 3 ORDER BY 1 DESC, 2, 3
    """,
    prepare=False,
)

# Dimensions that are not asked for become one.
SLICE_RATES = sql(
    dict,
    """
    SELECT CASE WHEN %(campaign)s THEN w.campaign_id::text ELSE '' END AS campaign,
           CASE WHEN %(technique)s THEN w.technique ELSE '' END AS technique,
           CASE WHEN %(provider)s THEN w.provider ELSE '' END AS provider,
           CASE WHEN %(model)s THEN w.model ELSE '' END AS model,
           CASE WHEN %(day)s THEN to_char(w.window_start AT TIME ZONE 'UTC', 'YYYY-MM-DD') ELSE '' END AS day,
           CASE WHEN %(hour)s THEN to_char(w.window_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:00"Z"')
                ELSE '' END AS hour,
           l.label,
           sum(w.results)::bigint AS results, sum(w.attempts)::bigint AS attempts,
           sum(w.scored)::bigint AS scored, sum(w.successes)::bigint AS successes,
           sum(w.failed)::bigint AS failed, sum(w.latency_ms_sum)::bigint AS latency_ms_sum,
           sum(w.input_tokens)::bigint AS input_tokens, sum(w.output_tokens)::bigint AS output_tokens,
           sum(w.cost) AS cost
      FROM campaigns.windows w
      JOIN campaigns.campaigns c ON c.id = w.campaign_id AND c.deleted_at IS NULL
     CROSS JOIN LATERAL unnest(CASE WHEN %(label)s AND c.labels <> '{}' THEN c.labels ELSE ARRAY[''] END)
           AS l (label)
     WHERE w.org_id = %(org_id)s
       AND w.window_start >= date_trunc('hour', %(start)s::timestamptz, 'UTC')
       AND w.window_start < %(end)s
       AND (%(campaign_ids)s::uuid[] IS NULL OR w.campaign_id = ANY(%(campaign_ids)s::uuid[]))
     GROUP BY 1, 2, 3, 4, 5, 6, 7
     ORDER BY sum(w.scored) DESC, 1, 2, 3, 4, 5, 6, 7
    """,
    prepare=False,
)


async def list_windows(
    tx: Tx, request: ListWindowsRequest, *, before: str | None, limit: int
) -> list[Window]:
    """Newest first. Raises NotFound(CAMPAIGN_NOT_FOUND)."""
    await get_campaign(tx, request.campaign_id)
    grain = "day" if request.grain == WindowGrain.WINDOW_GRAIN_DAY else "hour"
    rows = await tx.all(
        LIST_WINDOWS, campaign_id=request.campaign_id, grain=grain, before=before, limit=limit
    )
    duration_s = 86400 if grain == "day" else 3600
    windows: dict[datetime, list[dict[str, Any]]] = {}
    for row in rows:
        windows.setdefault(row["start"], []).append(row)
    return [
        _window(request.campaign_id, start, duration_s, inside) for start, inside in windows.items()
    ]


def _window(
    campaign_id: str, start: datetime, duration_s: int, rows: list[dict[str, Any]]
) -> Window:
    window = Window(
        campaign_id=campaign_id,
        duration_s=duration_s,
        figures=_sum(rows).figures(),
        by_technique=_by_name(rows, "technique"),
        by_provider=_by_name(rows, "provider"),
    )
    window.start_time.FromDatetime(start)
    window.end_time.FromDatetime(start + timedelta(seconds=duration_s))
    window.computed_at.FromDatetime(max(row["computed_at"] for row in rows))
    return window


def _sum(rows: Iterable[dict[str, Any]]) -> Sums:
    sums = Sums()
    for row in rows:
        sums.add(row)
    return sums


def _by_name(rows: list[dict[str, Any]], name: str) -> list[FiguresByName]:
    groups: dict[str, Sums] = {}
    for row in rows:
        groups.setdefault(row[name], Sums()).add(row)
    return [
        FiguresByName(name=group, figures=sums.figures()) for group, sums in sorted(groups.items())
    ]


async def slice_rates(tx: Tx, request: SliceRatesRequest) -> SliceRatesResponse:
    """Raises Invalid(FIELD_INVALID) for a range that begins after its end."""
    end = request.end_time.ToDatetime(UTC) if request.HasField("end_time") else datetime.now(UTC)
    start = (
        request.start_time.ToDatetime(UTC)
        if request.HasField("start_time")
        else end - RANGE_DEFAULT
    )
    if start >= end:
        raise Invalid(
            "FIELD_INVALID",
            "start_time must be before end_time.",
            violations=[Violation("start_time", "must be before end_time")],
        )
    names = [Dimension.Name(one).removeprefix("DIMENSION_").lower() for one in request.group_by]
    asked = {
        "org_id": tx.call.caller.org_id,
        "start": start,
        "end": end,
        "campaign_ids": list(request.campaign_ids) or None,
    }
    rows = await tx.all(SLICE_RATES, **asked, **{name: name in names for name in DIMENSIONS})
    # A campaign with several labels is in several of the rows.
    once = (
        await tx.all(SLICE_RATES, **asked, **dict.fromkeys(DIMENSIONS, False))
        if "label" in names
        else rows
    )
    slices: list[Slice] = [
        Slice(names=[row[name] for name in names], figures=_sum([row]).figures())
        for row in sorted(rows[:SLICES_MAX], key=lambda row: [row[name] for name in names])
    ]
    return SliceRatesResponse(
        slices=slices,
        total=_sum(once).figures(),
        is_cut=len(rows) > SLICES_MAX,
    )
