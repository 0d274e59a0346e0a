"""The engine's books under any interleaving of two drives that claim, tick, die and wake up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chimera.accounting.usage import aggregate_usage
from chimera.call import Call
from chimera.campaigns.engine import leasing
from chimera.campaigns.engine.leasing import Lease
from chimera.campaigns.engine.settlement import Outcome, Result, TickContext
from chimera.campaigns.engine.tick import Send, run_tick
from chimera.campaigns.plan import RunPlan
from chimera.core import Core, open_core
from chimera.v1.budgets_pb2 import BudgetPeriod as Period
from chimera.v1.budgets_pb2 import BudgetScope
from chimera.v1.budgets_pb2 import BudgetScopeKind as Scope
from chimera.v1.campaigns_pb2 import RunState
from tests.support.accounting import limit, recount
from tests.support.campaigns import launched
from tests.support.clock import Clock, clock
from tests.support.workers import Stage, open_stage

__all__ = ["clock"]  # a fixture

LEASE_S = 1000.0  # leases end when the test says so
CELLS = 96


@pytest.fixture
async def scene(
    clock: Clock, world: Any, stack: Any, settings: Any, tmp_path: Any
) -> AsyncIterator[tuple[Stage, Core]]:
    """A server, and the worker's view of the database; no worker runs. Its clock can be put."""
    async with (
        open_stage(world, stack, settings, tmp_path) as stage,
        open_core(settings, "worker") as core,
    ):
        yield stage, core


