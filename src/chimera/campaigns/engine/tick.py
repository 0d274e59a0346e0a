"""One tick: the transaction that settles what came back and commits what goes out next.

Order of locks: shards, attempts, executions, tallies, run_money (migrations/README.md). Rows of a
batch are sorted by key, or two workers deadlock. Every statement is safe to repeat: a tick whose
COMMIT was lost from sight is simply run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson

from chimera.audit import merkle, recording
from chimera.audit.leaf import Kind, Severity
from chimera.campaigns.engine.completion import finish_shards
from chimera.campaigns.engine.leasing import Lease
from chimera.campaigns.plan import Prepared, RunPlan
from chimera.db import Nothing, Tx, sql
from chimera.ids import new_id
from chimera.rows import decimal_text
from chimera.telemetry.events import Event, Recorded, RunFacts, execution_events
from chimera.telemetry.operations import accept

TALLY_SLOTS = 4


@dataclass(slots=True)
class Result:
    """The final outcome of a cell: answered and scored, failed, or parked. Times in ms."""

    state: str
    original_prompt: str
    transformed_prompt: str
    response: str = ""
    response_truncated: bool = False
    is_successful: bool | None = None
    success_score: float | None = None
    verdict_reason: str = ""
    error_kind: str = ""
    attempts: int = 1


@dataclass(slots=True)
class Outcome:
    """What became of one attempt; with `result` when it decided its cell.

    attempt_no 0 stands for none: the cell is decided without a call of its own (parked, given up).
    """

    cell_no: int
    attempt_no: int
    started_at: datetime
    cost: Decimal = Decimal(0)
    worst_cost: Decimal = Decimal(0)
    latency_ms: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    http_status: int | None = None
    error_kind: str = ""
    error_message: str = ""
    result: Result | None = None

    def bare(self) -> None:
        """Leaves nothing of what the target said, for when that cannot be stored."""
        self.cost, self.input_tokens, self.output_tokens = self.worst_cost, 0, 0
        self.error_message = ""
        if self.result is not None:
            self.result = Result(
                "failed",
                "",
                "",
                error_kind="unstorable",
                verdict_reason="what the target answered cannot be stored",
                attempts=self.result.attempts,
            )


@dataclass(slots=True)
class Send:
    """An attempt that is about to go out."""

    prepared: Prepared
    attempt_no: int
    fence: int
    alone: bool = False


@dataclass(slots=True)
class Control:
    """What the run's row and its surroundings say now."""

    state: str
    attempts_max: int
    share: int  # of the concurrency, for this drive; 0 when there are more drives than places
    drivers: int
    stopped: bool
    leases: set[int]
    allowed: set[str]
    out_of_money: bool = False  # the limit let not one of them pass
    admitted: list[Send] = field(default_factory=list)


RENEW = sql(
    dict,
    """
    WITH kept AS (
        UPDATE campaigns.shards s
           SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
          FROM unnest(%(shards)s::int[], %(fences)s::bigint[]) AS l (shard_no, fence)
         WHERE s.run_id = %(run_id)s AND s.shard_no = l.shard_no AND s.fence = l.fence
           AND s.owner = %(owner)s AND s.state = 'open'
        RETURNING s.shard_no
    )
    SELECT r.state, r.concurrency, r.attempts_max,
           ARRAY(SELECT shard_no FROM kept) AS leases,
           o.others + 1 AS drivers, o.before,
           COALESCE((SELECT bool_or(k.sending_stopped) FROM ops.kill_switches k
             WHERE k.org_id IS NULL OR k.org_id = r.org_id), false) AS stopped,
           ARRAY(SELECT t.model_id FROM providers.allowed_targets t
                  WHERE t.org_id = r.org_id AND t.model_id = ANY(%(models)s::uuid[])) AS allowed
      FROM campaigns.runs r
     CROSS JOIN LATERAL (
        SELECT count(DISTINCT s.owner) AS others,
               count(DISTINCT s.owner) FILTER (WHERE s.owner < %(owner)s) AS before
          FROM campaigns.shards s
         WHERE s.run_id = r.id AND s.state = 'open' AND s.lease_until > clock_timestamp()
           AND s.owner <> %(owner)s
     ) o
     WHERE r.id = %(run_id)s
    """,
)

