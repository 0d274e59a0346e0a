"""A master key in a local file: for development, and for small installations that say so.

The file is JSON, readable by its owner only, and rewritten by replacing it whole, so a crash
leaves the old or the new one. It is read again whenever it changes, so a running process sees a
rotation at once. Key states go enabled -> decrypt_only -> disabled -> destroyed; a disabled
version may be made decrypt_only again, a destroyed one is gone with everything wrapped by it.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chimera.providers.vault import (
    KEY_BYTES,
    NONCE_BYTES,
    CannotOpenError,
    KeyState,
    KeyStillUsedError,
    KeyVersionUnusableError,
    MasterKeyDescription,
    MasterKeyRefusedError,
    UnknownKeyVersionError,
)

_STATES: Final[tuple[KeyState, ...]] = ("enabled", "decrypt_only", "disabled", "destroyed")


@dataclass(frozen=True, slots=True)
class _Version:
    state: KeyState
    key: bytes = field(repr=False)


class LocalKeyFile:
    """`MasterKeys` over a file. Safe for concurrent use by threads and processes."""

    def __init__(self, path: Path, *, production: bool = False, allow_local: bool = False) -> None:
        """Opens an existing file. Raises MasterKeyRefusedError in production unless `allow_local`
        says that a file is meant, when others may read it, or when it is not a key file."""
        if production and not allow_local:
            raise MasterKeyRefusedError(
                "a local key file is refused in production unless it is allowed explicitly"
            )
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._versions: dict[int, _Version] = {}
        self._current()

    @classmethod
    def create(
        cls, path: Path, *, production: bool = False, allow_local: bool = False, first: int = 1
    ) -> LocalKeyFile:
        """Makes a new file (mode 0600) with one enabled version, number `first`. Raises
        FileExistsError rather than replace a key that something may depend on."""
        if production and not allow_local:
            return cls(path, production=production, allow_local=allow_local)
        versions = {first: _Version("enabled", os.urandom(KEY_BYTES))}
        # Written whole before it has its name: a process that starts at the same moment would read
        # half a key. Linking, unlike renaming, replaces nothing.
        handle, draft = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        try:
            _write(handle, versions)
            os.link(draft, path)
        finally:
            os.unlink(draft)
        _sync_folder(path)
        return cls(path, production=production, allow_local=allow_local)

    def __repr__(self) -> str:
        states = {version: entry.state for version, entry in self._versions.items()}
        return f"LocalKeyFile({states})"

    def states(self) -> dict[int, KeyState]:
        """Of all versions, also when none of them writes any more."""
        return {version: entry.state for version, entry in self._current().items()}

    def describe(self) -> MasterKeyDescription:
        """See MasterKeys. Raises MasterKeyRefusedError when a key service took over from the file."""
        versions = self._current()
        if not any(entry.state == "enabled" for entry in versions.values()):
            raise MasterKeyRefusedError("the key file has no enabled version")
        return MasterKeyDescription(
            kind="local_file",
            production_grade=False,
            write_version=max(v for v, entry in versions.items() if entry.state == "enabled"),
            states={version: entry.state for version, entry in versions.items()},
        )

    def new_data_key(self, *, version: int, aad: bytes) -> tuple[bytes, bytes]:
        """See MasterKeys."""
        data_key = os.urandom(KEY_BYTES)
        return data_key, self.wrap(data_key, version=version, aad=aad)

    def wrap(self, data_key: bytes, *, version: int, aad: bytes) -> bytes:
        """nonce + AES-256-GCM of the data key. Only an enabled version wraps."""
        nonce = os.urandom(NONCE_BYTES)
        key = self._key(version, ("enabled",))
        return nonce + AESGCM(key).encrypt(nonce, data_key, aad)

    def unwrap(self, wrapped: bytes, *, version: int, aad: bytes) -> bytes:
        """The data key. Raises CannotOpenError, UnknownKeyVersionError,
        KeyVersionUnusableError."""
        key = self._key(version, ("enabled", "decrypt_only"))
        try:
            return AESGCM(key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], aad)
        except (InvalidTag, ValueError):
            raise CannotOpenError("the wrapped data key does not open in this place") from None

    def rewrap(
        self, wrapped: bytes, *, version: int, aad: bytes, new_version: int, new_aad: bytes
    ) -> bytes:
        """See MasterKeys."""
        data_key = self.unwrap(wrapped, version=version, aad=aad)
        return self.wrap(data_key, version=new_version, aad=new_aad)

    def add_version(self, *, at_least: int = 0) -> int:
        """Adds an enabled version and makes the former ones decrypt-only. Returns its number."""
        with self._editing() as versions:
            number = max(max(versions) + 1, at_least)
            for version, entry in versions.items():
                if entry.state == "enabled":
                    versions[version] = _Version("decrypt_only", entry.key)
            versions[number] = _Version("enabled", os.urandom(KEY_BYTES))
        return number

    def disable(self, version: int, *, references: int, is_moved: bool = False) -> None:
        """Stops `version` from decrypting. `references` is the number of stored values that it
        still wraps: KeyStillUsedError unless zero. The version that writes can be disabled only
        when a key service writes instead (`is_moved`)."""
        if references:
            raise KeyStillUsedError(f"key version {version} still wraps {references} values")
        allowed: dict[KeyState, KeyState] = {"decrypt_only": "disabled"}
        if is_moved:
            allowed["enabled"] = "disabled"
        self._move(version, allowed)

    def enable_decryption(self, version: int) -> None:
        """Takes a disabled version back to decrypt-only."""
        self._move(version, {"disabled": "decrypt_only"})

    def destroy(self, version: int) -> None:
        """Removes the key material of a disabled version, for good."""
        self._move(version, {"disabled": "destroyed"})

    def _move(self, version: int, allowed: dict[KeyState, KeyState]) -> None:
        with self._editing() as versions:
            entry = versions.get(version)
            if entry is None:
                raise UnknownKeyVersionError(f"the master key has no version {version}")
            if entry.state not in allowed:
                raise KeyVersionUnusableError(f"key version {version} is {entry.state}")
            state = allowed[entry.state]
            versions[version] = _Version(state, b"" if state == "destroyed" else entry.key)

    def _key(self, version: int, states: tuple[KeyState, ...]) -> bytes:
        entry = self._current().get(version)
        if entry is None:
            raise UnknownKeyVersionError(f"the master key has no version {version}")
        if entry.state not in states:
            raise KeyVersionUnusableError(f"key version {version} is {entry.state}")
        return entry.key

    def _current(self) -> dict[int, _Version]:
        """The versions, read again if the file was replaced."""
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                stamp = (status.st_ino, status.st_mtime_ns)
                if stamp == self._stamp:
                    return self._versions
                if status.st_mode & 0o077:
                    raise MasterKeyRefusedError("the key file can be read by others; use mode 0600")
                self._versions = _parse(file.read())
                self._stamp = stamp
        except OSError:
            raise MasterKeyRefusedError("the key file cannot be read") from None
        return self._versions

    @contextmanager
    def _editing(self) -> Iterator[dict[int, _Version]]:
        """A copy to change; replaces the file when the block ends well. One editor at a time,
        over all processes (a lock file beside it)."""
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            versions = dict(self._current())
            yield versions
            draft = self._path.with_name(f"{self._path.name}.new")
            draft.unlink(missing_ok=True)
            _write(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), versions)
            os.replace(draft, self._path)
            _sync_folder(self._path)
        finally:
            os.close(lock)


def _write(handle: int, versions: dict[int, _Version]) -> None:
    document = {
        "format": 1,
        "keys": [
            {"version": v, "state": entry.state, "key": base64.b64encode(entry.key).decode()}
            for v, entry in sorted(versions.items())
        ],
    }
    with os.fdopen(handle, "w") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _parse(text: bytes) -> dict[int, _Version]:
    """Raises MasterKeyRefusedError, without a word of the content."""
    try:
        entries = json.loads(text)["keys"]
        versions = {int(e["version"]): _Version(e["state"], _key_bytes(e)) for e in entries}
    except (ValueError, KeyError, TypeError):
        raise MasterKeyRefusedError("the key file is damaged") from None
    if not versions:
        raise MasterKeyRefusedError("the key file has no version")
    return versions


def _key_bytes(entry: dict[str, str]) -> bytes:
    key = base64.b64decode(entry["key"], validate=True)
    expected = 0 if entry["state"] == "destroyed" else KEY_BYTES
    if entry["state"] not in _STATES or len(key) != expected:
        raise ValueError("bad entry")
    return key
