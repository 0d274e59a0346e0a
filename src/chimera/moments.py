"""Moments in requests: what no calendar has is refused before anybody reckons with it.

A protobuf Timestamp holds any two numbers. Only years 1 to 9999 and whole nanoseconds of a second are
moments (google/protobuf/timestamp.proto); the rest fails in every conversion, on whatever line that is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from chimera.faults import Violation

FIRST_S, LAST_S = -62_135_596_800, 253_402_300_799
NANOS_MAX = 999_999_999
DEPTH_MAX = 4
Path = tuple[str, ...]


def wrong_moments(message: Message) -> list[Violation]:
    """One violation for each. Not of items of lists: who takes many takes those that are sound."""
    found = []
    for path in _paths(message.DESCRIPTOR):
        moment = message
        for name in path:
            if not moment.HasField(name):
                break
            moment = getattr(moment, name)
        else:
            seconds, nanos = moment.seconds, moment.nanos  # type: ignore[attr-defined]  # a Timestamp
            if not (FIRST_S <= seconds <= LAST_S and 0 <= nanos <= NANOS_MAX):
                text = "must be a moment between the years 1 and 9999"
                found.append(Violation(".".join(path), text, "timestamp"))
    return found


@cache
def _paths(kind: Descriptor) -> tuple[Path, ...]:
    return tuple(_timestamps(kind, ()))


def _timestamps(kind: Descriptor, path: Path) -> Iterator[Path]:
    for field in kind.fields:
        inner = field.message_type
        if inner is None or field.is_repeated:
            continue
        if inner.full_name == "google.protobuf.Timestamp":
            yield (*path, field.name)
        elif len(path) < DEPTH_MAX:
            yield from _timestamps(inner, (*path, field.name))