# Attempts move from sent (or, after a takeover, unknown) to settled once; that row drives ledger
# and money. Executions are inserted once; that row drives the counters.
#
# What the recorded results cost is in the ledger as charges that are not discarded, cell by cell.
# A late answer that is recorded after its attempt was booked at the worst takes that back whole and
# is charged anew; one that is not recorded only corrects the worst.
SETTLE = sql(
    dict,
    """
    WITH r AS MATERIALIZED (
        SELECT * FROM json_to_recordset(%(rows)s::json) AS r (
            cell_no bigint, attempt_no int, cost numeric, latency_ms int,
            input_tokens int, output_tokens int, http_status int, error_kind text, error_message text,
            started_at timestamptz, prompt_no bigint, technique_no int, target_no int, iteration int,
            state text, original_prompt text, transformed_prompt text, response text,
            response_truncated boolean, is_successful boolean, success_score real,
            verdict_reason text, final_error text, attempts int)
    ), held AS MATERIALIZED (
        SELECT a.cell_no, a.attempt_no, a.state AS was, a.worst_cost
          FROM campaigns.attempts a JOIN r USING (cell_no, attempt_no)
         WHERE a.run_id = %(run_id)s AND a.state IN ('sent', 'unknown')
         ORDER BY a.cell_no, a.attempt_no FOR NO KEY UPDATE OF a
    ), settled AS (
        UPDATE campaigns.attempts a
           SET state = 'settled', cost = r.cost, latency_ms = r.latency_ms, http_status = r.http_status,
               error_kind = r.error_kind, error_message = r.error_message,
               settled_at = clock_timestamp()
          FROM held JOIN r USING (cell_no, attempt_no)
         WHERE a.run_id = %(run_id)s AND a.cell_no = held.cell_no AND a.attempt_no = held.attempt_no
        RETURNING a.cell_no, a.attempt_no, held.was, held.worst_cost, r.cost, r.target_no,
                  r.input_tokens, r.output_tokens, r.state IS NOT NULL AS decides
    ), inserted AS (
        INSERT INTO campaigns.executions
            (run_id, cell_no, org_id, prompt_no, technique_no, target_no, iteration_number, state,
             original_prompt, transformed_prompt, response, response_truncated, is_successful,
             success_score, verdict_reason, error_kind, attempts, latency_ms, input_tokens,
             output_tokens, cost, started_at)
        SELECT %(run_id)s::uuid, cell_no, %(org_id)s::uuid, prompt_no, technique_no, target_no,
               iteration, state, original_prompt, transformed_prompt, response, response_truncated,
               is_successful, success_score, verdict_reason, final_error, attempts, latency_ms,
               input_tokens, output_tokens, cost, started_at
          FROM r WHERE state IS NOT NULL
         ORDER BY cell_no
            ON CONFLICT (run_id, cell_no) DO NOTHING
        RETURNING cell_no, technique_no, target_no, state, is_successful, latency_ms, input_tokens,
                  output_tokens, cost
    ), booked AS (
        INSERT INTO providers.ledger
            (run_id, cell_no, attempt_no, entry_no, org_id, user_id, model_id, price_version_id,
             kind, discarded, input_tokens, output_tokens, cost)
        SELECT %(run_id)s::uuid, s.cell_no, s.attempt_no, e.entry_no,
               %(org_id)s::uuid, %(user_id)s::uuid, (%(models)s::uuid[])[s.target_no + 1],
               (%(prices)s::uuid[])[s.target_no + 1], e.kind,
               e.kind = 'correction' OR i.cell_no IS NULL,
               CASE WHEN e.tells THEN s.input_tokens ELSE 0 END,
               CASE WHEN e.tells THEN s.output_tokens ELSE 0 END, e.cost
          FROM settled s
          LEFT JOIN inserted i ON i.cell_no = s.cell_no AND s.decides
         CROSS JOIN LATERAL (VALUES
            (0, 'charge', s.was = 'sent' AND s.cost <> 0, true, s.cost),
            (1, 'correction', s.was = 'unknown', i.cell_no IS NULL,
                CASE WHEN i.cell_no IS NULL THEN s.cost ELSE 0 END - s.worst_cost),
            (2, 'charge', s.was = 'unknown' AND i.cell_no IS NOT NULL, true, s.cost)
         ) AS e (entry_no, kind, applies, tells, cost)
         WHERE e.applies
         ORDER BY s.cell_no, s.attempt_no, e.entry_no
    ), tallied AS (
        INSERT INTO campaigns.tallies AS t
            (run_id, slot, technique_no, target_no, org_id, scored, successes, failed, parked,
             skipped, latency_ms_sum, input_tokens, output_tokens, cost)
        SELECT %(run_id)s::uuid, %(slot)s::smallint, technique_no, target_no, %(org_id)s::uuid,
               count(*) FILTER (WHERE state = 'succeeded'),
               count(*) FILTER (WHERE is_successful),
               count(*) FILTER (WHERE state = 'failed'),
               count(*) FILTER (WHERE state = 'parked'),
               count(*) FILTER (WHERE state = 'skipped'),
               COALESCE(sum(latency_ms) FILTER (WHERE state = 'succeeded'), 0),
               sum(input_tokens), sum(output_tokens), sum(cost)
          FROM inserted
         GROUP BY technique_no, target_no
         ORDER BY technique_no, target_no
            ON CONFLICT (run_id, slot, technique_no, target_no) DO UPDATE
           SET scored = t.scored + EXCLUDED.scored,
               successes = t.successes + EXCLUDED.successes,
               failed = t.failed + EXCLUDED.failed,
               parked = t.parked + EXCLUDED.parked,
               skipped = t.skipped + EXCLUDED.skipped,
               latency_ms_sum = t.latency_ms_sum + EXCLUDED.latency_ms_sum,
               input_tokens = t.input_tokens + EXCLUDED.input_tokens,
               output_tokens = t.output_tokens + EXCLUDED.output_tokens,
               cost = t.cost + EXCLUDED.cost
    )
    SELECT (SELECT COALESCE(array_agg(cell_no), '{}') FROM inserted) AS cells,
           COALESCE((SELECT sum(CASE was WHEN 'sent' THEN worst_cost ELSE 0 END) FROM settled), 0) AS released,
           COALESCE((SELECT sum(CASE was WHEN 'sent' THEN cost ELSE cost - worst_cost END)
                       FROM settled), 0) AS spent
    """,
)

