"""What one organisation may take of the column store, per process: places at a time, seconds a minute.

What a query may read, hold and take is bounded by itself (settings `telemetry_query_*`); with so many
places that bounds an organisation's memory and threads, and with the seconds all that it reads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from chimera.faults import Exhausted
from chimera.settings import Settings

Answer = TypeVar("Answer")
WAITING_MAX = 20  # queries of one organisation, beside those that run


class _Share:
    """Of one organisation. `taken_s` runs off evenly, the whole minute's share in a minute."""

    def __init__(self, places: int) -> None:
        self.places = asyncio.Semaphore(places)
        self.asking = 0
        self.taken_s = 0.0
        self.at = time.monotonic()

    def run_off(self, per_minute_s: float) -> None:
        now = time.monotonic()
        self.taken_s = max(0.0, self.taken_s - (now - self.at) * per_minute_s / 60)
        self.at = now


class Quotas:
    """The shares of all organisations that ask."""

    def __init__(self, settings: Settings) -> None:
        self.places = settings.telemetry_queries_per_org
        self.per_minute_s = settings.telemetry_query_s_per_org_minute
        self._shares: dict[str, _Share] = {}
        self._asked: set[asyncio.Task[Any]] = set()

    async def within(self, org_id: str, ask: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """Asks when there is a place, and counts the time until `ask` ends. It may outlive a caller who
        stops waiting, and has the place until then: the store works on.

        Raises Exhausted(TOO_MANY_QUERIES, QUERY_TIME_USED).
        """
        share = self._shares.get(org_id)
        if share is None:
            self._forget_idle()
            share = self._shares[org_id] = _Share(self.places)
        if share.asking >= self.places + WAITING_MAX:
            raise Exhausted(
                "TOO_MANY_QUERIES",
                "Too many queries of this organisation are waiting; ask again shortly.",
                facts={"subject": "telemetry"},
                retry_after_s=1.0,
            )
        share.asking += 1
        asked = asyncio.create_task(self._ask(share, ask))

        def ended(_: object) -> None:
            share.asking -= 1
            self._asked.discard(asked)
            if not asked.cancelled():
                asked.exception()  # looked at, also when nobody waits for it any more

        self._asked.add(asked)
        asked.add_done_callback(ended)
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.cancel()  # at once while it waits for its place
            raise

    async def _ask(self, share: _Share, ask: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        async with share.places:
            self._admit(share)
            began = time.monotonic()
            try:
                return await ask()
            finally:
                share.taken_s += time.monotonic() - began

    def _admit(self, share: _Share) -> None:
        share.run_off(self.per_minute_s)
        over_s = share.taken_s - self.per_minute_s
        if over_s >= 0:
            raise Exhausted(
                "QUERY_TIME_USED",
                "The queries of this organisation took their time of a minute; ask again later, for"
                " less time or larger steps.",
                facts={"subject": "telemetry"},
                retry_after_s=1.0 + over_s * 60 / self.per_minute_s,
            )

    def _forget_idle(self) -> None:
        if len(self._shares) < 1000:
            return
        for org_id, share in list(self._shares.items()):
            share.run_off(self.per_minute_s)
            if not share.asking and not share.taken_s:
                del self._shares[org_id]
