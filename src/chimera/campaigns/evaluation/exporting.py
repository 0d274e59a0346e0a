"""The results of a run as a file: JSON Lines, CSV or Parquet, made page by page.

A page is a read of its own and nothing is held between two, so a client that reads slowly costs a
buffer and not a transaction. Results are never changed once recorded: the pages fit together.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import orjson

from chimera.audit import recording
from chimera.audit.leaf import Kind
from chimera.call import Call
from chimera.campaigns.runs import get_run
from chimera.db import sql
from chimera.pools import Database
from chimera.rows import decimal_text
from chimera.v1.evaluation_pb2 import ExportFormat, ExportResultsRequest
from chimera.v1.options_pb2 import Access

PAGE_ROWS = 200
CHUNK_BYTES = 1_000_000

READ_RESULTS = sql(
    dict,
    """
    SELECT e.cell_no, e.prompt_no, e.iteration_number,
           p.technique_names[e.technique_no + 1] AS technique,
           split_part(p.target_names[e.target_no + 1], '/', 1) AS provider,
           substr(p.target_names[e.target_no + 1], strpos(p.target_names[e.target_no + 1], '/') + 1) AS model,
           e.state, e.is_successful, e.success_score::float8 AS success_score, e.verdict_reason,
           o.is_successful AS person_is_successful, o.reason AS person_reason,
           e.original_prompt, e.transformed_prompt, e.response, e.response_truncated, e.finish_reason, e.error_kind,
           e.attempts, e.latency_ms, e.input_tokens, e.output_tokens, e.cost AS cost_usd,
           e.started_at, e.recorded_at, e.turn_count, e.decided_turn_no, e.ended_by,
           CASE WHEN %(include_turns)s AND e.turn_count > 0 THEN
               (SELECT json_agg(json_build_object(
                           'turn_no', t.turn_no, 'purpose', t.purpose,
                           'model', p.model_names[t.model_no + 1], 'request', t.request,
                           'reply', t.reply, 'is_successful', t.is_successful,
                           'success_score', t.success_score, 'verdict_reason', t.verdict_reason,
                           'input_tokens', t.input_tokens, 'output_tokens', t.output_tokens,
                           'cost_usd', trim_scale(t.cost)::text, 'latency_ms', t.latency_ms)
                       ORDER BY t.turn_no)
                  FROM campaigns.turns t WHERE t.run_id = e.run_id AND t.cell_no = e.cell_no)::text
           END AS turns
      FROM campaigns.executions e
      JOIN campaigns.run_plans p ON p.run_id = e.run_id
      LEFT JOIN campaigns.overrides o ON o.run_id = e.run_id AND o.cell_no = e.cell_no
                                     AND o.withdrawn_at IS NULL
     WHERE e.run_id = %(run_id)s AND e.cell_no > %(after)s
     ORDER BY e.cell_no LIMIT %(limit)s
    """,
)

# Column -> Arrow type; also the order of the columns.
COLUMNS = {
    "run_id": "string",
    "cell_no": "int64",
    "prompt_no": "int64",
    "iteration_number": "int32",
    "technique": "string",
    "provider": "string",
    "model": "string",
    "state": "string",
    "is_successful": "bool",
    "success_score": "double",
    "verdict_reason": "string",
    "person_is_successful": "bool",
    "person_reason": "string",
    "original_prompt": "string",
    "transformed_prompt": "string",
    "response": "string",
    "response_truncated": "bool",
    "finish_reason": "string",
    "error_kind": "string",
    "attempts": "int32",
    "latency_ms": "int32",
    "input_tokens": "int32",
    "output_tokens": "int32",
    # Decimal text: no float is exact about money.
    "cost_usd": "string",
    "started_at": "timestamp",
    "recorded_at": "timestamp",
    "turn_count": "int32",
    "decided_turn_no": "int32",
    "ended_by": "string",
}
# When they are asked for: what was said in each conversation, as a JSON list.
WITH_TURNS = {**COLUMNS, "turns": "string"}
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Writer(Protocol):
    """Makes a file of rows: `page` and `end` return the bytes that are ready."""

    def page(self, rows: Sequence[dict[str, Any]]) -> bytes: ...

    def end(self) -> bytes: ...


class JsonLines:
    def __init__(self, columns: Mapping[str, str] = COLUMNS) -> None:
        """All columns of a row are written."""

    def page(self, rows: Sequence[dict[str, Any]]) -> bytes:
        return b"".join([orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows])

    def end(self) -> bytes:
        return b""


class Csv:
    """RFC 4180. A text that a spreadsheet would take for a formula gets an apostrophe in front:
    answers of models are not to be trusted. Source: OWASP, CSV Injection."""

    def __init__(self, columns: Mapping[str, str] = COLUMNS) -> None:
        self.columns = columns
        self.out = io.StringIO(newline="")
        self.writer = csv.writer(self.out)
        self.writer.writerow(columns)

    def page(self, rows: Sequence[dict[str, Any]]) -> bytes:
        self.writer.writerows([[self._cell(row[name]) for name in self.columns] for row in rows])
        return self._taken()

    def end(self) -> bytes:
        return self._taken()

    def _cell(self, value: Any) -> Any:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            return f"'{value}" if value.startswith(FORMULA) else value
        return value.isoformat() if hasattr(value, "isoformat") else value

    def _taken(self) -> bytes:
        text = self.out.getvalue()
        self.out.seek(0)
        self.out.truncate()
        return text.encode()


class Parquet:
    """A row group a page of PAGE_ROWS."""

    def __init__(self, columns: Mapping[str, str] = COLUMNS) -> None:
        import pyarrow  # type: ignore[import-untyped]  # ships without types
        from pyarrow import parquet

        kinds = {"timestamp": pyarrow.timestamp("us", tz="UTC")}
        self.schema = pyarrow.schema(
            [
                (name, kinds.get(kind) or pyarrow.type_for_alias(kind))
                for name, kind in columns.items()
            ]
        )
        self.table = pyarrow.Table
        self.sink = _Sink()
        self.writer = parquet.ParquetWriter(self.sink, self.schema, compression="zstd")

    def page(self, rows: Sequence[dict[str, Any]]) -> bytes:
        self.writer.write_table(self.table.from_pylist(list(rows), schema=self.schema))
        return self.sink.taken()

    def end(self) -> bytes:
        self.writer.close()
        return self.sink.taken()


class _Sink(io.RawIOBase):
    """A file of which what was written is taken away."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self.parts.append(part)
        self.written += len(part)
        return len(part)

    def tell(self) -> int:
        return self.written

    def taken(self) -> bytes:
        parts, self.parts = self.parts, []
        return b"".join(parts)