@dataclass
class Drive:
    """What a drive keeps in memory, without the network and the clock."""

    core: Core
    context: TickContext
    claimed: list[Lease] = field(default_factory=list)  # not taken over yet
    leases: dict[int, Lease] = field(default_factory=dict)
    ready: list[int] = field(default_factory=list)
    flying: list[Send] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    is_stopped: bool = False  # by a limit: shards are closed

    @property
    def org_id(self) -> str:
        return self.context.org_id

    async def claim(self) -> None:
        lease = await leasing.claim(
            self.core.db,
            owner=self.context.owner,
            lease_s=LEASE_S,
            run_id=self.context.run_id,
        )
        if lease is not None:
            self.claimed.append(lease)

    async def adopt(self) -> None:
        while self.claimed:
            lease = self.claimed.pop()
            async with self.core.db.begin(Call.by_worker("take_over", self.org_id)) as tx:
                await leasing.take_over(tx, lease, self.context.plan, self.context.user_id)
            self.leases[lease.shard_no] = lease
            self.ready += sorted(lease.todo)

    def answer(self, number: int, kind: str) -> None:
        """A call comes back: with an answer, or an error that is or is not tried again."""
        if not self.flying:
            return
        send = self.flying.pop(number % len(self.flying))
        cell_no = send.prepared.cell.cell_no
        worst = send.prepared.worst_cost
        outcome = Outcome(cell_no, send.attempt_no, datetime.now(UTC), worst_cost=worst)
        outcome.cost = {"answer": worst / 3, "costly error": worst}.get(kind, Decimal(0))
        outcome.cost = outcome.cost.quantize(Decimal("1e-12"))
        outcome.worst_tokens = send.prepared.worst_tokens
        outcome.tokens = {
            "answer": outcome.worst_tokens // 3,
            "costly error": outcome.worst_tokens,
        }.get(kind, 0)
        lease = next((lease for lease in self.leases.values() if lease.holds(cell_no)), None)
        if kind == "answer":
            outcome.result = Result("succeeded", "p", "t", "r", is_successful=cell_no % 2 == 0)
        else:
            outcome.error_kind = "server_error"
            if kind == "error" and lease is not None:
                lease.past.setdefault(cell_no, leasing.Past()).attempts = send.attempt_no
                self.ready.append(cell_no)
            else:
                outcome.result = Result("failed", "p", "t", error_kind="server_error")
        self.outcomes.append(outcome)

    def give_up(self, count: int) -> None:
        """Cells that were never sent are to be recorded as failed."""
        for _ in range(min(count, len(self.ready))):
            cell_no = self.ready.pop()
            lease = next((lease for lease in self.leases.values() if lease.holds(cell_no)), None)
            past = lease.past.get(cell_no) if lease is not None else None
            result = Result("failed", "p", "t", error_kind="bad_key")
            result.attempts = past.attempts if past else 0
            self.outcomes.append(Outcome(cell_no, 0, datetime.now(UTC), result=result))

    def unsend(self) -> None:
        """Takes back what was committed and did not go out."""
        for send in self.flying:
            self._take_back(send)
        self.flying.clear()

    def _take_back(self, send: Send) -> None:
        cell_no = send.prepared.cell.cell_no
        outcome = Outcome(cell_no, send.attempt_no, datetime.now(UTC))
        outcome.error_kind, outcome.worst_cost = "not_sent", send.prepared.worst_cost
        self.outcomes.append(outcome)
        lease = next((lease for lease in self.leases.values() if lease.holds(cell_no)), None)
        if lease is not None:
            lease.past.setdefault(cell_no, leasing.Past()).attempts = send.attempt_no

    async def tick(self, count: int, *, times: int = 1) -> None:
        """times: 2 for a COMMIT whose answer was lost, after which the same tick is run again."""
        outcomes, self.outcomes = self.outcomes, []
        wanted = [send for cell in self.ready[:count] if (send := self._send(cell)) is not None]
        self.ready = self.ready[count:]
        decided = {outcome.cell_no for outcome in outcomes if outcome.result is not None}
        leases = list(self.leases.values())
        is_closing = self.is_stopped and not self.flying
        complete = [lease for lease in leases if lease.todo <= decided or is_closing]
        for _ in range(times):
            async with self.core.db.begin(Call.by_worker("tick", self.org_id)) as tx:
                control = await run_tick(tx, self.context, leases, outcomes, wanted, complete)
        self.is_stopped = bool(control.stop_reason)
        undecided = {outcome.cell_no for outcome in control.undecided}
        self.ready += undecided
        for lease in leases:
            lease.todo -= decided - undecided
        for lease in complete:
            if lease.todo and not is_closing:
                continue
            self.leases.pop(lease.shard_no, None)
        for shard_no in [number for number in self.leases if number not in control.leases]:
            self.leases.pop(shard_no)
        held = list(self.leases.values())
        sent = {send.prepared.cell.cell_no for send in control.admitted}
        if times > 1:  # what the second did not admit may have been sent by the first
            for send in wanted:
                if send.prepared.cell.cell_no not in sent:
                    self._take_back(send)
        self.flying += control.admitted
        self.ready += [
            s.prepared.cell.cell_no for s in wanted if s.prepared.cell.cell_no not in sent
        ]
        self.ready = [cell for cell in self.ready if any(lease.holds(cell) for lease in held)]

    def _send(self, cell_no: int) -> Send | None:
        for lease in self.leases.values():
            if lease.holds(cell_no):
                past = lease.past.get(cell_no)
                attempt_no = (past.attempts if past else 0) + 1
                return Send(self.context.plan.prepare(cell_no), attempt_no, lease.fence)
        return None


async def expire(stage: Stage, run_id: str) -> None:
    """All leases of the run end now, whoever holds them."""
    await stage.books.value(
        "WITH e AS (UPDATE campaigns.shards SET lease_until = now() - interval '1 second' "
        "WHERE run_id = %(run_id)s AND lease_until > now() RETURNING 1) SELECT count(*) FROM e",
        run_id=run_id,
    )


