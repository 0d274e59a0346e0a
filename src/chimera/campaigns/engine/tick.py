"""One tick: the transaction that settles what came back and commits what goes out next.

Order of locks: shards, attempts, executions, tallies, scorings, run_money, windows, seats, circuits
(migrations/README.md). Rows of a batch are sorted by key, or two workers deadlock. Every statement is
safe to repeat: a tick whose COMMIT was lost from sight is simply run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from chimera.accounting.windows import Short, Want, give_back, move
from chimera.campaigns.engine import limits
from chimera.campaigns.engine.completion import finish_shards, recount
from chimera.campaigns.engine.leasing import Lease
from chimera.campaigns.engine.seats import (
    Seated,
    afford,
    hold_seats,
    move_seats,
    record_turns,
)
from chimera.campaigns.engine.settlement import Outcome, Settlement, TickContext, settle
from chimera.campaigns.plan import Prepared
from chimera.db import Nothing, Tx, sql
from chimera.faults import Conflict
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
    stop_reason: str = ""  # the limit that stops the run
    ends_in_s: float | None = None  # until the limit of time does
    may_begin: bool = True  # cells that were never sent
    undecided: list[Outcome] = field(default_factory=list)  # of cells that may not
    out_of_tokens: bool = False  # the limit let not one of them pass


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
    SELECT r.state, r.concurrency, r.attempts_max, COALESCE(m.stop_reason, '') AS stop_reason,
           m.executions_max - m.cells_begun AS cells_left,
           m.wall_time_s - r.ran_s - CASE WHEN r.state = 'running'
               THEN extract(epoch FROM clock_timestamp() - r.running_since)::float8 ELSE 0 END AS ends_in_s,
           ARRAY(SELECT shard_no FROM kept) AS leases,
           o.others + 1 AS drivers, o.before,
           COALESCE((SELECT bool_or(k.sending_stopped) FROM ops.kill_switches k
             WHERE k.org_id IS NULL OR k.org_id = r.org_id), false) AS stopped,
           ARRAY(SELECT t.model_id FROM providers.allowed_targets t
                  WHERE t.org_id = r.org_id AND t.model_id = ANY(%(models)s::uuid[])) AS allowed
      FROM campaigns.runs r
      JOIN campaigns.run_money m ON m.run_id = r.id
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
       SET settled = settled + %(spent)s::numeric, held = held - %(released)s::numeric,
           tokens_settled = tokens_settled + %(tokens)s,
           tokens_held = tokens_held - %(tokens_released)s,
           cells_begun = cells_begun + %(begun)s, cells_recorded = cells_recorded + %(recorded)s,
           cells_failed = cells_failed + %(failed)s,
           cells_successful = cells_successful + %(successful)s
     WHERE run_id = %(run_id)s
    RETURNING cost_max - settled - held AS money_left, budgeted, clock_timestamp() AS at,
              tokens_max - tokens_settled - tokens_held AS tokens_left, tokens_held,
              executions_max - cells_begun AS cells_left, executions_max, cells_recorded,
              cells_failed, cells_successful, error_share_max, error_cells_min, interval_width_max,
              COALESCE(stop_reason, '') AS stop_reason
    """,
)

HOLD_MONEY = sql(
    Nothing,
    """
    UPDATE campaigns.run_money
       SET held = held + %(hold)s::numeric, tokens_held = tokens_held + %(tokens)s,
           cells_begun = cells_begun + %(begun)s
     WHERE run_id = %(run_id)s
    """,
)

# Where its verdicts are stored, which comes before the money.
LOCK_SCORING = sql(
    Nothing, "SELECT FROM campaigns.scorings WHERE id = %(scoring_id)s FOR NO KEY UPDATE"
)

