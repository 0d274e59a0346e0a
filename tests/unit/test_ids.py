"""Identifiers: valid, in the order they were made, and they tell when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

from chimera.ids import made_at, new_id


def test_what_one_process_makes_is_in_order() -> None:
    """Also within one millisecond, in which some hundred are made."""
    ids = [new_id() for _ in range(5_000)]
    assert ids == sorted(ids) and len(set(ids)) == len(ids)
    assert len({made_at(one) for one in ids}) < len(ids) / 10


def test_they_are_of_version_7_and_tell_their_time() -> None:
    at = datetime(2026, 2, 3, 4, 5, 6, 789_999, UTC)
    odd = datetime(2039, 1, 1, 0, 0, 0, 2_000, UTC)  # no float has it
    for moment in (at, at - timedelta(microseconds=999), odd, datetime(1970, 1, 1, tzinfo=UTC)):
        one = UUID(new_id(moment))
        assert (one.version, one.variant) == (7, RFC_4122)
        assert made_at(str(one)) == moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    assert len({new_id(at) for _ in range(1_000)}) == 1_000
