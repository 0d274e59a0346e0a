"""The recovery ceremony: after the restore of a backup the signer refuses, until people who answer
for it say that this was no rollback by stealth. Their statement is signed and becomes an event."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from chimera.audit.leaf import Kind, Severity
from chimera.audit.operations import LOG_SIZE, LogDamaged, read_frontier
from chimera.audit.recording import record
from chimera.audit.signing_home import load_signer
from chimera.call import Call
from chimera.core import Core


async def accept_restore(core: Core, *, reason: str, approved_by: Sequence[str]) -> str:
    """Lets the signer go on from the log as it is in the database now; returns the signed statement
    (from, to, when, who, why), to be published to whoever kept a newer checkpoint.

    core: of the role worker, on the host with the signer's folder. reason: one line. approved_by:
    names without commas, at least one. The signer keeps the statement before it is recorded here.
    Raises SigningRefused, also when the log is what was signed last; NoteError and OSError when the
    folder cannot be read; LogDamaged.
    """
    signer = await asyncio.to_thread(load_signer, core.settings)
    async with core.db.begin(Call.by_worker("audit.restore")) as tx:
        size = await tx.one(LOG_SIZE)
        if size is None:
            raise LogDamaged("the head of the audit log is missing")
        root = (await read_frontier(tx, size)).root
        statement, _checkpoint = await asyncio.to_thread(
            lambda: signer.accept_restore(
                size, root, reason=reason, approved_by=approved_by, at=datetime.now(UTC)
            )
        )
        record(
            tx,
            "audit.restore",
            "audit_log",
            str(size),
            new={"statement": str(statement)},
            severity=Severity.CRITICAL,
            kind=Kind.SECURITY,
        )
    return str(statement)
