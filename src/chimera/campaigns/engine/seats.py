"""What the tick does for conversations beside settling: their turns, and the money of their seats.

A seat (an attacker or a judge) has a row of its own: what its calls cost and may cost, within the
money of the run. Turns are recorded under the lease alone: whoever claims the shard waits for the
tick that holds it, so a new owner sees every turn there will ever be of the old one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from chimera.campaigns.conversations.turns import Turn
from chimera.campaigns.plan import RunPlan
from chimera.db import Nothing, Tx, sql
from chimera.rows import decimal_text

if TYPE_CHECKING:
    from chimera.campaigns.engine.settlement import Outcome, TickContext
    from chimera.campaigns.engine.tick import Send

RECORD_TURNS = sql(
    Nothing,
    """
    INSERT INTO campaigns.turns
        (run_id, cell_no, turn_no, org_id, purpose, model_no, attempt_no, request, reply,
         reply_truncated, finish_reason, message, marks, is_successful, success_score, verdict_reason,
         error_kind, input_tokens, output_tokens, cost, latency_ms, started_at)
    SELECT %(run_id)s::uuid, cell_no, turn_no, %(org_id)s::uuid, purpose, model_no, attempt_no,
           request, reply, reply_truncated, finish_reason, message, marks, is_successful,
           success_score, verdict_reason, error_kind, input_tokens, output_tokens, cost, latency_ms,
           started_at
      FROM json_to_recordset(%(rows)s::json) AS t (
            cell_no bigint, turn_no int, purpose text, model_no int, attempt_no int, request text,
            reply text, reply_truncated boolean, finish_reason text, message text, marks jsonb,
            is_successful boolean, success_score double precision, verdict_reason text,
            error_kind text, input_tokens int, output_tokens int, cost numeric, latency_ms int,
            started_at timestamptz)
     ORDER BY cell_no, turn_no
        ON CONFLICT (run_id, cell_no, turn_no) DO NOTHING
    """,
)

# Of cells that are still undecided.
LIST_OPEN_TURNS = sql(
    dict,
    """
    SELECT t.cell_no, t.turn_no, t.purpose, t.model_no, t.attempt_no, t.request, t.reply,
           t.reply_truncated, t.finish_reason, t.message, t.marks, t.is_successful, t.success_score,
           t.verdict_reason, t.error_kind, t.input_tokens, t.output_tokens, t.cost, t.latency_ms,
           t.started_at
      FROM campaigns.turns t
     WHERE t.run_id = %(run_id)s AND t.cell_no >= %(first)s AND t.cell_no < %(end)s
       AND NOT EXISTS (SELECT FROM campaigns.executions e
                        WHERE e.run_id = t.run_id AND e.cell_no = t.cell_no)
     ORDER BY t.cell_no, t.turn_no
    """,
)

# Also without anything to move: it locks the rows, so that what is left is still left when it is held.
MOVE_SEATS = sql(
    dict,
    """
    WITH d AS MATERIALIZED (
        SELECT * FROM json_to_recordset(%(moves)s::json) AS d (
            seat_no int, released numeric, cost numeric, calls bigint, input_tokens bigint,
            output_tokens bigint)
    ), locked AS MATERIALIZED (
        SELECT s.seat_no FROM campaigns.seats s JOIN d USING (seat_no)
         WHERE s.run_id = %(run_id)s ORDER BY s.seat_no FOR NO KEY UPDATE OF s
    )
    UPDATE campaigns.seats s
       SET held = s.held - d.released, settled = s.settled + d.cost, calls = s.calls + d.calls,
           input_tokens = s.input_tokens + d.input_tokens,
           output_tokens = s.output_tokens + d.output_tokens
      FROM d JOIN locked USING (seat_no)
     WHERE s.run_id = %(run_id)s AND s.seat_no = d.seat_no
    RETURNING s.seat_no, s.cost_max - s.settled AS unspent, s.cost_max - s.settled - s.held AS free
    """,
)

HOLD_SEATS = sql(
    Nothing,
    """
    UPDATE campaigns.seats s SET held = s.held + d.hold
      FROM json_to_recordset(%(holds)s::json) AS d (seat_no int, hold numeric)
     WHERE s.run_id = %(run_id)s AND s.seat_no = d.seat_no
    """,
)


@dataclass(slots=True)
class SeatMoney:
    """What is left to a seat; None: it has no limit of its own."""

    unspent: Decimal | None
    free: Decimal | None


@dataclass(slots=True)
class SeatMove:
    """What calls that came back release and cost, by seat."""

    released: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class Seated:
    """How the seats stand within a tick. short: seats that have to wait for what is in flight;
    spent: calls that their seat can never pay for."""

    money: dict[int, SeatMoney] = field(default_factory=dict)
    short: set[int] = field(default_factory=set)
    spent: list[Send] = field(default_factory=list)


async def record_turns(tx: Tx, context: TickContext, outcomes: Iterable[Outcome]) -> None:
    rows = [
        _turn_row(outcome.cell_no, outcome.turn) for outcome in outcomes if outcome.turn is not None
    ]
    if rows:
        await tx.run(
            RECORD_TURNS,
            run_id=context.run_id,
            org_id=context.org_id,
            rows=orjson.dumps(rows).decode(),
        )


def _turn_row(cell_no: int, turn: Turn) -> dict[str, Any]:
    row = {name: getattr(turn, name) for name in Turn.__slots__}
    return row | {"cell_no": cell_no, "cost": decimal_text(turn.cost)}


async def load_turns(tx: Tx, span: Mapping[str, Any]) -> dict[int, tuple[Turn, ...]]:
    """What is recorded of undecided cells. span: run_id, first, end."""
    found: dict[int, list[Turn]] = {}
    for row in await tx.all(LIST_OPEN_TURNS, **span):
        found.setdefault(row.pop("cell_no"), []).append(Turn(**row))
    return {cell_no: tuple(turns) for cell_no, turns in found.items()}


async def move_seats(
    tx: Tx, plan: RunPlan, run_id: str, settled: Sequence[Mapping[str, Any]], wanted: Sequence[Send]
) -> Seated:
    """Books what calls of seats brought (by model), and says what is left to those that are wanted."""
    moves: dict[int, SeatMove] = {}
    for group in settled:
        move = moves.setdefault(plan.seat_of(group["model_no"]), SeatMove())
        move.released += Decimal(group["released"])
        move.cost += Decimal(group["cost"])
        move.calls += group["calls"]
        move.input_tokens += group["input_tokens"]
        move.output_tokens += group["output_tokens"]
    for send in wanted:
        if (seat := seat_of(send)) is not None:
            moves.setdefault(seat, SeatMove())
    if not moves:
        return Seated()
    packed = [
        {
            "seat_no": seat_no,
            "released": str(move.released),
            "cost": str(move.cost),
            "calls": move.calls,
            "input_tokens": move.input_tokens,
            "output_tokens": move.output_tokens,
        }
        for seat_no, move in sorted(moves.items())
    ]
    rows = await tx.all(MOVE_SEATS, run_id=run_id, moves=orjson.dumps(packed).decode())
    return Seated({row["seat_no"]: SeatMoney(row["unspent"], row["free"]) for row in rows})


def seat_of(send: Send) -> int | None:
    ask = send.prepared.ask
    return ask.seat if ask is not None else None


def afford(seated: Seated, sends: Sequence[Send]) -> list[Send]:
    """Of what may be sent, what the seats can pay for, in order."""
    passed = []
    for send in sends:
        seat = seat_of(send)
        money = seated.money.get(seat) if seat is not None else None
        if seat is None or money is None or money.free is None or money.unspent is None:
            passed.append(send)
            continue
        worst = send.prepared.worst_cost + send.prepared.reserve
        if worst <= money.free:
            money.free -= worst
            passed.append(send)
        elif worst <= money.unspent:
            seated.short.add(seat)
        else:
            seated.spent.append(send)
    return passed


async def hold_seats(tx: Tx, run_id: str, sends: Iterable[Send]) -> None:
    """Holds the worst of what is new."""
    holds: dict[int, Decimal] = {}
    for send in sends:
        if (seat := seat_of(send)) is not None:
            worst = send.prepared.worst_cost + send.prepared.reserve
            holds[seat] = holds.get(seat, Decimal(0)) + worst
    if holds:
        packed = [{"seat_no": seat, "hold": str(hold)} for seat, hold in sorted(holds.items())]
        await tx.run(HOLD_SEATS, run_id=run_id, holds=orjson.dumps(packed).decode())
