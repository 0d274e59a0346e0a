"""Keys for providers: people store their own, workers open them, nobody reads them back.

What must stay true: a secret is sealed before it comes near the database and opened only by
`unsealed`, once `take_key` or `find_own_key` have left an audit event; it is in no answer, log, error, repr or
audit event. It opens only as this key of this organisation for this provider. Of a person's active
keys for a provider at most one is the default.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any
from uuid import UUID

import orjson
from psycopg.errors import CheckViolation, UniqueViolation

from chimera.audit.leaf import Kind, Severity
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
    MasterKeyAwayError,
    MasterKeyRefusedError,
    MasterKeys,
    SealContext,
    Sealed,
    VaultError,
    seal,
    unseal,
)
from chimera.updates import check_etag, checked_paths, must_be_given
from chimera.v1.providers_pb2 import (
    CreateProviderKeyRequest,
    ListProviderKeysRequest,
    ProviderKey,
    ReplaceProviderKeySecretRequest,
    UpdateProviderKeyRequest,
)

UPDATABLE = ("name", "is_default", "rotate_at")


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


SELECT_KEY = """
    SELECT id, provider_id, name, prefix, last_four, is_active, is_default, usage_count,
           last_used_at, created_at, rotate_at, secret_changed_at, revoked_at, updated_at,
           md5(concat_ws('/', name, is_default, is_active, rotate_at, row_version)) AS etag
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
        sealed, rotate_at, is_default)
    SELECT %(id)s::uuid, %(org_id)s::uuid, %(user_id)s::uuid, %(provider_id)s::uuid, %(name)s,
           %(prefix)s, %(last_four)s, %(sealed)s::jsonb, %(rotate_at)s::timestamptz,
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
            rotate_at=request.rotate_at.ToDatetime(UTC) if request.HasField("rotate_at") else None,
        )
    except (UniqueViolation, CheckViolation) as error:
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


class SealedTooLate(Conflict):
    """The version of the master key that sealed a secret was retired before it was stored: seal it
    anew."""


def _taken(error: UniqueViolation | CheckViolation) -> Exception:
    match violated(error):
        case "master_key_retired":
            return SealedTooLate(
                "CONFLICT_TRY_AGAIN", "The master key was changed; try again.", retry_after_s=1.0
            )
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
       AND (%(provider_id)s::uuid IS NULL OR provider_id = %(provider_id)s)
       AND (NOT %(active_only)s OR is_active)
       AND (NOT %(due_only)s OR (is_active AND rotate_at <= now()))
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
        LIST_KEYS,
        user_id=caller.user_id,
        provider_id=request.provider_id or None,
        active_only=request.active_only,
        due_only=request.due_only,
        after=after[0] if after else None,
        limit=size + 1,
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


LOCK_KEY = sql(ProviderKey, SELECT_KEY + "AND id = %(key_id)s::uuid FOR NO KEY UPDATE")


async def _lock_active(tx: Tx, key_id: str) -> ProviderKey:
    """A key of the caller's own that is about to change. Raises NotFound(PROVIDER_KEY_NOT_FOUND),
    NotReady(PROVIDER_KEY_REVOKED)."""
    key = await tx.one(LOCK_KEY, user_id=tx.call.caller.user_id, key_id=key_id)
    if key is None:
        raise no_key()
    if not key.is_active:
        raise NotReady("PROVIDER_KEY_REVOKED", "The key was revoked; store a new one.")
    return key


UPDATE_KEY = sql(
    Nothing,
    """
    UPDATE providers.provider_keys SET
        name = CASE WHEN 'name' = ANY (%(paths)s) THEN %(name)s ELSE name END,
        is_default =
            CASE WHEN 'is_default' = ANY (%(paths)s) THEN %(is_default)s::boolean ELSE is_default END,
        rotate_at = CASE WHEN 'rotate_at' = ANY (%(paths)s)
            THEN %(rotate_at)s::timestamptz ELSE rotate_at END,
        reminded_at = CASE WHEN 'rotate_at' = ANY (%(paths)s) THEN NULL ELSE reminded_at END
     WHERE id = %(key_id)s::uuid
    """,
)


