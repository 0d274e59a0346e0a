"""Export: the log up to its newest checkpoint as lines of the bundle format.

A page is a transaction of its own, so that an export of hours holds nothing open. Sealed rows do not
change, and the checkpoint is chosen once: the pages fit together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any

from chimera.audit.bundle import (
    Entry,
    Foreign,
    Header,
    Opening,
    SignedCheckpoint,
    Tombstone,
    encode_line,
)
from chimera.audit.leaf import Kind
from chimera.audit.note import Checkpoint, Note
from chimera.audit.operations import LogDamaged, get_checkpoint
from chimera.audit.recording import record
from chimera.call import Call
from chimera.db import sql
from chimera.pools import Database
from chimera.v1.options_pb2 import Access

PAGE_LEAVES = 500
# Clients refuse messages above 4 MB unless told otherwise; a line of that size stands alone.
CHUNK_BYTES = 512 * 1024

# The bounds are repeated for the events, which finds their pages by index in every month.
READ_LEAVES = sql(
    dict,
    """
    SELECT l.log_index, l.leaf_hash, e.leaf, e.fields, e.previous_hash
      FROM audit.leaves l
      LEFT JOIN audit.events e
        ON e.id = l.event_id AND e.log_index >= %(low)s AND e.log_index < %(high)s
     WHERE l.log_index >= %(low)s AND l.log_index < %(high)s
     ORDER BY l.log_index
    """,
)


async def export_lines(db: Database, call: Call) -> AsyncIterator[bytes]:
    """Whole lines in chunks: header, newest checkpoint, and each leaf; of the caller's organisation
    with its payload, of others the hash. The export itself is recorded.

    Raises NotFound(CHECKPOINT_NOT_FOUND); LogDamaged when leaves are missing.
    """
    async with db.begin(call) as tx:
        newest = await get_checkpoint(tx)
        entity_id = call.caller.org_id
        record(
            tx, "audit.export", "audit_log", entity_id, new={"size": newest.size}, kind=Kind.ACCESS
        )
    origin = Checkpoint.parse(Note.parse(newest.checkpoint).text).origin
    yield encode_line(Header(origin)) + encode_line(SignedCheckpoint(newest.checkpoint))
    # The pages are reading that was recorded above.
    reading = replace(call, access=Access())
    for low in range(0, newest.size, PAGE_LEAVES):
        high = min(low + PAGE_LEAVES, newest.size)
        async with db.begin(reading) as tx:
            rows = await tx.all(READ_LEAVES, low=low, high=high)
        if len(rows) != high - low:
            raise LogDamaged(f"of the leaves {low} to {high - 1}, {len(rows)} are left")
        for chunk in _chunks(encode_line(line_of(row, hidden=Foreign)) for row in rows):
            yield chunk


def line_of(
    row: Mapping[str, Any], *, hidden: type[Foreign] | type[Tombstone]
) -> Entry | Foreign | Tombstone:
    """The line of a row of READ_LEAVES; `hidden` is what it is without a payload."""
    if row["leaf"] is None:
        return hidden(row["log_index"], row["leaf_hash"])
    openings = tuple(
        Opening(item["name"], bytes.fromhex(item["salt"]), item["value"].encode())
        for item in row["fields"]
        if "value" in item
    )
    return Entry(row["log_index"], row["previous_hash"], row["leaf"], row["leaf_hash"], openings)


def _chunks(lines: Iterator[bytes]) -> Iterator[bytes]:
    waiting: list[bytes] = []
    size = 0
    for line in lines:
        if waiting and size + len(line) > CHUNK_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
        waiting.append(line)
        size += len(line)
    if waiting:
        yield b"".join(waiting)
