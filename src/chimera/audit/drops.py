"""Months whose time is over: archived, their drop recorded as an event, then dropped. Proofs stay.

What must stay true:
- A month goes only after an archive of it was written and verified by the offline verifier, and after
  the event that says so is sealed, signed, and cosigned as the witness policy asks.
- Only the role upkeep may drop, through audit.drop_partition, which checks retention and holds itself.
- Months go in their order, so that the record of a drop can name all dropped leaves as one range.

Each step is remembered in audit.drops; whatever crashes, the next run goes on.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import structlog

from chimera.audit.archives import archive_folder, draft_of, settle
from chimera.audit.bundle import Header, SignedCheckpoint, Tombstone, encode_line, open_bundle
from chimera.audit.export import READ_LEAVES, line_of
from chimera.audit.leaf import DROP_ACTION, DROP_ENTITY, Kind, Severity
from chimera.audit.note import Checkpoint, Note, VerifierKey
from chimera.audit.operations import LogDamaged, find_checkpoint, read_frontier
from chimera.audit.policy import Policy
from chimera.audit.recording import record
from chimera.audit.report import Report, Verdict
from chimera.audit.verify import verify_bundle
from chimera.call import Call
from chimera.core import Core, open_database
from chimera.db import Nothing, sql
from chimera.pools import Database

log = structlog.get_logger("chimera.audit")

PAGE_LEAVES = 2000

LIST_MONTHS = sql(
    dict,
    """
    SELECT c.oid::regclass::text AS name,
           substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \\(''([0-9a-f-]{36})''\\)') AS low,
           substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \\(''([0-9a-f-]{36})''\\)') AS high
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'audit.events'::regclass
       AND pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'
     ORDER BY 1
    """,
)
IS_OVER = sql(
    bool, "SELECT audit.keep_until(%(name)s::text::regclass, %(days)s) <= clock_timestamp()"
)
MEASURE_MONTH = sql(
    dict,
    """
    SELECT count(*) AS events, min(log_index) AS first_index, max(log_index) AS last_index
      FROM audit.events WHERE id >= %(low)s::uuid AND id < %(high)s::uuid
    """,
)
FIND_DROP = sql(
    dict,
    """
    SELECT partition_name, first_index, last_index, state, event_id::text AS event_id
      FROM audit.drops WHERE partition_name = %(name)s
    """,
)
LAST_ARCHIVED = sql(
    dict,
    """
    SELECT COALESCE(max(archive_size), 0) AS size, clock_timestamp()::text AS began FROM audit.drops
    """,
)
FIRST_DROPPED = sql(int, "SELECT COALESCE(min(first_index), 0) FROM audit.drops")
CHECKPOINT_FROM = sql(
    dict,
    """
    SELECT c.size, c.verifier_key,
           c.note || COALESCE((SELECT string_agg(s.line, '' ORDER BY s.verifier_key)
                                 FROM audit.cosignatures s WHERE s.size = c.size), '') AS note
      FROM audit.checkpoints c WHERE c.size >= %(size)s ORDER BY c.size LIMIT 1
    """,
)
# Not if somebody was erased for good while the archive was written: it may still hold what they said.
# Erasing takes the same lock before it is done.
LOCK_ARCHIVES = sql(Nothing, "SELECT pg_advisory_xact_lock(hashtext('audit.archives'))")
INSERT_DROP = sql(
    Nothing,
    """
    INSERT INTO audit.drops (partition_name, first_index, last_index, events, state, archive_first,
                             archive_size, archive_file, archive_sha256)
    SELECT %(name)s, %(first_index)s, %(last_index)s, %(events)s, 'archived', %(archive_first)s,
           %(archive_size)s, %(archive_file)s, %(archive_sha256)s
     WHERE NOT EXISTS (SELECT FROM audit.erasures WHERE done_at > %(began)s::timestamptz)
    ON CONFLICT DO NOTHING
    """,
)
MARK_RECORDED = sql(
    Nothing,
    "UPDATE audit.drops SET state = 'recorded' WHERE partition_name = %(name)s AND state = 'archived'",
)
FIND_DROP_EVENT = sql(
    dict,
    """
    UPDATE audit.drops d SET event_id = e.id
      FROM audit.events e
     WHERE d.partition_name = %(name)s AND e.org_id IS NULL AND e.action = %(action)s
       AND e.entity = %(entity)s AND e.outcome = 'success'
       AND e.entity_id = (SELECT min(first_index) FROM audit.drops)::text || '-' || d.last_index
    RETURNING e.log_index
    """,
)
DROP_MONTH = sql(Nothing, "SELECT audit.drop_partition(%(name)s::text::regclass, %(days)s)")
MARK_DROPPED = sql(
    Nothing,
    """
    UPDATE audit.drops SET state = 'dropped', dropped_at = now()
     WHERE state = 'recorded' AND to_regclass(partition_name) IS NULL
    """,
)


async def drop_old_months(core: Core) -> int:
    """Goes as far as it can with each month whose time is over; returns how many were dropped.

    core: of the role worker. A drop takes more than one run: its event has to be sealed in between.
    """
    upkeep = open_database(core.settings, "upkeep")
    await upkeep.open()
    try:
        return await _Drops(core, upkeep).run()
    finally:
        await upkeep.close()


class _Drops:
    """core: as worker, who records. upkeep: the one that may drop."""

    def __init__(self, core: Core, upkeep: Database) -> None:
        self.core, self.upkeep = core, upkeep
        self.days = core.settings.audit_retention_days
        self.call = Call.by_worker("audit.drop", seconds=3600)

    async def run(self) -> int:
        async with self.upkeep.begin(self.call) as tx:
            months = await tx.all(LIST_MONTHS)
        for month in months:
            async with self.upkeep.begin(self.call) as tx:
                measured = await tx.one(MEASURE_MONTH, low=month["low"], high=month["high"])
                if not measured or not measured["events"]:
                    continue  # nothing in it that anybody would miss
                if not await tx.one(IS_OVER, name=month["name"], days=self.days):
                    break
            if not await self._advance(month["name"], measured):
                break  # later months wait for this one
        async with self.core.db.begin(self.call) as tx:
            return await tx.run(MARK_DROPPED)

    async def _advance(self, name: str, measured: Mapping[str, Any]) -> bool:
        """Whether the month is gone now."""
        async with self.core.db.begin(self.call) as tx:
            known = await tx.one(FIND_DROP, name=name)
        if known is None:
            if not await self._archive(name, measured):
                return False
            known = {"state": "archived", "last_index": measured["last_index"], "event_id": None}
        if known["state"] == "archived":
            await self._record(name, known["last_index"])
        if not await self._is_sealed_and_signed(name):
            return False
        async with self.upkeep.begin(self.call) as tx:
            await tx.run(DROP_MONTH, name=name, days=self.days)
        log.info("audit.month_dropped", partition=name)
        return True

    async def _record(self, name: str, last_index: int) -> None:
        async with self.core.db.begin(self.call) as tx:
            if await tx.run(MARK_RECORDED, name=name):
                first = await tx.one(FIRST_DROPPED)
                record(
                    tx, DROP_ACTION, DROP_ENTITY, f"{first}-{last_index}",
                    new={"partition": name}, severity=Severity.NOTICE, kind=Kind.SYSTEM,
                )  # fmt: skip

    async def _is_sealed_and_signed(self, name: str) -> bool:
        async with self.core.db.begin(self.call) as tx:
            event = await tx.one(FIND_DROP_EVENT, name=name, action=DROP_ACTION, entity=DROP_ENTITY)
            newest = await find_checkpoint(tx)
        if event is None or newest is None or event["log_index"] >= newest.size:
            return False
        path = self.core.settings.audit_witness_policy
        if path is None:
            return True
        policy = Policy.parse(await asyncio.to_thread(path.read_text, "utf-8"))
        return policy.is_met(VerifierKey.parse(key) for key in newest.witness_keys)

    async def _archive(self, name: str, measured: Mapping[str, Any]) -> bool:
        """Writes the month's archive and verifies it; False when no checkpoint covers it yet, or when
        it has to be written again."""
        async with self.core.db.begin(self.call) as tx:
            last = await tx.one(LAST_ARCHIVED)
        assert last is not None
        low = last["size"]
        async with self.upkeep.begin(self.call) as tx:
            signed = await tx.one(CHECKPOINT_FROM, size=max(low, measured["last_index"] + 1))
            before = await tx.one(CHECKPOINT_FROM, size=low)
            if signed is None:
                return False
            frontier = await read_frontier(tx, low)
        folder = archive_folder(self.core.settings)
        path = folder / f"audit-{low:012}-{signed['size'] - 1:012}.jsonl.gz"
        await asyncio.to_thread(folder.mkdir, 0o700, parents=True, exist_ok=True)
        draft = draft_of(path)
        origin = Checkpoint.parse(Note.parse(signed["note"]).text).origin
        head = encode_line(Header(origin, frontier=frontier))
        head += encode_line(SignedCheckpoint(signed["note"]))
        with gzip.open(draft, "wb", compresslevel=6) as file:
            await asyncio.to_thread(file.write, head)
            async for lines in self._lines(low, signed["size"]):
                await asyncio.to_thread(file.write, lines)
        since = before["note"] if low and before else None
        report = await asyncio.to_thread(_verified, draft, signed["verifier_key"], since)
        if report.verdict is not Verdict.VERIFIED:
            raise LogDamaged(f"the archive of {name} is not proven: {report.findings[:3]}")
        digest = await asyncio.to_thread(settle, path)
        async with self.core.db.begin(self.call) as tx:
            await tx.run(LOCK_ARCHIVES)
            inserted = await tx.run(
                INSERT_DROP, name=name, archive_first=low, archive_size=signed["size"],
                archive_file=path.name, archive_sha256=digest, began=last["began"], **measured,
            )  # fmt: skip
        return inserted > 0

    async def _lines(self, low: int, high: int) -> AsyncIterator[bytes]:
        for at in range(low, high, PAGE_LEAVES):
            upto = min(at + PAGE_LEAVES, high)
            async with self.upkeep.begin(self.call) as tx:
                rows = await tx.all(READ_LEAVES, low=at, high=upto)
            if len(rows) != upto - at:
                raise LogDamaged(f"of the leaves {at} to {upto - 1}, {len(rows)} are left")
            yield b"".join(encode_line(line_of(row, hidden=Tombstone)) for row in rows)


def _verified(path: Path, key: str, since: str | None) -> Report:
    with open_bundle(path) as file:
        return verify_bundle(iter(file.readline, b""), [key], since)
