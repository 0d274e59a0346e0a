"""The exact bytes of an event."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.audit import leaf as leaves
from chimera.audit.leaf import (
    GENESIS,
    ActorKind,
    AuditEvent,
    Facts,
    FieldChange,
    Kind,
    LeafError,
    Outcome,
    Severity,
    chain_leaf,
    committed_values,
    decode_leaf,
    encode_leaf,
    new_salts,
    open_commitment,
)

TOKENS = st.from_regex(r"[!-?A-~]{1,40}", fullmatch=True)
OPTIONAL_TEXT = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
EVENTS = st.builds(
    AuditEvent,
    event_id=st.uuids(),
    occurred_at=st.datetimes(timezones=st.just(UTC)),
    writer_id=TOKENS,
    writer_seq=st.integers(1, leaves.WRITER_SEQ_MAX),
    actor_kind=st.sampled_from(ActorKind),
    outcome=st.sampled_from(Outcome),
    severity=st.sampled_from(Severity),
    kind=st.sampled_from(Kind),
    action=st.from_regex(r"[a-z]{1,9}\.[a-z_]{1,9}", fullmatch=True).filter(
        lambda text: not text.split(".")[1].startswith("_")
    ),
    entity=TOKENS,
    org_id=st.none() | st.uuids(),
    session_id=st.none() | st.uuids(),
    api_key_id=st.none() | st.uuids(),
    actor_id=st.none() | TOKENS,
    entity_id=st.none() | TOKENS,
    request_id=st.none() | TOKENS,
    ip=OPTIONAL_TEXT,
    user_agent=OPTIONAL_TEXT,
    reason=OPTIONAL_TEXT,
    fields=st.lists(
        st.builds(FieldChange, TOKENS, st.none() | st.binary(max_size=9), st.none() | st.binary()),
        max_size=4,
        unique_by=lambda change: change.name,
    ).map(tuple),
)


def test_a_fixed_event_has_these_bytes_for_ever(event):
    """The encoding is on record: a change of any byte would be a change of history."""
    fixed = event(1, ip=None, reason=None, fields=(FieldChange("state", None, b'"on"'),))
    data = encode_leaf(fixed, {"new:state": bytes(32)})

    commitment = sha256(b"\x02\x00\x09new:state" + bytes(32) + b'"on"').hexdigest()
    assert data.hex() == (
        "43414c01" "00000000000000000000000000000001" "00064bf535af1001" "0000000000000001"
        "00000101" "01" "00000000000000000000000000000005" "00" "00"
        "000f" + b"server-1.conn-1".hex() + "000f" + b"campaign.launch".hex()
        + "0008" + b"campaign".hex()
        + "010024" + b"00000000-0000-0000-0000-000000000007".hex()
        + "010024" + b"00000000-0000-0000-0000-000000000063".hex()
        + "00" "0001" "0009" + b"new:state".hex() + commitment
    )  # fmt: skip


@given(EVENTS)
def test_what_is_encoded_is_what_is_decoded(event):
    """Facts come back equal, and every committed value opens with its salt."""
    salts = new_salts(event)
    data = encode_leaf(event, salts)
    leaf = decode_leaf(data)

    for fact in fields(Facts):
        assert getattr(leaf, fact.name) == getattr(event, fact.name)
    values = committed_values(event)
    assert [c.name for c in leaf.commitments] == list(values)
    for name, value in values.items():
        open_commitment(leaf, name, salts[name], value)
        with pytest.raises(LeafError):
            open_commitment(leaf, name, salts[name], value + b"x")
    assert leaves.encode(leaf) == data


@given(EVENTS, st.data())
def test_no_other_bytes_decode_to_the_same_leaf(event, data):
    """One event, one encoding: damage is refused, or is another leaf's own encoding."""
    original = encode_leaf(event, new_salts(event))
    at = data.draw(st.integers(0, len(original) - 1))
    byte = data.draw(st.integers(0, 255))
    damaged = data.draw(
        st.sampled_from(
            [
                original[:at] + bytes([byte]) + original[at + 1 :],
                original[:at] + original[at + 1 :],
                original[:at] + bytes([byte]) + original[at:],
                original[:at],
                original + bytes([byte]),
            ]
        )
    )
    try:
        leaf = decode_leaf(damaged)
    except LeafError:
        return
    assert leaves.encode(leaf) == damaged
    assert (leaf == decode_leaf(original)) is (damaged == original)


