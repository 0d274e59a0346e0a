"""Provider keys as their owners have them: stored, listed, changed, replaced, revoked, deleted.

What must stay true: a secret is sealed before it comes near the database (keys.py) and read back by
nobody; of a person's active keys for a provider at most one is the default, and the first one is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import Any

import orjson
from psycopg.errors import CheckViolation, UniqueViolation

from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql, violated
from chimera.faults import AlreadyExists, Conflict, NotReady
from chimera.keyring import sealed_json
from chimera.paging import Pages
from chimera.providers.keys import NewKey, no_key
from chimera.providers.operations import get_provider
from chimera.updates import check_etag, checked_paths, must_be_given
from chimera.v1.providers_pb2 import (
    CreateProviderKeyRequest,
    ListProviderKeysRequest,
    ProviderKey,
    ReplaceProviderKeySecretRequest,
    UpdateProviderKeyRequest,
)

UPDATABLE = ("name", "is_default", "rotate_at")


SELECT_KEY = """
    SELECT id, provider_id, name, prefix, last_four, is_active, is_default,
           usage_count + COALESCE((SELECT u.requests FROM providers.key_usage u
                                    WHERE u.provider_key_id = provider_keys.id), 0) AS usage_count,
           GREATEST(last_used_at, (SELECT u.last_used_at FROM providers.key_usage u
                                    WHERE u.provider_key_id = provider_keys.id)) AS last_used_at,
           created_at, rotate_at, secret_changed_at, revoked_at, updated_at, stored_for,
           md5(concat_ws('/', name, is_default, is_active, rotate_at, row_version)) AS etag
      FROM providers.provider_keys
     WHERE user_id = %(user_id)s::uuid
"""

# Before any of the person's keys for the provider is locked: of two who store the first key at once,
# the second then sees the first.
LOCK_DEFAULT = sql(
    Nothing,
    """
    SELECT pg_advisory_xact_lock(
               hashtextextended('default key ' || %(user_id)s::text || %(provider_id)s::text, 0))
    """,
)
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

    Raises NotFound(PROVIDER_NOT_FOUND), AlreadyExists(PROVIDER_KEY_NAME_TAKEN), SealedTooLate.
    """
    provider = await get_provider(tx, request.provider_id)
    caller = tx.call.caller
    await tx.run(LOCK_DEFAULT, user_id=caller.user_id, provider_id=provider.id)
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
    return error


GET_KEY = sql(ProviderKey, SELECT_KEY + "AND id = %(key_id)s::uuid")


async def get_key(tx: Tx, key_id: str) -> ProviderKey:
    """A key of the caller's own. Raises NotFound(PROVIDER_KEY_NOT_FOUND)."""
    key = await tx.one(GET_KEY, user_id=tx.call.caller.user_id, key_id=key_id)
    if key is None:
        raise no_key()
    return key


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
    if "is_default" in paths:
        found = await get_key(tx, wanted.id)
        await tx.run(LOCK_DEFAULT, user_id=tx.call.caller.user_id, provider_id=found.provider_id)
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
