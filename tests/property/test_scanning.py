"""The fast reading of a leaf against the careful one: the same bytes are a leaf to both."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.audit import leaf as leaves
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
from chimera.audit.scanning import scan_leaf

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
    try:
        careful = decode_leaf(data)
    except LeafError:
        careful = None
    try:
        fast = scan_leaf(data)
    except LeafError:
        fast = None
    assert (careful is None) == (fast is None), data.hex()
    if careful and fast:
        assert (fast.writer_id, fast.writer_seq) == (careful.writer_id, careful.writer_seq)
        assert fast.commitments == {c.name.encode(): c.digest for c in careful.commitments}
        is_drop = (careful.action, careful.entity, careful.outcome) == (
            leaves.DROP_ACTION, leaves.DROP_ENTITY, Outcome.SUCCESS,
        )  # fmt: skip
        assert fast.drop_range == ((careful.entity_id or "") if is_drop else None)


@settings(max_examples=150)
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
