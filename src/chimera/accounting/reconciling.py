"""The proof that the books tell one story: every sum is counted again from what it sums up.

    usage        daily usage = the ledger, by day, run, person, model, key and technique
    run          what a run's money says is settled and held = its ledger, its attempts in flight
    executions   what recorded results cost, and the turns of conversations that have none yet,
                 + what was discarded = the ledger of the run
    window       settled and held of a budget's window = ledger and attempts in flight
    key          calls counted with a provider key = those of daily usage, of all time

Each check is one statement, so it sees one moment between two transactions. To the last decimal.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from chimera import metrics
from chimera.call import Call
from chimera.db import Statement, Tx, sql
from chimera.pools import Database
from chimera.v1.usage_pb2 import Discrepancy

log = structlog.get_logger("chimera.reconcile")

DAYS_DEFAULT = 40
FOUND_MAX = 100  # of one check; the first ones tell where to look
CHECKS = ("usage", "run", "executions", "window", "key")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two counts of one thing, as text."""

    subject: str
    expected: str
    found: str
    compared: int


CHECK_USAGE = sql(
    Comparison,
    """
    WITH l AS (
        SELECT COALESCE(sent_on, (booked_at AT TIME ZONE 'UTC')::date) AS day, run_id, user_id, model_id,
               COALESCE(provider_key_id, '00000000-0000-0000-0000-000000000000') AS provider_key_id,
               COALESCE(technique_no, -1) AS technique_no,
               concat_ws(' ', count(*) FILTER (WHERE entry_no = 0), sum(input_tokens),
                         sum(output_tokens), trim_scale(sum(cost)),
                         trim_scale(COALESCE(sum(cost) FILTER (WHERE discarded), 0))) AS said
          FROM providers.ledger
         WHERE org_id = %(org_id)s::uuid AND xid < (SELECT upto FROM accounting.usage_mark)
           AND COALESCE(sent_on, (booked_at AT TIME ZONE 'UTC')::date) >= %(since)s::date
         GROUP BY 1, 2, 3, 4, 5, 6
    ), u AS (
        SELECT day, run_id, user_id, model_id, provider_key_id, technique_no,
               concat_ws(' ', requests, input_tokens, output_tokens, trim_scale(cost),
                         trim_scale(discarded_cost)) AS said
          FROM accounting.usage_daily WHERE org_id = %(org_id)s::uuid AND day >= %(since)s::date
    )
    SELECT concat_ws(' ', day, 'run', run_id, 'model', model_id) AS subject,
           COALESCE(l.said, 'nothing') AS expected, COALESCE(u.said, 'nothing') AS found,
           count(*) OVER () AS compared
      FROM l FULL JOIN u USING (day, run_id, user_id, model_id, provider_key_id, technique_no)
     ORDER BY l.said IS NOT DISTINCT FROM u.said, day, run_id LIMIT %(limit)s
    """,
    prepare=False,
)

CHECK_RUNS = sql(
    Comparison,
    """
    WITH r AS MATERIALIZED (
        SELECT id FROM campaigns.runs
         WHERE org_id = %(org_id)s::uuid AND COALESCE(finished_at, now()) >= %(since)s::date
    ), c AS (
        SELECT m.run_id, concat_ws(' ', trim_scale(m.settled), trim_scale(m.held)) AS found,
               concat_ws(' ',
                   trim_scale(COALESCE((SELECT sum(l.cost) FROM providers.ledger l
                                         WHERE l.run_id = m.run_id), 0)),
                   trim_scale(COALESCE((SELECT sum(a.worst_cost + a.reserve) FROM campaigns.attempts a
                                         WHERE a.run_id = m.run_id AND a.state = 'sent'), 0))) AS expected
          FROM r JOIN campaigns.run_money m ON m.run_id = r.id
    )
    SELECT 'run ' || run_id AS subject, expected, found, count(*) OVER () AS compared
      FROM c ORDER BY expected = found, run_id LIMIT %(limit)s
    """,
    prepare=False,
)

CHECK_EXECUTIONS = sql(
    Comparison,
    """
    WITH r AS MATERIALIZED (
        SELECT id FROM campaigns.runs
         WHERE org_id = %(org_id)s::uuid AND COALESCE(finished_at, now()) >= %(since)s::date
    ), c AS (
        SELECT r.id,
               trim_scale(COALESCE((SELECT sum(l.cost) FROM providers.ledger l
                                     WHERE l.run_id = r.id AND NOT l.discarded), 0))::text AS expected,
               trim_scale(COALESCE((SELECT sum(e.cost) FROM campaigns.executions e
                                     WHERE e.run_id = r.id), 0)
                          + COALESCE((SELECT sum(t.cost) FROM campaigns.turns t
                                       WHERE t.run_id = r.id
                                         AND NOT EXISTS (SELECT FROM campaigns.executions e
                                              WHERE e.run_id = t.run_id AND e.cell_no = t.cell_no)), 0)
                         )::text AS found
          FROM r
    )
    SELECT 'run ' || id AS subject, expected, found, count(*) OVER () AS compared
      FROM c ORDER BY expected = found, id LIMIT %(limit)s
    """,
    prepare=False,
)

