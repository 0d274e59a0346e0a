"""Datasets as files: CSV and JSON Lines in, the same rows out.

What must stay true: memory is bounded by one row, whatever the file; what was read is written again
without loss. Of CSV (RFC 4180) that means every character of every cell, line ends inside quotes
included; of JSON Lines every value, big numbers included. A CSV export of values that are not text
writes them as JSON, which a CSV import reads as text.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from chimera.faults import Invalid
from chimera.v1.datasets_pb2 import DatasetFormat

ROW_BYTES_MAX = 1_000_000
ROWS_MAX = 1_000_000
COLUMNS_MAX = 500
COLUMN_CHARS_MAX = 200
MEMORY_BYTES_MAX = 4_000_000
BATCH_ROWS = 500
DELIMITERS = ",;\t|"


class BadRow(ValueError):
    """Why a row cannot be read; no value is repeated."""


class Sheet:
    """Rows on their way into a version: JSON lines in a file that is in memory while it is small."""

    def __init__(self) -> None:
        self.columns: dict[str, None] = {}
        self.row_count = 0
        self._file: IO[bytes] = SpooledTemporaryFile(MEMORY_BYTES_MAX)  # noqa: SIM115 - closed by close

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Sheet:
        """Raises Invalid for a row that no dataset can hold."""
        sheet = cls()
        for row in rows:
            try:
                sheet.add(row)
            except BadRow as error:
                raise Invalid("IMPORT_UNREADABLE", f"row {sheet.row_count + 1} {error}") from None
        return sheet

    def add(self, row: Mapping[str, Any]) -> None:
        """Raises BadRow."""
        line = json_line(row)
        if self.row_count == ROWS_MAX:
            raise BadRow(f"is beyond the {ROWS_MAX} rows a dataset holds")
        for name in row:
            if not 0 < len(name) <= COLUMN_CHARS_MAX:
                raise BadRow(f"has a name of no or more than {COLUMN_CHARS_MAX} characters")
        if len(self.columns.keys() | row.keys()) > COLUMNS_MAX:
            raise BadRow(f"brings more than {COLUMNS_MAX} columns")
        self.columns.update(dict.fromkeys(row))
        self._file.write(line.encode() + b"\n")
        self.row_count += 1

    def lines(self) -> Iterator[str]:
        self._file.seek(0)
        for line in self._file:
            yield line[:-1].decode()

    def content_hash(self) -> str:
        """As DatasetVersion.content_hash says."""
        digest = hashlib.sha256(_compact(list(self.columns)).encode() + b"\n")
        for line in self.lines():
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()

    def close(self) -> None:
        self._file.close()


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def json_line(row: Mapping[str, Any]) -> str:
    """A row as it is stored and hashed. Raises BadRow."""
    try:
        line = _compact(dict(row))
        size_bytes = len(line.encode())
    except (ValueError, RecursionError):
        raise BadRow("holds a number or text that JSON cannot write") from None
    if size_bytes > ROW_BYTES_MAX:
        raise BadRow(f"is larger than {ROW_BYTES_MAX} bytes")
    if "\\u0000" in line and _has_nul(row):
        raise BadRow("holds a NUL character")
    return line


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, Mapping):
        return any(_has_nul(name) or _has_nul(item) for name, item in value.items())
    return isinstance(value, list) and any(_has_nul(item) for item in value)


# --- reading -------------------------------------------------------------------------------------


def read_rows(
    file: IO[bytes], format: int, delimiter: str = ""
) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """(line it ends at, row or what is wrong with it). Raises Invalid(IMPORT_UNREADABLE) for a file
    that has no rows at all: no header, or not UTF-8."""
    file.seek(0)
    if format == DatasetFormat.DATASET_FORMAT_JSONL:
        yield from _json_rows(file)
    else:
        yield from _csv_rows(file, delimiter)


def _json_rows(file: IO[bytes]) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    number = 0
    while line := file.readline(ROW_BYTES_MAX * 2):
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.endswith(b"\n") and len(line) == ROW_BYTES_MAX * 2:
            raise Invalid("IMPORT_UNREADABLE", f"Line {number} is too long to be a row.")
        if line.strip():
            try:
                yield number, _json_row(line)
            except BadRow as error:
                yield number, error


def _json_row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_once, parse_constant=_refuse, parse_float=_finite)
    except BadRow:
        raise
    except (ValueError, RecursionError):
        raise BadRow("is not a JSON object") from None
    if not isinstance(row, dict):
        raise BadRow("is not a JSON object")
    return row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise BadRow("names something twice")
    return names


def _refuse(_constant: str) -> Any:
    raise BadRow("holds a number that is not finite")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BadRow("holds a number that is not finite")
    return value


def _csv_rows(file: IO[bytes], delimiter: str) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    # Set for the whole process, to the same value by everybody who asks.
    csv.field_size_limit(ROW_BYTES_MAX)
    chosen = delimiter or _delimiter_of(file)
    file.seek(0)
    # newline="": the csv module has to see line ends as they are, or those inside quotes change.
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    try:
        reader = csv.reader(text, delimiter=chosen, strict=True)
        columns = _header(reader)
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield reader.line_num, BadRow(f"is not CSV: {error}")
                continue
            if cells:
                yield reader.line_num, _csv_row(columns, cells)
    except UnicodeDecodeError as error:
        raise Invalid("IMPORT_UNREADABLE", f"Not UTF-8 at byte {error.start}.") from None
    finally:
        text.detach()


def _delimiter_of(file: IO[bytes]) -> str:
    """What stands most often outside of quotes in the first line; the comma of a single column."""
    line = file.readline(ROW_BYTES_MAX).decode("utf-8-sig", "replace")
    outside = "".join(line.split('"')[::2])
    return max(DELIMITERS, key=lambda one: (outside.count(one), -DELIMITERS.index(one)))


def _header(reader: Any) -> list[str]:
    try:
        columns: list[str] = next(reader)
    except StopIteration:
        raise Invalid("IMPORT_UNREADABLE", "The file is empty: it has no header line.") from None
    except csv.Error as error:
        raise Invalid("IMPORT_UNREADABLE", f"The header line is not CSV: {error}.") from None
    if not columns or not all(columns) or len(set(columns)) != len(columns):
        raise Invalid("IMPORT_UNREADABLE", "The header line must name every column, and each once.")
    if len(columns) > COLUMNS_MAX:
        raise Invalid("IMPORT_UNREADABLE", f"More than {COLUMNS_MAX} columns.")
    return columns


def _csv_row(columns: list[str], cells: list[str]) -> dict[str, Any] | BadRow:
    if len(cells) != len(columns):
        return BadRow(f"has {len(cells)} cells, and the header names {len(columns)}")
    return dict(zip(columns, cells, strict=True))


# --- writing -------------------------------------------------------------------------------------


def csv_header(columns: list[str]) -> bytes:
    """Quoted throughout, so that a name may begin with a byte order mark."""
    return _csv_line(columns, csv.QUOTE_ALL)


def csv_row(columns: list[str], row: Mapping[str, Any]) -> bytes:
    cells = [row.get(name, "") for name in columns]
    return _csv_line(
        [cell if isinstance(cell, str) else _compact(cell) for cell in cells], csv.QUOTE_MINIMAL
    )


def _csv_line(cells: list[str], quoting: Any) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, quoting=quoting, lineterminator="\r\n").writerow(cells)
    return out.getvalue().encode()
