"""One pass over a bundle: header, checkpoints, then leaves in order of their index.

What must stay true: every leaf is recomputed from its bytes, and nothing is believed but signatures
by the given keys. Memory does not grow with the number of leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chimera.audit import merkle
from chimera.audit.bundle import (
    Entry,
    Foreign,
    Header,
    Line,
    Mode,
    Opening,
    SignedCheckpoint,
    Tombstone,
)
from chimera.audit.continuity import DroppedPayloads, WriterNumbers
from chimera.audit.leaf import GENESIS, LeafError, chain_leaf, commit
from chimera.audit.note import (
    Checkpoint,
    KeyKind,
    Note,
    NoteError,
    SignatureWrong,
    Verified,
    VerifierKey,
    verify_note,
)
from chimera.audit.policy import Policy
from chimera.audit.report import Finding, Report, Verdict
from chimera.audit.scanning import Scan, scan_leaf

Progress = Callable[[int, int | None], None]  # leaves done, leaves in all if known

CHECKPOINTS_MAX = 10_000
_BATCH = 4096


class Stop(Exception):
    """Nothing after this can be judged."""

    def __init__(
        self, verdict: Verdict, index: int | None, reason: str, *, is_bound: bool = False
    ) -> None:
        super().__init__(reason)
        self.finding = Finding(verdict, index, reason, is_bound)


class Verification:
    """`trust` the keys, `take` the lines in order, `finish`; all raise Stop at the first thing
    after which nothing can be judged. `report` tells how far it came and what was found."""

    def __init__(self, progress: Progress | None) -> None:
        self.findings: list[Finding] = []
        self.index = 0  # of the next leaf
        self._progress = progress
        self._keys: tuple[VerifierKey, ...] = ()
        self._old: Checkpoint | None = None
        self._header: Header | None = None
        self._is_range = True  # else a selection
        self._checkpoints: list[Checkpoint] = []
        self._verified: tuple[Verified, ...] = ()
        self._policy: Policy | None = None
        self._started = False
        self._milestones: list[Checkpoint] = []  # roots still to be met, next one last
        self._frontier = merkle.EMPTY_TREE
        self._proven_size = 0  # of the largest tree that gave its signed root
        self._batch: list[bytes] = []
        self._prev: bytes | None = GENESIS  # None where the leaf before is not in the bundle
        self._writers = WriterNumbers(from_start=True)
        self._dropped = DroppedPayloads()
        self._since_size: int | None = None
        self._entries = self._foreign = self._opened = self._withheld = 0

    # --- keys and checkpoints ---------------------------------------------------------------------

    def trust(
        self, vkeys: Sequence[str], old_checkpoint: str | None, policy: Policy | None = None
    ) -> None:
        self._policy = policy
        try:
            given = [VerifierKey.parse(vkey) for vkey in vkeys]
            self._keys = tuple(dict.fromkeys([*given, *(policy.keys if policy else [])]))
        except NoteError as error:
            raise Stop(Verdict.BAD_INPUT, None, f"key: {error}") from error
        if old_checkpoint is not None:
            self._old, _ = self._signed(old_checkpoint, "the older checkpoint")

    def _signed(self, text: str, what: str) -> tuple[Checkpoint, tuple[Verified, ...]]:
        try:
            note = Note.parse(text)
            verified = verify_note(note, self._keys)
            checkpoint = Checkpoint.parse(note.text)
        except SignatureWrong as error:
            raise Stop(Verdict.TAMPERED, None, f"{what}: {error}") from error
        except NoteError as error:
            raise Stop(Verdict.BAD_INPUT, None, f"{what}: {error}") from error
        # A witness's key, or the key of another log, does not speak for this one.
        log_key = (checkpoint.origin, KeyKind.ED25519)
        if not any((v.key.name, v.key.kind) == log_key for v in verified):
            reason = f"{what}: not signed by a given key of the log {checkpoint.origin!r}"
            raise Stop(Verdict.BAD_INPUT, None, reason)
        return checkpoint, verified

    def take(self, line: Line) -> None:
        match line:
            case Entry():  # first, as nearly all are
                self._start()
                self._take_entry(line)
            case Header():
                self._take_header(line)
            case SignedCheckpoint():
                self._take_checkpoint(line)
            case Tombstone():
                self._start()
                self._take_tombstone(line)
            case Foreign():
                self._start()
                self._take_foreign(line)

    def _take_header(self, header: Header) -> None:
        if self._header is not None:
            raise Stop(Verdict.BAD_INPUT, None, "the bundle has two headers")
        if self._old is not None and self._old.origin != header.origin:
            raise Stop(Verdict.BAD_INPUT, None, "the older checkpoint is of another log")
        self._header = header
        self._is_range = header.mode is Mode.RANGE
        self._frontier = header.frontier
        self.index = self._proven_size = header.frontier.size
        whole = self._is_range and self.index == 0
        self._prev = GENESIS if whole else None
        self._writers = WriterNumbers(from_start=whole)

    def _take_checkpoint(self, line: SignedCheckpoint) -> None:
        if self._header is None or self._started:
            raise Stop(Verdict.BAD_INPUT, None, "checkpoints stand between header and leaves")
        checkpoint, verified = self._signed(line.note, f"checkpoint {len(self._checkpoints) + 1}")
        if checkpoint.origin != self._header.origin:
            raise Stop(Verdict.BAD_INPUT, None, "a checkpoint is of another log")
        if checkpoint.size < self._frontier.size or len(self._checkpoints) >= CHECKPOINTS_MAX:
            raise Stop(Verdict.BAD_INPUT, None, "a checkpoint lies before the first leaf, or "
                        f"there are more than {CHECKPOINTS_MAX}")  # fmt: skip
        last = self._checkpoints[-1] if self._checkpoints else None
        if last and checkpoint.size < last.size:
            raise Stop(Verdict.BAD_INPUT, None, "checkpoints are not in order of their size")
        if last and checkpoint.size == last.size and checkpoint.root != last.root:
            raise _split_view(checkpoint.size)
        self._checkpoints.append(checkpoint)
        self._verified = verified

    def _start(self) -> None:
        """All checkpoints are known; make the list of roots the leaves have to lead to."""
        if self._started:
            return
        if self._header is None or not self._checkpoints:
            raise Stop(Verdict.BAD_INPUT, None, "the bundle has no header or no checkpoint")
        self._started = True
        old = self._old
        for checkpoint in self._checkpoints:
            if old and old.size == checkpoint.size and old.root != checkpoint.root:
                raise _split_view(old.size)
        head = self._checkpoints[-1]
        if self._is_range:
            milestones = list(self._checkpoints)
            if old and self._frontier.size <= old.size <= head.size:
                milestones.append(old)
            self._milestones = sorted(milestones, key=lambda c: c.size, reverse=True)
            self._meet_milestones()
        elif old == head:
            self._since_size = head.size
        if old and self._since_size is None and old not in self._milestones:
            self._find_since_unproven(old)
        first = self._frontier.size
        if first and not (old and old.size >= first):
            # The header is not signed: whoever cut off the beginning could have written it.
            reason = f"leaves 0 to {first - 1} are not in the bundle, nor in an older checkpoint"
            self.findings.append(Finding(Verdict.INCOMPLETE, 0, reason))

    def _find_since_unproven(self, old: Checkpoint) -> None:
        head = self._checkpoints[-1]
        if old.size > head.size:
            reason = f"the log had {old.size} leaves; the bundle's checkpoint covers {head.size}"
            self.findings.append(Finding(Verdict.INCOMPLETE, head.size, reason))
        else:
            reason = f"the bundle does not show that the log grew from {old.size} leaves"
            self.findings.append(Finding(Verdict.INCOMPLETE, None, reason))

    # --- leaves -----------------------------------------------------------------------------------

    def _expect_index(self, index: int) -> None:
        size = self._checkpoints[-1].size
        if index < self.index:
            raise Stop(Verdict.BAD_INPUT, index, "leaves are not in order of their index")
        if index >= size:
            reason = f"the leaf is beyond the last checkpoint, of size {size}: nobody signed it"
            raise Stop(Verdict.INCOMPLETE, index, reason)
        if index > self.index:
            if self._is_range:
                reason = f"leaves {self.index} to {index - 1} are not in the bundle"
                raise Stop(Verdict.INCOMPLETE, self.index, reason)
            self.index = index
            self._prev = None

    def _take_entry(self, entry: Entry) -> None:
        self._expect_index(entry.index)
        if self._prev is None:
            if entry.index == 0 and entry.prev != GENESIS:
                raise Stop(Verdict.TAMPERED, 0, "leaf 0 follows another leaf")
        elif entry.prev != self._prev:
            reason = "the previous hash is not that of the leaf before"
            raise Stop(Verdict.TAMPERED, entry.index, reason)
        if chain_leaf(entry.prev, entry.leaf) != entry.hash:
            reason = "the leaf's bytes do not have the recorded hash"
            raise Stop(Verdict.TAMPERED, entry.index, reason)
        if (entry.proof is None) is not self._is_range:
            reason = "entries have a proof in a selection, and none in a range"
            raise Stop(Verdict.BAD_INPUT, entry.index, reason)
        if entry.proof is not None:
            self._take_proof(entry, entry.proof)
        self._take_leaf(entry)
        self._entries += 1
        self._advance(entry.hash)

    def _take_proof(self, entry: Entry, proof: Sequence[bytes]) -> None:
        head = self._checkpoints[-1]
        try:
            merkle.verify_inclusion(entry.hash, entry.index, head.size, proof, head.root)
        except merkle.ProofError as error:
            raise Stop(Verdict.TAMPERED, entry.index, error.reason) from error

    def _take_leaf(self, entry: Entry) -> None:
        try:
            leaf = scan_leaf(entry.leaf)
            if entry.openings:
                _check_openings(leaf, entry.openings)
        except LeafError as error:
            raise Stop(Verdict.TAMPERED, entry.index, str(error)) from error
        self._opened += len(entry.openings)
        self._withheld += len(leaf.names) - len(entry.openings)
        if self._is_range:
            self._take_numbers(leaf, entry.index)

    def _take_numbers(self, leaf: Scan, index: int) -> None:
        if leaf.drop_range is not None:
            self._dropped.record_range(leaf.drop_range, index)
        unseen = self._dropped.count + self._foreign
        if not self._writers.take(leaf.writer_id, leaf.writer_seq, index, unseen):
            reason = f"writer {leaf.writer_id} used number {leaf.writer_seq} before"
            raise Stop(Verdict.TAMPERED, index, reason)

    def _take_tombstone(self, tombstone: Tombstone) -> None:
        if not self._is_range:
            raise Stop(Verdict.BAD_INPUT, tombstone.index, "a selection has no tombstones")
        self._expect_index(tombstone.index)
        self._dropped.drop(tombstone.index)
        self._advance(tombstone.hash)

    def _take_foreign(self, foreign: Foreign) -> None:
        if not self._is_range:
            raise Stop(Verdict.BAD_INPUT, foreign.index, "a selection has no foreign leaves")
        self._expect_index(foreign.index)
        self._foreign += 1
        self._advance(foreign.hash)

    def _advance(self, leaf_hash: bytes) -> None:
        self._prev = leaf_hash
        self.index += 1
        if not self._is_range:
            if self._entries % _BATCH == 0 and self._progress:
                self._progress(self._entries, None)
            return
        self._batch.append(leaf_hash)
        if len(self._batch) >= _BATCH or self.index == self._milestones[-1].size:
            self._flush()

    def _flush(self) -> None:
        """Hash the waiting leaves into the tree and compare its root where one is signed."""
        self._frontier = self._frontier.grow(self._batch)
        self._batch.clear()
        self._meet_milestones()
        if self._progress and self._header:
            first, size = self._header.frontier.size, self._checkpoints[-1].size
            self._progress(self.index - first, size - first)

    def _meet_milestones(self) -> None:
        while self._milestones and self._milestones[-1].size == self._frontier.size:
            milestone = self._milestones.pop()
            size = milestone.size
            if milestone.root != self._frontier.root:
                reason = f"the leaves up to {size - 1} do not give the root signed for size {size}"
                raise Stop(Verdict.TAMPERED, self._proven_size, reason, is_bound=True)
            self._proven_size = size
            if milestone is self._old:
                self._since_size = size

    # --- the end ----------------------------------------------------------------------------------

    def finish(self) -> None:
        """Nothing more comes; judge what only the end can tell."""
        self._start()
        size = self._checkpoints[-1].size
        if self._is_range and self.index < size:
            reason = f"leaves {self.index} to {size - 1} are not in the bundle"
            raise Stop(Verdict.INCOMPLETE, self.index, reason)
        if self._policy and not self._policy.is_met(v.key for v in self._verified):
            reason = f"the last checkpoint is not cosigned by {self._policy}"
            self.findings.append(Finding(Verdict.INCOMPLETE, None, reason))
        for index, reason in [*self._writers.missing(), *self._dropped.unrecorded()]:
            self.findings.append(Finding(Verdict.INCOMPLETE, index, reason))

    def report(self) -> Report:
        head = self._checkpoints[-1] if self._checkpoints else None
        return Report(
            origin=head.origin if head else None,
            size=head.size if head else None,
            root=head.root if head else None,
            selection=not self._is_range,
            proven_size=self._proven_size,
            first_index=self._header.frontier.size if self._header else 0,
            entries=self._entries,
            tombstones=self._dropped.count,
            foreign=self._foreign,
            opened=self._opened,
            withheld=self._withheld,
            checkpoints=len(self._checkpoints),
            writers=len(self._writers),
            hidden_numbers=self._writers.hidden_count,
            since_size=self._since_size,
            signed_by=tuple(v.key.name for v in self._verified if v.timestamp_s is None),
            witnessed_by=tuple(
                (v.key.name, v.timestamp_s) for v in self._verified if v.timestamp_s is not None
            ),
            findings=tuple(self.findings),
        )


def _check_openings(leaf: Scan, openings: Sequence[Opening]) -> None:
    """Raises LeafError unless the leaf committed to these values under their names."""
    if len(openings) == len(leaf.names):  # mostly all of them, in their order
        for opening, name, digest in zip(openings, leaf.names, leaf.digests, strict=True):
            if opening.name != name or commit(name, opening.salt, opening.value) != digest:
                break
        else:
            return
    digests = leaf.commitments
    for opening in openings:
        if opening.name not in digests:
            raise LeafError(f"the leaf commits to no {opening.name!r}")
        if commit(opening.name, opening.salt, opening.value) != digests[opening.name]:
            raise LeafError(f"{opening.name!r} is not the value that was committed")


def _split_view(size: int) -> Stop:
    return Stop(Verdict.TAMPERED, None, f"two different roots are signed for size {size}")
