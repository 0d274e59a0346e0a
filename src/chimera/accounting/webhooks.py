"""Endpoints of an organisation, and their secrets.

What must stay true: a secret is sealed before it comes near the database, shown once, and opened only
to sign (deliveries.py); its address is checked like a provider's, here and at every connect.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from chimera.accounting.deliveries import LOCK_WEBHOOK, fail_waiting, go_on
from chimera.accounting.signing import new_secret, secret_text
from chimera.audit.leaf import Kind
from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import Conflict, Invalid, NotFound, Violation
from chimera.ids import new_id
from chimera.keyring import sealed_json
from chimera.paging import Pages
from chimera.providers.keys import vault_away
from chimera.providers.operations import checked_base_url
from chimera.providers.sealed_places import webhook_context
from chimera.providers.vault import MasterKeys, VaultError, seal
from chimera.settings import Settings
from chimera.updates import check_etag, checked_paths
from chimera.v1.budgets_pb2 import (
    CreateWebhookRequest,
    ListWebhooksRequest,
    UpdateWebhookRequest,
    Webhook,
)

UPDATABLE = ("url", "description", "event_types", "is_active")
# How long the previous secret signs too.
OVERLAP_HOURS = 24


class NewSecret:
    """A secret, sealed for its row, and its text for whoever asked for it."""

    __slots__ = ("sealed", "text")

    def __init__(self, sealed: str, text: str) -> None:
        self.sealed, self.text = sealed, text


async def make_secret(
    master: MasterKeys, org_id: str, webhook_id: str, row_version: int
) -> NewSecret:
    """Before the transaction: the master key may be a network away. Raises Unavailable."""
    secret = new_secret()
    context = webhook_context(org_id, webhook_id, row_version)
    try:
        sealed = await asyncio.to_thread(seal, master, secret, context)
    except VaultError as error:
        raise vault_away() from error
    return NewSecret(orjson.dumps(sealed_json(sealed)).decode(), secret_text(secret))


def check_url(url: str, field: str, *, settings: Settings) -> str:
    """Raises Invalid(WEBHOOK_URL_REFUSED)."""
    try:
        checked_base_url(url, field, settings=settings)
    except Invalid as fault:
        said = fault.message.replace("base URL", "URL")
        violation = Violation(field, said, "WEBHOOK_URL_REFUSED")
        raise Invalid(
            "WEBHOOK_URL_REFUSED", said, facts=fault.facts, violations=[violation]
        ) from None
    return url


SELECT_WEBHOOK = """
    SELECT id, url, description, event_types, is_active, disabled_reason, failures, failing_since,
           CASE WHEN previous_expires_at > now() THEN previous_expires_at END AS previous_secret_until,
           created_by, created_at, updated_at,
           md5((url, description, event_types, is_active)::text) AS etag
      FROM accounting.webhooks
     WHERE org_id = %(org_id)s::uuid AND deleted_at IS NULL
