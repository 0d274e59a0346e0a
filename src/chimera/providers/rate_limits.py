"""What a stored key may send in a minute, when it is not what its provider says.

The limits themselves are here; that they are kept is the campaign engine's pace, whose state is
shared through Redis and may be lost at any time.
"""

from __future__ import annotations

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotFound
from chimera.v1.routes_pb2 import RateLimit, SetRateLimitRequest

GET_RATE_LIMIT = sql(
    RateLimit,
    """
    SELECT k.id AS provider_key_id, l.provider_key_id IS NOT NULL AS is_own,
           COALESCE(l.requests_per_minute, p.requests_per_minute) AS requests_per_minute,
           COALESCE(l.tokens_per_minute, p.tokens_per_minute) AS tokens_per_minute
      FROM providers.provider_keys k
      JOIN providers.providers p ON p.id = k.provider_id
      LEFT JOIN providers.rate_limits l ON l.provider_key_id = k.id
     WHERE k.id = %(key_id)s::uuid AND k.org_id = %(org_id)s::uuid AND k.is_active
    """,
)


def shared_key(provider_key_id: str, kind: str) -> str:
    """Where Redis keeps what all workers share about a credential, see the campaign engine's pace.
    kind: requests, tokens (both also by model), cool, share, seen, served."""
    return f"chimera:pace:{provider_key_id}:{kind}"


async def get_rate_limit(tx: Tx, provider_key_id: str) -> RateLimit:
    """Raises NotFound(PROVIDER_KEY_NOT_FOUND)."""
    limit = await tx.one(GET_RATE_LIMIT, org_id=tx.call.caller.org_id, key_id=provider_key_id)
    if limit is None:
        raise NotFound("PROVIDER_KEY_NOT_FOUND", "There is no such provider key.")
    return limit


SET_RATE_LIMIT = sql(
    Nothing,
    """
    INSERT INTO providers.rate_limits
        (provider_key_id, org_id, requests_per_minute, tokens_per_minute, set_by)
    VALUES (%(key_id)s, %(org_id)s, %(requests)s, %(tokens)s, %(by)s)
    ON CONFLICT (provider_key_id) DO UPDATE
       SET requests_per_minute = EXCLUDED.requests_per_minute,
           tokens_per_minute = EXCLUDED.tokens_per_minute, set_by = EXCLUDED.set_by
    """,
)


async def set_rate_limit(tx: Tx, request: SetRateLimitRequest) -> RateLimit:
    """Raises NotFound(PROVIDER_KEY_NOT_FOUND)."""
    old = await get_rate_limit(tx, request.provider_key_id)
    await tx.run(
        SET_RATE_LIMIT,
        key_id=request.provider_key_id,
        org_id=tx.call.caller.org_id,
        requests=request.requests_per_minute,
        tokens=request.tokens_per_minute,
        by=tx.call.caller.user_id,
    )
    return await _changed(tx, "rate_limit.set", old)


CLEAR_RATE_LIMIT = sql(
    Nothing, "DELETE FROM providers.rate_limits WHERE provider_key_id = %(key_id)s::uuid"
)


async def clear_rate_limit(tx: Tx, provider_key_id: str) -> RateLimit:
    """Raises NotFound(PROVIDER_KEY_NOT_FOUND)."""
    old = await get_rate_limit(tx, provider_key_id)
    await tx.run(CLEAR_RATE_LIMIT, key_id=provider_key_id)
    return await _changed(tx, "rate_limit.clear", old)


async def _changed(tx: Tx, action: str, old: RateLimit) -> RateLimit:
    new = await get_rate_limit(tx, old.provider_key_id)
    record(tx, action, "provider_key", new.provider_key_id, old=_facts(old), new=_facts(new))
    return new


def _facts(limit: RateLimit) -> dict[str, object]:
    return {
        "requests_per_minute": limit.requests_per_minute,
        "tokens_per_minute": limit.tokens_per_minute,
        "is_own": limit.is_own,
    }


async def add_shared_state(redis: Redis, limit: RateLimit) -> None:
    """What refusals have made of the limit; nothing while Redis is away."""
    try:
        [share] = await redis.hmget(shared_key(limit.provider_key_id, "share"), ["share"])  # type: ignore[misc]  # redis-py's types are of both its clients
        waits = await redis.hgetall(shared_key(limit.provider_key_id, "cool"))  # type: ignore[misc]  # the same
        seconds, microseconds = await redis.time()
    except (RedisError, OSError):
        return
    limit.share = float(share) if share is not None else 1.0
    left_s = max(map(int, waits.values()), default=0) / 1000 - seconds - microseconds / 1e6
    if left_s > 0:
        limit.cool_down_s = left_s
