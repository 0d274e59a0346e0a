"""Signed notes and checkpoints: what the log says about itself, signed.

A note is text, a blank line, and signature lines. A checkpoint is a note whose text is the log's
origin, its size and its root. The log signs with Ed25519; witnesses add timestamped cosignatures.

What must stay true:
- One note has one encoding; whatever is not it, is refused.
- A signature by a known key that does not verify condemns the whole note; signatures by unknown
  keys prove nothing and are passed over.
- Private keys show in no repr and no error, and their files are readable by the owner only.

Source: c2sp.org/signed-note, c2sp.org/tlog-checkpoint, c2sp.org/tlog-cosignature (type 0x04).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from chimera.audit import merkle

NOTE_BYTES_MAX = 1 << 20
SIGNATURES_MAX = 100
_KEY_BYTES = 32
_TIME_MAX_S = 2**63 - 1
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_KEY_ID = re.compile(r"[0-9a-f]{8}")


class NoteError(ValueError):
    """Text is not a well-formed note, checkpoint or key."""


class SignatureMissing(NoteError):
    """No signature on the note is by the key that is wanted."""


class SignatureWrong(NoteError):
    """A known key stands on the note with a signature that is not its own."""


class KeyKind(IntEnum):
    """Signature type bytes assigned by c2sp.org/signed-note."""

    ED25519 = 0x01
    COSIGNATURE = 0x04


def decode_base64(text: str) -> bytes:
    """Standard base64 in its only canonical spelling; raises NoteError."""
    try:
        encoded = text.encode("ascii")
        data = binascii.a2b_base64(encoded, strict_mode=True)
    except (binascii.Error, ValueError):
        raise NoteError("not base64") from None
    if binascii.b2a_base64(data, newline=False) != encoded:
        raise NoteError("not canonical base64")
    return data


def _encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _checked_name(name: str) -> str:
    if not name or "+" in name or any(c.isspace() or c < " " for c in name) or _surrogate(name):
        raise NoteError("a key name is empty or has spaces, control characters or a plus sign")
    return name


def _key_id(name: str, kind: KeyKind, public_key: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + bytes([kind]) + public_key).digest()[:4]


def _split_key(text: str) -> tuple[str, bytes, KeyKind, bytes]:
    """name, key id, kind and 32 bytes of a `name+hash+base64(kind || bytes)` key."""
    parts = text.split("+", 2)
    if len(parts) != 3 or not _KEY_ID.fullmatch(parts[1]):
        raise NoteError("a key has the form name+hash+base64")
    data = decode_base64(parts[2])
    if len(data) != 1 + _KEY_BYTES or data[0] not in tuple(KeyKind):
        raise NoteError("a key is neither Ed25519 nor an Ed25519 cosigner's")
    return _checked_name(parts[0]), bytes.fromhex(parts[1]), KeyKind(data[0]), data[1:]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with the name it signs under; `str()` gives `name+hash+base64`."""

    name: str
    kind: KeyKind
    public_key: bytes

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Raises NoteError, also when the hash does not belong to name and key."""
        name, key_id, kind, public_key = _split_key(text)
        if _key_id(name, kind, public_key) != key_id:
            raise NoteError("the key's hash does not belong to its name and bytes")
        return cls(name, kind, public_key)

    @property
    def key_id(self) -> bytes:
        return _key_id(self.name, self.kind, self.public_key)

    def __str__(self) -> str:
        data = _encode_base64(bytes([self.kind]) + self.public_key)
        return f"{self.name}+{self.key_id.hex()}+{data}"


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: key name, 4-byte key id, and what that kind of key appends."""

    name: str
    key_id: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Verified:
    """A signature that holds. timestamp_s: POSIX seconds of a cosignature, else None."""

    key: VerifierKey
    timestamp_s: int | None


