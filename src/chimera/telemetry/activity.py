"""Who did what: recent workloads, activity by day, and the summary of each person."""

from __future__ import annotations

from datetime import datetime
from typing import Any, LiteralString

from chimera.call import NOBODY, Call
from chimera.db import sql
from chimera.paging import Pages
from chimera.pools import Database
from chimera.replica import Replica
from chimera.telemetry import statements
from chimera.telemetry.freshness import reading
from chimera.telemetry.scope import Analytics, scope_of
from chimera.v1.options_pb2 import Permission
from chimera.v1.telemetry_pb2 import (
    EventFilter,
    ListRecentWorkloadsRequest,
    ListRecentWorkloadsResponse,
    ListUserActivityRequest,
    ListUserActivityResponse,
    ListUserSummariesRequest,
    ListUserSummariesResponse,
    RecentWorkload,
    UserActivity,
    UserSummary,
)

DAYS_DEFAULT = 30
FAR_MS = 4_294_967_295_000

# recent_workloads says what recent is; here its rows are grouped under the filter's conditions.
RECENT_WORKLOADS: LiteralString = """
    SELECT workload_id, campaign_id, user_id, toUnixTimestamp64Milli(max(last_seen)) AS at,
           sum(events), uniqExact(event_type)
      FROM events_hourly
     WHERE org_id = %(org_id)s AND bucket > toStartOfHour(now('UTC')) - INTERVAL 7 DAY
"""
LAST_SEEN_FIRST: LiteralString = """
     GROUP BY workload_id, campaign_id, user_id
    HAVING (at, workload_id, toString(campaign_id), toString(user_id))
           < (%(at)s, %(workload)s, %(campaign)s, %(user)s)
     ORDER BY at DESC, workload_id DESC, toString(campaign_id) DESC, toString(user_id) DESC
     LIMIT %(size)s
"""

USER_ACTIVITY: LiteralString = """
    SELECT toString(day), toString(user_id), action, sum(events), sum(duration_ms)
      FROM user_activity
     WHERE org_id = %(org_id)s AND day > toDate(now('UTC')) - %(days)s
       AND (%(user_id)s = '' OR toString(user_id) = %(user_id)s)
       AND (toString(day), toString(user_id), action) < (%(before_day)s, %(before_user)s, %(before)s)
     GROUP BY day, user_id, action
     ORDER BY toString(day) DESC, toString(user_id) DESC, action DESC LIMIT %(size)s
"""

LIST_USER_SUMMARIES = sql(
    UserSummary,
    """
    SELECT user_id, campaigns, executions, templates, ratings, last_activity_at
      FROM telemetry.list_user_summaries(%(user_id)s::uuid, %(after)s::uuid, %(size)s::int)
    """,
    prepare=False,
)

FIND_REFRESHED_AT = sql(
    datetime, "SELECT refreshed_at FROM telemetry.refreshes WHERE name = 'user_summaries'"
)


async def list_recent_workloads(
    db: Database,
    analytics: Analytics,
    pages: Pages,
    call: Call,
    request: ListRecentWorkloadsRequest,
) -> ListRecentWorkloadsResponse:
    """Raises NotFound(CAMPAIGN_NOT_VISIBLE)."""
    scope = await scope_of(db, call, request.filter)
    size, position = pages.page(request)
    at, workload, campaign, user = position or (FAR_MS, "", "", "")
    async with reading(db, analytics, call) as freshness:
        rows = await analytics.rows(
            call,
            scope,
            RECENT_WORKLOADS + statements.conditions(request.filter) + LAST_SEEN_FIRST,
            {
                **statements.values(request.filter),
                "at": at,
                "workload": workload,
                "campaign": campaign,
                "user": user,
                "size": size + 1,
            },
            rows_max=size + 1,
        )
    answer = ListRecentWorkloadsResponse(
        workloads=[_workload(*row) for row in rows[:size]], freshness=freshness
    )
    if len(rows) > size:
        workload, campaign, user, at, *_ = rows[size - 1]
        answer.next_page_token = pages.next_token_at(
            request, [at, workload, str(campaign), str(user)]
        )
    return answer


def _workload(
    workload_id: str, campaign_id: Any, user_id: Any, at: int, events: int, types: int
) -> RecentWorkload:
    found = RecentWorkload(
        workload_id=workload_id,
        campaign_id=_or_none(str(campaign_id)),
        user_id=_or_none(str(user_id)),
        events=events,
        event_types=types,
    )
    found.last_seen_at.FromMilliseconds(at)
    return found


def _or_none(user_id: str) -> str:
    return "" if user_id == NOBODY else user_id


async def list_user_activity(
    db: Database, analytics: Analytics, pages: Pages, call: Call, request: ListUserActivityRequest
) -> ListUserActivityResponse:
    """The newest day first."""
    scope = await scope_of(db, call, EventFilter())
    size, position = pages.page(request)
    day, user, action = position or ("9999-12-31", "", "")
    async with reading(db, analytics, call) as freshness:
        rows = await analytics.rows(
            call,
            scope,
            USER_ACTIVITY,
            {
                "days": request.days or DAYS_DEFAULT,
                "user_id": request.user_id.lower(),
                "before_day": day,
                "before_user": user,
                "before": action,
                "size": size + 1,
            },
            rows_max=size + 1,
        )
    answer = ListUserActivityResponse(freshness=freshness)
    for row_day, user_id, row_action, events, duration_ms in rows[:size]:
        answer.activities.append(
            UserActivity(
                day=row_day,
                user_id=_or_none(user_id),
                action=row_action,
                events=events,
                duration_ms=duration_ms,
            )
        )
    if len(rows) > size:
        answer.next_page_token = pages.next_token_at(request, list(rows[size - 1][:3]))
    return answer


async def list_user_summaries(
    replica: Replica, pages: Pages, call: Call, request: ListUserSummariesRequest
) -> ListUserSummariesResponse:
    """By user id; of the caller alone without TELEMETRY_READ."""
    size, position = pages.page(request)
    asked = request.user_id.lower()
    if not call.caller.may(Permission.PERMISSION_TELEMETRY_READ):
        own = call.caller.user_id
        if asked and asked != own:
            return ListUserSummariesResponse()
        asked = own
    async with replica.look(call) as tx:
        rows = await tx.all(
            LIST_USER_SUMMARIES,
            user_id=asked or None,
            after=position[0] if position else None,
            size=size + 1,
        )
        refreshed_at = await tx.one(FIND_REFRESHED_AT)
    return ListUserSummariesResponse(
        summaries=rows[:size],
        next_page_token=pages.next_token(request, rows, size, "user_id"),
        refreshed_at=refreshed_at,
    )
