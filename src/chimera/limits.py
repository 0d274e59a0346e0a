"""How often and how much at once a caller may ask.

Reads and writes are counted in this process, by caller and by organisation, which costs nothing per
call; logins, where guessing
must be expensive, in Redis over the whole cluster, and in this process when Redis is away. Streams
are counted by how many are open, apart from unary calls, or idle watchers would lock everyone out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chimera import metrics
from chimera.call import Call, Caller
from chimera.faults import Exhausted
from chimera.scripts import Script
from chimera.settings import Settings
from chimera.v1.options_pb2 import RateClass

# One bucket: refills at `rate` tokens a second up to `burst`; answers 0 or the wait in ms.
TAKE = """
local now = redis.call('TIME')
local t = now[1] * 1000 + math.floor(now[2] / 1000)
local rate, burst, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = redis.call('HMGET', KEYS[1], 'level', 'at')
local level, at = tonumber(kept[1]) or burst, tonumber(kept[2]) or t
level = math.min(burst, level + math.max(0, t - at) * rate / 1000)
local wait = 0
if level >= want then level = level - want else wait = math.ceil((want - level) * 1000 / rate) end
redis.call('HSET', KEYS[1], 'level', tostring(level), 'at', t)
redis.call('PEXPIRE', KEYS[1], math.ceil(burst * 1000 / rate) + 1000)
return wait
"""

BUCKETS_MAX = 50_000


class Buckets:
    """Token buckets in this process, one a key; the least recently filled are forgotten."""

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second, self.burst = per_second, burst
        self._levels: dict[str, tuple[float, float]] = {}

    def wait_s(self, key: str) -> float:
        """0 when a token was taken, else how long until there is one."""
        now = time.monotonic()
        level, at = self._levels.pop(key, (self.burst, now))
        level = min(self.burst, level + (now - at) * self.per_second)
        wait = 0.0 if level >= 1 else (1 - level) / self.per_second
        self._levels[key] = (level if wait else level - 1, now)
        if len(self._levels) > BUCKETS_MAX:
            del self._levels[next(iter(self._levels))]
        return wait


class CallLimits:
    """The limits of one server process."""

    def __init__(self, settings: Settings, redis: Redis | None) -> None:
        self.redis = redis
        self.take = Script(redis, TAKE) if redis is not None else None
        self.peers = Buckets(settings.calls_per_peer_second, 2.0 * settings.calls_per_peer_second)
        self.by_class = {
            RateClass.RATE_CLASS_READ: _per_minute(settings.reads_per_minute),
            RateClass.RATE_CLASS_WATCH: _per_minute(settings.reads_per_minute),
            RateClass.RATE_CLASS_WRITE: _per_minute(settings.writes_per_minute),
            RateClass.RATE_CLASS_AUTH: _per_minute(settings.logins_per_minute),
            RateClass.RATE_CLASS_INGEST: _per_minute(settings.telemetry_batches_per_minute),
        }
        self.by_org = {
            RateClass.RATE_CLASS_READ: _per_minute(settings.reads_per_org_minute),
            RateClass.RATE_CLASS_WATCH: _per_minute(settings.reads_per_org_minute),
            RateClass.RATE_CLASS_WRITE: _per_minute(settings.writes_per_org_minute),
            RateClass.RATE_CLASS_INGEST: _per_minute(settings.telemetry_batches_per_org_minute),
        }
        self.watches_max = settings.watchers_max
        self.watches_per_caller_max = settings.watchers_per_caller_max
        self.watches: dict[str, int] = {}

    def admit_peer(self, address: str) -> None:
        """Before anyone is authenticated. Raises Exhausted(RATE_LIMITED)."""
        self._refuse(self.peers.wait_s(address), "address")

    async def admit(self, call: Call) -> None:
        """By the method's rate class. Raises Exhausted(RATE_LIMITED)."""
        rate = call.access.rate
        buckets = self.by_class[rate]
        if rate != RateClass.RATE_CLASS_AUTH:
            # The caller's own comes first: who is over it takes nothing from the others.
            self._refuse(buckets.wait_s(_key(call.caller)), "caller")
            shared = self.by_org.get(rate)
            if shared and call.caller.org_id:
                self._refuse(shared.wait_s(call.caller.org_id), "organisation")
            return
        wait_s = 0.0
        if self.take is not None:
            try:
                wait_ms = await self.take(
                    keys=[f"chimera:limit:login:{call.ip_address}"],
                    args=[buckets.per_second, buckets.burst, 1],
                )
                wait_s = int(wait_ms) / 1000
            except (RedisError, OSError):
                wait_s = buckets.wait_s(call.ip_address)
        else:
            wait_s = buckets.wait_s(call.ip_address)
        self._refuse(wait_s, "address")

    @contextmanager
    def watching(self, caller: Caller) -> Iterator[None]:
        """Holds one place for an open stream. Raises Exhausted(TOO_MANY_WATCHERS)."""
        key = _key(caller)
        mine = self.watches.get(key, 0)
        if mine >= self.watches_per_caller_max or sum(self.watches.values()) >= self.watches_max:
            raise Exhausted(
                "TOO_MANY_WATCHERS", "Too many streams are open; end one first.", retry_after_s=5.0
            )
        self.watches[key] = mine + 1
        metrics.WATCHES_OPEN.inc()
        try:
            yield
        finally:
            metrics.WATCHES_OPEN.dec()
            self.watches[key] -= 1
            if not self.watches[key]:
                del self.watches[key]

    @staticmethod
    def _refuse(wait_s: float, subject: str) -> None:
        if wait_s > 0:
            raise Exhausted(
                "RATE_LIMITED",
                "Too many calls; wait and try again.",
                facts={"subject": subject},
                retry_after_s=wait_s,
            )


def _per_minute(calls: int) -> Buckets:
    return Buckets(calls / 60, max(1.0, calls / 6))


def _key(caller: Caller) -> str:
    return caller.api_key_id or caller.user_id or "anonymous"
