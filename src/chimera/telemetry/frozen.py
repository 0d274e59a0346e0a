"""The frozen form of a batch: columns of the store's own wire format, made once and never again.

What is resent after a crash must be what was sent before, or the store counts it twice. So a batch
is encoded when it is accepted, by whoever accepts it, and the drain passes its bytes on unread. A
body is 16 bytes of BLAKE2b over the rest, then LZ4 of the columns in the order of COLUMNS, each led
by its length. Organisation and batch are not in it; they are columns of the row that holds the body,
which row-level security checks, and the drain adds them.

Source of the layout: ClickHouse's `Native` format, as clickhouse-driver 0.2.11 reads and writes it.
Encoders work on whole columns, because an event a time costs thirty times as much.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from itertools import accumulate, chain
from operator import add
from typing import Any, LiteralString
from uuid import UUID

BYTES_MAX = 64_000_000  # of one batch, thawed
TIMESTAMP_MS_MAX = 4_102_444_800_000  # the year 2100; the store's seconds end in 2106
_DIGEST_BYTES = 16
_WORD = "LowCardinality(String)"

# Columns of the table, with their exact types.
COLUMNS: tuple[tuple[LiteralString, str], ...] = (
    ("event_id", "UUID"),
    ("event_type", _WORD),
    ("event_category", _WORD),
    ("timestamp", "DateTime64(3, 'UTC')"),
    ("workload_id", "String"),
    ("campaign_id", "UUID"),
    ("user_id", "UUID"),
    ("session_id", "String"),
    ("correlation_id", "String"),
    ("metrics.name", f"Array({_WORD})"),
    ("metrics.value", "Array(Float64)"),
    ("metrics.unit", f"Array({_WORD})"),
    ("dimensions", f"Map({_WORD}, String)"),
    ("payload", "String"),
    ("latency_ms", "UInt32"),
    ("cost", "Decimal(20, 12)"),
)
STORED: tuple[tuple[LiteralString, str], ...] = (("org_id", "UUID"), ("batch_id", "UUID"), *COLUMNS)


class BatchBroken(ValueError):
    """The values or bytes are not a batch of events."""


def pack(columns: Sequence[bytes]) -> bytes:
    """The body of a batch. Raises BatchBroken when it is too large."""
    import lz4.block

    plain = b"".join(part for column in columns for part in (_U32.pack(len(column)), column))
    if len(plain) > BYTES_MAX:
        raise BatchBroken(f"a batch must not be larger than {BYTES_MAX} bytes")
    body: bytes = lz4.block.compress(plain)
    return _digest(body) + body


def unpack(body: bytes) -> list[bytes]:
    """The columns of a body, as they were packed. Raises BatchBroken for anything else."""
    import lz4.block

    digest, packed = body[:_DIGEST_BYTES], body[_DIGEST_BYTES:]
    if len(body) <= _DIGEST_BYTES or digest != _digest(packed):
        raise BatchBroken("the bytes are not those that were accepted")
    if int.from_bytes(packed[:4], "little") > BYTES_MAX:
        raise BatchBroken(f"a batch must not be larger than {BYTES_MAX} bytes")
    try:
        plain = lz4.block.decompress(packed)
        columns, at = [], 0
        while at < len(plain):
            (size,) = _U32.unpack_from(plain, at)
            columns.append(plain[at + 4 : at + 4 + size])
            at += 4 + size
    except (lz4.block.LZ4BlockError, struct.error) as error:
        raise BatchBroken(f"{type(error).__name__}: {error}"[:300]) from None
    if len(columns) != len(COLUMNS):
        raise BatchBroken(f"not {len(COLUMNS)} columns")
    return columns


def stored(body: bytes, events: int, org_id: str, batch_id: str) -> list[bytes]:
    """The columns of STORED, for the store. Raises BatchBroken."""
    return [uuids([org_id]) * events, uuids([batch_id]) * events, *unpack(body)]


def fingerprint(event_ids: bytes) -> int:
    """Of the first column, whatever the order: the sum of the halves of all ids, as a signed number of 64
    bits (reconcile.py has the store's way to it)."""
    halves = array("Q", event_ids)
    if sys.byteorder == "big":
        halves.byteswap()
    return int.from_bytes((sum(halves) & _LOW).to_bytes(8, "big"), "big", signed=True)


def days_of(columns: Sequence[bytes]) -> frozenset[date]:
    """The days (UTC) of the events of a body. Raises BatchBroken."""
    stamps = array("q")
    try:
        stamps.frombytes(columns[3])
    except ValueError as error:
        raise BatchBroken(str(error)) from None
    if sys.byteorder == "big":
        stamps.byteswap()
    try:
        return frozenset(
            _EPOCH + timedelta(days=day) for day in {at // 86_400_000 for at in stamps}
        )
    except OverflowError as error:
        raise BatchBroken(str(error)) from None


def thaw(body: bytes, events: int) -> list[list[Any]]:
    """The values of a batch, column by column in the order of COLUMNS. Raises BatchBroken."""
    from clickhouse_driver.bufferedreader import CompressedBufferedReader
    from clickhouse_driver.client import Client
    from clickhouse_driver.connection import ServerInfo
    from clickhouse_driver.streams.native import BlockInputStream

    head = varint(len(COLUMNS)) + varint(events)
    parts = [head]
    for (name, kind), column in zip(COLUMNS, unpack(body), strict=True):
        parts += [string(name), string(kind), column]
    native = b"".join(parts)
    context = Client("127.0.0.1").connection.context  # not connected: only its defaults
    context.server_info = ServerInfo("", 0, 0, 0, 0, "UTC", "", used_revision=0)
    reader = CompressedBufferedReader(lambda: native, len(native))
    try:
        block = BlockInputStream(reader, context).read(use_numpy=False)
        columns = [list(column) for column in block.data]
    except (EOFError, IndexError, ValueError, struct.error) as error:
        raise BatchBroken(f"{type(error).__name__}: {error}"[:300]) from None
    if reader.position != len(native) or any(len(column) != events for column in columns):
        raise BatchBroken(f"not {events} events")
    return columns


# Encoders: values of one column -> its bytes. They raise BatchBroken for what the type cannot hold.

_U32 = struct.Struct("<I")
_LOW = 2**64 - 1
_EPOCH = date(1970, 1, 1)
_DICTIONARY = (1).to_bytes(8, "little")  # version of the dictionary's form, once a column
_KEYS_FOLLOW = 0x600  # the dictionary comes with the column and replaces any before it
_WIDTHS = (("B", 1 << 8), ("H", 1 << 16), ("I", 1 << 32))


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SHORT = [varint(size) for size in range(128)]


def string(text: str) -> bytes:
    try:
        data = text.encode()
    except (UnicodeEncodeError, AttributeError):
        raise BatchBroken("a text is not Unicode") from None
    size = len(data)
    return (_SHORT[size] if size < 128 else varint(size)) + data


_LED = [chr(size) for size in range(128)]


def led_strings(texts: Sequence[str]) -> list[bytes]:
    """Each as `string` encodes it. Short texts of ASCII, as most are, take no step of Python each."""
    try:
        sizes = list(map(len, texts))
        if max(sizes, default=0) < 128 and "".join(texts).isascii():
            return list(map(str.encode, map(add, map(_LED.__getitem__, sizes), texts)))
    except TypeError:
        raise BatchBroken("a text is not Unicode") from None
    return list(map(string, texts))


class _Strings(dict[str, bytes]):
    """Texts as they are encoded; most come again."""

    def __missing__(self, text: str) -> bytes:
        value = self[text] = string(text)
        return value


def strings(values: Iterable[str]) -> bytes:
    return b"".join(map(_Strings().__getitem__, values))


def coded_strings(dictionary: Sequence[str], codes: Sequence[int]) -> bytes:
    """Texts by their place in the dictionary."""
    return _by_place(led_strings(dictionary), codes)


def _by_place(values: list[bytes], codes: Sequence[int]) -> bytes:
    if len(values) == 1:
        return values[0] * len(codes)
    return b"".join(map(values.__getitem__, codes))


def _uuid(text: str) -> bytes:
    """Two little-endian halves, the high one first."""
    try:
        data = UUID(text).bytes
    except (ValueError, AttributeError):
        raise BatchBroken("an id is not a UUID") from None
    return data[7::-1] + data[:7:-1]


class _Uuids(dict[str, bytes]):
    def __missing__(self, text: str) -> bytes:
        value = self[text] = _uuid(text)
        return value


def uuids(values: Iterable[str]) -> bytes:
    return b"".join(map(_Uuids().__getitem__, values))


def coded_uuids(dictionary: Sequence[str], codes: Sequence[int]) -> bytes:
    return _by_place(list(map(_uuid, dictionary)), codes)


def different_uuids(texts: Sequence[str]) -> bytes:
    """Ids that do not repeat, in the form with hyphens."""
    try:
        data = bytes.fromhex("".join(texts).replace("-", ""))
    except (ValueError, TypeError):
        raise BatchBroken("an id is not a UUID") from None
    if len(data) != 16 * len(texts) or any(len(text) != 36 for text in texts):
        raise BatchBroken("an id is not a UUID")
    return uuid_halves(data)


def uuid_halves(data: bytes) -> bytes:
    """Ids in network order, 16 bytes each, one after the other."""
    halves = array("Q", data)
    halves.byteswap()
    return halves.tobytes()


def words(values: Sequence[str]) -> bytes:
    """A LowCardinality(String) column."""
    return _DICTIONARY + _words(values)


def _words(values: Sequence[str]) -> bytes:
    places: dict[str, int] = {}
    codes = [places.setdefault(value, len(places)) for value in values]
    return _coded_words(list(places), codes)


def coded_words(dictionary: Sequence[str], codes: Sequence[int]) -> bytes:
    """The same from a dictionary and places in it."""
    return _DICTIONARY + _coded_words(dictionary, codes)


def _coded_words(dictionary: Sequence[str], codes: Sequence[int]) -> bytes:
    return coded_led_words(led_strings(dictionary), codes)


def coded_led_words(dictionary: Sequence[bytes], codes: Sequence[int]) -> bytes:
    """The same from a dictionary that is encoded, without what leads a column."""
    if not codes:
        return b""
    kind = next(kind for kind, (_, most) in enumerate(_WIDTHS) if len(dictionary) <= most)
    return b"".join(
        (
            struct.pack("<QQ", _KEYS_FOLLOW | kind, len(dictionary)),
            *dictionary,
            struct.pack("<Q", len(codes)),
            numbers(_WIDTHS[kind][0], codes),
        )
    )


def numbers(typecode: str, values: Iterable[int | float]) -> bytes:
    """Fixed-width numbers, by the letters of the module `array`."""
    if isinstance(values, bytes) and typecode != "B":
        values = iter(values)  # or they would be taken for what they are to become
    try:
        encoded = array(typecode, values)
    except (OverflowError, TypeError) as error:
        raise BatchBroken(f"a number does not fit: {error}") from None
    if sys.byteorder == "big":
        encoded.byteswap()
    return encoded.tobytes()


def timestamps(values: Sequence[int]) -> bytes:
    """Milliseconds since 1970."""
    encoded = numbers("q", values)
    if min(values) < 0 or max(values) > TIMESTAMP_MS_MAX:
        raise BatchBroken("a timestamp is out of range")
    return encoded


def naturals(values: Iterable[int]) -> bytes:
    """A UInt32 column."""
    return numbers("I", values)


def picodollars(values: Sequence[int]) -> bytes:
    """Amounts in 1e-12 US dollars, not negative, as Decimal(20, 12): 128 bits each."""
    wide = array("Q", bytes(16 * len(values)))
    if max(values, default=0) <= _LOW:
        wide[::2] = array("Q", numbers("Q", values))
    else:
        wide[::2] = array("Q", numbers("Q", [value & _LOW for value in values]))
        wide[1::2] = array("Q", numbers("Q", [value >> 64 for value in values]))
    return wide.tobytes()


def picodollars_of(text: str) -> int:
    """Of a plain decimal such as "0.0015". Raises BatchBroken for more than twelve places."""
    whole, _, places = text.partition(".")
    if not (whole.isdecimal() and whole.isascii() and len(whole) <= 8 and len(places) <= 12):
        raise BatchBroken("a cost is not a decimal number that fits")
    if places and not (places.isdecimal() and places.isascii()):
        raise BatchBroken("a cost is not a decimal number that fits")
    return int(whole + places.ljust(12, "0"))


class _Costs(dict[str, int]):
    def __missing__(self, text: str) -> int:
        value = self[text] = picodollars_of(text)
        return value


def costs(values: Iterable[str]) -> bytes:
    return picodollars(list(map(_Costs().__getitem__, values)))


def offsets(sizes: Iterable[int]) -> bytes:
    """How the elements of arrays fall to their rows."""
    return numbers("Q", accumulate(sizes))


def word_arrays(sizes: bytes, values: Sequence[str]) -> bytes:
    return _DICTIONARY + sizes + _words(values)


def coded_word_arrays(sizes: bytes, dictionary: Sequence[str], codes: Sequence[int]) -> bytes:
    return _DICTIONARY + sizes + _coded_words(dictionary, codes)


def float_arrays(sizes: bytes, values: Iterable[float]) -> bytes:
    return sizes + numbers("d", values)


def maps(values: Sequence[Any]) -> bytes:
    """A map from words to texts, from one mapping a row."""
    try:
        sizes = offsets(map(len, values))
        keys = list(chain.from_iterable(values))
        texts = strings(chain.from_iterable(value.values() for value in values))
    except (TypeError, AttributeError):
        raise BatchBroken("dimensions are texts by name") from None
    return _DICTIONARY + sizes + _words(keys) + texts


def flat_maps(sizes: Iterable[int], keys: Sequence[str], texts: Iterable[str]) -> bytes:
    """The same from all keys and all texts, one row after the other."""
    return _DICTIONARY + offsets(sizes) + _words(keys) + strings(texts)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
