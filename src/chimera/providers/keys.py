"""Keys for providers: people store their own, workers open them, nobody reads them back.

What must stay true: a secret is sealed before it comes near the database and opened only by
`open_key`, which leaves an audit event; it is in no answer, log, error, repr or audit event. Of a
person's active keys for a provider at most one is the default.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from psycopg.errors import UniqueViolation

from chimera.audit.leaf import Kind
from chimera.audit.recording import record
from chimera.call import Call
from chimera.db import Nothing, Tx, sql, violated
from chimera.faults import (
    AlreadyExists,
    Conflict,
    Invalid,
    NotFound,
    NotReady,
    Unavailable,
    Violation,
)
from chimera.ids import new_id
from chimera.keyring import sealed_from_json, sealed_json
from chimera.paging import Pages
from chimera.providers.operations import get_provider
from chimera.providers.vault import (
    MasterKeyRefusedError,
    MasterKeys,
    SealContext,
    Sealed,
    VaultError,
    seal,
    unseal,
)
from chimera.v1.providers_pb2 import (
    CreateProviderKeyRequest,
    ListProviderKeysRequest,
    ProviderKey,
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


async def seal_key(master: MasterKeys, call: Call, secret: str) -> NewKey:
    """Seals a secret, before the transaction: the master key may be a network away.

    Raises Invalid(FIELD_INVALID) for what cannot be a key, Unavailable when the vault fails.
    """
    if not _SECRET.fullmatch(secret):
        said = "must be visible ASCII characters, without spaces or line ends"
        violation = Violation("secret", said, "FIELD_INVALID")
        raise Invalid("FIELD_INVALID", f"secret: {said}", violations=[violation])
    key_id = new_id()
    context = _context(call.caller.org_id, key_id, 1)
    try:
        sealed = await asyncio.to_thread(seal, master, secret.encode(), context)
    except VaultError as error:
        raise vault_away() from error
    prefix = secret[:PREFIX_CHARS] if len(secret) >= PREFIX_FROM_CHARS else ""
    return NewKey(key_id, sealed, prefix, secret[-4:])


def _context(org_id: str, key_id: str, row_version: int) -> SealContext:
    return SealContext(UUID(org_id), "providers.provider_keys", UUID(key_id), "sealed", row_version)


def vault_away() -> Unavailable:
    return Unavailable(
        "DEPENDENCY_UNAVAILABLE", "The vault's master key cannot be used.", retry_after_s=5.0
    )


SELECT_KEY = """
    SELECT id, provider_id, name, prefix, last_four, is_active, is_default, usage_count,
           last_used_at, created_at
      FROM providers.provider_keys
     WHERE user_id = %(user_id)s::uuid
"""

UNSET_DEFAULT = sql(
    Nothing,
    """
    UPDATE providers.provider_keys SET is_default = false
     WHERE user_id = %(user_id)s::uuid AND provider_id = %(provider_id)s::uuid AND is_default
    """,
)
INSERT_KEY = sql(
    Nothing,
    """
    INSERT INTO providers.provider_keys (id, org_id, user_id, provider_id, name, prefix, last_four,
        sealed, is_default)
    SELECT %(id)s::uuid, %(org_id)s::uuid, %(user_id)s::uuid, %(provider_id)s::uuid, %(name)s,
           %(prefix)s, %(last_four)s, %(sealed)s::jsonb,
           NOT EXISTS (SELECT FROM providers.provider_keys k
                        WHERE k.user_id = %(user_id)s::uuid AND k.is_default AND k.is_active
                          AND k.provider_id = %(provider_id)s::uuid)
    """,
)


async def create_key(tx: Tx, request: CreateProviderKeyRequest, new: NewKey) -> ProviderKey:
    """Stores a sealed key of the caller; it is the default if it is asked for or there is none.

    Raises NotFound(PROVIDER_NOT_FOUND), AlreadyExists(PROVIDER_KEY_NAME_TAKEN), Conflict when two
    defaults are made at once.
    """
    provider = await get_provider(tx, request.provider_id)
    caller = tx.call.caller
    if request.is_default:
        await tx.run(UNSET_DEFAULT, user_id=caller.user_id, provider_id=provider.id)
    try:
        await tx.run(
            INSERT_KEY,
            id=new.id,
            org_id=caller.org_id,
            user_id=caller.user_id,
            provider_id=provider.id,
            name=request.name,
            prefix=new.prefix,
            last_four=new.last_four,
            sealed=orjson.dumps(sealed_json(new.sealed)).decode(),
        )
    except UniqueViolation as error:
        raise _taken(error) from None
    key = await get_key(tx, new.id)
    record(
        tx,
        "provider_key.create",
        "provider_key",
        key.id,
        new={"provider_id": provider.id, "name": key.name, "is_default": key.is_default},
        kind=Kind.SECURITY,
    )
    return key


def _taken(error: UniqueViolation) -> Exception:
    match violated(error):
        case "provider_keys_name":
            return AlreadyExists(
                "PROVIDER_KEY_NAME_TAKEN", "You have a key of this name for the provider already."
            )
        case "provider_keys_default":
            return Conflict(
                "CONFLICT_TRY_AGAIN",
                "Another default key was stored at the same moment; try again.",
                retry_after_s=0.2,
            )
    return error


GET_KEY = sql(ProviderKey, SELECT_KEY + "AND id = %(key_id)s::uuid")


async def get_key(tx: Tx, key_id: str) -> ProviderKey:
    """A key of the caller's own. Raises NotFound(PROVIDER_KEY_NOT_FOUND)."""
    key = await tx.one(GET_KEY, user_id=tx.call.caller.user_id, key_id=key_id)
    if key is None:
        raise no_key()
    return key


