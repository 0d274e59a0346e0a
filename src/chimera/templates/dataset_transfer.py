"""Import and export of datasets over streams.

The file is put aside first and read then, so that no transaction waits for a client; it is stored
whole or not at all.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from tempfile import SpooledTemporaryFile
from typing import IO

from chimera.audit.leaf import Kind
from chimera.audit.recording import record
from chimera.call import Call
from chimera.faults import Invalid, NotFound, Violation
from chimera.pools import Database
from chimera.templates.dataset_files import (
    MEMORY_BYTES_MAX,
    BadRow,
    Sheet,
    csv_header,
    csv_row,
    read_rows,
)
from chimera.templates.dataset_yaml import yaml_row, yaml_rows
from chimera.templates.datasets import (
    get_dataset,
    get_dataset_version,
    no_dataset,
    read_lines,
    store_version,
)
from chimera.v1.datasets_pb2 import (
    DatasetFormat,
    ExportDatasetRequest,
    ImportDatasetRequest,
    ImportDatasetResponse,
)
from chimera.v1.options_pb2 import Access

FILE_BYTES_MAX = 1_000_000_000
BAD_ROWS_SHOWN = 100
PAGE_ROWS = 500
CHUNK_BYTES = 512 * 1024


@dataclass
class _Read:
    """A file that was read: its good rows, and the first bad ones."""

    sheet: Sheet = field(default_factory=Sheet)
    bad: list[tuple[int, str]] = field(default_factory=list)
    bad_count: int = 0
    content_hash: str = ""


async def import_dataset(
    db: Database, call: Call, requests: AsyncIterator[ImportDatasetRequest]
) -> AsyncIterator[ImportDatasetResponse]:
    """Bad rows, then the summary. Raises Invalid(IMPORT_UNREADABLE, FIELD_INVALID),
    NotFound(DATASET_NOT_FOUND)."""
    first = await anext(requests, None)
    if first is None or not first.format or not first.dataset_id:
        raise _bad("dataset_id", "and format must be given in the first message")
    own = replace(call, access=Access())
    async with db.begin(own) as tx:
        dataset = await get_dataset(tx, first.dataset_id)
    if dataset.HasField("deleted_at"):
        raise no_dataset()
    with SpooledTemporaryFile(MEMORY_BYTES_MAX) as file:
        await _put_aside(file, first, requests)
        found = await asyncio.to_thread(_read, file, first.format, first.delimiter)
    try:
        for line, message in found.bad:
            bad_row = ImportDatasetResponse.BadRow(line=line, message=message)
            yield ImportDatasetResponse(bad_row=bad_row)
        yield ImportDatasetResponse(summary=await _store(db, call, first, found))
    finally:
        found.sheet.close()


def _bad(field: str, message: str) -> Invalid:
    violation = Violation(field, message, "FIELD_INVALID")
    return Invalid("FIELD_INVALID", f"{field}: {message}", violations=[violation])


async def _put_aside(
    file: IO[bytes], first: ImportDatasetRequest, requests: AsyncIterator[ImportDatasetRequest]
) -> None:
    file.write(first.content)
    async for request in requests:
        if file.tell() + len(request.content) > FILE_BYTES_MAX:
            raise Invalid("IMPORT_UNREADABLE", f"The file is larger than {FILE_BYTES_MAX} bytes.")
        file.write(request.content)


def _read(file: IO[bytes], format: int, delimiter: str) -> _Read:
    found = _Read()
    file.seek(0)
    is_yaml = format == DatasetFormat.DATASET_FORMAT_YAML
    for line, row in yaml_rows(file) if is_yaml else read_rows(file, format, delimiter):
        try:
            if isinstance(row, BadRow):
                raise row
            found.sheet.add(row)
        except BadRow as error:
            found.bad_count += 1
            if len(found.bad) < BAD_ROWS_SHOWN:
                found.bad.append((line, str(error)))
    found.content_hash = found.sheet.content_hash()
    return found


async def _store(
    db: Database, call: Call, first: ImportDatasetRequest, found: _Read
) -> ImportDatasetResponse.Summary:
    summary = ImportDatasetResponse.Summary(
        row_count=found.sheet.row_count,
        bad_row_count=found.bad_count,
        columns=found.sheet.columns,
        content_hash=found.content_hash,
    )
    async with db.begin(call) as tx:
        try:
            newest = await get_dataset_version(tx, first.dataset_id, 0)
            summary.is_unchanged = newest.content_hash == found.content_hash
        except NotFound:
            newest = None
        if summary.is_unchanged and newest is not None:
            summary.version.CopyFrom(newest)
        elif not first.dry_run and (first.skip_bad_rows or not found.bad_count):
            summary.version.CopyFrom(
                await store_version(
                    tx, first.dataset_id, found.sheet, first.change_note, found.content_hash
                )
            )
        new = {
            "rows": found.sheet.row_count,
            "bad_rows": found.bad_count,
            "stored": summary.HasField("version") and not summary.is_unchanged,
        }
        record(tx, "dataset.import", "dataset", first.dataset_id, new=new)
    return summary


def _line_writer(form: DatasetFormat, columns: list[str]) -> Callable[[str], bytes]:
    """How a stored line, one row as JSON, is written in this format."""
    if form == DatasetFormat.DATASET_FORMAT_CSV:
        return lambda line: csv_row(columns, json.loads(line))
    if form == DatasetFormat.DATASET_FORMAT_YAML:
        return lambda line: yaml_row(json.loads(line))
    return lambda line: line.encode() + b"\n"


async def export_dataset(
    db: Database, call: Call, request: ExportDatasetRequest
) -> AsyncIterator[bytes]:
    """The file in pieces, a page a transaction: a version does not change. The export is recorded.

    Raises NotFound(DATASET_NOT_FOUND).
    """
    async with db.begin(call) as tx:
        version = await get_dataset_version(tx, request.dataset_id, request.version_number)
        new = {"version_number": version.version_number}
        record(tx, "dataset.export", "dataset", version.dataset_id, new=new, kind=Kind.ACCESS)
    reading = replace(call, access=Access())
    columns = list(version.columns)
    is_csv = request.format == DatasetFormat.DATASET_FORMAT_CSV
    write = _line_writer(request.format, columns)
    waiting = [csv_header(columns)] if is_csv and columns else []
    size = after = 0
    while True:
        async with db.begin(reading) as tx:
            lines = await read_lines(tx, version, after, PAGE_ROWS)
        for line in lines:
            piece = write(line)
            if size + len(piece) > CHUNK_BYTES:
                yield b"".join(waiting)
                waiting, size = [], 0
            waiting.append(piece)
            size += len(piece)
        after += len(lines)
        if len(lines) < PAGE_ROWS:
            break
    if waiting:
        yield b"".join(waiting)
