"""Decisions: may somebody do something, here and now, and why.

Everything a person has been given is a Holding: the role of the membership, the operator's mark,
roles granted to them or to one of their teams, each with conditions. A permission is had when one
holding with it has no unmet condition and nothing bars it (an API key's scopes and networks). What
cannot be known about a call counts as unmet, so silence never allows.

`decide` is all there is: the gate asks it (through Authenticator), and so does ExplainAccess.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from chimera.v1.access_pb2 import GrantConditions, WeeklyHours

# Conditions on what a call is about; the others can be told before the request is looked at.
ABOUT_THINGS = ("own_only", "resource_ids")


@dataclass(frozen=True, slots=True)
class Thing:
    """What a request names: its id with the ids of what it is a part of, and who made it."""

    ids: frozenset[str]
    owner_id: str


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known about a call. `things` is None as long as nobody looked at the request; a
    request that names nothing has none. `signed_in_at` is None for API keys, `second_factor_at` as
    well for sessions without one."""

    at: datetime
    address: str = ""
    signed_in_at: datetime | None = None
    second_factor_at: datetime | None = None
    things: tuple[Thing, ...] | None = None
    creates: bool = False


@dataclass(frozen=True, slots=True)
class Holding:
    """Permissions from one source: membership, operator, user (a grant) or team (a grant)."""

    source: str
    role_name: str
    permissions: frozenset[int]
    conditions: GrantConditions = field(default_factory=GrantConditions)
    grant_id: str = ""
    team_id: str = ""
    team_name: str = ""

    @property
    def is_conditional(self) -> bool:
        return bool(self.conditions.ListFields())

    def is_over(self, at: datetime) -> bool:
        """For good, whatever other conditions it has."""
        until = self.conditions
        return until.HasField("valid_until") and at >= until.valid_until.ToDatetime(UTC)

    @property
    def is_about_things(self) -> bool:
        return self.conditions.own_only or bool(self.conditions.resource_ids)


@dataclass(frozen=True, slots=True)
class Held:
    """All that a credential stands for. scopes is None when it has none to narrow it; networks is
    empty for everywhere. second_factor_at: when the session proved one. expires_at: of a key.
    signed_in_at: when the session was opened out of an older one, the sign-in."""

    user_id: str
    holdings: tuple[Holding, ...]
    scopes: frozenset[int] | None = None
    networks: tuple[str, ...] = ()
    second_factor_at: datetime | None = None
    expires_at: datetime | None = None
    signed_in_at: datetime | None = None
    lasting: frozenset[int] = field(init=False)
    is_conditional: bool = field(init=False)

    def __post_init__(self) -> None:
        lasting = _union(held.permissions for held in self.holdings if not held.is_conditional)
        object.__setattr__(self, "lasting", self._scoped(lasting))
        object.__setattr__(self, "is_conditional", any(h.is_conditional for h in self.holdings))

    def _scoped(self, permissions: frozenset[int]) -> frozenset[int]:
        return permissions if self.scopes is None else permissions & self.scopes

    def now(self, seen: Circumstances) -> frozenset[int]:
        """The permissions there are in these circumstances, whatever a request is about."""
        if not self.is_conditional:
            return self.lasting
        met = (h.permissions for h in self.holdings if not unmet(h, self.user_id, seen))
        return self._scoped(_union(met))


@dataclass(frozen=True, slots=True)
class Verdict:
    """A holding with the permission, and the names of its conditions that do not hold."""

    holding: Holding
    unmet: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """`barriers` refuse whatever is held: api_key_scopes, api_key_networks."""

    is_allowed: bool
    verdicts: tuple[Verdict, ...]
    barriers: tuple[str, ...]

    @property
    def unmet(self) -> list[str]:
        return sorted({name for verdict in self.verdicts for name in verdict.unmet})


