"""Sealed values in the hands of somebody who knows AES-GCM: the usual forgeries, and a rotation that
comes in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from chimera.providers.local_keys import LocalKeyFile
from chimera.providers.vault import CannotOpenError, SealContext, Sealed, rewrap, seal, unseal

SECRET = b"sk-canary-7d0f3b51c2e94a86"
TAG = 16
PLACE = SealContext(uuid4(), "providers.provider_keys", uuid4(), "sealed", 3, purpose="calls to A")

Forge = Callable[[bytes], bytes]


def tag_of(change: Forge) -> Forge:
    return lambda body: body[:-TAG] + change(body[-TAG:])


FORGERIES: dict[str, Forge] = {
    "tag of zeros": tag_of(lambda _tag: bytes(TAG)),
    "tag of ones": tag_of(lambda _tag: b"\xff" * TAG),
    "tag inverted": tag_of(lambda tag: bytes(b ^ 0xFF for b in tag)),
    "first bit of the tag": tag_of(lambda tag: bytes([tag[0] ^ 0x80]) + tag[1:]),
    "last bit of the tag": tag_of(lambda tag: tag[:-1] + bytes([tag[-1] ^ 1])),
    "tag reversed": tag_of(lambda tag: tag[::-1]),
    "tag of 12 bytes": tag_of(lambda tag: tag[:12]),
    "tag of 15 bytes": tag_of(lambda tag: tag[:15]),
    "tag of 17 bytes": tag_of(lambda tag: tag + b"\0"),
    "tag twice": tag_of(lambda tag: tag + tag),
    "no tag": tag_of(lambda _tag: b""),
    "tag alone": lambda body: body[:4] + body[-TAG:],
    "nothing": lambda _body: b"",
    "longer by a byte": lambda body: body[:-TAG] + b"\0" + body[-TAG:],
    "first byte of the text": lambda body: body[:4] + bytes([body[4] ^ 1]) + body[5:],
    "another first version": lambda body: b"\0\0\0\7" + body[4:],
}


@pytest.fixture
def keys(tmp_path: Path) -> LocalKeyFile:
    return LocalKeyFile.create(tmp_path / "master.json")


def forged(keys: LocalKeyFile, sealed: Sealed, place: SealContext = PLACE) -> None:
    with pytest.raises(CannotOpenError) as refused:
        unseal(keys, sealed, place)
    assert SECRET.decode() not in f"{refused.value!r}" and refused.value.__cause__ is None


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_value_does_not_open(keys: LocalKeyFile, name: str) -> None:
    sealed = seal(keys, SECRET, PLACE)
    forged(keys, replace(sealed, ciphertext=FORGERIES[name](sealed.ciphertext)))


@pytest.mark.parametrize("name", [name for name in FORGERIES if "version" not in name])
def test_a_forged_data_key_does_not_open(keys: LocalKeyFile, name: str) -> None:
    sealed = seal(keys, SECRET, PLACE)
    forged(keys, replace(sealed, wrapped_dek=FORGERIES[name](sealed.wrapped_dek)))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 11, 13, 16, 24])
def test_a_nonce_of_another_length_does_not_open(keys: LocalKeyFile, length: int) -> None:
    sealed = seal(keys, SECRET, PLACE)
    forged(keys, replace(sealed, nonce=(sealed.nonce * 20)[:length]))
    forged(keys, replace(sealed, wrapped_dek=sealed.wrapped_dek[:length]))


def test_parts_of_two_honest_values_make_no_third(keys: LocalKeyFile) -> None:
    """Same place, same secret, same version: each still has a data key of its own."""
    one, two = seal(keys, SECRET, PLACE), seal(keys, SECRET, PLACE)
    assert one.nonce != two.nonce and one.wrapped_dek != two.wrapped_dek
    assert one.ciphertext[4:] != two.ciphertext[4:]
    for name in ("ciphertext", "nonce", "wrapped_dek"):
        forged(keys, replace(one, **{name: getattr(two, name)}))


@pytest.mark.parametrize("purpose", ["", "calls to B", "calls to", "calls to A "])
def test_a_secret_for_one_purpose_is_none_for_another(keys: LocalKeyFile, purpose: str) -> None:
    sealed = seal(keys, SECRET, PLACE)
    forged(keys, sealed, replace(PLACE, purpose=purpose))
    assert unseal(keys, sealed, PLACE) == SECRET


class Overtaken(LocalKeyFile):
    """Another process makes a new version each time this one is about to use the newest."""

    times = 2

    def _overtake(self) -> None:
        if self.times:
            self.times -= 1
            self.add_version()

    def new_data_key(self, *, version: int, aad: bytes) -> tuple[bytes, bytes]:
        self._overtake()
        return super().new_data_key(version=version, aad=aad)

    def rewrap(
        self, wrapped: bytes, *, version: int, aad: bytes, new_version: int, new_aad: bytes
    ) -> bytes:
        self._overtake()
        return super().rewrap(
            wrapped, version=version, aad=aad, new_version=new_version, new_aad=new_aad
        )


def test_a_rotation_in_between_is_followed(tmp_path: Path) -> None:
    """Nobody is told to come back because the key changed while they sealed or re-wrapped."""
    first = LocalKeyFile.create(tmp_path / "master.json")
    old = seal(first, SECRET, PLACE)
    keys = Overtaken(tmp_path / "master.json")
    sealed = seal(keys, SECRET, PLACE)
    assert sealed.kek_version == 3 and unseal(keys, sealed, PLACE) == SECRET
    keys.times = 2
    moved = rewrap(keys, old, PLACE)
    assert moved.kek_version == 5 and unseal(keys, moved, PLACE) == SECRET
