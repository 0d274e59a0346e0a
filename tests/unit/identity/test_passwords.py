"""Which passwords are taken, and hashing that cannot be overrun."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from chimera.faults import Exhausted, Invalid
from chimera.identity import passwords
from chimera.identity.passwords import Hasher, check_password, is_within_limits
from chimera.settings import Settings

GOOD = "a rather long sentence"


@pytest.fixture
def hasher() -> Hasher:
    return Hasher(Settings(argon2_queue=2))


class Gate(threading.Event):
    """Verifications hang until it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    opened = Gate()
    verify = passwords._verify

    def held(stored: str, password: str) -> bool:
        opened.begun.set()
        opened.wait(30)
        return verify(stored, password)

    monkeypatch.setattr(passwords, "_verify", held)
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


ADVISED = """
import asyncio, re
from chimera.identity.passwords import Hasher
from chimera.settings import Settings
asyncio.run(Hasher(Settings()).verify(None, "a rather long sentence"))
mappings = open("/proc/self/smaps").read().split("VmFlags: ")
for before, after in zip(mappings, mappings[1:]):
    if "hg" in after.partition("\\n")[0].split():
        print(re.search("Rss: +([0-9]+) kB", before)[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them")
def test_hashes_are_made_in_huge_pages() -> None:
    """Where the host has them: the memory that was hashed in is advised to be of them (flag hg)."""
    said = subprocess.run(
        [sys.executable, "-c", ADVISED], capture_output=True, text=True, check=True
    ).stdout
    assert sum(map(int, said.split())) >= 19_000, said


async def test_nobodys_password_is_verified_as_well(
    hasher: Hasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One Argon2 with the present parameters, for nobody and for a hash that costs too much."""
    seen = []
    verify = passwords._verify
    monkeypatch.setattr(
        passwords,
        "_verify",
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


async def test_who_gives_up_waiting_frees_no_place(hasher: Hasher, gate: Gate) -> None:
    """Cancelled requests leave their running hash behind: the queue stays full until it ends."""
    waiting = [asyncio.create_task(hasher.verify(None, GOOD)) for _ in range(hasher.places)]
    await asyncio.sleep(0)
    with pytest.raises(Exhausted) as refused:
        await hasher.verify(None, GOOD)
    assert refused.value.reason == "SERVER_BUSY"
    await asyncio.to_thread(gate.begun.wait)
    running = hasher.places - 2
    for task in waiting[:running]:
        task.cancel()
    await asyncio.gather(*waiting[:running], return_exceptions=True)
    with pytest.raises(Exhausted):
        await hasher.verify(None, GOOD)
    gate.set()
    assert await asyncio.gather(*waiting[running:]) == [False, False]
    assert not await hasher.verify(None, GOOD)
