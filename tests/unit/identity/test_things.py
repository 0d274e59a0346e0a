"""Which things a request names, for grants that are limited to own or certain ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from chimera.gate import method_of
from chimera.identity.things import _noun_of, named_in, nouns_of
from chimera.server import service_descriptors
from chimera.v1.campaigns_pb2 import GetRunRequest, LaunchCampaignRequest, UpdateCampaignRequest
from chimera.v1.datasets_pb2 import UpdateDatasetRequest
from chimera.v1.evaluation_pb2 import GetScoringRequest
from chimera.v1.options_pb2 import (
    PERMISSION_AUDIT_READ,
    PERMISSION_CAMPAIGN_READ,
    PERMISSION_DATASET_WRITE,
    PERMISSION_PROVIDER_KEY_MANAGE,
    PERMISSION_PROVIDER_MANAGE,
    PERMISSION_TELEMETRY_MANAGE,
    PERMISSION_TELEMETRY_READ_OWN,
    PERMISSION_TELEMETRY_WRITE,
    PERMISSION_TEMPLATE_READ,
    Permission,
)
from chimera.v1.providers_pb2 import CreateModelRequest
from chimera.v1.telemetry_pb2 import DiscardDeadLettersRequest, ListEventsRequest

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
        (GetScoringRequest(scoring_id="s"), PERMISSION_CAMPAIGN_READ, [("scoring", "s")]),
        (UpdateDatasetRequest(dataset={"id": "d"}), PERMISSION_DATASET_WRITE, [("dataset", "d")]),
        (
            ListEventsRequest(filter={"campaign_ids": ["a", "b"], "user_ids": ["u"]}),
            PERMISSION_TELEMETRY_READ_OWN,
            [("campaign", "a"), ("campaign", "b"), ("user", "u")],
        ),
        (
            DiscardDeadLettersRequest(dead_letter_ids=["x", "y"]),
            PERMISSION_TELEMETRY_MANAGE,
            [("dead_letter", "x"), ("dead_letter", "y")],
        ),
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
    assert nouns_of(PERMISSION_TELEMETRY_WRITE) == ()


# What a request only points at, or looks for, while it is about something else.
POINTERS = {
    "CAMPAIGN_WRITE": {
        "template",
        "model",
        "provider_key",
        "route",
        "dataset",
        "suite",
        "share",
        "team",
        "user",
    },
    "CAMPAIGN_COMMENT": {"comment"},
    "TEMPLATE_WRITE": {"team", "user", "forked_from", "share"},
    "TEMPLATE_RATE": {"campaign"},
    "TELEMETRY_READ_OWN": {"workload", "correlation", "session"},
    "TELEMETRY_READ": {"workload"},
    "ROUTE_MANAGE": {"model", "provider_key"},
    "ROLE_READ": {"user", "team"},
    "ROLE_MANAGE": {"user", "team", "resource"},
    "SIGN_IN_MANAGE": {"client"},
    "TEAM_READ": {"user"},
    "TEAM_WRITE": {"user"},
}
# Of the installation, of no thing, or of whoever sends: conditions about things refuse them.
ABOUT_NOTHING = {"OPERATE", "AUDIT_READ", "TELEMETRY_WRITE"}


def ids_in(descriptor: Descriptor, seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """Names of the fields by which a request names something, as `things` reads them."""
    for field in descriptor.fields:
        inner = field.message_type
        if inner is not None and inner.full_name not in seen:
            if not inner.full_name.startswith("google."):
                yield from ids_in(inner, seen | {inner.full_name})
        elif field.name.removesuffix("s").endswith("_id") and field.name != "request_id":
            yield field.name


def test_every_id_in_a_request_is_a_thing_or_a_pointer() -> None:
    """Whoever adds an RPC about a new kind of thing adds the kind too, or grants that are limited
    to things would refuse it for no reason that anybody sees."""
    forgotten = set()
    for method in (method_of(m) for service in service_descriptors() for m in service.methods):
        name = Permission.Name(method.access.permission).removeprefix("PERMISSION_")
        if not method.access.permission or name in ABOUT_NOTHING:
            continue
        nouns = nouns_of(method.access.permission)
        for field in ids_in(method.request_type.DESCRIPTOR):
            stem = field.removesuffix("s").removesuffix("_id")
            if not _noun_of(field, nouns) and stem not in POINTERS.get(name, set()):
                forgotten.add((name, field))
    assert not forgotten, f"give them a noun in identity/things.py: {sorted(forgotten)}"
