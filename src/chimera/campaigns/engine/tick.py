"""One tick: the transaction that settles what came back and commits what goes out next.

Order of locks: shards, attempts, executions, tallies, run_money, windows, seats, circuits
(migrations/README.md). Rows of a batch are sorted by key, or two workers deadlock. Every statement is
safe to repeat: a tick whose COMMIT was lost from sight is simply run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from chimera.accounting.windows import Settled, Short, Want, give_back, move
from chimera.campaigns.engine.completion import finish_shards
from chimera.campaigns.engine.leasing import Lease
from chimera.campaigns.engine.seats import (
    Seated,
    afford,
    hold_seats,
    move_seats,
    record_turns,
)
from chimera.campaigns.engine.settlement import Booked, Outcome, TickContext, settle
from chimera.campaigns.plan import Prepared
from chimera.db import Nothing, Tx, sql
from chimera.providers import circuits
from chimera.providers.circuits import Signs, Stand

EPOCH = datetime.fromtimestamp(0, UTC)
PROBE_GRACE_S = 5.0  # beyond its time limit, after which a probe is somebody else's


@dataclass(slots=True)
class Send:
    """An attempt that is about to go out."""

    prepared: Prepared
    attempt_no: int
    fence: int
    alone: bool = False
    # Of a call that goes out through an open circuit: -1 until the right to it was given.
    probe_no: int = 0


@dataclass(slots=True)
class Report:
    """What the calls of a drive have said of their models since the last report.

    probes: (model_id, probe_no, failure) of those that ended, see circuits.end_probe.
    """

    signs: list[Signs]
    probes: list[tuple[str, int, str | None]]


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
    budgeted: bool = False
    at: datetime = EPOCH  # when the money was moved; what goes out was sent then
    admitted: list[Send] = field(default_factory=list)
    seated: Seated = field(default_factory=Seated)
    # By model_no, after a report.
    stands: list[Stand] = field(default_factory=list)
    drives: int = 1  # of the organisation, then


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
                             %(alone)s::boolean[], %(worst)s::numeric[], %(reserves)s::numeric[],
                             %(models)s::int[], %(keys)s::uuid[], %(purposes)s::text[])
                   AS n (cell_no, attempt_no, fence, alone, worst_cost, reserve, model_no,
                         provider_key_id, purpose)
    ), sent AS (
        INSERT INTO campaigns.attempts
            (run_id, cell_no, attempt_no, org_id, fence, alone, worst_cost, reserve, model_no,
             provider_key_id, purpose, sent_at)
        SELECT %(run_id)s::uuid, cell_no, attempt_no, %(org_id)s::uuid, fence, alone, worst_cost,
               reserve, model_no, provider_key_id, purpose, %(at)s::timestamptz
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


COUNT_DRIVES = sql(
    int,
    """
    SELECT count(DISTINCT s.owner)
      FROM campaigns.runs r
      JOIN campaigns.shards s ON s.run_id = r.id AND s.state = 'open'
     WHERE r.state = 'running' AND r.org_id = %(org_id)s AND s.lease_until > clock_timestamp()
    """,
)


async def run_tick(
    tx: Tx,
    context: TickContext,
    leases: Sequence[Lease],
    outcomes: Sequence[Outcome],
    wanted: Sequence[Send],
    complete: Sequence[Lease],
    report: Report | None = None,
) -> Control:
    """Everything of one tick, inside one transaction; the answer says what may be sent now.

    leases: those held; outcomes: what came back; wanted: what should go out next, in order;
    complete: leases whose cells are all decided with these outcomes; report: about once a second.
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
    _leave_undecided(outcomes, held, is_talk=context.plan.talk is not None)
    settled = await settle(tx, context, outcomes) if outcomes else Booked([], [])
    if context.plan.talk is not None:
        await record_turns(tx, context, outcomes)
    sends = _admissible(control, context, held, wanted)
    if outcomes or sends:
        await _move_money(tx, context, control, settled.groups, sends)
    if context.plan.seats:
        control.seated = await move_seats(
            tx, context.plan, context.run_id, settled.seats, control.admitted
        )
    if report is not None:
        control.stands = await _exchange(tx, context, report)
        control.drives = await tx.one(COUNT_DRIVES, org_id=context.org_id) or 1
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


def _leave_undecided(outcomes: Sequence[Outcome], held: Sequence[Lease], *, is_talk: bool) -> None:
    """Without the lease only an answer decides a cell: whoever holds it now may still get one
    where this worker gave up. Of a conversation nothing is recorded without the lease it was sent
    under, for somebody else goes on with it. What was sent is settled all the same."""
    for outcome in outcomes:
        if is_talk:
            if not any(
                lease.holds(outcome.cell_no) and lease.fence == outcome.fence for lease in held
            ):
                outcome.result = outcome.turn = outcome.next_ask = None
            continue
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
    models = context.plan.models
    return [
        send
        for send in wanted
        if models[send.prepared.model_no].model_id in control.allowed
        and any(lease.holds(send.prepared.cell.cell_no) for lease in held)
    ]


