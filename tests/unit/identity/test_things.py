"""Which things a request names, for grants that are limited to own or certain ones."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from chimera.identity.things import named_in, nouns_of
from chimera.v1.campaigns_pb2 import GetRunRequest, LaunchCampaignRequest, UpdateCampaignRequest
from chimera.v1.options_pb2 import (
    PERMISSION_AUDIT_READ,
    PERMISSION_CAMPAIGN_READ,
    PERMISSION_PROVIDER_KEY_MANAGE,
    PERMISSION_PROVIDER_MANAGE,
    PERMISSION_TEMPLATE_READ,
)
from chimera.v1.providers_pb2 import CreateModelRequest

STRING, MESSAGE = (
    descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
)


def request_type() -> type[Message]:
    """Ids beside, inside and in lists; the shapes a future request may have."""
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/things.proto", package="tests", syntax="proto3"
    )
    inner = file.message_type.add(name="Filter")
    inner.field.add(name="baseline_run_id", number=1, type=STRING, label=1)
    outer = file.message_type.add(name="CompareRequest")
    for number, name in enumerate(("run_id", "other_campaign_id", "label_id", "user_id"), 1):
        outer.field.add(name=name, number=number, type=STRING, label=1)
    outer.field.add(name="campaign_ids", number=5, type=STRING, label=3)
    outer.field.add(name="filters", number=6, type=MESSAGE, label=3, type_name=".tests.Filter")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("tests.CompareRequest"))


def test_every_thing_is_found_wherever_it_is_named() -> None:
    """Beside, in a list, in a message inside, with a word in front; things of other kinds do not
    count, nor do ids that are none of things."""
    request = request_type()(
        run_id="1",
        other_campaign_id="2",
        label_id="3",
        user_id="4",
        campaign_ids=["5", "6"],
        filters=[{"baseline_run_id": "7"}, {}, {"baseline_run_id": "8"}],
    )
    assert named_in(request, PERMISSION_CAMPAIGN_READ) == [
        ("campaign", "2"), ("campaign", "5"), ("campaign", "6"),
        ("run", "1"), ("run", "7"), ("run", "8"),
    ]  # fmt: skip
    for permission in (PERMISSION_TEMPLATE_READ, PERMISSION_AUDIT_READ):
        assert named_in(request, permission) == []


@pytest.mark.parametrize(
    ("request_", "permission", "named"),
    [
        (LaunchCampaignRequest(campaign_id="c"), PERMISSION_CAMPAIGN_READ, [("campaign", "c")]),
        (
            UpdateCampaignRequest(campaign={"id": "c", "name": "x"}),
            PERMISSION_CAMPAIGN_READ,
            [("campaign", "c")],
        ),
        (GetRunRequest(run_id="r"), PERMISSION_CAMPAIGN_READ, [("run", "r")]),
        (CreateModelRequest(provider_id="p"), PERMISSION_PROVIDER_MANAGE, [("provider", "p")]),
        (LaunchCampaignRequest(), PERMISSION_CAMPAIGN_READ, []),
    ],
)
def test_requests_that_there_are(
    request_: Message, permission: int, named: list[tuple[str, str]]
) -> None:
    assert named_in(request_, permission) == named


def test_kinds_follow_from_the_permission() -> None:
    """Keys are not providers' models."""
    assert nouns_of(PERMISSION_PROVIDER_KEY_MANAGE) == ("provider_key", "provider")
    assert nouns_of(PERMISSION_AUDIT_READ) == ()
