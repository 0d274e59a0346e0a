"""When a schedule comes next. Time zones are explicit; what is compared is UTC.

Of clock changes (as Debian's cron, by cronsim): a fixed time that a day leaves out comes right after the
gap, one that a day has twice is taken the first time; "every so many minutes" follows real time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from chimera.faults import Invalid, Violation

FIELDS = 5
START_DAYS_MAX = 5 * 366


def next_after(expression: str, time_zone: str, after: datetime) -> datetime:
    """The first moment later than `after` (aware), in UTC. Raises Invalid(SCHEDULE_INVALID)."""
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a path, or a folder of zones
        raise _invalid("cron.time_zone", "is not an IANA time zone") from None
    if len(expression.split()) != FIELDS:
        raise _invalid("cron.expression", f"needs {FIELDS} fields: minute hour day month weekday")
    try:
        for moment in CronSim(expression, after.astimezone(zone)):
            # In the hour that a day has twice, cronsim names the first one again.
            if moment.astimezone(UTC) > after:
                return moment.astimezone(UTC)
    except CronSimError as error:
        raise _invalid("cron.expression", f"cannot be read: {error}") from None
    raise _invalid("cron.expression", "never comes")


def checked_start(start_at: datetime, now: datetime) -> datetime:
    """Raises Invalid(SCHEDULE_INVALID)."""
    if start_at <= now:
        raise _invalid("start_at", "has passed already")
    if start_at > now + timedelta(days=START_DAYS_MAX):
        raise _invalid("start_at", "is more than five years away")
    return start_at


def _invalid(field: str, message: str) -> Invalid:
    return Invalid(
        "SCHEDULE_INVALID",
        f"{field} {message}",
        violations=[Violation(field, message, "SCHEDULE_INVALID")],
    )
