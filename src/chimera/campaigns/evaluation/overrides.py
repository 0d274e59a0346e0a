"""Verdicts of people, beside those of the machine. Nothing is overwritten: a new one withdraws the
standing one, and both stay."""

from __future__ import annotations

from chimera.audit import recording
from chimera.campaigns.runs import check_run_level, get_run, refuse_judging
from chimera.db import Tx, sql
from chimera.faults import NotFound
from chimera.ids import new_id
from chimera.v1.evaluation_pb2 import Override, OverrideVerdictRequest

FIND_RECORDED = sql(
    dict,
    """
    SELECT is_successful FROM campaigns.executions
     WHERE run_id = %(run_id)s AND cell_no = %(cell_no)s
    """,
)

WITHDRAW_OVERRIDE = sql(
    Override,
    """
    UPDATE campaigns.overrides SET withdrawn_at = now()
     WHERE run_id = %(run_id)s AND cell_no = %(cell_no)s AND withdrawn_at IS NULL
    RETURNING id, run_id, cell_no, is_successful, reason, recorded_is_successful, created_by,
              created_at, withdrawn_at
    """,
)

# One standing override a cell: people who judge the same cell at once take turns.
LOCK_CELL = sql(dict, "SELECT pg_advisory_xact_lock(hashtextextended(%(cell)s, 0))::text AS locked")

CREATE_OVERRIDE = sql(
    Override,
    """
    INSERT INTO campaigns.overrides
        (id, org_id, run_id, cell_no, is_successful, reason, recorded_is_successful, created_by)
    VALUES (%(id)s, %(org_id)s, %(run_id)s, %(cell_no)s, %(is_successful)s, %(reason)s,
            %(recorded)s, %(user_id)s)
    RETURNING id, run_id, cell_no, is_successful, reason, recorded_is_successful, created_by, created_at
    """,
)

LIST_OVERRIDES = sql(
    Override,
    """
    SELECT id, run_id, cell_no, is_successful, reason, recorded_is_successful, created_by,
           created_at, withdrawn_at
      FROM campaigns.overrides
     WHERE run_id = %(run_id)s
       AND (%(after)s::uuid IS NULL OR id < %(after)s)
       AND (%(show_withdrawn)s OR withdrawn_at IS NULL)
     ORDER BY id DESC LIMIT %(limit)s
    """,
    prepare=False,
)


async def override_verdict(tx: Tx, request: OverrideVerdictRequest) -> Override:
    """Raises NotFound (RUN_NOT_FOUND, EXECUTION_NOT_FOUND), Denied(CAMPAIGN_LEVEL_TOO_LOW)."""
    run_id, cell_no = request.run_id, request.cell_no
    refuse_judging(await check_run_level(tx, run_id, "edit"))
    recorded = await tx.one(FIND_RECORDED, run_id=run_id, cell_no=cell_no)
    if recorded is None:
        raise NotFound("EXECUTION_NOT_FOUND", "This cell has no result (yet).")
    await tx.one(LOCK_CELL, cell=f"override/{run_id}/{cell_no}")
    before = await tx.one(WITHDRAW_OVERRIDE, run_id=run_id, cell_no=cell_no)
    made = await tx.one(
        CREATE_OVERRIDE,
        id=new_id(),
        org_id=tx.call.caller.org_id,
        user_id=tx.call.caller.user_id,
        run_id=run_id,
        cell_no=cell_no,
        is_successful=request.is_successful,
        reason=request.reason,
        recorded=recorded["is_successful"],
    )
    assert made is not None
    recording.record(
        tx,
        "execution.override",
        "run",
        run_id,
        old={"cell_no": cell_no, "is_successful": before.is_successful if before else None},
        new={"cell_no": cell_no, "is_successful": made.is_successful, "override_id": made.id},
    )
    return made


async def withdraw_override(tx: Tx, run_id: str, cell_no: int) -> Override:
    """Raises NotFound (RUN_NOT_FOUND, OVERRIDE_NOT_FOUND), Denied(CAMPAIGN_LEVEL_TOO_LOW)."""
    await check_run_level(tx, run_id, "edit")
    withdrawn = await tx.one(WITHDRAW_OVERRIDE, run_id=run_id, cell_no=cell_no)
    if withdrawn is None:
        raise NotFound("OVERRIDE_NOT_FOUND", "Nobody's verdict stands on this cell.")
    recording.record(
        tx,
        "execution.withdraw_override",
        "run",
        run_id,
        old={"cell_no": cell_no, "is_successful": withdrawn.is_successful},
        new={"cell_no": cell_no, "is_successful": None, "override_id": withdrawn.id},
    )
    return withdrawn


async def list_overrides(
    tx: Tx, run_id: str, *, show_withdrawn: bool, after: str | None, limit: int
) -> list[Override]:
    """Newest first. Raises NotFound(RUN_NOT_FOUND)."""
    await get_run(tx, run_id)
    return await tx.all(
        LIST_OVERRIDES, run_id=run_id, show_withdrawn=show_withdrawn, after=after, limit=limit
    )
