"""The ways of cells: which model of its route a cell tries next.

A cell waits in the lane of the model it would try. It goes on to the next of its order when a call
fails in one of the step's ways, and without a call when the lane is shut, given up or told to wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from chimera.campaigns.engine.lanes import CAUSES, Lane
from chimera.campaigns.engine.leasing import Lease, Past
from chimera.campaigns.plan import RunPlan

MISSES_MAX = 8  # cells in a row that cannot move, before no more are looked at
PROBED_SOON_S = 1.0  # a route's last cell waits so long for the probe of a model that is shut


class Ways:
    """Where the cells of a drive go. lease_of: the lease a cell is held by, if any."""

    def __init__(
        self, plan: RunPlan, lanes: list[Lane], lease_of: Callable[[int], Lease | None]
    ) -> None:
        self.plan, self.lanes, self._lease_of = plan, lanes, lease_of

    def lane_of(self, cell_no: int) -> Lane:
        """Where a cell waits: the model it would try next."""
        target = self.plan.asked(cell_no, self._seat(cell_no))
        if not target.is_route:
            return self.lanes[target.model_nos[0]]
        return self.lanes[self.order(cell_no)[self._step(cell_no)]]

    def order(self, cell_no: int) -> tuple[int, ...]:
        """The models that the next call of a cell would try."""
        return self.plan.order(cell_no, self._seat(cell_no))

    def _seat(self, cell_no: int) -> int | None:
        """Of a conversation, whom its next call goes to."""
        if self.plan.talk is None:
            return None
        lease = self._lease_of(cell_no)
        past = lease.past.get(cell_no) if lease is not None else None
        if past is None or past.ask is None:
            return self.plan.talk.strategy.first_seat
        return past.ask.seat

    def way_round(self, cell_no: int, step: int, cause: str) -> int | None:
        """The next step after this one that something may be sent to, when the route says that it
        is tried for this cause; a model that was given up is always gone round."""
        now = time.monotonic()
        order = self.order(cell_no)
        while cause and step + 1 < len(order):
            gone = cause == "refused" or self.lanes[order[step]].given_up
            if not gone and not self.plan.falls_back(cell_no, order[step], cause):
                return None
            step += 1
            cause = self.lanes[order[step]].avoided_for(now)
            if not cause:
                return step
        return None

    def go_on(self, cell_no: int, past: Past) -> None:
        """Where a cell that was tried before stands in its order: as whoever tried it left it."""
        order = self.order(cell_no)
        if past.last_model_no not in order or len(order) == 1:
            return
        past.step = order.index(past.last_model_no)
        cause = CAUSES.get(past.last_error, "")
        if past.last_error and self.plan.falls_back(cell_no, past.last_model_no, cause):
            past.step = (past.step + 1) % len(order)

    def go_round(self, room: int) -> None:
        """Moves cells of routes on to the next model where theirs is shut or told us to wait; as
        many as have room, so that the others find it well again."""
        if not self.plan.has_routes:
            return
        now = time.monotonic()
        for lane in self.lanes:
            cause = lane.avoided_for(now)
            if not cause or lane.given_up or not self._is_of_route(lane):
                continue
            kept = 1 if lane.is_shut and lane.retry_at - now < PROBED_SOON_S else 0
            misses = 0
            for _ in range(min(room, len(lane.ready) - kept)):
                cell_no = lane.ready.pop()
                if self._move_on(cell_no, cause, room):
                    continue
                lane.ready.appendleft(cell_no)  # by its own order it is at its last model
                misses += 1
                if misses == MISSES_MAX:
                    break

    def _is_of_route(self, lane: Lane) -> bool:
        return bool(lane.ready) and self.plan.owners[lane.model_no].is_route

    def _move_on(self, cell_no: int, cause: str, room: int) -> bool:
        """Puts a cell into the lane of its next model, when there is one to go to."""
        lease = self._lease_of(cell_no)
        if lease is None:
            return False
        past = lease.past.get(cell_no) or Past()
        step = self.way_round(cell_no, past.step, cause)
        if step is None:
            return False
        lane = self.lanes[self.order(cell_no)[step]]
        if len(lane.ready) >= room:
            return False
        past.step = step
        lease.past[cell_no] = past
        lane.ready.append(cell_no)
        return True

    def leads_anywhere(self, cell_no: int) -> bool:
        """Whether a cell has a model that was not given up."""
        return any(not self.lanes[no].given_up for no in self.order(cell_no))

    def turn_elsewhere(self, cell_no: int) -> bool:
        """Moves a cell from a model that was given up to the first of its order that was not."""
        lease = self._lease_of(cell_no)
        if lease is None:
            return False
        for step, model_no in enumerate(self.order(cell_no)):
            if not self.lanes[model_no].given_up:
                lease.past.setdefault(cell_no, Past()).step = step
                self.lanes[model_no].ready.append(cell_no)
                return True
        return False

    def turn_from_key(self, provider_key_id: str) -> bool:
        """Moves cells from models with this key, which has nothing left to spend, to the first of
        their order with another one that lets calls through; whether any could be moved."""
        now = time.monotonic()
        has_moved = False
        for lane in self.lanes:
            if lane.model.provider_key_id != provider_key_id:
                continue
            for _ in range(len(lane.ready)):
                cell_no = lane.ready.popleft()
                lease = self._lease_of(cell_no)
                order = self.plan.order(cell_no)
                step = next(
                    (
                        step
                        for step, model_no in enumerate(order)
                        if self.lanes[model_no].model.provider_key_id != provider_key_id
                        and not self.lanes[model_no].avoided_for(now)
                    ),
                    None,
                )
                if lease is None or step is None:
                    lane.ready.append(cell_no)
                    continue
                lease.past.setdefault(cell_no, Past()).step = step
                self.lanes[order[step]].ready.append(cell_no)
                has_moved = True
        return has_moved

    def _step(self, cell_no: int) -> int:
        lease = self._lease_of(cell_no)
        past = lease.past.get(cell_no) if lease is not None else None
        return past.step if past else 0
