"""Throttle: who may try a password (or a code) now, and who has to wait.

What must stay true:
- An attempt is admitted before anything is verified. While failures are left for free, at most that
  many attempts of one (identifier, source) are under way, so a burst of parallel guesses is worth no
  more than the same guesses one by one. Honest ones wait their turn and all get in.
- Whether the identifier exists changes nothing here, so a wait tells nothing.
- What strangers do locks strangers out. Somebody on a device that is known, with a second factor, or
  in a session, is counted under a key of their own (see `Subject`).

Counted in Redis over the whole cluster; while Redis is away, in this process, from zero.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cached_property

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from chimera.call import Caller
from chimera.faults import Exhausted
from chimera.ids import new_id
from chimera.scripts import Script

log = structlog.get_logger("chimera.identity")

FREE_FAILURES = 4
LOCK_AFTER_FAILURES = 10
# So many from all sources together lock strangers out too: guesses spread over many addresses.
LOCK_AFTER_ANYWHERE = 30
LOCK_S = 900
LOCK_MAX_S = 4 * 3600
# Who stays away this long after the last failure starts afresh.
FORGET_S = 12 * 3600
# A process that died leaves its attempts counted as under way for this long.
UNDER_WAY_S = 30
LOCAL_MAX = 50_000
ASK_AGAIN_S = 0.03

# KEYS: source, attempts under way, identifier. ARGV: attempt, free, under way s, heed the
# identifier's lock. Answers the wait in ms, 0 when admitted, -1 when others are under way.
ADMIT = """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local wait = tonumber(redis.call('HGET', KEYS[1], 'until') or 0) - now
if ARGV[4] == '1' then
    wait = math.max(wait, tonumber(redis.call('HGET', KEYS[3], 'until') or 0) - now)
end
if wait > 0 then return wait end
redis.call('ZREMRANGEBYSCORE', KEYS[2], 0, now - ARGV[3] * 1000)
local failures = tonumber(redis.call('HGET', KEYS[1], 'failures') or 0)
if redis.call('ZCARD', KEYS[2]) >= math.max(1, ARGV[2] - failures) then return -1 end
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 0
"""

# KEYS as above, and the identifier's sources. ARGV: attempt, free, lock after, lock after anywhere,
# lock s, lock max s, forget s. Answers how many seconds strangers are locked out from now.
FAILED = """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZREM', KEYS[2], ARGV[1])
local function lock(over) return math.min(ARGV[5] * 2 ^ over, tonumber(ARGV[6])) end
local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
local anywhere = redis.call('HINCRBY', KEYS[3], 'failures', 1)
local delay, locked = 0, 0
if failures >= tonumber(ARGV[3]) then
    delay = lock(failures - ARGV[3])
    locked = delay
elseif failures > tonumber(ARGV[2]) then
    delay = 2 ^ (failures - ARGV[2] - 1)
end
if anywhere >= tonumber(ARGV[4]) then locked = math.max(locked, lock(anywhere - ARGV[4])) end
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + delay * 1000))
if locked > 0 then
    redis.call('HSET', KEYS[3], 'until', string.format('%.0f', now + locked * 1000))
