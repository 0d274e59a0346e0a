"""Settlement: records what came back, exactly once.

An attempt moves from sent to settled once, and that drives ledger and money; an execution is
inserted once, and that drives counters and whom it is told to (telling.py). So a batch may be settled
again, by anyone, at any time: what was recorded already changes nothing.

A call of a conversation is kept as a turn; the one that ends it inserts the execution, whose cost,
tokens and time are those of all its turns. So the ledger of a run is what its executions cost, and
the turns of cells that have none yet, and what was discarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import orjson

from chimera.accounting.windows import Purse, Settled
from chimera.campaigns.conversations.turns import TARGET, Ask, Turn, transcript_of
from chimera.campaigns.engine.telling import tell
from chimera.campaigns.plan import RunPlan
from chimera.db import Tx, sql
from chimera.rows import decimal_text

TALLY_SLOTS = 4


@dataclass(slots=True)
class Result:
    """The final outcome of a cell: answered and scored, failed, or parked. Times in ms."""

    state: str
    original_prompt: str
    transformed_prompt: str
    response: str = ""
    response_truncated: bool = False
    finish_reason: str = ""  # of the answer, as the adapter says it
    is_successful: bool | None = None
    success_score: float | None = None
    verdict_reason: str = ""
    error_kind: str = ""
    attempts: int = 1
    # Of a conversation, which says why it ended; its texts are masked. model_no: of the answer
    # that is decided on, or the first that was to be asked.
    turns: tuple[Turn, ...] = ()
    decided_turn_no: int | None = None
    ended_by: str = ""
    model_no: int | None = None


@dataclass(slots=True)
class Outcome:
    """What became of one attempt; with `result` when it decided its cell, and in a conversation
    with the `turn` it brought and what is asked next.

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
    model_no: int | None = None  # None: the first that the cell would try
    fence: int = 0  # of the lease it was sent under
    turn: Turn | None = None
    next_ask: Ask | None = None
    tokens: int = 0  # booked; all it could take when nobody said
    worst_tokens: int = 0

    @property
    def begins(self) -> bool:
        """Whether it decides a cell for which nothing was ever sent."""
        return self.attempt_no == 0 and self.result is not None and self.result.attempts == 0

    def bare(self) -> None:
        """Leaves nothing of what the target said, for when that cannot be stored."""
        self.cost, self.input_tokens, self.output_tokens = self.worst_cost, 0, 0
        self.tokens = self.worst_tokens
        self.error_message = ""
        if self.turn is not None and self.result is None:
            self.result = Result("failed", "", "", attempts=self.attempt_no)
        self.turn = self.next_ask = None
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
class Settlement:
    """What a batch changed: groups: what its attempts held and cost, by key and day; seats: of calls
    of attackers and judges, by model; tokens held
    and booked; cells recorded, of those failed or parked, successful, and never sent."""

    groups: list[Settled] = field(default_factory=list)
    seats: list[dict[str, Any]] = field(default_factory=list)
    tokens_released: int = 0
    tokens: int = 0
    recorded: int = 0
    failed: int = 0
    successful: int = 0
    begun: int = 0


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
    launched_at: datetime | None = None
    api_key_id: str = ""
    cells_total: int = 0  # of the run; 0: all that the plan has
    scoring_id: str = ""  # of a run that judges the stored answers of another one

    @property
    def purse(self) -> Purse:
        """Whose budgets the run's calls are under."""
        return Purse(self.org_id, self.user_id, self.campaign_id, self.api_key_id)

    @property
    def models(self) -> list[str]:
        return [model.model_id for model in self.plan.models]


