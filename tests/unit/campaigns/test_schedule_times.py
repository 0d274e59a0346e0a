"""When a schedule comes next: zones, clock changes, and expressions that cannot be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.campaigns.schedules.times import checked_start, next_after
from chimera.faults import Invalid


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def series(expression: str, zone: str, start: str, count: int) -> list[str]:
    moments, moment = [], at(start)
    for _ in range(count):
        moment = next_after(expression, zone, moment)
        moments.append(moment.strftime("%m-%dT%H:%M"))
    return moments


@pytest.mark.parametrize(
    ("expression", "zone", "start", "expected"),
    [
        # The zone is what counts, not the server's clock.
        ("0 9 * * 1-5", "Asia/Tokyo", "2026-05-01T00:00Z", ["05-04T00:00", "05-05T00:00"]),
        # Berlin, 29 March 2026: 02:30 does not exist, so it comes right after the gap, once.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T00:00Z",
            ["03-28T01:30", "03-29T01:00", "03-30T00:30"],
        ),
        # Berlin, 25 October 2026: 02:30 comes twice and is taken the first time (CEST).
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T00:00Z",
            ["10-24T00:30", "10-25T00:30", "10-26T01:30"],
        ),
        # Every half hour follows real time: the hour that comes twice has four of them.
        (
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-10-25T00:00Z",
            ["10-25T00:30", "10-25T01:00", "10-25T01:30", "10-25T02:00"],
        ),
        # A zone half an hour off that changes by half an hour (Lord Howe, 5 April 2026).
        ("0 0 * * *", "Australia/Lord_Howe", "2026-04-04T00:00Z", ["04-04T13:00", "04-05T13:30"]),
    ],
)
def test_what_comes_next(expression: str, zone: str, start: str, expected: list[str]) -> None:
    assert series(expression, zone, start, len(expected)) == expected


def test_inside_the_hour_that_comes_twice_nothing_is_taken_again() -> None:
    """Asked during the second 02:10 the first 02:30 is over: next is tomorrow's."""
    second = at("2026-10-25T02:10+01:00")
    assert next_after("30 2 * * *", "Europe/Berlin", second) == at("2026-10-26T02:30+01:00")


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)),
    st.sampled_from(["30 2 * * *", "*/7 * * * *", "0 */5 * * *", "15 1 1 * *", "0 0 29 2 *"]),
    st.sampled_from(
        ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Pacific/Apia", "Asia/Kathmandu"]
    ),
)
def test_the_next_is_always_later_and_the_one_after_later_still(
    after: datetime, expression: str, zone: str
) -> None:
    first = next_after(expression, zone, after)
    second = next_after(expression, zone, first)
    assert after < first < second


@pytest.mark.parametrize(
    ("expression", "zone"),
    [
        ("* * * *", "UTC"),
        ("0 * * * * *", "UTC"),  # no seconds
        ("61 * * * *", "UTC"),
        ("0 0 30 2 *", "UTC"),  # never comes
        ("@daily", "UTC"),
        ("0 0 * * *", "Europe/Berlinn"),
        ("0 0 * * *", "../../etc/passwd"),
        ("0 0 * * *", "Europe"),
    ],
)
def test_what_cannot_be_is_refused(expression: str, zone: str) -> None:
    with pytest.raises(Invalid) as caught:
        next_after(expression, zone, at("2026-01-01T00:00Z"))
    assert caught.value.reason == "SCHEDULE_INVALID" and caught.value.violations


def test_a_start_is_in_the_future_and_not_too_far() -> None:
    now = at("2026-01-01T00:00Z")
    assert checked_start(now + timedelta(seconds=1), now) > now
    for wrong in (now, now - timedelta(days=1), now + timedelta(days=3000)):
        with pytest.raises(Invalid):
            checked_start(wrong, now)