async def new_drive(stage: Stage, core: Core, run_id: str, slot: int) -> Drive:
    row = (
        await stage.books.rows(
            "SELECT r.org_id::text, r.campaign_id::text, r.launched_by::text, p.plan "
            "FROM campaigns.runs r JOIN campaigns.run_plans p ON p.run_id = r.id "
            "WHERE r.id = %(run_id)s",
            run_id=run_id,
        )
    )[0]
    context = TickContext(
        run_id=run_id,
        org_id=row["org_id"],
        campaign_id=row["campaign_id"],
        user_id=row["launched_by"],
        owner=f"drive {uuid4()}",
        slot=slot,
        lease_s=LEASE_S,
        plan=RunPlan(bytes(row["plan"])),
    )
    return Drive(core, context)


ACTIONS = st.one_of(
    st.tuples(st.just("claim"), st.integers(0, 1)),
    st.tuples(st.just("adopt"), st.integers(0, 1)),
    st.tuples(st.just("tick"), st.integers(0, 1), st.integers(0, 20), st.integers(1, 2)),
    st.tuples(
        st.just("answer"),
        st.integers(0, 1),
        st.integers(1, 12),
        st.sampled_from(["answer", "answer", "error", "costly error"]),
    ),
    st.tuples(st.just("unsend"), st.integers(0, 1)),
    st.tuples(st.just("expire")),
    st.tuples(st.just("die"), st.integers(0, 1)),
)
# Every story begins with a drive at work, or with one whose work was just taken over.
AT_WORK: list[tuple[Any, ...]] = [("claim", 0), ("adopt", 0), ("tick", 0, 10, 1)]
TAKEN_OVER: list[tuple[Any, ...]] = [*AT_WORK, ("expire",), ("claim", 1), ("adopt", 1)]
LATE: list[tuple[Any, ...]] = [*TAKEN_OVER, ("answer", 0, 5, "answer"), ("tick", 0, 0, 1)]

# Calls are in the air when a day, and then a month, is over; and then it is the day before again.
OVER_MIDNIGHT: list[tuple[Any, ...]] = [
    *AT_WORK,
    ("jump", 2),
    ("tick", 0, 5, 1),
    ("jump", 3),
    ("answer", 0, 6, "answer"),
    ("tick", 0, 5, 1),
    ("jump", 1),
    ("answer", 0, 3, "costly error"),
    ("tick", 0, 5, 1),
]
# The budget of a person is set when calls of two days are made or in the air; then it is the first of
# them again.
SET_LATER: list[tuple[Any, ...]] = [
    *AT_WORK,
    ("answer", 0, 4, "answer"),
    ("jump", 3),
    ("tick", 0, 5, 1),
    ("limit",),
    ("jump", 0),
    ("tick", 0, 5, 1),
]


async def act(
    stage: Stage, core: Core, run_id: str, drives: list[Drive], action: tuple[Any, ...]
) -> None:
    match action:
        case ("claim", who):
            await drives[who].claim()
        case ("adopt", who):
            await drives[who].adopt()
        case ("tick", who, count, times):
            await drives[who].tick(count, times=times)
        case ("answer", who, count, kind):
            for number in range(count):
                drives[who].answer(number * 7, kind)
        case ("unsend", who):
            drives[who].unsend()
        case ("give up", who, count):
            drives[who].give_up(count)
        case ("expire",):
            await expire(stage, run_id)
        case ("die", who):
            drives[who] = await new_drive(stage, core, run_id, who)