def no_key() -> NotFound:
    return NotFound("PROVIDER_KEY_NOT_FOUND", "You have no such provider key.")


FIND_DEFAULT_KEY = sql(
    ProviderKey, SELECT_KEY + "AND provider_id = %(provider_id)s::uuid AND is_default AND is_active"
)


async def find_default_key(tx: Tx, provider_id: str) -> ProviderKey | None:
    """The caller's default key for a provider."""
    return await tx.one(FIND_DEFAULT_KEY, user_id=tx.call.caller.user_id, provider_id=provider_id)


LIST_KEYS = sql(
    ProviderKey,
    SELECT_KEY
    + """
       AND (%(after)s::uuid IS NULL OR id < %(after)s)
     ORDER BY id DESC
     LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_keys(
    tx: Tx, pages: Pages, request: ListProviderKeysRequest
) -> tuple[list[ProviderKey], str]:
    """A page of the caller's own keys, newest first, and the token of the next."""
    caller = tx.call.caller
    size, after = pages.page(request, scope=caller.user_id)
    rows = await tx.all(
        LIST_KEYS, user_id=caller.user_id, after=after[0] if after else None, limit=size + 1
    )
    return rows[:size], pages.next_token(request, rows, size, "id", scope=caller.user_id)


DELETE_KEY = sql(
    ProviderKey,
    """
    DELETE FROM providers.provider_keys
     WHERE id = %(key_id)s::uuid AND user_id = %(user_id)s::uuid
    RETURNING id, provider_id, name
    """,
)


async def delete_key(tx: Tx, key_id: str) -> None:
    """Destroys a key of the caller's own, sealed secret and all; runs that use it find it missing.

    Raises NotFound(PROVIDER_KEY_NOT_FOUND).
    """
    key = await tx.one(DELETE_KEY, key_id=key_id, user_id=tx.call.caller.user_id)
    if key is None:
        raise no_key()
    old = {"provider_id": key.provider_id, "name": key.name}
    record(tx, "provider_key.delete", "provider_key", key.id, old=old, kind=Kind.SECURITY)


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A sealed key with what it is bound to."""

    id: str
    org_id: str
    row_version: int
    sealed: dict[str, Any] = field(repr=False)


FIND_STORED_KEY = sql(
    StoredKey,
    """
    SELECT id, org_id, row_version, sealed FROM providers.provider_keys
     WHERE id = %(key_id)s::uuid AND is_active
    """,
)
COUNT_USE = sql(
    Nothing,
    """
    UPDATE providers.provider_keys SET usage_count = usage_count + 1, last_used_at = now()
     WHERE id = %(key_id)s::uuid
    """,
)


async def open_key(tx: Tx, master: MasterKeys, provider_key_id: str, *, purpose: str) -> str:
    """The secret of a key of the transaction's organisation, for a worker that is about to use it.

    Call it once a lease: each call is an audit event (provider_key.use) with its purpose, and a
    use in the key's count. Raises NotReady(PROVIDER_KEY_MISSING) when the key is gone or does not
    open any more, Unavailable when the master key cannot be used now.
    """
    stored = await tx.one(FIND_STORED_KEY, key_id=provider_key_id)
    if stored is None:
        raise NotReady("PROVIDER_KEY_MISSING", "The provider key was deleted.")
    context = _context(stored.org_id, stored.id, stored.row_version)
    try:
        secret = await asyncio.to_thread(unseal, master, sealed_from_json(stored.sealed), context)
    except MasterKeyRefusedError as error:
        raise vault_away() from error
    except VaultError as error:
        raise NotReady(
            "PROVIDER_KEY_MISSING", "The stored provider key cannot be opened; store it again."
        ) from error
    # After the vault, so that the row is not locked while it works.
    await tx.run(COUNT_USE, key_id=stored.id)
    new = {"purpose": purpose}
    record(tx, "provider_key.use", "provider_key", stored.id, new=new, kind=Kind.SECURITY)
    return secret.decode()