# Where the parts of a fixed-width beginning stand: see the layout in the module.
@pytest.mark.parametrize(
    ("at", "byte"),
    [(0, 0x44), (3, 2), (20, 0x7F), (28, 0xFF), (35, 0), (36, 5), (37, 3), (38, 6), (39, 4),
     (40, 2), (57, 2), (61, 0x20), (61, 0x40), (61, 0x80)],
)  # fmt: skip
def test_a_byte_with_no_meaning_is_refused(event, at, byte):
    """Unknown versions, kinds and flags, times beyond the calendar, characters not allowed."""
    data = bytearray(encode_leaf(event(), new_salts(event())))
    data[at] = byte
    with pytest.raises(LeafError):
        decode_leaf(bytes(data))


def test_every_cut_and_every_tail_is_refused(event):
    """A leaf is exactly as long as it says."""
    data = encode_leaf(event(), new_salts(event()))
    for end in range(len(data)):
        with pytest.raises(LeafError):
            decode_leaf(data[:end])
    with pytest.raises(LeafError, match="follow the end"):
        decode_leaf(data + b"\0")


def test_commitments_in_another_order_are_refused(event):
    """Sorted by name, each once: else one event would have several encodings."""
    data = encode_leaf(event(), new_salts(event()))
    parts = [
        len(c.name).to_bytes(2, "big") + c.name.encode() + c.digest
        for c in decode_leaf(data).commitments
    ]
    head = data[: -len(b"".join(parts))]
    assert head + b"".join(parts) == data

    for wrong in ([parts[1], parts[0], *parts[2:]], [parts[0], parts[0], *parts[2:]]):
        with pytest.raises(LeafError, match="not sorted"):
            decode_leaf(head + b"".join(wrong))


def test_the_same_instant_in_another_zone_is_the_same_leaf(event):
    """Time is recorded as UTC microseconds, whatever zone it was given in."""
    salts = new_salts(event())
    tokyo = replace(
        event(), occurred_at=event().occurred_at.astimezone(timezone(timedelta(hours=9)))
    )

    assert encode_leaf(tokyo, salts) == encode_leaf(event(), salts)


def test_erasing_a_value_leaves_the_leaf(event):
    """The leaf shows neither the address nor the reason, and two leaves of it differ by salt."""
    first, second = (encode_leaf(event(), new_salts(event())) for _ in range(2))

    assert b"192.0.2.7" not in first
    assert b"quarterly" not in first
    assert first != second
    with pytest.raises(LeafError, match="commits to no 'user_agent'"):
        open_commitment(decode_leaf(first), "user_agent", bytes(32), b"curl")


def test_absent_and_null_are_different(event):
    """A field that was JSON null before is not a field that did not exist."""
    absent = event(fields=(FieldChange("x", None, b"1"),))
    null = event(fields=(FieldChange("x", b"null", b"1"),))

    assert "old:x" not in committed_values(absent)
    assert committed_values(null)["old:x"] == b"null"


@pytest.mark.parametrize(
    "changes",
    [
        {"actor_id": "olivia@example.com"},
        {"entity_id": "two words"},
        {"entity": ""},
        {"request_id": "r" * 256},
        {"action": "Campaign.Launch"},
        {"action": "campaign.launch\n"},
        {"writer_seq": 0},
        {"writer_seq": True},
        {"writer_seq": 2**63},
        {"occurred_at": datetime(2026, 1, 1)},
        {"severity": "loud"},
        {"fields": (FieldChange("a", b"1"), FieldChange("a", b"2"))},
        {"reason": "\ud800"},
    ],
)
def test_what_has_no_place_in_a_leaf_is_refused(event, changes):
    """Mail addresses, blanks, unknown kinds, local times: refused before anything is written."""
    bad = event(**changes)
    with pytest.raises(LeafError):
        encode_leaf(bad, new_salts(bad))


def test_salts_must_fit_the_event(event):
    """Missing, superfluous and short salts are programming errors, not weaker commitments."""
    salts = new_salts(event())
    for wrong in ({}, {**salts, "more": bytes(32)}, {**salts, "ip": b"short"}):
        with pytest.raises(LeafError):
            encode_leaf(event(), wrong)


def test_chain_and_tree_are_one_value(event):
    """The leaf hash is RFC 6962's over previous hash and body hash."""
    body = b"leaf bytes"
    expected = sha256(b"\x00" + bytes(32) + sha256(body).digest()).digest()

    assert chain_leaf(GENESIS, body) == expected
    assert chain_leaf(expected, body) != expected
    with pytest.raises(LeafError):
        chain_leaf(b"", body)
