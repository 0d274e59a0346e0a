"""Runs that wait for a budget: paused by the engine, and taken up again when there is room.

A wait names the window that was short. It ends when the window is over, when the budget grew or is
gone, or when late settlements left room; the sweeper looks every two seconds, so nothing depends on a
message that might get lost. Whoever pauses, resumes or cancels such a run by hand ends the wait.

A run on a route that waits for the budget of one key also looks, every TRY_OTHERS_S, whether a model
with another key may be called again: its circuit lets a call or a probe through, and its key has room.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from chimera import metrics, outbox
from chimera.accounting.remaining import name_of
from chimera.accounting.windows import Short, reach_limit
from chimera.audit import recording
from chimera.call import NOBODY, Call
from chimera.campaigns.engine.completion import LOCK_CAMPAIGN
from chimera.campaigns.engine.lanes import Lane
from chimera.campaigns.engine.settlement import TickContext
from chimera.campaigns.plan import Model, RunPlan
from chimera.core import Core
from chimera.db import Nothing, sql
from chimera.faults import Fault

log = structlog.get_logger("chimera.drive")

TRY_OTHERS_S = 30.0

# A run that judges stored answers is not the one its campaign shows the state of.
PAUSE_RUN = sql(
    dict,
    """
    WITH paused AS (
        UPDATE campaigns.runs r SET state = 'paused', state_reason = %(reason)s
         WHERE r.id = %(run_id)s AND r.state = 'running'
        RETURNING r.id, r.campaign_id
    ), shown AS (
        UPDATE campaigns.campaigns c SET state = 'paused' FROM paused p
         WHERE c.id = p.campaign_id AND c.run_id = p.id
    )
    SELECT id FROM paused
    """,
)

INSERT_WAIT = sql(
    Nothing,
    """
    INSERT INTO accounting.waits AS w (run_id, org_id, campaign_id, scope_kind, scope_id, period,
        window_start, cost, until, other_models, other_keys)
    VALUES (%(run_id)s, %(org_id)s, %(campaign_id)s, %(scope_kind)s, %(scope_id)s, %(period)s,
        %(window_start)s, %(cost)s, %(until)s, %(other_models)s::uuid[], %(other_keys)s::uuid[])
    ON CONFLICT (run_id) DO UPDATE
       SET scope_kind = EXCLUDED.scope_kind, scope_id = EXCLUDED.scope_id, period = EXCLUDED.period,
           window_start = EXCLUDED.window_start, cost = EXCLUDED.cost, until = EXCLUDED.until,
           other_models = EXCLUDED.other_models, other_keys = EXCLUDED.other_keys,
           created_at = clock_timestamp()
    """,
)


async def wait_for_budget(
    core: Core, context: TickContext, short: Short, lanes: Sequence[Lane]
) -> None:
    """Pauses a run whose budget lets not even one more call out, visibly, until there is room.

    What fails here is tried again: the drive asks its budgets every second as long as it runs.
    """
    try:
        await _pause(core, context, short, _others(context.plan, short, lanes))
    except Fault as fault:
        log.warning("drive.not_paused", run_id=context.run_id, reason=fault.reason)
    else:
        metrics.BUDGET_WAITS.labels(short.key.scope_kind).inc()


def _others(plan: RunPlan, short: Short, lanes: Sequence[Lane]) -> list[Model]:
    """Where cells that wait for the budget of a key could still go: models of the same routes with
    other keys, unless they were given up."""
    if short.key.scope_kind != "provider_key":
        return []
    others: dict[str, Model] = {}
    for target in plan.targets:
        models = [plan.models[model_no] for model_no in target.model_nos]
        if all(model.provider_key_id != short.key.scope_id for model in models):
            continue
        for model_no, model in zip(target.model_nos, models, strict=True):
            if model.provider_key_id != short.key.scope_id and not lanes[model_no].given_up:
                others[model.model_id] = model
    return list(others.values())


async def _pause(core: Core, context: TickContext, short: Short, others: Sequence[Model]) -> None:
    name = name_of(short.key.scope_kind, short.key.period)
    reason = f"{name} is spent; goes on at {short.until:%Y-%m-%d %H:%M} UTC or when it is raised"
    call = Call.by_worker("wait_for_budget", context.org_id, seconds=10)
    async with core.db.begin(call) as tx:
        await reach_limit(tx, short.key)
        await tx.run(LOCK_CAMPAIGN, campaign_id=context.campaign_id)
        if await tx.one(PAUSE_RUN, run_id=context.run_id, reason=reason) is None:
            return
        await tx.run(
            INSERT_WAIT,
            run_id=context.run_id,
            org_id=context.org_id,
            campaign_id=context.campaign_id,
            cost=short.cost,
            until=short.until,
            other_models=[model.model_id for model in others],
            other_keys=[model.provider_key_id or NOBODY for model in others],
            **short.key._asdict(),
        )
        recording.record(
            tx,
            "run.pause",
            "run",
            context.run_id,
            new={"state": "paused", "state_reason": reason},
        )


FIND_AWAKE = sql(
    dict,
    """
    SELECT w.run_id, w.org_id, w.campaign_id
      FROM accounting.waits w
      LEFT JOIN accounting.windows x USING (scope_kind, scope_id, period, window_start)
     WHERE w.until <= clock_timestamp() OR x.scope_id IS NULL
        OR ((x.requests_max IS NULL OR x.requests_settled < x.requests_max)
            AND (x.cost_max IS NULL OR x.cost_settled + w.cost <= x.cost_max))
        OR (w.created_at < clock_timestamp() - make_interval(secs => %(try_others_s)s)
            AND EXISTS (
                SELECT FROM unnest(w.other_models, w.other_keys) AS o (model_id, key_id)
                  LEFT JOIN providers.circuits c ON c.org_id = w.org_id AND c.model_id = o.model_id
                  LEFT JOIN providers.circuit_holds h ON h.model_id = o.model_id
                 WHERE CASE providers.held(c.forced, h.forced)
                            WHEN 'open' THEN false WHEN 'closed' THEN true
                            ELSE COALESCE(CASE c.state WHEN 'open' THEN c.open_until
                                                       WHEN 'half_open' THEN c.probe_until END
                                          <= clock_timestamp(), true) END
                   AND NOT EXISTS (
                        SELECT FROM accounting.windows y
                         WHERE y.scope_kind = 'provider_key' AND y.scope_id = o.key_id
                           AND y.window_start = CASE y.period
                               WHEN 'daily' THEN (clock_timestamp() AT TIME ZONE 'UTC')::date
                               ELSE date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date END
                           AND (y.requests_settled >= y.requests_max OR y.cost_settled >= y.cost_max))))
     ORDER BY w.created_at LIMIT 100
    """,
)

RESUME_RUN = sql(
    dict,
    """
    WITH awake AS (
        DELETE FROM accounting.waits WHERE run_id = %(run_id)s RETURNING run_id
    ), resumed AS (
        UPDATE campaigns.runs r SET state = 'running', state_reason = ''
          FROM awake a WHERE r.id = a.run_id AND r.state = 'paused'
        RETURNING r.id, r.campaign_id
    ), shown AS (
        UPDATE campaigns.campaigns c SET state = 'running' FROM resumed r
         WHERE c.id = r.campaign_id AND c.run_id = r.id
    )
    SELECT id FROM resumed
    """,
)


async def wake_runs(core: Core) -> int:
    """Takes up again what need not wait any more; how many runs."""
    async with core.db.begin(Call.by_worker("find_awake", seconds=10)) as tx:
        rows = await tx.all(FIND_AWAKE, try_others_s=TRY_OTHERS_S)
    for row in rows:
        async with core.db.begin(Call.by_worker("wake_run", row["org_id"], seconds=10)) as tx:
            await tx.run(LOCK_CAMPAIGN, campaign_id=row["campaign_id"])
            if await tx.one(RESUME_RUN, run_id=row["run_id"]) is None:
                continue
            await outbox.enqueue(tx, "drive_runs", run_id=row["run_id"])
            recording.record(
                tx,
                "run.resume",
                "run",
                row["run_id"],
                old={"state": "paused"},
                new={"state": "running"},
            )
    return len(rows)
