"""Runs: their state, counters and rates; pause, resume, cancel and tuning while they are live."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from chimera import outbox
from chimera.audit import recording
from chimera.campaigns.collaboration.levels import Level, check_level
from chimera.campaigns.operations import get_campaign, lock_campaign
from chimera.campaigns.statistics import wilson_interval
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotFound, NotReady
from chimera.providers.held_circuits import list_shut
from chimera.rows import decimal_text, enum_text
from chimera.v1.campaigns_pb2 import (
    Campaign,
    GetRunSummaryResponse,
    Limits,
    Rate,
    RateByCell,
    RateByModel,
    RateByTarget,
    RateByTechnique,
    Run,
    TuneRunRequest,
)

# The campaign's own policy decides who sees a run: the join is under it.
GET_RUN = sql(
    Run,
    """
    SELECT r.id, r.campaign_id, r.state, p.plan_hash, r.cells_total, r.shards_total, r.shards_done,
           r.concurrency, m.cost_max AS cost_usd_max, r.state_reason, r.launched_by, r.created_at,
           r.finished_at, p.prompt_count, p.technique_names, p.target_names, p.repetitions,
           r.origins[1] AS origin_run_id, r.scoring_id, m.stop_reason,
           jsonb_strip_nulls(jsonb_build_object(
               'concurrency', r.concurrency, 'attempts_max', r.attempts_max,
               'cost_usd_max', trim_scale(m.cost_max)::text, 'priority', r.priority,
               'executions_max', m.executions_max::text, 'tokens_max', m.tokens_max::text,
               'wall_time_s', m.wall_time_s::text, 'error_share_max', m.error_share_max,
               'error_cells_min', m.error_cells_min::text,
               'interval_width_max', m.interval_width_max)) AS limits,
           (SELECT jsonb_build_object(
                'recorded', COALESCE(sum(scored + failed + parked), 0)::text,
                'scored', COALESCE(sum(scored), 0)::text,
                'successes', COALESCE(sum(successes), 0)::text,
                'failed', COALESCE(sum(failed), 0)::text,
                'parked', COALESCE(sum(parked), 0)::text,
                'skipped', r.skipped::text,
                'input_tokens', COALESCE(sum(input_tokens), 0)::text,
                'output_tokens', COALESCE(sum(output_tokens), 0)::text,
                'cost_usd', trim_scale(COALESCE(sum(cost), 0))::text,
                'booked_usd', trim_scale(m.settled)::text)
              FROM campaigns.tallies t WHERE t.run_id = r.id) AS counts,
           (SELECT jsonb_agg(jsonb_build_object(
                'seat_no', s.seat_no, 'purpose', 'TURN_PURPOSE_' || upper(s.purpose),
                'target_name', s.target_name, 'calls', s.calls::text,
                'input_tokens', s.input_tokens::text, 'output_tokens', s.output_tokens::text,
                'cost_usd', trim_scale(s.settled)::text,
                'cost_usd_max', COALESCE(trim_scale(s.cost_max)::text, '')) ORDER BY s.seat_no)
              FROM campaigns.seats s WHERE s.run_id = r.id) AS seats
      FROM campaigns.runs r
      JOIN campaigns.campaigns c ON c.id = r.campaign_id
      JOIN campaigns.run_plans p ON p.run_id = r.id
      JOIN campaigns.run_money m ON m.run_id = r.id
     WHERE r.id = %(run_id)s
    """,
)

LIST_RUNS = sql(
    Run,
    """
    SELECT r.id, r.campaign_id, r.state, p.plan_hash, r.cells_total, r.shards_total, r.shards_done,
           r.concurrency, m.cost_max AS cost_usd_max, r.state_reason, r.launched_by, r.created_at,
           r.finished_at, p.prompt_count, p.technique_names, p.target_names, p.repetitions,
           r.origins[1] AS origin_run_id, m.stop_reason
      FROM campaigns.runs r
      JOIN campaigns.run_plans p ON p.run_id = r.id
      JOIN campaigns.run_money m ON m.run_id = r.id
     WHERE r.campaign_id = %(campaign_id)s AND r.scoring_id IS NULL
       AND r.org_id = (SELECT c.org_id FROM campaigns.campaigns c WHERE c.id = %(campaign_id)s)
       AND (%(after)s::uuid IS NULL OR r.id < %(after)s)
     ORDER BY r.id DESC LIMIT %(limit)s
    """,
    prepare=False,
)

LIST_MODELS = sql(
    dict,
    "SELECT model_ids, model_names FROM campaigns.run_plans WHERE run_id = %(run_id)s",
)

LIST_MODEL_TALLIES = sql(
    dict,
    """
    SELECT model_no, sum(scored)::bigint AS scored, sum(successes)::bigint AS successes,
           sum(failed)::bigint AS failed, sum(latency_ms_sum)::bigint AS latency_ms_sum,
           sum(cost) AS cost, sum(input_tokens)::bigint AS input_tokens,
           sum(output_tokens)::bigint AS output_tokens
      FROM campaigns.model_tallies WHERE run_id = %(run_id)s
     GROUP BY model_no ORDER BY model_no
    """,
)

LIST_TALLIES = sql(
    dict,
    """
    SELECT technique_no, target_no, sum(scored)::bigint AS scored, sum(successes)::bigint AS successes,
           sum(failed + parked)::bigint AS failed, sum(latency_ms_sum)::bigint AS latency_ms_sum,
           sum(cost) AS cost, sum(input_tokens)::bigint AS input_tokens,
           sum(output_tokens)::bigint AS output_tokens
      FROM campaigns.tallies WHERE run_id = %(run_id)s
     GROUP BY technique_no, target_no ORDER BY technique_no, target_no
    """,
)

# One pass over the run's scored results for all percentiles: by technique, by target, by both.
LIST_LATENCIES = sql(
    dict,
    """
    SELECT technique_no, target_no,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY latency_ms) AS p50,
           percentile_disc(0.95) WITHIN GROUP (ORDER BY latency_ms) AS p95
      FROM campaigns.executions
     WHERE run_id = %(run_id)s AND state = 'succeeded'
     GROUP BY GROUPING SETS ((), (technique_no), (target_no), (technique_no, target_no))
    """,
)

SET_STATE = sql(
    Nothing,
    """
    WITH run AS (
        UPDATE campaigns.runs
           SET state = %(state)s, state_reason = %(reason)s,
               finished_at = CASE WHEN %(state)s = 'cancelled' THEN clock_timestamp() END
         WHERE id = %(run_id)s
    )
    UPDATE campaigns.campaigns SET state = %(state)s WHERE id = %(campaign_id)s
    """,
)

LOCK_RUN = sql(
    dict,
    """
    SELECT r.id, r.state, r.concurrency, r.campaign_id, r.scoring_id FROM campaigns.runs r
      JOIN campaigns.campaigns c ON c.id = r.campaign_id
     WHERE r.id = %(run_id)s FOR NO KEY UPDATE OF r
    """,
)

# Before the run, as ticks do.
LOCK_MONEY = sql(
    dict,
    """
    SELECT cost_max, executions_max, tokens_max, wall_time_s, error_share_max, error_cells_min,
           interval_width_max, stop_reason
      FROM campaigns.run_money WHERE run_id = %(run_id)s FOR NO KEY UPDATE
    """,
)

SET_CONCURRENCY = sql(
    Nothing, "UPDATE campaigns.runs SET concurrency = %(concurrency)s WHERE id = %(run_id)s"
)

SET_LIMITS = sql(
    Nothing,
    """
    UPDATE campaigns.run_money
       SET cost_max = %(cost_max)s, executions_max = %(executions_max)s, tokens_max = %(tokens_max)s,
           wall_time_s = %(wall_time_s)s, error_share_max = %(error_share_max)s,
           error_cells_min = %(error_cells_min)s, interval_width_max = %(interval_width_max)s
     WHERE run_id = %(run_id)s
    """,
)

END_WAIT = sql(
    Nothing,
    """
    DELETE FROM accounting.waits
     WHERE run_id = (SELECT c.run_id FROM campaigns.campaigns c WHERE c.id = %(campaign_id)s)
    """,
)

LIVE = ("running", "paused")


async def get_run(tx: Tx, run_id: str) -> Run:
    """What follows in the transaction reads the run's rows in one go. Raises
    NotFound(RUN_NOT_FOUND)."""
    await tx.name_run(run_id)
    run = await tx.one(GET_RUN, run_id=run_id)
    if run is None:
        raise NotFound("RUN_NOT_FOUND", "There is no such run.")
    return run


async def check_run_level(tx: Tx, run_id: str, needed: Level) -> Run:
    """The run, of whose campaign the caller is at least at this level. Raises
    NotFound(RUN_NOT_FOUND), Denied(CAMPAIGN_LEVEL_TOO_LOW)."""
    run = await get_run(tx, run_id)
    await check_level(tx, run.campaign_id, needed)
    return run


def refuse_judging(run: Run) -> None:
    """Raises NotReady(RUN_JUDGES) for a run that judges the stored answers of another one."""
    if run.scoring_id:
        raise NotReady(
            "RUN_JUDGES",
            "This run judges the answers of another one. Name that one, or the scoring.",
            facts={"scoring_id": run.scoring_id},
        )


async def add_waiting(tx: Tx, run: Run) -> Run:
    """Says of a live run which of its models nothing is sent to at the moment."""
    if enum_text(run, "state", run.state) == "running":
        row = await tx.one(LIST_MODELS, run_id=run.id)
        names = dict(zip(row["model_ids"], row["model_names"], strict=True)) if row else {}
        for circuit in await list_shut(tx, list(names)):
            is_held = circuit.force or circuit.installation_force
            run.waiting_for.add(
                model_id=circuit.model_id,
                name=names[circuit.model_id],
                circuit_state="open" if is_held else enum_text(circuit, "state", circuit.state),
                cause="forced" if is_held else circuit.cause,
                retry_at=circuit.retry_at if circuit.HasField("retry_at") else None,
            )
    return run


async def list_runs(tx: Tx, campaign_id: str, *, after: str | None, limit: int) -> list[Run]:
    """Newest first, without counts. Raises NotFound(CAMPAIGN_NOT_FOUND)."""
    await get_campaign(tx, campaign_id)
    return await tx.all(LIST_RUNS, campaign_id=campaign_id, after=after, limit=limit)


async def pause_campaign(tx: Tx, campaign_id: str, reason: str) -> Campaign:
    """Also of one that waits for a budget, so that it does not go on by itself."""
    return await _move(tx, campaign_id, "pause", ("running",), "paused", reason)


async def resume_campaign(tx: Tx, campaign_id: str) -> Campaign:
    campaign = await _move(tx, campaign_id, "resume", ("paused",), "running", "")
    await outbox.enqueue(tx, "drive_runs", run_id=campaign.run_id)
    return campaign


async def cancel_campaign(tx: Tx, campaign_id: str, reason: str) -> Campaign:
    campaign = await _move(tx, campaign_id, "cancel", LIVE, "cancelled", reason)
    await outbox.enqueue(tx, "settle_run", run_id=campaign.run_id)
    return campaign


REFUSALS = {
    "pause": ("CAMPAIGN_NOT_RUNNING", "Only a running campaign can be paused."),
    "resume": ("CAMPAIGN_NOT_PAUSED", "Only a paused campaign can be resumed."),
    "cancel": ("CAMPAIGN_ALREADY_OVER", "Only a running or paused campaign can be cancelled."),
}


async def _move(
    tx: Tx, campaign_id: str, verb: str, needed: Sequence[str], state: str, reason: str
) -> Campaign:
    """Changes the state of a campaign and its run; the drives see it at their next tick."""
    before = await lock_campaign(tx, campaign_id)
    was = enum_text(before, "state", before.state) or ""
    waited = await tx.run(END_WAIT, campaign_id=campaign_id)
    if was not in needed and not (waited and verb == "pause"):
        code, message = REFUSALS[verb]
        raise NotReady(code, f"{message} This one is {was}.", facts={"state": was})
    await tx.run(
        SET_STATE, run_id=before.run_id, campaign_id=campaign_id, state=state, reason=reason
    )
    recording.record(
        tx,
        f"campaign.{verb}",
        "campaign",
        campaign_id,
        old={"state": was},
        new={"state": state, "run_id": before.run_id},
        reason=reason,
    )
    return await get_campaign(tx, campaign_id)


ERROR_CELLS_DEFAULT = 20


def money_limits(limits: Limits) -> dict[str, Any]:
    """The limits that stand in the money row of a run, by column."""
    return {
        "cost_max": Decimal(limits.cost_usd_max) if limits.cost_usd_max else None,
        "executions_max": limits.executions_max or None,
        "tokens_max": limits.tokens_max or None,
        "wall_time_s": limits.wall_time_s or None,
        "error_share_max": limits.error_share_max if limits.HasField("error_share_max") else None,
        "error_cells_min": limits.error_cells_min or ERROR_CELLS_DEFAULT,
        "interval_width_max": limits.interval_width_max or None,
    }


async def tune_run(tx: Tx, request: TuneRunRequest) -> Run:
    """New concurrency or other limits of a live run. Raises NotFound(RUN_NOT_FOUND), NotReady:
    CAMPAIGN_ALREADY_OVER, RUN_STOPPING."""
    standing = await tx.one(LOCK_MONEY, run_id=request.run_id)
    row = await tx.one(LOCK_RUN, run_id=request.run_id)
    if row is None or standing is None:  # or no policy lets the caller change it
        await check_run_level(tx, request.run_id, "execute")
        raise NotFound("RUN_NOT_FOUND", "There is no such run.")
    refuse_judging(Run(scoring_id=row["scoring_id"] or ""))
    if row["state"] not in LIVE:
        raise NotReady("CAMPAIGN_ALREADY_OVER", f"The run is {row['state']}.")
    if reason := standing.pop("stop_reason"):
        raise NotReady(
            "RUN_STOPPING",
            f"A limit was reached ({reason}) and the run is about to end; launch it anew.",
            facts={"stop_reason": reason},
        )
    given = {field.name: value for field, value in request.ListFields()}
    changes = {name: given[name] for name in (*TUNABLE, "concurrency") if name in given}
    if request.HasField("concurrency"):
        await tx.run(SET_CONCURRENCY, run_id=request.run_id, concurrency=request.concurrency)
    wanted = money_limits(Limits(**{name: given[name] for name in TUNABLE if name in given}))
    chosen = {column: wanted[column] for name, column in TUNABLE.items() if name in given}
    if chosen:
        await tx.run(SET_LIMITS, run_id=request.run_id, **{**standing, **chosen})
    recording.record(
        tx,
        "run.tune",
        "run",
        request.run_id,
        old=_shown({"concurrency": row["concurrency"], **standing}),
        new=changes,
    )
    return await get_run(tx, request.run_id)


# Field of the request -> column.
TUNABLE = {
    "cost_usd_max": "cost_max",
    "executions_max": "executions_max",
    "tokens_max": "tokens_max",
    "wall_time_s": "wall_time_s",
    "error_share_max": "error_share_max",
    "error_cells_min": "error_cells_min",
    "interval_width_max": "interval_width_max",
}


def _shown(standing: dict[str, Any]) -> dict[str, Any]:
    """For the log: limits that are set, money as text."""
    shown = {"cost_usd_max" if name == "cost_max" else name: v for name, v in standing.items()}
    return {
        name: decimal_text(value) if isinstance(value, Decimal) else value
        for name, value in shown.items()
        if value is not None
    }


# --- rates ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """Counters that can be added up; latency in ms."""

    scored: int = 0
    successes: int = 0
    failed: int = 0
    latency_ms_sum: int = 0
    cost: Decimal = Decimal(0)
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, row: dict[str, Any]) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + row[field.name])

    def rate(self, latency: dict[str, Any] | None) -> Rate:
        """With its 95 % Wilson interval; without a rate when nothing was scored."""
        rate = Rate(
            scored=self.scored,
            successes=self.successes,
            failed=self.failed,
            cost_usd=decimal_text(self.cost),
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
        )
        if self.scored:
            interval = wilson_interval(self.successes, self.scored)
            rate.rate, rate.low, rate.high = (
                self.successes / self.scored,
                interval.low,
                interval.high,
            )
            rate.latency_ms_avg = self.latency_ms_sum / self.scored
        if latency is not None and latency["p50"] is not None:
            rate.latency_ms_p50, rate.latency_ms_p95 = latency["p50"], latency["p95"]
        return rate


def _sum(rows: Iterable[dict[str, Any]]) -> Tally:
    tally = Tally()
    for row in rows:
        tally.add(row)
    return tally


async def summarise_run(tx: Tx, run_id: str) -> GetRunSummaryResponse:
    """Rates by technique, target and both. Cells that errored or were parked count as failed."""
    run = await get_run(tx, run_id)
    rows = await tx.all(LIST_TALLIES, run_id=run_id)
    latencies = {
        (row["technique_no"], row["target_no"]): row
        for row in await tx.all(LIST_LATENCIES, run_id=run_id)
    }
    by_model = await tx.all(LIST_MODEL_TALLIES, run_id=run_id)
    models = await tx.one(LIST_MODELS, run_id=run_id)
    return summary_of(run, rows, latencies, models, by_model)


def summary_of(
    run: Run,
    rows: Sequence[dict[str, Any]],
    latencies: Mapping[tuple[int | None, int | None], dict[str, Any]],
    models: dict[str, Any] | None,
    by_model: Sequence[dict[str, Any]],
) -> GetRunSummaryResponse:
    """rows: tallies by technique and target; latencies: by (technique_no, target_no), None for all."""
    targets = [name.partition("/") for name in run.target_names]
    return GetRunSummaryResponse(
        run=run,
        run_ids=[run.id],
        overall=_sum(rows).rate(latencies.get((None, None))),
        by_technique=[
            RateByTechnique(
                technique_no=number,
                technique=name,
                rate=_sum(row for row in rows if row["technique_no"] == number).rate(
                    latencies.get((number, None))
                ),
            )
            for number, name in enumerate(run.technique_names)
        ],
        by_target=[
            RateByTarget(
                target_no=number,
                provider=provider,
                model=model,
                rate=_sum(row for row in rows if row["target_no"] == number).rate(
                    latencies.get((None, number))
                ),
            )
            for number, (provider, _slash, model) in enumerate(targets)
        ],
        by_technique_and_target=[
            RateByCell(
                technique_no=row["technique_no"],
                target_no=row["target_no"],
                rate=_sum([row]).rate(latencies.get((row["technique_no"], row["target_no"]))),
            )
            for row in rows
        ],
        by_model_used=[_rate_by_model(models, row) for row in by_model] if models else [],
    )


def _rate_by_model(models: dict[str, Any], row: dict[str, Any]) -> RateByModel:
    provider, _slash, model = models["model_names"][row["model_no"]].partition("/")
    return RateByModel(
        model_id=models["model_ids"][row["model_no"]],
        provider=provider,
        model=model,
        rate=_sum([row]).rate(None),
    )