def _affordable(sends: list[Send], money_left: Decimal | None) -> list[Send]:
    """The longest prefix whose worst cost fits into what is left of the limit."""
    if money_left is None:
        return sends
    for count, send in enumerate(sends):
        money_left -= send.prepared.worst_cost + send.prepared.reserve
        if money_left < 0:
            return sends[:count]
    return sends


async def _move_money(
    tx: Tx, context: TickContext, control: Control, settled: Sequence[Settled], sends: list[Send]
) -> None:
    """Books what was settled, and admits of `sends` what the run's limit and the budgets allow."""
    money = await tx.one(
        MOVE_MONEY,
        run_id=context.run_id,
        spent=sum((group.cost for group in settled), Decimal(0)),
        released=sum((group.cost_released for group in settled), Decimal(0)),
    )
    assert money is not None  # made with the run
    control.at, control.budgeted = money["at"], money["budgeted"]
    control.admitted = _affordable(sends, money["money_left"])
    if control.budgeted:
        wants = [_want(context, send) for send in control.admitted]
        verdict = await move(tx, context.purse, control.at, settled, wants)
        control.admitted = [control.admitted[place] for place in verdict.admitted]
        control.short = verdict.short
    control.out_of_money = bool(sends) and not control.admitted


def _want(context: TickContext, send: Send) -> Want:
    """What the models after it may cost is held with its key too, until it has come back: each
    attempt on a route then holds its own."""
    return Want(_key_of(context, send), send.prepared.worst_cost + send.prepared.reserve)


def _key_of(context: TickContext, send: Send) -> str:
    return context.plan.models[send.prepared.model_no].provider_key_id


def _purpose_of(send: Send) -> str:
    return send.prepared.ask.purpose if send.prepared.ask is not None else "target"


async def _exchange(tx: Tx, context: TickContext, report: Report) -> list[Stand]:
    """Tells the circuits what calls have said, and hears how they stand."""
    for model_id, probe_no, failure in sorted(report.probes, key=lambda probe: probe[0]):
        await circuits.end_probe(tx, model_id, probe_no, failure=failure)
    if report.signs:
        await circuits.note_signs(tx, report.signs)
    models = context.plan.models
    return await circuits.list_stands(
        tx,
        [model.model_id for model in models],
        [model.provider_id for model in models],
        [model.provider_key_id for model in models],
        since=context.launched_at,
    )


async def _passed(tx: Tx, context: TickContext, control: Control) -> list[Send]:
    """Of what may be sent, what the circuits let pass: through an open one, the probe alone."""
    passed = []
    for send in control.admitted:
        model_no = send.prepared.model_no
        if send.probe_no:
            model = context.plan.models[model_no]
            within_s = model.timeout_s + PROBE_GRACE_S
            probe_no = await circuits.take_probe(tx, model.model_id, within_s=within_s)
            if probe_no is None:
                continue
            send.probe_no = probe_no
        elif control.stands and not control.stands[model_no].lets_pass:
            continue
        passed.append(send)
    return passed


async def _commit_sends(tx: Tx, context: TickContext, control: Control) -> None:
    """Writes down as sent what the circuits let pass; what does not go out gives its hold back."""
    afforded = control.admitted
    sends = await _passed(tx, context, control)
    if control.seated.money:
        sends = afford(control.seated, sends)
    fresh = await _insert_sends(tx, context, control.at, sends) if sends else {}
    control.admitted = [send for send in sends if _attempt_of(send) in fresh]
    wants = {_attempt_of(send): _want(context, send) for send in afforded}
    held = [want for attempt, want in wants.items() if fresh.get(attempt)]
    hold = sum((want.cost for want in held), Decimal(0))
    # Also without a limit: one may be set while these are in flight.
    await tx.run(HOLD_MONEY, run_id=context.run_id, hold=hold)
    if context.plan.seats:
        await hold_seats(
            tx, context.run_id, [send for send in sends if fresh.get(_attempt_of(send))]
        )
    if control.budgeted and len(held) < len(wants):
        lost = [want for attempt, want in wants.items() if not fresh.get(attempt)]
        await give_back(tx, context.purse, control.at, lost)


def _attempt_of(send: Send) -> tuple[int, int]:
    return send.prepared.cell.cell_no, send.attempt_no


async def _insert_sends(
    tx: Tx, context: TickContext, at: datetime, sends: list[Send]
) -> dict[tuple[int, int], bool]:
    """By cell and attempt, whether it is new; without those that somebody else has sent."""
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
        reserves=[send.prepared.reserve for send in sends],
        models=[send.prepared.model_no for send in sends],
        keys=[_key_of(context, send) or None for send in sends],
        purposes=[_purpose_of(send) for send in sends],
    )
    return {(row["cell_no"], row["attempt_no"]): row["fresh"] for row in rows}
