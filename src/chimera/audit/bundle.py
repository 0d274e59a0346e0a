"""Exported audit bundles: one JSON object a line, readable with nothing but this module.

Order of the lines: one header, one or more checkpoints by growing size, then the leaves by growing
index. The README of this folder describes every member. A `range` holds every leaf from
`first_index` to the size of the last checkpoint; a `selection` holds any leaves, each with its
inclusion proof to the last checkpoint, for someone who may not see the others.

What must stay true: a line has one meaning; unknown, missing or doubled members are an error.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from binascii import a2b_base64
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast

from chimera.audit import merkle
from chimera.audit.note import NoteError, decode_base64

FORMAT = "chimera-audit-bundle"
VERSION = 1
LINE_BYTES_MAX = 16 << 20


def open_bundle(path: Path) -> BinaryIO:
    """A bundle file for reading its lines; one that is compressed with gzip is unpacked."""
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    if is_packed:
        return cast(BinaryIO, gzip.GzipFile(path, "rb"))
    return path.open("rb")


class BundleError(ValueError):
    """A line is not of the bundle format."""


class Mode(StrEnum):
    RANGE = "range"
    SELECTION = "selection"


@dataclass(frozen=True, slots=True)
class Header:
    """origin: the log's name. frontier: of the tree before the first leaf of a range; it says at
    which index the range begins. Always the empty one in a selection."""

    origin: str
    mode: Mode = Mode.RANGE
    frontier: merkle.Frontier = merkle.EMPTY_TREE


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint as its signed note."""

    note: str


@dataclass(slots=True)  # not frozen, nor is Entry: there are millions, and freezing takes its time
class Opening:
    """What it takes to open one commitment of a leaf: its name, 32-byte salt and value."""

    name: str
    salt: bytes
    value: bytes


@dataclass(slots=True)
class Entry:
    """One leaf. prev: leaf hash of the index before. leaf: the exact bytes. hash: its leaf hash.
    openings: of the commitments that are disclosed. proof: of inclusion, only in a selection."""

    index: int
    prev: bytes
    leaf: bytes
    hash: bytes
    openings: tuple[Opening, ...] = ()
    proof: tuple[bytes, ...] | None = None


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A leaf whose payload was dropped; its hash stays."""

    index: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Foreign:
    """A leaf the reader of this range may not see, as it is another organisation's: its hash."""

    index: int
    hash: bytes


Line = Header | SignedCheckpoint | Entry | Tombstone | Foreign


def encode_line(line: Line) -> bytes:
    """One line of a bundle, with its newline."""
    return json.dumps(_members(line), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _members(line: Line) -> dict[str, object]:
    match line:
        case Header():
            return {
                "type": "header",
                "format": FORMAT,
                "version": VERSION,
                "origin": line.origin,
                "mode": line.mode.value,
                "first_index": line.frontier.size,
                "frontier": [_text(node) for node in line.frontier.hashes],
            }
        case SignedCheckpoint():
            return {"type": "checkpoint", "note": line.note}
        case Tombstone():
            return {"type": "tombstone", "index": line.index, "hash": _text(line.hash)}
        case Foreign():
            return {"type": "foreign", "index": line.index, "hash": _text(line.hash)}
        case Entry():
            return {
                "type": "entry",
                "index": line.index,
                "prev": _text(line.prev),
                "leaf": _text(line.leaf),
                "hash": _text(line.hash),
                **({"open": [_open_members(o) for o in line.openings]} if line.openings else {}),
                **({} if line.proof is None else {"proof": [_text(p) for p in line.proof]}),
            }


def _open_members(opening: Opening) -> dict[str, str]:
    return {"name": opening.name, "salt": _text(opening.salt), "value": _text(opening.value)}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def decode_line(line: bytes) -> Line:
    """The meaning of a line; raises BundleError."""
    if len(line) > LINE_BYTES_MAX:
        raise BundleError(f"the line is longer than {LINE_BYTES_MAX} bytes")
    return _plain_entry(line) or _any_line(line)


# Canonical base64: the bits of the last character that carry nothing are 0.
_BASE64 = rb"[A-Za-z0-9+/]*(?:[AEIMQUYcgkosw048]=|[AQgw]==)?"
_HASH = rb"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="
_OPENED = rb'\{"name":"([!#-\[\]-~]*)","salt":"(%b)","value":"(%b)"\}' % (_HASH, _BASE64)
_OPENINGS = re.compile(_OPENED)
_PLAIN_ENTRY = re.compile(
    rb'\{"type":"entry","index":(0|[1-9][0-9]{0,17}),"prev":"(%b)","leaf":"(%b)","hash":"(%b)"'
    rb'(?:,"open":\[(%b(?:,%b)*)\])?\}\n?'
    % (_HASH, _BASE64, _HASH, *[re.sub(rb"\((?!\?)", b"(?:", _OPENED)] * 2)
)


def _plain_entry(line: bytes) -> Entry | None:
    """An entry of a range, spelled as `encode_line` spells it: read without the detour of JSON, as
    nearly all lines of a log are. None for everything else, which is then read with care."""
    plain = _PLAIN_ENTRY.fullmatch(line)
    if plain is None:
        return None
    index, prev, leaf, hash_, opened = plain.groups()
    openings: tuple[Opening, ...] = ()
    try:
        if opened:
            openings = tuple(
                [
                    Opening(name.decode("ascii"), a2b_base64(salt), _decoded(value))
                    for name, salt, value in _OPENINGS.findall(opened)
                ]
            )
            if len({opening.name for opening in openings}) != len(openings):
                return None
        return Entry(int(index), _plain_hash(prev), _decoded(leaf), _plain_hash(hash_), openings)
    except ValueError:
        return None


def _decoded(text: bytes) -> bytes:
    """Of the characters that _BASE64 allows."""
    if len(text) % 4:
        raise ValueError  # padding after a text that needs none, or less than it needs
    return a2b_base64(text)


_plain_hash = lru_cache(maxsize=16)(a2b_base64)  # an entry's `prev` was the last one's `hash`


def _any_line(line: bytes) -> Line:
    try:
        members = _JSON.decode(line.decode("utf-8"))
    except (ValueError, RecursionError):
        raise BundleError("the line is not JSON, or names a member twice") from None
    if not isinstance(members, dict):
        raise BundleError("the line is not a JSON object")
    try:
        return _line(members)
    except (NoteError, merkle.ProofError) as error:
        raise BundleError(str(error)) from error


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


def _refuse(constant: str) -> object:
    raise ValueError(constant)


_JSON = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_refuse)


