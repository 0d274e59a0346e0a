"""Sessions and API keys that this process has just ended: refused at once, whatever caches say.

Ids are unique over all installations and nothing that ended comes back, so one list serves the
process. Other processes notice within STATE_AGE_S, the age that cached states reach.
"""

from __future__ import annotations

import time

STATE_AGE_S = 2.0
# Longer than a cached state plus a read that was under way when the end was committed.
_KEEP_S = 60.0
_MAX = 100_000


class Endings:
    """Ids with the time they were noted at, oldest first."""

    def __init__(self) -> None:
        self._noted: dict[str, float] = {}

    def note(self, ended_id: str) -> None:
        """A session or key has ended; call it after the COMMIT."""
        now = time.monotonic()
        self._noted[ended_id] = now
        while self._noted:
            oldest = next(iter(self._noted))
            if now - self._noted[oldest] < _KEEP_S and len(self._noted) <= _MAX:
                break
            del self._noted[oldest]

    def __contains__(self, some_id: str) -> bool:
        return some_id in self._noted


class Changes:
    """How often this process has changed what people may do: what it remembers from before is read
    anew. `note` after the COMMIT."""

    def __init__(self) -> None:
        self.count = 0

    def note(self) -> None:
        self.count += 1


ENDED = Endings()
CHANGES = Changes()
