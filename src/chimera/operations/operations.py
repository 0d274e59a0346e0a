"""What the people who run an installation look at and set free.

Row-level security decides what they reach: their organisation's rows, or everyone's if they are
operators of the installation.
"""

from __future__ import annotations

from chimera import outbox
from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import Denied, NotFound, NotReady
from chimera.paging import PAGE_DEFAULT, PAGE_MAX
from chimera.rows import enum_text
from chimera.v1.operations_pb2 import (
    KillSwitch,
    ListOutboxRequest,
    ListUnknownAttemptsRequest,
    OutboxRow,
    SetKillSwitchRequest,
    Shard,
    UnknownAttempt,
)

FIND_KILL_SWITCH = sql(
    KillSwitch,
    """
    SELECT sending_stopped, reason, set_by, set_at FROM ops.kill_switches
     WHERE org_id IS NOT DISTINCT FROM %(org_id)s::uuid
    """,
)

SET_KILL_SWITCH = sql(
    Nothing,
    """
    INSERT INTO ops.kill_switches (org_id, sending_stopped, reason, set_by)
    VALUES (%(org_id)s, %(sending_stopped)s, %(reason)s, %(set_by)s)
    ON CONFLICT (org_id) DO UPDATE
       SET sending_stopped = EXCLUDED.sending_stopped, reason = EXCLUDED.reason,
           set_by = EXCLUDED.set_by, set_at = now()
    """,
)

# The first of them to go on; the workers' own sweep finds the others a little later.
LIST_RUNNING_RUNS = sql(
    str,
    """
    SELECT id FROM campaigns.runs
     WHERE state = 'running' AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s)
     ORDER BY priority DESC, served_at LIMIT 100
    """,
    prepare=False,
)

# The installation's switch comes first. Operators see all rows, so the organisation is named here.
FIND_STOP = sql(
    str,
    """
    SELECT reason FROM ops.kill_switches
     WHERE sending_stopped AND (org_id IS NULL OR org_id = %(org_id)s::uuid)
     ORDER BY org_id NULLS FIRST LIMIT 1
    """,
)


async def sending_stopped(tx: Tx) -> tuple[bool, str]:
    """Whether nothing may be sent for the caller's organisation, and the reason that was given."""
    reason = await tx.one(FIND_STOP, org_id=tx.call.caller.org_id or None)
    return reason is not None, reason or ""


async def get_kill_switches(tx: Tx) -> tuple[KillSwitch, KillSwitch]:
    """Of the caller's organisation and of the installation; one never set allows sending."""
    organisation = await tx.one(FIND_KILL_SWITCH, org_id=tx.call.caller.org_id)
    installation = await tx.one(FIND_KILL_SWITCH, org_id=None)
    return organisation or KillSwitch(), installation or KillSwitch()


async def set_kill_switch(tx: Tx, request: SetKillSwitchRequest) -> None:
    """Stops or allows sending from the next tick of each drive on.

    Raises Denied when the installation's switch is asked for by somebody who is no operator.
    """
    caller = tx.call.caller
    if request.everywhere and not caller.is_operator:
        raise Denied(
            "PERMISSION_MISSING",
            "Only operators of the installation may stop or allow sending everywhere.",
            facts={"permission": "OPERATE"},
        )
    org_id = None if request.everywhere else caller.org_id
    old = await tx.one(FIND_KILL_SWITCH, org_id=org_id) or KillSwitch()
    await tx.run(
        SET_KILL_SWITCH,
        org_id=org_id,
        sending_stopped=request.sending_stopped,
        reason=request.reason,
        set_by=caller.user_id or None,
    )
    if not request.sending_stopped:
        for run_id in await tx.all(LIST_RUNNING_RUNS, org_id=org_id):
            await outbox.enqueue(tx, "drive_runs", run_id=run_id)
    record(
        tx,
        "kill_switch.set",
        "kill_switch",
        org_id or "installation",
        old={"sending_stopped": old.sending_stopped, "reason": old.reason},
        new={"sending_stopped": request.sending_stopped, "reason": request.reason},
        severity=Severity.WARNING,
        kind=Kind.SYSTEM,
    )


# A shard that never had a worker only waits for its turn as long as its run is being worked on.
LIST_STUCK_SHARDS = sql(
    Shard,
    """
    SELECT s.run_id, s.shard_no, s.org_id, s.first_cell, s.cells, s.owner, s.fence,
           CASE WHEN isfinite(s.lease_until) THEN s.lease_until END AS lease_until
      FROM campaigns.runs r JOIN campaigns.shards s ON s.run_id = r.id
     WHERE r.state = 'running' AND s.state = 'open'
       AND s.lease_until < now() - interval '1 minute'
       AND (s.fence > 0 OR r.created_at < now() - interval '1 minute' AND NOT EXISTS (
               SELECT FROM campaigns.shards live
                WHERE live.run_id = r.id AND live.state = 'open' AND live.lease_until >= now()))
     ORDER BY s.run_id, s.shard_no LIMIT %(size)s
    """,
)

