"""The sealer: moves recorded events into the log, then has the new size signed.

What must stay true:
- Sealing is one transaction under the lock of the one row of audit.log_head: an event is in
  audit.pending or in the log, never in both and never in neither, and the log cannot fork.
- The events of one writer enter the log in the order of their numbers.
- A sealer whose fence is older than the one on record does nothing.
- A size is signed only when its COMMIT is durable, by a signer which remembers outside the
  database. When it refuses, sealing goes on and an operator has to look.
- What a batch costs depends on the batch and on the logarithm of the log.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from itertools import pairwise

import structlog

from chimera import metrics
from chimera.audit import merkle
from chimera.audit.leaf import chain_leaf
from chimera.audit.note import NoteError
from chimera.audit.operations import LogDamaged, find_signed, read_frontier, read_nodes
from chimera.audit.restore import carry_out_restore
from chimera.audit.signer import GuardedSigner, SigningRefused
from chimera.audit.signing_home import open_signer
from chimera.audit.witnessing import Witnesses
from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, Tx, sql

log = structlog.get_logger("chimera.audit")

BATCH = 1000
ROUNDS_MAX = 10
_REPEAT_S = 60.0  # how often the same refusal is told again


@dataclass(frozen=True, slots=True)
class Head:
    size: int
    fence: int
    last_hash: bytes


# Whatever the server's default is: a signature must not outlive the rows it covers.
LOCK_HEAD = sql(
    Head,
    """
    SELECT size, fence, last_hash
      FROM audit.log_head, set_config('synchronous_commit', 'on', true)
       FOR UPDATE OF log_head
    """,
)

# A connection's transactions have growing xids, and bytes 29 to 36 of a leaf are its writer's
# number: each writer stays in order. A transaction is never split (WITH TIES). A row of an xid that
# is still to come was carried here by a restored dump.
TAKE_PENDING = sql(
    dict,
    """
    SELECT id, leaf
      FROM (
        SELECT id, leaf, xid
          FROM audit.pending
         WHERE xid < pg_snapshot_xmin(pg_current_snapshot())
            OR xid >= pg_snapshot_xmax(pg_current_snapshot())
         ORDER BY xid
         FETCH FIRST %(batch)s ROWS WITH TIES
      ) AS taken
     ORDER BY xid, substring(leaf FROM 29 FOR 8), id
    """,
)

# Facts are copied as they are; nothing in them can make a row unsealable.
SEAL_EVENTS = sql(
    Nothing,
    """
    WITH sealed AS MATERIALIZED (
        SELECT s.id, s.leaf_hash, s.previous_hash, %(size)s::bigint + s.position - 1 AS log_index
          FROM unnest(%(ids)s::uuid[], %(hashes)s::bytea[], %(previous)s::bytea[])
               WITH ORDINALITY AS s (id, leaf_hash, previous_hash, position)
    ), taken AS (
        DELETE FROM audit.pending p USING sealed s WHERE p.id = s.id
        RETURNING p.id, p.org_id, p.occurred_at, p.facts, p.fields, p.leaf,
                  s.log_index, s.leaf_hash, s.previous_hash
    ), leaves AS (
        INSERT INTO audit.leaves (log_index, event_id, leaf_hash)
        SELECT log_index, id, leaf_hash FROM sealed
    )
    INSERT INTO audit.events (id, log_index, org_id, occurred_at, actor_kind, actor_id, action,
                              entity, entity_id, outcome, severity, facts, fields, leaf, leaf_hash,
                              previous_hash)
    SELECT id, log_index, org_id, occurred_at,
           COALESCE(facts->>'actor_kind', ''),
           CASE WHEN pg_input_is_valid(facts->>'actor_id', 'uuid')
                THEN (facts->>'actor_id')::uuid END,
           COALESCE(facts->>'action', ''), COALESCE(facts->>'entity', ''),
           COALESCE(facts->>'entity_id', ''), COALESCE(facts->>'outcome', ''),
           COALESCE(facts->>'severity', ''), facts, fields, leaf, leaf_hash, previous_hash
      FROM taken
    """,
)

INSERT_NODES = sql(
    Nothing,
    """
    INSERT INTO audit.nodes (level, node_index, hash)
    SELECT * FROM unnest(%(levels)s::smallint[], %(indexes)s::bigint[], %(hashes)s::bytea[])
    """,
)

ADVANCE_HEAD = sql(
    Nothing,
    """
    UPDATE audit.log_head
       SET size = %(size)s, fence = %(fence)s, last_hash = %(last_hash)s
     WHERE size = %(size_before)s AND fence <= %(fence)s
    """,
)


async def seal(core: Core, fence: int, *, batch: int = BATCH) -> int:
    """Moves up to `batch` recorded events (and the rest of the last one's transaction) into the
    log, as the holder of `fence`; returns how many.

    core: of the role sealer. Raises LogDamaged; the faults of the database; UniqueViolation when an
    event's id is in the log already, which only a forged row can bring about.
    """
    async with core.db.begin(Call.by_worker("audit.seal")) as tx:
        head = await tx.one(LOCK_HEAD)
        if head is None:
            raise LogDamaged("the head of the audit log is missing")
        if head.fence > fence:
            log.warning("audit.sealer_fenced_off", fence=fence, newer_fence=head.fence)
            return 0
        rows = await tx.all(TAKE_PENDING, batch=batch)
        if rows or fence > head.fence:
            await _append(tx, head, fence, rows)
    metrics.AUDIT_SEALED.inc(len(rows))
    return len(rows)


async def _append(tx: Tx, head: Head, fence: int, rows: list[dict[str, bytes]]) -> None:
    chain = [head.last_hash]
    for row in rows:
        chain.append(chain_leaf(chain[-1], row["leaf"]))
    if rows:
        frontier = await read_frontier(tx, head.size)
        nodes = merkle.new_nodes(frontier, chain[1:])
        links = list(pairwise(chain))
        moved = await tx.run(
            SEAL_EVENTS,
            size=head.size,
            ids=[row["id"] for row in rows],
            previous=[before for before, _ in links],
            hashes=[after for _, after in links],
        )
        if moved != len(rows):
            raise LogDamaged(f"{len(rows) - moved} recorded events went away while being sealed")
        await tx.run(
            INSERT_NODES,
            levels=[level for level, _, _ in nodes],
            indexes=[index for _, index, _ in nodes],
            hashes=[value for _, _, value in nodes],
        )
    advanced = await tx.run(
        ADVANCE_HEAD,
        size_before=head.size,
        size=head.size + len(rows),
        fence=fence,
        last_hash=chain[-1],
    )
    if advanced != 1:
        raise LogDamaged("the head of the audit log moved under its lock")


# --- checkpoints ----------------------------------------------------------------------------------

READ_HEAD = sql(Head, "SELECT size, fence, last_hash FROM audit.log_head")

INSERT_CHECKPOINT = sql(
    Nothing,
    """
    INSERT INTO audit.checkpoints (size, root, note, verifier_key)
    VALUES (%(size)s, %(root)s, %(note)s, %(verifier_key)s)
    ON CONFLICT (size) DO NOTHING
    """,
)


async def checkpoint(core: Core, signer: GuardedSigner) -> int | None:
    """Signs and stores the log's present size, if it has no checkpoint yet; returns that size.

    None when there is nothing to sign. Raises SigningRefused: the database is not the one that was
    signed last, as after the restore of a backup.
    """
    while True:
        # Before the head: a size is signed after its COMMIT, so an honest head is never smaller.
        last = await asyncio.to_thread(signer.last)
        async with core.db.begin(Call.by_worker("audit.checkpoint")) as tx:
            head, stored = await tx.one(READ_HEAD), await find_signed(tx)
            if head is None:
                raise LogDamaged("the head of the audit log is missing")
            if head.size == 0 and last.size == 0:
                return None
            root = (await read_frontier(tx, head.size)).root
            signed = (last.size, last.root)
            if stored and (stored.size, stored.root) == signed == (head.size, root):
                return None
            proof: list[bytes] = []
            if last.size < head.size:
                node_at = await read_nodes(tx, merkle.consistency_nodes(last.size, head.size))
                proof = merkle.consistency_proof(last.size, head.size, node_at)
        try:
            note = await asyncio.to_thread(signer.sign, head.size, root, proof)
        except SigningRefused:
            if await asyncio.to_thread(signer.last) != last:
                continue  # another sealer signed in between; see again
            raise
        async with core.db.begin(Call.by_worker("audit.checkpoint")) as tx:
            await tx.run(
                INSERT_CHECKPOINT,
                size=head.size,
                root=root,
                note=str(note),
                verifier_key=signer.verifier_key,
            )
        return head.size


class Sealer:
    """What the worker's loop calls, holding the lease `sealer`."""

    def __init__(self, core: Core) -> None:
        """core: of the role sealer."""
        self.core = core
        self.signer: GuardedSigner | None = None
        self.witnesses = Witnesses.load(core.settings.audit_witness_policy)
        self.refusals_total = 0
        self._told: tuple[str, float] = ("", 0.0)

    async def run_once(self, fence: int) -> int:
        """Seals what is waiting, at most ROUNDS_MAX batches, and signs; returns how many events.

        Call it again at once if that was ROUNDS_MAX * BATCH. Raises as `seal` does; a refusal to
        sign is logged (audit.checkpoint_refused), not raised.
        """
        sealed = 0
        for _ in range(ROUNDS_MAX):
            count = await seal(self.core, fence)
            sealed += count
            if count < BATCH:
                break
        try:
            if self.signer is None:
                signer = await open_signer(self.core)
                await carry_out_restore(self.core, signer, only_left=True)
                self.signer = signer
            await self._sign()
        except (SigningRefused, NoteError, OSError) as error:
            self._refused(error)
        return sealed

    async def _sign(self) -> None:
        assert self.signer is not None
        try:
            await checkpoint(self.core, self.signer)
        except SigningRefused:
            # Unless operators have answered for the restore of a backup.
            if not await carry_out_restore(self.core, self.signer):
                raise
            await checkpoint(self.core, self.signer)
        await self.witnesses.cosign(self.core)

    def _refused(self, error: SigningRefused | NoteError | OSError) -> None:
        self.refusals_total += 1
        kind = error.refusal.value if isinstance(error, SigningRefused) else type(error).__name__
        told, at = self._told
        if kind == told and time.monotonic() - at < _REPEAT_S:
            return
        self._told = (kind, time.monotonic())
        log.error(
            "audit.checkpoint_refused",
            refusal=kind,
            detail=str(error),
            refusals_total=self.refusals_total,
        )
