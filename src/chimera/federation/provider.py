"""Providers as signing in needs them, from the settings or from an organisation's row."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from chimera.call import Call
from chimera.core import Core
from chimera.db import sql
from chimera.faults import Invalid, NotFound, Unavailable, Violation
from chimera.keyring import sealed_from_json
from chimera.providers.adapters.outbound import BadBaseUrlError, MalformedUrlError, check_url
from chimera.providers.vault import SealContext, VaultError, unseal
from chimera.settings import Settings

GOOGLE, GITHUB = "https://accounts.google.com", "https://github.com"
ISSUERS = {"google": GOOGLE, "github": GITHUB}
LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Provider:
    """org_id is empty for the installation's; new_user_role for none."""

    id: str
    org_id: str
    name: str
    kind: str
    issuer: str
    client_id: str
    redirect_uris: tuple[str, ...]
    client_secret: str = field(repr=False)
    new_user_role: str = ""
    email_domains: tuple[str, ...] = ()
    second_factor_amr: tuple[str, ...] = ()
    second_factor_acr: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredProvider:
    """An organisation's row; `sealed` is the client secret."""

    id: str
    org_id: str
    name: str
    kind: str
    issuer: str
    client_id: str
    row_version: int
    redirect_uris: list[str]
    new_user_role: str | None
    email_domains: list[str]
    second_factor_amr: list[str]
    second_factor_acr: list[str]
    sealed: dict[str, Any] = field(repr=False)


FIND_PROVIDER = sql(StoredProvider, "SELECT * FROM identity.sign_in_provider(%(provider_id)s)")


def secret_context(org_id: str, provider_id: str, row_version: int) -> SealContext:
    """Where a client secret lives."""
    return SealContext(
        UUID(org_id), "identity.sign_in_providers", UUID(provider_id), "sealed", row_version
    )


def installed(settings: Settings) -> list[Provider]:
    """The installation's own; each is known by its name."""
    return [
        Provider(
            id=given.name,
            org_id="",
            name=given.name,
            kind=given.kind,
            issuer=_as_compared(given.kind, given.issuer or ISSUERS[given.kind]),
            client_id=given.client_id,
            client_secret=given.client_secret.get_secret_value(),
            redirect_uris=given.redirect_uris,
        )
        for given in settings.sign_in_providers
    ]


async def get_provider(core: Core, provider_id: str) -> Provider:
    """With its secret. Raises NotFound(SIGN_IN_PROVIDER_NOT_FOUND), also when it is switched off;
    Unavailable when the vault is."""
    for provider in installed(core.settings):
        if provider.id == provider_id:
            return provider
    row = None
    if _is_uuid(provider_id):
        call = Call.by_worker("sign_in.find_provider", seconds=10)
        async with core.db.look(call) as tx:
            row = await tx.one(FIND_PROVIDER, provider_id=provider_id)
    if row is None:
        raise no_provider()
    context = secret_context(row.org_id, row.id, row.row_version)
    try:
        secret = await asyncio.to_thread(unseal, core.master, sealed_from_json(row.sealed), context)
    except VaultError as error:
        raise vault_away() from error
    return Provider(
        id=row.id,
        org_id=row.org_id,
        name=row.name,
        kind=row.kind,
        issuer=row.issuer,
        client_id=row.client_id,
        client_secret=secret.decode(),
        redirect_uris=tuple(row.redirect_uris),
        new_user_role=row.new_user_role or "",
        email_domains=tuple(row.email_domains),
        second_factor_amr=tuple(row.second_factor_amr),
        second_factor_acr=tuple(row.second_factor_acr),
    )


def no_provider() -> NotFound:
    return NotFound("SIGN_IN_PROVIDER_NOT_FOUND", "There is no such way to sign in.")


def vault_away() -> Unavailable:
    return Unavailable(
        "DEPENDENCY_UNAVAILABLE", "The vault's master key cannot be used.", retry_after_s=5.0
    )


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def checked_url(url: str, settings: Settings) -> str:
    """A URL this server may call, as it is. Raises BadBaseUrlError: https only, but for loopback
    where the development setting allows it; addresses are checked again at each connect."""
    is_local = settings.loopback_allowed and _host_of(url) in LOOPBACK_HOSTS
    check_url(url, allow_http=is_local, allow_loopback=settings.loopback_allowed)
    return url


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _as_compared(kind: str, issuer: str) -> str:
    """An OpenID issuer is compared letter by letter, with the slash it may end in (OpenID Connect
    Discovery 1.0, section 4.3); GitHub's is where its paths begin."""
    return issuer.rstrip("/") if kind == "github" else issuer


def checked_issuer(kind: str, issuer: str, settings: Settings) -> str:
    """Raises Invalid(FIELD_INVALID, BASE_URL_REFUSED)."""
    if kind == "google" or (kind == "github" and not issuer):
        return ISSUERS[kind]
    try:
        if "?" in issuer:
            raise MalformedUrlError("an issuer has no query")
        return _as_compared(kind, checked_url(issuer, settings))
    except BadBaseUrlError as error:
        violations = [Violation("issuer", str(error), "BASE_URL_REFUSED")]
        raise Invalid("BASE_URL_REFUSED", f"issuer: {error}", violations=violations) from None


def check_redirect_uris(uris: list[str]) -> None:
    """https, or http on the person's own machine (RFC 8252). Raises Invalid(FIELD_INVALID)."""
    for place, uri in enumerate(uris):
        try:
            parts = urlsplit(uri)
            host = parts.hostname or ""
        except ValueError:
            host = ""
        is_safe = host and (
            parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK_HOSTS)
        )
        if not is_safe or "#" in uri or "@" in parts.netloc or not uri.isprintable():
            field_name = f"redirect_uris[{place}]"
            said = "must be an https URL without user and fragment, or http on loopback"
            violations = [Violation(field_name, said, "FIELD_INVALID")]
            raise Invalid("FIELD_INVALID", f"{field_name}: {said}", violations=violations)
