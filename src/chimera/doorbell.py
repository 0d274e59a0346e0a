"""Rings arq for outbox rows: right after a commit from the process that wrote them, and from every
worker's relay for whatever was missed. Redis may be away; the rows wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from chimera import metrics, outbox
from chimera.background import cancelled
from chimera.core import Core
from chimera.faults import Fault

log = structlog.get_logger("chimera.doorbell")

CAMPAIGN_QUEUE = "chimera:campaigns"
UPKEEP_QUEUE = "chimera:upkeep"
# Tasks that drive campaigns run for half a minute; everything else is short and must not wait.
CAMPAIGN_TASKS = frozenset({"drive_runs"})


def queue_of(task: str) -> str:
    return CAMPAIGN_QUEUE if task in CAMPAIGN_TASKS else UPKEEP_QUEUE


def pack_job(job: dict[str, Any]) -> bytes:
    """arq's default is pickle, which hands the worker to whoever can write to Redis."""
    return orjson.dumps(job, default=str)


def unpack_job(data: bytes) -> dict[str, Any]:
    job: dict[str, Any] = orjson.loads(data)
    return job


class Doorbell:
    """Claims due outbox rows and enqueues their tasks."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.wanted = asyncio.Event()
        self.org_ids: set[str] = set()  # whose transactions left work
        self.arq = ArqRedis(
            pool_or_conn=core.redis.connection_pool,
            job_serializer=pack_job,
            job_deserializer=unpack_job,
            default_queue_name=UPKEEP_QUEUE,
        )

    @classmethod
    @asynccontextmanager
    async def opened(cls, core: Core) -> AsyncIterator[Doorbell]:
        """A doorbell that rings in the background whenever `ring` was called."""
        bell = cls(core)
        task = asyncio.create_task(bell._ring_when_wanted())
        try:
            yield bell
        finally:
            await cancelled(task)

    def ring(self, org_id: str) -> None:
        """A transaction of this organisation with work in the outbox has committed."""
        self.org_ids.add(org_id)
        self.wanted.set()

    async def _ring_when_wanted(self) -> None:
        while True:
            await self.wanted.wait()
            self.wanted.clear()
            while self.org_ids:
                await self.relay(self.org_ids.pop())

    async def relay(self, org_id: str = "") -> int:
        """Rings for every row that is due (of the organisation, in a server: its role sees no more
        than that); returns how many. Never raises: what could not be done now is done by the next
        relay."""
        rung = 0
        try:
            while rows := await outbox.claim_due(self.core.db, org_id):
                rung += await self._ring_all(rows, org_id)
                if len(rows) < 100:
                    break
        except Fault as fault:
            log.warning("doorbell.database_away", reason=fault.reason)
        except (RedisError, OSError) as error:
            log.warning("doorbell.redis_away", error=type(error).__name__)
        return rung

    async def _ring_all(self, rows: list[dict[str, Any]], org_id: str) -> int:
        ring = [row for row in rows if row["state"] != "dead"]
        try:
            for row in ring:
                await self.arq.enqueue_job(
                    row["task"],
                    row["id"],
                    row["org_id"],
                    row["args"],
                    _job_id=f"{row['id']}:{row['rings']}",
                    _queue_name=queue_of(row["task"]),
                )
                metrics.OUTBOX_RELAYED.labels(row["task"]).inc()
        except (RedisError, OSError):
            await outbox.ring_soon(self.core.db, [row["id"] for row in ring], org_id)
            raise
        return len(ring)
