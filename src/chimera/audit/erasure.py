"""Erasing a person from the log: the values behind commitments go, the leaves and every proof stay.

Taken out are the opened values (addresses, reasons, old and new values) with their salts, of events the
person did and of events about the person. What remains in the clear are ids, which name nobody once the
person's own row is anonymised. Without the salt nothing can be guessed from a commitment.

A backup still holds what it held: one that is restored brings the values back, and the erasures after
it have to be asked for again.
"""

from __future__ import annotations

from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.ids import new_id

BATCH = 500

INSERT_ERASURE = sql(
    Nothing, "INSERT INTO audit.erasures (id, subject_id) VALUES (%(id)s, %(subject_id)s)"
)


async def erase_subject(tx: Tx, user_id: str) -> None:
    """Asks for the person's values to be erased from the log; the worker does it after the commit.
    Part of whatever transaction erases the person elsewhere, which is then recorded as well."""
    await tx.run(INSERT_ERASURE, id=new_id(), subject_id=user_id)
    record(tx, "audit.erase", "user", user_id, severity=Severity.NOTICE, kind=Kind.DATA)


# An event takes a while from its commit into the log; what comes late is erased too.
LIST_OPEN = sql(
    dict,
    """
    SELECT id, subject_id, created_at < now() - interval '10 minutes' AS is_settled
      FROM audit.erasures WHERE state = 'open' ORDER BY id LIMIT 100
    """,
)
ERASE_EVENTS = sql(int, "SELECT audit.erase_events(%(subject_id)s::uuid, %(batch)s)")
COUNT_ERASED = sql(
    Nothing, "UPDATE audit.erasures SET events = events + %(events)s WHERE id = %(id)s"
)
FINISH_ERASURE = sql(
    Nothing, "UPDATE audit.erasures SET state = 'done', done_at = now() WHERE id = %(id)s"
)


async def erase_asked(core: Core) -> int:
    """Erases what was asked for, batch by batch; returns of how many events. core: of the role worker.
    Safe to run twice, and after a crash it goes on."""
    call = Call.by_worker("audit.erase", seconds=300)
    async with core.db.begin(call) as tx:
        erasures = await tx.all(LIST_OPEN)
    erased = 0
    for erasure in erasures:
        while True:
            async with core.db.begin(call) as tx:
                count = (
                    await tx.one(ERASE_EVENTS, subject_id=erasure["subject_id"], batch=BATCH) or 0
                )
                if count:
                    await tx.run(COUNT_ERASED, id=erasure["id"], events=count)
                elif erasure["is_settled"]:
                    await tx.run(FINISH_ERASURE, id=erasure["id"])
            erased += count
            if not count:
                break
    return erased
