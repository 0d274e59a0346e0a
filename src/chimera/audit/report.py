"""What a verification found, and how it is told.

What must stay true: the verdicts are the exit codes of the verifier, for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum


class Verdict(IntEnum):
    """VERIFIED: everything in the bundle is proven by the signed checkpoint. TAMPERED: something
    in it contradicts a signature, a hash or itself. INCOMPLETE: nothing is contradicted, but
    something that should be there is not. BAD_INPUT: not a bundle, or not signed by a given key,
    so that nothing can be said."""

    VERIFIED = 0
    TAMPERED = 1
    INCOMPLETE = 2
    BAD_INPUT = 3


# What decides when there are several findings: first the gravest.
_BY_GRAVITY = (Verdict.TAMPERED, Verdict.BAD_INPUT, Verdict.INCOMPLETE)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. index: the log index it was noticed at, where there is one.
    is_bound: that is no leaf found wrong, but the first one no longer proven."""

    verdict: Verdict
    index: int | None
    reason: str
    is_bound: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of one verification. Counts cover what was read before a finding stopped it.

    origin, size, root: of the last checkpoint, once its signature held. selection: the bundle shows
    chosen leaves, each with its own proof. proven_size: leaves up to here gave a signed root (only
    in a range). since_size: size of the
    older checkpoint, once it was found to be a prefix. foreign: leaves of which only the hash is
    shown; that they are in the tree is proven, and nothing else about them. hidden_numbers: writer
    numbers which may belong to dropped payloads and foreign leaves, so that no gap can be told.
    """

    origin: str | None
    size: int | None
    root: bytes | None
    selection: bool
    first_index: int
    proven_size: int
    entries: int
    tombstones: int
    foreign: int
    opened: int
    withheld: int
    checkpoints: int
    writers: int
    hidden_numbers: int
    since_size: int | None
    signed_by: tuple[str, ...]
    witnessed_by: tuple[tuple[str, int], ...]  # name, POSIX seconds
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        found = {finding.verdict for finding in self.findings}
        return next((verdict for verdict in _BY_GRAVITY if verdict in found), Verdict.VERIFIED)

    @property
    def first_bad_index(self) -> int | None:
        """The lowest log index of a finding of the deciding verdict."""
        indexes = [
            finding.index
            for finding in self.findings
            if finding.index is not None and finding.verdict is self.verdict
        ]
        return min(indexes, default=None)

    def __str__(self) -> str:
        lines = [f"verdict: {self.verdict.name.lower()}"]
        for finding in self.findings:
            where = "" if finding.index is None else f" at index {finding.index}"
            lines.append(f"  {finding.verdict.name.lower()}{where}: {finding.reason}")
        if self.size is not None and self.root is not None:
            lines.append(f"log: {self.origin}, size {self.size}, root {self.root.hex()}")
        if self.selection:
            lines.append(f"read: a selection of {self.entries} entries, each proven on its own")
        else:
            lines.append(
                f"read: {self.entries} entries and {self.tombstones} tombstones from index "
                f"{self.first_index}, {self.checkpoints} checkpoints, {self.writers} writers; "
                f"proven up to size {self.proven_size}"
            )
        if self.foreign:
            lines.append(f"not shown: {self.foreign} leaves of others, present by their hash only")
        lines.append(f"values: {self.opened} opened and correct, {self.withheld} not disclosed")
        if self.hidden_numbers:
            lines.append(f"not judged: {self.hidden_numbers} writer numbers in payloads not shown")
        if self.since_size is not None:
            lines.append(f"consistent with the older checkpoint of size {self.since_size}")
        if self.signed_by:
            lines.append(f"signed by: {', '.join(self.signed_by)}")
        for name, timestamp_s in self.witnessed_by:
            lines.append(f"witnessed by: {name}, {_time(timestamp_s)}")
        return "\n".join(lines)


def _time(timestamp_s: int) -> str:
    try:
        return datetime.fromtimestamp(timestamp_s, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return f"{timestamp_s} s since 1970"
