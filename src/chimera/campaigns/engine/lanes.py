"""One target of a drive: how much may be in flight, when to wait, and when to give up.

Only rate-limit answers shrink the window; sustained success lets it grow back. Failures of the
target itself open a circuit: nothing is sent for a while, then one probe. A circuit that opens
several times in a row without a success in between, or a key the provider refuses, gives the lane
up: its remaining cells are recorded as failed, so that a dead target cannot hold a run for ever.
"""

from __future__ import annotations

import random
import time
from collections import deque
from dataclasses import dataclass, field

from chimera.campaigns.engine.pace import Pace
from chimera.campaigns.engine.tick import Send
from chimera.campaigns.plan import Target
from chimera.providers.adapters import ChatAdapter, ProviderError

SHRINK = 0.7
GROW_EVERY = 8  # successes for one more place
FAILURES_TO_OPEN = 10
OPENINGS_TO_GIVE_UP = 3
OPEN_FIRST_S, OPEN_MAX_S = 0.5, 30.0
REFUSALS_TO_GIVE_UP = 3
HOPELESS = frozenset({"bad_key", "refused_address"})
RETRY_FIRST_S, RETRY_MAX_S = 0.25, 20.0


def retry_delay_s(errors: int, error: ProviderError) -> float:
    """Full-jitter exponential backoff, or what the provider asked for when that is longer."""
    backoff = random.uniform(0, min(RETRY_MAX_S, RETRY_FIRST_S * 2**errors))
    return max(backoff, error.retry_after_s or 0.0)


@dataclass
class Lane:
    """Everything a drive keeps about one target."""

    target: Target
    adapter: ChatAdapter | None
    pace: Pace
    window_max: int
    ready: deque[int] = field(default_factory=deque)  # cells, not prepared yet
    committed: deque[Send] = field(default_factory=deque)  # recorded as sent, waiting for a place
    in_flight: int = 0
    window: float = 1.0
    successes: int = 0
    failures: int = 0
    refusals: int = 0
    openings: int = 0
    open_until: float = 0.0
    shrunk_at: float = 0.0
    given_up: str = ""  # the error kind that did it
    cause: str = ""
    circuit_changed: bool = False

    def __post_init__(self) -> None:
        self.window = float(self.window_max)

    @property
    def is_open(self) -> bool:
        """Whether the circuit lets nothing but a probe through."""
        return self.openings > 0

    @property
    def blocked_until(self) -> float:
        """Monotonic: nothing goes out before, by its circuit or its pace."""
        return max(self.open_until, self.pace.ready_at)

    @property
    def outstanding(self) -> int:
        return self.in_flight + len(self.committed)

    def places(self) -> int:
        """How many more calls may go out now."""
        if self.given_up or time.monotonic() < self.open_until:
            return 0
        limit = 1 if self.is_open else max(1, int(self.window))
        return max(0, limit - self.in_flight)

    def resize(self, window_max: int) -> None:
        """Live change of concurrency; grows at once, for the limit was raised on purpose."""
        if window_max > self.window_max:
            self.window += window_max - self.window_max
        self.window_max = window_max
        self.window = min(self.window, float(window_max))

    def succeeded(self) -> None:
        self.failures = self.refusals = 0
        if self.openings:
            self.openings, self.circuit_changed, self.cause = 0, True, ""
        self.successes += 1
        if self.successes >= GROW_EVERY and self.window < self.window_max:
            self.successes = 0
            self.window = min(float(self.window_max), self.window + 1)

    async def failed(self, error: ProviderError) -> None:
        """Takes note of an error; may shrink, open or give up the lane."""
        now = time.monotonic()
        self.successes = 0
        limited = error.kind in ("rate_limited", "overloaded")
        if error.kind in HOPELESS or (limited and not error.retryable):  # such as a spent quota
            self.refusals += 1
            if self.refusals >= REFUSALS_TO_GIVE_UP:
                self._give_up(error)
            return
        if limited:
            if now - self.shrunk_at > 0.5:  # one burst of refusals is one signal
                self.window, self.shrunk_at = max(1.0, self.window * SHRINK), now
            if error.retry_after_s:
                await self.pace.cool_down(error.retry_after_s)
            return
        if not error.retryable:
            return  # the request's fault, not the target's
        self.failures += 1
        if self.is_open or self.failures >= FAILURES_TO_OPEN:
            self._open(error, now)

    def _open(self, error: ProviderError, now: float) -> None:
        if now < self.open_until:
            return  # answers to calls from before it opened
        self.openings += 1
        self.failures = 0
        self.circuit_changed, self.cause = True, error.kind
        if self.openings > OPENINGS_TO_GIVE_UP:
            self._give_up(error)
            return
        self.open_until = now + min(OPEN_MAX_S, OPEN_FIRST_S * 4 ** (self.openings - 1))

    def _give_up(self, error: ProviderError) -> None:
        self.given_up = error.kind
        self.circuit_changed, self.cause = True, error.kind
