"""Requests and tokens a minute per credential, shared by the whole cluster through Redis.

A drive takes permits in small portions, so that Redis is asked a few times a second and not once a
call; a permit that is not used within a second is forgotten. Tokens are taken at what a call can
need at most, and what it did not need is given back with the next portion.

No minute sees more than the limit: a bucket holds two seconds' worth and fills at the rest of the
minute's. Redis may be flushed or away at any time. A bucket that is not there begins empty. While
Redis is away each drive keeps to its part of the limit by itself, one request at a time, as many
parts as the organisation has drives; when it comes back, the bucket may let two seconds' worth
through on top of those. A permit reaches the wire within a second or so of being given.

Runs with one credential take turns: one that is a tenth of a second's worth ahead of another that
wants some has to wait itself. What the provider says counts too: refusals shrink the part of the limit that is used,
which grows back by a hundredth a second; Retry-After stops everybody with this credential for this
model; and limits that it tells in headers hold for the model beside the configured ones.
"""

from __future__ import annotations

import time

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chimera.providers.adapters.limits import Told
from chimera.providers.rate_limits import shared_key

# KEYS: buckets (requests and tokens of the credential, the same of it for the model), cool, share,
# seen, served. ARGV: requests wanted, tokens each, model, run, tokens to give back, and what each of
# the buckets gets a minute, 0 for no limit. Answers {granted, wait in ms until one more might
# be, whether the provider asked for the wait}.
TAKE = """
local now = redis.call('TIME')
local t = now[1] * 1000 + math.floor(now[2] / 1000)
local want, tokens, run = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[4]
local cool = tonumber(redis.call('HGET', KEYS[5], ARGV[3]) or '0')
if cool > t then return {0, cool - t, 1} end
local kept = redis.call('HMGET', KEYS[6], 'share', 'at')
local share = math.min(1, (tonumber(kept[1]) or 1) + (t - (tonumber(kept[2]) or t)) / 100000)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[7], '-inf', t)) do
  redis.call('ZREM', KEYS[7], gone)
  redis.call('ZREM', KEYS[8], gone)
end
local least = redis.call('ZRANGE', KEYS[8], 0, 0, 'WITHSCORES')
local served = tonumber(redis.call('ZSCORE', KEYS[8], run) or least[2] or '0')
local granted, wait, ahead = want, 0, 1
local levels = {}
for i = 1, 4 do
  local limit = tonumber(ARGV[5 + i]) * share
  if limit > 0 then
    local is_requests = i % 2 == 1
    local each = is_requests and 1 or tokens
    local burst = math.max(each, limit / 30)
    local spare = is_requests and 0.999 or 0
    local rate = math.max(limit + spare - burst, limit / 2) / 60000
    local old = redis.call('HMGET', KEYS[i], 'level', 'at')
    local level = (tonumber(old[1]) or 0) + (t - (tonumber(old[2]) or t)) * rate
    if not is_requests then level = level + tonumber(ARGV[5]) end
    level = math.min(burst, level)
    levels[i] = {level, each}
    granted = math.min(granted, math.floor(level / each))
    ahead = math.max(ahead, limit / 600 / each)
    if level < each then wait = math.max(wait, math.ceil((each - level) / rate)) end
  end
end
granted = math.max(granted, 0)
if granted > 0 and least[2] and served - tonumber(least[2]) >= ahead then
  granted, wait = 0, 100
end
for i, l in pairs(levels) do
  redis.call('HSET', KEYS[i], 'level', tostring(l[1] - granted * l[2]), 'at', t)
  redis.call('PEXPIRE', KEYS[i], 86400000)
end
wait = math.max(wait, 1)
redis.call('ZADD', KEYS[7], t + wait + 1500, run)
redis.call('ZADD', KEYS[8], served + granted, run)
redis.call('PEXPIRE', KEYS[7], 120000)
redis.call('PEXPIRE', KEYS[8], 120000)
return {granted, wait, 0}
"""

