"""Preferences of a person and metadata of an account: small JSON objects with rules.

Preferences are a closed list, so that every client can rely on what it finds; `dashboard` alone is
the client's own. Metadata is the administrators' own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from zoneinfo import available_timezones

import orjson

from chimera.faults import Invalid, Violation

BYTES_MAX = 16_384
DEPTH_MAX = 5
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}\Z")
_NOTIFICATIONS = ("email", "campaign_finished", "budget_alert", "security", "digest")


def _one_of(*allowed: str) -> Callable[[Any], bool]:
    return lambda value: value in allowed


def _is_page_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1000


def _is_notifications(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name in _NOTIFICATIONS and isinstance(chosen, bool) for name, chosen in value.items()
    )


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "theme": (_one_of("light", "dark", "system"), "is light, dark or system"),
    "language": (
        lambda value: isinstance(value, str) and bool(_LANGUAGE.match(value)),
        "is a language tag such as en or pt-BR",
    ),
    "time_zone": (
        lambda value: isinstance(value, str) and value in available_timezones(),
        "is a name such as Europe/Berlin",
    ),
    "date_format": (_one_of("iso", "locale"), "is iso or locale"),
    "page_size": (_is_page_size, "is 1 to 1000"),
    "notifications": (_is_notifications, f"has yes or no for: {', '.join(_NOTIFICATIONS)}"),
    "dashboard": (lambda value: isinstance(value, dict), "is an object"),
}


def check_preferences(preferences: dict[str, Any]) -> None:
    """Raises Invalid(FIELD_INVALID) naming every preference that breaks its rule."""
    wrong = [
        Violation(f"user.preferences.{name[:64]}", f"{name[:64]} {RULES[name][1]}")
        if name in RULES
        else Violation(
            f"user.preferences.{name[:64]}", f"unknown; there are: {', '.join(sorted(RULES))}"
        )
        for name, value in preferences.items()
        if name not in RULES or not RULES[name][0](value)
    ]
    wrong = wrong or _too_big("user.preferences", preferences)
    if wrong:
        raise Invalid("FIELD_INVALID", f"{wrong[0].field}: {wrong[0].message}", violations=wrong)


def check_metadata(metadata: dict[str, Any]) -> None:
    """Raises Invalid(FIELD_INVALID) when it is too large or too deep."""
    wrong = _too_big("user.metadata", metadata)
    if wrong:
        raise Invalid("FIELD_INVALID", f"{wrong[0].field}: {wrong[0].message}", violations=wrong)


def _too_big(field: str, value: dict[str, Any]) -> list[Violation]:
    if _depth(value) > DEPTH_MAX:
        return [Violation(field, f"is nested more than {DEPTH_MAX} deep")]
    if len(orjson.dumps(value)) > BYTES_MAX:
        return [Violation(field, f"has more than {BYTES_MAX} bytes")]
    return []


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)
