"""Rows that are messages: by what rule each column becomes its field."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from chimera.rows import NUMERIC_OID, decimal_text, enum_numbers, enum_text, row_maker, struct_dict
from chimera.v1.audit_pb2 import AuditEvent
from chimera.v1.campaigns_pb2 import Campaign, CampaignPlan, CampaignState, Execution
from chimera.v1.identity_pb2 import ApiKey
from chimera.v1.options_pb2 import Permission
from chimera.v1.templates_pb2 import MessageRole, TemplateVersion


def row(kind: type[Any], **columns: Any) -> Any:
    """What a result set with these columns makes of its first row."""
    described = [
        SimpleNamespace(name=name, type_code=NUMERIC_OID if isinstance(value, Decimal) else 25)
        for name, value in columns.items()
    ]
    cursor: Any = SimpleNamespace(description=described)
    return row_maker(kind)(cursor)(list(columns.values()))


def test_closed_sets_are_short_names_in_the_database() -> None:
    """draft <-> CAMPAIGN_STATE_DRAFT, one or many; unspecified is NULL."""
    assert row(Campaign, state="draft").state == CampaignState.CAMPAIGN_STATE_DRAFT
    assert enum_text(Campaign, "state", CampaignState.CAMPAIGN_STATE_DRAFT) == "draft"
    assert enum_text(Campaign(), "state", 0) is None
    scopes = row(ApiKey, scopes=["campaign_read", "audit_read"]).scopes
    assert list(scopes) == [Permission.PERMISSION_CAMPAIGN_READ, Permission.PERMISSION_AUDIT_READ]
    with pytest.raises(KeyError):
        row(Campaign, state="no such state")
    enum = Campaign.DESCRIPTOR.fields_by_name["state"].enum_type
    for name, number in enum_numbers(enum).items():
        if number:
            assert enum_text(Campaign, "state", number) == name


def test_numbers_times_and_json_become_what_the_field_is() -> None:
    """numeric is a plain decimal string, timestamptz a Timestamp, jsonb a Struct or sub-messages,
    bytea a sub-message."""
    at = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    made = row(Campaign, created_at=at, plan=CampaignPlan(seed=7).SerializeToString())
    assert made.created_at.ToDatetime(UTC) == at and made.plan.seed == 7
    assert row(Execution, cost_usd=Decimal("0.000120000000")).cost_usd == "0.00012"
    version = row(TemplateVersion, messages=[{"role": "MESSAGE_ROLE_USER", "text": "Hi"}])
    assert version.messages[0].role == MessageRole.MESSAGE_ROLE_USER
    assert row(AuditEvent, log_index=3).log_index == 3


def test_null_leaves_the_field_unset() -> None:
    made = row(Execution, is_successful=None, cost_usd=None, response="")
    assert not made.HasField("is_successful") and made.cost_usd == ""


def test_a_column_without_a_field_is_an_error() -> None:
    """A secret that slipped into a SELECT list has nowhere to go."""
    with pytest.raises(LookupError, match=r"ApiKey has no field for column\(s\) \['secret_hash'\]"):
        row(ApiKey, name="a", secret_hash=b"1")


def test_other_rows() -> None:
    """Dataclasses by keyword, dicts by name, anything else the first column."""

    @dataclass(frozen=True)
    class Pair:
        left: int
        right: str

    assert row(Pair, right="r", left=1) == Pair(1, "r")
    with pytest.raises(TypeError):
        row(Pair, left=1)
    assert row(dict, a=1, b=None) == {"a": 1, "b": None}
    assert row(int, count=3, other=4) == 3


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))
def test_times_are_exact(at: datetime) -> None:
    """To the microsecond; a time cut short would repeat rows on the next page."""
    assert row(Campaign, created_at=at).created_at.ToDatetime(UTC) == at


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12, min_value=0, max_value=10**7))
def test_decimal_text_is_exact_and_short(value: Decimal) -> None:
    text = decimal_text(value)
    assert Decimal(text) == value
    assert "e" not in text.lower() and not ("." in text and text.endswith(("0", ".")))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**52), 2**52)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda n: not n.is_integer())
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), plain, max_size=4))
def test_open_json_comes_back_as_it_went_in(data: dict[str, Any]) -> None:
    """Whole numbers as int, though Struct knows only doubles."""
    struct = Struct()
    struct.update(data)
    assert struct_dict(struct) == data
