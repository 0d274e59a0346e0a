"""How much waits for the column store, and when to take no more.

The buffer is PostgreSQL's disk. It is bounded in bytes, for everyone and for one organisation, and in
age; beyond that senders are refused with a delay, and what was acknowledged is never dropped. Looked
at once a second and process, beside the batches and not in their way, so the bounds are exceeded by
what comes in a few seconds, no more. Results of campaigns are taken all the same: what they cost is
bounded by the campaigns.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from chimera import metrics
from chimera.call import Call
from chimera.db import sql
from chimera.faults import Exhausted
from chimera.pools import Database
from chimera.settings import Settings

LOOK_EVERY_S = 1.0
KNOWN_FOR_S = 5.0  # what was seen before that is worth nothing
RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Waiting:
    total_bytes: int
    own_bytes: int
    oldest_at: datetime | None


LOOK = sql(Waiting, "SELECT total_bytes, own_bytes, oldest_at FROM telemetry.backlog()")


class Backlog:
    """What one process knows of the buffer, by organisation."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self.db = db
        self.settings = settings
        self._seen: dict[str, tuple[float, Waiting]] = {}
        self._looks: dict[str, asyncio.Task[Waiting]] = {}  # under way

    async def admit(self, call: Call) -> None:
        """Raises Exhausted(TELEMETRY_BACKLOG_FULL)."""
        waiting = await self._waiting(call)
        limits = self.settings
        age_s = 0.0
        if waiting.oldest_at is not None:
            age_s = (datetime.now(UTC) - waiting.oldest_at).total_seconds()
        if waiting.total_bytes >= limits.telemetry_backlog_bytes_max:
            full = "The buffer is full"
        elif waiting.own_bytes >= limits.telemetry_org_backlog_bytes_max:
            full = "This organisation's part of the buffer is full"
        elif age_s >= limits.telemetry_backlog_age_s_max:
            full = "The buffer has not been emptied for too long"
        else:
            return
        metrics.TELEMETRY_EVENTS.labels("refused").inc()
        raise Exhausted(
            "TELEMETRY_BACKLOG_FULL",
            f"{full}: the column store is behind. Send the same batch again later.",
            facts={"subject": "telemetry"},
            retry_after_s=RETRY_S,
        )

    async def _waiting(self, call: Call) -> Waiting:
        """As it was a moment ago; who comes when nothing is known waits for a look.

        Raises the faults of the database.
        """
        org_id = call.caller.org_id
        seen_at, waiting = self._seen.get(org_id, (-KNOWN_FOR_S, None))
        age_s = time.monotonic() - seen_at
        if waiting is not None and age_s < LOOK_EVERY_S:
            return waiting
        look = self._looks.get(org_id)
        if look is None:
            look = self._looks[org_id] = asyncio.create_task(self._look(org_id))
            look.add_done_callback(lambda done: self._looked(org_id, done))
        if waiting is not None and age_s < KNOWN_FOR_S:
            return waiting
        return await asyncio.shield(look)

    async def _look(self, org_id: str) -> Waiting:
        call = Call.by_worker("telemetry.backlog", org_id, seconds=KNOWN_FOR_S)
        async with self.db.look(call) as tx:
            return await tx.one(LOOK) or Waiting(0, 0, None)

    def _looked(self, org_id: str, look: asyncio.Task[Waiting]) -> None:
        del self._looks[org_id]
        if look.cancelled() or look.exception():
            return  # who waits for it is told
        if len(self._seen) > 1000:
            self._seen.clear()
        self._seen[org_id] = (time.monotonic(), look.result())
