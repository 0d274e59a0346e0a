"""Signing keys of access tokens: Ed25519, made ahead, signing in turn, gone when nothing needs them.

The private parts are versions of ops.secrets 'access-token'; identity.signing_keys says when each
signs and verifies, by the database's clock. A new key is published for a lead before it signs; the
one before it verifies until the last token it signed has expired.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.faults import Conflict, Fault
from chimera.identity.endings import CHANGES
from chimera.keyring import insert_key, load_key, load_keys, sealed_key
from chimera.settings import Settings
from chimera.v1.access_pb2 import SigningKey

NAME = "access-token"
# Processes notice a change within two seconds and their clocks differ by a few; on top of the
# lifetime of a token.
VERIFY_SLACK_S = 30

LIST_SIGNING_KEYS = sql(
    SigningKey,
    """
    SELECT kid, created_at, signs_from, verifies_until,
           version = (SELECT max(version) FROM identity.signing_keys
                       WHERE signs_from <= clock_timestamp()
                         AND coalesce(verifies_until > clock_timestamp(), true)) AS is_signing,
           coalesce(verifies_until > clock_timestamp(), true) AS is_published
      FROM identity.signing_keys
     ORDER BY version DESC
    """,
)

# The one that signs first, then the others that verify.
FIND_PUBLISHED = sql(
    dict,
    """
    SELECT version, public_key FROM identity.signing_keys
     WHERE coalesce(verifies_until > clock_timestamp(), true)
     ORDER BY signs_from <= clock_timestamp() DESC, version DESC
    """,
)

ADOPT = sql(
    Nothing,
    """
    INSERT INTO identity.signing_keys (version, kid, public_key, signs_from)
    VALUES (%(version)s, %(kid)s, %(public_key)s, clock_timestamp())
    ON CONFLICT DO NOTHING
    """,
)

INSERT_SIGNING_KEY = sql(
    Nothing,
    """
    INSERT INTO identity.signing_keys (version, kid, public_key, signs_from)
    VALUES (%(version)s, %(kid)s, %(public_key)s,
            clock_timestamp() + make_interval(secs => %(lead_s)s))
    """,
)

RETIRE_OTHERS = sql(
    Nothing,
    """
    UPDATE identity.signing_keys SET verifies_until = LEAST(verifies_until,
        clock_timestamp() + make_interval(secs => %(after_s)s))
     WHERE version < %(version)s
       AND (verifies_until IS NULL OR %(after_s)s = 0)
       AND coalesce(verifies_until > clock_timestamp(), true)
    """,
)

NEXT_VERSION = sql(int, "SELECT coalesce(max(version), 0) + 1 FROM identity.signing_keys")

# No row while the newest is young.
VERSION_DUE = sql(
    int,
    """
    SELECT max(version) + 1 FROM identity.signing_keys
    HAVING max(signs_from) < clock_timestamp() - make_interval(secs => %(age_s)s)
    """,
)

DESTROY_RETIRED = sql(
    Nothing,
    """
    DELETE FROM ops.secrets s USING identity.signing_keys k
     WHERE s.name = 'access-token' AND s.version = k.version AND k.verifies_until < clock_timestamp()
    """,
)


def public_part(raw: bytes) -> bytes:
    """Of a private key of 32 raw bytes."""
    return Ed25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()


def kid_text(public: bytes) -> str:
    """A key's id: the beginning of its fingerprint."""
    return hashlib.sha256(public).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class PresentKeys:
    """The private key that signs now, and the public keys that verify."""

    raw: bytes = field(repr=False)
    public: list[bytes]


