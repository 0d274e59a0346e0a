"""What runs when, and why that often.

Sealing, draining, relaying and sweeping come more often than arq's cron can tick and must go on while
Redis is away; they are loops of the worker process (main.py), held by fenced leases.
"""

from __future__ import annotations

from typing import Any

from arq import cron
from arq.cron import CronJob

from workers.tasks import accounting, audit, identity, providers, schedules, telemetry, upkeep


def cron_jobs() -> list[CronJob]:
    """Every periodic job of the upkeep queue."""
    seconds: dict[str, Any] = {"second": 0, "run_at_startup": False, "keep_result": 0}
    return [
        # API keys' counters and sessions' last activity: a minute may be lost, no more.
        cron(upkeep.flush_usage, **seconds),
        # Analytics follow the results within two minutes.
        cron(upkeep.collect_windows, second=40, keep_result=0),
        # So late may a scheduled campaign be.
        cron(schedules.launch_scheduled, second=set(range(5, 60, 10)), keep_result=0),
        # Partitions are made two steps ahead; an hour's look is plenty and costs nothing.
        cron(upkeep.keep_partitions, minute=7, second=30, run_at_startup=True, keep_result=0),
        # Reports add what came since, so this may be late.
        cron(accounting.aggregate_usage, second=20, keep_result=0),
        # Reads a month of the ledger.
        cron(accounting.reconcile_usage, hour=3, minute=41, second=0, keep_result=0, timeout=3600),
        # A drop takes several looks: its event has to be sealed in between.
        cron(audit.keep_months, minute={17, 27, 37}, second=45, timeout=3600, keep_result=0),
        cron(audit.erase_people, second=20, timeout=600, keep_result=0),
        cron(audit.expire_proposals, second=40, keep_result=0),
        # What dashboards show of each person; five minutes old at most.
        cron(
            telemetry.refresh_user_summaries,
            minute=set(range(2, 60, 5)),
            second=45,
            keep_result=0,
        ),
        cron(telemetry.purge_receipts, minute=41, second=10, keep_result=0),
        # Signing keys last for weeks; an hour more or less does not matter.
        cron(upkeep.rotate_signing_key, minute=41, second=10, keep_result=0),
        # A day's answers to request ids.
        cron(upkeep.purge_expired, minute=23, second=15, keep_result=0),
        cron(identity.purge_accounts, minute=31, second=15, keep_result=0),
        # The time of grace is in days, so an hour more or less is nothing.
        cron(identity.erase_people, minute=41, second=15, keep_result=0),
        # Dates on which people want to replace a key of theirs: to the day is enough.
        cron(providers.remind_of_keys, minute=41, second=20, keep_result=0),
    ]
