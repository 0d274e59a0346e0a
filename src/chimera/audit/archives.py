"""Archives of months: files of the bundle format, compressed, replaced whole or not at all.

An archive outlives the rows it was made of, so whoever is erased has to go out of it as well: values and
salts are taken out of the entries by or about the person; leaves, hashes and proofs stay as they are.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from chimera.audit.bundle import Entry, decode_line, encode_line, open_bundle
from chimera.audit.durable import put_in_place
from chimera.audit.leaf import decode_leaf
from chimera.settings import Settings


def archive_folder(settings: Settings) -> Path:
    return settings.audit_archive or settings.home / "audit-archive"


def draft_of(path: Path) -> Path:
    """Where an archive is written before it is complete."""
    return path.with_name(f"{path.name}.new")


def settle(path: Path) -> bytes:
    """Puts the draft in the place of the archive, durably; the file's SHA-256."""
    draft = draft_of(path)
    with draft.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        os.fsync(file.fileno())
    put_in_place(draft, path)
    return digest


def erase_from_archive(path: Path, subject_ids: Iterable[str]) -> bytes:
    """Takes the values out of every entry by or about these people; the SHA-256 of the file after it.
    Safe to run twice. Raises FileNotFoundError for an archive that was moved elsewhere."""
    subjects = frozenset(subject_ids)
    with open_bundle(path) as file, gzip.open(draft_of(path), "wb", compresslevel=6) as draft:
        draft.writelines(_without_values(iter(file.readline, b""), subjects))
    return settle(path)


def _without_values(lines: Iterable[bytes], subjects: frozenset[str]) -> Iterator[bytes]:
    needles = [subject.encode() for subject in subjects]
    for line in lines:
        entry = decode_line(line)
        if (
            isinstance(entry, Entry)
            and entry.openings
            and any(needle in entry.leaf for needle in needles)
            and _concerns(entry, subjects)
        ):
            line = encode_line(replace(entry, openings=()))
        yield line


def _concerns(entry: Entry, subjects: frozenset[str]) -> bool:
    """The same events as audit.erase_events() finds."""
    leaf = decode_leaf(entry.leaf)
    return leaf.actor_id in subjects or (leaf.entity == "user" and leaf.entity_id in subjects)
