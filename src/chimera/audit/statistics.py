"""Counts over the log, from what the monitor counted by day (audit.statistics)."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from chimera.db import Tx, sql
from chimera.faults import Invalid
from chimera.v1.audit_pb2 import (
    AuditCount,
    GetAuditStatisticsRequest,
    GetAuditStatisticsResponse,
)

DAYS_DEFAULT = 30
DAYS_MAX = 400
NAMES_MAX = 100

COUNT_EVENTS = sql(
    dict,
    """
    SELECT CASE WHEN grouping(day) = 0 THEN 'days' WHEN grouping(action) = 0 THEN 'actions'
                WHEN grouping(severity) = 0 THEN 'severities'
                WHEN grouping(outcome) = 0 THEN 'outcomes'
                WHEN grouping(actor_id) = 0 THEN 'actors' ELSE 'all' END AS part,
           COALESCE(day::text, action, severity, outcome, actor_id::text, '') AS name,
           sum(events)::bigint AS events, sum(failures)::bigint AS failures
      FROM audit.statistics
     WHERE org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid)
       AND day >= %(first)s AND day <= %(last)s
     GROUP BY GROUPING SETS ((), (day), (action), (severity), (outcome), (actor_id))
    """,
    prepare=False,
)
COUNTED_SIZE = sql(int, "SELECT log_index FROM audit.watermarks WHERE name = 'monitor'")


async def get_audit_statistics(
    tx: Tx, request: GetAuditStatisticsRequest
) -> GetAuditStatisticsResponse:
    """Of whole days (UTC), at most DAYS_MAX. Raises Invalid(FIELD_INVALID)."""
    last = _day(request.until.ToDatetime(UTC)) if request.HasField("until") else _day(None)
    first = last - timedelta(days=DAYS_DEFAULT)
    if request.HasField("since"):
        first = _day(request.since.ToDatetime(UTC))
    if not timedelta(0) <= last - first <= timedelta(days=DAYS_MAX):
        raise Invalid("FIELD_INVALID", f"Ask for 0 to {DAYS_MAX} days, since before until.")
    counts: dict[str, list[AuditCount]] = {}
    for row in await tx.all(COUNT_EVENTS, first=first, last=last):
        count = AuditCount(
            name=row["name"], events=row["events"] or 0, failures=row["failures"] or 0
        )
        counts.setdefault(row["part"], []).append(count)
    whole = counts.get("all", [AuditCount()])[0]
    counted_size = await tx.one(COUNTED_SIZE)
    return GetAuditStatisticsResponse(
        events=whole.events,
        failures=whole.failures,
        days=_in_order(counts.get("days", [])),
        actions=_largest(counts.get("actions", [])),
        actors=_largest(counts.get("actors", [])),
        severities=_largest(counts.get("severities", [])),
        outcomes=_largest(counts.get("outcomes", [])),
        counted_size=counted_size or 0,
    )


def _day(at: datetime | None) -> date:
    return (at or datetime.now(UTC)).date()


def _in_order(counts: list[AuditCount]) -> list[AuditCount]:
    return sorted(counts, key=lambda count: count.name)


def _largest(counts: list[AuditCount]) -> list[AuditCount]:
    return sorted(counts, key=lambda count: (-count.events, count.name))[:NAMES_MAX]
