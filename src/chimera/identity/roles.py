"""What the built-in roles may do. Custom roles add to these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError

from chimera.call import ALL_PERMISSIONS
from chimera.identity.decisions import Holding
from chimera.rows import enum_numbers
from chimera.v1 import options_pb2
from chimera.v1.access_pb2 import GrantConditions
from chimera.v1.options_pb2 import Permission as P

# All of telemetry is the administrators': its events tell of private campaigns too.
_VIEWER = frozenset(
    {
        P.PERMISSION_USER_READ,
        P.PERMISSION_TEMPLATE_READ,
        P.PERMISSION_DATASET_READ,
        P.PERMISSION_PROVIDER_READ,
        P.PERMISSION_CAMPAIGN_READ,
        P.PERMISSION_BUDGET_READ,
        P.PERMISSION_USAGE_READ,
        P.PERMISSION_TELEMETRY_READ_OWN,
        P.PERMISSION_TEAM_READ,
        P.PERMISSION_SUITE_READ,
    }
)
_USER = _VIEWER | {
    P.PERMISSION_API_KEY_MANAGE,
    P.PERMISSION_TEMPLATE_WRITE,
    P.PERMISSION_TEMPLATE_REVIEW,
    P.PERMISSION_TEMPLATE_RATE,
    P.PERMISSION_DATASET_WRITE,
    P.PERMISSION_PROVIDER_KEY_MANAGE,
    P.PERMISSION_ROUTE_MANAGE,
    P.PERMISSION_CAMPAIGN_WRITE,
    P.PERMISSION_CAMPAIGN_RUN,
    P.PERMISSION_CAMPAIGN_COMMENT,
    P.PERMISSION_SUITE_WRITE,
    P.PERMISSION_BUDGET_WRITE,
    P.PERMISSION_TELEMETRY_WRITE,
    P.PERMISSION_TEAM_WRITE,
}

ROLES: dict[str, frozenset[int]] = {
    "viewer": frozenset(_VIEWER),
    "user": frozenset(_USER),
    "admin": ALL_PERMISSIONS,
    # Reads and proves the organisation's audit log, and nothing else.
    "auditor": frozenset({P.PERMISSION_AUDIT_READ, P.PERMISSION_AUDIT_EXPORT}),
}


def permissions_of(role: str, *, is_operator: bool = False) -> frozenset[int]:
    """Permissions of a membership role; operators of the installation may operate as well."""
    held = ROLES.get(role, frozenset())
    return held | {P.PERMISSION_OPERATE} if is_operator else held


def holdings_of(
    role: str, *, is_operator: bool, grants: Iterable[Mapping[str, Any]]
) -> tuple[Holding, ...]:
    """All that somebody was given; `grants` as identity.find_grants tells them."""
    own = [Holding("membership", role, ROLES.get(role, frozenset()))]
    if is_operator:
        own.append(Holding("operator", "operator", frozenset({P.PERMISSION_OPERATE})))
    return (*own, *(_holding(grant) for grant in grants))


def _holding(grant: Mapping[str, Any]) -> Holding:
    built_in = grant["built_in_role"]
    permissions = ROLES[built_in] if built_in else scope_numbers(grant["permissions"])
    conditions = GrantConditions()
    try:
        ParseDict(grant["conditions"], conditions)
    except ParseError:  # of a later release: what cannot be checked does not hold
        permissions = frozenset()
    return Holding(
        source="team" if grant["team_id"] else "user",
        role_name=grant["role_name"],
        permissions=permissions,
        conditions=conditions,
        grant_id=grant["grant_id"],
        team_id=grant["team_id"],
        team_name=grant["team_name"],
    )


def scope_numbers(scopes: Iterable[str]) -> frozenset[int]:
    """Stored scopes (campaign_read) as Permission numbers."""
    numbers = enum_numbers(options_pb2.DESCRIPTOR.enum_types_by_name["Permission"])
    return frozenset(numbers[scope] for scope in scopes if scope in numbers)