# A repeated tick finds its own rows from a COMMIT whose answer was lost; they are not new.
SEND = sql(
    dict,
    """
    WITH n AS MATERIALIZED (
        SELECT * FROM unnest(%(cells)s::bigint[], %(attempts)s::int[], %(fences)s::bigint[],
                             %(alone)s::boolean[], %(worst)s::numeric[], %(tokens)s::bigint[],
                             %(reserves)s::numeric[], %(models)s::int[], %(keys)s::uuid[],
                             %(purposes)s::text[])
                   AS n (cell_no, attempt_no, fence, alone, worst_cost, worst_tokens, reserve,
                         model_no, provider_key_id, purpose)
    ), sent AS (
        INSERT INTO campaigns.attempts
            (run_id, cell_no, attempt_no, org_id, fence, alone, worst_cost, worst_tokens, reserve,
             model_no, provider_key_id, purpose, sent_at)
        SELECT %(run_id)s::uuid, cell_no, attempt_no, %(org_id)s::uuid, fence, alone, worst_cost,
               worst_tokens, reserve, model_no, provider_key_id, purpose, %(at)s::timestamptz
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
        stop_reason=row["stop_reason"],
        ends_in_s=row["ends_in_s"],
        may_begin=row["cells_left"] is None or row["cells_left"] > 0,
    )
    if control.state == "running" and row["ends_in_s"] is not None and row["ends_in_s"] <= 0:
        control.stop_reason = control.stop_reason or "wall_time"
    held = [lease for lease in leases if lease.shard_no in control.leases]
    _leave_undecided(
        outcomes,
        held,
        is_stopping=bool(control.stop_reason),
        is_talk=context.plan.talk is not None,
    )
    outcomes, control.undecided = limits.beginning(outcomes, row["cells_left"])
    settled = await settle(tx, context, outcomes) if outcomes else Settlement()
    if context.plan.talk is not None:
        await record_turns(tx, context, outcomes)
    if complete and context.scoring_id:
        await tx.run(LOCK_SCORING, scoring_id=context.scoring_id)
    sends = _admissible(control, context, held, wanted)
    if outcomes or sends:
        await _move_money(tx, context, control, settled, sends, _has_strays(outcomes, held))
    if context.plan.seats:
        control.seated = await move_seats(
            tx, context.plan, context.run_id, settled.seats, control.admitted
        )
    if control.stop_reason and not row["stop_reason"]:
        await limits.stop_run(tx, context, control.stop_reason)
    if report is not None:
        control.stands = await _exchange(tx, context, report)
        control.drives = await tx.one(COUNT_DRIVES, org_id=context.org_id) or 1
    if control.admitted:
        await _commit_sends(tx, context, control)
    if complete:
        kept = [lease for lease in complete if lease.shard_no in control.leases]
        is_stopping = bool(row["stop_reason"])
        await finish_shards(
            tx,
            context.run_id,
            context.campaign_id,
            context.owner,
            kept,
            scoring_id=context.scoring_id,
            is_stopping=is_stopping,
        )
    if control.state == "cancelled" and settled.recorded and _has_strays(outcomes, held):
        # Its shards are settled already, without what comes now.
        await recount(tx, context.run_id, context.campaign_id)
    return control


def _share(concurrency: int, drivers: int, before: int) -> int:
    """An even part of the run's concurrency; what does not divide goes to the first drives."""
    share, rest = divmod(concurrency, drivers)
    return share + (before < rest)


def _leave_undecided(
    outcomes: Sequence[Outcome], held: Sequence[Lease], *, is_stopping: bool, is_talk: bool
) -> None:
    """Without the lease only an answer decides a cell: whoever holds it now may still get one
    where this worker gave up; and of a run that stops not even that, for its shard may be closed
    already. Of a conversation nothing is recorded without the lease it was sent under, for somebody
    else goes on with it. What was sent is settled all the same."""
    for outcome in outcomes:
        if is_talk:
            if not any(
                lease.holds(outcome.cell_no) and lease.fence == outcome.fence for lease in held
            ):
                outcome.result = outcome.turn = outcome.next_ask = None
            continue
        result = outcome.result
        if result is None or (result.state == "succeeded" and not is_stopping):
            continue
        if not _holds(held, outcome):
            outcome.result = None


def _holds(held: Sequence[Lease], outcome: Outcome) -> bool:
    return any(lease.holds(outcome.cell_no) for lease in held)


def _has_strays(outcomes: Sequence[Outcome], held: Sequence[Lease]) -> bool:
    """Whether cells are decided without their lease."""
    return any(outcome.result is not None and not _holds(held, outcome) for outcome in outcomes)


def _admissible(
    control: Control, context: TickContext, held: Sequence[Lease], wanted: Sequence[Send]
) -> list[Send]:
    """Of what should go out, what the leases, the run, the kill switch and the allow-list let
    pass."""
    if control.state != "running" or control.stopped or control.stop_reason:
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
    tx: Tx,
    context: TickContext,
    control: Control,
    settled: Settlement,
    sends: list[Send],
    has_strays: bool,
) -> None:
    """Books what was settled, and admits of `sends` what the run's limits and the budgets allow."""
    money = await tx.one(
        MOVE_MONEY,
        run_id=context.run_id,
        spent=sum((group.cost for group in settled.groups), Decimal(0)),
        released=sum((group.cost_released for group in settled.groups), Decimal(0)),
        tokens=settled.tokens,
        tokens_released=settled.tokens_released,
        begun=settled.begun,
        recorded=settled.recorded,
        failed=settled.failed,
        successful=settled.successful,
    )
    assert money is not None  # made with the run
    control.at, control.budgeted = money["at"], money["budgeted"]
    fit = _within_limits(context, control, settled, sends, money, has_strays)
    control.admitted = _affordable(fit, money["money_left"])
    if control.budgeted:
        wants = [_want(context, send) for send in control.admitted]
        verdict = await move(tx, context.purse, control.at, settled.groups, wants)
        control.admitted = [control.admitted[place] for place in verdict.admitted]
        control.short = verdict.short
    control.out_of_money = bool(fit) and not control.admitted