# Attempts move from sent (or, after a takeover, unknown) to settled once; that row drives ledger
# and money. Executions are inserted once; that row drives the counters. Every attempt that went out
# has a ledger row, also at no cost: requests are counted there.
#
# What the recorded results cost is in the ledger as charges that are not discarded, cell by cell.
# A late answer that is recorded after its attempt was booked at the worst takes that back whole and
# is charged anew; one that is not recorded only corrects the worst.
SETTLE = sql(
    dict,
    """
    WITH r AS MATERIALIZED (
        SELECT * FROM json_to_recordset(%(rows)s::json) AS r (
            cell_no bigint, attempt_no int, cost numeric, tokens bigint, latency_ms int,
            input_tokens int, output_tokens int, http_status int, error_kind text, error_message text,
            started_at timestamptz, prompt_no bigint, technique_no int, target_no int, model_no int,
            iteration int,
            state text, original_prompt text, transformed_prompt text, response text,
            response_truncated boolean, finish_reason text, is_successful boolean, success_score real,
            verdict_reason text, final_error text, attempts int,
            kept boolean, turn_count int, decided_turn_no int, ended_by text, transcript text,
            cell_model_no int, cell_cost numeric, cell_latency_ms int, cell_input_tokens int,
            cell_output_tokens int, cell_started_at timestamptz)
    ), held AS MATERIALIZED (
        SELECT a.cell_no, a.attempt_no, a.state AS was, a.worst_cost, a.worst_tokens, a.reserve,
               a.provider_key_id,
               (a.sent_at AT TIME ZONE 'UTC')::date AS sent_on
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
        RETURNING a.cell_no, a.attempt_no, held.was, held.worst_cost, held.worst_tokens, r.tokens,
                  held.reserve,
                  held.provider_key_id, held.sent_on, r.cost, r.model_no, r.technique_no,
                  r.input_tokens, r.output_tokens, r.state IS NOT NULL AS decides, COALESCE(r.kept, false) AS kept,
                  r.error_kind IS DISTINCT FROM 'not_sent' AS went
    ), inserted AS (
        INSERT INTO campaigns.executions
            (run_id, cell_no, org_id, prompt_no, technique_no, target_no, model_no, iteration_number, state,
             original_prompt, transformed_prompt, response, response_truncated, finish_reason,
             is_successful, success_score, verdict_reason, error_kind, attempts, latency_ms, input_tokens,
             output_tokens, cost, started_at, turn_count, decided_turn_no, ended_by, transcript)
        SELECT %(run_id)s::uuid, cell_no, %(org_id)s::uuid, prompt_no, technique_no, target_no,
               COALESCE(cell_model_no, model_no), iteration, state, original_prompt,
               transformed_prompt, response, response_truncated, finish_reason, is_successful, success_score,
               verdict_reason, final_error, attempts, COALESCE(cell_latency_ms, latency_ms),
               COALESCE(cell_input_tokens, input_tokens), COALESCE(cell_output_tokens, output_tokens),
               COALESCE(cell_cost, cost), COALESCE(cell_started_at, started_at),
               COALESCE(turn_count, 0), decided_turn_no, COALESCE(ended_by, ''),
               decode(transcript, 'hex')
          FROM r WHERE state IS NOT NULL
         ORDER BY cell_no
            ON CONFLICT (run_id, cell_no) DO NOTHING
        RETURNING cell_no, technique_no, target_no, model_no, state, is_successful, latency_ms, input_tokens,
                  output_tokens, cost
    ), booked AS (
        INSERT INTO providers.ledger
            (run_id, cell_no, attempt_no, entry_no, org_id, user_id, model_id, price_version_id,
             kind, discarded, input_tokens, output_tokens, cost, sent_on, provider_key_id, technique_no)
        SELECT %(run_id)s::uuid, s.cell_no, s.attempt_no, e.entry_no,
               %(org_id)s::uuid, %(user_id)s::uuid, (%(models)s::uuid[])[s.model_no + 1],
               (%(prices)s::uuid[])[s.model_no + 1], e.kind,
               e.kind = 'correction' OR NOT counts,
               CASE WHEN e.tells THEN s.input_tokens ELSE 0 END,
               CASE WHEN e.tells THEN s.output_tokens ELSE 0 END, e.cost, s.sent_on,
               s.provider_key_id, s.technique_no
          FROM settled s
          LEFT JOIN inserted i ON i.cell_no = s.cell_no AND s.decides
         CROSS JOIN LATERAL (SELECT i.cell_no IS NOT NULL OR s.kept AS counts) AS c
         CROSS JOIN LATERAL (VALUES
            (0, 'charge', s.was = 'sent' AND s.went, true, s.cost),
            (1, 'correction', s.was = 'unknown', NOT counts,
                CASE WHEN counts THEN 0 ELSE s.cost END - s.worst_cost),
            (2, 'charge', s.was = 'unknown' AND counts, true, s.cost)
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
    ), tallied_by_model AS (
        INSERT INTO campaigns.model_tallies AS t
            (run_id, slot, model_no, org_id, scored, successes, failed, latency_ms_sum,
             input_tokens, output_tokens, cost)
        SELECT %(run_id)s::uuid, %(slot)s::smallint, model_no, %(org_id)s::uuid,
               count(*) FILTER (WHERE state = 'succeeded'),
               count(*) FILTER (WHERE is_successful),
               count(*) FILTER (WHERE state IN ('failed', 'parked')),
               COALESCE(sum(latency_ms) FILTER (WHERE state = 'succeeded'), 0),
               sum(input_tokens), sum(output_tokens), sum(cost)
          FROM inserted
         WHERE %(has_routes)s
         GROUP BY model_no ORDER BY model_no
            ON CONFLICT (run_id, slot, model_no) DO UPDATE
           SET scored = t.scored + EXCLUDED.scored,
               successes = t.successes + EXCLUDED.successes,
               failed = t.failed + EXCLUDED.failed,
               latency_ms_sum = t.latency_ms_sum + EXCLUDED.latency_ms_sum,
               input_tokens = t.input_tokens + EXCLUDED.input_tokens,
               output_tokens = t.output_tokens + EXCLUDED.output_tokens,
               cost = t.cost + EXCLUDED.cost
    )
    SELECT (SELECT COALESCE(array_agg(cell_no), '{}') FROM inserted) AS cells,
           t.released AS tokens_released, t.booked AS tokens,
           (SELECT COALESCE(json_agg(g), '[]') FROM (
                SELECT provider_key_id, sent_on,
                       count(*) FILTER (WHERE was = 'sent') AS requests_released,
                       COALESCE(sum(worst_cost + reserve) FILTER (WHERE was = 'sent'), 0)::text
                           AS cost_released,
                       count(*) FILTER (WHERE was = 'sent' AND went) AS requests,
                       sum(CASE was WHEN 'sent' THEN cost ELSE cost - worst_cost END)::text AS cost
                  FROM settled GROUP BY provider_key_id, sent_on) g) AS groups,
           (SELECT COALESCE(json_agg(m), '[]') FROM (
                SELECT model_no, count(*) FILTER (WHERE was = 'sent' AND went) AS calls,
                       COALESCE(sum(worst_cost + reserve) FILTER (WHERE was = 'sent'), 0)::text
                           AS released,
                       sum(CASE was WHEN 'sent' THEN cost ELSE cost - worst_cost END)::text AS cost,
                       sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens
                  FROM settled WHERE model_no >= %(target_models)s GROUP BY model_no) m) AS seats
      FROM (SELECT COALESCE(sum(worst_tokens) FILTER (WHERE was = 'sent'), 0)::bigint AS released,
                   COALESCE(sum(CASE was WHEN 'sent' THEN tokens ELSE tokens - worst_tokens END), 0)::bigint
                       AS booked
              FROM settled) t
    """,
)