@dataclass(frozen=True, slots=True)
class Note:
    """Text ending in a newline, and its signatures; `str()` gives the note."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, note: str) -> Note:
        """Raises NoteError for anything but the exact encoding of a note."""
        if len(note) > NOTE_BYTES_MAX:
            raise NoteError("the note is too long")
        if any(c < " " and c != "\n" for c in note) or _surrogate(note):
            raise NoteError("the note has control characters or is not Unicode")
        text, blank, lines = note.rpartition("\n\n")
        if not blank or not text or not lines.endswith("\n"):
            raise NoteError("the note has no text, or no signature lines after a blank line")
        signatures = tuple(_signature(line) for line in lines[:-1].split("\n"))
        if len(signatures) > SIGNATURES_MAX:
            raise NoteError(f"the note has more than {SIGNATURES_MAX} signatures")
        return cls(text + "\n", signatures)

    def __str__(self) -> str:
        lines = (f"— {s.name} {_encode_base64(s.key_id + s.data)}\n" for s in self.signatures)
        return self.text + "\n" + "".join(lines)

    def with_signature(self, signature: Signature) -> Note:
        """The same note with one more signature line, for witnesses."""
        return Note(self.text, (*self.signatures, signature))


def _surrogate(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


def _signature(line: str) -> Signature:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != "—":
        raise NoteError("a signature line has another form")
    data = decode_base64(parts[2])
    if len(data) < 5:
        raise NoteError("a signature is too short")
    return Signature(_checked_name(parts[1]), data[:4], data[4:])


def verify_note(note: Note, keys: Iterable[VerifierKey]) -> tuple[Verified, ...]:
    """The signatures by these keys, each key at most once; all of them hold.

    Raises SignatureMissing if there is none, SignatureWrong if one of them does not hold.
    """
    known = {(key.name, key.key_id): key for key in keys}
    verified: dict[VerifierKey, Verified] = {}
    for signature in note.signatures:
        key = known.get((signature.name, signature.key_id))
        if key is not None:
            verified.setdefault(key, _verify(note.text, signature, key))
    if not verified:
        raise SignatureMissing("the note is signed by none of the given keys")
    return tuple(verified.values())


def _verify(text: str, signature: Signature, key: VerifierKey) -> Verified:
    message, data, timestamp_s = text.encode(), signature.data, None
    if key.kind is KeyKind.COSIGNATURE:
        timestamp_s = int.from_bytes(data[:8], "big")
        data = data[8:]
        message = _cosigned(text, timestamp_s)
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(data, message)
    except (InvalidSignature, ValueError):
        raise SignatureWrong(f"the signature by {key.name} is not its own") from None
    return Verified(key, timestamp_s)


def _cosigned(text: str, timestamp_s: int) -> bytes:
    if not 0 <= timestamp_s <= _TIME_MAX_S:
        raise SignatureWrong("a cosignature's time is out of range")
    return f"cosignature/v1\ntime {timestamp_s}\n{text}".encode()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The log's claim about itself: origin (its name), size in leaves, 32-byte root.

    Raises NoteError for values no checkpoint can have.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        _checked_name(self.origin)
        if type(self.size) is not int or not 0 <= self.size <= merkle.SIZE_MAX:
            raise NoteError("the size is out of range")
        if len(self.root) != merkle.HASH_BYTES:
            raise NoteError("the root is not 32 bytes")
        if self.size == 0 and self.root != merkle.EMPTY_ROOT:
            raise NoteError("the root of the empty tree is another one")

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """From a note's text. Extension lines are refused: nobody could audit them."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not _SIZE.fullmatch(lines[1]):
            raise NoteError("a checkpoint is three lines: origin, size, root")
        return cls(lines[0], int(lines[1]), decode_base64(lines[2]))

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{_encode_base64(self.root)}\n"


class SigningKey:
    """An Ed25519 private key under a name: of a log (ED25519) or of a witness (COSIGNATURE)."""

    def __init__(self, name: str, kind: KeyKind, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        public_key = private_key.public_key().public_bytes_raw()
        self.verifier = VerifierKey(_checked_name(name), kind, public_key)

    def __repr__(self) -> str:
        return f"SigningKey({self.verifier})"

    @classmethod
    def generate(cls, name: str, kind: KeyKind = KeyKind.ED25519) -> SigningKey:
        return cls(name, kind, Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """From a file as `save` writes it. Raises NoteError, also if others may read the file."""
        with path.open("rb") as file:
            # The group may read, as secret mounts give it to the service's group.
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o037:
                raise NoteError(f"the key file {path} is open to others; chmod 600 it")
            text = file.read(4096)
        prefix, _, rest = text.decode("utf-8", "replace").strip().partition("+")
        marker, _, key = rest.partition("+")
        if (prefix, marker) != ("PRIVATE", "KEY"):
            raise NoteError(f"the file {path} holds no private key")
        name, key_id, kind, seed = _split_key(key)
        loaded = cls(name, kind, Ed25519PrivateKey.from_private_bytes(seed))
        if loaded.verifier.key_id != key_id:
            raise NoteError("the private key's hash does not belong to it")
        return loaded

    def save(self, path: Path) -> None:
        """Write a new file with mode 0600; raises FileExistsError rather than replace a key."""
        data = _encode_base64(bytes([self.verifier.kind]) + self._private_key.private_bytes_raw())
        line = f"PRIVATE+KEY+{self.verifier.name}+{self.verifier.key_id.hex()}+{data}\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def sign(self, text: str) -> Signature:
        """A log's signature over a note text. Raises NoteError for a witness's key."""
        if self.verifier.kind is not KeyKind.ED25519:
            raise NoteError("a witness's key only cosigns")
        return self._signature(self._private_key.sign(text.encode()))

    def cosign(self, text: str, timestamp_s: int) -> Signature:
        """A witness's cosignature, at a POSIX time. Raises NoteError for a log's key.

        The witness must first have checked the checkpoint against the last one it cosigned.
        """
        if self.verifier.kind is not KeyKind.COSIGNATURE:
            raise NoteError("a log's key does not cosign")
        signed = self._private_key.sign(_cosigned(text, timestamp_s))
        return self._signature(timestamp_s.to_bytes(8, "big") + signed)

    def _signature(self, data: bytes) -> Signature:
        return Signature(self.verifier.name, self.verifier.key_id, data)
