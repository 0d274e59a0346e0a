"""Files that go to a server or come from one, in pieces."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from chimera.cli.failure import WRONG_USE, Failure

PIECE_BYTES = 512 * 1024


def pieces(path: Path) -> Iterator[bytes]:
    """The file; `-` is standard input. Raises Failure."""
    try:
        source = sys.stdin.buffer if str(path) == "-" else path.open("rb")
        with source as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", WRONG_USE) from None


def first_piece(rest: Iterator[bytes]) -> bytes:
    """What opening the file gives, so that a missing one is told before anything is sent."""
    return next(rest, b"")


def write(path: Path, content: Iterable[bytes]) -> int:
    """Writes the file (`-`: standard output); how many bytes. Raises Failure.

    A file appears whole or not at all.
    """
    if str(path) == "-":
        return sum(sys.stdout.buffer.write(piece) for piece in content)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            size_bytes = sum(file.write(piece) for piece in content)
        part.replace(path)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
    return size_bytes
