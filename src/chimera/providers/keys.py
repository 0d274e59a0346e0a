"""Secrets of provider keys: sealed for those who store them, opened for what calls with them.

What must stay true: a secret is sealed before it comes near the database and opened only by
`unsealed`, once `take_key` or `find_own_key` have left an audit event; it is in no answer, log, error,
repr or audit event. It opens only as this key of this organisation for this provider, and goes only to
the host that the provider had when its owner stored it. What their owners do with keys: owned_keys.py.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from chimera.audit.leaf import Kind
from chimera.audit.recording import record
from chimera.call import Call
from chimera.db import Nothing, Tx, sql
from chimera.faults import Invalid, NotFound, NotReady, Unavailable, Violation
from chimera.ids import new_id
from chimera.keyring import sealed_from_json
from chimera.providers.key_usage import count_call
from chimera.providers.vault import (
    MasterKeyAwayError,
    MasterKeyRefusedError,
    MasterKeys,
    SealContext,
    Sealed,
    VaultError,
    seal,
    unseal,
)

# A shorter secret would be given away by its beginning.
PREFIX_FROM_CHARS = 24
PREFIX_CHARS = 8
# What fits in an HTTP header as it is. A pasted line end would not, and would fail only later.
_SECRET = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A secret, sealed for the row it will be stored in, and what may be shown of it."""

    id: str
    sealed: Sealed = field(repr=False)
    prefix: str
    last_four: str


async def seal_key(
    master: MasterKeys,
    call: Call,
    secret: str,
    *,
    provider_id: str,
    key_id: str = "",
    row_version: int = 1,
) -> NewKey:
    """Seals a secret, before the transaction: the master key may be a network away. `key_id` and the
    next `row_version` are those of a key that gets a new secret.

    Raises Invalid(FIELD_INVALID) for what cannot be a key, Unavailable when the vault fails.
    """
    if not _SECRET.fullmatch(secret):
        said = "must be visible ASCII characters, without spaces or line ends"
        violation = Violation("secret", said, "FIELD_INVALID")
        raise Invalid("FIELD_INVALID", f"secret: {said}", violations=[violation])
    key_id = key_id or new_id()
    context = seal_context(call.caller.org_id, key_id, provider_id, row_version)
    try:
        sealed = await asyncio.to_thread(seal, master, secret.encode(), context)
    except VaultError as error:
        raise vault_away() from error
    prefix = secret[:PREFIX_CHARS] if len(secret) >= PREFIX_FROM_CHARS else ""
    return NewKey(key_id, sealed, prefix, secret[-4:])


def seal_context(org_id: str, key_id: str, provider_id: str, row_version: int) -> SealContext:
    """The place a provider key's secret is bound to."""
    return SealContext(
        UUID(org_id),
        "providers.provider_keys",
        UUID(key_id),
        "sealed",
        row_version,
        purpose=f"calls to provider {UUID(provider_id)}",
    )


def vault_away() -> Unavailable:
    return Unavailable(
        "DEPENDENCY_UNAVAILABLE", "The vault's master key cannot be used.", retry_after_s=5.0
    )


