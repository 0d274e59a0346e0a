"""Envelope encryption for secrets at rest.

Every write gets a data key of its own (AES-256-GCM, random 96-bit nonce), which is stored wrapped
by a master key. What must stay true:

* A sealed value opens only in the place it was sealed for: format version, organisation, table,
  row, field, row version and key version are bound, as associated data, to the value *and* to the
  wrapped data key. Moving either to another row, or an old one back, fails.
* Rotation touches only the wrapped data key; the ciphertext stays byte for byte. The key version
  the *value* is bound to is therefore the one it was first sealed under, kept in front of the
  ciphertext.
* Several master key versions are readable at once; only the newest writes.
* No secret, data key or master key appears in a repr or an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeVar
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FORMAT_VERSION = 1
NONCE_BYTES = 12
KEY_BYTES = 32
SECRET_BYTES_MAX = 65_536
_ORIGIN_BYTES = 4

T = TypeVar("T")
KeyState = Literal["enabled", "decrypt_only", "disabled", "destroyed"]


class VaultError(Exception):
    """Something the vault cannot or will not do. Messages hold no secret."""


class CannotOpenError(VaultError):
    """The sealed value was altered, or belongs to another place or version."""


class UnknownFormatError(VaultError):
    """Sealed by a format this code does not know."""


class UnknownKeyVersionError(VaultError):
    """The master key has no such version."""


class KeyVersionUnusableError(VaultError):
    """The master key version exists but is disabled or destroyed."""


class MasterKeyRefusedError(VaultError):
    """The master key may not be used here: wrong place, wrong permissions, or unreadable."""


class MasterKeyAwayError(VaultError):
    """The key service does not answer; trying again later may help."""


class KeyStillUsedError(VaultError):
    """A key version cannot be disabled while sealed values refer to it."""


@dataclass(frozen=True, slots=True)
class SealContext:
    """The place a secret lives in. `row_version` grows with every write of the row. `purpose` says
    what it is for, where the place alone does not."""

    org_id: UUID
    table: str
    row_id: UUID
    field: str
    row_version: int
    purpose: str = ""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is stored: five columns. `kek_version` is the master key version that wraps the data
    key now; rotation changes it together with `wrapped_dek`, nothing else."""

    ciphertext: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    wrapped_dek: bytes = field(repr=False)
    kek_version: int
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class MasterKeyDescription:
    """`write_version` is what new values are wrapped with; `states` has every version's state.
    `production_grade` is False for keys that lie in a file."""

    kind: str
    production_grade: bool
    write_version: int
    states: dict[int, KeyState]


class MasterKeys(Protocol):
    """A master key with versions: a local file or a key management service. Calls may block on
    the network, so async code runs them in a thread. All raise VaultError; `unwrap` and `rewrap`
    raise CannotOpenError when `aad` or the wrapped key is not what was wrapped.

    new_data_key: KEY_BYTES of key, and the same wrapped.
    """

    def describe(self) -> MasterKeyDescription: ...

    def new_data_key(self, *, version: int, aad: bytes) -> tuple[bytes, bytes]: ...

    def wrap(self, data_key: bytes, *, version: int, aad: bytes) -> bytes: ...

    def unwrap(self, wrapped: bytes, *, version: int, aad: bytes) -> bytes: ...

    def rewrap(
        self, wrapped: bytes, *, version: int, aad: bytes, new_version: int, new_aad: bytes
    ) -> bytes: ...


def seal(master: MasterKeys, secret: bytes, context: SealContext) -> Sealed:
    """Encrypts `secret` (1 to SECRET_BYTES_MAX bytes, else ValueError) for `context` under the
    newest key version. Raises VaultError."""
    if not 0 < len(secret) <= SECRET_BYTES_MAX:
        raise ValueError(f"a secret has 1 to {SECRET_BYTES_MAX} bytes")
    version, (data_key, wrapped) = _with_newest(
        master,
        lambda newest: master.new_data_key(
            version=newest, aad=associated_data(b"data-key", context, newest)
        ),
    )
    nonce = os.urandom(NONCE_BYTES)
    origin = version.to_bytes(_ORIGIN_BYTES, "big")
    body = AESGCM(data_key).encrypt(nonce, secret, associated_data(b"value", context, version))
    return Sealed(origin + body, nonce, wrapped, version)


def unseal(master: MasterKeys, sealed: Sealed, context: SealContext) -> bytes:
    """The secret. Raises CannotOpenError when the value was altered or sealed for another
    context, UnknownKeyVersionError, KeyVersionUnusableError, UnknownFormatError."""
    _check_format(sealed)
    version = sealed.kek_version
    data_key = master.unwrap(
        sealed.wrapped_dek, version=version, aad=associated_data(b"data-key", context, version)
    )
    origin = int.from_bytes(sealed.ciphertext[:_ORIGIN_BYTES], "big")
    aad = associated_data(b"value", context, origin)
    try:
        return AESGCM(data_key).decrypt(sealed.nonce, sealed.ciphertext[_ORIGIN_BYTES:], aad)
    except (InvalidTag, ValueError):
        raise CannotOpenError("the sealed value does not open in this place") from None


def rewrap(master: MasterKeys, sealed: Sealed, context: SealContext) -> Sealed:
    """`sealed` with its data key wrapped by the newest key version; the ciphertext is untouched
    and the secret is not decrypted. Returns `sealed` itself when it is already there. Raises as
    `unseal`."""
    _check_format(sealed)
    if sealed.kek_version == master.describe().write_version:
        return sealed
    newest, wrapped = _with_newest(
        master,
        lambda newest: master.rewrap(
            sealed.wrapped_dek,
            version=sealed.kek_version,
            aad=associated_data(b"data-key", context, sealed.kek_version),
            new_version=newest,
            new_aad=associated_data(b"data-key", context, newest),
        ),
    )
    return replace(sealed, wrapped_dek=wrapped, kek_version=newest)


def _with_newest(master: MasterKeys, work: Callable[[int], T]) -> tuple[int, T]:
    """The newest version and what `work` makes with it; again when another version took over in
    between."""
    while True:
        newest = master.describe().write_version
        try:
            return newest, work(newest)
        except KeyVersionUnusableError:
            if master.describe().write_version == newest:
                raise


def associated_data(purpose: bytes, context: SealContext, key_version: int) -> bytes:
    """Every part with its length in front, so no two different places encode alike."""
    parts: tuple[bytes, ...] = (
        b"chimera.vault",
        purpose,
        FORMAT_VERSION.to_bytes(4, "big"),
        context.org_id.bytes,
        context.table.encode(),
        context.row_id.bytes,
        context.field.encode(),
        context.row_version.to_bytes(8, "big"),
        key_version.to_bytes(_ORIGIN_BYTES, "big"),
    )
    if context.purpose:
        parts += (context.purpose.encode(),)
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _check_format(sealed: Sealed) -> None:
    if sealed.format_version != FORMAT_VERSION:
        raise UnknownFormatError(f"sealed format {sealed.format_version} is not known")
