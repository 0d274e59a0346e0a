"""What the built-in roles may do. Custom roles add to these."""

from __future__ import annotations

from collections.abc import Iterable

from chimera.call import ALL_PERMISSIONS
from chimera.rows import enum_numbers
from chimera.v1 import options_pb2
from chimera.v1.options_pb2 import Permission as P

# All of telemetry is the administrators': its events tell of private campaigns too.
_VIEWER = frozenset(
    {
        P.PERMISSION_USER_READ,
        P.PERMISSION_TEMPLATE_READ,
        P.PERMISSION_PROVIDER_READ,
        P.PERMISSION_CAMPAIGN_READ,
        P.PERMISSION_BUDGET_READ,
        P.PERMISSION_USAGE_READ,
        P.PERMISSION_TELEMETRY_READ_OWN,
    }
)
_USER = _VIEWER | {
    P.PERMISSION_API_KEY_MANAGE,
    P.PERMISSION_TEMPLATE_WRITE,
    P.PERMISSION_PROVIDER_KEY_MANAGE,
    P.PERMISSION_CAMPAIGN_WRITE,
    P.PERMISSION_CAMPAIGN_RUN,
    P.PERMISSION_BUDGET_WRITE,
    P.PERMISSION_TELEMETRY_WRITE,
}

ROLES: dict[str, frozenset[int]] = {
    "viewer": frozenset(_VIEWER),
    "user": frozenset(_USER),
    "admin": ALL_PERMISSIONS,
}


def permissions_of(role: str, *, is_operator: bool = False) -> frozenset[int]:
    """Permissions of a membership role; operators of the installation may operate as well."""
    held = ROLES.get(role, frozenset())
    return held | {P.PERMISSION_OPERATE} if is_operator else held


def scope_numbers(scopes: Iterable[str]) -> frozenset[int]:
    """Stored scopes (campaign_read) as Permission numbers."""
    numbers = enum_numbers(options_pb2.DESCRIPTOR.enum_types_by_name["Permission"])
    return frozenset(numbers[scope] for scope in scopes if scope in numbers)
