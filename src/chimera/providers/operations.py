"""The registry of providers: an organisation's own and those the installation offers to all.

What must stay true: a base URL is checked before it is stored (and its addresses again at each
connect, see adapters/outbound.py); what the installation offers is changed by its operators only.
Reads name the organisation beside row-level security, because an operator's policy shows all.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import orjson
from google.protobuf.struct_pb2 import Struct
from psycopg.errors import UniqueViolation

from chimera.audit.leaf import Severity
from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql, violated
from chimera.faults import AlreadyExists, Denied, Invalid, NotFound, Violation
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.providers.adapters.config import ConfigError, read_config
from chimera.rows import enum_text, struct_dict
from chimera.settings import Settings
from chimera.updates import check_etag, checked_paths
from chimera.v1.providers_pb2 import (
    CreateProviderRequest,
    ListProvidersRequest,
    Provider,
    UpdateProviderRequest,
)

TIMEOUT_DEFAULT_S = 60
UPDATABLE = (
    "display_name",
    "base_url",
    "is_active",
    "timeout_s",
    "requests_per_minute",
    "tokens_per_minute",
    "default_config",
)
CONFIG_BYTES_MAX = 20_000

SELECT_PROVIDER = """
    SELECT id, name, display_name, provider_type, base_url, is_active,
           org_id IS NULL AS is_platform_provided, timeout_s, requests_per_minute,
           tokens_per_minute, default_config, source, created_at, updated_at,
           to_char(updated_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') AS etag
      FROM providers.providers
     WHERE (org_id IS NULL OR org_id = %(org_id)s::uuid) AND deleted_at IS NULL
"""

GET_PROVIDER = sql(Provider, SELECT_PROVIDER + "AND id = %(provider_id)s::uuid")


async def get_provider(tx: Tx, provider_id: str) -> Provider:
    """Raises NotFound(PROVIDER_NOT_FOUND)."""
    provider = await tx.one(GET_PROVIDER, org_id=tx.call.caller.org_id, provider_id=provider_id)
    if provider is None:
        raise NotFound("PROVIDER_NOT_FOUND", "There is no such provider.")
    return provider


LOCK_PROVIDER = sql(
    Provider,
    SELECT_PROVIDER + "AND id = %(provider_id)s::uuid FOR NO KEY UPDATE",
)


async def lock_provider(tx: Tx, provider_id: str) -> Provider:
    """A provider that is about to change, or to get a model, held until the transaction ends.

    Raises NotFound(PROVIDER_NOT_FOUND), Denied for what the installation offers.
    """
    provider = await tx.one(LOCK_PROVIDER, org_id=tx.call.caller.org_id, provider_id=provider_id)
    if provider is None:
        await get_provider(tx, provider_id)
        raise not_yours()
    return provider


def not_yours() -> Denied:
    """The row-level policy lets a tenant read what the installation offers, and not lock it."""
    return Denied(
        "PERMISSION_MISSING",
        "The installation offers this to every organisation; only its operators can change it.",
        facts={"permission": "OPERATE"},
    )


LIST_PROVIDERS = sql(
    Provider,
    SELECT_PROVIDER
    + """
       AND (%(provider_type)s::text IS NULL OR provider_type = %(provider_type)s)
       AND (%(owner)s::text IS NULL OR (org_id IS NULL) = (%(owner)s = 'installation'))
       AND (NOT %(active_only)s OR is_active)
       AND strpos(lower(name || ' ' || display_name), lower(%(name_contains)s)) > 0
       AND (%(after_id)s::uuid IS NULL OR (name, id) > (%(after_name)s::text, %(after_id)s))
     ORDER BY name, id
     LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_providers(
    tx: Tx, pages: Pages, request: ListProvidersRequest
) -> tuple[list[Provider], str]:
    """A page by name, and the token of the next."""
    size, after = pages.page(request)
    after_name, after_id = after or (None, None)
    rows = await tx.all(
        LIST_PROVIDERS,
        org_id=tx.call.caller.org_id,
        provider_type=enum_text(request, "provider_type", request.provider_type),
        owner=enum_text(request, "owner", request.owner),
        active_only=request.active_only,
        name_contains=request.name_contains,
        after_name=after_name,
        after_id=after_id,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "name", "id")


INSERT_PROVIDER = sql(
    Nothing,
    """
    INSERT INTO providers.providers (id, org_id, name, display_name, provider_type, base_url,
        timeout_s, requests_per_minute, tokens_per_minute, default_config, created_by)
    VALUES (%(id)s, %(org_id)s, %(name)s, %(display_name)s, %(provider_type)s, %(base_url)s,
        %(timeout_s)s, %(requests_per_minute)s, %(tokens_per_minute)s, %(default_config)s::jsonb,
        %(created_by)s)
    """,
)


async def create_provider(
    tx: Tx, request: CreateProviderRequest, *, settings: Settings
) -> Provider:
    """Raises Invalid(BASE_URL_REFUSED, PROVIDER_CONFIG_INVALID), AlreadyExists(PROVIDER_NAME_TAKEN),
    Denied when somebody who is no operator makes one for the whole installation."""
    base_url = checked_base_url(request.base_url, "base_url", settings=settings)
    provider_type = enum_text(request, "provider_type", request.provider_type) or ""
    config = checked_config(provider_type, request.default_config, "default_config")
    if request.is_platform_provided and not tx.call.caller.is_operator:
        raise not_yours()
    provider_id = new_id()
    try:
        await tx.run(
            INSERT_PROVIDER,
            id=provider_id,
            org_id=None if request.is_platform_provided else tx.call.caller.org_id,
            name=request.name,
            display_name=request.display_name,
            provider_type=provider_type,
            base_url=base_url,
            timeout_s=request.timeout_s or TIMEOUT_DEFAULT_S,
            requests_per_minute=request.requests_per_minute,
            tokens_per_minute=request.tokens_per_minute,
            default_config=config,
            created_by=tx.call.caller.user_id,
        )
    except UniqueViolation as error:
        if violated(error) != "providers_name":
            raise
        raise AlreadyExists(
            "PROVIDER_NAME_TAKEN",
            f"There is a provider {request.name} already; choose another name.",
        ) from None
    provider = await get_provider(tx, provider_id)
    record(tx, "provider.create", "provider", provider_id, new=_facts(provider))
    return provider


UPDATE_PROVIDER = sql(
    Nothing,
    """
    UPDATE providers.providers SET
        display_name =
            CASE WHEN 'display_name' = ANY (%(paths)s) THEN %(display_name)s ELSE display_name END,
        base_url = CASE WHEN 'base_url' = ANY (%(paths)s) THEN %(base_url)s ELSE base_url END,
        is_active =
            CASE WHEN 'is_active' = ANY (%(paths)s) THEN %(is_active)s::boolean ELSE is_active END,
        timeout_s =
            CASE WHEN 'timeout_s' = ANY (%(paths)s) THEN %(timeout_s)s::int ELSE timeout_s END,
        requests_per_minute = CASE WHEN 'requests_per_minute' = ANY (%(paths)s)
            THEN %(requests_per_minute)s::int ELSE requests_per_minute END,
        tokens_per_minute = CASE WHEN 'tokens_per_minute' = ANY (%(paths)s)
            THEN %(tokens_per_minute)s::int ELSE tokens_per_minute END,
        default_config = CASE WHEN 'default_config' = ANY (%(paths)s)
            THEN %(default_config)s::jsonb ELSE default_config END
     WHERE id = %(provider_id)s::uuid
    """,
)


async def update_provider(
    tx: Tx, request: UpdateProviderRequest, *, settings: Settings
) -> Provider:
    """Raises NotFound(PROVIDER_NOT_FOUND), Conflict(ETAG_MISMATCH), Invalid(UPDATE_MASK_INVALID,
    BASE_URL_REFUSED, PROVIDER_CONFIG_INVALID), Denied for what the installation offers."""
    wanted = request.provider
    paths = checked_paths(request.update_mask.paths, UPDATABLE)
    base_url = wanted.base_url
    if "base_url" in paths:
        base_url = checked_base_url(base_url, "provider.base_url", settings=settings)
    old = await lock_provider(tx, wanted.id)
    check_etag(request.etag, old.etag)
    config = "{}"
    if "default_config" in paths:
        kind = enum_text(old, "provider_type", old.provider_type) or ""
        config = checked_config(kind, wanted.default_config, "provider.default_config")
    await tx.run(
        UPDATE_PROVIDER,
        provider_id=old.id,
        paths=paths,
        display_name=wanted.display_name,
        base_url=base_url,
        is_active=wanted.is_active,
        timeout_s=wanted.timeout_s or TIMEOUT_DEFAULT_S,
        requests_per_minute=wanted.requests_per_minute,
        tokens_per_minute=wanted.tokens_per_minute,
        default_config=config,
    )
    provider = await get_provider(tx, old.id)
    record(tx, "provider.update", "provider", old.id, old=_facts(old), new=_facts(provider))
    return provider


DELETE_PROVIDER = sql(
    Nothing,
    """
    UPDATE providers.providers SET deleted_at = now(), is_active = false
     WHERE id = %(provider_id)s::uuid
    """,
)
DELETE_MODELS = sql(
    Nothing,
    """
    UPDATE providers.models SET deleted_at = now()
     WHERE provider_id = %(provider_id)s::uuid AND deleted_at IS NULL
    """,
)
DELETE_ALIASES = sql(
    Nothing, "DELETE FROM providers.model_aliases WHERE provider_id = %(provider_id)s::uuid"
)
# Of the caller's organisation; those of others, for what the installation offered, are out of use
# with the provider and stay their owners' to delete.
DELETE_KEYS = sql(
    Nothing,
    """
    DELETE FROM providers.provider_keys
     WHERE provider_id = %(provider_id)s::uuid AND org_id = %(org_id)s::uuid
    """,
)


async def delete_provider(tx: Tx, provider_id: str, etag: str) -> None:
    """Soft, with its models; the organisation's keys for it are destroyed.

    Raises NotFound(PROVIDER_NOT_FOUND), Conflict(ETAG_MISMATCH), Denied for what the installation
    offers.
    """
    provider = await lock_provider(tx, provider_id)
    check_etag(etag, provider.etag)
    await tx.run(DELETE_PROVIDER, provider_id=provider.id)
    await tx.run(DELETE_MODELS, provider_id=provider.id)
    await tx.run(DELETE_ALIASES, provider_id=provider.id)
    keys = await tx.run(DELETE_KEYS, provider_id=provider.id, org_id=tx.call.caller.org_id)
    old = {**_facts(provider), "provider_keys": keys}
    record(tx, "provider.delete", "provider", provider.id, old=old, severity=Severity.NOTICE)


def checked_base_url(url: str, field: str, *, settings: Settings) -> str:
    """The URL as it is stored. http is for this machine, where loopback is allowed, and for the
    private networks an operator has listed.

    Raises Invalid(BASE_URL_REFUSED) with the fact `why`: malformed, insecure_scheme or
    refused_address.
    """
    # It brings an HTTP client along, which a server that registers nothing can do without.
    from chimera.providers.adapters import outbound

    try:
        return outbound.check_base_url(
            url,
            allow_http=settings.loopback_allowed and _is_loopback(url),
            allow_loopback=settings.loopback_allowed,
            private_networks=settings.private_target_networks,
        )
    except outbound.BadBaseUrlError as error:
        raise Invalid(
            "BASE_URL_REFUSED",
            f"This base URL is refused: {error}.",
            facts={"why": error.reason},
            violations=[Violation(field, str(error), "BASE_URL_REFUSED")],
        ) from None


def checked_config(provider_type: str, config: Struct, field: str) -> str:
    """The default configuration as JSON text. Raises Invalid(PROVIDER_CONFIG_INVALID)."""
    plain = struct_dict(config)
    text = orjson.dumps(plain).decode()
    try:
        if len(text) > CONFIG_BYTES_MAX:
            raise ConfigError("", f"must have at most {CONFIG_BYTES_MAX} bytes")
        read_config(provider_type, plain)
    except ConfigError as error:
        where = f"{field}.{error.path}" if error.path else field
        raise Invalid(
            "PROVIDER_CONFIG_INVALID",
            f"{where}: {error}",
            violations=[Violation(where, str(error), "PROVIDER_CONFIG_INVALID")],
        ) from None
    return text


def _is_loopback(url: str) -> bool:
    """Whether the URL plainly names this machine."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return host in ("127.0.0.1", "::1", "localhost") or host.endswith(".localhost")


def _facts(provider: Provider) -> dict[str, Any]:
    """What the audit log shows of a provider."""
    return {
        "name": provider.name,
        "display_name": provider.display_name,
        "provider_type": enum_text(provider, "provider_type", provider.provider_type),
        "base_url": provider.base_url,
        "is_active": provider.is_active,
        "timeout_s": provider.timeout_s,
        "requests_per_minute": provider.requests_per_minute,
        "tokens_per_minute": provider.tokens_per_minute,
        "default_config": orjson.dumps(struct_dict(provider.default_config)).decode(),
    }
