"""One tick: the transaction that settles what came back and commits what goes out next.

Order of locks: shards, attempts, executions, tallies, run_money, windows (migrations/README.md). Rows of a
batch are sorted by key, or two workers deadlock. Every statement is safe to repeat: a tick whose
COMMIT was lost from sight is simply run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from chimera.accounting.windows import Settled, Short, Want, give_back, move
from chimera.campaigns.engine.completion import finish_shards
from chimera.campaigns.engine.leasing import Lease
from chimera.campaigns.engine.settlement import Outcome, TickContext, settle
from chimera.campaigns.plan import Prepared
from chimera.db import Nothing, Tx, sql


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
    out_of_money: bool = False  # the limit, or a budget, let not one of them pass
    short: Short | None = None  # the budget that did it
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

MOVE_MONEY = sql(
    dict,
    """
    UPDATE campaigns.run_money
       SET settled = settled + %(spent)s::numeric, held = held - %(released)s::numeric
     WHERE run_id = %(run_id)s
    RETURNING cost_max - settled - held AS money_left, budgeted, clock_timestamp() AS at
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
                             %(alone)s::boolean[], %(worst)s::numeric[], %(keys)s::uuid[])
                   AS n (cell_no, attempt_no, fence, alone, worst_cost, provider_key_id)
    ), sent AS (
        INSERT INTO campaigns.attempts
            (run_id, cell_no, attempt_no, org_id, fence, alone, worst_cost, provider_key_id, sent_at)
        SELECT %(run_id)s::uuid, cell_no, attempt_no, %(org_id)s::uuid, fence, alone, worst_cost,
               provider_key_id, %(at)s::timestamptz
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
    settled = await settle(tx, context, outcomes) if outcomes else []
    sends = _admissible(control, context, held, wanted)
    if outcomes or sends:
        await _move_money(tx, context, control, settled, sends)
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


async def _move_money(
    tx: Tx, context: TickContext, control: Control, settled: Sequence[Settled], sends: list[Send]
) -> None:
    """Books what was settled, and commits of `sends` what the run's limit and the budgets allow."""
    money = await tx.one(
        MOVE_MONEY,
        run_id=context.run_id,
        spent=sum((group.cost for group in settled), Decimal(0)),
        released=sum((group.cost_released for group in settled), Decimal(0)),
    )
    assert money is not None  # made with the run
    control.admitted = _affordable(sends, money["money_left"])
    if money["budgeted"]:
        wants = [_want(context, send) for send in control.admitted]
        verdict = await move(tx, context.purse, money["at"], settled, wants)
        control.admitted = [control.admitted[place] for place in verdict.admitted]
        control.short = verdict.short
    control.out_of_money = bool(sends) and not control.admitted
    if control.admitted:
        await _commit_sends(tx, context, control, money["at"], budgeted=money["budgeted"])


def _want(context: TickContext, send: Send) -> Want:
    return Want(_key_of(context, send), send.prepared.worst_cost)


def _key_of(context: TickContext, send: Send) -> str:
    return context.plan.targets[send.prepared.cell.target_no].provider_key_id


async def _commit_sends(
    tx: Tx, context: TickContext, control: Control, at: datetime, *, budgeted: bool
) -> None:
    sends = control.admitted
    rows = await tx.all(
        SEND,
        run_id=context.run_id,
        org_id=context.org_id,
        at=at,
        cells=[send.prepared.cell.cell_no for send in sends],
        attempts=[send.attempt_no for send in sends],
        fences=[send.fence for send in sends],
        alone=[send.alone for send in sends],
        worst=[send.prepared.worst_cost for send in sends],
        keys=[_key_of(context, send) or None for send in sends],
    )
    fresh = {(row["cell_no"], row["attempt_no"]): row["fresh"] for row in rows}
    control.admitted = [
        send for send in sends if (send.prepared.cell.cell_no, send.attempt_no) in fresh
    ]
    held = [send for send in sends if fresh.get((send.prepared.cell.cell_no, send.attempt_no))]
    hold = sum((send.prepared.worst_cost for send in held), Decimal(0))
    # Also without a limit: one may be set while these are in flight.
    await tx.run(HOLD_MONEY, run_id=context.run_id, hold=hold)
    if budgeted and len(held) < len(sends):
        lost = [_want(context, send) for send in sends if send not in held]
        await give_back(tx, context.purse, at, lost)
