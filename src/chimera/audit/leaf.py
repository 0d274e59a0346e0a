"""The exact bytes of an audit event: encoding, commitments, and the chained leaf hash.

What must stay true:
- One event has one encoding and one encoding has one event: every part has a fixed width or a
  length in front, flags are 0 or 1, commitments are sorted. `decode_leaf` accepts nothing else.
- A leaf holds no personal data. Facts that name nobody (ids, kinds, times) stand in the clear;
  whatever may have to be erased (addresses, reasons, old and new values) is a salted commitment.
  Destroying salt and value later leaves the leaf, and every proof over it, as it was.
- Bytes are hashed and stored, never rebuilt from columns: no database type round-trips exactly.

Layout of version 1 (big-endian): magic "CAL" 0x01, event id (16), microseconds since 1970 UTC
(i64), writer seq (u64), actor kind, outcome, severity, kind (u8 each), then org id, session id,
API key id (each a flag, and 16 bytes if it is 1), writer id, action, entity (u16 length + ASCII),
actor id, entity id, request id (each a flag, and u16 length + ASCII if it is 1), number of
commitments (u16), and per commitment its name (u16 length + ASCII) and 32-byte hash.
"""

from __future__ import annotations

import re
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

from chimera.audit import merkle

MAGIC = b"CAL\x01"
SALT_BYTES = 32
GENESIS = bytes(merkle.HASH_BYTES)  # the previous hash of leaf 0
WRITER_SEQ_MAX = 2**63 - 1  # fits a PostgreSQL bigint

# A drop of payloads is itself an event; the verifier wants one for every leaf without a payload.
DROP_ACTION = "audit.payloads.drop"
DROP_ENTITY = "audit.leaves"  # entity_id is "first-last": log indexes, both inclusive

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIXED = struct.Struct(">4s16sqQBBBB")
_U16 = struct.Struct(">H")
# Printable ASCII without space and "@": identifiers fit, mail addresses and names with spaces do
# not, so that they cannot slip into bytes which can never be erased.
_TOKEN = re.compile(r"[!-?A-~]{1,255}")
_TOKEN_BYTES = re.compile(_TOKEN.pattern.encode())
_ACTION = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")


class LeafError(ValueError):
    """An event cannot be encoded, or bytes are not a leaf. Never contains a field's value."""


class ActorKind(StrEnum):
    USER = "user"
    API_KEY = "api_key"
    WORKER = "worker"
    SYSTEM = "system"
    ANONYMOUS = "anonymous"


class Outcome(StrEnum):
    SUCCESS = "success"
    DENIED = "denied"
    FAILED = "failed"


