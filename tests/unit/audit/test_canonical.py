"""Canonical JSON of old and new values."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest

from chimera.audit.canonical import canonical_json


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            {"b": [1, None, True], "a": {"z": "é", "y": ""}},
            '{"a":{"y":"","z":"é"},"b":[1,null,true]}',
        ),
        (10**30, "1" + "0" * 30),
        (1.0, "1.0"),
        (0.1, "0.1"),
        (Decimal("1.50"), '"1.50"'),
        (Decimal("1E+3"), '"1000"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), '"2026-01-02T03:00:00.000000Z"'),
        (
            datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))),
            '"2026-01-02T01:00:00.000000Z"',
        ),
        (date(2026, 1, 2), '"2026-01-02"'),
        ("a\n\"b", '"a\\n\\"b"'),
    ],
)  # fmt: skip
def test_one_value_has_one_text(value, text):
    """Key order, white space and zones of the input do not show."""
    assert canonical_json(value) == text.encode()


def test_key_order_does_not_matter():
    """Two equal dictionaries give equal bytes."""
    assert canonical_json({"a": 1, "b": 2}) == canonical_json({"b": 2, "a": 1})


NESTED: list = []
for _ in range(100):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "value",
    [
        float("nan"), float("inf"), Decimal("NaN"), {1: 2}, b"bytes", {1, 2}, "\ud800",
        datetime(2026, 1, 1), object(), NESTED, {"a": [float("inf")]},
    ],
)  # fmt: skip
def test_what_has_no_single_text_is_refused(value):
    """Refused with a ValueError that does not repeat the value."""
    with pytest.raises(ValueError, match=r"not|nest|no canonical|no time zone") as caught:
        canonical_json(value)
    assert "2026" not in str(caught.value)
