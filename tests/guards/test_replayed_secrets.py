"""Guard: repeating a request never shows a secret again, and none is kept for it.

Answers are kept for those who repeat a request_id. Fields of answers that hold secrets are marked
debug_redact in their .proto; an RPC with such a field and a request_id must be among EXAMPLES.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psycopg
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from chimera.gate import Method, method_of
from chimera.ids import new_id
from chimera.server import service_descriptors
from chimera.v1.identity_pb2 import ROLE_VIEWER
from tests.support.world import Person, World

METHODS = [method_of(m) for service in service_descriptors() for m in service.methods]
Ask = Callable[[str], Awaitable[Any]]

SECRET_NAMES = ("secret", "token", "code", "codes", "handle", "otpauth_uri")
NO_SECRETS = {"next_page_token"}


async def create_api_key(admin: Person) -> Ask:
    return lambda request_id: admin.identity.CreateApiKey(name="a", request_id=request_id)


async def rotate_api_key(admin: Person) -> Ask:
    key = (await admin.identity.CreateApiKey(name="b")).api_key
    return lambda request_id: admin.identity.RotateApiKey(api_key_id=key.id, request_id=request_id)


async def create_invitation(admin: Person) -> Ask:
    return lambda request_id: admin.organisations.CreateInvitation(
        role=ROLE_VIEWER, request_id=request_id
    )


async def create_webhook(admin: Person) -> Ask:
    return lambda request_id: admin.webhooks.CreateWebhook(
        url="https://example.com/hook", request_id=request_id
    )


async def rotate_webhook_secret(admin: Person) -> Ask:
    hook = (await admin.webhooks.CreateWebhook(url="https://example.com/b")).webhook
    return lambda request_id: admin.webhooks.RotateWebhookSecret(
        webhook_id=hook.id, request_id=request_id
    )


EXAMPLES: dict[str, Callable[[Person], Awaitable[Ask]]] = {
    "CreateApiKey": create_api_key,
    "RotateApiKey": rotate_api_key,
    "CreateInvitation": create_invitation,
    "CreateWebhook": create_webhook,
    "RotateWebhookSecret": rotate_webhook_secret,
}


def fields_of(
    descriptor: Descriptor, seen: frozenset[str] = frozenset()
) -> Iterator[FieldDescriptor]:
    """Of a message and of those inside it."""
    for field in descriptor.fields:
        yield field
        inner = field.message_type
        if inner is not None and inner.full_name not in seen:
            yield from fields_of(inner, seen | {inner.full_name})


def secrets_in(method: Method) -> set[str]:
    """Names of the fields of its answer that hold secrets."""
    fields = fields_of(method.answer_type.DESCRIPTOR)
    return {field.name for field in fields if field.GetOptions().debug_redact}


def test_answers_with_secrets_say_so() -> None:
    """What is called a secret, is marked as one."""
    unmarked = {
        f"{method.path}: {field.full_name}"
        for method in METHODS
        for field in fields_of(method.answer_type.DESCRIPTOR)
        if field.type == FieldDescriptor.TYPE_STRING
        and field.name.rpartition("_")[2] in SECRET_NAMES
        and field.name not in NO_SECRETS
        and not field.GetOptions().debug_redact
    }
    assert not unmarked, f"mark them debug_redact: {sorted(unmarked)}"


async def test_a_repeated_request_shows_no_secret(world: World, database_url: str) -> None:
    """The first answer holds it, the second is the same without it, and nothing else was made; the
    kept answer does not hold it either."""
    admin = (await world.organisation("acme")).admin
    revealing = {
        method.path.rpartition("/")[2]: secrets_in(method)
        for method in METHODS
        if method.has_request_id and secrets_in(method)
    }
    assert revealing.keys() == EXAMPLES.keys(), "show in EXAMPLES that repeating it is safe"
    for name, secret_fields in revealing.items():
        ask, request_id = await EXAMPLES[name](admin), new_id()
        first, second = await ask(request_id), await ask(request_id)
        with psycopg.connect(database_url) as connection:
            [kept] = connection.execute(
                "SELECT answer FROM ops.idempotency WHERE request_id = %s", [request_id]
            ).fetchall()
        for field in secret_fields:
            secret = getattr(first, field)
            assert secret and secret.encode() not in bytes(kept[0]), f"{name} keeps its {field}"
            assert not getattr(second, field), f"{name} shows its {field} again"
            first.ClearField(field)
        assert first == second, f"{name} was done twice"
