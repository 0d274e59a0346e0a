"""Where analytics read PostgreSQL: a hot standby while it follows closely, else the database itself.

How far a standby is behind is not asked of its clock, which stands still when nothing is written and
when nothing arrives: once a second it is noted how far the database has written, and everything up to
a note is there once the standby has replayed that far.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from chimera.call import Call
from chimera.db import Tx, sql
from chimera.faults import Fault
from chimera.pools import Database

log = structlog.get_logger("chimera.replica")

LOOK_EVERY_S = 1.0
NOTES_MAX = 600

HOW_FAR_WRITTEN = sql(int, "SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint")
# Of what is no standby it says nothing.
HOW_FAR_REPLAYED = sql(
    int, "SELECT COALESCE(pg_last_wal_replay_lsn() - '0/0'::pg_lsn, -1)::bigint", prepare=False
)


class Progress:
    """How long ago a standby had everything."""

    def __init__(self) -> None:
        self._notes: deque[tuple[float, int]] = deque(maxlen=NOTES_MAX)
        self._level_at = -float("inf")

    def note(self, now: float, written: int, replayed: int) -> None:
        self._notes.append((now, written))
        while self._notes and self._notes[0][1] <= replayed:
            self._level_at = self._notes.popleft()[0]

    def behind_s(self, now: float) -> float:
        return now - self._level_at


class Replica:
    """What analytics look at. `standby`: none where none is configured."""

    def __init__(self, db: Database, standby: Database | None, behind_s_max: float) -> None:
        self.db, self.standby, self.behind_s_max = db, standby, behind_s_max
        self.is_near = False
        self._progress = Progress()

    @asynccontextmanager
    async def look(self, call: Call) -> AsyncIterator[Tx]:
        """As of Database. While the standby is away or too far behind, the database answers."""
        source = self.standby if self.standby is not None and self.is_near else self.db
        async with source.look(call) as tx:
            yield tx

    async def follow(self) -> None:
        """Looks at the standby once a second, until it is cancelled."""
        while self.standby is not None:
            was, self.is_near = self.is_near, await self._is_near(self.standby)
            if was is not self.is_near:
                log.warning("replica.followed" if self.is_near else "replica.left")
            await asyncio.sleep(LOOK_EVERY_S)

    async def _is_near(self, standby: Database) -> bool:
        call = Call.by_worker("replica", seconds=2 * LOOK_EVERY_S)
        now = time.monotonic()
        try:
            async with self.db.look(call) as tx:
                written = await tx.one(HOW_FAR_WRITTEN)
            async with standby.look(call) as tx:
                replayed = await tx.one(HOW_FAR_REPLAYED)
        except Fault:
            return False
        assert written is not None and replayed is not None
        self._progress.note(now, written, replayed)
        return self._progress.behind_s(now) <= self.behind_s_max
