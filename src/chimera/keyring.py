"""Keys the installation makes for itself: access-token signing, page tokens.

They live in ops.secrets, sealed by the vault's master key, so that every process of every host has
the same ones and a copy of the database alone opens nothing. The newest version of a name is used;
older ones stay readable for what they signed.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from uuid import UUID, uuid5

import orjson
import structlog

from chimera.call import NOBODY, Call
from chimera.db import Nothing, Tx, sql
from chimera.faults import Fault
from chimera.pools import Database
from chimera.providers.homes import FILE, SERVICE, Homes, Version
from chimera.providers.kms_keys import KmsKeys, key_service_of
from chimera.providers.local_keys import LocalKeyFile
from chimera.providers.vault import (
    MasterKeyRefusedError,
    MasterKeys,
    SealContext,
    Sealed,
    VaultError,
    seal,
    unseal,
)
from chimera.settings import Settings

__all__ = ["VaultError"]  # for whoever loads keys and does not know the vault

log = structlog.get_logger("chimera.keyring")

FIND_SECRETS = sql(
    dict, "SELECT version, sealed FROM ops.secrets WHERE name = %(name)s ORDER BY version"
)
INSERT_SECRET = sql(
    Nothing,
    """
    INSERT INTO ops.secrets (name, version, sealed) VALUES (%(name)s, %(version)s, %(sealed)s::jsonb)
    ON CONFLICT DO NOTHING
    """,
)


LIST_VERSIONS = sql(
    Version, "SELECT version, kind, key_ref, state FROM ops.master_keys ORDER BY version"
)
# Whoever has stored anything has its page tokens' key.
IS_USED = sql(bool, "SELECT EXISTS (SELECT FROM ops.secrets)")
INSERT_FIRST = sql(
    Nothing,
    """
    INSERT INTO ops.master_keys (version, kind, key_ref, state)
    VALUES (%(version)s, %(kind)s, %(key_ref)s, %(state)s)
    ON CONFLICT DO NOTHING
    """,
)
# How soon every process has heard of another version of the master key.
FOLLOW_S = 5.0


def open_master_keys(settings: Settings, *, create: bool = False) -> MasterKeys:
    """The installation's master key: at a key service, with the key file beside it, if there is one
    (`follow_versions` must come next); else in the file.

    The file is made on first use in development, and in production by the bootstrap alone (`create`): a
    server that found its key file missing must not go on with another key.
    """
    path = settings.key_file

    def open_file() -> LocalKeyFile:
        return LocalKeyFile(
            path, production=settings.is_production, allow_local=settings.allow_local_master_key
        )

    def make_file(first: int = 1) -> LocalKeyFile:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return LocalKeyFile.create(
                path,
                production=settings.is_production,
                allow_local=settings.allow_local_master_key,
                first=first,
            )
        except FileExistsError:  # another process was faster, or it may not be read
            return open_file()

    if settings.master_key:
        return Homes(KmsKeys(key_service_of(settings.master_key)), open_file, make_file)
    if not path.exists() and (create or not settings.is_production):
        return make_file()
    return open_file()


async def follow_versions(db: Database, master: MasterKeys) -> None:
    """Reads which versions the master key has, where a key service plays a part.

    The first process of an installation makes the key it is set up with version 1; one that moves
    away from its key file takes over the versions in there. Raises MasterKeyRefusedError when
    secrets are wrapped by a key service, and none is set up.
    """
    async with db.begin(Call.by_worker("keyring", seconds=20)) as tx:
        versions = await tx.all(LIST_VERSIONS)
        if isinstance(master, Homes) and not versions:
            for version in await _first_versions(tx, master):
                await tx.run(INSERT_FIRST, **asdict(version))
            versions = await tx.all(LIST_VERSIONS)
    if isinstance(master, Homes):
        master.use(versions)
        return
    for version in versions:
        if version.kind == SERVICE and version.state in ("enabled", "decrypt_only"):
            raise MasterKeyRefusedError(
                f"version {version.version} of the master key is at a key service: set"
                " CHIMERA_MASTER_KEY, or rotate to the file and retire that version first"
            )


async def _first_versions(tx: Tx, master: Homes) -> list[Version]:
    if await tx.one(IS_USED):
        return [Version(n, FILE, "", s) for n, s in sorted(master.file.states().items())]
    return [Version(1, SERVICE, master.service.key_ref, "enabled")]


async def keep_following(db: Database, master: MasterKeys) -> None:
    """`follow_versions` for as long as the process lives; a lost database is waited out."""
    while isinstance(master, Homes):
        await asyncio.sleep(FOLLOW_S)
        try:
            await follow_versions(db, master)
        except Fault as fault:
            log.warning("keyring.waits", reason=fault.reason)


def sealed_json(sealed: Sealed) -> dict[str, object]:
    """A sealed value as it is stored in jsonb."""
    return {
        "ciphertext": base64.b64encode(sealed.ciphertext).decode(),
        "nonce": base64.b64encode(sealed.nonce).decode(),
        "wrapped_dek": base64.b64encode(sealed.wrapped_dek).decode(),
        "kek_version": sealed.kek_version,
        "format_version": sealed.format_version,
    }


def sealed_from_json(stored: dict[str, object]) -> Sealed:
    """The inverse of `sealed_json`."""
    return Sealed(
        ciphertext=base64.b64decode(str(stored["ciphertext"])),
        nonce=base64.b64decode(str(stored["nonce"])),
        wrapped_dek=base64.b64decode(str(stored["wrapped_dek"])),
        kek_version=int(str(stored["kek_version"])),
        format_version=int(str(stored["format_version"])),
    )


def sealed_key(master: MasterKeys, raw: bytes, name: str, version: int) -> str:
    """A new version of a key as ops.secrets stores it; before the transaction that inserts it, for
    the master key may be a network away."""
    return orjson.dumps(sealed_json(seal(master, raw, secret_context(name, version)))).decode()


async def insert_key(tx: Tx, name: str, version: int, sealed: str) -> bool:
    """False when somebody else has made this version."""
    return bool(await tx.run(INSERT_SECRET, name=name, version=version, sealed=sealed))


async def load_key(db: Database, master: MasterKeys, name: str, version: int) -> bytes | None:
    """One version of a key; None when it was destroyed."""
    async with db.begin(Call.by_worker("keyring", seconds=20)) as tx:
        rows = await tx.all(FIND_SECRETS, name=name)
    sealed = next((row["sealed"] for row in rows if row["version"] == version), None)
    if sealed is None:
        return None
    return await asyncio.to_thread(
        unseal, master, sealed_from_json(sealed), secret_context(name, version)
    )


def secret_context(name: str, version: int) -> SealContext:
    return SealContext(UUID(NOBODY), "ops.secrets", uuid5(UUID(NOBODY), name), "sealed", version)


async def load_keys(
    db: Database,
    master: MasterKeys,
    name: str,
    make: Callable[[], bytes] = lambda: secrets.token_bytes(32),
) -> list[bytes]:
    """All versions of a key, oldest first; makes the first one when there is none.

    Of several processes that start at once, one makes it and all read the same.
    """
    call = Call.by_worker("keyring", seconds=20)
    async with db.begin(call) as tx:
        rows = await tx.all(FIND_SECRETS, name=name)
    if not rows:
        sealed = await asyncio.to_thread(seal, master, make(), secret_context(name, 1))
        async with db.begin(call) as tx:
            await tx.run(
                INSERT_SECRET,
                name=name,
                version=1,
                sealed=orjson.dumps(sealed_json(sealed)).decode(),
            )
            rows = await tx.all(FIND_SECRETS, name=name)
    return await asyncio.to_thread(_opened, master, name, rows)


def _opened(master: MasterKeys, name: str, rows: list[dict[str, Any]]) -> list[bytes]:
    return [
        unseal(master, sealed_from_json(row["sealed"]), secret_context(name, row["version"]))
        for row in rows
    ]


def field_context(table: str, row_id: str, field: str, version: int) -> SealContext:
    """What a person's secret is bound to; it belongs to no organisation."""
    return SealContext(UUID(NOBODY), table, UUID(row_id), field, version)


def seal_field(
    master: MasterKeys, secret: bytes, table: str, row_id: str, field: str, version: int
) -> str:
    """A secret of a person, sealed for its place, as JSON text for a jsonb column. May block."""
    context = field_context(table, row_id, field, version)
    return orjson.dumps(sealed_json(seal(master, secret, context))).decode()


def open_field(
    master: MasterKeys,
    stored: dict[str, object],
    table: str,
    row_id: str,
    field: str,
    version: int,
) -> bytes:
    """The inverse of `seal_field`. May block. Raises VaultError."""
    context = field_context(table, row_id, field, version)
    return unseal(master, sealed_from_json(stored), context)
