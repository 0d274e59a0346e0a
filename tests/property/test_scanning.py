"""The fast reading of leaves and lines against the careful one: the same bytes mean the same to both."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.audit import bundle, scanning
from chimera.audit import leaf as leaves
from chimera.audit.bundle import BundleError, Entry, Line, Opening, decode_line, encode_line
from chimera.audit.leaf import (
    ActorKind,
    AuditEvent,
    FieldChange,
    Kind,
    LeafError,
    Outcome,
    Severity,
    decode_leaf,
    encode_leaf,
    new_salts,
)
from chimera.audit.scanning import Scan, scan_leaf

TOKENS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="@"),
                 min_size=1, max_size=255)  # fmt: skip
IDS = st.uuids()


@st.composite
def encoded(draw: st.DrawFn) -> bytes:
    event = AuditEvent(
        event_id=draw(IDS),
        occurred_at=draw(st.datetimes(timezones=st.just(UTC))),
        writer_id=draw(TOKENS),
        writer_seq=draw(st.integers(1, leaves.WRITER_SEQ_MAX)),
        actor_kind=draw(st.sampled_from(ActorKind)),
        outcome=draw(st.sampled_from(Outcome)),
        severity=draw(st.sampled_from(Severity)),
        kind=draw(st.sampled_from(Kind)),
        action=draw(st.sampled_from(["a.b", "audit.payloads.drop", "x"])),
        entity=draw(st.one_of(TOKENS, st.just("audit.leaves"))),
        org_id=draw(st.none() | IDS),
        session_id=draw(st.none() | IDS),
        api_key_id=draw(st.none() | IDS),
        actor_id=draw(st.none() | TOKENS),
        entity_id=draw(st.none() | TOKENS),
        request_id=draw(st.none() | TOKENS),
        ip=draw(st.none() | st.just("192.0.2.1")),
        fields=tuple(FieldChange(name, b"1", None) for name in draw(st.sets(
            st.sampled_from(["a", "b", "c"])))),
    )  # fmt: skip
    return encode_leaf(event, new_salts(event))


def same(data: bytes) -> None:
    """Scanned twice: the names of a leaf's commitments are learnt from the first one that has them."""
    try:
        careful = decode_leaf(data)
    except LeafError:
        careful = None
    for _ in range(2):
        try:
            fast = scan_leaf(data)
        except LeafError:
            fast = None
        assert_same(data, careful, fast)


def assert_same(data: bytes, careful: leaves.Leaf | None, fast: Scan | None) -> None:
    assert (careful is None) == (fast is None), data.hex()
    if careful and fast:
        assert (fast.writer_id, fast.writer_seq) == (careful.writer_id, careful.writer_seq)
        assert fast.commitments == {c.name: c.digest for c in careful.commitments}
        is_drop = (careful.action, careful.entity, careful.outcome) == (
            leaves.DROP_ACTION, leaves.DROP_ENTITY, Outcome.SUCCESS,
        )  # fmt: skip
        assert fast.drop_range == ((careful.entity_id or "") if is_drop else None)


@settings(deadline=None, max_examples=150)
@given(encoded(), st.data())
def test_both_read_the_same(data: bytes, more: st.DataObject) -> None:
    """Whole leaves; and leaves with a byte changed, cut off, or added, anywhere."""
    same(data)
    assert scan_leaf(data).commitments is not None
    at = more.draw(st.integers(0, len(data) - 1))
    byte = more.draw(st.integers(0, 255))
    same(data[:at] + bytes([byte]) + data[at + 1 :])
    same(data[:at])
    same(data + bytes([byte]))
    same(data[:at] + bytes([byte]) + data[at:])


def test_times_at_the_edges() -> None:
    """The first and the last moment there is, and one beyond."""
    event = AuditEvent(
        event_id=UUID(int=1), occurred_at=datetime.max.replace(tzinfo=UTC), writer_id="w",
        writer_seq=1, actor_kind=ActorKind.USER, outcome=Outcome.SUCCESS, severity=Severity.INFO,
        kind=Kind.DATA, action="a.b", entity="e",
    )  # fmt: skip
    data = encode_leaf(event, {})
    micros = int.from_bytes(data[20:28], "big", signed=True)
    for value in (micros, micros + 1, -(2**63), -62135596800000000, -62135596800000001):
        same(data[:20] + value.to_bytes(8, "big", signed=True) + data[28:])