async def update_key(tx: Tx, request: UpdateProviderKeyRequest) -> ProviderKey:
    """Raises NotFound(PROVIDER_KEY_NOT_FOUND), NotReady(PROVIDER_KEY_REVOKED),
    AlreadyExists(PROVIDER_KEY_NAME_TAKEN), Conflict(ETAG_MISMATCH), Invalid(UPDATE_MASK_INVALID)."""
    wanted = request.provider_key
    paths = checked_paths(request.update_mask.paths, UPDATABLE)
    if "name" in paths and not wanted.name:
        raise must_be_given("provider_key.name")
    old = await _lock_active(tx, wanted.id)
    check_etag(request.etag, old.etag)
    if "is_default" in paths and wanted.is_default:
        await tx.run(UNSET_DEFAULT, user_id=tx.call.caller.user_id, provider_id=old.provider_id)
    try:
        await tx.run(
            UPDATE_KEY,
            key_id=old.id,
            paths=paths,
            name=wanted.name,
            is_default=wanted.is_default,
            rotate_at=wanted.rotate_at.ToDatetime(UTC) if wanted.HasField("rotate_at") else None,
        )
    except UniqueViolation as error:
        raise _taken(error) from None
    key = await get_key(tx, old.id)
    record(
        tx,
        "provider_key.update",
        "provider_key",
        key.id,
        old=_facts(old),
        new=_facts(key),
        kind=Kind.SECURITY,
    )
    return key


@dataclass(frozen=True, slots=True)
class Replaceable:
    """What a new secret of a key is sealed for."""

    id: str
    provider_id: str
    row_version: int
    is_active: bool


FIND_REPLACEABLE = sql(
    Replaceable,
    """
    SELECT id, provider_id, row_version, is_active FROM providers.provider_keys
     WHERE id = %(key_id)s::uuid AND user_id = %(user_id)s::uuid
    """,
)


async def get_replaceable(tx: Tx, key_id: str) -> Replaceable:
    """Raises NotFound(PROVIDER_KEY_NOT_FOUND), NotReady(PROVIDER_KEY_REVOKED)."""
    key = await tx.one(FIND_REPLACEABLE, key_id=key_id, user_id=tx.call.caller.user_id)
    if key is None:
        raise no_key()
    if not key.is_active:
        raise NotReady("PROVIDER_KEY_REVOKED", "The key was revoked; store a new one.")
    return key


REPLACE_SECRET = sql(
    Nothing,
    """
    UPDATE providers.provider_keys
       SET sealed = %(sealed)s::jsonb, row_version = row_version + 1, prefix = %(prefix)s,
           last_four = %(last_four)s, secret_changed_at = now(),
           rotate_at = %(rotate_at)s::timestamptz, reminded_at = NULL
     WHERE id = %(key_id)s::uuid AND row_version = %(row_version)s AND is_active
    """,
)


async def replace_secret(
    tx: Tx, request: ReplaceProviderKeySecretRequest, key: Replaceable, new: NewKey
) -> ProviderKey:
    """Puts a sealed secret in the place of the old one, unless somebody else just did.

    Raises Conflict(CONFLICT_TRY_AGAIN), NotReady(PROVIDER_KEY_REVOKED).
    """
    old = await _lock_active(tx, key.id)
    try:
        replaced = await tx.run(
            REPLACE_SECRET,
            key_id=key.id,
            row_version=key.row_version,
            sealed=orjson.dumps(sealed_json(new.sealed)).decode(),
            prefix=new.prefix,
            last_four=new.last_four,
            rotate_at=request.rotate_at.ToDatetime(UTC) if request.HasField("rotate_at") else None,
        )
    except CheckViolation as error:
        raise _taken(error) from None
    if not replaced:
        raise Conflict(
            "CONFLICT_TRY_AGAIN", "The secret was replaced at the same moment; look again."
        )
    changed = await get_key(tx, key.id)
    record(
        tx,
        "provider_key.replace",
        "provider_key",
        key.id,
        old=_facts(old),
        new=_facts(changed),
        kind=Kind.SECURITY,
        severity=Severity.NOTICE,
    )
    return changed