CHECK_WINDOWS = sql(
    Comparison,
    """
    WITH l AS MATERIALIZED (
        SELECT COALESCE(l.sent_on, (l.booked_at AT TIME ZONE 'UTC')::date) AS day, l.run_id,
               l.provider_key_id, count(*) FILTER (WHERE l.entry_no = 0) AS requests,
               sum(l.cost) AS cost
          FROM providers.ledger l WHERE l.org_id = %(org_id)s::uuid
           AND COALESCE(l.sent_on, (l.booked_at AT TIME ZONE 'UTC')::date) >= %(since)s::date
         GROUP BY 1, 2, 3
    ), a AS MATERIALIZED (
        SELECT (a.sent_at AT TIME ZONE 'UTC')::date AS day, a.run_id, a.provider_key_id,
               count(*) AS requests, sum(a.worst_cost + a.reserve) AS cost
          FROM campaigns.runs r JOIN campaigns.attempts a ON a.run_id = r.id AND a.state = 'sent'
         WHERE r.org_id = %(org_id)s::uuid AND COALESCE(r.finished_at, now()) >= %(since)s::date
         GROUP BY 1, 2, 3
    ), w AS (
        SELECT *, CASE period WHEN 'daily' THEN window_start + 1
                              ELSE (window_start + interval '1 month')::date END AS window_end
          FROM accounting.windows
         WHERE org_id = %(org_id)s::uuid AND window_start >= %(since)s::date
    ), c AS (
        SELECT concat_ws(' ', w.period, w.scope_kind, w.scope_id, w.window_start) AS subject,
               concat_ws(' ', w.requests_settled, trim_scale(w.cost_settled), w.requests_held,
                         trim_scale(w.cost_held)) AS found,
               concat_ws(' ', s.requests, trim_scale(s.cost), h.requests, trim_scale(h.cost)) AS expected
          FROM w
         CROSS JOIN LATERAL (
            SELECT COALESCE(sum(l.requests), 0) AS requests, COALESCE(sum(l.cost), 0) AS cost
              FROM l JOIN campaigns.runs r ON r.id = l.run_id
             WHERE l.day >= w.window_start AND l.day < w.window_end
               AND w.scope_id IN (r.org_id, r.launched_by, r.api_key_id, r.campaign_id, l.provider_key_id)) s
         CROSS JOIN LATERAL (
            SELECT COALESCE(sum(a.requests), 0) AS requests, COALESCE(sum(a.cost), 0) AS cost
              FROM a JOIN campaigns.runs r ON r.id = a.run_id
             WHERE a.day >= w.window_start AND a.day < w.window_end
               AND w.scope_id IN (r.org_id, r.launched_by, r.api_key_id, r.campaign_id, a.provider_key_id)) h
    )
    SELECT subject, expected, found, count(*) OVER () AS compared
      FROM c ORDER BY expected = found, subject LIMIT %(limit)s
    """,
    prepare=False,
)

CHECK_KEYS = sql(
    Comparison,
    """
    WITH u AS (
        SELECT provider_key_id, sum(requests) AS said FROM accounting.usage_daily
         WHERE org_id = %(org_id)s::uuid
           AND provider_key_id <> '00000000-0000-0000-0000-000000000000'
         GROUP BY provider_key_id
    ), k AS (
        SELECT provider_key_id, requests AS said FROM providers.key_usage WHERE org_id = %(org_id)s::uuid
    )
    SELECT 'key ' || provider_key_id AS subject, COALESCE(u.said, 0)::text AS expected,
           COALESCE(k.said, 0)::text AS found, count(*) OVER () AS compared
      FROM u FULL JOIN k USING (provider_key_id)
     ORDER BY u.said IS NOT DISTINCT FROM k.said, provider_key_id LIMIT %(limit)s
    """,
    prepare=False,
)

FIND_SINCE = sql(
    object, "SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date - %(days)s::int AS since"
)

STATEMENTS: dict[str, Statement[Comparison]] = {
    "usage": CHECK_USAGE,
    "run": CHECK_RUNS,
    "executions": CHECK_EXECUTIONS,
    "window": CHECK_WINDOWS,
    "key": CHECK_KEYS,
}


async def reconcile(tx: Tx, days: int) -> tuple[list[Discrepancy], int]:
    """What differs in the caller's organisation over the last `days`, and how much was compared."""
    await tx.see_all_campaigns()
    since = await tx.one(FIND_SINCE, days=days or DAYS_DEFAULT)
    given = {"org_id": tx.call.caller.org_id, "since": since, "limit": FOUND_MAX}
    found: list[Discrepancy] = []
    compared = 0
    for check, statement in STATEMENTS.items():
        rows = await tx.all(statement, **{name: given[name] for name in statement.names})
        compared += rows[0].compared if rows else 0
        found += [
            Discrepancy(check=check, subject=row.subject, expected=row.expected, found=row.found)
            for row in rows
            if row.expected != row.found
        ]
    return found, compared


LIST_ORGANISATIONS = sql(str, "SELECT DISTINCT org_id FROM campaigns.runs ORDER BY org_id")


async def reconcile_all(db: Database, days: int = DAYS_DEFAULT) -> int:
    """Every organisation; what differs is logged and counted. How much does."""
    counts = dict.fromkeys(CHECKS, 0)
    async with db.begin(Call.by_worker("list_organisations", seconds=30)) as tx:
        org_ids = await tx.all(LIST_ORGANISATIONS)
    for org_id in org_ids:
        async with db.begin(Call.by_worker("reconcile_usage", org_id, seconds=600)) as tx:
            found, _compared = await reconcile(tx, days)
        for item in found:
            counts[item.check] += 1
            log.error(
                "usage.discrepancy",
                org_id=org_id,
                check=item.check,
                subject=item.subject,
                expected=item.expected,
                found=item.found,
            )
    for check, count in counts.items():
        metrics.USAGE_DISCREPANCIES.labels(check).set(count)
    return sum(counts.values())
