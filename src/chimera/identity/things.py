"""Things that requests name, for grants limited to own or certain things.

A request names a thing by a field <noun>_id or <something>_<noun>_id (also in the plural), at any
depth, or by the id inside a field <noun>, as updates do. Which nouns count depends on the
permission: under CAMPAIGN_* the campaigns and runs. Every one that is named must meet the
condition, so a second id beside the first gives nothing away.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from chimera.db import Tx, sql
from chimera.identity.decisions import Thing
from chimera.v1.options_pb2 import Permission

# Beginning of a permission's name -> nouns of the things it is about, each a kind that
# identity.find_thing knows. Of other permissions no request names anything, so conditions about
# things refuse them.
NOUNS: dict[str, tuple[str, ...]] = {
    "CAMPAIGN_": ("campaign", "run", "scoring"),
    "TEMPLATE_": ("template",),
    "DATASET_": ("dataset",),
    "SUITE_": ("suite",),
    "PROVIDER_KEY_": ("provider_key", "provider"),
    "PROVIDER_": ("provider_key", "provider", "model", "price_version", "route"),
    "ROUTE_": ("route",),
    "RATE_LIMIT_": ("provider_key",),
    "CIRCUIT_": ("model",),
    "BUDGET_": ("budget", "alert", "campaign"),
    "WEBHOOK_": ("webhook", "delivery"),
    "USAGE_": ("campaign", "model", "user"),
    # What is read is narrowed by what is named; a batch that is sent is not.
    "TELEMETRY_READ": ("campaign", "user"),
    "TELEMETRY_MANAGE": ("dead_letter",),
    "TEAM_": ("team",),
    "USER_": ("user",),
    "MEMBER_": ("user",),
    "API_KEY_": ("api_key", "user"),
    "INVITATION_": ("invitation",),
    "ROLE_": ("role", "grant"),
    "SIGN_IN_": ("sign_in_provider",),
    "CONFIGURATION_": ("change",),
    "LEGAL_HOLD": ("legal_hold",),
    "FINDING_": ("finding",),
}


def nouns_of(permission: int) -> tuple[str, ...]:
    name = Permission.Name(permission).removeprefix("PERMISSION_")
    return next((nouns for start, nouns in NOUNS.items() if name.startswith(start)), ())


def named_in(request: Message, permission: int) -> list[tuple[str, str]]:
    """(noun, id) of everything of the permission's kinds that the request names."""
    return sorted(set(_named(request, nouns_of(permission))))


def _named(message: Message, nouns: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for described, value in message.ListFields():
        if described.type == FieldDescriptor.TYPE_STRING:
            noun = _noun_of(described.name, nouns)
            if noun:
                yield from (
                    (noun, str(one)) for one in (value if described.is_repeated else [value])
                )
        elif described.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in _messages(described, value):
                inner_id: str = getattr(inner, "id", "")
                if described.name in nouns and inner_id:
                    yield described.name, inner_id
                yield from _named(inner, nouns)


def _messages(described: FieldDescriptor, value: Any) -> Iterator[Any]:
    if not described.is_repeated:
        yield value
    elif not (described.message_type and described.message_type.GetOptions().map_entry):
        yield from value
    else:
        yield from (inner for inner in value.values() if isinstance(inner, Message))


def _noun_of(field_name: str, nouns: tuple[str, ...]) -> str:
    stem = field_name.removesuffix("s").removesuffix("_id")
    if stem == field_name.removesuffix("s"):
        return ""
    return next((noun for noun in nouns if stem == noun or stem.endswith(f"_{noun}")), "")


FIND_THING = sql(
    dict, "SELECT ids, owner_id FROM identity.find_thing(%(noun)s, %(thing_id)s::uuid)"
)


async def find_thing(tx: Tx, noun: str, thing_id: str) -> Thing:
    """The thing as the caller sees it; one that cannot be seen is nobody's and a part of nothing."""
    try:
        wanted = str(UUID(thing_id))
    except ValueError:
        return Thing(frozenset(), "")
    row = await tx.one(FIND_THING, noun=noun, thing_id=wanted)
    if row is None:
        return Thing(frozenset(), "")
    return Thing(frozenset(row["ids"]), row["owner_id"] or "")