FLUSHED = sql(
    Nothing,
    """
    INSERT INTO campaigns.flushes (run_id, id, org_id, cells, root)
    VALUES (%(run_id)s, %(id)s, %(org_id)s, %(cells)s::bigint[], %(root)s)
    """,
)

MOVE_MONEY = sql(
    dict,
    """
    UPDATE campaigns.run_money
       SET settled = settled + %(spent)s::numeric, held = held - %(released)s::numeric
     WHERE run_id = %(run_id)s
    RETURNING cost_max - settled - held AS money_left
    """,
)

HOLD_MONEY = sql(
    Nothing,
    "UPDATE campaigns.run_money SET held = held + %(hold)s::numeric WHERE run_id = %(run_id)s",
)

# A repeated tick finds its own rows from a COMMIT whose answer was lost; they are not new.
SEND = sql(
    dict,
    """
    WITH n AS MATERIALIZED (
        SELECT * FROM unnest(%(cells)s::bigint[], %(attempts)s::int[], %(fences)s::bigint[],
                             %(alone)s::boolean[], %(worst)s::numeric[])
                   AS n (cell_no, attempt_no, fence, alone, worst_cost)
    ), sent AS (
        INSERT INTO campaigns.attempts
            (run_id, cell_no, attempt_no, org_id, fence, alone, worst_cost)
        SELECT %(run_id)s::uuid, cell_no, attempt_no, %(org_id)s::uuid, fence, alone, worst_cost
          FROM n ORDER BY cell_no, attempt_no
            ON CONFLICT (run_id, cell_no, attempt_no) DO NOTHING
        RETURNING cell_no, attempt_no
    )
    SELECT cell_no, attempt_no, true AS fresh FROM sent
    UNION ALL
    SELECT a.cell_no, a.attempt_no, false
      FROM campaigns.attempts a JOIN n USING (cell_no, attempt_no)
     WHERE a.run_id = %(run_id)s AND a.fence = n.fence AND a.state = 'sent'
    """,
)


@dataclass(frozen=True)
class TickContext:
    """What stays the same over all ticks of a drive."""

    run_id: str
    org_id: str
    campaign_id: str
    user_id: str
    owner: str
    slot: int
    lease_s: float
    plan: RunPlan

    @property
    def models(self) -> list[str]:
        return [target.model_id for target in self.plan.targets]


