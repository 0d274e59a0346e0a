"""Changes this process has just made to what people may do: heeded here at once, whatever caches say.

Other processes hear of it (see notices), and notice at the latest within STATE_AGE_S, the age that
cached states reach.
"""

from __future__ import annotations

import time
from collections.abc import Callable

STATE_AGE_S = 2.0
# Longer than a cached state plus a read that was under way when the end was committed.
_KEEP_S = 60.0
_MAX = 100_000


class Changes:
    """Call `note` and `note_end` after the COMMIT.

    `count` says how often something changed: what is remembered from before is read anew. An end is
    kept by its id instead, so that one person who leaves costs nobody else a read; ids are unique
    over all installations and nothing that ended comes back, so one list serves the process.
    `tells` are called with each id, or with nothing for a change.
    """

    def __init__(self) -> None:
        self.count = 0
        self.tells: list[Callable[[str], None]] = []
        self._ended: dict[str, float] = {}  # with the time they were noted at, oldest first

    def note(self) -> None:
        """What somebody may do has changed."""
        self._tell("")

    def note_end(self, ended_id: str) -> None:
        """A session or an API key has ended."""
        self._tell(ended_id)

    def _tell(self, ended_id: str) -> None:
        self.hear(ended_id)
        for tell in self.tells:
            tell(ended_id)

    def hear(self, ended_id: str) -> None:
        """The same from another process: an id that has ended, or empty for a change."""
        if not ended_id:
            self.count += 1
            return
        now = time.monotonic()
        self._ended[ended_id] = now
        while self._ended:
            oldest = next(iter(self._ended))
            if now - self._ended[oldest] < _KEEP_S and len(self._ended) <= _MAX:
                break
            del self._ended[oldest]

    def has_ended(self, some_id: str) -> bool:
        return some_id in self._ended


CHANGES = Changes()