def _line(members: dict[str, object]) -> Line:
    match members.get("type"):
        case "header":
            return _header(members)
        case "checkpoint":
            _expect(members, {"type", "note"})
            return SignedCheckpoint(_str(members, "note"))
        case "tombstone":
            _expect(members, {"type", "index", "hash"})
            return Tombstone(_int(members, "index"), _hash(members["hash"]))
        case "foreign":
            _expect(members, {"type", "index", "hash"})
            return Foreign(_int(members, "index"), _hash(members["hash"]))
        case "entry":
            return _entry(members)
    raise BundleError("a line of no known type")


def _header(members: dict[str, object]) -> Header:
    version = members.get("version")
    if members.get("format") != FORMAT or type(version) is not int or version != VERSION:
        raise BundleError(f"not a {FORMAT} of version {VERSION}")
    _expect(members, {"type", "format", "version", "origin", "mode", "first_index", "frontier"})
    frontier = merkle.Frontier(
        _int(members, "first_index"), tuple(_hash(node) for node in _list(members, "frontier"))
    )
    mode = _str(members, "mode")
    if mode not in tuple(Mode) or (mode == Mode.SELECTION and frontier.size):
        raise BundleError("the header's mode is unknown, or a selection with a first index")
    return Header(_str(members, "origin"), Mode(mode), frontier)


_ENTRY = {"type", "index", "prev", "leaf", "hash"}
_OPENING = {"name", "salt", "value"}


def _entry(members: dict[str, object]) -> Entry:
    openings: tuple[Opening, ...] = ()
    if members.keys() != _ENTRY:
        _expect(members, _ENTRY, {"open", "proof"})
        if "open" in members:
            openings = tuple(_opening(item) for item in _list(members, "open"))
        if len({opening.name for opening in openings}) != len(openings):
            raise BundleError("a commitment is opened twice")
    return Entry(
        _int(members, "index"),
        _hash(members["prev"]),
        _bytes(members["leaf"]),
        _hash(members["hash"]),
        openings,
        tuple(_hash(item) for item in _list(members, "proof")) if "proof" in members else None,
    )


def _opening(item: object) -> Opening:
    if not isinstance(item, dict):
        raise BundleError("an opening is not an object")
    if item.keys() != _OPENING:
        raise BundleError("members are missing or unknown")
    return Opening(_str(item, "name"), _bytes(item["salt"]), _bytes(item["value"]))


def _expect(
    members: dict[str, object], needed: set[str], allowed: Sequence[str] | set[str] = ()
) -> None:
    if not needed <= members.keys() or not members.keys() <= needed.union(allowed):
        raise BundleError("members are missing or unknown")


def _str(members: dict[str, object], name: str) -> str:
    value = members[name]
    if not isinstance(value, str):
        raise BundleError(f"{name} is not a string")
    return value


def _int(members: dict[str, object], name: str) -> int:
    value = members[name]
    if type(value) is not int or not 0 <= value <= merkle.SIZE_MAX:
        raise BundleError(f"{name} is not a whole number from 0 to 2^63 - 1")
    return value


def _list(members: dict[str, object], name: str) -> list[object]:
    value = members[name]
    if not isinstance(value, list):
        raise BundleError(f"{name} is not a list")
    return value


def _bytes(value: object) -> bytes:
    if not isinstance(value, str):
        raise BundleError("a base64 value is not a string")
    return decode_base64(value)


def _hash(value: object) -> bytes:
    if not isinstance(value, str):
        raise BundleError("a base64 value is not a string")
    data = decode_base64(value)
    if len(data) != merkle.HASH_BYTES:
        raise BundleError("a hash is not 32 bytes")
    return data
