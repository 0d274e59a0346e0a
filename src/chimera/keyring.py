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
from uuid import UUID, uuid5

import orjson

from chimera.call import NOBODY, Call
from chimera.db import Database, Nothing, Tx, sql
from chimera.providers.local_keys import LocalKeyFile
from chimera.providers.vault import (
    MasterKeys,
    SealContext,
    Sealed,
    VaultError,
    seal,
    unseal,
)
from chimera.settings import Settings

__all__ = ["VaultError"]  # for whoever loads keys and does not know the vault

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


def open_master_keys(settings: Settings, *, create: bool = False) -> MasterKeys:
    """The installation's master key: a local file.

    It is made on first use in development, and in production by the bootstrap alone (`create`): a
    server that found its key file missing must not go on with another key.
    """
    path = settings.key_file
    if not path.exists() and (create or not settings.is_production):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return LocalKeyFile.create(
                path,
                production=settings.is_production,
                allow_local=settings.allow_local_master_key,
            )
        except FileExistsError:
            pass  # another process was faster
    return LocalKeyFile(
        path, production=settings.is_production, allow_local=settings.allow_local_master_key
    )


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
    return orjson.dumps(sealed_json(seal(master, raw, _context(name, version)))).decode()


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
        unseal, master, sealed_from_json(sealed), _context(name, version)
    )


def _context(name: str, version: int) -> SealContext:
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
    async with db.begin(Call.by_worker("keyring", seconds=20)) as tx:
        rows = await tx.all(FIND_SECRETS, name=name)
        if not rows:
            sealed = seal(master, make(), _context(name, 1))
            await tx.run(
                INSERT_SECRET,
                name=name,
                version=1,
                sealed=orjson.dumps(sealed_json(sealed)).decode(),
            )
            rows = await tx.all(FIND_SECRETS, name=name)
    return [
        unseal(master, sealed_from_json(row["sealed"]), _context(name, row["version"]))
        for row in rows
    ]