end
redis.call('SADD', KEYS[4], KEYS[1])
for _, key in ipairs({KEYS[1], KEYS[3], KEYS[4]}) do redis.call('EXPIRE', key, ARGV[7]) end
return string.format('%.0f', locked)
"""

# KEYS as for ADMIT. Failures are forgotten; a lock on strangers runs out by itself.
SUCCEEDED = """
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[1])
redis.call('HDEL', KEYS[3], 'failures')
"""


def delay_s(failures: int) -> int:
    """0 for the first four failures, then 1, 2, 4 ... seconds; from the tenth on 15 minutes and
    twice as long each time, up to four hours."""
    if failures >= LOCK_AFTER_FAILURES:
        return int(min(LOCK_S * 2 ** (failures - LOCK_AFTER_FAILURES), LOCK_MAX_S))
    return 0 if failures <= FREE_FAILURES else int(2 ** (failures - FREE_FAILURES - 1))


def source_of(ip_address: str) -> str:
    """IPv6 counts by /64, which one host has to itself."""
    if ":" in ip_address:
        return str(ipaddress.ip_network(f"{ip_address}/64", strict=False))
    return ip_address


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Subject:
    """Whose attempts are counted together: an identifier (already normalised) and where they come
    from. `is_stranger` heeds the lock on the identifier from everywhere."""

    identifier: str
    source: str
    is_stranger: bool = True

    @cached_property
    def key(self) -> str:
        return _digest(f"{self.identifier}\0{self.source}")

    @cached_property
    def identifier_key(self) -> str:
        return _digest(self.identifier)


def stranger(login: str, ip_address: str) -> Subject:
    """Anybody at an address."""
    return Subject(login, source_of(ip_address))


def on_device(login: str, device_hash: bytes) -> Subject:
    """Who says they are on a device that is known; counted by that device."""
    return Subject(login, f"device {device_hash.hex()}", is_stranger=False)


def known(name: str, device_id: str) -> Subject:
    """Who goes on, on a device that is known; counted by it."""
    return Subject(name, f"device {device_id}", is_stranger=False)


def in_session(what: str, caller: Caller) -> Subject:
    """Who proves again who they are; counted by the sign-in, so that who has stolen one session locks
    nobody out of the others. Sessions that were opened out of it count as one, or each were a new
    start."""
    signed_in_at = caller.held.signed_in_at if caller.held else None
    source = signed_in_at.isoformat() if signed_in_at else caller.session_id
    return Subject(f"{what} {caller.user_id}", f"session {source}", is_stranger=False)


def with_factor(login: str, ip_address: str) -> Subject:
    """Who offers a second factor together with the password."""
    return Subject(login, f"factor {source_of(ip_address)}", is_stranger=False)


def code_names(user_id: str) -> list[str]:
    """Under what a person's codes, passwords and step-ups are counted once it is known who it is."""
    return [f"{what} {user_id}" for what in ("code", "password", "step up")]


class Attempt:
    """One that was admitted: say `failed` or `succeeded`, or it does not count."""

    def __init__(self, throttle: Throttle, subject: Subject, attempt_id: str) -> None:
        self._throttle, self.subject, self._id = throttle, subject, attempt_id
        self._open = True

    async def failed(self) -> int:
        """Counts it; how many seconds strangers are locked out now (0: they are not)."""
        self._open = False
        return await self._throttle._failed(self.subject, self._id)

    async def succeeded(self) -> None:
        """Forgets the failures of its subject."""
        self._open = False
        await self._throttle._succeeded(self.subject, self._id)

    async def close(self) -> None:
        if self._open:
            await self._throttle._leave(self.subject, self._id)


