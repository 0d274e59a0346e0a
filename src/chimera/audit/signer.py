"""The guarded signer: the log's key, and a memory outside the database of what it last signed.

What must stay true: it never signs two checkpoints that contradict each other, whatever the
database says, so that a restored backup or a rewritten table is noticed at the next checkpoint.
Only the recovery ceremony (`accept_restore`) lets go of a signed checkpoint, and leaves a signed
statement of who allowed it and why.

The state file is JSON: `checkpoint`, the last signed note, and `restores`, the signed statements.
The signer trusts it only as far as its own key signed it. A missing file is an error, not a fresh
start: otherwise deleting it would switch the guard off.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from chimera.audit import merkle
from chimera.audit.durable import locked, write_durably
from chimera.audit.note import Checkpoint, KeyKind, Note, NoteError, SigningKey, verify_note

RESTORE_HEADER = "chimera.audit.restore/v1"


class Refusal(StrEnum):
    SMALLER = "smaller"
    OTHER_ROOT = "other_root"
    INCONSISTENT = "inconsistent"
    INVALID = "invalid"
    STATE_MISSING = "state_missing"
    STATE_BROKEN = "state_broken"
    STATE_EXISTS = "state_exists"


class SigningRefused(Exception):
    """The signer will not sign; `refusal` says which rule stood in the way."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class _State:
    note: Note
    checkpoint: Checkpoint
    restores: tuple[str, ...]


def check_growth(last: Checkpoint, proposed: Checkpoint, proof: Sequence[bytes]) -> None:
    """Check that `proposed` continues `last`; raises merkle.ProofError. Everything continues the
    empty log, by an empty proof."""
    if last.size == 0 < proposed.size:
        if proof:
            raise merkle.ProofError("the proof has superfluous nodes")
        return
    merkle.verify_consistency(last.size, last.root, proposed.size, proposed.root, proof)


