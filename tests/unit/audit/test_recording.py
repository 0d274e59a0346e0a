"""What of old and new values is recorded: no secrets, and nothing without bounds."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest

from chimera.audit.canonical import canonical_json
from chimera.audit.leaf import AuditEvent, encode_leaf, new_salts
from chimera.audit.recording import EVENT_BYTES_MAX, VALUE_BYTES_MAX, _event, record
from chimera.ids import new_id
from tests.support.audit import call_of


def recorded(new: dict[str, Any], old: dict[str, Any] | None = None) -> AuditEvent:
    tx: Any = SimpleNamespace(audit_events=[])
    record(tx, "thing.update", "thing", new_id(), old=old, new=new)
    [noted] = tx.audit_events
    return _event(noted, call_of(new_id()), datetime.now(UTC), "writer", 1)


@pytest.mark.parametrize(
    "name",
    ["password", "Password", "apiKey", "API-Key", "clientSecret", "private key", "oldTokens"],
)
def test_a_secret_is_masked_wherever_it_stands(name: str) -> None:
    """By the name above it, at any depth, in lists, in any spelling; numbers stay."""
    event = recorded(
        {
            name: "canary",
            "metadata": {
                "crm": [{name: "canary", "seats": 3}, {name: ["canary", {"x": "canary"}]}]
            },
            "limits": {name: 7},
        },
        old={"metadata": {name: {"deep": "canary"}}},
    )
    said = b"".join((change.old or b"") + (change.new or b"") for change in event.fields)
    assert b"canary" not in said and said.count(b"[redacted]") == 5
    assert b'"seats":3' in said and b":7" in said


def test_a_value_without_end_is_recorded_by_its_digest() -> None:
    """Of each value and of all of them together: an event stays small enough to search and to send."""
    event = recorded({"text": "a" * 1_000_000})
    value = json.loads(event.fields[0].new or b"")
    whole = canonical_json("a" * 1_000_000)
    assert value["sha256"] == sha256(whole).hexdigest() and value["bytes"] == len(whole)
    assert value["begins"].startswith('"aaa') and len(value["begins"]) == 1000
    assert len(encode_leaf(event, new_salts(event))) < 1000

    many = recorded({f"f{number}": "é" * (VALUE_BYTES_MAX // 4) for number in range(100)})
    assert sum(len(change.new or b"") for change in many.fields) < EVENT_BYTES_MAX + 500_000


def test_what_nests_without_end_is_cut() -> None:
    """A reader's message may nest to a hundred levels, and each of these takes three."""
    deep: Any = "bottom"
    for _ in range(200):
        deep = {"a": [deep]}
    value = recorded({"x": deep}).fields[0].new or b""
    assert b"bottom" not in value and value.count(b"[") < 20 and b"[nested deeper]" in value
