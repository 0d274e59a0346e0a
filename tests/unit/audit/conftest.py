"""A small log to export, damage and verify: real keys, real leaves, real signatures."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from chimera.audit import merkle
from chimera.audit.bundle import (
    Entry,
    Header,
    Line,
    Mode,
    Opening,
    SignedCheckpoint,
    Tombstone,
    encode_line,
)
from chimera.audit.leaf import (
    GENESIS,
    ActorKind,
    AuditEvent,
    FieldChange,
    Kind,
    Outcome,
    Severity,
    chain_leaf,
    committed_values,
    encode_leaf,
    new_salts,
)
from chimera.audit.note import Checkpoint, KeyKind, Note, SigningKey
from chimera.audit.report import Report
from chimera.audit.verify import verify_bundle

ORIGIN = "chimera.example/audit"


def make_event(number: int = 1, **changes) -> AuditEvent:
    event = AuditEvent(
        event_id=UUID(int=number),
        occurred_at=datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(microseconds=number),
        writer_id="server-1.conn-1",
        writer_seq=number,
        actor_kind=ActorKind.USER,
        actor_id=str(UUID(int=7)),
        outcome=Outcome.SUCCESS,
        severity=Severity.INFO,
        kind=Kind.DATA,
        action="campaign.launch",
        entity="campaign",
        entity_id=str(UUID(int=99)),
        org_id=UUID(int=5),
        ip="192.0.2.7",
        reason="quarterly test",
        fields=(FieldChange("state", b'"draft"', b'"running"'), FieldChange("budget", None, b"5")),
    )
    return replace(event, **changes)


@dataclass
class Log:
    """Seals events as the sealer does, and exports bundles line by line."""

    key: SigningKey = field(default_factory=lambda: SigningKey.generate(ORIGIN))
    events: list[tuple[AuditEvent, dict[str, bytes]]] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)

    def append(self, event: AuditEvent) -> None:
        salts = new_salts(event)
        self.events.append((event, salts))
        self.leaves.append(encode_leaf(event, salts))
        self.hashes.append(chain_leaf(self.prev(len(self.hashes)), self.leaves[-1]))

    def prev(self, index: int) -> bytes:
        return self.hashes[index - 1] if index else GENESIS

    @property
    def vkey(self) -> str:
        return str(self.key.verifier)

    def checkpoint(self, size: int | None = None) -> Note:
        size = len(self.hashes) if size is None else size
        text = Checkpoint(ORIGIN, size, merkle.root(self.hashes[:size])).text
        return Note(text, (self.key.sign(text),))

    def entry(self, index: int, *, opened: bool = True) -> Entry:
        event, salts = self.events[index]
        openings = tuple(
            Opening(name, salts[name], value) for name, value in committed_values(event).items()
        )
        return Entry(
            index,
            self.prev(index),
            self.leaves[index],
            self.hashes[index],
            openings if opened else (),
        )

    def proven(self, index: int) -> Entry:
        """An entry of a selection."""
        size = len(self.hashes)

        def node_at(level: int, at: int) -> bytes:
            return merkle.root(self.hashes[at << level : (at + 1) << level])

        proof = tuple(merkle.inclusion_proof(index, size, node_at))
        return replace(self.entry(index), proof=proof)

    def bundle(self, *, first: int = 0, dropped: range = range(0), at: tuple = ()) -> list[Line]:
        """A range from `first` on; `dropped` are tombstones, `at` sizes of earlier checkpoints."""
        frontier, _ = merkle.EMPTY_TREE.extend(self.hashes[:first])
        notes = [self.checkpoint(size) for size in at] + [self.checkpoint()]
        return [
            Header(ORIGIN, frontier=frontier),
            *(SignedCheckpoint(str(note)) for note in notes),
            *(
                Tombstone(n, self.hashes[n]) if n in dropped else self.entry(n)
                for n in range(first, len(self.hashes))
            ),
        ]

    def selection(self, *indexes: int) -> list[Line]:
        header = Header(ORIGIN, Mode.SELECTION)
        note = SignedCheckpoint(str(self.checkpoint()))
        return [header, note, *(self.proven(index) for index in indexes)]

    def verify(self, lines: list[Line], since: Note | None = None, *keys: str) -> Report:
        old = None if since is None else str(since)
        return verify_bundle(map(encode_line, lines), [self.vkey, *keys], old)


@pytest.fixture
def log() -> Log:
    """A log of eleven events by one writer."""
    log = Log()
    for number in range(1, 12):
        log.append(make_event(number))
    return log


@pytest.fixture
def event() -> Callable[..., AuditEvent]:
    return make_event


@pytest.fixture
def witness() -> SigningKey:
    return SigningKey.generate("witness.example/w1", KeyKind.COSIGNATURE)