async def finish(stage: Stage, core: Core, run_id: str, drives: list[Drive]) -> None:
    """What flies comes back to whoever sent it, and one more drive does the rest."""
    for drive in drives:
        while drive.flying:
            drive.answer(0, "answer")
        await drive.tick(0)
    await expire(stage, run_id)
    await stage.olivia.campaigns.TuneRun(run_id=run_id, cost_usd_max="")
    last = await new_drive(stage, core, run_id, 2)
    for _ in range(40):
        await last.claim()
        await last.adopt()
        await last.tick(50)
        while last.flying:
            last.answer(0, "answer")
        await last.tick(0)
        if (await stage.run(run_id)).state == RunState.RUN_STATE_COMPLETED:
            return
    raise AssertionError("the run never ends")


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    begin=st.sampled_from([AT_WORK, TAKEN_OVER, LATE]),
    actions=st.lists(ACTIONS, min_size=5, max_size=30),
)
async def test_any_interleaving_keeps_the_books(
    scene: tuple[Stage, Core], begin: list[tuple[Any, ...]], actions: list[tuple[Any, ...]]
) -> None:
    """One execution a cell, ledger equal to what the attempts cost, tallies equal to a recount, and
    never more than the limit; at the end, after a last drive, nothing is held."""
    stage, core = scene
    plan = scene_plans.get(id(stage))
    if plan is None:
        plan = scene_plans[id(stage)] = await stage.plan(rows=24, repetitions=2, attempts_max=10)
        plan.limits.cost_usd_max = "0.008"
    run = await launched(stage.olivia, plan, f"campaign {uuid4()}")
    assert run.cells_total == CELLS
    drives = [await new_drive(stage, core, run.id, slot) for slot in (0, 1)]
    for action in [*begin, *actions]:
        await act(stage, core, run.id, drives, action)
        money = await stage.books.money(run.id)
        assert money.cost_max is not None
        assert money.held >= 0
        assert money.settled + money.held <= money.cost_max
    await stage.books.check(run.id)
    await finish(stage, core, run.id, drives)
    await stage.books.check(run.id, cells=CELLS)


async def check_limits(stage: Stage, run_id: str) -> None:
    """The counters are what attempts and results say, and within the limits."""
    row = (
        await stage.books.rows(
            """
            SELECT m.*, (SELECT count(*) FROM campaigns.executions WHERE run_id = m.run_id) AS recorded,
                   (SELECT count(DISTINCT cell_no)
                      FROM (SELECT cell_no FROM campaigns.attempts WHERE run_id = m.run_id
                             UNION SELECT cell_no FROM campaigns.executions WHERE run_id = m.run_id) c
                   ) AS begun,
                   (SELECT COALESCE(sum(worst_tokens), 0) FROM campaigns.attempts
                     WHERE run_id = m.run_id AND state = 'sent') AS in_flight
              FROM campaigns.run_money m WHERE run_id = %(run_id)s
            """,
            run_id=run_id,
        )
    )[0]
    assert row["cells_recorded"] == row["recorded"] <= row["cells_begun"] == row["begun"], row
    assert row["cells_begun"] <= row["executions_max"], row
    assert row["tokens_held"] == row["in_flight"], row
    assert 0 <= row["tokens_settled"] + row["tokens_held"] <= row["tokens_max"], row


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    begin=st.sampled_from([AT_WORK, TAKEN_OVER, LATE]),
    actions=st.lists(
        st.one_of(ACTIONS, st.tuples(st.just("give up"), st.integers(0, 1), st.integers(1, 8))),
        min_size=5,
        max_size=25,
    ),
)
async def test_any_interleaving_keeps_the_limits(
    scene: tuple[Stage, Core], begin: list[tuple[Any, ...]], actions: list[tuple[Any, ...]]
) -> None:
    """Never more cells begun, nor more tokens taken, than the limits say; a run that one of them
    stopped is over, with every cell recorded or skipped, and nothing held."""
    stage, core = scene
    plan = scene_plans.get(-id(stage))
    if plan is None:
        plan = scene_plans[-id(stage)] = await stage.plan(rows=24, repetitions=2, attempts_max=10)
        plan.limits.executions_max, plan.limits.tokens_max = 40, 15_000
    run = await launched(stage.olivia, plan, f"campaign {uuid4()}")
    drives = [await new_drive(stage, core, run.id, slot) for slot in (0, 1)]
    for action in [*begin, *actions]:
        await act(stage, core, run.id, drives, action)
        await check_limits(stage, run.id)
    await stage.books.check(run.id)
    for drive in drives:
        while drive.flying:
            drive.answer(0, "answer")
        await drive.tick(0)
    await expire(stage, run.id)
    last = await new_drive(stage, core, run.id, 2)
    for _ in range(40):
        await last.claim()
        await last.adopt()
        await last.tick(20)
        while last.flying:
            last.answer(0, "answer")
        await last.tick(0)
        await check_limits(stage, run.id)
        over = await stage.run(run.id)
        if over.finished_at.seconds:
            break
    assert over.state in (RunState.RUN_STATE_COMPLETED, RunState.RUN_STATE_FAILED)
    assert over.stop_reason
    assert over.counts.recorded == len(await stage.books.recorded(run.id))
    assert over.counts.recorded + over.counts.skipped == CELLS
    await stage.books.check(run.id)
    assert not await stage.books.attempts(run.id, "sent")


