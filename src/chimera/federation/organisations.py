"""Providers of an organisation: what its administrators set up. Client secrets are sealed for their
row and version, and never shown."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import orjson
from psycopg.errors import UniqueViolation

from chimera.audit.leaf import Kind
from chimera.audit.recording import record
from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, Tx, sql, violated
from chimera.faults import AlreadyExists, Conflict, Denied, Invalid, Violation
from chimera.federation.provider import (
    check_redirect_uris,
    checked_issuer,
    no_provider,
    secret_context,
    vault_away,
)
from chimera.identity.roles import ROLES
from chimera.ids import new_id
from chimera.keyring import sealed_json
from chimera.providers.vault import VaultError, seal
from chimera.rows import enum_text
from chimera.updates import check_etag, checked_paths, must_be_given
from chimera.v1.federation_pb2 import (
    CreateSignInProviderRequest,
    SignInOption,
    SignInProvider,
    UpdateSignInProviderRequest,
)

UPDATABLE = (
    "name",
    "client_id",
    "client_secret",
    "redirect_uris",
    "new_user_role",
    "email_domains",
    "is_enabled",
    "second_factor_amr",
    "second_factor_acr",
)
# Of RFC 8176: something known, a place, a risk, somebody being there, a sign-in to a desktop. And "0" of
# acr is less than any assurance (OpenID Connect Core 1.0, section 2).
NO_SECOND_FACTOR_AMR = frozenset({"pwd", "pin", "kba", "geo", "rba", "user", "wia"})
NO_SECOND_FACTOR_ACR = frozenset({"0"})

SELECT_PROVIDER = """
    SELECT id, name, kind, issuer, client_id, redirect_uris, new_user_role, email_domains,
           is_enabled, second_factor_amr, second_factor_acr, created_at, updated_at,
           to_char(updated_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') AS etag
      FROM identity.sign_in_providers
     WHERE deleted_at IS NULL
"""
LIST_PROVIDERS = sql(SignInProvider, SELECT_PROVIDER + "ORDER BY lower(name)")
GET_PROVIDER = sql(SignInProvider, SELECT_PROVIDER + "AND id = %(provider_id)s")
LOCK_PROVIDER = sql(SignInProvider, SELECT_PROVIDER + "AND id = %(provider_id)s FOR UPDATE")
LIST_OPTIONS = sql(
    SignInOption,
    """
    SELECT id::text AS provider_id, name, kind FROM identity.list_sign_in_providers(%(org_id)s)
""",
)
FIND_VERSION = sql(
    int,
    """
    SELECT row_version FROM identity.sign_in_providers
     WHERE id = %(provider_id)s AND deleted_at IS NULL
    """,
)


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """A client secret, sealed for the row and version it will be stored in; version 0 for none."""

    provider_id: str
    row_version: int
    sealed: str = field(repr=False)


async def seal_secret(core: Core, call: Call, secret: str, provider_id: str = "") -> SealedSecret:
    """Before the transaction: the master key may be a network away. Without a secret there is
    nothing to seal. Raises NotFound(SIGN_IN_PROVIDER_NOT_FOUND), Unavailable."""
    row_version = 1
    if provider_id:
        if not secret:
            return SealedSecret(provider_id, 0, "{}")
        async with core.db.look(call) as tx:
            found = await tx.one(FIND_VERSION, provider_id=provider_id)
        if found is None:
            raise no_provider()
        row_version = found + 1
    provider_id = provider_id or new_id()
    context = secret_context(call.caller.org_id, provider_id, row_version)
    try:
        sealed = await asyncio.to_thread(seal, core.master, secret.encode(), context)
    except VaultError as error:
        raise vault_away() from error
    return SealedSecret(provider_id, row_version, orjson.dumps(sealed_json(sealed)).decode())


async def list_options(tx: Tx, org_id: str) -> list[SignInOption]:
    """Those of an organisation that are switched on; nothing for one that does not exist."""
    return await tx.all(LIST_OPTIONS, org_id=org_id)


async def list_providers(tx: Tx) -> list[SignInProvider]:
    """The organisation's, by name; it has few."""
    return await tx.all(LIST_PROVIDERS)


INSERT_PROVIDER = sql(
    Nothing,
    """
    INSERT INTO identity.sign_in_providers
           (id, org_id, name, kind, issuer, client_id, sealed, redirect_uris, new_user_role,
            email_domains, second_factor_amr, second_factor_acr, created_by)
    VALUES (%(id)s, %(org_id)s, %(name)s, %(kind)s, %(issuer)s, %(client_id)s, %(sealed)s::jsonb,
            %(redirect_uris)s, %(new_user_role)s, %(email_domains)s, %(second_factor_amr)s,
            %(second_factor_acr)s, %(created_by)s)
    """,
)


async def create_provider(
    tx: Tx, core: Core, request: CreateSignInProviderRequest, new: SealedSecret
) -> SignInProvider:
    """Raises AlreadyExists(SIGN_IN_PROVIDER_NAME_TAKEN), Invalid(FIELD_INVALID, BASE_URL_REFUSED),
    Denied(GRANT_EXCEEDS_GRANTOR)."""
    check_redirect_uris(list(request.redirect_uris))
    kind = str(enum_text(request, "kind", request.kind))
    role = _checked_role(tx, request)
    _check_second_factor(request, kind)
    try:
        await tx.run(
            INSERT_PROVIDER,
            id=new.provider_id,
            org_id=tx.call.caller.org_id,
            name=request.name,
            kind=kind,
            issuer=checked_issuer(kind, request.issuer, core.settings),
            client_id=request.client_id,
            sealed=new.sealed,
            redirect_uris=list(request.redirect_uris),
            new_user_role=role,
            email_domains=sorted(domain.lower() for domain in request.email_domains),
            second_factor_amr=sorted(request.second_factor_amr),
            second_factor_acr=sorted(request.second_factor_acr),
            created_by=tx.call.caller.user_id,
        )
    except UniqueViolation as error:
        raise _taken(error) from None
    provider = await tx.one(GET_PROVIDER, provider_id=new.provider_id)
    assert provider is not None
    record(
        tx,
        "sign_in_provider.create",
        "sign_in_provider",
        provider.id,
        new=_facts(provider),
        kind=Kind.SECURITY,
    )
    return provider


def _checked_role(
    tx: Tx, request: CreateSignInProviderRequest | UpdateSignInProviderRequest
) -> str | None:
    """Who lets others make users of a role must hold what it gives."""
    role = enum_text(request, "new_user_role", request.new_user_role)
    if role and not ROLES[role] <= tx.call.caller.lasting:
        raise Denied(
            "GRANT_EXCEEDS_GRANTOR", f"The role {role} allows more than this caller may do."
        )
    return role


def _check_second_factor(
    request: CreateSignInProviderRequest | UpdateSignInProviderRequest, kind: str
) -> None:
    """What is believed must at least say that there was a second factor. Raises Invalid(FIELD_INVALID)."""
    given = (
        ("second_factor_amr", request.second_factor_amr, NO_SECOND_FACTOR_AMR),
        ("second_factor_acr", request.second_factor_acr, NO_SECOND_FACTOR_ACR),
    )
    for field_name, values, refused in given:
        for value in values:
            if kind == "github" or value in refused:
                said = f"{value} does not say that a second factor was asked for"
                violations = [Violation(field_name, said, "FIELD_INVALID")]
                raise Invalid("FIELD_INVALID", f"{field_name}: {said}", violations=violations)


def _taken(error: UniqueViolation) -> Exception:
    if violated(error) == "sign_in_providers_name":
        return AlreadyExists(
            "SIGN_IN_PROVIDER_NAME_TAKEN", "There is a sign-in provider of this name already."
        )
    return error


UPDATE_PROVIDER = sql(
    Nothing,
    """
    UPDATE identity.sign_in_providers SET
        name = CASE WHEN 'name' = ANY (%(paths)s) THEN %(name)s ELSE name END,
        client_id = CASE WHEN 'client_id' = ANY (%(paths)s) THEN %(client_id)s ELSE client_id END,
        sealed =
            CASE WHEN 'client_secret' = ANY (%(paths)s) THEN %(sealed)s::jsonb ELSE sealed END,
        row_version =
            CASE WHEN 'client_secret' = ANY (%(paths)s) THEN %(row_version)s ELSE row_version END,
        redirect_uris = CASE WHEN 'redirect_uris' = ANY (%(paths)s)
                             THEN %(redirect_uris)s::text[] ELSE redirect_uris END,
        new_user_role = CASE WHEN 'new_user_role' = ANY (%(paths)s)
                             THEN %(new_user_role)s ELSE new_user_role END,
        email_domains = CASE WHEN 'email_domains' = ANY (%(paths)s)
                             THEN %(email_domains)s::text[] ELSE email_domains END,
        is_enabled = CASE WHEN 'is_enabled' = ANY (%(paths)s) THEN %(is_enabled)s ELSE is_enabled END,
        second_factor_amr = CASE WHEN 'second_factor_amr' = ANY (%(paths)s)
                                 THEN %(second_factor_amr)s::text[] ELSE second_factor_amr END,
        second_factor_acr = CASE WHEN 'second_factor_acr' = ANY (%(paths)s)
                                 THEN %(second_factor_acr)s::text[] ELSE second_factor_acr END
     WHERE id = %(provider_id)s
       AND ('client_secret' <> ALL (%(paths)s) OR row_version = %(row_version)s - 1)
    """,
)


async def update_provider(
    tx: Tx, request: UpdateSignInProviderRequest, new: SealedSecret
) -> SignInProvider:
    """Raises NotFound(SIGN_IN_PROVIDER_NOT_FOUND), AlreadyExists(SIGN_IN_PROVIDER_NAME_TAKEN),
    Conflict(ETAG_MISMATCH, CONFLICT_TRY_AGAIN), Invalid, Denied(GRANT_EXCEEDS_GRANTOR)."""
    paths = checked_paths(request.update_mask.paths, UPDATABLE)
    for name in ("name", "client_id", "client_secret", "redirect_uris"):
        if name in paths and not getattr(request, name):
            raise must_be_given(name)
    check_redirect_uris(list(request.redirect_uris))
    old = await tx.one(LOCK_PROVIDER, provider_id=request.sign_in_provider_id)
    if old is None:
        raise no_provider()
    check_etag(request.etag, old.etag)
    _check_second_factor(request, enum_text(old, "kind", old.kind) or "")
    try:
        changed = await tx.run(
            UPDATE_PROVIDER,
            provider_id=old.id,
            paths=paths,
            name=request.name,
            client_id=request.client_id,
            sealed=new.sealed,
            row_version=new.row_version,
            redirect_uris=list(request.redirect_uris),
            new_user_role=_checked_role(tx, request),
            email_domains=sorted(domain.lower() for domain in request.email_domains),
            is_enabled=request.is_enabled,
            second_factor_amr=sorted(request.second_factor_amr),
            second_factor_acr=sorted(request.second_factor_acr),
        )
    except UniqueViolation as error:
        raise _taken(error) from None
    if not changed:
        raise Conflict("CONFLICT_TRY_AGAIN", "The secret was changed at the same moment.")
    provider = await tx.one(GET_PROVIDER, provider_id=old.id)
    assert provider is not None
    record(
        tx,
        "sign_in_provider.update",
        "sign_in_provider",
        old.id,
        old=_facts(old),
        new={**_facts(provider), "renewed": "client_secret" in paths},
        kind=Kind.SECURITY,
    )
    return provider


DELETE_PROVIDER = sql(
    Nothing,
    "UPDATE identity.sign_in_providers SET deleted_at = now(), sealed = '{}' WHERE id = %(provider_id)s",
)


async def delete_provider(tx: Tx, provider_id: str) -> None:
    """Raises NotFound(SIGN_IN_PROVIDER_NOT_FOUND)."""
    old = await tx.one(LOCK_PROVIDER, provider_id=provider_id)
    if old is None:
        raise no_provider()
    await tx.run(DELETE_PROVIDER, provider_id=provider_id)
    record(
        tx,
        "sign_in_provider.delete",
        "sign_in_provider",
        old.id,
        old=_facts(old),
        kind=Kind.SECURITY,
    )


def _facts(provider: SignInProvider) -> dict[str, Any]:
    return {
        "name": provider.name,
        "kind": enum_text(provider, "kind", provider.kind),
        "issuer": provider.issuer,
        "client_id": provider.client_id,
        "redirect_uris": list(provider.redirect_uris),
        "new_user_role": enum_text(provider, "new_user_role", provider.new_user_role),
        "email_domains": list(provider.email_domains),
        "is_enabled": provider.is_enabled,
        "second_factor_amr": list(provider.second_factor_amr),
        "second_factor_acr": list(provider.second_factor_acr),
    }
