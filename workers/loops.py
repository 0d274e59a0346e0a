"""Loops that only one process of the cluster may run: each holds a fenced lease in ops.leases.

The fence grows with every change of hands. Whoever comes back from a long pause finds a newer one
in the database, and its transactions change nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from chimera.background import cancelled
from chimera.call import Call
from chimera.db import sql
from chimera.faults import Conflict, Fault
from chimera.pools import Database

log = structlog.get_logger("chimera.loop")

TAKE_LEASE = sql(
    int,
    """
    INSERT INTO ops.leases AS l (name, owner, fence, lease_until)
    VALUES (%(name)s, %(owner)s, 1, clock_timestamp() + make_interval(secs => %(lease_s)s))
    ON CONFLICT (name) DO UPDATE
       SET owner = EXCLUDED.owner, lease_until = EXCLUDED.lease_until,
           fence = l.fence + CASE WHEN l.owner = EXCLUDED.owner THEN 0 ELSE 1 END
     WHERE l.owner = EXCLUDED.owner OR l.lease_until < clock_timestamp()
    RETURNING fence
    """,
)

END_LEASE = sql(
    int,
    """
    UPDATE ops.leases SET lease_until = '-infinity'
     WHERE name = %(name)s AND owner = %(owner)s RETURNING 1
    """,
)


async def hold(
    db: Database,
    name: str,
    owner: str,
    every_s: float,
    stopping: asyncio.Event,
    body: Callable[[int], Awaitable[bool]],
    *,
    lease_s: float,
) -> None:
    """Runs `body(fence)` about every `every_s` seconds while this owner holds the lease `name`.

    lease_s: after so long without a sign of its holder another process takes over.
    body: answers True when there is more to do at once. Its faults are logged and waited out.
    """
    taken_at, fence = 0.0, None
    try:
        while not stopping.is_set():
            delay_s = every_s
            try:
                if fence is None or time.monotonic() - taken_at > lease_s / 3:
                    async with db.begin(Call.by_worker(f"lease.{name}", seconds=5)) as tx:
                        fence = await tx.one(TAKE_LEASE, name=name, owner=owner, lease_s=lease_s)
                    taken_at = time.monotonic()
                if fence is None:
                    delay_s = lease_s / 3
                else:
                    lease = _Lease(db, name, owner, fence, lease_s, taken_at)
                    try:
                        delay_s = 0.0 if await lease.kept(body) else every_s
                    finally:
                        taken_at = lease.taken_at
                        fence = None if lease.is_lost else fence
            except Fault as fault:
                log.warning("loop.waits", loop=name, reason=fault.reason)
                delay_s = max(every_s, fault.retry_after_s or 1.0)
            except Exception as error:
                log.error("loop.failed", loop=name, exc_info=error)
                delay_s = max(every_s, 2.0)
            await pause(delay_s, stopping)
    finally:
        if fence is not None:
            try:
                async with db.begin(Call.by_worker(f"lease.{name}", seconds=2)) as tx:
                    await tx.one(END_LEASE, name=name, owner=owner)
            except Fault:
                log.info("loop.lease_left", loop=name)  # it runs out by itself


class _Lease:
    """One that is held, and renewed while something runs under it."""

    def __init__(
        self, db: Database, name: str, owner: str, fence: int, lease_s: float, taken_at: float
    ) -> None:
        self.db, self.name, self.owner, self.fence, self.lease_s = db, name, owner, fence, lease_s
        self.taken_at = taken_at
        self.is_lost = False

    async def kept(self, body: Callable[[int], Awaitable[bool]]) -> bool:
        """Runs the body and renews the lease beside it; when it is lost, the body is cancelled.

        Raises what the body raises, and Conflict when the lease was lost.
        """
        running = asyncio.ensure_future(body(self.fence))
        renewing = asyncio.create_task(self._renew())
        try:
            await asyncio.wait({running, renewing}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            self.is_lost = True
            renewing.result()
            raise Conflict("CONFLICT_TRY_AGAIN", "The lease was lost to another process.")
        finally:
            await cancelled(renewing)
            await cancelled(running)

    async def _renew(self) -> None:
        """Returns when somebody else has the lease, or may have."""
        while True:
            left_s = self.taken_at + self.lease_s - time.monotonic()
            if left_s <= 0:
                return
            await asyncio.sleep(min(self.lease_s / 3, left_s))
            try:
                async with self.db.begin(Call.by_worker(f"lease.{self.name}", seconds=5)) as tx:
                    asked_at = time.monotonic()
                    fence = await tx.one(
                        TAKE_LEASE, name=self.name, owner=self.owner, lease_s=self.lease_s
                    )
            except Fault as fault:
                log.warning("loop.lease_waits", loop=self.name, reason=fault.reason)
                continue
            if fence != self.fence:
                return
            self.taken_at = asked_at


async def pause(seconds: float, stopping: asyncio.Event) -> None:
    """Sleeps, or less when the process is told to stop."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return