async def run_tick(
    tx: Tx,
    context: TickContext,
    leases: Sequence[Lease],
    outcomes: Sequence[Outcome],
    wanted: Sequence[Send],
    complete: Sequence[Lease],
) -> Control:
    """Everything of one tick, inside one transaction; the answer says what may be sent now.

    leases: those held; outcomes: what came back; wanted: what should go out next, in order;
    complete: leases whose cells are all decided with these outcomes.
    """
    row = await tx.one(
        RENEW,
        run_id=context.run_id,
        owner=context.owner,
        lease_s=context.lease_s,
        shards=[lease.shard_no for lease in leases],
        fences=[lease.fence for lease in leases],
        models=context.models,
    )
    if row is None:
        raise LookupError(f"run {context.run_id} is gone")
    control = Control(
        state=row["state"],
        attempts_max=row["attempts_max"],
        share=_share(row["concurrency"], row["drivers"], row["before"]),
        drivers=row["drivers"],
        stopped=row["stopped"],
        leases=set(row["leases"]),
        allowed=set(row["allowed"]),
    )
    held = [lease for lease in leases if lease.shard_no in control.leases]
    _leave_undecided(outcomes, held)
    released = spent = Decimal(0)
    if outcomes:
        released, spent = await _settle(tx, context, outcomes)
    sends = _admissible(control, context, held, wanted)
    if outcomes or sends:
        money = await tx.one(MOVE_MONEY, run_id=context.run_id, spent=spent, released=released)
        control.admitted = _affordable(sends, money["money_left"] if money else None)
        control.out_of_money = bool(sends) and not control.admitted
        if control.admitted:
            await _commit_sends(tx, context, control)
    if complete:
        kept = [lease for lease in complete if lease.shard_no in control.leases]
        await finish_shards(tx, context.run_id, context.campaign_id, context.owner, kept)
    return control


def _share(concurrency: int, drivers: int, before: int) -> int:
    """An even part of the run's concurrency; what does not divide goes to the first drives."""
    share, rest = divmod(concurrency, drivers)
    return share + (before < rest)


def _leave_undecided(outcomes: Sequence[Outcome], held: Sequence[Lease]) -> None:
    """Without the lease only an answer decides a cell: whoever holds it now may still get one
    where this worker gave up. What was sent is settled all the same."""
    for outcome in outcomes:
        result = outcome.result
        if result is None or result.state == "succeeded":
            continue
        if not any(lease.holds(outcome.cell_no) for lease in held):
            outcome.result = None


def _admissible(
    control: Control, context: TickContext, held: Sequence[Lease], wanted: Sequence[Send]
) -> list[Send]:
    """Of what should go out, what the leases, the run, the kill switch and the allow-list let
    pass."""
    if control.state != "running" or control.stopped:
        return []
    targets = context.plan.targets
    return [
        send
        for send in wanted
        if targets[send.prepared.cell.target_no].model_id in control.allowed
        and any(lease.holds(send.prepared.cell.cell_no) for lease in held)
    ]


def _affordable(sends: list[Send], money_left: Decimal | None) -> list[Send]:
    """The longest prefix whose worst cost fits into what is left of the limit."""
    if money_left is None:
        return sends
    for count, send in enumerate(sends):
        money_left -= send.prepared.worst_cost
        if money_left < 0:
            return sends[:count]
    return sends


async def _settle(
    tx: Tx, context: TickContext, outcomes: Sequence[Outcome]
) -> tuple[Decimal, Decimal]:
    """Records outcomes; returns the worst cost given back and the money spent."""
    ordered = sorted(outcomes, key=lambda outcome: (outcome.cell_no, outcome.attempt_no))
    rows = [_row(context.plan, outcome) for outcome in ordered]
    done = await tx.one(
        SETTLE,
        rows=orjson.dumps(rows).decode(),
        run_id=context.run_id,
        org_id=context.org_id,
        user_id=context.user_id,
        slot=context.slot % TALLY_SLOTS,
        models=context.models,
        prices=[target.price_version_id for target in context.plan.targets],
    )
    assert done is not None  # an aggregate without GROUP BY has one row
    recorded = set(done["cells"])
    if recorded:
        fresh = [row for row in rows if row["state"] is not None and row["cell_no"] in recorded]
        await _tell(tx, context, fresh)
    return done["released"], done["spent"]