async def settle(tx: Tx, context: TickContext, outcomes: Sequence[Outcome]) -> Settlement:
    """Records outcomes."""
    ordered = sorted(outcomes, key=lambda outcome: (outcome.cell_no, outcome.attempt_no))
    _decide_once(ordered)
    rows = [_row(context.plan, outcome) for outcome in ordered]
    done = await tx.one(
        SETTLE,
        rows=orjson.dumps(rows).decode(),
        run_id=context.run_id,
        org_id=context.org_id,
        user_id=context.user_id,
        slot=context.slot % TALLY_SLOTS,
        models=context.models,
        prices=[model.price_version_id for model in context.plan.models],
        has_routes=context.plan.has_routes,
        target_models=context.plan.target_models,
    )
    assert done is not None  # an aggregate without GROUP BY has one row
    recorded = set(done["cells"])
    fresh = [row for row in rows if row["state"] is not None and row["cell_no"] in recorded]
    if fresh:
        await tell(tx, context, fresh)
    return Settlement(
        groups=[_settled(group) for group in done["groups"]],
        seats=done["seats"],
        tokens_released=done["tokens_released"],
        tokens=done["tokens"],
        recorded=len(fresh),
        failed=sum(row["state"] != "succeeded" for row in fresh),
        successful=sum(bool(row["is_successful"]) for row in fresh),
        begun=sum(row["attempts"] == 0 for row in fresh),
    )


