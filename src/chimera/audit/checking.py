"""Verifies the whole log for an operator who may not read it: tree, chain and checkpoints, from hashes
and from the database's own answer whether an event's bytes have their hash."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import Any

from chimera.audit import merkle
from chimera.audit.continuity import DroppedPayloads
from chimera.audit.leaf import GENESIS
from chimera.audit.operations import find_checkpoint
from chimera.audit.report import Verdict
from chimera.call import Call
from chimera.db import sql
from chimera.pools import Database
from chimera.v1.audit_pb2 import VerifyAuditLogResponse
from chimera.v1.options_pb2 import Access

PAGE_LEAVES = 5000
_REASONS_MAX = 20

CHECK_LEAVES = sql(
    dict,
    """
    SELECT log_index, leaf_hash, previous_hash, is_there, is_right, drop_range
      FROM audit.check_leaves(%(low)s, %(high)s)
    """,
)
LIST_ROOTS = sql(
    dict,
    """
    SELECT size, root FROM audit.checkpoints WHERE size > %(low)s AND size <= %(high)s ORDER BY size
    """,
)


@dataclass(slots=True)
class _Check:
    frontier: merkle.Frontier = merkle.EMPTY_TREE
    last_hash: bytes = GENESIS
    findings: list[tuple[Verdict, int, str]] = field(default_factory=list)
    dropped: DroppedPayloads = field(default_factory=DroppedPayloads)
    proven: int = 0

    def take(self, rows: list[dict[str, Any]], roots: list[dict[str, Any]], low: int) -> bool:
        """A page; False when nothing after it can be judged."""
        for offset, row in enumerate(rows):
            index = low + offset
            if row["log_index"] != index:
                return self._stop(Verdict.INCOMPLETE, index, f"leaf {index} is gone")
            if not row["is_there"]:
                self.dropped.drop(index)
            elif row["previous_hash"] != self.last_hash:
                return self._stop(
                    Verdict.TAMPERED, index, "the previous hash is not that of the leaf before"
                )
            elif not row["is_right"]:
                return self._stop(
                    Verdict.TAMPERED, index, "the event's bytes do not have the leaf's hash"
                )
            if row["drop_range"]:
                self.dropped.record_range(row["drop_range"], index)
            self.last_hash = row["leaf_hash"]
        at = 0
        hashes = [row["leaf_hash"] for row in rows]
        for signed in roots:
            upto = signed["size"] - low
            self.frontier = self.frontier.grow(hashes[at:upto])
            at = upto
            if self.frontier.root != signed["root"]:
                reason = f"leaves {self.proven} to {signed['size'] - 1} do not give the root signed"
                return self._stop(Verdict.TAMPERED, self.proven, reason)
            self.proven = signed["size"]
        self.frontier = self.frontier.grow(hashes[at:])
        return True

    def _stop(self, verdict: Verdict, index: int, reason: str) -> bool:
        self.findings.append((verdict, index, f"at index {index}: {reason}"))
        return False

    def result(self, done: int, size: int) -> VerifyAuditLogResponse:
        for index, reason in self.dropped.unrecorded():
            self.findings.append((Verdict.INCOMPLETE, index, reason))
        gravest = min((verdict for verdict, _, _ in self.findings), default=Verdict.VERIFIED)
        indexes = [index for verdict, index, _ in self.findings if verdict is gravest]
        return VerifyAuditLogResponse(
            done=done,
            size=size,
            verdict=gravest.name.lower(),
            first_bad_index=min(indexes, default=-1),
            reasons=[reason for _, _, reason in self.findings[:_REASONS_MAX]],
        )


async def verify_audit_log(db: Database, call: Call) -> AsyncIterator[VerifyAuditLogResponse]:
    """Progress, and at the end the verdict: up to the newest checkpoint, whose signature is checked
    by whoever keeps the key. A page is a transaction of its own."""
    reading = replaced(call, access=Access())
    async with db.begin(reading) as tx:
        newest = await find_checkpoint(tx)
    size = newest.size if newest else 0
    check = _Check()
    low = 0
    while low < size:
        high = min(low + PAGE_LEAVES, size)
        async with db.begin(reading) as tx:
            rows = await tx.all(CHECK_LEAVES, low=low, high=high)
            roots = await tx.all(LIST_ROOTS, low=low, high=high)
        missing = high - low - len(rows)
        if not check.take(rows, [] if missing else roots, low):
            break
        if missing:
            index = low + len(rows)
            check.findings.append((Verdict.INCOMPLETE, index, f"leaf {index} is gone"))
            break
        low = high
        yield VerifyAuditLogResponse(done=low, size=size, first_bad_index=-1)
    yield check.result(low, size)
