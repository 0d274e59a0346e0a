"""The conversations of a drive: which call of a cell comes next, and what a cell that ends is.

Between two ticks a conversation stands still: the next question is asked when the turn before it is
recorded. What is next follows from the recorded turns (conversations/talk.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from chimera.campaigns.conversations.turns import Ask, End
from chimera.campaigns.engine.ending import conclude
from chimera.campaigns.engine.leasing import Lease, Past
from chimera.campaigns.engine.settlement import Outcome, Result
from chimera.campaigns.engine.tick import Send
from chimera.campaigns.engine.ways import Ways
from chimera.campaigns.plan import Prepared, RunPlan


class Talks:
    """Of the cells of a drive; nothing to do for a plan without conversations. lease_of: the lease a
    cell is held by; decide: records a result without a call."""

    def __init__(
        self,
        plan: RunPlan,
        ways: Ways,
        lease_of: Callable[[int], Lease | None],
        decide: Callable[[int, Result], None],
    ) -> None:
        self.plan, self.ways, self._lease_of, self._decide = plan, ways, lease_of, decide

    def take_up(self, cell_no: int, past: Past) -> bool:
        """Finds where a conversation of somebody else stands; whether it goes on."""
        talk = self.plan.talk
        if talk is None:
            return True
        step = talk.next(cell_no, past.turns)
        if isinstance(step, End):
            self._end(cell_no, past, step)
            return False
        past.ask = step
        return True

    def question(self, cell_no: int, past: Past) -> Prepared | None:
        """The next call of a conversation; None when there is none, and its cell is decided."""
        talk = self.plan.talk
        assert talk is not None
        step = past.ask or talk.next(cell_no, past.turns)
        if isinstance(step, Ask):
            past.ask = step
            prepared = self.plan.prepare_ask(cell_no, step, past.turns, past.step)
            end = talk.refuses(step, past.turns, prepared.worst_cost + prepared.reserve)
            if end is None:
                return prepared
            step = end
        self._end(cell_no, past, step)
        return None

    def sift(self, outcomes: Sequence[Outcome]) -> None:
        """Leaves of what came back only what its conversation waits for. A lease that was lost and
        is ours again has a new fence, and what was sent under the old one is only booked."""
        if self.plan.talk is None:
            return
        taken: set[int] = set()
        for outcome in outcomes:
            lease, turn = self._lease_of(outcome.cell_no), outcome.turn
            if turn is None and outcome.result is None:
                continue
            past = (lease.past.get(outcome.cell_no) if lease is not None else None) or Past()
            if (
                lease is None
                or lease.fence != outcome.fence
                or outcome.cell_no not in lease.todo
                or outcome.cell_no in taken
                or (turn is not None and turn.turn_no != len(past.turns) + 1)
            ):
                outcome.result = outcome.turn = outcome.next_ask = None
            else:
                taken.add(outcome.cell_no)

    def go_on(self, outcomes: Sequence[Outcome]) -> None:
        """Conversations of which a turn was recorded, and which are not over: their next question
        goes out first, so that few are open at a time."""
        if self.plan.talk is None:
            return
        for outcome in outcomes:
            lease = self._lease_of(outcome.cell_no)
            if outcome.turn is None or outcome.next_ask is None or lease is None:
                continue
            past = lease.past.setdefault(outcome.cell_no, Past())
            past.turns, past.ask = (*past.turns, outcome.turn), outcome.next_ask
            past.attempts = max(past.attempts, outcome.attempt_no)
            past.errors = past.unknown = past.step = 0
            self.ways.lane_of(outcome.cell_no).ready.appendleft(outcome.cell_no)

    def seat_is_spent(self, send: Send) -> None:
        """What a seat can never pay for: the answer is kept for a later scoring."""
        cell_no, ask = send.prepared.cell.cell_no, send.prepared.ask
        talk, lease = self.plan.talk, self._lease_of(cell_no)
        if talk is None or ask is None or lease is None:
            return
        past = lease.past.setdefault(cell_no, Past())
        reason = f"what the {ask.purpose} may cost over the run is spent"
        self._end(
            cell_no, past, talk.failed(ask, past.turns, f"{ask.purpose}_budget_spent", reason)
        )

    def failure(
        self,
        cell_no: int,
        past: Past,
        kind: str,
        reason: str,
        prepared: Prepared | None,
        state: str = "failed",
    ) -> Result:
        """The result of a cell that brought no answer, or of a conversation that broke off.
        prepared: of a cell that is a single call."""
        talk = self.plan.talk
        if talk is not None:
            end = replace(talk.failed(past.ask, past.turns, kind, reason), state=state)
            return conclude(self.plan, cell_no, past.turns, end, past.attempts)
        assert prepared is not None
        return Result(
            state,
            prepared.prompt.text,
            prepared.transformed,
            error_kind=kind,
            verdict_reason=reason,
            attempts=past.attempts,
        )

    def _end(self, cell_no: int, past: Past, end: End) -> None:
        """Decides a conversation without another call."""
        self._decide(cell_no, conclude(self.plan, cell_no, past.turns, end, past.attempts))
