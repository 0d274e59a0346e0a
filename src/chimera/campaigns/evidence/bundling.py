"""Makes the evidence of a run, a page at a time; see the folder's docstring for what is in it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import orjson

from chimera.audit import recording
from chimera.audit.leaf import Kind
from chimera.audit.selection import select_lines
from chimera.call import Call
from chimera.campaigns.evidence.digest import DIGESTED, DIGESTED_OF_TURN, LATER
from chimera.campaigns.runs import get_run
from chimera.db import sql
from chimera.pools import Database
from chimera.rows import decimal_text
from chimera.v1.campaigns_pb2 import Run
from chimera.v1.options_pb2 import Access

FORMAT = "chimera-evidence/2"
FORMAT_WITH_TURNS = "chimera-evidence/3"
PAGE_FLUSHES = 50
PAGE_RESULTS = 200
PAGE_TURNS = 100
CHUNK_BYTES = 1_000_000

GET_PLAN = sql(bytes, "SELECT plan FROM campaigns.run_plans WHERE run_id = %(run_id)s")

READ_FLUSHES = sql(
    dict,
    """
    SELECT xid::text AS xid, id, cells, root FROM campaigns.flushes
     WHERE run_id = %(run_id)s AND (xid, id) > (%(xid)s::text::xid8, %(id)s::uuid)
     ORDER BY flushes.xid, id LIMIT %(limit)s
    """,
)

READ_RESULTS = sql(
    dict,
    """
    SELECT e.cell_no, e.state, e.transformed_prompt, e.response, e.is_successful, e.verdict_reason,
           e.error_kind AS final_error, e.input_tokens, e.output_tokens, e.cost,
           p.technique_names[e.technique_no + 1] AS technique, p.target_names[e.target_no + 1] AS target,
           e.iteration_number, e.original_prompt, e.success_score::float8 AS success_score,
           e.response_truncated, e.finish_reason, e.attempts, e.latency_ms, e.started_at, e.recorded_at,
           encode(e.transcript, 'hex') AS transcript, e.decided_turn_no, e.ended_by
      FROM campaigns.executions e JOIN campaigns.run_plans p ON p.run_id = e.run_id
     WHERE e.run_id = %(run_id)s AND e.cell_no > %(after)s
     ORDER BY e.cell_no LIMIT %(limit)s
    """,
)

# Of recorded cells: what a cell without a result brought is pinned by nothing yet.
READ_TURNS = sql(
    dict,
    """
    SELECT t.cell_no, t.turn_no, t.purpose, t.model_no, t.attempt_no, t.request, t.reply,
           t.is_successful, t.input_tokens, t.output_tokens, t.cost,
           p.model_names[t.model_no + 1] AS model, t.success_score, t.verdict_reason, t.error_kind,
           t.finish_reason, t.reply_truncated, t.latency_ms, t.started_at, t.recorded_at
      FROM campaigns.turns t
      JOIN campaigns.executions e ON e.run_id = t.run_id AND e.cell_no = t.cell_no
      JOIN campaigns.run_plans p ON p.run_id = t.run_id
     WHERE t.run_id = %(run_id)s
       AND (t.cell_no, t.turn_no) > (%(after_cell)s::bigint, %(after_turn)s::int)
     ORDER BY t.cell_no, t.turn_no LIMIT %(limit)s
    """,
)


class _Archive:
    """A ZIP archive written to nowhere: `taken` returns what is ready and forgets it."""

    def __init__(self) -> None:
        self.sink = io.BytesIO()
        self.zip = zipfile.ZipFile(_Unseekable(self.sink), "w", zipfile.ZIP_DEFLATED)

    @contextmanager
    def member(self, name: str) -> Iterator[Any]:
        # A fixed time: the same run gives the same bytes.
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        with self.zip.open(info, "w", force_zip64=True) as member:
            yield member

    def taken(self) -> bytes:
        data = self.sink.getvalue()
        self.sink.seek(0)
        self.sink.truncate()
        return data


class _Unseekable:
    """What zipfile needs of a file it cannot go back in: it then writes sizes after the data."""

    def __init__(self, sink: io.BytesIO) -> None:
        self.sink = sink

    def write(self, data: bytes, /) -> int:
        return self.sink.write(data)

    def flush(self) -> None:
        """The sink holds nothing back."""

    def close(self) -> None:
        """The archive closes it when it is complete; the rest is still to be taken."""


async def export_evidence(db: Database, run_id: str, call: Call) -> AsyncIterator[bytes]:
    """The archive in parts of about CHUNK_BYTES. The export itself is recorded.

    Raises NotFound: RUN_NOT_FOUND, CHECKPOINT_NOT_FOUND. What was recorded after the newest
    checkpoint is in the results and not yet in the audit events: the verifier says so.
    """
    async with db.begin(call) as tx:
        run = await get_run(tx, run_id)
        recording.record(tx, "run.export_evidence", "run", run_id, kind=Kind.ACCESS)
    reading = replace(call, access=Access())  # the pages are reading that was recorded above
    archive = _Archive()
    async for _ in _members(db, run, reading, archive):
        data = archive.taken()
        for start in range(0, len(data), CHUNK_BYTES):
            yield data[start : start + CHUNK_BYTES]


async def _members(db: Database, run: Run, call: Call, archive: _Archive) -> AsyncIterator[None]:
    """Writes one member after the other; yields after each page."""
    async with db.look(call) as tx:
        await tx.name_run(run.id)
        plan = await tx.one(GET_PLAN, run_id=run.id)
    assert plan is not None
    is_talk = "strategy" in (facts := orjson.loads(plan)) or "seats" in facts
    manifest = {
        "format": FORMAT_WITH_TURNS if is_talk else FORMAT,
        "run_id": run.id,
        "campaign_id": run.campaign_id,
    }
    for name, data in (("manifest.json", orjson.dumps(manifest)), ("plan.json", plan)):
        with archive.member(name) as member:
            member.write(data)
    with archive.member("flushes.jsonl") as member:
        xid, flush_id = "0", "00000000-0000-0000-0000-000000000000"
        while True:
            async with db.look(call) as tx:
                await tx.name_run(run.id)
                flushes = await tx.all(
                    READ_FLUSHES, run_id=run.id, xid=xid, id=flush_id, limit=PAGE_FLUSHES
                )
            for flush in flushes:
                xid, flush_id = flush["xid"], flush["id"]
                line = {"flush_id": flush_id, "root": flush["root"].hex(), "cells": flush["cells"]}
                member.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            yield
            if len(flushes) < PAGE_FLUSHES:
                break
    with archive.member("results.jsonl") as member:
        after = -1
        while True:
            async with db.look(call) as tx:
                await tx.name_run(run.id)
                rows = await tx.all(READ_RESULTS, run_id=run.id, after=after, limit=PAGE_RESULTS)
            for row in rows:
                after = row["cell_no"]
                member.write(orjson.dumps(_result(row), option=orjson.OPT_APPEND_NEWLINE))
            yield
            if len(rows) < PAGE_RESULTS:
                break
    if is_talk:
        with archive.member("turns.jsonl") as member:
            async for lines in _turns(db, run.id, call):
                member.write(lines)
                yield
    async with db.look(call) as tx:
        await get_run(tx, run.id)  # what ended because it is not shared any more is not complete
    with archive.member("audit.jsonl") as member:
        things = [("campaign", run.campaign_id), ("run", run.id)]
        async for event in select_lines(db, call, things):
            member.write(event)
            yield
    archive.zip.close()
    yield


async def _turns(db: Database, run_id: str, call: Call) -> AsyncIterator[bytes]:
    """The turns of recorded conversations as lines, page by page."""
    cell_no, turn_no = -1, 0
    while True:
        async with db.look(call) as tx:
            await tx.name_run(run_id)
            rows = await tx.all(
                READ_TURNS,
                run_id=run_id,
                after_cell=cell_no,
                after_turn=turn_no,
                limit=PAGE_TURNS,
            )
        lines = []
        for row in rows:
            cell_no, turn_no = row.pop("cell_no"), row["turn_no"]
            row["cost"] = decimal_text(row["cost"])
            turn = {name: row.pop(name) for name in DIGESTED_OF_TURN}
            line = {"cell_no": cell_no, "turn": turn, "context": row}
            lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        yield b"".join(lines)
        if len(rows) < PAGE_TURNS:
            return


def _result(row: dict[str, Any]) -> dict[str, Any]:
    row["cost"] = decimal_text(row["cost"])
    later = {name: row.pop(name) for name in LATER}
    result = {name: row.pop(name) for name in DIGESTED}
    result |= {name: value for name, value in later.items() if value is not None}
    return {"result": result, "context": row}