def _within_limits(
    context: TickContext,
    control: Control,
    settled: Settlement,
    sends: list[Send],
    money: dict[str, Any],
    has_strays: bool,
) -> list[Send]:
    """Of `sends`, what the limits of the run let pass; or says in `control` that one stops it.

    This tick looked at the limits before it held their row. What it did by what it saw then, and may
    not do now, is undone: the same tick again sees what is."""
    begun_too_many = settled.begun and money["cells_left"] is not None and money["cells_left"] < 0
    if begun_too_many or (money["stop_reason"] and not control.stop_reason and has_strays):
        raise Conflict("CONFLICT_TRY_AGAIN", "Another worker reached a limit of the run.")
    control.stop_reason = control.stop_reason or money["stop_reason"]
    if control.stop_reason or control.state != "running":
        return []
    control.stop_reason = limits.reached(money, context.cells_total or context.plan.cells_total)
    if control.stop_reason:
        return []
    fit, control.out_of_tokens = limits.fitting(sends, money)
    if control.out_of_tokens and money["tokens_held"] == 0:  # else some may still come back
        control.stop_reason = "tokens"
    return fit


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
        [model.provider_key_id or None for model in models],
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
    new = [send for send in control.admitted if fresh[_attempt_of(send)]]
    # Also without a limit: one may be set while these are in flight.
    await tx.run(
        HOLD_MONEY,
        run_id=context.run_id,
        hold=sum((want.cost for want in held), Decimal(0)),
        tokens=sum(send.prepared.worst_tokens for send in new),
        begun=sum(send.attempt_no == 1 for send in new),
    )
    if context.plan.seats:
        await hold_seats(tx, context.run_id, new)
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
        tokens=[send.prepared.worst_tokens for send in sends],
        reserves=[send.prepared.reserve for send in sends],
        models=[send.prepared.model_no for send in sends],
        keys=[_key_of(context, send) or None for send in sends],
        purposes=[_purpose_of(send) for send in sends],
    )
    return {(row["cell_no"], row["attempt_no"]): row["fresh"] for row in rows}