HASHES = st.binary(min_size=32, max_size=32)
OPENINGS = st.lists(
    st.builds(
        Opening,
        TOKENS | st.text(max_size=3),
        HASHES | st.binary(max_size=40),
        st.binary(max_size=40),
    ),
    max_size=3,
)
LINES = st.builds(
    Entry,
    st.integers(0, 2**63 - 1),
    HASHES,
    st.binary(max_size=80),
    HASHES,
    OPENINGS.map(tuple),
    st.none() | st.just((bytes(32),)),
).map(encode_line)


def read(line: bytes) -> Line | None:
    try:
        return decode_line(line)
    except BundleError:
        return None


@settings(deadline=None, max_examples=200)
@given(LINES, st.data())
def test_an_entry_is_read_like_any_other_line(line: bytes, more: st.DataObject) -> None:
    """A space in front is nothing to JSON, and more than the fast reading knows. So for whole lines,
    and for lines with a character changed, left out or doubled, anywhere."""
    at = more.draw(st.integers(0, len(line) - 1))
    byte = bytes([more.draw(st.sampled_from(b'="+/,{}[]0AQgw\\ ') | st.integers(0, 255))])
    for other in (
        line,
        line[:at] + byte + line[at + 1 :],
        line[:at] + byte + line[at:],
        line[:at] + line[at + 1 :],
        line[:at],
        line[:-1] + b"\r\n",
    ):
        assert read(other) == read(b" " + other), other


@pytest.mark.parametrize(
    "leaf", [b"YWJj=", b"YWJj==", b"YW=", b"YWI", b"YW", b"YWJ=", b"YX==", b"=", b""]
)
def test_base64_has_one_spelling(leaf: bytes) -> None:
    """Too much padding, too little, and bits that carry nothing: refused by both, or read by both."""
    line = encode_line(Entry(0, bytes(32), b"abc", bytes(32))).replace(b"YWJj", leaf)
    assert read(line) == read(b" " + line)
    assert (read(line) is None) == (leaf != b"")


def an_event() -> AuditEvent:
    return AuditEvent(
        event_id=UUID(int=1), occurred_at=datetime.now(UTC), writer_id="w", writer_seq=1,
        actor_kind=ActorKind.USER, outcome=Outcome.SUCCESS, severity=Severity.INFO, kind=Kind.DATA,
        action="campaign.launch", entity="campaign", actor_id=str(UUID(int=2)),
        entity_id=str(UUID(int=3)), request_id="r-1", ip="192.0.2.1",
        fields=(FieldChange("state", b'"draft"', b'"running"'),),
    )  # fmt: skip


def test_every_byte_of_a_leaf_counts() -> None:
    """Lengths, flags and texts of one whose shape is known, each changed to all that could matter."""
    event = an_event()
    data = encode_leaf(event, new_salts(event))
    same(data)
    for at, byte in enumerate(data):
        for other in {0, 1, 2, 0x21, 0x40, 0x7E, 0x7F, (byte + 1) % 256, (byte - 1) % 256}:
            same(data[:at] + bytes([other]) + data[at + 1 :])


def test_the_fast_reading_is_the_one_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of leaves and lines as the product writes them, once their commitments were met."""
    event = an_event()
    salts = new_salts(event)
    data = encode_leaf(event, salts)
    openings = tuple(Opening(name, salt, b"value") for name, salt in salts.items())
    line = encode_line(Entry(5, bytes(32), data, bytes(32), openings))
    scan_leaf(data)
    monkeypatch.setattr(scanning, "decode_leaf", None)
    monkeypatch.setattr(bundle, "_any_line", None)
    assert scan_leaf(data).writer_seq == 1
    assert decode_line(line).openings == openings  # type: ignore[union-attr]  # an entry