def decide(held: Held, permission: int, seen: Circumstances) -> Decision:
    """Whether `permission` is had in these circumstances; pure.

    permission: 0 for what every caller that proved who it is may do: only barriers refuse it.
    """
    verdicts = tuple(
        Verdict(holding, unmet(holding, held.user_id, seen))
        for holding in held.holdings
        if permission in holding.permissions
    )
    barriers = []
    if permission and held.scopes is not None and permission not in held.scopes:
        barriers.append("api_key_scopes")
    if is_outside(held, seen.address):
        barriers.append("api_key_networks")
    is_had = not permission or any(not verdict.unmet for verdict in verdicts)
    return Decision(is_had and not barriers, verdicts, tuple(barriers))


def is_outside(held: Held, address: str) -> bool:
    """Whether an API key may not be used from this address."""
    return bool(held.networks) and not is_within(address, held.networks)


def unmet(holding: Holding, user_id: str, seen: Circumstances) -> tuple[str, ...]:
    """Names of the conditions that do not hold, as fields of GrantConditions."""
    if not holding.is_conditional:
        return ()
    set_ones = [described.name for described, _ in holding.conditions.ListFields()]
    return tuple(name for name in set_ones if not _holds(name, holding.conditions, user_id, seen))


def _holds(name: str, conditions: GrantConditions, user_id: str, seen: Circumstances) -> bool:
    match name:
        case "valid_from":
            return seen.at >= conditions.valid_from.ToDatetime(UTC)
        case "valid_until":
            return seen.at < conditions.valid_until.ToDatetime(UTC)
        case "hours":
            return _is_open(conditions.hours, seen.at)
        case "source_networks":
            return is_within(seen.address, conditions.source_networks)
        case "sign_in_age_max_s":
            oldest = seen.at - timedelta(seconds=conditions.sign_in_age_max_s)
            return seen.signed_in_at is not None and seen.signed_in_at >= oldest
        case "second_factor_age_max_s":
            oldest = seen.at - timedelta(seconds=conditions.second_factor_age_max_s)
            return seen.second_factor_at is not None and seen.second_factor_at >= oldest
        case "own_only":
            if not seen.things:
                return seen.things is not None and seen.creates
            return all(thing.owner_id == user_id for thing in seen.things)
        case "resource_ids":
            given = set(conditions.resource_ids)
            return bool(seen.things) and all(thing.ids & given for thing in seen.things or ())
    return False  # a condition this release does not know


def _is_open(hours: WeeklyHours, at: datetime) -> bool:
    try:
        local = at.astimezone(ZoneInfo(hours.time_zone))
    except (ZoneInfoNotFoundError, ValueError):  # this host does not know the zone
        return False
    minute, today = local.hour * 60 + local.minute, local.isoweekday()
    yesterday = today - 1 or 7
    begins = hours.start_minute <= minute
    if hours.start_minute < hours.end_minute:
        return begins and minute < hours.end_minute and _is_day(hours, today)
    return (begins and _is_day(hours, today)) or (
        minute < hours.end_minute and _is_day(hours, yesterday)
    )


def _is_day(hours: WeeklyHours, day: int) -> bool:
    return not hours.days or day in list(hours.days)


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@lru_cache(maxsize=4096)
def network_of(text: str) -> Network:
    """Of CIDR notation or a single address, host bits or not. Raises ValueError."""
    return ipaddress.ip_network(text, strict=False)


def is_within(address: str, networks: Iterable[str]) -> bool:
    """Whether the address, as `Peers` gives it, is in one of the networks; "" is nowhere."""
    if not address:
        return False
    parsed = ipaddress.ip_address(address)
    return any(parsed in network_of(text) for text in networks)


def are_within(networks: Sequence[str], others: Sequence[str]) -> bool:
    """Whether each of the networks lies inside one of the others."""
    return all(any(_lies_in(network_of(n), network_of(o)) for o in others) for n in networks)


def _lies_in(inner: Network, outer: Network) -> bool:
    return (
        inner.version == outer.version
        and inner.prefixlen >= outer.prefixlen
        and inner.network_address in outer
    )


def _union(sets: Iterable[frozenset[int]]) -> frozenset[int]:
    return frozenset().union(*sets)
