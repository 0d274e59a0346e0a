"""A sealed secret opens in exactly one place, and master keys can be rotated under it."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.providers.local_keys import LocalKeyFile
from chimera.providers.vault import (
    CannotOpenError,
    KeyStillUsedError,
    KeyVersionUnusableError,
    MasterKeyRefusedError,
    SealContext,
    Sealed,
    UnknownFormatError,
    UnknownKeyVersionError,
    VaultError,
    associated_data,
    rewrap,
    seal,
    unseal,
)

SECRET = b"sk-live-canary-3f9a"
PLACE = SealContext(
    org_id=UUID(int=1),
    table="providers.user_keys",
    row_id=UUID(int=2),
    field="api_key",
    row_version=7,
)
ELSEWHERE = [
    dataclasses.replace(PLACE, org_id=UUID(int=9)),
    dataclasses.replace(PLACE, table="providers.other"),
    dataclasses.replace(PLACE, row_id=UUID(int=9)),
    dataclasses.replace(PLACE, field="refresh_token"),
    dataclasses.replace(PLACE, row_version=8),
    # the same bytes, cut at another place
    dataclasses.replace(PLACE, table="providers.user_key", field="sapi_key"),
]


@pytest.fixture
def keys(tmp_path: Path) -> LocalKeyFile:
    return LocalKeyFile.create(tmp_path / "master.json")


def test_a_secret_comes_back_in_its_place(keys: LocalKeyFile) -> None:
    """Two seals of one secret share nothing, and both open."""
    one, two = seal(keys, SECRET, PLACE), seal(keys, SECRET, PLACE)
    assert one.ciphertext != two.ciphertext and one.nonce != two.nonce
    assert one.wrapped_dek != two.wrapped_dek
    assert unseal(keys, one, PLACE) == unseal(keys, two, PLACE) == SECRET


@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_sealed_value_does_not_open_elsewhere(keys: LocalKeyFile, place: SealContext) -> None:
    """Copied to another organisation, table, row, field or version it stays shut, and it cannot
    be re-wrapped there either."""
    sealed = seal(keys, SECRET, PLACE)
    with pytest.raises(CannotOpenError):
        unseal(keys, sealed, place)
    keys.add_version()
    with pytest.raises(CannotOpenError):
        rewrap(keys, sealed, place)


@pytest.mark.parametrize("place", ELSEWHERE)
def test_value_and_wrapped_key_are_bound_one_by_one(keys: LocalKeyFile, place: SealContext) -> None:
    """Someone who can unwrap still cannot move the value: a data key re-wrapped for another place
    opens the key there, not the value."""
    sealed = seal(keys, SECRET, PLACE)
    moved = keys.rewrap(
        sealed.wrapped_dek,
        version=1,
        aad=associated_data(b"data-key", PLACE, 1),
        new_version=1,
        new_aad=associated_data(b"data-key", place, 1),
    )
    with pytest.raises(CannotOpenError, match="value"):
        unseal(keys, dataclasses.replace(sealed, wrapped_dek=moved), place)


def _damage(name: str, change: Callable[[bytes, int], bytes]) -> Callable[[Sealed, int], Sealed]:
    def apply(sealed: Sealed, at: int) -> Sealed:
        return dataclasses.replace(sealed, **{name: change(getattr(sealed, name), at)})

    return apply


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("name", ["ciphertext", "nonce", "wrapped_dek"])
def test_every_flipped_bit_and_every_truncation_is_noticed(keys: LocalKeyFile, name: str) -> None:
    """Each byte flipped, and each shorter length, down to nothing."""
    sealed = seal(keys, SECRET, PLACE)
    for change in (_flip, lambda data, at: data[:at]):
        damage = _damage(name, change)
        for at in range(len(getattr(sealed, name))):
            with pytest.raises(CannotOpenError):
                unseal(keys, damage(sealed, at), PLACE)


def test_versions_that_do_not_exist_are_typed_errors(keys: LocalKeyFile) -> None:
    """An operator can tell a lost key from a damaged value."""
    sealed = seal(keys, SECRET, PLACE)
    with pytest.raises(UnknownKeyVersionError):
        unseal(keys, dataclasses.replace(sealed, kek_version=5), PLACE)
    with pytest.raises(UnknownFormatError):
        unseal(keys, dataclasses.replace(sealed, format_version=2), PLACE)


def test_a_wrong_key_version_of_the_same_master_does_not_open(keys: LocalKeyFile) -> None:
    """The version is bound, so claiming another live one fails as tampering."""
    sealed = seal(keys, SECRET, PLACE)
    keys.add_version()
    with pytest.raises(CannotOpenError):
        unseal(keys, dataclasses.replace(sealed, kek_version=2), PLACE)


def test_rotation_leaves_the_ciphertext_and_keeps_old_values_readable(keys: LocalKeyFile) -> None:
    """New version writes, old one still reads, re-wrapping moves values over, and only then can
    the old version go."""
    old = seal(keys, SECRET, PLACE)
    assert keys.add_version() == 2
    assert keys.describe().states == {1: "decrypt_only", 2: "enabled"}
    assert unseal(keys, old, PLACE) == SECRET
    assert seal(keys, SECRET, PLACE).kek_version == 2

    new = rewrap(keys, old, PLACE)
    assert (new.ciphertext, new.nonce, new.kek_version) == (old.ciphertext, old.nonce, 2)
    assert rewrap(keys, new, PLACE) is new

    with pytest.raises(KeyStillUsedError):
        keys.disable(1, references=1)
    keys.disable(1, references=0)
    assert unseal(keys, new, PLACE) == SECRET
    with pytest.raises(KeyVersionUnusableError):
        unseal(keys, old, PLACE)
    keys.enable_decryption(1)
    assert unseal(keys, old, PLACE) == SECRET


def test_destruction_is_final_and_needs_disabling_first(keys: LocalKeyFile, tmp_path: Path) -> None:
    """Key material leaves the file."""
    old = seal(keys, SECRET, PLACE)
    keys.add_version()
    with pytest.raises(KeyVersionUnusableError):
        keys.destroy(1)
    keys.disable(1, references=0)
    keys.destroy(1)
    for refused in (lambda: unseal(keys, old, PLACE), lambda: keys.enable_decryption(1)):
        with pytest.raises(KeyVersionUnusableError):
            refused()
    assert '"key": ""' in (tmp_path / "master.json").read_text()


def test_the_version_that_writes_cannot_be_disabled(keys: LocalKeyFile) -> None:
    """Otherwise nothing could be sealed any more."""
    with pytest.raises(KeyVersionUnusableError):
        keys.disable(1, references=0)


def test_another_process_sees_a_rotation_without_a_restart(
    keys: LocalKeyFile, tmp_path: Path
) -> None:
    """Two holders of one file: what the first rotates, the second uses at once."""
    other = LocalKeyFile(tmp_path / "master.json")
    keys.add_version()
    sealed = seal(keys, SECRET, PLACE)
    assert unseal(other, sealed, PLACE) == SECRET
    assert other.describe().write_version == 2


def test_the_file_is_private_and_never_overwritten(keys: LocalKeyFile, tmp_path: Path) -> None:
    """Mode 0600, also after a rotation; a second create refuses; loose permissions refuse."""
    path = tmp_path / "master.json"
    keys.add_version()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        LocalKeyFile.create(path)
    os.chmod(path, 0o644)
    with pytest.raises(MasterKeyRefusedError, match="0600"):
        LocalKeyFile(path)


def test_production_refuses_a_local_file_unless_told(tmp_path: Path) -> None:
    """Neither opening nor creating; and a refused create leaves no file."""
    path = tmp_path / "master.json"
    with pytest.raises(MasterKeyRefusedError):
        LocalKeyFile.create(path, production=True)
    assert not path.exists()
    LocalKeyFile.create(path, production=True, allow_local=True)
    with pytest.raises(MasterKeyRefusedError):
        LocalKeyFile(path, production=True)
    assert not LocalKeyFile(path, production=True, allow_local=True).describe().production_grade


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        '{"keys": []}',
        '{"keys": [{"version": 1, "state": "enabled", "key": "c2hvcnQ="}]}',
        '{"keys": [{"version": 1, "state": "open", "key": ""}]}',
    ],
)
def test_a_damaged_file_is_refused_without_quoting_it(tmp_path: Path, content: str) -> None:
    """A half-written or hand-edited file is a clear error."""
    path = tmp_path / "master.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(MasterKeyRefusedError) as caught:
        LocalKeyFile(path)
    assert "c2hvcnQ" not in str(caught.value)


def test_reprs_and_errors_show_no_secret(keys: LocalKeyFile, tmp_path: Path) -> None:
    """Neither the secret, nor the sealed bytes, nor key material."""
    sealed = seal(keys, SECRET, PLACE)
    key_text = (tmp_path / "master.json").read_text().split('"key": "')[1].split('"')[0]
    with pytest.raises(VaultError) as caught:
        unseal(keys, sealed, ELSEWHERE[0])
    shown = f"{sealed!r} {keys!r} {keys.describe()!r} {caught.value!r} {vars(keys)!r}"
    for hidden in (SECRET.decode(), key_text, repr(sealed.ciphertext), repr(sealed.wrapped_dek)):
        assert hidden not in shown
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("secret", [b"", b"x" * 65_537])
def test_sizes_are_bounded(keys: LocalKeyFile, secret: bytes) -> None:
    """Nothing, or far more than any credential, is a mistake of the caller."""
    with pytest.raises(ValueError, match="bytes"):
        seal(keys, secret, PLACE)


_contexts = st.builds(
    SealContext,
    org_id=st.uuids(),
    table=st.text(max_size=12),
    row_id=st.uuids(),
    field=st.text(max_size=12),
    row_version=st.integers(0, 2**63 - 1),
)


@given(_contexts, st.integers(0, 2**32 - 1), _contexts, st.integers(0, 2**32 - 1))
def test_associated_data_is_unambiguous(
    one: SealContext, one_version: int, two: SealContext, two_version: int
) -> None:
    """Different places or versions never encode alike, whatever the names hold."""
    same = (one, one_version) == (two, two_version)
    encoded = (
        associated_data(b"value", one, one_version),
        associated_data(b"value", two, two_version),
    )
    assert (encoded[0] == encoded[1]) is same
    assert associated_data(b"data-key", one, one_version) != encoded[0]
