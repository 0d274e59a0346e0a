"""The recovery ceremony: after the restore of a backup the signer refuses, until people who answer
for it say that this was no rollback by stealth. Their statement is signed and becomes an event.

Operators propose and approve it over the API, which may be on another host; the sealer, which has the
signer, carries it out the next time it is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from chimera.audit.leaf import Kind, Severity
from chimera.audit.operations import LOG_SIZE, LogDamaged, read_frontier
from chimera.audit.recording import record
from chimera.audit.signer import GuardedSigner
from chimera.audit.signing_home import load_signer
from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.faults import Denied, NotFound, NotReady
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.v1.audit_pb2 import (
    ListLogRestoresRequest,
    LogRestore,
    ProposeLogRestoreRequest,
)

LIST_LOG_RESTORES = sql(
    LogRestore,
    """
    SELECT id, state, reason, approvals_needed, proposed_by, approved_by, statement, created_at,
           done_at
      FROM audit.restores
     WHERE (%(after)s::uuid IS NULL OR id < %(after)s)
     ORDER BY id DESC LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_log_restores(
    tx: Tx, pages: Pages, request: ListLogRestoresRequest
) -> tuple[list[LogRestore], str]:
    """A page, newest first, and the token of the next one."""
    size, after = pages.page(request)
    rows = await tx.all(LIST_LOG_RESTORES, after=after[0] if after else None, limit=size + 1)
    return rows[:size], pages.next_token(request, rows, size, "id")


FIND_NAME = sql(str, "SELECT username FROM identity.users WHERE id = %(user_id)s")

PROPOSE_LOG_RESTORE = sql(
    LogRestore,
    """
    INSERT INTO audit.restores (id, state, reason, approvals_needed, proposed_by, names)
    VALUES (%(id)s, %(state)s, %(reason)s, %(needed)s, %(user_id)s, ARRAY[%(name)s::text])
    ON CONFLICT DO NOTHING
    RETURNING id, state, reason, approvals_needed, proposed_by, created_at
    """,
)


async def propose_log_restore(
    tx: Tx, request: ProposeLogRestoreRequest, operators: int
) -> LogRestore:
    """operators: how many have to answer for it, 1 or 2. Raises NotReady(LOG_RESTORE_OPEN)."""
    reason = " ".join(request.reason.split())
    restore = await tx.one(
        PROPOSE_LOG_RESTORE,
        id=new_id(),
        state="approved" if operators == 1 else "proposed",
        reason=reason,
        needed=operators,
        user_id=tx.call.caller.user_id,
        name=await _name(tx),
    )
    if restore is None:
        raise NotReady(
            "LOG_RESTORE_OPEN", "Another restore is proposed and not carried out; approve that one."
        )
    record(
        tx, "log_restore.propose", "log_restore", restore.id,
        new={"reason": reason, "approvals_needed": operators},
        severity=Severity.CRITICAL, kind=Kind.SECURITY,
    )  # fmt: skip
    return restore


async def _name(tx: Tx) -> str:
    """As it stands in the statement: a name people know and the id behind it."""
    user_id = tx.call.caller.user_id
    name = await tx.one(FIND_NAME, user_id=user_id) or "operator"
    return f"{name.replace(',', ' ')} ({user_id})"


APPROVE_LOG_RESTORE = sql(
    LogRestore,
    """
    UPDATE audit.restores
       SET state = 'approved', approved_by = %(user_id)s, names = names || %(name)s::text
     WHERE id = %(id)s AND state = 'proposed' AND proposed_by <> %(user_id)s::uuid
    RETURNING id, state, reason, approvals_needed, proposed_by, approved_by, created_at
    """,
)
FIND_LOG_RESTORE = sql(dict, "SELECT state, proposed_by FROM audit.restores WHERE id = %(id)s")


