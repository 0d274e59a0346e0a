"""Erasing a person from the log: the values behind commitments go, the leaves and every proof stay.

Taken out are the opened values (addresses, reasons, old and new values) with their salts, of events the
person did and of events about the person. What remains in the clear are ids, which name nobody once the
person's own row is anonymised. Without the salt nothing can be guessed from a commitment. Archives of
dropped months are rewritten without them.

A backup still holds what it held: one that is restored brings the values back, and the erasures after
it have to be asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from chimera.audit.archives import archive_folder, erase_from_archive
from chimera.audit.drops import LOCK_ARCHIVES
from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.ids import new_id

log = structlog.get_logger("chimera.audit")

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
    SELECT id::text AS id, subject_id, created_at < now() - interval '10 minutes' AS is_settled
      FROM audit.erasures WHERE state = 'open' ORDER BY id LIMIT 100
    """,
)
ERASE_EVENTS = sql(int, "SELECT audit.erase_events(%(subject_id)s::uuid, %(batch)s)")
COUNT_ERASED = sql(
    Nothing, "UPDATE audit.erasures SET events = events + %(events)s WHERE id = %(id)s"
)


async def erase_asked(core: Core) -> int:
    """Erases what was asked for, batch by batch; returns of how many events. core: of the role worker.
    Safe to run twice, and after a crash it goes on."""
    call = Call.by_worker("audit.erase", seconds=300)
    async with core.db.begin(call) as tx:
        erasures = await tx.all(LIST_OPEN)
    erased = 0
    for erasure in erasures:
        while count := await _erase_events(core, call, erasure):
            erased += count
    settled = [erasure["id"] for erasure in erasures if erasure["is_settled"]]
    if settled:
        await _erase_from_archives(core, call, settled)
    return erased


async def _erase_events(core: Core, call: Call, erasure: Mapping[str, Any]) -> int:
    async with core.db.begin(call) as tx:
        count = await tx.one(ERASE_EVENTS, subject_id=erasure["subject_id"], batch=BATCH) or 0
        if count:
            await tx.run(COUNT_ERASED, id=erasure["id"], events=count)
    return count


# --- out of the archives --------------------------------------------------------------------------

NEXT_ARCHIVE = sql(
    dict,
    """
    SELECT d.partition_name AS name, d.archive_file, array_agg(e.subject_id::text) AS subject_ids
      FROM audit.drops d JOIN audit.erasures e ON e.archives_through < d.partition_name
     WHERE e.id = ANY(%(ids)s::uuid[])
     GROUP BY d.partition_name ORDER BY d.partition_name LIMIT 1
    """,
)
UPDATE_DIGEST = sql(
    Nothing,
    "UPDATE audit.drops SET archive_sha256 = %(digest)s WHERE partition_name = %(name)s",
)
PASS_ARCHIVE = sql(
    Nothing,
    """
    UPDATE audit.erasures SET archives_through = %(name)s
     WHERE id = ANY(%(ids)s::uuid[]) AND archives_through < %(name)s
    """,
)
# Under the lock: an archive is known by now, or will find that this was done while it was written.
FINISH_ERASURES = sql(
    Nothing,
    """
    UPDATE audit.erasures e SET state = 'done', done_at = clock_timestamp()
     WHERE id = ANY(%(ids)s::uuid[])
       AND NOT EXISTS (SELECT FROM audit.drops d WHERE d.partition_name > e.archives_through)
    """,
)


async def _erase_from_archives(core: Core, call: Call, ids: Sequence[str]) -> None:
    """One archive after the other, for all these erasures at once, and then they are done."""
    while True:
        async with core.db.begin(call) as tx:
            archive = await tx.one(NEXT_ARCHIVE, ids=ids)
        if archive is None:
            break
        path = archive_folder(core.settings) / archive["archive_file"]
        digest = None
        try:
            digest = await asyncio.to_thread(erase_from_archive, path, archive["subject_ids"])
        except FileNotFoundError:
            # Whoever moved it has to erase there as well.
            log.warning("audit.archive_not_erased", file=archive["archive_file"],
                        subject_ids=archive["subject_ids"])  # fmt: skip
        async with core.db.begin(call) as tx:
            if digest is not None:
                await tx.run(UPDATE_DIGEST, name=archive["name"], digest=digest)
            await tx.run(PASS_ARCHIVE, ids=ids, name=archive["name"])
    async with core.db.begin(call) as tx:
        await tx.run(LOCK_ARCHIVES)
        await tx.run(FINISH_ERASURES, ids=ids)
