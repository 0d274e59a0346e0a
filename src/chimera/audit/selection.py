"""A selection: the events about chosen things, each with its proof of inclusion in the newest
checkpoint. Whoever reads it learns nothing about the other leaves, not even how they hash.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from chimera.audit import merkle
from chimera.audit.bundle import Entry, Header, Mode, SignedCheckpoint, Tombstone, encode_line
from chimera.audit.export import line_of
from chimera.audit.note import Checkpoint, Note
from chimera.audit.operations import get_checkpoint, read_nodes
from chimera.call import Call
from chimera.db import sql
from chimera.pools import Database

PAGE_EVENTS = 200

READ_SELECTED = sql(
    dict,
    """
    SELECT e.log_index, e.leaf_hash, e.leaf, e.fields, e.previous_hash
      FROM audit.events e
     WHERE e.org_id = %(org_id)s AND e.log_index > %(after)s AND e.log_index < %(size)s
       AND (e.entity, e.entity_id) IN (SELECT * FROM unnest(%(entities)s::text[], %(ids)s::text[]))
     ORDER BY e.log_index LIMIT %(limit)s
    """,
    prepare=False,
)


async def select_lines(
    db: Database, call: Call, things: Sequence[tuple[str, str]]
) -> AsyncIterator[bytes]:
    """The lines of a bundle (bundle.py, Mode.SELECTION) with the caller's organisation's events
    about the things: (entity, id). Raises NotFound(CHECKPOINT_NOT_FOUND), LogDamaged."""
    async with db.look(call) as tx:
        newest = await get_checkpoint(tx)
    origin = Checkpoint.parse(Note.parse(newest.checkpoint).text).origin
    yield encode_line(Header(origin, Mode.SELECTION))
    yield encode_line(SignedCheckpoint(newest.checkpoint))
    after = -1
    while True:
        async with db.look(call) as tx:
            rows: list[dict[str, Any]] = await tx.all(
                READ_SELECTED,
                org_id=call.caller.org_id,
                after=after,
                size=newest.size,
                entities=[entity for entity, _ in things],
                ids=[entity_id for _, entity_id in things],
                limit=PAGE_EVENTS,
            )
            wanted = [
                node
                for row in rows
                for node in merkle.inclusion_nodes(row["log_index"], newest.size)
            ]
            node_at = await read_nodes(tx, wanted)
        for row in rows:
            line = line_of(row, hidden=Tombstone)
            assert isinstance(line, Entry)  # the rows come from the events themselves
            proof = merkle.inclusion_proof(row["log_index"], newest.size, node_at)
            yield encode_line(replace(line, proof=tuple(proof)))
        if len(rows) < PAGE_EVENTS:
            return
        after = rows[-1]["log_index"]