async def _tell(tx: Tx, context: TickContext, rows: list[dict[str, Any]]) -> None:
    """The flush row that watches tail, the telemetry batch, and the audit event over the rows."""
    cells = [row["cell_no"] for row in rows]
    root = merkle.root(merkle.leaf_hash(digest_bytes(row)) for row in rows)
    flush_id = new_id()
    await tx.run(
        FLUSHED, run_id=context.run_id, id=flush_id, org_id=context.org_id, cells=cells, root=root
    )
    await accept(tx, "campaigns", context.org_id, _telemetry(context, rows))
    recording.record(
        tx,
        "run.record",
        "run",
        context.run_id,
        new={"flush_id": flush_id, "cells": len(cells), "merkle_root": root.hex()},
        kind=Kind.DATA,
        severity=Severity.DEBUG,
    )


def _telemetry(context: TickContext, rows: list[dict[str, Any]]) -> list[Event]:
    plan = context.plan
    facts = RunFacts(context.run_id, context.campaign_id, context.user_id)
    recorded = [
        Recorded(
            cell_no=row["cell_no"],
            started_at=row["started_at"],
            state=row["state"],
            is_successful=row["is_successful"],
            score=row["success_score"],
            technique=plan.technique_names[row["technique_no"]],
            provider=plan.targets[row["target_no"]].provider,
            model=plan.targets[row["target_no"]].model,
            error_kind=row["final_error"],
            latency_ms=row["latency_ms"],
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
            cost_usd=Decimal(row["cost"]),
        )
        for row in rows
    ]
    return execution_events(facts, recorded)


# What a result is, as the Merkle root of its flush pins it; all of it is stored as it stands.
DIGESTED = (
    "cell_no",
    "state",
    "transformed_prompt",
    "response",
    "is_successful",
    "verdict_reason",
    "final_error",
    "input_tokens",
    "output_tokens",
    "cost",
)


def digest_bytes(row: dict[str, Any]) -> bytes:
    """Canonical JSON of the digested members of a result."""
    return orjson.dumps([row[name] for name in DIGESTED])


async def _commit_sends(tx: Tx, context: TickContext, control: Control) -> None:
    sends = control.admitted
    rows = await tx.all(
        SEND,
        run_id=context.run_id,
        org_id=context.org_id,
        cells=[send.prepared.cell.cell_no for send in sends],
        attempts=[send.attempt_no for send in sends],
        fences=[send.fence for send in sends],
        alone=[send.alone for send in sends],
        worst=[send.prepared.worst_cost for send in sends],
    )
    fresh = {(row["cell_no"], row["attempt_no"]): row["fresh"] for row in rows}
    control.admitted = [
        send for send in sends if (send.prepared.cell.cell_no, send.attempt_no) in fresh
    ]
    hold = sum(
        (
            send.prepared.worst_cost
            for send in control.admitted
            if fresh[send.prepared.cell.cell_no, send.attempt_no]
        ),
        Decimal(0),
    )
    # Also without a limit: one may be set while these are in flight.
    await tx.run(HOLD_MONEY, run_id=context.run_id, hold=hold)


def _row(plan: RunPlan, outcome: Outcome) -> dict[str, Any]:
    """One outcome as the SETTLE statement and the digest see it."""
    cell = plan.cell(outcome.cell_no)
    row: dict[str, Any] = {
        "cell_no": outcome.cell_no,
        "attempt_no": outcome.attempt_no,
        "prompt_no": cell.prompt_no,
        "technique_no": cell.technique_no,
        "target_no": cell.target_no,
        "iteration": cell.iteration,
        "cost": decimal_text(outcome.cost),
        "latency_ms": outcome.latency_ms,
        "input_tokens": outcome.input_tokens,
        "output_tokens": outcome.output_tokens,
        "http_status": outcome.http_status,
        "error_kind": outcome.error_kind or None,
        "error_message": outcome.error_message or None,
        "started_at": outcome.started_at,
        "state": None,
    }
    result = outcome.result
    if result is not None:
        row |= {
            "state": result.state,
            "original_prompt": _storable(result.original_prompt),
            "transformed_prompt": _storable(result.transformed_prompt),
            "response": _storable(result.response),
            "response_truncated": result.response_truncated,
            "is_successful": result.is_successful,
            "success_score": result.success_score,
            "verdict_reason": _storable(result.verdict_reason),
            "final_error": result.error_kind,
            "attempts": result.attempts,
        }
    return row


def _storable(text: str) -> str:
    """PostgreSQL text has no NUL, and UTF-8 no lone surrogates."""
    text = text.replace("\0", "�")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