scene_plans: dict[int, Any] = {}


async def test_a_lost_lease_sends_and_gives_up_nothing(scene: tuple[Stage, Core]) -> None:
    """A drive that lost one of its two shards without noticing: of that shard it may neither send
    nor record a failure, for the new owner may get an answer; the other shard goes on."""
    stage, core = scene
    run = await launched(stage.olivia, await stage.plan(rows=24, repetitions=2))
    old, new = [await new_drive(stage, core, run.id, slot) for slot in (0, 1)]
    for _ in range(2):
        await old.claim()
    await old.adopt()
    await old.tick(5)
    lost = next(
        lease for lease in old.leases.values() if lease.holds(old.flying[0].prepared.cell.cell_no)
    )
    kept = next(lease for lease in old.leases.values() if lease is not lost)
    await stage.books.value(
        "WITH e AS (UPDATE campaigns.shards SET lease_until = now() - interval '1 second' "
        "WHERE run_id = %(run_id)s AND shard_no = %(shard_no)s RETURNING 1) SELECT count(*) FROM e",
        run_id=run.id,
        shard_no=lost.shard_no,
    )
    await new.claim()
    await new.adopt()
    assert list(new.leases) == [lost.shard_no]

    while old.flying:
        old.answer(0, "costly error")
    await old.tick(CELLS)
    assert await stage.books.recorded(run.id) == []
    sent = await stage.books.attempts(run.id, "sent")
    assert len(sent) == kept.cells
    assert all(kept.holds(attempt["cell_no"]) for attempt in sent)
    assert list(old.leases) == [kept.shard_no]
    await stage.books.check(run.id)


async def check_budgets(stage: Stage) -> None:
    """No window is overspent, and each is what ledger and attempts say."""
    await recount(stage)
    for row in await stage.books.rows("SELECT * FROM accounting.windows"):
        assert row["requests_held"] >= 0, row
        assert row["cost_held"] >= 0, row
        if row["requests_max"] is not None:
            assert row["requests_settled"] + row["requests_held"] <= row["requests_max"], row
        if row["cost_max"] is not None:
            assert row["cost_settled"] + row["cost_held"] <= row["cost_max"], row