class Severity(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    NOTICE = "notice"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class Kind(StrEnum):
    SECURITY = "security"
    DATA = "data"
    ACCESS = "access"
    SYSTEM = "system"


# The position is the byte on record: members may be added at the end, never moved or removed.
_ACTOR_KINDS = tuple(ActorKind)
_OUTCOMES = tuple(Outcome)
_SEVERITIES = tuple(Severity)
_KINDS = tuple(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is on record in the clear for ever.

    occurred_at: aware; recorded as UTC microseconds. writer_id, writer_seq: each writer counts its
    committed events 1, 2, 3 ..., so that one removed before sealing leaves a gap. Strings are 1 to
    255 characters of printable ASCII without space and "@"; action is dotted lower case.
    """

    event_id: UUID
    occurred_at: datetime
    writer_id: str
    writer_seq: int
    actor_kind: ActorKind
    outcome: Outcome
    severity: Severity
    kind: Kind
    action: str
    entity: str
    org_id: UUID | None = None
    session_id: UUID | None = None
    api_key_id: UUID | None = None
    actor_id: str | None = None
    entity_id: str | None = None
    request_id: str | None = None


class FieldChange(NamedTuple):
    """One changed field. old, new: `canonical_json` bytes; None where there is no such value
    (no old one at creation, no new one at deletion), which is not the JSON null."""

    name: str
    old: bytes | None = None
    new: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent(Facts):
    """An event as it is captured: the facts, and the values which are only committed to."""

    ip: str | None = None
    user_agent: str | None = None
    reason: str | None = None
    fields: tuple[FieldChange, ...] = ()


class Commitment(NamedTuple):
    """A named 32-byte salted hash."""

    name: str
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf(Facts):
    """A decoded leaf: the facts, and the commitments sorted by name."""

    commitments: tuple[Commitment, ...] = ()


def committed_values(event: AuditEvent) -> dict[str, bytes]:
    """The values an event's leaf commits to, by commitment name, sorted.

    Names: `ip`, `user_agent`, `reason` (UTF-8 text), `old:<field>`, `new:<field>` (canonical JSON).
    Raises LeafError if a field is named twice or a text is not valid Unicode.
    """
    values: dict[str, bytes] = {}
    for name in ("ip", "user_agent", "reason"):
        text: str | None = getattr(event, name)
        if text is not None:
            values[name] = _utf8(text, name)
    for change in event.fields:
        for side, value in (("old", change.old), ("new", change.new)):
            name = f"{side}:{change.name}"
            if name in values:
                raise LeafError(f"field {change.name!r} is listed twice")
            if value is not None:
                values[name] = value
    return dict(sorted(values.items()))


def salts_for(values: Mapping[str, bytes]) -> dict[str, bytes]:
    """As new_salts, for values that are known."""
    random = secrets.token_bytes(SALT_BYTES * len(values))
    return {
        name: random[place * SALT_BYTES : (place + 1) * SALT_BYTES]
        for place, name in enumerate(values)
    }


def new_salts(event: AuditEvent) -> dict[str, bytes]:
    """A fresh 32-byte random salt for each commitment of the event."""
    return salts_for(committed_values(event))


def commit(name: str, salt: bytes, value: bytes) -> bytes:
    """SHA-256(0x02 || u16 length || name || 32-byte salt || value). Raises LeafError."""
    if len(salt) != SALT_BYTES:
        raise LeafError(f"the salt of {name!r} is not {SALT_BYTES} bytes")
    return sha256(b"\x02" + _commitment_name(name) + salt + value).digest()


@lru_cache(maxsize=4096)
def _commitment_name(name: str) -> bytes:
    return _text(name, "commitment name")


def open_commitment(leaf: Leaf, name: str, salt: bytes, value: bytes) -> None:
    """Check that the leaf committed to this value under this name; raises LeafError if not."""
    for commitment in leaf.commitments:
        if commitment.name == name:
            if commit(name, salt, value) != commitment.digest:
                raise LeafError(f"{name!r} is not the value that was committed")
            return
    raise LeafError(f"the leaf commits to no {name!r}")


def encode_leaf(event: AuditEvent, salts: Mapping[str, bytes]) -> bytes:
    """The leaf bytes of an event; salts: exactly one per name in `committed_values(event)`.

    Raises LeafError for facts outside their form, and for missing or superfluous salts.
    """
    return encode_committed(event, committed_values(event), salts)


def encode_committed(
    event: AuditEvent, values: Mapping[str, bytes], salts: Mapping[str, bytes]
) -> bytes:
    """As encode_leaf, with the committed values of the event at hand."""
    if salts.keys() != values.keys():
        raise LeafError("salts and committed values do not have the same names")
    commitments = tuple(
        Commitment(name, commit(name, salts[name], value)) for name, value in values.items()
    )
    return _encode(event, commitments)


def encode(leaf: Leaf) -> bytes:
    """The bytes of a leaf; the inverse of `decode_leaf`. Raises LeafError."""
    return _encode(leaf, leaf.commitments)


def _encode(leaf: Facts, commitments: tuple[Commitment, ...]) -> bytes:
    names = [commitment.name for commitment in commitments]
    if names != sorted(set(names)) or len(names) > 0xFFFF:
        raise LeafError("commitments are not sorted by distinct names")
    if not _ACTION.fullmatch(leaf.action):
        raise LeafError("action is not of the form noun.verb")
    parts = [
        _fixed(leaf),
        _optional_id(leaf.org_id),
        _optional_id(leaf.session_id),
        _optional_id(leaf.api_key_id),
        _text(leaf.writer_id, "writer_id"),
        _text(leaf.action, "action"),
        _text(leaf.entity, "entity"),
        _optional_text(leaf.actor_id, "actor_id"),
        _optional_text(leaf.entity_id, "entity_id"),
        _optional_text(leaf.request_id, "request_id"),
        _U16.pack(len(names)),
    ]
    for commitment in commitments:
        if len(commitment.digest) != merkle.HASH_BYTES:
            raise LeafError("a commitment is not 32 bytes")
        parts += (_commitment_name(commitment.name), commitment.digest)
    return b"".join(parts)


def decode_leaf(data: bytes) -> Leaf:
    """The leaf whose encoding is exactly `data`; raises LeafError for anything else."""
    reader = _Reader(data)
    magic, event_id, micros, seq, actor, outcome, severity, kind = _FIXED.unpack(
        reader.take(_FIXED.size)
    )
    if magic != MAGIC:
        raise LeafError("not a leaf of version 1")
    if not 1 <= seq <= WRITER_SEQ_MAX:
        raise LeafError("writer_seq is out of range")
    try:
        leaf = Leaf(
            event_id=UUID(bytes=event_id),
            occurred_at=_EPOCH + micros * _MICROSECOND,
            writer_seq=seq,
            actor_kind=_ACTOR_KINDS[actor],
            outcome=_OUTCOMES[outcome],
            severity=_SEVERITIES[severity],
            kind=_KINDS[kind],
            org_id=reader.optional_id(),
            session_id=reader.optional_id(),
            api_key_id=reader.optional_id(),
            writer_id=reader.text(),
            action=reader.text(),
            entity=reader.text(),
            actor_id=reader.optional_text(),
            entity_id=reader.optional_text(),
            request_id=reader.optional_text(),
            commitments=reader.commitments(),
        )
    except (IndexError, OverflowError):
        raise LeafError("an enumeration or time is out of range") from None
    if not _ACTION.fullmatch(leaf.action):
        raise LeafError("action is not of the form noun.verb")
    reader.end()
    return leaf


def chain_leaf(prev_leaf_hash: bytes, leaf_bytes: bytes) -> bytes:
    """The leaf hash: SHA-256(0x00 || prev_leaf_hash || SHA-256(leaf_bytes)).

    prev_leaf_hash: of the leaf one index lower, GENESIS at index 0. The link of the chain and the
    leaf hash of the RFC 6962 tree are thereby one value and cannot come apart.
    """
    if len(prev_leaf_hash) != merkle.HASH_BYTES:
        raise LeafError("the previous leaf hash is not 32 bytes")
    return sha256(b"\x00" + prev_leaf_hash + sha256(leaf_bytes).digest()).digest()


# --- parts of the encoding ------------------------------------------------------------------------


def _fixed(leaf: Facts) -> bytes:
    if leaf.occurred_at.utcoffset() is None:
        raise LeafError("occurred_at has no time zone")
    if type(leaf.writer_seq) is not int or not 1 <= leaf.writer_seq <= WRITER_SEQ_MAX:
        raise LeafError("writer_seq is out of range")
    try:
        codes = (
            _ACTOR_KINDS.index(leaf.actor_kind),
            _OUTCOMES.index(leaf.outcome),
            _SEVERITIES.index(leaf.severity),
            _KINDS.index(leaf.kind),
        )
    except ValueError:
        raise LeafError("actor_kind, outcome, severity or kind is not a known one") from None
    micros = (leaf.occurred_at - _EPOCH) // _MICROSECOND
    return _FIXED.pack(MAGIC, leaf.event_id.bytes, micros, leaf.writer_seq, *codes)


def _text(value: str, what: str) -> bytes:
    if not _TOKEN.fullmatch(value):
        raise LeafError(f"{what} is not 1 to 255 characters of ASCII without space and @")
    return _U16.pack(len(value)) + value.encode("ascii")


def _optional_text(value: str | None, what: str) -> bytes:
    return b"\x00" if value is None else b"\x01" + _text(value, what)


def _optional_id(value: UUID | None) -> bytes:
    return b"\x00" if value is None else b"\x01" + value.bytes


def _utf8(value: str, what: str) -> bytes:
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError:
        raise LeafError(f"{what} is not valid Unicode") from None


class _Reader:
    """Reads parts one after the other; LeafError where the bytes are not of the only right form."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        part = self.data[self.position : self.position + count]
        if len(part) != count:
            raise LeafError("the leaf is cut short")
        self.position += count
        return part

    def flag(self) -> bool:
        value = self.take(1)[0]
        if value > 1:
            raise LeafError("a flag is neither 0 nor 1")
        return value == 1

    def text(self) -> str:
        start = self.position + 2
        end = start + int.from_bytes(self.data[self.position : start], "big")
        value = self.data[start:end]
        if end > len(self.data) or not _TOKEN_BYTES.fullmatch(value):
            raise LeafError("a text is cut short, or has characters it may not have")
        self.position = end
        return value.decode("ascii")

    def optional_text(self) -> str | None:
        return self.text() if self.flag() else None

    def optional_id(self) -> UUID | None:
        return UUID(bytes=self.take(16)) if self.flag() else None

    def commitments(self) -> tuple[Commitment, ...]:
        (count,) = _U16.unpack(self.take(2))
        found: list[Commitment] = []
        for _ in range(count):
            name = self.text()
            if found and name <= found[-1].name:
                raise LeafError("commitments are not sorted by distinct names")
            found.append(Commitment(name, self.take(merkle.HASH_BYTES)))
        return tuple(found)

    def end(self) -> None:
        if self.position != len(self.data):
            raise LeafError("bytes follow the end of the leaf")
