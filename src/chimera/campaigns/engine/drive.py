"""One run on one worker: prepares cells, keeps calls in flight, collects outcomes, ticks.

Attempts are committed a little ahead of the places they wait for, so that a place that falls free
is filled at once and not after the next transaction. A tick comes when enough has come back, when
the committed ones run out, or when a lease wants its heartbeat.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import aiohttp
import structlog

from chimera import metrics
from chimera.call import Call
from chimera.campaigns.engine import leasing
from chimera.campaigns.engine.calling import make_call
from chimera.campaigns.engine.lanes import Lane, retry_delay_s
from chimera.campaigns.engine.leasing import Lease, Past
from chimera.campaigns.engine.opening import Opened, open_run, pause_for_money, save_circuits
from chimera.campaigns.engine.settlement import Outcome, Result, TickContext
from chimera.campaigns.engine.tick import Control, Send, run_tick
from chimera.campaigns.engine.waiting import wait_for_budget
from chimera.campaigns.parameters import ParameterError
from chimera.core import Core
from chimera.faults import Fault, Invalid
from chimera.providers.adapters import ProviderError
from chimera.templates.values import RenderError

log = structlog.get_logger("chimera.drive")

FLUSH_AT = 64  # outcomes that make a tick worth its transaction
FLUSH_WITHIN_S = 0.05  # and how long fewer of them wait
COMMIT_WITHIN_S = 0.01  # how long places that will soon be empty wait for new attempts
PREPARED_MAX = 512  # cells prepared or decided in one tick; bounds its memory and its locks
LEASES_MAX = 3
CLAIM_EVERY_S = 1.0
BROKE_S = 1.0  # how often a drive asks whether the cost limit lets something out again


class Drive:
    """Drives one run until nothing of it is left for this worker, or it is told to stop."""

    def __init__(
        self, core: Core, session: aiohttp.ClientSession, owner: str, first: Lease
    ) -> None:
        """first: a shard that was claimed under the name `owner`."""
        self.core, self.session = core, session
        self.run_id, self.org_id = first.run_id, first.org_id
        self.owner, self.first = owner, first
        self.leases: dict[int, Lease] = {}
        self.lanes: list[Lane] = []  # by target_no
        self.turns: deque[Lane] = deque()  # the same, whose turn it is first
        self.delayed: list[tuple[float, int]] = []  # (monotonic due, cell) of retries
        self.suspects: list[int] = []  # cells that go out alone, last
        self.outcomes: list[Outcome] = []
        self.tasks: set[asyncio.Task[None]] = set()  # calls in flight
        self.refills: set[asyncio.Task[None]] = set()
        self.wake = asyncio.Event()
        self.stopping = False
        self.sending = True
        self.alone: int | None = None  # the suspect that has the drive to itself
        self.concurrency = 1
        self.attempts_max = 1
        self.ticked_at = self.claimed_at = 0.0
        self.broke_until = 0.0  # monotonic; 0 while limit and budgets let something out
        self.leased_until = 0.0  # monotonic, by what the last tick committed
        self.started_at = time.monotonic()
        self.priority = 0

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
            for task in self.tasks | self.refills:
                task.cancel()

    async def _open(self) -> None:
        opened: Opened = await open_run(self.core, self.session, self.first)
        self.opened, self.plan = opened, opened.plan
        self.lanes, self.priority = opened.lanes, opened.priority
        self.turns.extend(opened.lanes)
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
        )
        await self._adopt(self.first)
        await self._tick()
        self._fill_places()

    def stop(self) -> None:
        """Sends nothing new; ends when what is in flight has come back."""
        self.stopping = True
        self.wake.set()

    def abandon(self) -> None:
        """Also gives up what is in flight: whoever takes the shards over books it at its worst."""
        self.stop()
        for task in self.tasks:
            task.cancel()

    async def _step(self) -> bool:
        """Waits for something to do and does it; False when the drive is over."""
        await self._wait()
        self._resend_due()
        await self._claim_more()
        if self._tick_due():
            await self._tick()
        self._fill_places()
        if self.tasks or self.outcomes:
            return True
        if not self.leases:
            # With what it knows of its targets: a new drive would have to find out again which of
            # them are dead.
            await self._claim_more()
        if self.stopping or not self.sending or not self.leases or not self.concurrency:
            await self._leave()
            return False
        return True

    async def _wait(self) -> None:
        now = time.monotonic()
        until = self.ticked_at + self.core.settings.heartbeat_s
        idle = self._can_commit() and not any(lane.committed for lane in self.lanes)
        if self.outcomes or idle or self._hopeless():
            until = min(until, self.ticked_at + FLUSH_WITHIN_S)
        if self.delayed:
            until = min(until, self.delayed[0][0])
        if self.broke_until:
            until = min(until, self.broke_until)
        for lane in self.lanes:
            if (lane.committed or lane.ready) and lane.blocked_until > now:
                until = min(until, lane.blocked_until)
        if until > now and not self.wake.is_set():
            try:
                async with asyncio.timeout(until - now):
                    await self.wake.wait()
            except TimeoutError:
                pass
        self.wake.clear()

    def _tick_due(self) -> bool:
        now = time.monotonic()
        since = now - self.ticked_at
        if len(self.outcomes) >= FLUSH_AT or since >= self.core.settings.heartbeat_s:
            return True
        if since >= FLUSH_WITHIN_S and (self.outcomes or self._hopeless()):
            return True
        return since >= COMMIT_WITHIN_S and self._hungry() and self._can_commit()

    def _hopeless(self) -> bool:
        """Whether cells wait to be recorded as failed."""
        return self._may_send() and any(lane.given_up and lane.ready for lane in self.lanes)

    def _may_send(self) -> bool:
        return self.sending and not self.stopping

    def _hungry(self) -> bool:
        """Whether places will soon find nothing committed to fill them with."""
        committed = sum(len(lane.committed) for lane in self.lanes)
        return committed <= self.concurrency // 2

    def _can_commit(self) -> bool:
        if not self._may_send() or self.alone is not None or time.monotonic() < self.broke_until:
            return False
        return next(self._rooms(), None) is not None or bool(self.suspects and self._idle())

    # --- leases ---------------------------------------------------------------------------------

    async def _adopt(self, lease: Lease) -> None:
        """Makes a claimed shard's cells ready to go."""
        call = Call.by_worker("take_over", self.org_id, seconds=30)
        async with self.core.db.begin(call) as tx:
            await leasing.take_over(tx, lease, self.plan, self.opened.user_id)
        self.leases[lease.shard_no] = lease
        for cell_no in sorted(lease.todo):
            past = lease.past.get(cell_no)
            if past is not None and past.poisonous:
                self._park(cell_no, past)
            elif past is not None and past.suspect:
                self.suspects.append(cell_no)
            else:
                self.lanes[self.plan.cell(cell_no).target_no].ready.append(cell_no)

    async def _claim_more(self) -> None:
        now = time.monotonic()
        ready = sum(len(lane.ready) for lane in self.lanes)
        if (
            self.stopping
            or not self.sending
            # With no money left, what lost workers hold in other shards must be found.
            or (
                (len(self.leases) >= LEASES_MAX or ready > self.concurrency)
                and not self.broke_until
            )
            or now - self.claimed_at < (CLAIM_EVERY_S if self.leases else 0)
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

    def _lease_of(self, cell_no: int) -> Lease | None:
        return next((lease for lease in self.leases.values() if lease.holds(cell_no)), None)

    async def _leave(self) -> None:
        self._unsend()
        if self.outcomes:
            await self._tick()
        await leasing.release(self.core.db, self.org_id, self.owner, list(self.leases.values()))

    # --- the tick -------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Runs one tick, again and again while the database is away: what came back must be
        recorded, and nothing new goes out before it is."""
        if self._may_send():
            self._give_up_lanes()
        else:
            self._unsend()
        outcomes = self.outcomes
        self.outcomes = []
        wanted = self._pick() if self._may_send() else []
        outcomes += self.outcomes  # cells whose text could not be made
        self.outcomes = []
        leases = list(self.leases.values())
        decided = {outcome.cell_no for outcome in outcomes if outcome.result is not None}
        complete = [lease for lease in leases if lease.todo <= decided]
        delay_s = 0.1
        is_repeated = is_bared = False
        started = time.perf_counter()
        while True:
            begun = time.monotonic()
            try:
                call = Call.by_worker("tick", self.org_id, seconds=30)
                async with self.core.db.begin(call) as tx:
                    control = await run_tick(tx, self.context, leases, outcomes, wanted, complete)
                    await save_circuits(tx, self.lanes)
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
        self.leased_until = begun + self.core.settings.lease_s
        for outcome in outcomes:
            if outcome.result is not None:
                metrics.EXECUTIONS.labels(outcome.result.state).inc()
        for lane in self.lanes:
            lane.circuit_changed = False
        self._obey(control, decided, complete)
        self._sort_out(control, wanted, is_repeated)
        if control.out_of_money and not self.tasks:
            if control.short is None:
                await pause_for_money(self.core, self.run_id, self.opened.campaign_id, self.org_id)
            elif control.short.is_spent:  # else others' calls may still give some of it back
                await wait_for_budget(self.core, self.context, control.short)

    def _obey(self, control: Control, decided: set[int], complete: list[Lease]) -> None:
        for lease in self.leases.values():
            lease.todo -= decided
        for lease in complete:
            self.leases.pop(lease.shard_no, None)
        for shard_no in [shard for shard in self.leases if shard not in control.leases]:
            self._lose(self.leases.pop(shard_no))
        self.sending = control.state == "running" and not control.stopped
        self.attempts_max = control.attempts_max
        self._share(control)
        for lane in self.lanes:
            if lane.target.model_id not in control.allowed and not lane.given_up:
                lane.given_up = "target_not_allowed"
            if lane.pace.wants_look():
                self._track_refill(lane.pace.look())
        self.broke_until = time.monotonic() + BROKE_S if control.out_of_money else 0.0

    def _sort_out(self, control: Control, wanted: list[Send], is_repeated: bool) -> None:
        """What may go out now, and what has to wait.

        After a repeated tick, what was not admitted may be recorded as sent all the same, by a
        COMMIT whose answer was lost: it is taken back, which does nothing where there is no row.
        """
        admitted = set()
        for send in control.admitted:
            admitted.add(send.prepared.cell.cell_no)
            self.lanes[send.prepared.cell.target_no].committed.append(send)
        for send in reversed(wanted):
            if send.prepared.cell.cell_no not in admitted:
                if is_repeated:
                    self._take_back(send)
                else:
                    self._put_back(send)

    def _share(self, control: Control) -> None:
        """The run's concurrency is split evenly over the drives that are on it."""
        self.concurrency = control.share
        for lane in self.lanes:
            lane.resize(max(1, control.share))
            lane.pace.drivers = control.drivers

    def _lose(self, lease: Lease) -> None:
        """Another worker has this shard now; what is in flight is still settled, and what was
        committed and did not go out is known to have cost nothing."""
        log.warning("drive.lease_lost", run_id=self.run_id, shard_no=lease.shard_no)
        for lane in self.lanes:
            self._unsend_lane(lane, lease)
            kept = [cell for cell in lane.ready if not lease.holds(cell)]
            lane.ready.clear()
            lane.ready.extend(kept)
        self.delayed = [item for item in self.delayed if not lease.holds(item[1])]
        heapq.heapify(self.delayed)
        self.suspects = [cell for cell in self.suspects if not lease.holds(cell)]

    # --- choosing what goes out -----------------------------------------------------------------

    def _rooms(self) -> Iterator[tuple[Lane, int]]:
        """Lanes that have cells, and how many more attempts of each may be committed: evenly over
        them, altogether what may fly and as many again. A lane that has to wait takes no room from
        the others."""
        now = time.monotonic()
        flowing = [lane for lane in self.turns if not lane.given_up and lane.blocked_until <= now]
        total = 2 * self.concurrency - sum(lane.outstanding for lane in flowing)
        busy = sum(1 for lane in flowing if lane.ready or lane.outstanding)
        share = -(-2 * self.concurrency // max(1, busy))
        for lane in flowing:
            ahead = 1 if lane.is_open else min(2 * int(lane.window), share)
            room = min(ahead - lane.outstanding, total)
            if lane.ready and room > 0:
                total -= room
                yield lane, room

    def _idle(self) -> bool:
        return not (
            self.tasks
            or self.delayed
            or self.outcomes
            or any(lane.ready or lane.committed for lane in self.lanes)
        )

    def _pick(self) -> list[Send]:
        """Prepares what should go out next, lanes in turn."""
        sends: list[Send] = []
        if self.alone is None and self.suspects and self._idle():
            self.alone = self.suspects.pop(0)
            send = self._prepare(self.alone, alone=True)
            if send is None:
                self.alone = None
                return []
            return [send]
        if self.alone is not None:
            return []
        for lane, room in self._rooms():
            for _ in range(min(room, PREPARED_MAX - len(sends))):
                if not lane.ready:
                    break
                send = self._prepare(lane.ready.popleft())
                if send is not None:
                    sends.append(send)
        self.turns.rotate(-1)
        return sends

    def _prepare(self, cell_no: int, *, alone: bool = False) -> Send | None:
        lease = self._lease_of(cell_no)
        if lease is None:
            return None
        try:
            prepared = self.plan.prepare(cell_no)
        except (ParameterError, RenderError) as error:
            result = Result("failed", "", "", error_kind=error.reason, verdict_reason=str(error))
            self._decide(cell_no, result)
            return None
        past = lease.past.get(cell_no)
        return Send(prepared, (past.attempts if past else 0) + 1, lease.fence, alone)

    def _put_back(self, send: Send) -> None:
        cell_no = send.prepared.cell.cell_no
        if send.alone:
            self.alone = None
            self.suspects.insert(0, cell_no)
        elif self._lease_of(cell_no) is not None:
            self.lanes[send.prepared.cell.target_no].ready.appendleft(cell_no)

    def _resend_due(self) -> None:
        now = time.monotonic()
        while self.delayed and self.delayed[0][0] <= now:
            _due, cell_no = heapq.heappop(self.delayed)
            self.lanes[self.plan.cell(cell_no).target_no].ready.appendleft(cell_no)

    # --- sending --------------------------------------------------------------------------------

    def _fill_places(self) -> None:
        """Starts committed attempts as far as windows and paces allow."""
        if not self._may_send():
            return
        if time.monotonic() >= self.leased_until:
            # This process slept, or the database is away: first a tick, which says what is still
            # ours. What goes out beyond a lease may be going out elsewhere too.
            self.ticked_at = 0.0
            self.wake.set()
            return
        free = self.concurrency - len(self.tasks)
        while free > 0 and (lane := self._next_lane()) is not None:
            self._start(lane, lane.committed.popleft())
            free -= 1
        if free > 0:
            for lane in self.lanes:
                if lane.committed and lane.places() > 0 and lane.pace.wants_refill():
                    self._ask_for_permits(lane, free)

    def _next_lane(self) -> Lane | None:
        """The next lane in turn that may start a call now; its permit is taken."""
        for _ in range(len(self.turns)):
            lane = self.turns[0]
            self.turns.rotate(-1)
            if lane.committed and lane.places() > 0 and lane.pace.take():
                return lane
        return None

    def _ask_for_permits(self, lane: Lane, wanted: int) -> None:
        request = lane.committed[0].prepared.request
        # About three characters a token: a limit is the provider's to enforce, this only paces.
        size = sum(len(message.content) // 3 + 4 for message in request.messages)
        self._track_refill(lane.pace.refill(wanted, size + (request.max_tokens or 0)))

    def _track_refill(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.refills.add(task)

        def done(ended: asyncio.Task[None]) -> None:
            self.refills.discard(ended)
            self.wake.set()

        task.add_done_callback(done)

    def _start(self, lane: Lane, send: Send) -> None:
        lane.in_flight += 1
        task = asyncio.create_task(self._call(lane, send))

        def done(ended: asyncio.Task[None]) -> None:
            self.tasks.discard(ended)
            lane.in_flight -= 1
            self._fill_places()
            if len(self.outcomes) >= FLUSH_AT or len(self.tasks) < self.concurrency:
                self.wake.set()

        self.tasks.add(task)
        task.add_done_callback(done)

    async def _call(self, lane: Lane, send: Send) -> None:
        """One attempt, from the wire to its outcome."""
        try:
            outcome, error = await make_call(lane, send, self.run_id, self.plan.judge)
            if error is None:
                lane.succeeded()
                self.outcomes.append(outcome)
            else:
                await lane.failed(error)
                self._failed(lane, send, outcome, error)
        finally:
            if send.alone:
                self.alone = None

    def _failed(self, lane: Lane, send: Send, outcome: Outcome, error: ProviderError) -> None:
        cell_no = send.prepared.cell.cell_no
        lease = self._lease_of(cell_no)
        past = lease.past.setdefault(cell_no, Past()) if lease is not None else Past()
        past.attempts = send.attempt_no
        past.errors += 1
        again = error.retryable and past.errors < self.attempts_max and not lane.given_up
        if lease is None:
            pass  # whoever has the shard now decides the cell
        elif again:
            heapq.heappush(
                self.delayed, (time.monotonic() + retry_delay_s(past.errors, error), cell_no)
            )
        else:
            outcome.result = Result(
                "failed",
                send.prepared.prompt.text,
                send.prepared.transformed,
                error_kind=error.kind,
                verdict_reason=outcome.error_message,
                attempts=send.attempt_no,
            )
        self.outcomes.append(outcome)

    # --- cells decided without an answer --------------------------------------------------------

    def _decide(self, cell_no: int, result: Result) -> None:
        self.outcomes.append(Outcome(cell_no, 0, datetime.now(UTC), result=result))

    def _park(self, cell_no: int, past: Past) -> None:
        prepared = self.plan.prepare(cell_no)
        reason = (
            f"its worker was lost {past.unknown} times while this cell was in flight, "
            "the last time with nothing else"
        )
        self._decide(
            cell_no,
            Result(
                "parked",
                prepared.prompt.text,
                prepared.transformed,
                error_kind="worker_lost",
                verdict_reason=reason,
                attempts=past.attempts,
            ),
        )

    def _give_up_lanes(self) -> None:
        """Records what a given-up lane still had to do as failed, a bounded number a tick."""
        for lane in self.lanes:
            if not lane.given_up:
                continue
            self._unsend_lane(lane)
            waiting = [cell for _due, cell in self.delayed if self._is_of(lane, cell)]
            self.delayed = [item for item in self.delayed if not self._is_of(lane, item[1])]
            heapq.heapify(self.delayed)
            lane.ready.extend(waiting)
            while lane.ready and len(self.outcomes) < PREPARED_MAX:
                self._fail_unsent(lane, lane.ready.popleft())

    def _is_of(self, lane: Lane, cell_no: int) -> bool:
        return self.lanes[self.plan.cell(cell_no).target_no] is lane

    def _fail_unsent(self, lane: Lane, cell_no: int) -> None:
        lease = self._lease_of(cell_no)
        past = lease.past.get(cell_no) if lease is not None else None
        result = Result(
            "failed",
            "",
            "",
            error_kind=lane.given_up,
            verdict_reason=f"{lane.target.name} was given up: {lane.given_up}",
            attempts=past.attempts if past else 0,
        )
        try:
            prepared = self.plan.prepare(cell_no)
        except (ParameterError, RenderError) as error:
            result.error_kind, result.verdict_reason = error.reason, str(error)
        else:
            result.original_prompt = prepared.prompt.text
            result.transformed_prompt = prepared.transformed
        self._decide(cell_no, result)

    def _unsend(self) -> None:
        """Takes back attempts that were committed and not sent, at no cost."""
        for lane in self.lanes:
            self._unsend_lane(lane)

    def _unsend_lane(self, lane: Lane, lost: Lease | None = None) -> None:
        """All that is committed, or what belongs to a lost lease."""
        committed = list(lane.committed)
        lane.committed.clear()
        for send in committed:
            cell_no = send.prepared.cell.cell_no
            if lost is not None and not lost.holds(cell_no):
                lane.committed.append(send)
                continue
            self._take_back(send)

    def _take_back(self, send: Send) -> None:
        cell_no = send.prepared.cell.cell_no
        outcome = Outcome(cell_no, send.attempt_no, datetime.now(UTC), cost=Decimal(0))
        outcome.error_kind = "not_sent"
        self.outcomes.append(outcome)
        lease = self._lease_of(cell_no)
        if lease is not None:
            lease.past.setdefault(cell_no, Past()).attempts = send.attempt_no
            self.lanes[send.prepared.cell.target_no].ready.append(cell_no)
        if send.alone:
            self.alone = None
