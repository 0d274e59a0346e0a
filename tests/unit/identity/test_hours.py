"""Hours of the week, by the clock on the wall of their zone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from chimera.identity.decisions import Circumstances, Holding, unmet
from chimera.v1.access_pb2 import GrantConditions, WeeklyHours

MONDAY, SATURDAY, SUNDAY = 1, 6, 7
OFFICE = {"days": [MONDAY], "start_minute": 540, "end_minute": 1020}
NIGHT = {"days": [MONDAY], "start_minute": 1320, "end_minute": 360}


@pytest.mark.parametrize(
    ("hours", "zone", "at", "is_open"),
    [
        # 2 March 2026 is a Monday.
        (OFFICE, "UTC", "2026-03-02T08:59", False),
        (OFFICE, "UTC", "2026-03-02T09:00", True),
        (OFFICE, "UTC", "2026-03-02T16:59", True),
        (OFFICE, "UTC", "2026-03-02T17:00", False),
        (OFFICE, "UTC", "2026-03-03T09:00", False),
        # Monday's night lasts into Tuesday; Sunday's into Monday is not it.
        (NIGHT, "UTC", "2026-03-02T21:59", False),
        (NIGHT, "UTC", "2026-03-02T22:00", True),
        (NIGHT, "UTC", "2026-03-03T05:59", True),
        (NIGHT, "UTC", "2026-03-03T06:00", False),
        (NIGHT, "UTC", "2026-03-02T05:59", False),
        (NIGHT, "UTC", "2026-03-03T22:00", False),
        # The week is a circle.
        (NIGHT | {"days": [SUNDAY]}, "UTC", "2026-03-02T05:59", True),
        (NIGHT | {"days": [SATURDAY]}, "UTC", "2026-03-02T05:59", False),
        # Without days, every day; to the end of the day.
        (NIGHT | {"days": []}, "UTC", "2026-03-05T23:00", True),
        ({"start_minute": 0, "end_minute": 1440}, "UTC", "2026-03-05T23:59", True),
        # Winter and summer in Berlin, and a zone that is three quarters of an hour off.
        (OFFICE, "Europe/Berlin", "2026-03-02T08:00", True),
        (OFFICE, "Europe/Berlin", "2026-07-06T07:00", True),
        (OFFICE, "Europe/Berlin", "2026-07-06T15:00", False),
        (OFFICE, "Asia/Kathmandu", "2026-03-02T03:15", True),
        (OFFICE, "Asia/Kathmandu", "2026-03-02T03:14", False),
        # Monday begins earlier in Auckland.
        (OFFICE, "Pacific/Auckland", "2026-03-01T21:00", True),
        # A zone this host does not know is never open.
        (OFFICE, "Mars/Base", "2026-03-02T12:00", False),
    ],
)
def test_hours(hours: dict[str, object], zone: str, at: str, is_open: bool) -> None:
    conditions = GrantConditions(hours=WeeklyHours(time_zone=zone, **hours))  # type: ignore[arg-type]  # fields
    seen = Circumstances(datetime.fromisoformat(at).replace(tzinfo=UTC))
    holding = Holding("user", "role", frozenset({1}), conditions)
    assert (unmet(holding, "me", seen) == ()) is is_open
