"""Identifiers: UUIDv7, made by the application (PostgreSQL before 18 has no function for them).

They sort by time of making and reveal it; whatever must not be guessed uses `secrets` instead.
Layout: RFC 9562, section 5.7.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from uuid import UUID


def new_id(at: datetime | None = None) -> str:
    """A UUIDv7 as text; `at` (aware) gives its time, default now."""
    milliseconds = time.time_ns() // 1_000_000 if at is None else int(at.timestamp() * 1000)
    random = int.from_bytes(os.urandom(10))
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | random
    value = value & ~(0xF000 << 64) | 0x7000 << 64
    value = value & ~(0xC000 << 48) | 0x8000 << 48
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def made_at(made_id: str) -> datetime:
    """When a UUIDv7 was made, in UTC, to the millisecond."""
    return datetime.fromtimestamp((UUID(made_id).int >> 80) / 1000, UTC)
