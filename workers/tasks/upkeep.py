"""What keeps the installation tidy."""

from __future__ import annotations

from typing import Any

from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, sql
from chimera.identity.usage import flush_key_usage
from chimera.telemetry.drain import upkeep as drop_telemetry_partitions

MAKE_PARTITIONS = sql(int, "SELECT ops.make_partitions()")

PURGE_ANSWERS = sql(
    Nothing, "DELETE FROM ops.idempotency WHERE created_at < now() - interval '24 hours'"
)

PURGE_REFRESH_TOKENS = sql(
    Nothing, "DELETE FROM identity.refresh_tokens WHERE expires_at < now() - interval '1 day'"
)

# Sessions stay for a month after their end, for those who ask who was there.
PURGE_SESSIONS = sql(
    Nothing,
    "DELETE FROM identity.sessions WHERE absolute_expires_at < now() - interval '30 days'",
)


async def flush_usage(ctx: dict[str, Any]) -> None:
    """Counters from Redis into the tables."""
    await flush_key_usage(ctx["core"])


async def keep_partitions(ctx: dict[str, Any]) -> None:
    """Makes partitions ahead of time and drops those whose time is over."""
    core: Core = ctx["core"]
    async with core.db.begin(Call.by_worker("keep_partitions")) as tx:
        await tx.one(MAKE_PARTITIONS)
    await drop_telemetry_partitions(core)


async def purge_expired(ctx: dict[str, Any]) -> None:
    """Answers to request ids after a day, refresh tokens and sessions after their end."""
    core: Core = ctx["core"]
    async with core.db.begin(Call.by_worker("purge_expired")) as tx:
        await tx.run(PURGE_ANSWERS)
        await tx.run(PURGE_REFRESH_TOKENS)
        await tx.run(PURGE_SESSIONS)
