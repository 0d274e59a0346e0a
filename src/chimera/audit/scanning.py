"""Reads of a leaf what a verification needs, many times faster than `leaf.decode_leaf`.

Nearly every leaf has a form that a regular expression can read: texts of less than 256 bytes, each
followed by a byte that is in no text, and the same names of commitments as some leaf before it. What
has not, or is no leaf, is handed to `decode_leaf`.

What must stay true: it accepts exactly the bytes that `decode_leaf` accepts (a property test holds
them against each other), and reads the same from them.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from uuid import UUID

from chimera.audit.leaf import (
    DROP_ACTION,
    DROP_ENTITY,
    MAGIC,
    WRITER_SEQ_MAX,
    ActorKind,
    Kind,
    Leaf,
    Outcome,
    Severity,
    decode_leaf,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROS_MIN = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_MICROS_MAX = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_TIME_AND_NUMBER = struct.Struct(">qQ")
_DROP_ACTION, _DROP_ENTITY = DROP_ACTION.encode(), DROP_ENTITY.encode()
_SUCCESS = tuple(Outcome).index(Outcome.SUCCESS)
_OUTCOME_AT = 37
_ACTOR_KINDS, _OUTCOMES, _SEVERITIES, _KINDS = (
    tuple(code.value.encode() for code in codes) for codes in (ActorKind, Outcome, Severity, Kind)
)

# The byte after a text is a flag or the first one of a length, and in no text: so a text is all that
# can be in one, and its length is compared afterwards.
_TEXT = rb"\0(.)([!-?A-~]+)"
_HEAD = re.compile(
    re.escape(MAGIC)
    + rb".{32}"
    + b"".join(
        b"[\\0-\\x%02x]" % (len(codes) - 1) for codes in (ActorKind, Outcome, Severity, Kind)
    )
    + rb"(?:\0|\x01(.{16}))" * 3  # organisation, session, API key
    + _TEXT
    + rb"\0(.)([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*)"
    + _TEXT
    + rb"(?:\0|\x01%b)(?:\0|\x01%b)(?:\0|\x01%b)" % (_TEXT, _TEXT, _TEXT),
    re.DOTALL,
)

# Names of commitments that were met, by the bytes which these then take, and what reads them.
_SHAPES_MAX = 2000
_SHAPES_EACH_MAX = 8
_NAMES_MAX = 100
_shapes: dict[int, list[tuple[re.Pattern[bytes], tuple[str, ...]]]] = {}


@dataclass(slots=True)
class Scan:
    """drop_range: the entity id of a leaf that records a drop of payloads. names, digests: of the
    commitments."""

    writer_id: str
    writer_seq: int
    drop_range: str | None
    names: tuple[str, ...]
    digests: tuple[bytes, ...]

    @property
    def commitments(self) -> dict[str, bytes]:
        return dict(zip(self.names, self.digests, strict=True))


def scan_leaf(data: bytes) -> Scan:
    """Raises LeafError for anything but a leaf."""
    return _scan(data) or _read(data)


def _scan(data: bytes) -> Scan | None:
    head = _HEAD.match(data)
    if head is None:
        return None
    (
        _org, _session, _key, writer_bytes, writer_id, action_bytes, action, entity_bytes, entity,
        actor_bytes, actor_id, about_bytes, about_id, request_bytes, request_id,
    ) = head.groups()  # fmt: skip
    micros, seq = _TIME_AND_NUMBER.unpack_from(data, 20)
    if (
        len(writer_id) != writer_bytes[0]
        or len(action) != action_bytes[0]
        or len(entity) != entity_bytes[0]
        or (actor_bytes is not None and len(actor_id) != actor_bytes[0])
        or (about_bytes is not None and len(about_id) != about_bytes[0])
        or (request_bytes is not None and len(request_id) != request_bytes[0])
        or not _MICROS_MIN <= micros <= _MICROS_MAX
        or not 1 <= seq <= WRITER_SEQ_MAX
    ):
        return None
    drop_range = None
    if action == _DROP_ACTION and entity == _DROP_ENTITY and data[_OUTCOME_AT] == _SUCCESS:
        drop_range = "" if about_id is None else about_id.decode("ascii")
    at = head.end()
    for form, names in _shapes.get(len(data) - at, ()):
        if digests := form.fullmatch(data, at):
            return Scan(writer_id.decode("ascii"), seq, drop_range, names, digests.groups())
    return None


def said_by(data: bytes) -> tuple[str, int, str] | None:
    """Writer, number, and in one text, parted by spaces, what the columns of a row repeat of its leaf:
    id (hex), organisation, microseconds, actor kind, actor, action, entity, entity id, outcome,
    severity, session, API key, kind, request. None for a leaf that has to be read with care."""
    head = _HEAD.match(data)
    if head is None:
        return None
    org, session, key, _, writer_id, _, action, _, entity, _, actor, _, about, _, request = (
        head.groups()
    )
    micros, seq = _TIME_AND_NUMBER.unpack_from(data, 20)
    text = b" ".join(
        (
            data[4:20].hex().encode(),
            _uuid(org),
            b"%d" % micros,
            _ACTOR_KINDS[data[36]],
            actor or b"",
            action,
            entity,
            about or b"",
            _OUTCOMES[data[_OUTCOME_AT]],
            _SEVERITIES[data[38]],
            _uuid(session),
            _uuid(key),
            _KINDS[data[39]],
            request or b"",
        )
    )
    return writer_id.decode("ascii"), seq, text.decode("ascii")


@lru_cache(maxsize=10_000)
def _uuid(data: bytes | None) -> bytes:
    return b"" if data is None else str(UUID(bytes=data)).encode()


def _read(data: bytes) -> Scan:
    """With care; leaves of this shape are read fast from now on."""
    leaf = decode_leaf(data)
    _learn(leaf)
    is_drop = (leaf.action, leaf.entity, leaf.outcome) == (
        DROP_ACTION, DROP_ENTITY, Outcome.SUCCESS
    )  # fmt: skip
    return Scan(
        leaf.writer_id,
        leaf.writer_seq,
        (leaf.entity_id or "") if is_drop else None,
        tuple(commitment.name for commitment in leaf.commitments),
        tuple(commitment.digest for commitment in leaf.commitments),
    )


def _learn(leaf: Leaf) -> None:
    names = tuple(commitment.name for commitment in leaf.commitments)
    if len(names) > _NAMES_MAX:
        return
    if len(_shapes) >= _SHAPES_MAX:
        _shapes.clear()
    heads = [len(name).to_bytes(2, "big") + name.encode("ascii") for name in names]
    size = 2 + sum(map(len, heads)) + 32 * len(heads)
    known = _shapes.setdefault(size, [])
    if len(known) < _SHAPES_EACH_MAX and all(names != others for _form, others in known):
        form = re.escape(len(names).to_bytes(2, "big"))
        form += b"".join(re.escape(head) + b"(.{32})" for head in heads)
        known.append((re.compile(form, re.DOTALL), names))
