"""Which passwords are taken, and hashing that cannot be overrun."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from argon2.low_level import Type, hash_secret

from chimera.faults import Exhausted, Invalid
from chimera.identity import hashing, passwords
from chimera.identity.hashing import is_password
from chimera.identity.passwords import Hasher, check_password, is_within_limits
from chimera.settings import Settings

GOOD = "a rather long sentence"


@pytest.fixture
def hasher() -> Hasher:
    return Hasher(Settings(argon2_queue=2))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Verifications hang until it is set."""
    opened = threading.Event()
    verify = passwords.is_password

    def held(stored: str, password: str) -> bool:
        opened.wait(30)
        return verify(stored, password)

    monkeypatch.setattr(passwords, "is_password", held)
    yield opened
    opened.set()


@pytest.mark.parametrize(
    "password",
    [
        "short",
        "x" * 15,
        "x" * 257,
        "\U0001f511" * 257,
        "passwordpassword",
        "Password-Password-2026!",
        "abcabcabcabcabcabc",
        "abcdefghijklmnop",
        "ponmlkjihgfedcba",
        "qwertyuiopasdfgh",
        "123456789012345",
        "OliviaExampleCom 1984",
        "olivia.longname.2026",
    ],
)
def test_what_is_guessed_first_is_refused(password: str) -> None:
    """Too short, too long, repeated, a run of keys, common, or one's own name with a year."""
    with pytest.raises(Invalid) as refused:
        check_password(password, names=("Olivia@example.com", "olivia.longname"))
    assert refused.value.reason == "PASSWORD_TOO_WEAK"


@pytest.mark.parametrize(
    "password", [GOOD, "correct horse battery staple", "drei Äpfel und 1 Käse", "9f2c81d07be64a5"]
)
def test_long_ones_need_no_composition(password: str) -> None:
    """No capitals, digits or signs are asked for."""
    check_password(password, names=("olivia@example.com",))


async def test_a_hash_knows_its_password_and_nothing_else(hasher: Hasher) -> None:
    """And is different every time."""
    stored = await hasher.hash(GOOD)
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await hasher.verify(stored, GOOD)
    assert not await hasher.verify(stored, GOOD + " ")
    assert await hasher.hash(GOOD) != stored
    assert not hasher.needs_rehash(stored)
    assert Hasher(Settings(argon2_passes=3)).needs_rehash(stored)


def test_memory_is_kept_and_left_empty() -> None:
    """Hashes of all kinds after each other in one thread: each is that of another implementation's
    making, and nothing of a password stays behind."""
    for memory_kib, passes, lanes, size in (
        (64, 3, 2, 32), (1024, 1, 1, 64), (64, 1, 1, 16), (1024, 1, 1, 32), (4096, 2, 4, 32),
    ):  # fmt: skip
        stored = hash_secret(
            GOOD.encode(), b"salt of 17 bytes.", passes, memory_kib, lanes, size, Type.ID
        ).decode()
        assert is_password(stored, GOOD)
        assert not is_password(stored, GOOD[:-1])
        assert hashing._memory.size == memory_kib * 1024
        assert not any(bytes(hashing.ffi.buffer(hashing._memory.mapped)))
    assert not is_password(stored[:-1] + "!", GOOD)


async def test_nobodys_password_is_verified_as_well(
    hasher: Hasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One Argon2 with the present parameters, for nobody and for a hash that costs too much."""
    seen = []
    verify = passwords.is_password
    monkeypatch.setattr(
        passwords,
        "is_password",
        lambda stored, password: seen.append(stored) or verify(stored, password),
    )
    costly = (await hasher.hash(GOOD)).replace("m=19456", "m=4194304")
    assert not await hasher.verify(None, GOOD)
    assert not await hasher.verify(costly, GOOD)
    assert len(seen) == 2
    assert not any(hasher.needs_rehash(stored) for stored in seen)


@pytest.mark.parametrize(
    "stored",
    [
        "$argon2id$v=19$m=19456,t=11,p=1$c2FsdHNhbHRzYWx0c2FsdA$" + "A" * 43,
        "$argon2id$v=19$m=19456,t=2,p=8$c2FsdHNhbHRzYWx0c2FsdA$" + "A" * 43,
        "$argon2i$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$" + "A" * 43,
        "$2b$12$abcdefghijklmnopqrstuv",
        "",
    ],
)
def test_stored_hashes_outside_the_limits_are_not_run(stored: str) -> None:
    """Passes, lanes, another variant, another function."""
    assert not is_within_limits(stored)


@pytest.mark.parametrize("beyond", [{"argon2_passes": 11}, {"argon2_memory_kib": 262_145}])
def test_parameters_that_lock_everyone_out_stop_the_start(beyond: dict[str, int]) -> None:
    """What would be hashed with them could never be verified."""
    with pytest.raises(ValueError, match="argon2"):
        Hasher(Settings.model_validate(beyond))


async def test_who_gives_up_waiting_frees_no_place(hasher: Hasher, gate: threading.Event) -> None:
    """Cancelled requests leave their running hash behind: the queue stays full until it ends."""
    waiting = [asyncio.create_task(hasher.verify(None, GOOD)) for _ in range(hasher.places)]
    await asyncio.sleep(0)
    with pytest.raises(Exhausted) as refused:
        await hasher.verify(None, GOOD)
    assert refused.value.reason == "SERVER_BUSY"
    running = hasher.places - 2
    for task in waiting[:running]:
        task.cancel()
    await asyncio.gather(*waiting[:running], return_exceptions=True)
    with pytest.raises(Exhausted):
        await hasher.verify(None, GOOD)
    gate.set()
    assert await asyncio.gather(*waiting[running:]) == [False, False]
    assert not await hasher.verify(None, GOOD)
