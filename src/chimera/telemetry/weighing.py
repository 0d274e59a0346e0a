"""How much the views of the store make of batches, and batches cut so that it is not too much at once.

An insert costs the store less for its events than for the sketches of the roll-ups: one for each
combination of what roll-ups are by, and of each metric, all in memory until the insert is through.
A message of a few hundred kilobytes can ask for a million of them. So what is inserted together is
bounded by sketches (drain.py), and a batch that would be too much by itself is cut when it is taken.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from itertools import combinations, pairwise
from operator import itemgetter
from typing import Any, NamedTuple

from chimera.telemetry import frozen
from chimera.telemetry.frozen import COLUMNS, BatchBroken, pack

# Of one insert: some 270 MB in the store at 2.7 KB each, and one or two seconds.
SKETCHES_MAX = 100_000
PIECES_MAX = 40  # of one batch
TABLES = 3  # by hour, by day, by day without the type
STEP = 8  # events at a time, when it is looked for where to cut

# Places in Key. Slices are by one of them, or by two that do not name a workload (clickhouse/0005).
_SINGLE = (3, 4, 5, 6, 7, 8, 9)
_PAIRED = (3, 5, 6, 7, 8, 9)
_SLICED = [
    itemgetter(0, 1, 2, *own) for own in (*((n,) for n in _SINGLE), *combinations(_PAIRED, 2))
]
GROUPINGS = 1 + len(_SLICED)
_NAMED = (b"\x08provider", b"\x05model", b"\x09technique")

# (organisation, type, hour, category, workload, campaign, user, provider, model, technique)
Key = tuple[Any, ...]


Pieces = list[tuple[int, bytes]]  # events and body of each
Ranges = Sequence[tuple[int, int]]


class TooHeavy(ValueError):
    """One batch would be more than PIECES_MAX."""


class Facts(NamedTuple):
    """What the roll-ups see of a batch: the key of each event, the names of metrics, and where the
    metrics of each event end."""

    keys: list[Key]
    metrics: frozenset[bytes]
    ends: Sequence[int]


class Weight:
    """Sketches of some batches, or of some events of one, that are inserted together. At most: metrics
    are counted as if each occurred with every combination."""

    def __init__(self) -> None:
        self.keys: set[Key] = set()
        self.slices: list[set[Any]] = [set() for _ in _SLICED]
        self.metrics: frozenset[bytes] = frozenset()
        self.points = 0

    def add(self, facts: Facts, start: int, end: int) -> None:
        new = set(facts.keys[start:end]) - self.keys
        self.keys |= new
        for part, found in zip(_SLICED, self.slices, strict=True):
            found.update(map(part, new))
        self.metrics |= facts.metrics
        self.points += facts.ends[end - 1] - (facts.ends[start - 1] if start else 0)

    @property
    def sketches(self) -> int:
        names = len(self.metrics)
        return TABLES * sum(
            len(found) + min(self.points, names * len(found)) for found in (self.keys, *self.slices)
        )


def pack_pieces(columns: Sequence[bytes], events: int, keys: int) -> Pieces:
    """The bodies of a batch of at most so many different keys: one unless it is too heavy for an insert.

    Raises BatchBroken, TooHeavy.
    """
    if is_light(columns, events, keys):
        return [(events, pack(columns))]
    if sum(map(len, columns)) > frozen.BYTES_MAX:
        raise BatchBroken(f"a batch must not be larger than {frozen.BYTES_MAX} bytes")
    ranges = _ranges(facts_of(columns, events, ""))
    if len(ranges) == 1:
        return [(events, pack(columns))]
    cut = _cut(columns, events, ranges)
    return [(end - start, pack(own)) for (start, end), own in zip(ranges, cut, strict=True)]


def is_light(columns: Sequence[bytes], events: int, keys: int) -> bool:
    """Whether a batch of at most so many different keys needs no weighing: a quick look."""
    points = len(columns[10]) // 8 - events
    metrics = len(_metrics(columns, points)) if points else 0
    most = min(events, keys) + min(points, metrics * keys)
    return TABLES * GROUPINGS * most <= SKETCHES_MAX


def facts_of(columns: Sequence[bytes], events: int, org_id: str) -> Facts:
    """Raises BatchBroken."""
    try:
        return _facts_of(columns, events, org_id)
    except (LookupError, ValueError, struct.error) as error:
        raise BatchBroken(f"{type(error).__name__}: {error}"[:300]) from None


def _facts_of(columns: Sequence[bytes], events: int, org_id: str) -> Facts:
    _, types, categories, stamps, workloads, campaigns, users = columns[:7]
    hours = [stamp // 3_600_000 for stamp in _numbers("q", stamps)]
    keys = zip(
        [org_id] * events,
        _Reading(types, 8).words(events).texts(),
        hours,
        _Reading(categories, 8).words(events).texts(),
        _Reading(workloads).strings(events),
        _wide(campaigns),
        _wide(users),
        *_named(columns[12], events),
        strict=True,
    )
    ends = _numbers("Q", columns[10][: 8 * events])
    return Facts(list(keys), _metrics(columns, ends[-1]), ends)


def _ranges(facts: Facts) -> Ranges:
    """Ranges of events of a batch, each light enough for one insert.

    Raises TooHeavy.
    """
    events = len(facts.keys)
    found, start, weight = [], 0, Weight()
    for at in range(0, events, STEP):
        end = min(at + STEP, events)
        weight.add(facts, at, end)
        if weight.sketches > SKETCHES_MAX and at > start:
            found.append((start, at))
            start, weight = at, Weight()
            weight.add(facts, at, end)
            if len(found) == PIECES_MAX:
                raise TooHeavy(
                    "There are too many different combinations of workload, user, campaign, provider,"
                    " model, technique and metric in one batch; send it in smaller ones."
                )
    return [*found, (start, events)]


def _cut(columns: Sequence[bytes], events: int, ranges: Ranges) -> list[list[bytes]]:
    """The columns of each of some ranges of events."""
    cut = []
    for (_, kind), column in zip(COLUMNS, columns, strict=True):
        if width := _WIDTHS.get(kind):
            cut.append([column[width * start : width * end] for start, end in ranges])
        elif kind == "String":
            texts = _Reading(column).strings(events)
            cut.append([b"".join(texts[start:end]) for start, end in ranges])
        elif kind == "LowCardinality(String)":
            words = _Reading(column, 8).words(events)
            cut.append([column[:8] + words.encoded(start, end) for start, end in ranges])
        else:
            cut.append(_cut_arrays(kind, column, events, ranges))
    return [list(piece) for piece in zip(*cut, strict=True)]


_WIDTHS = {
    "UUID": 16,
    "DateTime64(3, 'UTC')": 8,
    "UInt32": 4,
    "Decimal(20, 12)": 16,
}


def _cut_arrays(kind: str, column: bytes, events: int, ranges: Ranges) -> list[bytes]:
    """Of arrays of numbers, arrays of words, and maps from words to texts."""
    of_words = kind != "Array(Float64)"
    head = column[:8] if of_words else b""  # how its dictionary is written
    ends = _numbers("Q", column[len(head) : len(head) + 8 * events])
    at = len(head) + 8 * events
    reading = _Reading(column, at)
    words = reading.words(ends[-1]) if of_words else _Words([], b"")
    texts = reading.strings(ends[-1]) if kind.startswith("Map") else []
    cut = []
    for start, end in ranges:
        first, last = ends[start - 1] if start else 0, ends[end - 1]
        sizes = frozen.numbers("Q", [size - first for size in ends[start:end]])
        if of_words:
            cut.append(head + sizes + words.encoded(first, last) + b"".join(texts[first:last]))
        else:
            cut.append(sizes + column[at + 8 * first : at + 8 * last])
    return cut


class _Words(NamedTuple):
    dictionary: list[bytes]
    codes: Sequence[int]

    def texts(self) -> list[bytes]:
        return list(map(self.dictionary.__getitem__, self.codes))

    def encoded(self, start: int, end: int) -> bytes:
        """Of some of them, with what they need of the dictionary."""
        codes = self.codes[start:end]
        places = {code: place for place, code in enumerate(dict.fromkeys(codes))}
        led = [self.dictionary[code] for code in places]
        return frozen.coded_led_words(led, [places[code] for code in codes])


class _Reading:
    """Goes through the bytes of a column; texts stay as they are encoded, led by their length."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def number(self) -> int:
        (value,) = struct.unpack_from("<Q", self.data, self.at)
        self.at += 8
        return int(value)

    def strings(self, count: int) -> list[bytes]:
        data, at, found = self.data, self.at, []
        for _ in range(count):
            start, size = at, data[at]
            at += 1
            if size >= 128:
                size, shift = size & 0x7F, 7
                while data[at] >= 128:
                    size |= (data[at] & 0x7F) << shift
                    at, shift = at + 1, shift + 7
                size |= data[at] << shift
                at += 1
            at += size
            found.append(data[start:at])
        self.at = at
        return found

    def words(self, count: int) -> _Words:
        if not count:
            return _Words([], b"")  # nothing is written of an empty one
        width = 1 << (self.number() & 0xFF)
        dictionary = self.strings(self.number())
        size = width * self.number()
        codes = _numbers({1: "B", 2: "H", 4: "I"}[width], self.data[self.at : self.at + size])
        self.at += size
        return _Words(dictionary, codes)


def _numbers(typecode: str, data: bytes) -> array[int]:
    values = array(typecode, data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _wide(data: bytes) -> list[bytes]:
    return [one for (one,) in struct.iter_unpack("16s", data)]


def _metrics(columns: Sequence[bytes], points: int) -> frozenset[bytes]:
    if not points:
        return frozenset()
    names, events = columns[9], len(columns[3]) // 8
    reading = _Reading(names, 8 + 8 * events + 8)
    return frozenset(reading.strings(reading.number()))


def _named(column: bytes, events: int) -> list[list[bytes]]:
    """The dimensions that are columns of roll-ups; \\0 is the empty text."""
    ends = _numbers("Q", column[8 : 8 + 8 * events])
    reading = _Reading(column, 8 + 8 * events)
    words = reading.words(ends[-1])
    texts = reading.strings(ends[-1])
    found = [[b"\0"] * events for _ in _NAMED]
    chosen = {
        code: found[_NAMED.index(name)]
        for code, name in enumerate(words.dictionary)
        if name in _NAMED
    }
    if chosen:
        for row, (start, end) in enumerate(pairwise([0, *ends])):
            for place in range(start, end):
                if values := chosen.get(words.codes[place]):
                    values[row] = texts[place]
    return found
