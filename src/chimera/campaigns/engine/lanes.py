"""One model of a drive: how much may be in flight, when to wait, and when to give up.

Only refusals for the rate shrink the window; sustained success lets it grow back. Failures of the
model itself shut the lane: at once here after ten in a row, and for everybody when the next report
opens the model's circuit (chimera.providers.circuits). While it is shut nothing goes out but the one
probe that the cluster allows; the cells wait, or go another way when they are a route's.

A key the provider refuses gives the lane up, and so does a circuit from which nothing has come back
for `patience_s`: its remaining cells are recorded as failed, so that a dead target cannot hold a run
for ever. A circuit that people hold open is waited for as long as they please.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from dataclasses import dataclass, field

from chimera.campaigns.engine.pace import Pace
from chimera.campaigns.engine.tick import Send
from chimera.campaigns.plan import Model
from chimera.providers.adapters import ChatAdapter, ProviderError
from chimera.providers.circuits import FAILURES_TO_OPEN, Signs, Stand

SHRINK = 0.7
GROW_EVERY = 8  # successes for one more place
REFUSALS_TO_GIVE_UP = 3
HOPELESS = frozenset({"bad_key", "refused_address"})
RETRY_FIRST_S, RETRY_MAX_S = 0.25, 20.0
LOOK_AGAIN_S = 45.0  # longer than any circuit waits for its next probe
SHUT_LOCALLY_S = 5.0  # without a word from the database
# Error kinds by what a route calls them. What is not here is the request's fault.
CAUSES = {
    "rate_limited": "rate_limited",
    "overloaded": "server_error",
    "server_error": "server_error",
    "bad_response": "server_error",
    "timeout": "timeout",
    "unreachable": "connection",
    "connection_lost": "connection",
}


def retry_delay_s(errors: int, error: ProviderError) -> float:
    """Full-jitter exponential backoff, or what the provider asked for when that is longer."""
    backoff = random.uniform(0, min(RETRY_MAX_S, RETRY_FIRST_S * 2**errors))
    return max(backoff, error.retry_after_s or 0.0)


@dataclass
class Lane:
    """Everything a drive keeps about one model of its plan."""

    model: Model
    adapter: ChatAdapter | None
    pace: Pace
    window_max: int
    patience_s: float = 900.0
    model_no: int = 0
    ready: deque[int] = field(default_factory=deque)  # cells, not prepared yet
    committed: deque[Send] = field(default_factory=deque)  # recorded as sent, waiting for a place
    in_flight: int = 0
    window: float = 1.0
    successes: int = 0
    failures: int = 0  # in a row
    refusals: int = 0
    shrunk_at: float = 0.0
    given_up: str = ""  # the error kind that did it
    is_shut: bool = False
    shut_since: float = 0.0  # monotonic, as the database says; 0 while it is not
    retry_at: float = 0.0  # monotonic; while shut, when a probe may be asked for
    broke_until: float = 0.0  # monotonic; its seat's money is held by what is in flight
    has_news: bool = False  # that the database should hear of now
    signs: Signs = field(default_factory=lambda: Signs(""))
    # A probe of this lane that came back: its number and what it failed with, None if never sent.
    probe_ended: tuple[int, str | None] | None = None

    def __post_init__(self) -> None:
        self.window = float(self.window_max)
        self.signs = Signs(self.model.model_id)

    @property
    def blocked_until(self) -> float:
        """Monotonic: nothing goes out before, by its circuit or its pace."""
        waits = max(self.pace.ready_at, self.broke_until)
        return max(self.retry_at, waits) if self.is_shut else waits

    @property
    def outstanding(self) -> int:
        return self.in_flight + len(self.committed)

    def places(self) -> int:
        """How many more calls may go out now."""
        if self.given_up:
            return 0
        if self.is_shut:
            return 1 if self.committed and self.committed[0].probe_no else 0
        return max(0, max(1, int(self.window)) - self.in_flight)

    def avoided_for(self, now: float) -> str:
        """The cause for which a route goes round this lane without a call; "" when it need not."""
        if self.given_up:
            return "circuit_open"
        if self.is_shut:
            # One cell may come to be the probe, or nobody would ever ask whether it is back.
            is_wanted = now >= self.retry_at and not self.ready and not self.committed
            return "" if is_wanted else "circuit_open"
        return "rate_limited" if self.pace.cooling_until > now else ""

    def resize(self, window_max: int) -> None:
        """Live change of concurrency; grows at once, for the limit was raised on purpose."""
        if window_max > self.window_max:
            self.window += window_max - self.window_max
        self.window_max = window_max
        self.window = min(self.window, float(window_max))

    def obey(self, stand: Stand) -> None:
        """What the database says about the circuit, for all workers."""
        now = time.monotonic()
        self.pace.limit(stand.requests_per_minute, stand.tokens_per_minute)
        was_shut, self.is_shut = self.is_shut, not stand.lets_pass
        if self.is_shut:
            self.retry_at = math.inf if stand.forced else now + max(0.0, stand.wait_s)
            self.shut_since = self.shut_since or now
            # By whoever waits now, too: a model that was down for long before may be back.
            waited = now - self.shut_since >= min(self.patience_s, LOOK_AGAIN_S)
            if waited and stand.down_s > self.patience_s and not self.given_up:
                self.given_up = stand.cause or "circuit_open"
            return
        self.shut_since = 0.0
        if was_shut:
            self.failures = 0
            self.window = max(1.0, self.window * SHRINK)  # it has just come back

    def wait_for_probe(self) -> None:
        """Somebody else has the probe; what came of it is in the next report."""
        self.retry_at = max(self.retry_at, time.monotonic() + 0.5)

    def take_signs(self) -> Signs | None:
        """What is to be reported, once."""
        if not self.signs.calls:
            return None
        signs, self.signs = self.signs, Signs(self.model.model_id)
        return signs

    def succeeded(self, latency_ms: int = 0) -> None:
        self.failures = self.refusals = 0
        self.signs.answered(latency_ms)
        self.successes += 1
        if self.successes >= GROW_EVERY and self.window < self.window_max:
            self.successes = 0
            self.window = min(float(self.window_max), self.window + 1)

    async def failed(self, error: ProviderError) -> None:
        """Takes note of an error; may shrink, shut or give up the lane."""
        now = time.monotonic()
        self.successes = 0
        limited = error.kind in ("rate_limited", "overloaded")
        if is_failure(error):
            self.signs.failed(error.kind)
        else:
            self.signs.refused(error.kind, is_rate=error.kind == "rate_limited")
            self.failures = 0
        if error.kind in HOPELESS or (limited and not error.retryable):  # such as a spent quota
            self.refusals += 1
            if self.refusals >= REFUSALS_TO_GIVE_UP:
                self.given_up = error.kind
            return
        if limited:
            if now - self.shrunk_at > 0.5:  # one burst of refusals is one signal
                self.window, self.shrunk_at = max(1.0, self.window * SHRINK), now
                if error.kind == "rate_limited":
                    await self.pace.slow_down()
            if error.retry_after_s:
                await self.pace.cool_down(error.retry_after_s)
        if is_failure(error):
            self.failures += 1
            if self.failures >= FAILURES_TO_OPEN and not self.is_shut:
                self.is_shut = self.has_news = True
                self.retry_at = now + SHUT_LOCALLY_S

    def end_probe(self, probe_no: int, failure: str | None) -> None:
        """failure: a kind of error, "" when something came back, None when it was never sent."""
        self.probe_ended, self.has_news = (probe_no, failure), True


def cause_of(error: ProviderError) -> str:
    """Why a route's next model may be tried; "refused" of a key always does it, and "" never: the
    request is wrong everywhere."""
    return "refused" if error.kind in HOPELESS else CAUSES.get(error.kind, "")


def is_failure(error: ProviderError) -> bool:
    """Whether an error speaks against the model's being there: not its refusals."""
    return error.retryable and error.kind != "rate_limited"
