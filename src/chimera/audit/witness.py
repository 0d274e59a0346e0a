"""A witness: remembers the last checkpoint of a log and cosigns only what continues it.

Its folder: `witness.key` (the cosigning key), `logs` (keys of the logs it watches, one a line),
`state.json` (the last checkpoint of each), and, where it is shown the leaves, `leaves-<key id>`.

What must stay true:
- It never cosigns two checkpoints of one log that contradict each other. Comparing with the last one
  and remembering the new one are one step, durable before the cosignature is out.
- A lost state is a refusal, not a fresh start. `accept_restore`, with the log's own signed statement,
  is the only way back to a smaller log.
- It needs nothing of the server it watches.

Source: c2sp.org/tlog-witness, c2sp.org/tlog-cosignature.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from chimera.audit import merkle
from chimera.audit.durable import locked, write_durably
from chimera.audit.note import (
    Checkpoint,
    KeyKind,
    Note,
    NoteError,
    SigningKey,
    VerifierKey,
    verify_note,
)
from chimera.audit.signer import RESTORE_HEADER, check_growth

PROOF_HASHES_MAX = 63
_BATCH = 4096
_KEY, _LOGS, _STATE, _LEAVES = "witness.key", "logs", "state.json", "leaves"


class Reason(StrEnum):
    UNKNOWN_LOG = "unknown_log"
    NOT_SIGNED = "not_signed"
    MALFORMED = "malformed"
    OTHER_SIZE = "other_size"
    OTHER_ROOT = "other_root"
    INCONSISTENT = "inconsistent"
    STATE_BROKEN = "state_broken"


class WitnessRefused(Exception):
    """The witness does not cosign. size: of the last checkpoint it cosigned, where it matters."""

    def __init__(self, reason: Reason, message: str, size: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.size = size


class Witness:
    """The witness of a folder. Safe to use from several threads and processes at once; each call
    reads and writes files, so keep it off an event loop."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Raises NoteError and OSError when its files cannot be read."""
        self.folder = folder
        self._key = SigningKey.load(folder / _KEY)
        if self._key.verifier.kind is not KeyKind.COSIGNATURE:
            raise NoteError("the key of a witness has to be a cosigning key")
        lines = (folder / _LOGS).read_text("utf-8").split()
        self._logs = {key.name: key for key in map(VerifierKey.parse, lines)}
        self._clock = clock

    @classmethod
    def create(cls, folder: Path, name: str, logs: Sequence[str]) -> Witness:
        """A new witness of these logs (verifier keys), with a new key. Raises NoteError,
        FileExistsError."""
        keys = [VerifierKey.parse(log) for log in logs]
        if any(key.kind is not KeyKind.ED25519 for key in keys):
            raise NoteError("a log has an Ed25519 key that signs, not one that cosigns")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        SigningKey.generate(name, KeyKind.COSIGNATURE).save(folder / _KEY)
        (folder / _LOGS).write_text("".join(f"{key}\n" for key in keys), "utf-8")
        write_durably(folder / _STATE, json.dumps({}))
        return cls(folder)

    @property
    def verifier_key(self) -> VerifierKey:
        return self._key.verifier

    def last(self, origin: str) -> Checkpoint | None:
        """The last checkpoint it cosigned of a log."""
        with locked(self.folder / _STATE):
            memory = self._read().get(origin)
        return None if memory is None else memory.checkpoint(origin)

    def last_notes(self) -> list[str]:
        """The last checkpoint cosigned of each log."""
        with locked(self.folder / _STATE):
            return [memory.note for memory in self._read().values() if memory.note]

    def add_checkpoint(self, old_size: int, proof: Sequence[bytes], checkpoint: str) -> str:
        """Cosigns a log's checkpoint that continues the last one; returns the signature line.

        old_size: of the last checkpoint this witness cosigned, 0 for none. proof: RFC 6962, from
        there. Raises WitnessRefused.
        """
        note, proposed = self._signed_by_its_log(checkpoint)
        if old_size > proposed.size or len(proof) > PROOF_HASHES_MAX:
            raise WitnessRefused(Reason.MALFORMED, "the old size is beyond the checkpoint, or the "
                                 "proof has too many hashes")  # fmt: skip
        with self._changing(proposed.origin) as memory:
            last = memory.checkpoint(proposed.origin)
            if old_size != last.size:
                message = f"the last checkpoint cosigned has size {last.size}, not {old_size}"
                raise WitnessRefused(Reason.OTHER_SIZE, message, last.size)
            if proposed.size == last.size and proposed.root != last.root:
                message = f"another root was cosigned for size {last.size}"
                raise WitnessRefused(Reason.OTHER_ROOT, message, last.size)
            try:
                check_growth(last, proposed, proof)
            except merkle.ProofError as error:
                raise WitnessRefused(Reason.INCONSISTENT, error.reason, last.size) from error
            memory.remember(proposed, note)
        return self._cosignature(note)

    def add_leaves(self, checkpoint: str, leaves_from: Callable[[int], Iterator[bytes]]) -> str:
        """As `add_checkpoint`, but it is shown the leaves: it keeps every leaf hash, so that later
        it can name the first one that was changed. leaves_from: leaf hashes from an index on.

        Raises WitnessRefused.
        """
        note, proposed = self._signed_by_its_log(checkpoint)
        with self._changing(proposed.origin) as memory:
            last = memory.checkpoint(proposed.origin)
            if proposed.size < last.size:
                message = f"{proposed.size} leaves are shown after {last.size} were"
                raise WitnessRefused(Reason.OTHER_SIZE, message, last.size)
            with self._leaves(proposed.origin).open("ab") as file:
                frontier = memory.frontier
                if (frontier.size, frontier.root) != (last.size, last.root) or (
                    file.tell() < last.size * merkle.HASH_BYTES
                ):
                    frontier = merkle.EMPTY_TREE  # after a restore: all of them anew
                # What a crash left behind the last checkpoint was never vouched for.
                file.truncate(frontier.size * merkle.HASH_BYTES)
                source = leaves_from(frontier.size)
                for target in (last, proposed):
                    frontier = _append(file, frontier, source, target)
                file.flush()
                os.fsync(file.fileno())
            memory.frontier = frontier
            memory.remember(proposed, note)
        return self._cosignature(note)

    def first_difference(self, origin: str, index: int, hashes: Sequence[bytes]) -> int | None:
        """The first index from `index` on whose leaf hash is not the one this witness kept; None
        where they agree, or where it kept none."""
        try:
            with self._leaves(origin).open("rb") as file:
                file.seek(index * merkle.HASH_BYTES)
                kept = file.read(len(hashes) * merkle.HASH_BYTES)
        except FileNotFoundError:
            return None
        if kept == b"".join(hashes)[: len(kept)]:
            return None
        for offset, value in enumerate(hashes):
            at = offset * merkle.HASH_BYTES
            if kept[at : at + merkle.HASH_BYTES] not in (value, b""):
                return index + offset
        return None

    def accept_restore(self, statement: str) -> Checkpoint:
        """Goes back to where a legitimate restore began, because the log's own signed statement says
        so; returns what it now stands at. Whoever runs the witness decides that, by hand.

        Raises WitnessRefused when the statement is not signed by a log it watches, or does not
        concern what it cosigned last.
        """
        try:
            note = Note.parse(statement)
            verify_note(note, self._logs.values())
            facts = dict(line.split(" ", 1) for line in note.text.split("\n")[1:-1])
            if note.text.split("\n")[0] != RESTORE_HEADER:
                raise NoteError("not a statement about a restore")
            origin = facts["origin"]
            verify_note(note, [self._logs[origin]])
            size, root = facts["to"].split(" ")
            target = Checkpoint(origin, int(size), bytes.fromhex(root))
            from_size = int(facts["from"].split(" ")[0])
        except (NoteError, KeyError, ValueError) as error:
            raise WitnessRefused(Reason.NOT_SIGNED, f"not a log's statement: {error}") from error
        with self._changing(origin) as memory:
            last = memory.checkpoint(origin)
            if last.size > from_size:
                message = f"{last.size} leaves were cosigned, the statement knows of {from_size}"
                raise WitnessRefused(Reason.OTHER_SIZE, message, last.size)
            memory.restores.append(statement)
            memory.size, memory.root, memory.note = target.size, target.root, ""
            memory.frontier = merkle.EMPTY_TREE
        return target

    def _signed_by_its_log(self, checkpoint: str) -> tuple[Note, Checkpoint]:
        try:
            note = Note.parse(checkpoint)
            proposed = Checkpoint.parse(note.text)
        except NoteError as error:
            raise WitnessRefused(Reason.MALFORMED, str(error)) from error
        key = self._logs.get(proposed.origin)
        if key is None:
            raise WitnessRefused(Reason.UNKNOWN_LOG, f"no log is called {proposed.origin!r} here")
        try:
            verify_note(note, [key])
        except NoteError as error:
            raise WitnessRefused(Reason.NOT_SIGNED, str(error)) from error
        return note, proposed

    def _cosignature(self, note: Note) -> str:
        signature = self._key.cosign(note.text, int(self._clock()))
        return str(Note(note.text, (signature,))).removeprefix(note.text + "\n")

    def _leaves(self, origin: str) -> Path:
        return self.folder / f"{_LEAVES}-{self._logs[origin].key_id.hex()}"

    @contextmanager
    def _changing(self, origin: str) -> Iterator[_Memory]:
        """What it remembers of a log, to be changed; durable when this ends without an error."""
        with locked(self.folder / _STATE):
            memories = self._read()
            memory = memories.setdefault(origin, _Memory())
            yield memory
            text = json.dumps({name: each.json() for name, each in memories.items()})
            write_durably(self.folder / _STATE, text)

    def _read(self) -> dict[str, _Memory]:
        try:
            state = json.loads((self.folder / _STATE).read_text("utf-8"))
            return {origin: _Memory.of(kept) for origin, kept in state.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise WitnessRefused(Reason.STATE_BROKEN, f"its memory is gone: {error}") from error


@dataclass(slots=True)
class _Memory:
    """The last checkpoint of one log. frontier: of the leaves it keeps, if it keeps them."""

    size: int = 0
    root: bytes = merkle.EMPTY_ROOT
    note: str = ""
    frontier: merkle.Frontier = merkle.EMPTY_TREE
    restores: list[str] = field(default_factory=list)

    def checkpoint(self, origin: str) -> Checkpoint:
        return Checkpoint(origin, self.size, self.root)

    def remember(self, checkpoint: Checkpoint, note: Note) -> None:
        self.size, self.root, self.note = checkpoint.size, checkpoint.root, str(note)

    def json(self) -> dict[str, Any]:
        frontier = [value.hex() for value in self.frontier.hashes]
        return {"size": self.size, "root": self.root.hex(), "note": self.note,
                "frontier_size": self.frontier.size, "frontier": frontier,
                "restores": self.restores}  # fmt: skip

    @classmethod
    def of(cls, kept: dict[str, Any]) -> _Memory:
        hashes = tuple(bytes.fromhex(text) for text in kept["frontier"])
        return cls(kept["size"], bytes.fromhex(kept["root"]), kept["note"],
                   merkle.Frontier(kept["frontier_size"], hashes), list(kept["restores"]))  # fmt: skip


def _append(
    file: BinaryIO, frontier: merkle.Frontier, source: Iterator[bytes], target: Checkpoint
) -> merkle.Frontier:
    """Writes leaf hashes up to a checkpoint and holds them against its root."""
    while frontier.size < target.size:
        batch = list(islice(source, min(_BATCH, target.size - frontier.size)))
        if not batch:
            message = f"of {target.size} leaves {frontier.size} are shown"
            raise WitnessRefused(Reason.INCONSISTENT, message, target.size)
        try:
            frontier = frontier.grow(batch)
        except merkle.ProofError as error:
            raise WitnessRefused(Reason.MALFORMED, error.reason) from error
        file.write(b"".join(batch))
    if frontier.size == target.size and frontier.root != target.root:
        message = f"the leaves shown do not give the root signed for {target.size}"
        raise WitnessRefused(Reason.INCONSISTENT, message, target.size)
    return frontier
