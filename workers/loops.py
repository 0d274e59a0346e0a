"""Loops that only one process of the cluster may run: each holds a fenced lease in ops.leases.

The fence grows with every change of hands. Whoever comes back from a long pause finds a newer one
in the database, and its transactions change nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from chimera.call import Call
from chimera.db import sql
from chimera.faults import Fault
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
                elif await body(fence):
                    delay_s = 0.0
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


async def pause(seconds: float, stopping: asyncio.Event) -> None:
    """Sleeps, or less when the process is told to stop."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return
