"""Passwords: which ones are taken, and Argon2id in threads that cannot be overrun.

What must stay true: a place in the queue belongs to the hashing, not to the request that asked for
it. A request that is cancelled leaves its hash running, and the place is free only when that ends;
otherwise impatient clients could start any number of hashes.
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import secrets
import sys
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from threading import Lock
from typing import TypeVar

import argon2
from argon2.low_level import Type, hash_secret, verify_secret

from chimera.faults import Exhausted, Invalid, Violation
from chimera.settings import Settings

Result = TypeVar("Result")

CHARACTERS_MIN, CHARACTERS_MAX, BYTES_MAX = 15, 256, 1024
SALT_BYTES, HASH_BYTES = 16, 32
# A stored hash may cost at most this; one that was planted could otherwise take the host down.
PASSES_MAX, MEMORY_MAX_KIB, LANES_MAX = 10, 262_144, 4

_RUNS = (
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890123456789",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertzuiopasdfghjklyxcvbnm",
    "azertyuiopqsdfghjklmwxcvbn",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm",
    "1q2w3e4r5t6y7u8i9o0p",
)
# Of those with a second factor.
CHARACTERS_MIN_FACTOR = 8
_COMMON = frozenset(
    {
        "administratoradmin",
        "administratorpassword",
        "changemechangeme",
        "changethispassword",
        "defaultpassword",
        "iloveyousomuch",
        "mypasswordispassword",
        "passwordpassword",
        "passwordqwerty",
        "qwertypassword",
        "temporarypassword",
        "thisismypassword",
        "thisisapassword",
        "thisisnotapassword",
        "trustnooneever",
        "welcomewelcome",
        "whatisthepassword",
        "yourpasswordhere",
    }
)


@cache
def _most_used() -> frozenset[str]:
    """30,000 passwords that leaked most often, as zxcvbn keeps them, and a few long ones."""
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return frozenset(FREQUENCY_LISTS["passwords"]) | _COMMON


def check_password(
    password: str,
    *,
    names: tuple[str, ...] = (),
    characters_min: int = CHARACTERS_MIN,
    classes_min: int = 0,
) -> None:
    """Raises Invalid(PASSWORD_TOO_WEAK) for what is guessed first, and for what an organisation's
    rules refuse.

    Up to 256 characters, at most 1024 bytes. `names` are the person's own (address, user name),
    which a password may not consist of. classes_min: of lower case, upper case, digits, others.
    """
    if not characters_min <= len(password) <= CHARACTERS_MAX or len(password.encode()) > BYTES_MAX:
        raise _weak(f"A password has {characters_min} to {CHARACTERS_MAX} characters.")
    if _classes(password) < classes_min:
        raise _weak(
            f"The organisation asks for {classes_min} of: lower case, upper case, digits, others."
        )
    folded = unicodedata.normalize("NFKC", password).casefold()
    core = _core(folded)
    own = {_core(part.casefold()) for name in names for part in (name, name.partition("@")[0])}
    used = _most_used()
    if (
        folded in used
        or core in used
        or (core and core in own)
        or _is_repetition(folded)
        or _is_run(folded)
    ):
        raise _weak("This password is among those guessed first; choose another.")


def _classes(password: str) -> int:
    kinds = (str.islower, str.isupper, str.isdigit)
    named = [any(kind(character) for character in password) for kind in kinds]
    others = any(not any(kind(c) for kind in kinds) for c in password)
    return sum(named) + others


def _weak(message: str) -> Invalid:
    return Invalid(
        "PASSWORD_TOO_WEAK", message, violations=[Violation("password", message, "too_weak")]
    )


def _core(folded: str) -> str:
    """Without what people put around a weak password: spaces, dashes, a year, an exclamation mark."""
    letters = "".join(character for character in folded if character.isalnum())
    return letters.strip("0123456789") or letters


def _is_repetition(folded: str) -> bool:
    """A unit of at most 8 characters over and over (the last one perhaps cut off)."""
    return any(
        folded == (folded[:size] * len(folded))[: len(folded)]
        for size in range(1, min(8, len(folded) // 2) + 1)
    )


def _is_run(folded: str) -> bool:
    """A stretch of the alphabet, the digits or a keyboard, in either direction."""
    return any(folded in 2 * run or folded in 2 * run[::-1] for run in _RUNS)


NICE = 5
HUGE_PAGE = 2 * 1024 * 1024  # Where they have another size, the kernel rounds.


def _begin_hashing(memory_bytes: int) -> None:
    """Of a hashing thread, on Linux, where a priority is a thread's own: when cores are short, those go
    first who keep everybody else waiting, the event loop and the database."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        _ask_for_huge_pages(memory_bytes)


