"""Driving runs."""

from __future__ import annotations

from typing import Any

import structlog

from chimera import outbox
from chimera.call import Call
from chimera.campaigns.engine import leasing
from chimera.campaigns.engine.drive import Drive
from chimera.core import Core
from chimera.db import sql
from chimera.ids import new_id
from workers.tasks import task

log = structlog.get_logger("chimera.drive")

# Runs with a shard that nobody holds and for which no doorbell is on its way.
FIND_UNATTENDED = sql(
    dict,
    """
    SELECT r.id, r.org_id FROM campaigns.runs r
     WHERE r.state = 'running'
       AND EXISTS (SELECT FROM campaigns.shards s WHERE s.run_id = r.id AND s.state = 'open'
                      AND s.lease_until < clock_timestamp())
       AND NOT EXISTS (SELECT FROM ops.kill_switches k WHERE k.sending_stopped
                          AND (k.org_id IS NULL OR k.org_id = r.org_id))
       AND NOT EXISTS (SELECT FROM ops.outbox o WHERE o.task = 'drive_runs'
                          AND o.args->>'run_id' = r.id::text AND o.state <> 'dead'
                          AND o.created_at > clock_timestamp() - make_interval(secs => %(quiet_s)s))
     ORDER BY r.priority DESC, r.served_at LIMIT 20
    """,
)

QUIET_S = 5.0


@task
async def drive_runs(ctx: dict[str, Any], _org_id: str | None, _args: dict[str, Any]) -> None:
    """Takes up runs in fair order until there is none left for this process.

    The job is a wake-up: which run it drives is decided by the database, not by who rang.
    """
    core: Core = ctx["core"]
    drives: dict[str, Drive] = ctx["drives"]
    while not ctx["stopping"].is_set() and len(drives) < core.settings.drives_max:
        owner = new_id()
        lease = await leasing.claim(
            core.db, owner=owner, lease_s=core.settings.lease_s, driven=list(drives)
        )
        if lease is None:
            return
        if lease.run_id in drives:  # claimed by a sibling job between the two statements
            await leasing.release(core.db, lease.org_id, owner, [lease])
            return
        drive = drives[lease.run_id] = Drive(core, ctx["session"], owner, lease)
        log.info("drive.started", run_id=lease.run_id, shard_no=lease.shard_no)
        try:
            await drive.run()
        finally:
            drives.pop(lease.run_id, None)
        log.info("drive.ended", run_id=lease.run_id)


async def sweep_runs(core: Core) -> int:
    """Rings for runs that nobody attends to: lost doorbells, lost workers, second helpers."""
    async with core.db.begin(Call.by_worker("sweep_runs", seconds=10)) as tx:
        rows = await tx.all(FIND_UNATTENDED, quiet_s=QUIET_S)
        for row in rows:
            await outbox.enqueue(tx, "drive_runs", run_id=row["id"])
    return len(rows)