# KEYS: cool. ARGV: model, ms. The longest wait that anybody was told stands.
COOL = """
local now = redis.call('TIME')
local till = now[1] * 1000 + math.floor(now[2] / 1000) + tonumber(ARGV[2])
till = math.max(till, tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0'))
redis.call('HSET', KEYS[1], ARGV[1], till)
redis.call('PEXPIRE', KEYS[1], 7200000)
"""

# KEYS: share. At most once a second, however many were refused.
SLOW = """
local now = redis.call('TIME')
local t = now[1] * 1000 + math.floor(now[2] / 1000)
local kept = redis.call('HMGET', KEYS[1], 'share', 'at', 'slowed')
if tonumber(kept[3] or '0') > t - 1000 then return end
local share = math.min(1, (tonumber(kept[1]) or 1) + (t - (tonumber(kept[2]) or t)) / 100000)
redis.call('HSET', KEYS[1], 'share', tostring(math.max(0.1, share * 0.7)), 'at', t, 'slowed', t)
redis.call('PEXPIRE', KEYS[1], 120000)
"""

PORTION_MAX = 32
PORTION_S = 0.5  # a portion is no more than this much of the limit
PERMITS_KEPT_S = 1.0
LOOK_EVERY_S = 1.0
COOL_MAX_S = 3600.0
LOW = 0.1  # part of a told allowance below which the drives slow down