RELEASE_SHARD = sql(
    Shard,
    """
    UPDATE campaigns.shards
       SET lease_until = clock_timestamp(), fence = fence + 1
     WHERE run_id = %(run_id)s AND shard_no = %(shard_no)s AND state = 'open'
       AND lease_until < clock_timestamp()
    RETURNING run_id, shard_no, org_id, first_cell, cells, owner, fence
    """,
)

FIND_SHARD_STATE = sql(
    str,
    "SELECT state FROM campaigns.shards WHERE run_id = %(run_id)s AND shard_no = %(shard_no)s",
)


async def list_stuck_shards(tx: Tx, page_size: int) -> list[Shard]:
    return await tx.all(LIST_STUCK_SHARDS, size=_size(page_size))


async def release_shard(tx: Tx, run_id: str, shard_no: int) -> Shard:
    """Shuts the last owner out and rings for a worker.

    Raises NotFound; NotReady(SHARD_NOT_STUCK) for a shard that is done or whose lease is live.
    """
    shard = await tx.one(RELEASE_SHARD, run_id=run_id, shard_no=shard_no)
    if shard is None:
        state = await tx.one(FIND_SHARD_STATE, run_id=run_id, shard_no=shard_no)
        if state is None:
            raise NotFound("SHARD_NOT_FOUND", "There is no such shard.")
        why = "it is done" if state == "done" else "a worker holds it; wait until its lease ends"
        raise NotReady("SHARD_NOT_STUCK", f"The shard is not stuck: {why}.")
    await outbox.enqueue(tx, "drive_runs", run_id=run_id)
    record(
        tx,
        "shard.release",
        "shard",
        f"{run_id}:{shard_no}",
        old={"fence": shard.fence - 1},
        new={"fence": shard.fence},
        severity=Severity.NOTICE,
        kind=Kind.SYSTEM,
    )
    return shard


LIST_UNKNOWN_ATTEMPTS = sql(
    UnknownAttempt,
    """
    SELECT run_id, cell_no, attempt_no, org_id, worst_cost AS worst_cost_usd, sent_at
      FROM campaigns.attempts
     WHERE state = 'unknown' AND (%(run_id)s::uuid IS NULL OR run_id = %(run_id)s)
     ORDER BY run_id DESC, cell_no DESC, attempt_no DESC LIMIT %(size)s
    """,
    prepare=False,
)


async def list_unknown_attempts(
    tx: Tx, request: ListUnknownAttemptsRequest
) -> list[UnknownAttempt]:
    """The newest runs first."""
    return await tx.all(
        LIST_UNKNOWN_ATTEMPTS, run_id=request.run_id or None, size=_size(request.page_size)
    )


LIST_OUTBOX = sql(
    OutboxRow,
    """
    SELECT id, task, args, state, rings, last_error, created_at, due_at FROM ops.outbox
     WHERE %(state)s::text IS NULL OR state = %(state)s
     ORDER BY id LIMIT %(size)s
    """,
    prepare=False,
)

RETRY_OUTBOX = sql(
    OutboxRow,
    """
    UPDATE ops.outbox SET state = 'waiting', rings = 0, due_at = now()
     WHERE id = %(outbox_id)s AND state = 'dead'
    RETURNING id, task, args, state, rings, last_error, created_at, due_at
    """,
)


async def list_outbox(tx: Tx, request: ListOutboxRequest) -> list[OutboxRow]:
    """The oldest first."""
    state = enum_text(request, "state", request.state)
    return await tx.all(LIST_OUTBOX, state=state, size=_size(request.page_size))


async def retry_outbox(tx: Tx, outbox_id: str) -> OutboxRow:
    """Raises NotFound unless it is a dead letter."""
    row = await tx.one(RETRY_OUTBOX, outbox_id=outbox_id)
    if row is None:
        raise NotFound("OUTBOX_ROW_NOT_FOUND", "There is no dead letter with this id.")
    tx.doorbells = True
    record(
        tx,
        "outbox.retry",
        "outbox_row",
        outbox_id,
        old={"state": "dead"},
        new={"state": "waiting", "task": row.task},
        severity=Severity.NOTICE,
        kind=Kind.SYSTEM,
    )
    return row


def _size(page_size: int) -> int:
    return min(page_size or PAGE_DEFAULT, PAGE_MAX)