class SigningKeys:
    """Reads the keys of the installation, for one process."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._signing: tuple[int, bytes] = (0, b"")

    @classmethod
    async def opened(cls, core: Core) -> SigningKeys:
        """Makes the first key when there is none; of several processes one does."""
        call = Call.by_worker("signing_keys", seconds=20)
        async with core.db.begin(call) as tx:
            there = await tx.one(NEXT_VERSION)
        if there == 1:
            raw_keys = await load_keys(core.db, core.master, NAME)
            public = public_part(raw_keys[-1])
            async with core.db.begin(call) as tx:
                await tx.run(ADOPT, version=len(raw_keys), kid=kid_text(public), public_key=public)
        return cls(core)

    async def read(self) -> PresentKeys:
        """Raises faults of the database and VaultError."""
        call = Call.by_worker("signing_keys", seconds=10)
        async with self.core.db.look(call) as tx:
            rows: list[dict[str, Any]] = await tx.all(FIND_PUBLISHED)
        version = rows[0]["version"] if rows else 0
        if self._signing[0] != version:
            raw = await load_key(self.core.db, self.core.master, NAME, version)
            if raw is None:
                raise Fault("INTERNAL", "The key that signs access tokens is gone; rotate it.")
            self._signing = (version, raw)
        return PresentKeys(self._signing[1], [row["public_key"] for row in rows])


async def list_signing_keys(tx: Tx) -> list[SigningKey]:
    """Newest first, with those that verify no more."""
    return await tx.all(LIST_SIGNING_KEYS)


@dataclass(frozen=True, slots=True)
class NewSigningKey:
    """A key, sealed as the version it will be."""

    version: int
    public: bytes
    sealed: str = field(repr=False)


async def make_signing_key(core: Core, version: int | None = None) -> NewSigningKey:
    """Before the transaction that adds it: the master key may be a network away. version: the one
    that was found due, so that of those who found it one adds it; else the next."""
    if version is None:
        async with core.db.begin(Call.by_worker("signing_keys", seconds=10)) as tx:
            version = await tx.one(NEXT_VERSION) or 1
    raw = secrets.token_bytes(32)
    sealed = await asyncio.to_thread(sealed_key, core.master, raw, NAME, version)
    return NewSigningKey(version, public_part(raw), sealed)


async def rotate_signing_key(
    tx: Tx, new: NewSigningKey, settings: Settings, *, withdraw_others: bool = False
) -> SigningKey:
    """Adds the key and gives those before it their end. Raises Conflict(CONFLICT_TRY_AGAIN) when
    another rotation was faster."""
    if not await insert_key(tx, NAME, new.version, new.sealed):
        raise Conflict("CONFLICT_TRY_AGAIN", "Another rotation was faster.", retry_after_s=0.2)
    lead_s = 0.0 if withdraw_others else settings.signing_key_lead_s
    await tx.run(
        INSERT_SIGNING_KEY,
        version=new.version,
        kid=kid_text(new.public),
        public_key=new.public,
        lead_s=lead_s,
    )
    after_s = 0.0 if withdraw_others else lead_s + settings.access_token_s + VERIFY_SLACK_S
    await tx.run(RETIRE_OTHERS, version=new.version, after_s=after_s)
    tx.after_commit.append(CHANGES.note)
    newest = (await list_signing_keys(tx))[0]
    record(
        tx,
        "signing_key.rotate",
        "signing_key",
        newest.kid,
        new={"signs_from": newest.signs_from.ToJsonString(), "withdraw_others": withdraw_others},
        severity=Severity.WARNING if withdraw_others else Severity.NOTICE,
        kind=Kind.SECURITY,
    )
    return newest


async def rotate_when_due(core: Core) -> bool:
    """A worker's task: a new key when the newest one is signing_key_days old. Safe to run twice:
    who comes second finds the version taken, or the key young."""
    call = Call.by_worker("identity.rotate_signing_key")
    async with core.db.begin(call) as tx:
        due = await tx.one(VERSION_DUE, age_s=core.settings.signing_key_days * 86400)
    if due is None:
        return False
    new = await make_signing_key(core, due)
    try:
        async with core.db.begin(call) as tx:
            await rotate_signing_key(tx, new, core.settings)
    except Conflict:
        return False
    return True


async def destroy_retired(core: Core) -> int:
    """A worker's task: private keys that nothing needs any more leave for good."""
    async with core.db.begin(Call.by_worker("identity.destroy_retired_keys")) as tx:
        return await tx.run(DESTROY_RETIRED)