@settings(
    max_examples=7,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(begin=SET_LATER, actions=[])
@given(
    begin=st.sampled_from([AT_WORK, TAKEN_OVER, LATE, OVER_MIDNIGHT, SET_LATER]),
    actions=st.lists(
        st.one_of(
            ACTIONS, st.tuples(st.just("jump"), st.integers(0, 5)), st.tuples(st.just("limit"))
        ),
        min_size=5,
        max_size=20,
    ),
)
async def test_any_interleaving_keeps_the_budgets(
    scene: tuple[Stage, Core],
    clock: Clock,
    begin: list[tuple[Any, ...]],
    actions: list[tuple[Any, ...]],
) -> None:
    """A campaign's daily requests and monthly money, and a person's day, which is set in the middle:
    never overspent and always accounted for, whoever dies, wakes up or answers late, while the clock
    jumps over the ends of days and of a month, forward and back; at the end nothing is held, and the
    sums by day are the ledger, which is the results and what was discarded."""
    stage, core = scene
    plan = scene_plans.get(-id(stage))
    if plan is None:
        plan = scene_plans[-id(stage)] = await stage.plan(rows=24, repetitions=2, attempts_max=10)
    clock.jump(0)  # later than the prices of the plan
    made = await stage.olivia.campaigns.CreateCampaign(name=f"campaign {uuid4()}", plan=plan)
    campaign = BudgetScope(kind=Scope.BUDGET_SCOPE_KIND_CAMPAIGN, id=made.campaign.id)
    person = BudgetScope(kind=Scope.BUDGET_SCOPE_KIND_USER)
    await limit(stage.olivia, campaign, Period.BUDGET_PERIOD_DAILY, requests=25)
    await limit(stage.olivia, campaign, Period.BUDGET_PERIOD_MONTHLY, cost="0.006")
    run = (await stage.olivia.campaigns.LaunchCampaign(campaign_id=made.campaign.id)).run
    drives = [await new_drive(stage, core, run.id, slot) for slot in (0, 1)]
    budget = None
    for action in [*begin, *actions]:
        if action[0] == "jump":
            clock.jump(action[1])
        elif action == ("limit",):
            budget = await limit(
                stage.olivia, person, Period.BUDGET_PERIOD_DAILY, requests=1_000_000
            )
        else:
            await act(stage, core, run.id, drives, action)
        await check_budgets(stage)
    await stage.books.check(run.id)
    await limit(stage.olivia, campaign, Period.BUDGET_PERIOD_DAILY, requests=1_000_000)
    await limit(stage.olivia, campaign, Period.BUDGET_PERIOD_MONTHLY, cost="1000")
    await finish(stage, core, run.id, drives)
    await stage.books.check(run.id, cells=CELLS)
    await check_budgets(stage)
    assert await stage.books.value("SELECT sum(requests_held) FROM accounting.windows") == 0
    await aggregate_usage(core.db)
    assert not (await stage.olivia.usage.ReconcileUsage(days=4000)).discrepancies
    if budget is not None:
        await stage.olivia.budgets.DeleteBudget(budget_id=budget.id)


async def began(stage: Stage, run_id: str, *, hours_ago: int) -> None:
    """The run runs since then, by the clock that the engine sees."""
    await stage.books.value(
        "WITH e AS (UPDATE campaigns.runs SET running_since = now() - %(ago)s * interval '1 hour' "
        "WHERE id = %(run_id)s RETURNING 1) SELECT count(*) FROM e",
        run_id=run_id,
        ago=hours_ago,
    )


async def test_a_late_answer_changes_no_run_that_is_over(scene: tuple[Stage, Core]) -> None:
    """A drive sleeps beyond its lease; meanwhile the run is out of time, and another drive closes its
    shards. What the first gets back is booked and not recorded: the run said already what it left out."""
    stage, core = scene
    plan = await stage.plan(rows=24, repetitions=2)
    plan.limits.wall_time_s = 3600
    run = await launched(stage.olivia, plan)
    old, new = [await new_drive(stage, core, run.id, slot) for slot in (0, 1)]
    await old.claim()
    await old.adopt()
    await began(stage, run.id, hours_ago=0)
    await old.tick(10)
    await expire(stage, run.id)
    await began(stage, run.id, hours_ago=2)
    await new.claim()
    await new.adopt()
    for _ in range(2):
        await new.tick(10)
    before = await stage.run(run.id)
    assert before.state == RunState.RUN_STATE_COMPLETED
    assert (before.counts.recorded, before.counts.skipped) == (0, CELLS)

    while old.flying:
        old.answer(0, "answer")
    await old.tick(0)
    assert await stage.books.recorded(run.id) == []
    assert (await stage.run(run.id)).counts.skipped == CELLS
    assert {a["state"] for a in await stage.books.attempts(run.id)} == {"settled"}
    await stage.books.check(run.id)
