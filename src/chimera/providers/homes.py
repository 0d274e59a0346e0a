"""A master key at a key service, and beside it the key file it may have come from or may go back to.

Which versions there are, what may be done with each and where it lies is in the database
(ops.master_keys); the service and the file only have the keys. So a rotation moves everything from the
one to the other while every process opens both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from chimera.providers.kms_keys import KeyService, KmsKeys, KmsVersion
from chimera.providers.local_keys import LocalKeyFile
from chimera.providers.vault import (
    KeyState,
    KeyVersionUnusableError,
    MasterKeyDescription,
    MasterKeyRefusedError,
    VaultError,
)

FILE: Final = "local_file"
SERVICE: Final = KmsKeys.kind


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the master key as the database has it. key_ref: its name at the service."""

    version: int
    kind: str
    key_ref: str
    state: KeyState


class Homes:
    """`MasterKeys` over a key service and a file. Safe for threads; versions are put in by `use`.

    open_file: the key file, MasterKeyRefusedError when there is none or it may not be used here;
    make_file: a new one whose first version has that number.
    """

    def __init__(
        self,
        service_keys: KmsKeys,
        open_file: Callable[[], LocalKeyFile],
        make_file: Callable[[int], LocalKeyFile],
    ) -> None:
        self.service_keys = service_keys
        self._open_file, self._make_file = open_file, make_file
        self._file: LocalKeyFile | None = None
        self._versions: dict[int, Version] = {}

    def __repr__(self) -> str:
        return f"Homes({[(v.version, v.kind) for v in self._versions.values()]})"

    @property
    def service(self) -> KeyService:
        return self.service_keys.service

    @property
    def file(self) -> LocalKeyFile:
        """Opened when it is first needed. Raises MasterKeyRefusedError."""
        if self._file is None:
            self._file = self._open_file()
        return self._file

    def use(self, versions: list[Version]) -> None:
        """Goes by these versions from now on."""
        self._versions = {version.version: version for version in versions}
        self.service_keys.use(
            [KmsVersion(v.version, v.key_ref, v.state) for v in versions if v.kind == SERVICE]
        )

    def describe(self) -> MasterKeyDescription:
        """See MasterKeys; kind is that of the version that writes."""
        versions = self._versions
        enabled = [v.version for v in versions.values() if v.state == "enabled"]
        if not enabled:
            raise MasterKeyRefusedError("the master key has no enabled version")
        newest = versions[max(enabled)]
        return MasterKeyDescription(
            kind=newest.kind,
            production_grade=newest.kind == SERVICE,
            write_version=newest.version,
            states={version.version: version.state for version in versions.values()},
        )

    def newest_ref(self) -> str:
        """The key at the service that the newest version there has, else the one of the settings."""
        refs = [v.key_ref for v in sorted(self._versions.values(), key=lambda v: v.version)]
        return next((ref for ref in reversed(refs) if ref), self.service.key_ref)

    def lies_in_file(self, version: int) -> bool:
        return version in self._versions and self._versions[version].kind == FILE

    def add_file_version(self, at_least: int) -> int:
        """A new version in the file, which is made if there is none; its number."""
        try:
            file = self.file
        except MasterKeyRefusedError:
            self._file = self._make_file(at_least)
            return at_least
        return file.add_version(at_least=at_least)

    def new_data_key(self, *, version: int, aad: bytes) -> tuple[bytes, bytes]:
        """See MasterKeys."""
        return self._home(version).new_data_key(version=version, aad=aad)

    def wrap(self, data_key: bytes, *, version: int, aad: bytes) -> bytes:
        """See MasterKeys."""
        return self._home(version).wrap(data_key, version=version, aad=aad)

    def unwrap(self, wrapped: bytes, *, version: int, aad: bytes) -> bytes:
        """See MasterKeys."""
        return self._home(version).unwrap(wrapped, version=version, aad=aad)

    def rewrap(
        self, wrapped: bytes, *, version: int, aad: bytes, new_version: int, new_aad: bytes
    ) -> bytes:
        """See MasterKeys. From one home to the other the data key passes through this process."""
        old, new = self._home(version), self._home(new_version)
        if old is new:
            return old.rewrap(
                wrapped, version=version, aad=aad, new_version=new_version, new_aad=new_aad
            )
        data_key = old.unwrap(wrapped, version=version, aad=aad)
        return new.wrap(data_key, version=new_version, aad=new_aad)

    def _home(self, version: int) -> KmsKeys | LocalKeyFile:
        """Where a version lies. One that this process has not heard of yet is looked for in the file;
        the service opens what it wrapped all the same."""
        known = self._versions.get(version)
        if known is not None:
            if known.state in ("disabled", "destroyed"):
                raise KeyVersionUnusableError(f"key version {version} is {known.state}")
            return self.file if known.kind == FILE else self.service_keys
        try:
            return self.file if version in self.file.states() else self.service_keys
        except VaultError:
            return self.service_keys
