"""Small files that decide what may be signed: replaced whole, under a lock, durable when it returns."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the file against every other process and thread of this machine."""
    # A file of its own, as the state file is replaced; closing it gives the lock back.
    with path.with_name(path.name + ".lock").open("ab") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield


def write_durably(path: Path, text: str) -> None:
    """Replace a file so that after a crash it is either the old or the new one, complete."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)  # left by a crash; the caller holds the lock
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    put_in_place(draft, path)


def put_in_place(draft: Path, path: Path) -> None:
    """Renames what is on the disk already, a file or a new folder, so that the name is there too."""
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