class Throttle:
    """Of one server process."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._admit = Script(redis, ADMIT)
        self._count = Script(redis, FAILED)
        self._forget = Script(redis, SUCCEEDED)
        self._queues: dict[str, tuple[asyncio.Semaphore, int]] = {}
        self._local = _Local()

    @asynccontextmanager
    async def attempt(self, subject: Subject, *, within_s: float = 10.0) -> AsyncIterator[Attempt]:
        """One attempt, when its turn comes.

        Raises Exhausted: RATE_LIMITED after failures, SERVER_BUSY when its turn does not come.
        """
        key = subject.key
        turns, users = self._queues.get(key, (asyncio.Semaphore(FREE_FAILURES), 0))
        self._queues[key] = (turns, users + 1)
        try:
            async with turns:
                attempt_id = new_id()
                await self._admitted(subject, attempt_id, time.monotonic() + within_s)
                attempt = Attempt(self, subject, attempt_id)
                try:
                    yield attempt
                finally:
                    await attempt.close()
        finally:
            users = self._queues[key][1] - 1
            if users:
                self._queues[key] = (turns, users)
            else:
                del self._queues[key]

    async def _admitted(self, subject: Subject, attempt_id: str, deadline: float) -> None:
        while (wait_ms := await self._ask(subject, attempt_id)) != 0:
            if wait_ms > 0:
                raise Exhausted(
                    "RATE_LIMITED",
                    "Too many failed attempts; wait and try again.",
                    facts={"subject": "login"},
                    retry_after_s=wait_ms / 1000,
                )
            if time.monotonic() > deadline:
                raise Exhausted(
                    "SERVER_BUSY", "Too many attempts at once; try again.", retry_after_s=1.0
                )
            await asyncio.sleep(ASK_AGAIN_S)

    async def _ask(self, subject: Subject, attempt_id: str) -> int:
        args: list[str | int] = [attempt_id, FREE_FAILURES, UNDER_WAY_S, int(subject.is_stranger)]
        try:
            return int(await self._admit(keys=_names(subject), args=args))
        except (RedisError, OSError) as error:
            log.warning("throttle.redis_away", error=type(error).__name__)
        return self._local.ask(subject, attempt_id)

    async def _failed(self, subject: Subject, attempt_id: str) -> int:
        keys = [*_names(subject), f"chimera:login:{subject.identifier_key}:sources"]
        args: list[str | int] = [
            attempt_id,
            FREE_FAILURES,
            LOCK_AFTER_FAILURES,
            LOCK_AFTER_ANYWHERE,
            LOCK_S,
            LOCK_MAX_S,
            FORGET_S,
        ]
        try:
            return int(await self._count(keys=keys, args=args))
        except (RedisError, OSError):
            return self._local.failed(subject, attempt_id)

    async def _succeeded(self, subject: Subject, attempt_id: str) -> None:
        self._local.succeeded(subject, attempt_id)
        with suppress(RedisError, OSError):
            await self._forget(keys=_names(subject), args=[attempt_id])

    async def _leave(self, subject: Subject, attempt_id: str) -> None:
        self._local.leave(subject, attempt_id)
        with suppress(RedisError, OSError):
            await self.redis.zrem(_names(subject)[1], attempt_id)

    async def forgive(self, identifiers: list[str]) -> None:
        """Lifts every lock and wait of these identifiers, whatever the source."""
        self._local.forgive(identifiers)
        with suppress(RedisError, OSError):
            for identifier in identifiers:
                name = f"chimera:login:{_digest(identifier)}"
                sources = await self.redis.smembers(f"{name}:sources")  # type: ignore[misc]  # redis-py's types know no difference between sync and async here
                await self.redis.delete(name, f"{name}:sources", *sources)


def _names(subject: Subject) -> list[str]:
    key = f"chimera:login:{subject.key}"
    return [key, f"{key}:now", f"chimera:login:{subject.identifier_key}"]


class _Local:
    """The same rules in this process alone, while Redis is away."""

    def __init__(self) -> None:
        # key -> failures, until (monotonic seconds), of sources and of identifiers
        self.counts: dict[str, tuple[int, float]] = {}
        self.under_way: dict[str, set[str]] = {}

    def ask(self, subject: Subject, attempt_id: str) -> int:
        now = time.monotonic()
        failures, until = self.counts.get(subject.key, (0, 0.0))
        if subject.is_stranger:
            until = max(until, self.counts.get(subject.identifier_key, (0, 0.0))[1])
        if until > now:
            return int((until - now) * 1000) + 1
        under_way = self.under_way.setdefault(subject.key, set())
        if len(under_way) >= max(1, FREE_FAILURES - failures):
            return -1
        under_way.add(attempt_id)
        return 0

    def failed(self, subject: Subject, attempt_id: str) -> int:
        self.leave(subject, attempt_id)
        now = time.monotonic()
        failures = self.counts.pop(subject.key, (0, 0.0))[0] + 1
        anywhere, until = self.counts.pop(subject.identifier_key, (0, 0.0))
        anywhere += 1
        locked = delay_s(failures) if failures >= LOCK_AFTER_FAILURES else 0
        if anywhere >= LOCK_AFTER_ANYWHERE:
            over = anywhere - LOCK_AFTER_ANYWHERE
            locked = max(locked, int(min(LOCK_S * 2**over, LOCK_MAX_S)))
        self.counts[subject.key] = (failures, now + delay_s(failures))
        self.counts[subject.identifier_key] = (anywhere, now + locked if locked else until)
        while len(self.counts) > LOCAL_MAX:
            del self.counts[next(iter(self.counts))]
        return locked

    def succeeded(self, subject: Subject, attempt_id: str) -> None:
        self.leave(subject, attempt_id)
        self.counts.pop(subject.key, None)
        if subject.identifier_key in self.counts:
            self.counts[subject.identifier_key] = (0, self.counts[subject.identifier_key][1])

    def leave(self, subject: Subject, attempt_id: str) -> None:
        under_way = self.under_way.get(subject.key)
        if under_way is not None:
            under_way.discard(attempt_id)
            if not under_way:
                del self.under_way[subject.key]

    def forgive(self, identifiers: list[str]) -> None:
        """Sources are not known by their identifier here, so all are forgiven."""
        if identifiers:
            self.counts.clear()