WRITERS: dict[int, type[JsonLines] | type[Csv] | type[Parquet]] = {
    ExportFormat.EXPORT_FORMAT_JSON_LINES: JsonLines,
    ExportFormat.EXPORT_FORMAT_CSV: Csv,
    ExportFormat.EXPORT_FORMAT_PARQUET: Parquet,
}


async def export_results(
    db: Database, request: ExportResultsRequest, call: Call
) -> AsyncIterator[bytes]:
    """The file in parts of about CHUNK_BYTES. The export itself is recorded.
    Raises NotFound(RUN_NOT_FOUND)."""
    run_id = request.run_id
    async with db.begin(call) as tx:
        await get_run(tx, run_id)
        name = ExportFormat.Name(request.format).removeprefix("EXPORT_FORMAT_").lower()
        recording.record(tx, "run.export", "run", run_id, new={"format": name}, kind=Kind.ACCESS)
    columns = WITH_TURNS if request.include_turns else COLUMNS
    writer: Writer = WRITERS[request.format](columns)
    reading = replace(call, access=Access())  # the pages are reading that was recorded above
    after = -1
    while True:
        async with db.look(reading) as tx:
            await tx.name_run(run_id)
            rows = await tx.all(
                READ_RESULTS,
                run_id=run_id,
                after=after,
                limit=PAGE_ROWS,
                include_turns=request.include_turns,
            )
        for row in rows:
            row["run_id"] = run_id
            row["cost_usd"] = decimal_text(row["cost_usd"])
            if not request.include_turns:
                row.pop("turns")
        if rows:
            after = rows[-1]["cell_no"]
            for part in _parts(writer.page(rows)):
                yield part
        if len(rows) < PAGE_ROWS:
            break
    async with db.look(reading) as tx:
        await get_run(tx, run_id)  # what ended because it is not shared any more is not complete
    for part in _parts(writer.end()):
        yield part


def _parts(data: bytes) -> list[bytes]:
    return [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
