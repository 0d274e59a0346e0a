"""Identifiers: UUIDv7, made by the application (PostgreSQL before 18 has no function for them).

They sort by time of making and reveal it; whatever must not be guessed uses `secrets` instead.
Layout: RFC 9562, section 5.7.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def new_id(at: datetime | None = None) -> str:
    """A UUIDv7 as text; `at` (aware) gives its time, default now.

    The 12 bits after the milliseconds are the part of the millisecond (in 244 ns; RFC 9562, section
    6.2, method 3), so what one process makes comes in the order it was made, also within one, while
    its clock has nanoseconds and does not step back. Those of one `at` come in no order.
    """
    nanoseconds = time.time_ns() if at is None else (at - EPOCH) // MICROSECOND * 1000
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    first = (milliseconds & 0xFFFF_FFFF_FFFF) << 16 | 0x7000 | (rest << 12) // 1_000_000
    second = 1 << 63 | int.from_bytes(os.urandom(8)) >> 2
    digits = f"{first:016x}{second:016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def made_at(made_id: str) -> datetime:
    """When a UUIDv7 was made, in UTC, to the millisecond."""
    return datetime.fromtimestamp((UUID(made_id).int >> 80) / 1000, UTC)