class GuardedSigner:
    """Signs checkpoints of one log. Safe to use from several threads and processes at once: each
    call locks and reads the state file. Calls do file I/O with fsync; keep them off an event loop.
    """

    def __init__(self, key: SigningKey, origin: str, state_path: Path) -> None:
        """origin: the log's name, which is also the key's. Raises ValueError if they differ."""
        if key.verifier.name != origin or key.verifier.kind is not KeyKind.ED25519:
            raise ValueError("the signing key must be an Ed25519 key named as the log's origin")
        self._key = key
        self._origin = origin
        self._path = state_path

    def __repr__(self) -> str:
        return f"GuardedSigner({self._origin!r}, state={str(self._path)!r})"

    @property
    def verifier_key(self) -> str:
        """The public key its notes are checked with."""
        return str(self._key.verifier)

    def create_state(self) -> Note:
        """Begin a new log: sign the empty tree. Once per log; refused if there is a state."""
        with locked(self._path):
            if self._path.exists():
                raise SigningRefused(Refusal.STATE_EXISTS, f"{self._path} exists already")
            return self._sign(Checkpoint(self._origin, 0, merkle.EMPTY_ROOT), ())

    def last(self) -> Checkpoint:
        """The last signed checkpoint: where the next consistency proof has to start."""
        with locked(self._path):
            return self._read().checkpoint

    def last_note(self) -> str:
        """The last signed checkpoint as its note, for a verification."""
        with locked(self._path):
            return str(self._read().note)

    def restores(self) -> tuple[str, ...]:
        """The signed statements of all restores that were accepted, oldest first."""
        with locked(self._path):
            return self._read().restores

    def sign(self, size: int, root: bytes, consistency_proof: Sequence[bytes]) -> Note:
        """Sign a checkpoint that grows from the last one; the state is durable before it returns.

        consistency_proof: from `last()` to (size, root); empty if the size is the same or the last
        size is 0. Call it only when the leaves themselves are durable. The same (size, root) again
        gives the same note again. Raises SigningRefused.
        """
        with locked(self._path):
            state = self._read()
            proposed = self._proposed(size, root)
            last = state.checkpoint
            if size < last.size:
                raise SigningRefused(
                    Refusal.SMALLER,
                    f"size {size} was proposed after size {last.size} was signed: the log was "
                    "rolled back or another log is being shown",
                )
            if size == last.size and root != last.root:
                raise SigningRefused(Refusal.OTHER_ROOT, f"another root was signed for size {size}")
            try:
                check_growth(last, proposed, consistency_proof)
            except merkle.ProofError as error:
                raise SigningRefused(
                    Refusal.INCONSISTENT,
                    f"size {size} is not shown to contain the signed size {last.size}: "
                    f"{error.reason}",
                ) from error
            return state.note if proposed == last else self._sign(proposed, state.restores)

    def accept_restore(
        self, size: int, root: bytes, *, reason: str, approved_by: Sequence[str], at: datetime
    ) -> tuple[Note, Note]:
        """The recovery ceremony: go on from (size, root) although it contradicts the last signed
        checkpoint, as after the legitimate restore of a backup.

        reason: one line. approved_by: who answers for it, one or more names without commas.
        at: aware. Returns (statement, checkpoint): the signed statement, to be recorded as an audit
        event and published, and the checkpoint to go on from. Both are in the state file before
        this returns. Raises SigningRefused.
        """
        with locked(self._path):
            state = self._read()
            target = self._proposed(size, root)
            if target == state.checkpoint:
                raise SigningRefused(Refusal.INVALID, "this checkpoint is the last signed one")
            text = _restore_text(state.checkpoint, target, reason, approved_by, at)
            statement = Note(text, (self._key.sign(text),))
            return statement, self._sign(target, (*state.restores, str(statement)))

    def _proposed(self, size: int, root: bytes) -> Checkpoint:
        try:
            return Checkpoint(self._origin, size, root)
        except NoteError as error:
            raise SigningRefused(Refusal.INVALID, str(error)) from error

    def _sign(self, checkpoint: Checkpoint, restores: tuple[str, ...]) -> Note:
        note = Note(checkpoint.text, (self._key.sign(checkpoint.text),))
        # Written before it is handed out: a crash in between costs a signature nobody has seen,
        # the other order could leave a published checkpoint that the signer forgot.
        write_durably(self._path, json.dumps({"checkpoint": str(note), "restores": restores}))
        return note

    def _read(self) -> _State:
        try:
            text = self._path.read_text("utf-8")
        except FileNotFoundError:
            raise SigningRefused(
                Refusal.STATE_MISSING,
                f"{self._path} is missing: bring it back from its backup, or begin a new log",
            ) from None
        try:
            content = json.loads(text)
            note = Note.parse(content["checkpoint"])
            restores = tuple(content["restores"])
            for signed in (note, *map(Note.parse, restores)):
                verify_note(signed, [self._key.verifier])
            checkpoint = Checkpoint.parse(note.text)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SigningRefused(
                Refusal.STATE_BROKEN, f"{self._path} is not what this key signed: {error}"
            ) from error
        if checkpoint.origin != self._origin:
            raise SigningRefused(Refusal.STATE_BROKEN, f"{self._path} belongs to another log")
        return _State(note, checkpoint, restores)


def _restore_text(
    last: Checkpoint, target: Checkpoint, reason: str, approved_by: Sequence[str], at: datetime
) -> str:
    """The statement. Its second line is no tree size, so it can never be read as a checkpoint."""
    if at.utcoffset() is None:
        raise SigningRefused(Refusal.INVALID, "the time of a restore has no time zone")
    if isinstance(approved_by, str) or not approved_by:
        raise SigningRefused(Refusal.INVALID, "a restore needs the names of who approved it")
    for value in (reason, *approved_by):
        if not value.strip() or not value.isprintable():
            raise SigningRefused(Refusal.INVALID, "reason and names are one line each, not empty")
    if any("," in name for name in approved_by):
        raise SigningRefused(Refusal.INVALID, "names have no commas")
    utc = at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
    return (
        f"{RESTORE_HEADER}\n"
        f"origin {target.origin}\n"
        f"from {last.size} {last.root.hex()}\n"
        f"to {target.size} {target.root.hex()}\n"
        f"at {utc}\n"
        f"approved-by {','.join(approved_by)}\n"
        f"reason {reason}\n"
    )
