"""Driving runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from typing import Any

import structlog

from chimera import outbox
from chimera.call import Call
from chimera.campaigns import template_use
from chimera.campaigns.engine import leasing
from chimera.campaigns.engine.drive import Drive
from chimera.campaigns.engine.opening import settle_abandoned
from chimera.campaigns.evaluation import judging
from chimera.core import Core
from chimera.db import sql
from chimera.faults import Unavailable
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
       AND r.concurrency > (SELECT count(DISTINCT s.owner) FROM campaigns.shards s
             WHERE s.run_id = r.id AND s.state = 'open' AND s.lease_until >= clock_timestamp())
       AND NOT EXISTS (SELECT FROM ops.kill_switches k WHERE k.sending_stopped
                          AND (k.org_id IS NULL OR k.org_id = r.org_id))
       AND NOT EXISTS (SELECT FROM ops.outbox o WHERE o.task = 'drive_runs'
                          AND o.args->>'run_id' = r.id::text AND o.state <> 'dead'
                          AND o.created_at > clock_timestamp() - make_interval(secs => %(quiet_s)s))
     ORDER BY r.priority DESC, r.served_at LIMIT 20
    """,
)

QUIET_S = 5.0

# The run whose turn it would be (as leasing.CLAIM has it), if nobody works on any of its shards.
FIND_WAITING = sql(
    dict,
    """
    SELECT r.id, r.org_id, r.priority
      FROM (SELECT *, max(served_at) OVER (PARTITION BY org_id) AS org_served_at
              FROM campaigns.runs WHERE state = 'running') r
     WHERE EXISTS (SELECT FROM campaigns.shards s WHERE s.run_id = r.id AND s.state = 'open')
       AND NOT EXISTS (SELECT FROM campaigns.shards s WHERE s.run_id = r.id AND s.state = 'open'
                          AND s.lease_until >= clock_timestamp())
       AND NOT EXISTS (SELECT FROM ops.kill_switches k WHERE k.sending_stopped
                          AND (k.org_id IS NULL OR k.org_id = r.org_id))
     ORDER BY r.priority DESC, r.org_served_at, r.served_at LIMIT 1
    """,
)


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


@task
async def settle_run(ctx: dict[str, Any], org_id: str | None, args: dict[str, Any]) -> None:
    """Books what lost workers had in flight for a run that is over, so that nothing stays held.

    Nobody takes its shards over any more. Unavailable as long as somebody still works on them.
    """
    core: Core = ctx["core"]
    if await settle_abandoned(core, org_id or "", args["run_id"]):
        raise Unavailable("CONFLICT_TRY_AGAIN", "Workers still have calls of this run in flight.")


@task
async def settle_template_use(
    ctx: dict[str, Any], org_id: str | None, args: dict[str, Any]
) -> None:
    """Counts what the templates of a finished run achieved."""
    core: Core = ctx["core"]
    call = Call.by_worker("settle_template_use", org_id or "", seconds=120)
    async with core.db.begin(call) as tx:
        await template_use.settle(tx, args["run_id"])


@task
async def judge_again(ctx: dict[str, Any], org_id: str | None, args: dict[str, Any]) -> None:
    """Judges the answers of a finished run with another scorer."""
    await judging.judge_again(ctx["core"], org_id or "", args["scoring_id"])


async def take_turns(core: Core, drives: dict[str, Drive]) -> None:
    """When every place is taken and a run waits that nobody works on, somebody makes room: a drive
    of lower priority, of an organisation that has two places more here than the one that waits, or
    one that has had its turn. Its job then takes up the next in fair order, and the run that made
    room waits for its own next turn."""
    if len(drives) < core.settings.drives_max or any(d.stopping for d in drives.values()):
        return
    async with core.db.begin(Call.by_worker("take_turns", seconds=5)) as tx:
        waiting = await tx.one(FIND_WAITING)
    if waiting is None:
        return
    drive = next_to_go(
        drives.values(), waiting["priority"], waiting["org_id"], turn_s=core.settings.turn_s
    )
    if drive is not None:
        log.info("drive.turn_over", run_id=drive.run_id, waiting=waiting["id"])
        drive.stop()


def next_to_go(
    drives: Collection[Drive], priority: int, org_id: str, *, turn_s: float
) -> Drive | None:
    """Which of the drives makes room for a run of this priority and organisation, if any: the lowest
    priority first, then the organisation with the most places, then the longest turn."""
    now = time.monotonic()
    places = Counter(drive.org_id for drive in drives)

    def makes_room(drive: Drive) -> bool:
        if drive.priority != priority:
            return drive.priority < priority
        is_over = now - drive.started_at >= turn_s
        return is_over or places[drive.org_id] > places[org_id] + 1

    return min(
        filter(makes_room, drives),
        key=lambda drive: (drive.priority, -places[drive.org_id], drive.started_at),
        default=None,
    )


async def sweep_runs(core: Core) -> int:
    """Rings for runs that nobody attends to: lost doorbells, lost workers, second helpers."""
    async with core.db.begin(Call.by_worker("sweep_runs", seconds=10)) as tx:
        rows = await tx.all(FIND_UNATTENDED, quiet_s=min(QUIET_S, core.settings.lease_s))
        for row in rows:
            await outbox.enqueue(tx, "drive_runs", run_id=row["id"])
    return len(rows)