def _ask_for_huge_pages(size: int) -> None:
    """For the memory that this thread hashes in: the hash reads all over it, and to find thousands of
    small pages is a tenth of the work. A block this large is mapped the first time; given back, it
    teaches malloc to keep such blocks (mallopt(3), M_MMAP_THRESHOLD), so that the second lies where each
    hash of this thread gets its own. Were it elsewhere, nothing would be lost. With the huge pages that
    it begins and ends in, for which it has to be larger."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for _ in range(2):
        block = libc.malloc(ctypes.c_size_t(size + 2 * HUGE_PAGE))
        if block:
            begin = block // HUGE_PAGE * HUGE_PAGE
            end = -(-(block + size) // HUGE_PAGE) * HUGE_PAGE
            libc.madvise(begin, end - begin, mmap.MADV_HUGEPAGE)
        libc.free(block)


class Hasher:
    """Argon2id with the installation's parameters.

    Hashing takes max(1, cores - 1) threads of the host, shared by its processes; argon2_queue more
    may wait, then Exhausted(SERVER_BUSY). ValueError for parameters that `verify` would refuse.
    """

    def __init__(self, settings: Settings) -> None:
        self.memory_kib = settings.argon2_memory_kib
        self.passes = settings.argon2_passes
        if self.passes > PASSES_MAX or self.memory_kib > MEMORY_MAX_KIB:
            raise ValueError("argon2_passes or argon2_memory_kib beyond what is verified again")
        threads = max(1, ((os.cpu_count() or 1) - 1) // settings.processes)
        self.places = threads + settings.argon2_queue
        self._taken = 0
        self._counting = Lock()
        memory_bytes = self.memory_kib * 1024
        self._threads = ThreadPoolExecutor(threads, "argon2", _begin_hashing, (memory_bytes,))
        # What is verified for somebody who does not exist; nobody knows its password. Made by a thread
        # that is then there when the first person comes.
        self._dummy = self._threads.submit(self._hash, secrets.token_urlsafe(32)).result()
        self._beginning = self._dummy[: self._dummy.index("p=1$") + 4]

    async def hash(self, password: str) -> str:
        """The password in PHC form. Raises Exhausted(SERVER_BUSY)."""
        return await self._in_thread(lambda: self._hash(password))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether the password is the stored one. Costs the same for None (nobody) and for stored
        hashes outside the limits, both False. Raises Exhausted(SERVER_BUSY)."""
        sound = stored is not None and (not self.needs_rehash(stored) or is_within_limits(stored))
        against = stored if sound and stored is not None else self._dummy
        return await self._in_thread(lambda: _verify(against, password)) and sound

    def needs_rehash(self, stored: str) -> bool:
        """Whether it was made with other parameters than the present ones."""
        return not stored.startswith(self._beginning) or len(stored) != len(self._dummy)

    def _hash(self, password: str) -> str:
        return hash_secret(
            password.encode(),
            secrets.token_bytes(SALT_BYTES),
            time_cost=self.passes,
            memory_cost=self.memory_kib,
            parallelism=1,
            hash_len=HASH_BYTES,
            type=Type.ID,
        ).decode()

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        with self._counting:
            if self._taken >= self.places:
                raise Exhausted(
                    "SERVER_BUSY", "Too many people are signing in just now.", retry_after_s=1.0
                )
            self._taken += 1
        future = self._threads.submit(work)
        # Also runs for work that was cancelled before a thread took it up.
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def _leave(self, _future: Future[Result]) -> None:
        with self._counting:
            self._taken -= 1


def _verify(stored: str, password: str) -> bool:
    try:
        return verify_secret(stored.encode(), password.encode(), Type.ID)
    except argon2.exceptions.VerificationError:
        return False


def is_within_limits(stored: str) -> bool:
    """Whether a stored hash is Argon2id and cheap enough to be verified."""
    try:
        made = argon2.extract_parameters(stored)
    except argon2.exceptions.InvalidHashError:
        return False
    return (
        made.type is Type.ID
        and 1 <= made.time_cost <= PASSES_MAX
        and 8 <= made.memory_cost <= MEMORY_MAX_KIB
        and 1 <= made.parallelism <= LANES_MAX
        and 16 <= made.hash_len <= 64
    )
