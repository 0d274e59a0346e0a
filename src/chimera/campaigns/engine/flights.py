"""The cells of a drive, from ready to their outcome: which go out next, in flight, decided.

Cells wait in the lane of their target. What a tick committed is started as windows and paces allow;
what comes back is an outcome for the next tick, and its cell is recorded, tried again later, or
given up.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from chimera.campaigns.engine.calling import make_call
from chimera.campaigns.engine.lanes import Lane, cause_of, is_failure, retry_delay_s
from chimera.campaigns.engine.leasing import Lease, Past
from chimera.campaigns.engine.settlement import Outcome, Result
from chimera.campaigns.engine.talks import Talks
from chimera.campaigns.engine.tick import Report, Send
from chimera.campaigns.engine.ways import Ways
from chimera.campaigns.parameters import ParameterError
from chimera.campaigns.plan import RunPlan
from chimera.providers.adapters import ProviderError
from chimera.providers.adapters.limits import HEARD, Told
from chimera.providers.circuits import Signs, Stand
from chimera.templates.values import RenderError

FLUSH_AT = 64  # outcomes that make a tick worth its transaction
PREPARED_MAX = 512  # cells prepared or decided in one tick; bounds its memory and its locks


class Flights:
    """What a drive has ready, committed, in flight and come back."""

    plan: RunPlan
    ways: Ways
    talks: Talks

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.lanes: list[Lane] = []  # by model_no
        self.leases: dict[int, Lease] = {}
        self.turns: deque[Lane] = deque()  # the same, whose turn it is first
        self.delayed: list[tuple[float, int]] = []  # (monotonic due, cell) of retries
        self.suspects: list[int] = []  # cells that go out alone, last
        self.stalled: list[int] = []  # cells that may not begin
        self.outcomes: list[Outcome] = []
        self.tasks: set[asyncio.Task[None]] = set()  # calls in flight
        self.refills: set[asyncio.Task[None]] = set()
        self.wake = asyncio.Event()  # something to do for the drive
        self.stopping = False
        self.sending = True
        self.alone: int | None = None  # the suspect that has the drive to itself
        self.concurrency = 1
        self.attempts_max = 1
        self.leased_until = 0.0  # monotonic, by what the last tick committed
        self.overslept = False  # nothing goes out before a tick has said what is still ours

    def open(self, plan: RunPlan, lanes: list[Lane]) -> None:
        """lanes: by model_no."""
        self.plan, self.lanes = plan, lanes
        self.ways = Ways(plan, lanes, self.lease_of)
        self.talks = Talks(plan, self.ways, self.lease_of, self.decide)
        self.turns.extend(lanes)

    def may_send(self) -> bool:
        return self.sending and not self.stopping

    def lease_of(self, cell_no: int) -> Lease | None:
        return next((lease for lease in self.leases.values() if lease.holds(cell_no)), None)

    # --- choosing what goes out -----------------------------------------------------------------

    def rooms(self) -> Iterator[tuple[Lane, int]]:
        """Lanes that have cells, and how many more attempts of each may be committed: evenly over
        them, altogether what may fly and as many again. A lane that has to wait takes no room from
        the others."""
        now = time.monotonic()
        flowing = [lane for lane in self.turns if not lane.given_up and lane.blocked_until <= now]
        total = 2 * self.concurrency - sum(lane.outstanding for lane in flowing)
        busy = sum(1 for lane in flowing if lane.ready or lane.outstanding)
        share = -(-2 * self.concurrency // max(1, busy))
        for lane in flowing:
            ahead = 1 if lane.is_shut else min(2 * int(lane.window), share)
            taken = len(lane.committed) if lane.is_shut else lane.outstanding
            room = min(ahead - taken, total)
            if lane.ready and room > 0:
                total -= room
                yield lane, room

    def idle(self) -> bool:
        return not (
            self.tasks
            or self.delayed
            or self.outcomes
            or any(lane.ready or lane.committed for lane in self.lanes)
        )

    def go_round(self) -> None:
        """Lets cells of routes go round models that nothing is sent to."""
        self.ways.go_round(2 * self.concurrency)

    def suspect_may_go(self) -> bool:
        """Whether the next suspect may have the drive to itself now."""
        if not self.suspects or not self.idle():
            return False
        return self.ways.lane_of(self.suspects[0]).blocked_until <= time.monotonic()

    def pick(self) -> list[Send]:
        """Prepares what should go out next, lanes in turn."""
        sends: list[Send] = []
        if self.alone is None and self.suspect_may_go():
            self.alone = self.suspects.pop(0)
            send = self.prepare(self.alone, alone=True)
            if send is None:
                self.alone = None
                return []
            return [send]
        if self.alone is not None:
            return []
        self.go_round()
        for lane, room in self.rooms():
            for _ in range(min(room, PREPARED_MAX - len(sends))):
                if not lane.ready:
                    break
                send = self.prepare(lane.ready.popleft())
                if send is not None:
                    sends.append(send)
        self.turns.rotate(-1)
        return sends

    def prepare(self, cell_no: int, *, alone: bool = False) -> Send | None:
        lease = self.lease_of(cell_no)
        if lease is None:
            return None
        past = lease.past.get(cell_no)
        try:
            if self.plan.talk is None:
                prepared = self.plan.prepare(cell_no, past.step if past else 0)
            else:
                question = self.talks.question(cell_no, lease.past.setdefault(cell_no, Past()))
                if question is None:
                    return None
                prepared = question
        except (ParameterError, RenderError) as error:
            result = Result("failed", "", "", error_kind=error.reason, verdict_reason=str(error))
            result.attempts = past.attempts if past else 0
            self.decide(cell_no, result)
            return None
        is_shut = self.lanes[prepared.model_no].is_shut
        attempt_no = (past.attempts if past else 0) + 1
        return Send(prepared, attempt_no, lease.fence, alone, -1 if is_shut else 0)

    def stall(self, *, may_begin: bool) -> None:
        """Cells that were never sent wait apart while the limit of executions lets none begin; those
        that did are finished, also the suspects among them."""
        if not may_begin:
            for lane in self.lanes:
                cells = list(lane.ready)
                lane.ready.clear()
                for cell_no in cells:
                    (lane.ready if self._is_begun(cell_no) else self.stalled).append(cell_no)
        elif self.stalled:
            stalled, self.stalled = self.stalled, []
            for cell_no in stalled:
                if self.lease_of(cell_no) is not None:
                    self.ways.lane_of(cell_no).ready.append(cell_no)

    def _is_begun(self, cell_no: int) -> bool:
        lease = self.lease_of(cell_no)
        past = lease.past.get(cell_no) if lease is not None else None
        return past is not None and past.attempts > 0

    def put_back(self, send: Send) -> None:
        cell_no = send.prepared.cell.cell_no
        if send.alone:
            self.alone = None
            self.suspects.append(cell_no)
            self.lanes[send.prepared.model_no].wait_for_probe()
        elif self.lease_of(cell_no) is not None:
            lane = self.lanes[send.prepared.model_no]
            lane.ready.appendleft(cell_no)
            if send.probe_no:
                lane.wait_for_probe()

    def resend_due(self) -> None:
        now = time.monotonic()
        while self.delayed and self.delayed[0][0] <= now:
            _due, cell_no = heapq.heappop(self.delayed)
            self.ways.lane_of(cell_no).ready.appendleft(cell_no)

    # --- sending --------------------------------------------------------------------------------

    def fill_places(self) -> None:
        """Starts committed attempts as far as windows and paces allow."""
        if not self.may_send():
            return
        if self.oversleeps():
            return
        free = self.concurrency - len(self.tasks)
        while free > 0 and (lane := self._next_lane()) is not None:
            self._start(lane, lane.committed.popleft())
            free -= 1
        if free > 0:
            for lane in self.lanes:
                if lane.committed and lane.places() > 0 and lane.pace.wants_refill():
                    self._ask_for_permits(lane, free)

    def oversleeps(self) -> bool:
        """Whether this process slept beyond its leases, or the database is away: first a tick,
        which says what is still ours. What goes out beyond a lease may go out elsewhere too."""
        if time.monotonic() >= self.leased_until:
            self.overslept = True
            self.wake.set()
            return True
        return False

    def _next_lane(self) -> Lane | None:
        """The next lane in turn that may start a call now; its permit is taken."""
        for _ in range(len(self.turns)):
            lane = self.turns[0]
            self.turns.rotate(-1)
            if lane.committed and lane.places() > 0 and lane.pace.take(_tokens(lane)):
                return lane
        return None

    def _ask_for_permits(self, lane: Lane, wanted: int) -> None:
        sizes = [size_of(send) for _, send in zip(range(wanted), lane.committed, strict=False)]
        self.track_refill(lane.pace.refill(wanted, max(sizes)))

    def track_refill(self, work: Coroutine[Any, Any, None]) -> None:
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
            self.fill_places()
            if len(self.outcomes) >= FLUSH_AT or len(self.tasks) < self.concurrency:
                self.wake.set()

        self.tasks.add(task)
        task.add_done_callback(done)

    # --- calls ----------------------------------------------------------------------------------

    async def _call(self, lane: Lane, send: Send) -> None:
        """One attempt, from the wire to its outcome."""
        if self.oversleeps():  # between the start of this task and its first step
            self.take_back(send)
            return
        try:
            heard: list[Told] = []
            HEARD.set(heard)  # of this task alone
            outcome, error = await make_call(lane, send, self.run_id, self.plan)
            if heard:
                await lane.pace.learn(heard[-1])
            if error is None and outcome.input_tokens + outcome.output_tokens:
                needed = outcome.input_tokens + outcome.output_tokens
                lane.pace.used(size_of(send), needed)
            if send.probe_no:
                failure = error.kind if error is not None and is_failure(error) else ""
                lane.end_probe(send.probe_no, failure)
            if error is None:
                lane.succeeded(outcome.latency_ms)
                self.outcomes.append(outcome)
            else:
                await lane.failed(error)
                self._failed(lane, send, outcome, error)
            if lane.has_news:
                self.wake.set()
        finally:
            if send.alone:
                self.alone = None

    def _failed(self, lane: Lane, send: Send, outcome: Outcome, error: ProviderError) -> None:
        cell_no = send.prepared.cell.cell_no
        lease = self.lease_of(cell_no)
        if self.plan.talk is not None and lease is not None and lease.fence != send.fence:
            lease = None  # it was lost and is ours again, and the conversation went on
        past = lease.past.setdefault(cell_no, Past()) if lease is not None else Past()
        past.attempts = max(past.attempts, send.attempt_no)
        # A probe asks after the model, not after the cell: it must not cost the cell its tries.
        past.errors += not (send.probe_no and is_failure(error))
        order = self.ways.order(cell_no)
        tries = max(self.attempts_max, len(order))
        again = error.retryable and past.errors < tries
        step = None
        if order[0] != order[-1] and past.errors < tries:
            step = self.ways.way_round(cell_no, past.step, cause_of(error))
        if lease is None:
            pass  # whoever has the shard now decides the cell
        elif step is not None:
            past.step = step
            self.lanes[order[step]].ready.appendleft(cell_no)
        elif again and self.ways.leads_anywhere(cell_no):
            past.step = 0
            heapq.heappush(
                self.delayed, (time.monotonic() + retry_delay_s(past.errors, error), cell_no)
            )
        else:
            outcome.result = self.talks.failure(
                cell_no, past, error.kind, outcome.error_message, send.prepared
            )
        self.outcomes.append(outcome)

    # --- cells decided without an answer --------------------------------------------------------

    def decide(self, cell_no: int, result: Result) -> None:
        lease = self.lease_of(cell_no)
        outcome = Outcome(cell_no, 0, datetime.now(UTC), result=result)
        outcome.fence = lease.fence if lease is not None else 0
        self.outcomes.append(outcome)

    def park(self, cell_no: int, past: Past) -> None:
        reason = (
            f"its worker was lost {past.unknown} times while this cell was in flight, "
            "the last time with nothing else"
        )
        prepared = self.plan.prepare(cell_no) if self.plan.talk is None else None
        self.decide(
            cell_no, self.talks.failure(cell_no, past, "worker_lost", reason, prepared, "parked")
        )

    def give_up_lanes(self) -> None:
        """Records what a given-up lane still had to do as failed, a bounded number a tick."""
        for lane in self.lanes:
            if not lane.given_up:
                continue
            self.unsend_lane(lane)
            waiting = [cell for _due, cell in self.delayed if self._is_of(lane, cell)]
            self.delayed = [item for item in self.delayed if not self._is_of(lane, item[1])]
            heapq.heapify(self.delayed)
            lane.ready.extend(waiting)
            while lane.ready and len(self.outcomes) < PREPARED_MAX:
                cell_no = lane.ready.popleft()
                if not self.ways.turn_elsewhere(cell_no):
                    self._fail_unsent(lane, cell_no)

    def _is_of(self, lane: Lane, cell_no: int) -> bool:
        return self.ways.lane_of(cell_no) is lane

    def _fail_unsent(self, lane: Lane, cell_no: int) -> None:
        lease = self.lease_of(cell_no)
        past = (lease.past.get(cell_no) if lease is not None else None) or Past()
        reason = f"{lane.model.name} was given up: {lane.given_up}"
        try:
            prepared = self.plan.prepare(cell_no) if self.plan.talk is None else None
        except (ParameterError, RenderError) as error:
            result = Result("failed", "", "", error_kind=error.reason, verdict_reason=str(error))
        else:
            result = self.talks.failure(cell_no, past, lane.given_up, reason, prepared)
        self.decide(cell_no, result)

    def unsend(self) -> None:
        """Takes back attempts that were committed and not sent, at no cost."""
        for lane in self.lanes:
            self.unsend_lane(lane)

    def unsend_lane(self, lane: Lane, lost: Lease | None = None) -> None:
        """All that is committed, or what belongs to a lost lease."""
        committed = list(lane.committed)
        lane.committed.clear()
        for send in committed:
            cell_no = send.prepared.cell.cell_no
            if lost is not None and not lost.holds(cell_no):
                lane.committed.append(send)
                continue
            self.take_back(send)

    def take_back(self, send: Send) -> None:
        cell_no = send.prepared.cell.cell_no
        outcome = Outcome(cell_no, send.attempt_no, datetime.now(UTC), cost=Decimal(0))
        outcome.error_kind, outcome.model_no = "not_sent", send.prepared.model_no
        self.outcomes.append(outcome)
        if send.probe_no > 0:
            self.lanes[send.prepared.model_no].end_probe(send.probe_no, None)
        lease = self.lease_of(cell_no)
        if lease is not None:
            past = lease.past.setdefault(cell_no, Past())
            past.attempts = max(past.attempts, send.attempt_no)
            self.lanes[send.prepared.model_no].ready.append(cell_no)
        if send.alone:
            self.alone = None

    def report(self) -> Report:
        """What the circuits should hear, taken from the lanes."""
        signs: dict[str, Signs] = {}
        probes = []
        for lane in self.lanes:
            lane.has_news = False
            if (taken := lane.take_signs()) is not None:
                other = signs.setdefault(taken.model_id, taken)
                if other is not taken:
                    other.add(taken)
            if lane.probe_ended is not None:
                probes.append((lane.model.model_id, *lane.probe_ended))
                lane.probe_ended = None
        return Report(list(signs.values()), probes)

    def obey(self, stands: Sequence[Stand], drives: int) -> None:
        """How the circuits stand; what was committed for a model that is shut now is taken back.
        drives: of the organisation, who may have to share without Redis."""
        for stand in stands:
            lane = self.lanes[stand.model_no]
            lane.pace.drives = max(1, drives)
            lane.obey(stand)
            if lane.is_shut and any(not send.probe_no for send in lane.committed):
                self.unsend_lane(lane)

    def lose(self, lease: Lease) -> None:
        """Another worker has this shard now; what is in flight is still settled, and what was
        committed and did not go out is known to have cost nothing."""
        for lane in self.lanes:
            self.unsend_lane(lane, lease)
            kept = [cell for cell in lane.ready if not lease.holds(cell)]
            lane.ready.clear()
            lane.ready.extend(kept)
        self.delayed = [item for item in self.delayed if not lease.holds(item[1])]
        heapq.heapify(self.delayed)
        self.suspects = [cell for cell in self.suspects if not lease.holds(cell)]


def size_of(send: Send) -> int:
    """Tokens a call may need: about three characters each, and all it may write. A limit is the
    provider's to enforce; this only paces."""
    request = send.prepared.request
    size = sum(len(message.content) // 3 + 4 for message in request.messages)
    return size + (request.max_tokens or 0)


def _tokens(lane: Lane) -> int:
    return size_of(lane.committed[0]) if lane.pace.tokens_per_minute else 0