async def approve_log_restore(tx: Tx, restore_id: str) -> LogRestore:
    """By another operator than who proposed it. Raises NotFound(LOG_RESTORE_NOT_FOUND),
    NotReady(LOG_RESTORE_NOT_OPEN), Denied(LOG_RESTORE_IS_OWN)."""
    user_id = tx.call.caller.user_id
    restore = await tx.one(
        APPROVE_LOG_RESTORE, id=restore_id, user_id=user_id, name=await _name(tx)
    )
    if restore is None:
        found = await tx.one(FIND_LOG_RESTORE, id=restore_id)
        if found is None:
            raise NotFound("LOG_RESTORE_NOT_FOUND", f"There is no log restore {restore_id}.")
        if found["state"] != "proposed":
            raise NotReady("LOG_RESTORE_NOT_OPEN", f"It is {found['state']} already.")
        raise Denied("LOG_RESTORE_IS_OWN", "Another operator has to approve what you proposed.")
    record(
        tx, "log_restore.approve", "log_restore", restore_id,
        new={"state": "approved"}, severity=Severity.CRITICAL, kind=Kind.SECURITY,
    )  # fmt: skip
    return restore


# --- carrying it out --------------------------------------------------------------------------------

CLAIM_APPROVED = sql(
    dict,
    "SELECT id, reason, names FROM audit.restores WHERE state = 'approved' FOR UPDATE SKIP LOCKED",
)
FINISH_RESTORE = sql(
    Nothing,
    """
    UPDATE audit.restores SET state = 'done', statement = %(signed)s, done_at = now()
     WHERE id = %(id)s
    """,
)


async def carry_out_restore(core: Core, signer: GuardedSigner, *, only_left: bool = False) -> bool:
    """Lets the signer go on from the log as it is in the database, if operators have answered for
    that; whether it did.

    core: of the role sealer. The signer keeps the statement before it is recorded here.
    only_left: only what a crash in between left undone.
    """
    async with core.db.begin(Call.by_worker("audit.restore")) as tx:
        approved = await tx.one(CLAIM_APPROVED)
        if approved is None:
            return False
        statement = await _left_by_a_crash(tx, signer, approved)
        if statement is None and only_left:
            return False
        if statement is None:
            statement = await _accept(tx, signer, approved["reason"], approved["names"])
        else:
            _record(tx, str(await tx.one(LOG_SIZE)), statement)
        await tx.run(FINISH_RESTORE, id=approved["id"], signed=statement)
    return True


async def accept_restore(core: Core, *, reason: str, approved_by: Sequence[str]) -> str:
    """As `carry_out_restore`, on the host with the signer's folder and without anybody's proposal;
    returns the signed statement (from, to, when, who, why), to be published to whoever kept a newer
    checkpoint.

    core: of the role worker. reason: one line. approved_by: names without commas, at least one.
    Raises SigningRefused, also when the log is what was signed last; NoteError and OSError when the
    folder cannot be read; LogDamaged.
    """
    signer = await asyncio.to_thread(load_signer, core.settings)
    async with core.db.begin(Call.by_worker("audit.restore")) as tx:
        return await _accept(tx, signer, reason, approved_by)


async def _accept(tx: Tx, signer: GuardedSigner, reason: str, approved_by: Sequence[str]) -> str:
    size = await tx.one(LOG_SIZE)
    if size is None:
        raise LogDamaged("the head of the audit log is missing")
    root = (await read_frontier(tx, size)).root
    statement, _checkpoint = await asyncio.to_thread(
        lambda: signer.accept_restore(
            size, root, reason=reason, approved_by=approved_by, at=datetime.now(UTC)
        )
    )
    _record(tx, str(size), str(statement))
    return str(statement)


def _record(tx: Tx, size: str, statement: str) -> None:
    record(
        tx,
        "audit.restore",
        "audit_log",
        size,
        new={"statement": statement},
        severity=Severity.CRITICAL,
        kind=Kind.SECURITY,
    )


FIND_STATEMENT = sql(bool, "SELECT true FROM audit.restores WHERE statement = %(signed)s LIMIT 1")


async def _left_by_a_crash(
    tx: Tx, signer: GuardedSigner, approved: Mapping[str, Any]
) -> str | None:
    """The statement of this restore, when the signer made it and the database never learned of it."""
    ending = f"approved-by {','.join(approved['names'])}\nreason {approved['reason']}\n\n"
    for statement in await asyncio.to_thread(signer.restores):
        if ending in statement and not await tx.one(FIND_STATEMENT, signed=statement):
            return statement
    return None
