"""Usage by any of its dimensions: the sums by day, and what the ledger got since they were made."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from chimera.accounting.alerts import sees_everyone
from chimera.db import Tx, sql
from chimera.faults import Invalid, Violation
from chimera.paging import Pages
from chimera.rows import decimal_text, enum_text
from chimera.v1.usage_pb2 import QueryUsageRequest, QueryUsageResponse, UsageRow, UsageSums

DAYS_DEFAULT, DAYS_MAX = 30, 400

# Both halves in one snapshot: a row is in the one or the other, whenever the aggregator runs.
# Grouped by nothing it gives the totals.
QUERY_USAGE = sql(
    dict,
    """
    WITH u AS (
        SELECT day, run_id, user_id, model_id, provider_key_id, technique_no, requests, input_tokens,
               output_tokens, cost, discarded_cost
          FROM accounting.usage_daily
         WHERE org_id = %(org_id)s::uuid AND day BETWEEN %(first)s::date AND %(last)s::date
        UNION ALL
        SELECT COALESCE(sent_on, (booked_at AT TIME ZONE 'UTC')::date), run_id, user_id, model_id,
               COALESCE(provider_key_id, '00000000-0000-0000-0000-000000000000'),
               COALESCE(technique_no, -1), CASE entry_no WHEN 0 THEN 1 ELSE 0 END, input_tokens,
               output_tokens, cost, CASE WHEN discarded THEN cost ELSE 0 END
          FROM providers.ledger
         WHERE org_id = %(org_id)s::uuid AND xid >= (SELECT upto FROM accounting.usage_mark)
           AND COALESCE(sent_on, (booked_at AT TIME ZONE 'UTC')::date)
               BETWEEN %(first)s::date AND %(last)s::date
    ), named AS (
        SELECT u.*, r.campaign_id, r.api_key_id
          FROM u JOIN campaigns.runs r ON r.id = u.run_id AND r.org_id = %(org_id)s::uuid
         WHERE (%(user_id)s::uuid IS NULL OR u.user_id = %(user_id)s)
           AND (%(model_id)s::uuid IS NULL OR u.model_id = %(model_id)s)
           AND (%(campaign_id)s::uuid IS NULL OR r.campaign_id = %(campaign_id)s)
    ), grouped AS (
        SELECT CASE WHEN 'day' = ANY(%(by)s) THEN n.day::text
                    WHEN 'month' = ANY(%(by)s) THEN date_trunc('month', n.day)::date::text ELSE '' END AS day,
               CASE WHEN 'user' = ANY(%(by)s) THEN n.user_id::text ELSE '' END AS user_id,
               CASE WHEN 'provider' = ANY(%(by)s) THEN p.name ELSE '' END AS provider,
               CASE WHEN 'provider' = ANY(%(by)s) THEN p.id::text ELSE '' END AS provider_id,
               CASE WHEN 'model' = ANY(%(by)s) THEN n.model_id::text ELSE '' END AS model_id,
               CASE WHEN 'model' = ANY(%(by)s) THEN m.name ELSE '' END AS model,
               CASE WHEN 'campaign' = ANY(%(by)s) THEN n.campaign_id::text ELSE '' END AS campaign_id,
               CASE WHEN 'run' = ANY(%(by)s) THEN n.run_id::text ELSE '' END AS run_id,
               CASE WHEN 'technique' = ANY(%(by)s)
                    THEN COALESCE((SELECT rp.technique_names[n.technique_no + 1]
                                     FROM campaigns.run_plans rp WHERE rp.run_id = n.run_id), '')
                    ELSE '' END AS technique,
               CASE WHEN 'provider_key' = ANY(%(by)s)
                    THEN COALESCE(NULLIF(n.provider_key_id::text, '00000000-0000-0000-0000-000000000000'), '')
                    ELSE '' END AS provider_key_id,
               CASE WHEN 'api_key' = ANY(%(by)s) THEN COALESCE(n.api_key_id::text, '') ELSE '' END AS api_key_id,
               sum(requests)::bigint AS requests, sum(input_tokens)::bigint AS input_tokens,
               sum(output_tokens)::bigint AS output_tokens, sum(cost) AS cost_usd,
               sum(discarded_cost) AS discarded_cost_usd
          FROM named n
          LEFT JOIN providers.models m ON m.id = n.model_id
          LEFT JOIN providers.providers p ON p.id = m.provider_id
         GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    )
    SELECT * FROM grouped
     WHERE %(after)s::text[] IS NULL
        OR ARRAY[day, user_id, provider, provider_id, model_id, campaign_id, run_id, technique, provider_key_id, api_key_id]
           COLLATE "C" > %(after)s::text[]
     ORDER BY ARRAY[day, user_id, provider, provider_id, model_id, campaign_id, run_id, technique, provider_key_id, api_key_id]
              COLLATE "C"
     LIMIT %(limit)s
    """,
    prepare=False,
)

POSITION = (
    "day", "user_id", "provider", "provider_id", "model_id", "campaign_id", "run_id", "technique",
    "provider_key_id", "api_key_id",
)  # fmt: skip
TODAY = sql(object, "SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date")
NOTHING = UsageSums(cost_usd="0", discarded_cost_usd="0")


async def query_usage(tx: Tx, pages: Pages, request: QueryUsageRequest) -> QueryUsageResponse:
    """A page of sums, and their totals over all pages. Raises Invalid(FIELD_INVALID)."""
    today = await tx.one(TODAY)
    assert isinstance(today, date)  # calls are booked by the clock of the database
    first, last = _span(request, today)
    caller = tx.call.caller
    if not sees_everyone(tx) and request.user_id not in ("", caller.user_id):
        return QueryUsageResponse(totals=NOTHING)
    await tx.see_all_campaigns()
    narrowed = {
        "org_id": caller.org_id,
        "first": first,
        "last": last,
        "user_id": request.user_id or (None if sees_everyone(tx) else caller.user_id),
        "model_id": request.model_id or None,
        "campaign_id": request.campaign_id or None,
    }
    size, after = pages.page(request, scope=caller.user_id)
    by = [enum_text(request, "group_by", dimension) for dimension in request.group_by]
    rows = await tx.all(QUERY_USAGE, by=by, after=after, limit=size + 1, **narrowed)
    totals = await tx.one(QUERY_USAGE, by=[], after=None, limit=1, **narrowed)
    found = [_row(row) for row in rows]
    return QueryUsageResponse(
        rows=found[:size],
        next_page_token=pages.next_token(request, found, size, *POSITION, scope=caller.user_id),
        totals=_row(totals).sums if totals else NOTHING,
    )


def _row(row: dict[str, Any]) -> UsageRow:
    sums = UsageSums(
        requests=row["requests"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cost_usd=decimal_text(row["cost_usd"]),
        discarded_cost_usd=decimal_text(row["discarded_cost_usd"]),
    )
    return UsageRow(sums=sums, **{name: row[name] for name in (*POSITION, "model")})


def _span(request: QueryUsageRequest, today: date) -> tuple[date, date]:
    try:
        last = date.fromisoformat(request.last_day) if request.last_day else today
        first = (
            date.fromisoformat(request.first_day)
            if request.first_day
            else last - timedelta(days=DAYS_DEFAULT - 1)
        )
    except ValueError:
        raise _bad_span("there is no such day") from None
    if not 0 <= (last - first).days < DAYS_MAX:
        raise _bad_span(f"must be up to {DAYS_MAX} days before last_day")
    return first, last


def _bad_span(said: str) -> Invalid:
    violation = Violation("first_day", said, "FIELD_INVALID")
    return Invalid("FIELD_INVALID", f"first_day: {said}", violations=[violation])
