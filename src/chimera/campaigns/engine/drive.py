"""One run on one worker: prepares cells, keeps calls in flight, collects outcomes, ticks.

Attempts are committed a little ahead of the places they wait for, so that a place that falls free
is filled at once and not after the next transaction. A tick comes when enough has come back, when
the committed ones run out, or when a lease wants its heartbeat.
"""

from __future__ import annotations

import asyncio
import time

import aiohttp
import structlog

from chimera import metrics
from chimera.accounting.windows import Short
from chimera.call import Call
from chimera.campaigns.dataset_rows import bring_rows, keep_rows
from chimera.campaigns.engine import leasing
from chimera.campaigns.engine.flights import FLUSH_AT, Flights
from chimera.campaigns.engine.leasing import Lease, Past
from chimera.campaigns.engine.opening import Opened, open_run, pause_for_money
from chimera.campaigns.engine.settlement import Outcome, TickContext
from chimera.campaigns.engine.tick import Control, Send, run_tick
from chimera.campaigns.engine.waiting import wait_for_budget
from chimera.campaigns.stored_answers import bring_answers, keep_answers
from chimera.core import Core
from chimera.faults import Fault, Invalid

log = structlog.get_logger("chimera.drive")

FLUSH_WITHIN_S = 0.05  # and how long fewer of them wait
COMMIT_WITHIN_S = 0.01  # how long places that will soon be empty wait for new attempts
LEASES_MAX = 3
CLAIM_EVERY_S = 1.0
REPORT_EVERY_S = 1.0  # how calls went, to the circuits; at once when one should open or close
SEAT_BROKE_S = 0.2  # how long an attacker or a judge waits for money that is held
BROKE_S = 1.0  # how often a drive asks whether the limits let something out again


