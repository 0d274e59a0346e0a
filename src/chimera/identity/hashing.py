"""Argon2id in memory that is kept: each thread has its own, for one hash after the other.

The hash reads all over its 19 MiB, and through small pages a tenth of the time goes into finding them;
in huge ones (Linux, where they are not switched off) nearly nothing. argon2 wipes what it has used, so
what is kept between hashes is zeros.
"""

from __future__ import annotations

import hmac
import mmap
import threading
from base64 import b64decode
from typing import Any

import argon2
from argon2.low_level import Type, core, ffi, lib  # type: ignore[attr-defined]  # lib is documented

HUGE_PAGE_BYTES = 2**21


class _Memory(threading.local):
    """Of this thread, as large as its last hash wanted it."""

    size = 0
    mapped: Any = None  # while it is referred to, it is mapped
    start: Any = None


_memory = _Memory()


@ffi.callback("int(uint8_t **, size_t)", error=lib.ARGON2_MEMORY_ALLOCATION_ERROR)  # type: ignore[untyped-decorator]  # cffi has no types
def _take(place: Any, size: int) -> int:
    """Called by argon2 in the thread that hashes."""
    if _memory.size != size:
        _memory.mapped = _memory.start = None
        whole = mmap.mmap(-1, size + HUGE_PAGE_BYTES)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            whole.madvise(mmap.MADV_HUGEPAGE)
        _memory.mapped = ffi.from_buffer("uint8_t[]", whole)
        address = int(ffi.cast("uintptr_t", _memory.mapped))
        _memory.start = _memory.mapped + -address % HUGE_PAGE_BYTES
        _memory.size = size
    place[0] = _memory.start
    return int(lib.ARGON2_OK)


@ffi.callback("void(uint8_t *, size_t)")  # type: ignore[untyped-decorator]  # cffi has no types
def _leave(_start: Any, _size: int) -> None:
    """It stays for the next one."""


def is_password(stored: str, password: str) -> bool:
    """Whether it is the password of an Argon2id hash in PHC form. In a thread of its own: takes 25 ms
    and more, without the GIL."""
    made = argon2.extract_parameters(stored)
    try:
        salt, wanted = (b64decode(part + "=" * (-len(part) % 4)) for part in stored.split("$")[-2:])
    except ValueError:
        return False
    secret = password.encode()
    hashed = ffi.new("uint8_t[]", made.hash_len)
    inputs = ffi.new("uint8_t[]", secret), ffi.new("uint8_t[]", salt)
    context = ffi.new(
        "argon2_context *",
        {
            "version": made.version,
            "out": hashed,
            "outlen": made.hash_len,
            "pwd": inputs[0],
            "pwdlen": len(secret),
            "salt": inputs[1],
            "saltlen": len(salt),
            "secret": ffi.NULL,
            "secretlen": 0,
            "ad": ffi.NULL,
            "adlen": 0,
            "t_cost": made.time_cost,
            "m_cost": made.memory_cost,
            "lanes": made.parallelism,
            "threads": made.parallelism,
            "allocate_cbk": _take,
            "free_cbk": _leave,
            "flags": lib.ARGON2_DEFAULT_FLAGS,
        },
    )
    outcome = core(context, Type.ID.value)
    if outcome == lib.ARGON2_MEMORY_ALLOCATION_ERROR:
        raise MemoryError
    return outcome == lib.ARGON2_OK and hmac.compare_digest(bytes(ffi.buffer(hashed)), wanted)
