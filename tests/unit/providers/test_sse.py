"""Server-sent events, however the bytes arrive."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.providers.adapters.sse import LINE_BYTES_MAX, Event, EventReader, TooLong

STREAM = (
    "\ufeff: a comment\r\n"
    "event: first\r\ndata: größe\r\ndata:two\r\n\r\n"
    "id: 7\rretry: 10\rdata: {}\r\r"
    "data\n\n"
    "event: empty\n\n"
    "unknown: x\ndata:  kept space\n\n"
    "data: cut off"
).encode()
EVENTS = [
    Event("first", "größe\ntwo".encode()),
    Event("message", b"{}"),
    Event("message", b""),
    Event("message", b" kept space"),
]


def read(*chunks: bytes) -> list[Event]:
    reader = EventReader()
    return [event for chunk in chunks for event in reader.feed(chunk)]


def test_a_stream_in_one_piece() -> None:
    """All three line ends, comments, names, several lines of data; the unfinished event is none."""
    assert read(STREAM) == EVENTS


def test_a_stream_byte_by_byte() -> None:
    """Inside characters, between CR and LF, inside the byte order mark."""
    assert read(*(STREAM[at : at + 1] for at in range(len(STREAM)))) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_where_it_is_split_does_not_matter(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[a:b] for a, b in pairwise(places)]
    assert read(*chunks) == EVENTS


@given(st.binary(max_size=200))
def test_garbage_is_read_without_a_crash(noise: bytes) -> None:
    assert all(isinstance(event, Event) for event in read(noise, b"\n\n"))


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"data: " + b"x" * 65_536 + b"\n"])
def test_what_never_ends_is_refused(piece: bytes) -> None:
    """One endless line, or one event of endless lines."""
    reader = EventReader()
    with pytest.raises(TooLong):
        for _ in range(LINE_BYTES_MAX // 65_536 + 2):
            reader.feed(piece)
