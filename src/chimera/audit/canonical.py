"""Canonical JSON: the bytes of an old or new value before it is committed to.

What must stay true: equal values give equal bytes, for as long as the log lives.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

_DEPTH_MAX = 64
_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def canonical_json(value: object) -> bytes:
    """Keys sorted by code point, no white space, UTF-8 without escapes that are not needed.

    Whole numbers are written in full. A float is written as the shortest text that reads back as
    the same float, so `1.0` and `1` differ; NaN and infinities are refused. Exact amounts are
    Decimal and become strings, digits kept (`Decimal("1.50")` is `"1.50"`). UUIDs become strings,
    aware datetimes become UTC with six digits and `Z`, dates ISO 8601. Anything else is refused.
    Raises ValueError, without the value in its message.
    """
    try:
        return _ENCODER.encode(_plain(value, 0)).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("a string is not valid Unicode") from None


def _plain(value: object, depth: int) -> object:
    if depth > _DEPTH_MAX:
        raise ValueError(f"values nest deeper than {_DEPTH_MAX}")
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if not math.isfinite(value):
                raise ValueError("a number is not finite")
            return value
        case dict():
            if not all(isinstance(key, str) for key in value):
                raise ValueError("a key is not a string")
            return {key: _plain(item, depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, depth + 1) for item in value]
    return _as_text(value)


def _as_text(value: object) -> str:
    match value:
        case Decimal():
            if not value.is_finite():
                raise ValueError("a number is not finite")
            return format(value, "f")
        case UUID():
            return str(value)
        case datetime():
            if value.utcoffset() is None:
                raise ValueError("a time has no time zone")
            utc = value.astimezone(UTC).replace(tzinfo=None)
            return utc.isoformat(timespec="microseconds") + "Z"
        case date():
            return value.isoformat()
    raise ValueError(f"{type(value).__name__} has no canonical form")