"""

GET_WEBHOOK = sql(Webhook, SELECT_WEBHOOK + " AND id = %(webhook_id)s::uuid")

LIST_WEBHOOKS = sql(
    Webhook,
    SELECT_WEBHOOK
    + " AND (%(after)s::uuid IS NULL OR id < %(after)s) ORDER BY id DESC LIMIT %(limit)s",
    prepare=False,
)

INSERT_WEBHOOK = sql(
    Nothing,
    """
    INSERT INTO accounting.webhooks (id, org_id, url, description, event_types, sealed, created_by)
    VALUES (%(id)s, %(org_id)s, %(url)s, %(description)s, %(event_types)s, %(sealed)s::jsonb,
            %(created_by)s)
    """,
)


async def get_webhook(tx: Tx, webhook_id: str) -> Webhook:
    """Raises NotFound(WEBHOOK_NOT_FOUND)."""
    webhook = await tx.one(GET_WEBHOOK, org_id=tx.call.caller.org_id, webhook_id=webhook_id)
    if webhook is None:
        raise NotFound("WEBHOOK_NOT_FOUND", "There is no such webhook.")
    return webhook


async def list_webhooks(
    tx: Tx, pages: Pages, request: ListWebhooksRequest
) -> tuple[list[Webhook], str]:
    """A page, newest first, and the token of the next."""
    size, after = pages.page(request)
    rows = await tx.all(
        LIST_WEBHOOKS,
        org_id=tx.call.caller.org_id,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "id")


async def create_webhook(
    tx: Tx,
    request: CreateWebhookRequest,
    webhook_id: str,
    secret: NewSecret,
    *,
    settings: Settings,
) -> Webhook:
    """Raises Invalid(WEBHOOK_URL_REFUSED)."""
    caller = tx.call.caller
    await tx.run(
        INSERT_WEBHOOK,
        id=webhook_id,
        org_id=caller.org_id,
        url=check_url(request.url, "url", settings=settings),
        description=request.description,
        event_types=list(request.event_types),
        sealed=secret.sealed,
        created_by=caller.user_id,
    )
    webhook = await get_webhook(tx, webhook_id)
    record(tx, "webhook.create", "webhook", webhook_id, new=_facts(webhook), kind=Kind.SECURITY)
    return webhook


def new_webhook_id() -> str:
    """Known before the row, for the secret is sealed for it."""
    return new_id()


UPDATE_WEBHOOK = sql(
    Nothing,
    """
    UPDATE accounting.webhooks
       SET url = CASE WHEN 'url' = ANY(%(paths)s) THEN %(url)s ELSE url END,
           description = CASE WHEN 'description' = ANY(%(paths)s) THEN %(description)s ELSE description END,
           event_types = CASE WHEN 'event_types' = ANY(%(paths)s) THEN %(event_types)s::text[] ELSE event_types END,
           is_active = CASE WHEN 'is_active' = ANY(%(paths)s) THEN %(is_active)s::boolean ELSE is_active END,
           failures = CASE WHEN 'is_active' = ANY(%(paths)s) THEN 0 ELSE failures END,
           failing_since = CASE WHEN 'is_active' = ANY(%(paths)s) THEN NULL ELSE failing_since END,
           disabled_reason = CASE WHEN 'is_active' = ANY(%(paths)s) THEN '' ELSE disabled_reason END
     WHERE id = %(webhook_id)s
    """,
)


async def update_webhook(tx: Tx, request: UpdateWebhookRequest, *, settings: Settings) -> Webhook:
    """Raises NotFound(WEBHOOK_NOT_FOUND), Invalid(WEBHOOK_URL_REFUSED, UPDATE_MASK_INVALID),
    Conflict(ETAG_MISMATCH)."""
    wanted = request.webhook
    paths = checked_paths(request.update_mask.paths, UPDATABLE)
    if "url" in paths:
        check_url(wanted.url, "webhook.url", settings=settings)
    await tx.run(LOCK_WEBHOOK, webhook_id=wanted.id)
    old = await get_webhook(tx, wanted.id)
    check_etag(request.etag, old.etag)
    await tx.run(
        UPDATE_WEBHOOK,
        webhook_id=old.id,
        paths=paths,
        url=wanted.url,
        description=wanted.description,
        event_types=list(wanted.event_types),
        is_active=wanted.is_active,
    )
    webhook = await get_webhook(tx, old.id)
    if webhook.is_active and not old.is_active:
        await go_on(tx, old.id)
    record(tx, "webhook.update", "webhook", old.id, old=_facts(old), new=_facts(webhook))
    return webhook


DELETE_WEBHOOK = sql(
    Nothing,
    """
    UPDATE accounting.webhooks
       SET deleted_at = now(), is_active = false, sealed = '{}', previous_sealed = NULL
     WHERE id = %(webhook_id)s
    """,
)


async def delete_webhook(tx: Tx, webhook_id: str) -> None:
    """Its secrets are destroyed; what was delivered stays known. Raises NotFound."""
    old = await get_webhook(tx, webhook_id)
    await tx.run(DELETE_WEBHOOK, webhook_id=webhook_id)
    await fail_waiting(tx, webhook_id)
    record(tx, "webhook.delete", "webhook", webhook_id, old=_facts(old), kind=Kind.SECURITY)


FIND_VERSION = sql(
    int,
    """
    SELECT row_version FROM accounting.webhooks
     WHERE org_id = %(org_id)s::uuid AND id = %(webhook_id)s::uuid AND deleted_at IS NULL
    """,
)

ROTATE_SECRET = sql(
    Nothing,
    """
    UPDATE accounting.webhooks
       SET previous_sealed = sealed, previous_row_version = row_version,
           previous_expires_at = now() + make_interval(hours => %(hours)s),
           sealed = %(sealed)s::jsonb, row_version = row_version + 1
     WHERE id = %(webhook_id)s AND row_version = %(row_version)s
    """,
)


async def find_version(tx: Tx, webhook_id: str) -> int:
    """The row version a new secret follows. Raises NotFound(WEBHOOK_NOT_FOUND)."""
    version = await tx.one(FIND_VERSION, org_id=tx.call.caller.org_id, webhook_id=webhook_id)
    if version is None:
        raise NotFound("WEBHOOK_NOT_FOUND", "There is no such webhook.")
    return version


async def rotate_secret(tx: Tx, webhook_id: str, secret: NewSecret, row_version: int) -> Webhook:
    """Takes the new secret into use; `row_version`: the one it follows. Raises NotFound, Conflict."""
    await get_webhook(tx, webhook_id)
    if not await tx.run(
        ROTATE_SECRET,
        webhook_id=webhook_id,
        sealed=secret.sealed,
        row_version=row_version,
        hours=OVERLAP_HOURS,
    ):
        raise Conflict("CONFLICT_TRY_AGAIN", "Somebody else rotated it; try again.")
    webhook = await get_webhook(tx, webhook_id)
    record(
        tx,
        "webhook.rotate_secret",
        "webhook",
        webhook_id,
        old={"row_version": row_version},
        new={"row_version": row_version + 1},
        kind=Kind.SECURITY,
    )
    return webhook


def _facts(webhook: Webhook) -> dict[str, Any]:
    """What the audit log shows of a webhook."""
    return {
        "url": webhook.url,
        "description": webhook.description,
        "event_types": list(webhook.event_types),
        "is_active": webhook.is_active,
    }
