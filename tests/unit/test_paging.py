"""Page tokens: only what this server made, for the question it was made for."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from chimera.faults import Invalid
from chimera.paging import PAGE_DEFAULT, PAGE_MAX, Pages
from chimera.v1.templates_pb2 import ListTemplatesRequest as Request

PAGES = Pages(b"k" * 32)
ROWS = [SimpleNamespace(id=f"id-{number}") for number in range(10)]

positions = st.lists(st.text(max_size=40) | st.integers(-(2**53), 2**53), max_size=4)


@given(positions, st.text(max_size=30))
def test_a_token_opens_for_its_purpose(position: list[Any], purpose: str) -> None:
    assert PAGES.open(purpose, PAGES.seal(purpose, position)) == position


@given(positions, st.integers(0, 10_000), st.integers(1, 255))
def test_no_changed_byte_and_no_other_key_opens_it(
    position: list[Any], where: int, flip: int
) -> None:
    """Nor another purpose."""
    import base64

    token = PAGES.seal("a", position)
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[where % len(raw)] ^= flip
    forged = base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=").decode()
    for pages, purpose, text in (
        (PAGES, "a", forged),
        (PAGES, "b", token),
        (Pages(b"other" * 8), "a", token),
    ):
        with pytest.raises(Invalid) as caught:
            pages.open(purpose, text)
        assert caught.value.reason == "PAGE_TOKEN_INVALID"


@given(st.text(max_size=80))
def test_any_text_is_a_refusal_and_never_a_crash(text: str) -> None:
    with pytest.raises(Invalid):
        PAGES.open("a", text, reason="CURSOR_INVALID")


def test_sizes() -> None:
    """50 when nothing is said, a thousand at most."""
    assert PAGES.page(Request()) == (PAGE_DEFAULT, None) == (50, None)
    assert PAGES.page(Request(page_size=7)) == (7, None)
    assert PAGES.page(Request(page_size=5000)) == (PAGE_MAX, None) == (1000, None)


def test_the_last_page_has_no_token() -> None:
    """One row more than asked for is what tells."""
    request = Request(page_size=3)
    assert PAGES.next_token(request, ROWS[:3], 3, "id") == ""
    token = PAGES.next_token(request, ROWS[:4], 3, "id")
    assert PAGES.page(Request(page_size=3, page_token=token)) == (3, ["id-2"])


def test_a_token_belongs_to_the_filters_and_not_to_the_page_size() -> None:
    token = PAGES.next_token(Request(tag="red", page_size=3), ROWS[:4], 3, "id")
    assert PAGES.page(Request(tag="red", page_size=9, page_token=token)) == (9, ["id-2"])
    with pytest.raises(Invalid):
        PAGES.page(Request(tag="blue", page_token=token))
    with pytest.raises(Invalid):
        PAGES.page(Request(tag="red", page_token=token), scope="another list")


def test_times_keep_their_microseconds() -> None:
    """A position cut to seconds would repeat rows."""
    at = Timestamp()
    at.FromDatetime(datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC))
    rows = [SimpleNamespace(at=at, id="x")] * 2
    token = PAGES.next_token(Request(), rows, 1, "at", "id")
    assert PAGES.page(Request(page_token=token))[1] == ["2031-05-06T07:08:09.123456Z", "x"]
