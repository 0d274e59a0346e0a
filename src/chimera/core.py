"""What services and tasks are built from: one object a process, made at start-up."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from chimera.audit import recording
from chimera.background import cancelled
from chimera.clickhouse import ClickHouse
from chimera.keyring import follow_versions, keep_following, load_keys, open_master_keys
from chimera.paging import Pages
from chimera.pools import Database
from chimera.providers.vault import MasterKeys
from chimera.replica import Replica
from chimera.row_seals import RowSeals
from chimera.settings import Settings

log = structlog.get_logger("chimera.core")


@dataclass(frozen=True)
class Core:
    """Settings, the database as one role, what analytics read of it (a replica where there is one),
    Redis, keys, and ClickHouse to write to and to read from, which are opened when they are used. The
    replica, Redis and ClickHouse may be away at any time."""

    settings: Settings
    db: Database
    replica: Replica
    redis: Redis
    pages: Pages
    master: MasterKeys
    row_seals: RowSeals
    clickhouse: ClickHouse
    analytics: ClickHouse
    # One object a process that several services of a context use, by its type.
    shared: dict[type, Any] = field(default_factory=dict)


def settle_memory() -> None:
    """After start-up: what is there stays, so the collector need not look at it again, and need not
    run after every 700 objects. Fifty rows as messages cost 320 us before this and 180 us after."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


class _Connections(ConnectionPool):
    """redis-py looks whether a connection can be read before it hands it out, by a read that it gives
    up at once: as much work as a command. The stream knows as well that the other side has hung up or
    reset it, or has sent what nobody waits for: somebody else's answer."""

    async def ensure_connection(self, connection: Any) -> None:
        reader = connection._reader
        if connection.is_connected and (reader.at_eof() or reader.exception() or reader._buffer):
            await connection.disconnect()
        await connection.connect()


def open_redis(settings: Settings) -> Redis:
    """A client that fails fast: nothing that must last depends on Redis."""
    pool: Any = _Connections.from_url(
        settings.redis_url.get_secret_value(),
        socket_timeout=2,
        socket_connect_timeout=1,
        retry=Retry(NoBackoff(), 1),
    )
    client: Redis = Redis.from_pool(pool)
    return client


def open_database(settings: Settings, role: str) -> Database:
    """The pool of a role (app, worker, sealer), not opened yet."""
    return _pool(settings, settings.role_url(role))


def _pool(settings: Settings, url: str) -> Database:
    return Database(
        url,
        size_min=settings.pool_size_min,
        size_max=settings.pool_size_max,
        waiting_max=settings.pool_waiting_max,
        timeout_s=settings.pool_timeout_s,
        flush_audit=recording.flush,
    )


@asynccontextmanager
async def open_core(settings: Settings, role: str) -> AsyncIterator[Core]:
    """Everything open; closed in reverse order."""
    db = open_database(settings, role)
    standby_url = settings.replica_url() if role == "app" else ""
    standby = _pool(settings, standby_url) if standby_url else None
    replica = Replica(db, standby, settings.replica_behind_s_max)
    redis = open_redis(settings)
    write_url = settings.clickhouse_url.get_secret_value()
    clickhouse = ClickHouse(write_url)
    analytics = ClickHouse(settings.clickhouse_read_url.get_secret_value() or write_url)
    await db.open()
    try:
        if standby is not None:
            await standby.open(wait=False)
        master = await asyncio.to_thread(open_master_keys, settings)
        await follow_versions(db, master)
        keys = await load_keys(db, master, "page-token")
        row_seals = RowSeals(await load_keys(db, master, "row-secrets"))
        following = [
            asyncio.create_task(keep_following(db, master)),
            asyncio.create_task(replica.follow()),
        ]
        try:
            pages = Pages(keys[-1])
            yield Core(
                settings, db, replica, redis, pages, master, row_seals, clickhouse, analytics
            )
        finally:
            for task in following:
                await cancelled(task)
    finally:
        await analytics.close()
        await clickhouse.close()
        await redis.aclose()
        if standby is not None:
            await standby.close()
        await db.close()
