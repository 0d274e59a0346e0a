"""Requests and tokens a minute per credential, shared by the whole cluster through Redis.

A drive takes permits in small portions, so that Redis is asked a few times a second and not once a
call. A cool-down that a provider asked for (Retry-After) is shared the same way. When Redis is away
each drive keeps to its share of the limit by itself.
"""

from __future__ import annotations

import time

from redis.asyncio import Redis
from redis.exceptions import RedisError

# Takes as many requests as both buckets allow, up to the number wanted, each of `tokens` tokens.
# Answers {granted, wait in ms until one more might be}. The buckets hold two seconds' worth, so a
# minute's allowance is not burnt in its first second.
TAKE = """
local now = redis.call('TIME')
local t = now[1] * 1000 + math.floor(now[2] / 1000)
local cool = redis.call('PTTL', KEYS[3])
if cool > 0 then return {0, cool} end
local want, tokens = tonumber(ARGV[1]), tonumber(ARGV[2])
local granted, wait = want, 0
local levels = {}
for i = 1, 2 do
  local rate = tonumber(ARGV[2 + i]) / 60000
  if rate > 0 then
    local each = i == 1 and 1 or tokens
    local burst = math.max(each, rate * 2000)
    local kept = redis.call('HMGET', KEYS[i], 'level', 'at')
    local level = math.min(burst, (tonumber(kept[1]) or burst) + (t - (tonumber(kept[2]) or t)) * rate)
    levels[i] = {level, each}
    granted = math.min(granted, math.floor(level / each))
    if level < each then wait = math.max(wait, math.ceil((each - level) / rate)) end
  end
end
for i, l in pairs(levels) do
  redis.call('HSET', KEYS[i], 'level', tostring(l[1] - granted * l[2]), 'at', t)
  redis.call('PEXPIRE', KEYS[i], 120000)
end
return {granted, math.max(wait, 1)}
"""

PORTION_MAX = 32
LOOK_EVERY_S = 1.0


class Pace:
    """The limit of one credential as one drive sees it. No limit: every call is granted."""

    def __init__(
        self,
        redis: Redis,
        credential: str,
        requests_per_minute: int,
        tokens_per_minute: int,
        run_id: str = "",
    ) -> None:
        self.run_id = run_id
        self.redis = redis
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self.keys = [f"chimera:pace:{credential}:{kind}" for kind in ("requests", "tokens", "cool")]
        self.script = redis.register_script(TAKE)
        self.permits = 0
        self.refilling = False
        self.looked_at = 0.0
        self.ready_at = 0.0
        self.cooling_until = 0.0
        self.drivers = 1
        self._local_at = time.monotonic()
        self._local_level = 1.0

    @property
    def unlimited(self) -> bool:
        return not self.requests_per_minute and not self.tokens_per_minute

    def limit(self, requests_per_minute: int, tokens_per_minute: int) -> None:
        """A live change of the limits."""
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute

    async def slow_down(self) -> None:
        """The provider refused somebody with this credential for the rate."""

    def take(self) -> bool:
        """Uses up a permit; False when there is none, then `refill` is due at `ready_at`."""
        if self.unlimited:
            return time.monotonic() >= self.ready_at
        if self.permits < 1:
            return False
        self.permits -= 1
        return True

    def wants_look(self) -> bool:
        """Whether to ask if another drive was told to cool down; with a limit, each refill asks."""
        due = time.monotonic() >= self.looked_at + LOOK_EVERY_S
        return self.unlimited and not self.refilling and due

    async def look(self) -> None:
        """Obeys a cool-down that another drive was told of."""
        self.looked_at = time.monotonic()
        try:
            left_ms = await self.redis.pttl(self.keys[2])
        except (RedisError, OSError):
            return
        if left_ms > 0:
            self.cooling_until = time.monotonic() + left_ms / 1000
            self.ready_at = max(self.ready_at, self.cooling_until)

    def wants_refill(self) -> bool:
        """Whether asking for permits now would make sense."""
        busy = self.unlimited or self.permits or self.refilling
        return not busy and time.monotonic() >= self.ready_at

    async def refill(self, wanted: int, tokens: int) -> None:
        """Asks for up to `wanted` permits for calls of at most `tokens` tokens each."""
        self.refilling = True
        try:
            await self._refill(wanted, tokens)
        finally:
            self.refilling = False

    async def _refill(self, wanted: int, tokens: int) -> None:
        wanted = max(1, min(wanted, PORTION_MAX))
        try:
            granted, wait_ms = await self.script(
                keys=self.keys,
                args=[wanted, tokens, self.requests_per_minute, self.tokens_per_minute],
            )
        except (RedisError, OSError):
            granted, wait_ms = self._granted_alone(tokens)
        self.permits += int(granted)
        if not granted:
            self.ready_at = time.monotonic() + int(wait_ms) / 1000

    def _granted_alone(self, tokens: int) -> tuple[int, int]:
        """Without Redis: one request at a time at this drive's share of the rate."""
        rates = [self.requests_per_minute or float("inf")]
        if self.tokens_per_minute:
            rates.append(self.tokens_per_minute / max(1, tokens))
        per_second = min(rates) / 60 / max(1, self.drivers)
        now = time.monotonic()
        self._local_level = min(1.0, self._local_level + (now - self._local_at) * per_second)
        self._local_at = now
        if self._local_level >= 1:
            self._local_level -= 1
            return 1, 0
        return 0, int((1 - self._local_level) / per_second * 1000) + 1

    async def cool_down(self, seconds: float) -> None:
        """The provider asked everyone with this credential to wait."""
        self.permits = 0
        self.cooling_until = max(self.cooling_until, time.monotonic() + seconds)
        self.ready_at = max(self.ready_at, self.cooling_until)
        try:
            await self.redis.set(self.keys[2], 1, px=max(1, int(seconds * 1000)))
        except (RedisError, OSError):
            return  # this drive waits all the same