def no_key() -> NotFound:
    return NotFound("PROVIDER_KEY_NOT_FOUND", "You have no such provider key.")


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A sealed key with what it is bound to."""

    id: str
    org_id: str
    provider_id: str
    row_version: int
    sealed: dict[str, Any] = field(repr=False)
    # Whether it was stored for the host it is to be sent to.
    is_at_home: bool = True


FIND_STORED_KEY = sql(
    StoredKey,
    """
    SELECT id, org_id, provider_id, row_version, sealed,
           stored_for = providers.host_of(%(base_url)s) AS is_at_home
      FROM providers.provider_keys
     WHERE id = %(key_id)s::uuid AND is_active
    """,
)
NOTE_OPENED = sql(
    Nothing,
    "UPDATE providers.provider_keys SET last_used_at = now() WHERE id = %(key_id)s::uuid",
)


def moved() -> NotReady:
    return NotReady(
        "PROVIDER_ADDRESS_CHANGED",
        "The key was stored for another host than the provider's address names; if it is for this one"
        " too, its owner stores it again with ReplaceProviderKeySecret.",
    )


async def take_key(tx: Tx, provider_key_id: str, *, purpose: str, base_url: str) -> StoredKey:
    """A key of the transaction's organisation, still sealed, for a worker that is about to send it to
    `base_url`; `unsealed` opens it after the transaction, for the master key may be a network away.

    Call it once a lease: each time is an audit event (provider_key.use) with its purpose. Raises
    NotReady(PROVIDER_KEY_MISSING) when the key is gone, NotReady(PROVIDER_ADDRESS_CHANGED).
    """
    stored = await tx.one(FIND_STORED_KEY, key_id=provider_key_id, base_url=base_url)
    if stored is None:
        raise NotReady("PROVIDER_KEY_MISSING", "The provider key was deleted or revoked.")
    if not stored.is_at_home:
        raise moved()
    await tx.run(NOTE_OPENED, key_id=stored.id)
    _record_use(tx, stored.id, purpose)
    return stored


FIND_OWN_KEY = sql(
    StoredKey,
    """
    SELECT id, org_id, provider_id, row_version, sealed,
           stored_for = providers.host_of(%(base_url)s) AS is_at_home
      FROM providers.provider_keys
     WHERE user_id = %(user_id)s::uuid AND provider_id = %(provider_id)s::uuid AND is_active
       AND CASE WHEN %(key_id)s::uuid IS NULL THEN is_default ELSE id = %(key_id)s END
    """,
)


async def find_own_key(
    tx: Tx, provider_id: str, key_id: str, *, purpose: str, base_url: str
) -> StoredKey | None:
    """A key of the caller's own for a provider, still sealed; without an id the default one, or
    None when there is none. The one call it is for, to `base_url`, is counted and recorded here, before
    it is opened.

    Raises NotFound(PROVIDER_KEY_NOT_FOUND) for an id that is no active key for the provider,
    NotReady(PROVIDER_ADDRESS_CHANGED).
    """
    user_id = tx.call.caller.user_id
    stored = await tx.one(
        FIND_OWN_KEY,
        user_id=user_id,
        provider_id=provider_id,
        key_id=key_id or None,
        base_url=base_url,
    )
    if stored is None and key_id:
        raise no_key()
    if stored is not None:
        if not stored.is_at_home:
            raise moved()
        await count_call(tx, stored.id)
        _record_use(tx, stored.id, purpose)
    return stored


IS_AT_HOME = sql(
    bool,
    """
    SELECT stored_for = providers.host_of(%(base_url)s) FROM providers.provider_keys
     WHERE id = %(key_id)s::uuid
    """,
)


async def check_host(tx: Tx, key_id: str, base_url: str) -> None:
    """For a launch, before anything runs. Raises NotReady(PROVIDER_ADDRESS_CHANGED)."""
    if not await tx.one(IS_AT_HOME, key_id=key_id, base_url=base_url):
        raise moved()


async def unsealed(master: MasterKeys, stored: StoredKey) -> str:
    """The secret. Raises NotReady(PROVIDER_KEY_MISSING) when it does not open any more, Unavailable
    when the master key cannot be used now."""
    context = seal_context(stored.org_id, stored.id, stored.provider_id, stored.row_version)
    try:
        secret = await asyncio.to_thread(unseal, master, sealed_from_json(stored.sealed), context)
    except (MasterKeyRefusedError, MasterKeyAwayError) as error:
        raise vault_away() from error
    except VaultError as error:
        raise NotReady(
            "PROVIDER_KEY_MISSING", "The stored provider key cannot be opened; store it again."
        ) from error
    return secret.decode()


def _record_use(tx: Tx, key_id: str, purpose: str) -> None:
    new = {"purpose": purpose}
    record(tx, "provider_key.use", "provider_key", key_id, new=new, kind=Kind.SECURITY)