def _decide_once(outcomes: Sequence[Outcome]) -> None:
    """A drive that lost a shard and got it back may have two attempts of one cell in a batch: one
    decides it, an answer before a failure; the other is only booked."""
    decided: set[int] = set()
    for outcome in sorted(
        outcomes, key=lambda o: o.result is None or o.result.state != "succeeded"
    ):
        if outcome.result is None:
            continue
        if outcome.cell_no in decided:
            outcome.result = None
        decided.add(outcome.cell_no)


def _settled(group: dict[str, Any]) -> Settled:
    return Settled(
        provider_key_id=group["provider_key_id"],
        day=date.fromisoformat(group["sent_on"]),
        requests_released=group["requests_released"],
        cost_released=Decimal(group["cost_released"]),
        requests=group["requests"],
        cost=Decimal(group["cost"]),
    )


def _row(plan: RunPlan, outcome: Outcome) -> dict[str, Any]:
    """One outcome as the SETTLE statement and the digest see it."""
    cell = plan.cell(outcome.cell_no)
    model_no = outcome.model_no
    row: dict[str, Any] = {
        "cell_no": outcome.cell_no,
        "attempt_no": outcome.attempt_no,
        "prompt_no": cell.prompt_no,
        "technique_no": cell.technique_no,
        "target_no": cell.target_no,
        "model_no": plan.order(outcome.cell_no)[0] if model_no is None else model_no,
        "iteration": cell.iteration,
        "cost": decimal_text(outcome.cost),
        "tokens": outcome.tokens,
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
        said: tuple[str, ...] = (result.original_prompt, result.transformed_prompt)
        told: tuple[str, ...] = (result.response, result.verdict_reason)
        if said[0] and not result.ended_by and (masked := plan.masked(cell, *told)):
            said, told = masked[:2], masked[2:]
        row |= {
            "state": result.state,
            "original_prompt": storable(said[0]),
            "transformed_prompt": storable(said[1]),
            "response": storable(told[0]),
            "response_truncated": result.response_truncated,
            "finish_reason": result.finish_reason,
            "is_successful": result.is_successful,
            "success_score": result.success_score,
            "verdict_reason": storable(told[1]),
            "final_error": result.error_kind,
            "attempts": result.attempts,
        }
        if result.ended_by:
            row |= _conversation(outcome, result)
    if outcome.turn is not None:
        row["kept"] = True
    return row


def _conversation(outcome: Outcome, result: Result) -> dict[str, Any]:
    """What an execution has of all its turns. A call that failed and ended it is no turn, and counts."""
    turns = result.turns
    last = outcome if outcome.turn is None else None
    cost = sum((turn.cost for turn in turns), last.cost if last else Decimal(0))
    return {
        "turn_count": len(turns),
        "decided_turn_no": result.decided_turn_no,
        "ended_by": result.ended_by,
        "transcript": transcript_of(turns),
        "cell_model_no": result.model_no,
        "cell_cost": decimal_text(cost),
        "cell_latency_ms": sum(turn.latency_ms for turn in turns if turn.purpose == TARGET),
        "cell_input_tokens": sum(t.input_tokens for t in turns)
        + (last.input_tokens if last else 0),
        "cell_output_tokens": sum(t.output_tokens for t in turns)
        + (last.output_tokens if last else 0),
        "cell_started_at": turns[0].started_at if turns else outcome.started_at,
    }


def storable(text: str) -> str:
    """PostgreSQL text has no NUL, and UTF-8 no lone surrogates."""
    text = text.replace("\0", "�")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
