"""What keeps the installation tidy."""

from __future__ import annotations

from typing import Any

import structlog

from chimera import metrics
from chimera.accounting.retention import purge_accounting
from chimera.call import Call
from chimera.campaigns.analytics.collecting import collect
from chimera.core import Core
from chimera.db import Nothing, sql
from chimera.federation.flow import purge_sign_ins
from chimera.identity.signing_keys import destroy_retired, rotate_when_due
from chimera.identity.usage import flush_key_usage
from chimera.providers.health import purge_health
from chimera.telemetry.drain import upkeep as drop_telemetry_partitions

log = structlog.get_logger("chimera.upkeep")

MAKE_PARTITIONS = sql(dict, "SELECT made, refused FROM ops.make_partitions()")

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


async def rotate_signing_key(ctx: dict[str, Any]) -> None:
    """A new key for access tokens when the newest is old enough; private parts that nothing needs
    any more are destroyed."""
    if await rotate_when_due(ctx["core"]):
        log.info("upkeep.signing_key_rotated")
    await destroy_retired(ctx["core"])


async def collect_windows(ctx: dict[str, Any]) -> None:
    """Newly recorded results into the hourly figures of their campaigns."""
    await collect(ctx["core"])


async def keep_partitions(ctx: dict[str, Any]) -> None:
    """Makes partitions ahead of time and drops those whose time is over.

    Nothing is lost when one cannot be made: its rows are in the default partition. But they must be
    moved by hand before it can be, so that is an alarm.
    """
    core: Core = ctx["core"]
    async with core.db.begin(Call.by_worker("keep_partitions")) as tx:
        done = await tx.one(MAKE_PARTITIONS)
    refused = done["refused"] if done else []
    metrics.PARTITIONS_REFUSED.set(len(refused))
    if refused:
        log.error("upkeep.partitions_refused", partitions=refused)
    await drop_telemetry_partitions(core)


async def purge_expired(ctx: dict[str, Any]) -> None:
    """Answers to request ids after a day, refresh tokens and sessions after their end; health, windows
    of budgets and webhook deliveries when nobody asks for them any more."""
    core: Core = ctx["core"]
    async with core.db.begin(Call.by_worker("purge_expired")) as tx:
        await tx.run(PURGE_ANSWERS)
        await tx.run(PURGE_REFRESH_TOKENS)
        await tx.run(PURGE_SESSIONS)
        await purge_accounting(tx)
        await purge_health(tx)
    await purge_sign_ins(core)