class Pace:
    """The limit of one credential as one drive sees it. No limit: every call is granted."""

    def __init__(
        self,
        redis: Redis,
        credential: str,
        requests_per_minute: int,
        tokens_per_minute: int,
        *,
        model: str = "",
        run_id: str = "",
    ) -> None:
        """model: what the provider's waits are for; run_id: who takes turns."""
        self.redis, self.model, self.run_id = redis, model, run_id
        kinds = ("requests", "tokens", f"requests:{model}", f"tokens:{model}")
        self.keys = [
            shared_key(credential, kind) for kind in (*kinds, "cool", "share", "seen", "served")
        ]
        self.take_script = redis.register_script(TAKE)
        self.cool_script = redis.register_script(COOL)
        self.slow_script = redis.register_script(SLOW)
        self.configured = (requests_per_minute, tokens_per_minute)
        self.told = Told()
        self.permits = 0
        self.permit_tokens = 0  # that each of them stands for
        self.permits_until = 0.0
        self.unused_tokens = 0  # to give back, negative when calls needed more than was taken
        self.refilling = False
        self.looked_at = 0.0
        self.ready_at = 0.0
        self.cooling_until = 0.0
        self.drives = 1  # of the organisation, over the whole cluster
        self.is_alone = False  # Redis did not answer
        self._local_at = self._local_level = 0.0

    @property
    def requests_per_minute(self) -> int:
        return _lower(self.configured[0], self.told.requests_per_minute)

    @property
    def tokens_per_minute(self) -> int:
        return _lower(self.configured[1], self.told.tokens_per_minute)

    @property
    def unlimited(self) -> bool:
        return not self.requests_per_minute and not self.tokens_per_minute

    def limit(self, requests_per_minute: int, tokens_per_minute: int) -> None:
        """A live change of what is configured. 0: none."""
        self.configured = (requests_per_minute, tokens_per_minute)

    def take(self, tokens: int = 0) -> bool:
        """Uses up a permit for a call of at most so many tokens; False when there is none, then
        `refill` is due at `ready_at`."""
        now = time.monotonic()
        if self.unlimited:
            return now >= self.ready_at
        if self.permits and now > self.permits_until:
            # Taken so long ago that it would go out with those of the next second.
            self.unused_tokens += self.permits * self.permit_tokens
            self.permits = 0
        if self.permits < 1:
            return False
        self.permits -= 1
        self.unused_tokens += self.permit_tokens - tokens
        return True

    def used(self, taken: int, needed: int) -> None:
        """A call that took so many tokens has needed so many."""
        if self.tokens_per_minute:
            self.unused_tokens += taken - needed

    def wants_look(self) -> bool:
        """Whether to ask if another drive was told to cool down; with a limit, each refill asks."""
        due = time.monotonic() >= self.looked_at + LOOK_EVERY_S
        return self.unlimited and not self.refilling and due

    async def look(self) -> None:
        """Obeys a cool-down that another drive was told of."""
        self.looked_at = time.monotonic()
        await self.refill(0, 0)

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
        unused, self.unused_tokens = self.unused_tokens, 0
        told = self.told
        limits = [*self.configured, told.requests_per_minute, told.tokens_per_minute]
        portion = self._portion(wanted, tokens)
        try:
            granted, wait_ms, is_cooling = await self.take_script(
                keys=self.keys,
                args=[portion, tokens, self.model, self.run_id, unused, *limits],
            )
            self.is_alone = False
        except (RedisError, OSError):
            self.unused_tokens += unused
            granted, wait_ms, is_cooling = *self._granted_alone(tokens), 0
        now = time.monotonic()
        if is_cooling:
            self.cooling_until = now + wait_ms / 1000
        if granted and not self.unlimited:
            self.permits, self.permit_tokens = self.permits + int(granted), tokens
            self.permits_until = now + PERMITS_KEPT_S
        elif is_cooling or not self.unlimited:
            self.ready_at = now + int(wait_ms) / 1000

    def _portion(self, wanted: int, tokens: int) -> int:
        portion = min(wanted, PORTION_MAX)
        for limit, each in ((self.requests_per_minute, 1), (self.tokens_per_minute, tokens)):
            if limit:
                portion = min(portion, max(1, int(limit / 60 * PORTION_S / max(1, each))))
        return portion

    def _granted_alone(self, tokens: int) -> tuple[int, int]:
        """Without Redis: one request at a time at this drive's part of the rate, from nothing."""
        now = time.monotonic()
        if self.unlimited:
            return 1, 0
        rates = [self.requests_per_minute or float("inf")]
        if self.tokens_per_minute:
            rates.append(self.tokens_per_minute / max(1, tokens))
        per_second = min(rates) / 60 / max(1, self.drives)
        if not self.is_alone:
            self.is_alone, self._local_at, self._local_level = True, now, 0.0
        self._local_level = min(1.0, self._local_level + (now - self._local_at) * per_second)
        self._local_at = now
        if self._local_level >= 1:
            self._local_level -= 1
            return 1, 0
        return 0, int((1 - self._local_level) / per_second * 1000) + 1

    async def cool_down(self, seconds: float) -> None:
        """The provider asked everyone with this credential to wait, for this model."""
        seconds = min(seconds, COOL_MAX_S)
        self.permits = 0
        self.cooling_until = max(self.cooling_until, time.monotonic() + seconds)
        self.ready_at = max(self.ready_at, self.cooling_until)
        try:
            await self.cool_script(keys=[self.keys[4]], args=[self.model, int(seconds * 1000) + 1])
        except (RedisError, OSError):
            return  # this drive waits all the same

    async def slow_down(self) -> None:
        """The provider refused a call for its rate, or says that it soon will."""
        if self.unlimited:
            return  # the window shrinks
        try:
            await self.slow_script(keys=[self.keys[5]])
        except (RedisError, OSError):
            return

    async def learn(self, told: Told) -> None:
        """What an answer's headers said of the limits and of what is left of them."""
        if told.requests_per_minute or told.tokens_per_minute:
            self.told = told
        if told.exhausted_s > 0:
            await self.cool_down(told.exhausted_s)
        elif told.left < LOW:
            await self.slow_down()


def _lower(configured: int, told: int) -> int:
    """The lower of two limits, of which 0 is none."""
    return min(configured, told) if configured and told else configured or told