REVOKE_KEY = sql(
    Nothing,
    """
    UPDATE providers.provider_keys
       SET is_active = false, is_default = false, revoked_at = now(), sealed = '{}', rotate_at = NULL
     WHERE id = %(key_id)s::uuid
    """,
)


async def revoke_key(tx: Tx, key_id: str) -> ProviderKey:
    """Destroys the sealed secret and keeps the row; a key that was revoked stays so.

    Raises NotFound(PROVIDER_KEY_NOT_FOUND).
    """
    old = await tx.one(LOCK_KEY, user_id=tx.call.caller.user_id, key_id=key_id)
    if old is None:
        raise no_key()
    if old.is_active:
        await tx.run(REVOKE_KEY, key_id=old.id)
    key = await get_key(tx, old.id)
    record(
        tx,
        "provider_key.revoke",
        "provider_key",
        key.id,
        old=_facts(old),
        new=_facts(key),
        kind=Kind.SECURITY,
        severity=Severity.NOTICE,
    )
    return key


def _facts(key: ProviderKey) -> dict[str, Any]:
    """What the audit log shows of a key."""
    facts: dict[str, Any] = {
        name: getattr(key, name)
        for name in ("provider_id", "name", "prefix", "last_four", "is_active", "is_default")
    }
    facts["rotate_at"] = key.rotate_at.ToJsonString() if key.HasField("rotate_at") else ""
    return facts


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A sealed key with what it is bound to."""

    id: str
    org_id: str
    provider_id: str
    row_version: int
    sealed: dict[str, Any] = field(repr=False)


FIND_STORED_KEY = sql(
    StoredKey,
    """
    SELECT id, org_id, provider_id, row_version, sealed FROM providers.provider_keys
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


async def take_key(tx: Tx, provider_key_id: str, *, purpose: str) -> StoredKey:
    """A key of the transaction's organisation, still sealed, for a worker that is about to use it;
    `unsealed` opens it after the transaction, for the master key may be a network away.

    Call it once a lease: each call is an audit event (provider_key.use) with its purpose, and a
    use in the key's count. Raises NotReady(PROVIDER_KEY_MISSING) when the key is gone.
    """
    stored = await tx.one(FIND_STORED_KEY, key_id=provider_key_id)
    if stored is None:
        raise NotReady("PROVIDER_KEY_MISSING", "The provider key was deleted or revoked.")
    await tx.run(COUNT_USE, key_id=stored.id)
    _record_use(tx, stored.id, purpose)
    return stored


FIND_OWN_KEY = sql(
    StoredKey,
    """
    SELECT id, org_id, provider_id, row_version, sealed FROM providers.provider_keys
     WHERE user_id = %(user_id)s::uuid AND provider_id = %(provider_id)s::uuid AND is_active
       AND CASE WHEN %(key_id)s::uuid IS NULL THEN is_default ELSE id = %(key_id)s END
    """,
)


async def find_own_key(tx: Tx, provider_id: str, key_id: str, *, purpose: str) -> StoredKey | None:
    """A key of the caller's own for a provider, still sealed; without an id the default one, or
    None when there is none. Its use is recorded here, before it is opened.

    Raises NotFound(PROVIDER_KEY_NOT_FOUND) for an id that is no active key for the provider.
    """
    user_id = tx.call.caller.user_id
    stored = await tx.one(
        FIND_OWN_KEY, user_id=user_id, provider_id=provider_id, key_id=key_id or None
    )
    if stored is None and key_id:
        raise no_key()
    if stored is not None:
        await tx.run(COUNT_USE, key_id=stored.id)
        _record_use(tx, stored.id, purpose)
    return stored


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