class Drive:
    """Drives one run until nothing of it is left for this worker, or it is told to stop."""

    def __init__(
        self, core: Core, session: aiohttp.ClientSession, owner: str, first: Lease
    ) -> None:
        """first: a shard that was claimed under the name `owner`."""
        self.core, self.session = core, session
        self.run_id, self.org_id = first.run_id, first.org_id
        self.owner, self.first = owner, first
        self.flights = Flights(first.run_id)
        self.ticked_at = self.claimed_at = self.reported_at = 0.0
        self.broke_until = 0.0  # monotonic; 0 while limit and budgets let something out
        self.turned_from: set[str] = set()  # provider keys
        self.started_at = time.monotonic()
        self.priority = 0
        self.closing = False  # a limit stopped the run: its shards are closed, one after the other
        self.has_lost = False  # a shard, to another worker

    # --- the loop -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Returns when the run has nothing left that this worker could take. Cancelling it ends
        the calls in flight; their attempts stay sent, and whoever takes over books them."""
        try:
            await self._open()
            while await self._step():
                pass
        finally:
            self.stop()  # or the callbacks of cancelled calls would start the next ones
            for task in self.flights.tasks | self.flights.refills:
                task.cancel()

    async def _open(self) -> None:
        opened: Opened = await open_run(self.core, self.session, self.first)
        self.opened, self.plan = opened, opened.plan
        keep_rows(self.plan, ())  # what the process's last drive of the run left
        keep_answers(self.plan, ())
        self.priority = opened.priority
        self.flights.open(opened.plan, opened.lanes)
        self.context = TickContext(
            run_id=self.run_id,
            org_id=self.org_id,
            campaign_id=opened.campaign_id,
            user_id=opened.user_id,
            owner=self.owner,
            slot=hash(self.owner) & 0x7FFF,
            lease_s=self.core.settings.lease_s,
            plan=self.plan,
            api_key_id=opened.api_key_id,
            launched_at=opened.launched_at,
            cells_total=opened.cells_total,
            scoring_id=opened.scoring_id,
        )
        await self._adopt(self.first)
        await self._tick()
        self.flights.fill_places()

    @property
    def stopping(self) -> bool:
        return self.flights.stopping

    def stop(self) -> None:
        """Sends nothing new; ends when what is in flight has come back."""
        self.flights.stopping = True
        self.flights.wake.set()

    def abandon(self) -> None:
        """Also gives up what is in flight: whoever takes the shards over books it at its worst."""
        self.stop()
        for task in self.flights.tasks:
            task.cancel()

    async def _step(self) -> bool:
        """Waits for something to do and does it; False when the drive is over."""
        await self._wait()
        self.flights.resend_due()
        await self._claim_more()
        if self._tick_due():
            await self._tick()
        self.flights.fill_places()
        if self.flights.tasks or self.flights.outcomes:
            return True
        if not self.flights.leases:
            # With what it knows of its targets: a new drive would have to find out again which of
            # them are dead.
            await self._claim_more()
        if (
            self.flights.stopping
            or not (self.flights.sending or self.closing)
            or not self.flights.leases
            or not self.flights.concurrency
        ):
            await self._leave()
            return False
        return True

    async def _wait(self) -> None:
        if self._may_close():
            return
        now = time.monotonic()
        until = self.ticked_at + self.core.settings.heartbeat_s
        if self.flights.may_send():  # not beyond the leases, nor the run's limit of time
            until = min(until, self.flights.leased_until)
        idle = self._can_commit() and not any(lane.committed for lane in self.flights.lanes)
        if self.flights.outcomes or idle or self._hopeless():
            until = min(until, self.ticked_at + FLUSH_WITHIN_S)
        if self.flights.delayed:
            until = min(until, self.flights.delayed[0][0])
        if self.broke_until:
            until = min(until, self.broke_until)
        if self.flights.stalled:
            until = min(until, self.ticked_at + BROKE_S)
        for lane in self.flights.lanes:
            may_be_wanted = lane.committed or lane.ready or (lane.is_shut and self.plan.has_routes)
            if may_be_wanted and lane.blocked_until > now:
                until = min(until, lane.blocked_until)
        if until > now and not self.flights.wake.is_set():
            try:
                async with asyncio.timeout(until - now):
                    await self.flights.wake.wait()
            except TimeoutError:
                pass
        self.flights.wake.clear()

    def _tick_due(self) -> bool:
        now = time.monotonic()
        since = now - self.ticked_at
        if (
            self._may_close()
            or self.flights.overslept
            or len(self.flights.outcomes) >= FLUSH_AT
            or since >= self.core.settings.heartbeat_s
        ):
            return True
        if since >= FLUSH_WITHIN_S and (self.flights.outcomes or self._hopeless()):
            return True
        if since >= BROKE_S and self.flights.stalled:
            return True
        if since >= COMMIT_WITHIN_S and self._has_news():
            return True
        return since >= COMMIT_WITHIN_S and self._hungry() and self._can_commit()

    def _may_close(self) -> bool:
        """Whether nothing is in flight any more in the shards of a run that was stopped."""
        return self.closing and bool(self.flights.leases) and not self.flights.tasks

    def _report_due(self) -> bool:
        return self._has_news() or time.monotonic() - self.reported_at >= REPORT_EVERY_S

    def _has_news(self) -> bool:
        return any(lane.has_news for lane in self.flights.lanes)

    def _hopeless(self) -> bool:
        """Whether cells wait to be recorded as failed."""
        return self.flights.may_send() and any(
            lane.given_up and lane.ready for lane in self.flights.lanes
        )

    def _hungry(self) -> bool:
        """Whether places will soon find nothing committed to fill them with."""
        committed = sum(len(lane.committed) for lane in self.flights.lanes)
        return committed <= self.flights.concurrency // 2

    def _can_commit(self) -> bool:
        if (
            not self.flights.may_send()
            or self.flights.alone is not None
            or time.monotonic() < self.broke_until
        ):
            return False
        self.flights.go_round()
        return next(self.flights.rooms(), None) is not None or self.flights.suspect_may_go()

    # --- leases ---------------------------------------------------------------------------------

    async def _adopt(self, lease: Lease) -> None:
        """Makes a claimed shard's cells ready to go."""
        call = Call.by_worker("take_over", self.org_id, seconds=30)
        async with self.core.db.begin(call) as tx:
            await leasing.take_over(tx, lease, self.plan, self.opened.user_id)
            await bring_rows(tx, self.plan, lease.todo)
            await bring_answers(tx, self.plan, lease.todo)
        self.flights.leases[lease.shard_no] = lease
        if self.closing:
            return
        for cell_no in sorted(lease.todo):
            past = lease.past.get(cell_no)
            if past is None and self.plan.judges_stored:
                past = lease.past[cell_no] = Past()
            if past is not None:
                if not self.flights.talks.take_up(cell_no, past):
                    continue
                self.flights.ways.go_on(cell_no, past)
            if past is not None and past.poisonous:
                self.flights.park(cell_no, past)
            elif past is not None and past.suspect:
                self.flights.suspects.append(cell_no)
            else:
                self.flights.ways.lane_of(cell_no).ready.append(cell_no)

    async def _claim_more(self) -> None:
        now = time.monotonic()
        ready = sum(len(lane.ready) for lane in self.flights.lanes)
        has_enough = len(self.flights.leases) >= LEASES_MAX or ready > self.flights.concurrency
        if self.closing:
            has_enough = bool(self.flights.leases)
        if (
            self.flights.stopping
            or not (self.flights.sending or self.closing)
            # With nothing left to spend, what lost workers hold in other shards must be found.
            or (has_enough and not self.broke_until and not self.flights.stalled)
            or now - self.claimed_at < (CLAIM_EVERY_S if self.flights.leases else 0)
        ):
            return
        try:
            lease = await leasing.claim(
                self.core.db,
                owner=self.owner,
                lease_s=self.core.settings.lease_s,
                run_id=self.run_id,
            )
            if lease is not None:
                return await self._adopt(lease)
        except Fault as fault:  # a lease that was not adopted runs out and is claimed again
            log.warning("drive.claim_failed", run_id=self.run_id, reason=fault.reason)
        self.claimed_at = now

    async def _leave(self) -> None:
        self.flights.unsend()
        if self.flights.outcomes:
            await self._tick()
        await leasing.release(
            self.core.db, self.org_id, self.owner, list(self.flights.leases.values())
        )

    # --- the tick -------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Runs one tick, again and again while the database is away: what came back must be
        recorded, and nothing new goes out before it is."""
        if self.flights.may_send():
            self.flights.give_up_lanes()
        else:
            self.flights.unsend()
        outcomes = self.flights.outcomes
        self.flights.outcomes = []
        wanted = self.flights.pick() if self.flights.may_send() else []
        outcomes += self.flights.outcomes  # cells whose text could not be made
        self.flights.outcomes = []
        self.flights.talks.sift(outcomes)
        leases = list(self.flights.leases.values())
        decided = {outcome.cell_no for outcome in outcomes if outcome.result is not None}
        complete = [lease for lease in leases if lease.todo <= decided or self._may_close()]
        report = self.flights.report() if complete or self._report_due() else None
        delay_s = 0.1
        is_repeated = is_bared = False
        started = time.perf_counter()
        while True:
            begun = time.monotonic()
            try:
                call = Call.by_worker("tick", self.org_id, seconds=30)
                async with self.core.db.begin(call) as tx:
                    control = await run_tick(
                        tx, self.context, leases, outcomes, wanted, complete, report
                    )
                break
            except Invalid as fault:
                # Something that came back cannot be stored. It must not hold the rest of the run.
                log.error("drive.unstorable", run_id=self.run_id, exc_info=fault)
                if is_bared:
                    raise
                is_bared = True
                for outcome in outcomes:
                    outcome.bare()
            except Fault as fault:
                log.warning("drive.tick_failed", run_id=self.run_id, reason=fault.reason)
                is_repeated = True
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, 2.0)
        metrics.TICK_SECONDS.observe(time.perf_counter() - started)
        self.ticked_at = time.monotonic()
        self.flights.overslept = False
        ends_in_s = self.core.settings.lease_s if control.ends_in_s is None else control.ends_in_s
        self.flights.leased_until = begun + min(self.core.settings.lease_s, ends_in_s)
        if control.undecided:
            outcomes = self._keep_undecided(control.undecided, outcomes, decided)
            complete = [lease for lease in complete if lease.todo <= decided]
        for outcome in outcomes:
            if outcome.result is not None:
                metrics.EXECUTIONS.labels(outcome.result.state).inc()
        if report is not None:
            self.reported_at = self.ticked_at
        self._obey(control, decided, complete)
        self.flights.talks.go_on(outcomes)
        self.flights.obey(control.stands, control.drives)
        self._sort_out(control, wanted, is_repeated)
        self.flights.stall(may_begin=control.may_begin)
        if control.out_of_money and not self.flights.tasks:
            if control.short is None:
                await pause_for_money(self.core, self.run_id, self.opened.campaign_id, self.org_id)
            elif control.short.is_spent and not self._turn_from(control.short):
                # Were it not spent, others' calls might still give some of it back.
                await wait_for_budget(self.core, self.context, control.short, self.flights.lanes)

    def _turn_from(self, short: Short) -> bool:
        """Whether cells that would wait for the budget of a key could be sent to another model of
        their route instead. Once for each key, or a model that keeps failing would use up their
        tries before its circuit opens; who waits for the budget tries again (waiting.py)."""
        key = short.key
        if key.scope_kind != "provider_key" or key.scope_id in self.turned_from:
            return False
        self.turned_from.add(key.scope_id)
        if not self.flights.ways.turn_from_key(key.scope_id):
            return False
        self.broke_until = 0.0
        return True

    def _keep_undecided(
        self, undecided: list[Outcome], outcomes: list[Outcome], decided: set[int]
    ) -> list[Outcome]:
        """Cells that were to be recorded without a call and may not begin: they wait on. Returns the
        other outcomes."""
        for outcome in undecided:
            decided.discard(outcome.cell_no)
            self.flights.ways.lane_of(outcome.cell_no).ready.append(outcome.cell_no)
        kept = {outcome.cell_no for outcome in undecided}
        return [outcome for outcome in outcomes if outcome.cell_no not in kept]

    def _obey(self, control: Control, decided: set[int], complete: list[Lease]) -> None:
        for lease in self.flights.leases.values():
            lease.todo -= decided
        for lease in complete:
            self.flights.leases.pop(lease.shard_no, None)
        for shard_no in [shard for shard in self.flights.leases if shard not in control.leases]:
            log.warning("drive.lease_lost", run_id=self.run_id, shard_no=shard_no)
            self.flights.lose(self.flights.leases.pop(shard_no))
            self.has_lost = True  # what is in flight of it still needs its rows
        if complete and not self.has_lost:
            spans = [lease.span for lease in self.flights.leases.values()]
            keep_rows(self.plan, spans)
            keep_answers(self.plan, spans)
        is_running = control.state == "running"
        self.closing = is_running and bool(control.stop_reason)
        self.flights.sending = is_running and not control.stopped and not self.closing
        self.flights.attempts_max = control.attempts_max
        self._share(control)
        for lane in self.flights.lanes:
            if lane.model.model_id not in control.allowed and not lane.given_up:
                lane.given_up = "target_not_allowed"
            if lane.pace.wants_look():
                self.flights.track_refill(lane.pace.look())
        is_broke = control.out_of_money or control.out_of_tokens
        self.broke_until = time.monotonic() + BROKE_S if is_broke else 0.0

    def _sort_out(self, control: Control, wanted: list[Send], is_repeated: bool) -> None:
        """What may go out now, and what has to wait.

        After a repeated tick, what was not admitted may be recorded as sent all the same, by a
        COMMIT whose answer was lost: it is taken back, which does nothing where there is no row.
        """
        spent = [send.prepared.cell.cell_no for send in control.seated.spent]
        for seat_no in control.seated.short:
            for model_no in self.plan.seats[seat_no].target.model_nos:
                self.flights.lanes[model_no].broke_until = time.monotonic() + SEAT_BROKE_S
        admitted = set()
        for send in control.admitted:
            admitted.add(send.prepared.cell.cell_no)
            self.flights.lanes[send.prepared.model_no].committed.append(send)
        for send in reversed(wanted):
            if send.prepared.cell.cell_no not in admitted:
                if send.prepared.cell.cell_no in spent:
                    self.flights.talks.seat_is_spent(send)
                    if send.alone:
                        self.flights.alone = None
                elif is_repeated:
                    self.flights.take_back(send)
                else:
                    self.flights.put_back(send)

    def _share(self, control: Control) -> None:
        """The run's concurrency is split evenly over the drives that are on it."""
        self.flights.concurrency = control.share
        for lane in self.flights.lanes:
            lane.resize(max(1, control.share))
