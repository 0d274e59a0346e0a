"""Throttle: how long a source must wait before it may try an account's password again.

Failures are counted per (identifier, source address): the owner at home is not locked out by an
outsider's guesses. They are counted whether or not the identifier exists, so a wait tells nothing.
Counted in Redis over the whole cluster; while Redis is away, in this process, from zero.
"""

from __future__ import annotations

import hashlib
import ipaddress
import time
from contextlib import suppress

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

log = structlog.get_logger("chimera.identity")

FREE_FAILURES = 4
LOCK_AFTER_FAILURES = 10
LOCK_S = 900
# A source that stays away this long after its last failure starts afresh.
FORGET_S = 12 * 3600
LOCAL_MAX = 50_000

# Answers the wait in ms: KEYS[1] holds failures and until (ms of Redis's clock).
WAIT = """
local now = redis.call('TIME')
local left = tonumber(redis.call('HGET', KEYS[1], 'until') or 0)
           - (now[1] * 1000 + math.floor(now[2] / 1000))
return math.max(0, left)
"""

# Counts one failure and answers how many there are now; ARGV: free, lock after, lock s, forget s.
FAILED = """
local now = redis.call('TIME')
local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
local delay = 0
if failures >= tonumber(ARGV[2]) then delay = tonumber(ARGV[3])
elseif failures > tonumber(ARGV[1]) then delay = 2 ^ (failures - tonumber(ARGV[1]) - 1) end
redis.call('HSET', KEYS[1], 'until', string.format('%.0f',
           now[1] * 1000 + math.floor(now[2] / 1000) + delay * 1000))
redis.call('EXPIRE', KEYS[1], ARGV[4])
return failures
"""


def delay_s(failures: int) -> int:
    """0 for the first four failures, then 1, 2, 4 ... seconds; 15 minutes from the tenth on."""
    if failures >= LOCK_AFTER_FAILURES:
        return LOCK_S
    return 0 if failures <= FREE_FAILURES else int(2 ** (failures - FREE_FAILURES - 1))


def key_of(login: str, ip_address: str) -> str:
    """Of an identifier (already normalised) and a source; IPv6 counts by /64, which one host has
    to itself."""
    source = ip_address
    if ":" in ip_address:
        source = str(ipaddress.ip_network(f"{ip_address}/64", strict=False))
    return hashlib.sha256(f"{login}\0{source}".encode()).hexdigest()[:32]


class Throttle:
    """Keys come from `key_of`."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._wait = redis.register_script(WAIT)
        self._failed = redis.register_script(FAILED)
        # key -> failures, until (monotonic seconds)
        self._local: dict[str, tuple[int, float]] = {}

    async def wait_s(self, key: str) -> float:
        """0 when a password may be tried now."""
        try:
            return int(await self._wait(keys=[_name(key)])) / 1000
        except (RedisError, OSError) as error:
            log.warning("throttle.redis_away", error=type(error).__name__)
        return max(0.0, self._local.get(key, (0, 0.0))[1] - time.monotonic())

    async def failed(self, key: str) -> int:
        """Counts a failure; how many there are."""
        limits = [FREE_FAILURES, LOCK_AFTER_FAILURES, LOCK_S, FORGET_S]
        try:
            return int(await self._failed(keys=[_name(key)], args=limits))
        except (RedisError, OSError):
            pass
        failures = self._local.pop(key, (0, 0.0))[0] + 1
        self._local[key] = (failures, time.monotonic() + delay_s(failures))
        if len(self._local) > LOCAL_MAX:
            del self._local[next(iter(self._local))]
        return failures

    async def succeeded(self, key: str) -> None:
        """Forgets the failures."""
        self._local.pop(key, None)
        with suppress(RedisError, OSError):
            await self.redis.delete(_name(key))


def _name(key: str) -> str:
    return f"chimera:login:{key}"
