"""Usage: how often API keys were used, and when they and sessions last were.

Counted in this process, added up in Redis every few seconds, and written to the tables by a
worker. The last minute may be lost with Redis or a process; a call never waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.faults import Conflict

log = structlog.get_logger("chimera.identity")

KEY_COUNTS = "chimera:usage:api_keys"
KEY_TIMES = "chimera:usage:api_keys:at"
KEY_ADDRESSES = "chimera:usage:api_keys:ip"
SESSION_TIMES = "chimera:usage:sessions:at"
EVERY_S = 5.0
# Ids one process notes between two flushes; what comes on top is not counted.
IDS_MAX = 20_000
ROWS_MAX = 500  # in one transaction

ADD_KEY_USAGE = sql(
    Nothing,
    """
    UPDATE identity.api_keys k
       SET usage_count = k.usage_count + u.count,
           -- Keys of who was erased have no name, and get no address any more.
           last_used_ip = CASE WHEN k.last_used_at >= to_timestamp(u.at) OR u.ip = '' OR k.name = ''
                               THEN k.last_used_ip ELSE u.ip::inet END,
           last_used_at = GREATEST(k.last_used_at, to_timestamp(u.at))
      FROM unnest(%(ids)s::uuid[], %(counts)s::bigint[], %(times)s::float8[], %(ips)s::text[])
           AS u (id, count, at, ip)
     WHERE k.id = u.id
    """,
)

SET_SESSION_TIMES = sql(
    Nothing,
    """
    UPDATE identity.sessions s SET last_used_at = GREATEST(s.last_used_at, to_timestamp(u.at))
      FROM unnest(%(ids)s::uuid[], %(times)s::float8[]) AS u (id, at)
     WHERE s.id = u.id
    """,
)


class Usage:
    """What this process has seen since its last flush to Redis."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._key_counts: dict[str, int] = {}
        self._key_times: dict[str, float] = {}
        self._key_addresses: dict[str, str] = {}
        self._session_times: dict[str, float] = {}

    def saw_key(self, api_key_id: str, address: str) -> None:
        """One call was made with the key, from this address ("" when it has none)."""
        if api_key_id in self._key_counts or len(self._key_counts) < IDS_MAX:
            self._key_counts[api_key_id] = self._key_counts.get(api_key_id, 0) + 1
            self._key_times[api_key_id] = time.time()
            self._key_addresses[api_key_id] = address

    def saw_session(self, session_id: str) -> None:
        """One call was made in the session."""
        if session_id in self._session_times or len(self._session_times) < IDS_MAX:
            self._session_times[session_id] = time.time()

    async def flush_for_ever(self) -> None:
        """Flushes every few seconds until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Adds what was seen to Redis; drops it when Redis is away."""
        counts, self._key_counts = self._key_counts, {}
        key_times, self._key_times = self._key_times, {}
        addresses, self._key_addresses = self._key_addresses, {}
        session_times, self._session_times = self._session_times, {}
        if not counts and not session_times:
            return
        pipe: Any = self.redis.pipeline(transaction=False)
        for api_key_id, count in counts.items():
            pipe.hincrby(KEY_COUNTS, api_key_id, count)
        if key_times:
            pipe.hset(KEY_TIMES, mapping=key_times)
            pipe.hset(KEY_ADDRESSES, mapping=addresses)
        if session_times:
            pipe.hset(SESSION_TIMES, mapping=session_times)
        try:
            await pipe.execute()
        except (RedisError, OSError) as error:
            log.warning("usage.lost", keys=len(counts), error=type(error).__name__)


async def flush_key_usage(core: Core) -> int:
    """Moves what all processes counted from Redis to the tables; how many rows changed.

    A worker's task, about once a minute. Taking from Redis comes first: a crash in between loses
    counts and never doubles them.
    """
    pipe: Any = core.redis.pipeline(transaction=True)
    names = (KEY_COUNTS, KEY_TIMES, KEY_ADDRESSES, SESSION_TIMES)
    for name in names:
        pipe.hgetall(name)
    pipe.delete(*names)
    try:
        counts, key_times, addresses, session_times, _deleted = await pipe.execute()
    except (RedisError, OSError) as error:
        log.warning("usage.redis_away", error=type(error).__name__)
        return 0
    changed = 0
    for keys in _some(counts):
        async with _piece(core) as tx:
            changed += await tx.run(
                ADD_KEY_USAGE,
                ids=[key.decode() for key in keys],
                counts=[int(counts[key]) for key in keys],
                times=[float(key_times.get(key, 0)) for key in keys],
                ips=[addresses.get(key, b"").decode() for key in keys],
            )
    for keys in _some(session_times):
        async with _piece(core) as tx:
            changed += await tx.run(
                SET_SESSION_TIMES,
                ids=[key.decode() for key in keys],
                times=[float(session_times[key]) for key in keys],
            )
    return changed


def _some(of: dict[bytes, bytes]) -> Iterator[list[bytes]]:
    """Few at a time, for calls that last wait for the rows of their caller (standing.py)."""
    ids = sorted(of)
    return (ids[at : at + ROWS_MAX] for at in range(0, len(ids), ROWS_MAX))


@asynccontextmanager
async def _piece(core: Core) -> AsyncIterator[Tx]:
    """One that loses a race is lost, not those after it."""
    try:
        async with core.db.begin(Call.by_worker("identity.flush_key_usage")) as tx:
            yield tx
    except Conflict as conflict:
        log.warning("usage.lost", error=conflict.reason)
