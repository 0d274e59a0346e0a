"""Decisions against a naive model, over random holdings, conditions and circumstances."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.identity.decisions import (
    ABOUT_THINGS,
    Circumstances,
    Held,
    Holding,
    Thing,
    are_within,
    decide,
    is_within,
    unmet,
)
from chimera.v1.access_pb2 import GrantConditions, WeeklyHours

ME, OTHER = "me", "somebody else"
START = datetime(2026, 3, 1, tzinfo=UTC)
ADDRESSES = ["", "10.0.0.1", "10.9.0.1", "192.0.2.7", "2001:db8::1", "::1"]
NETWORKS = ["10.0.0.0/8", "10.0.0.0/24", "192.0.2.7/32", "2001:db8::/32", "0.0.0.0/0", "::/0"]
ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu"]
THINGS = ["a", "b", "c"]

# Few, so that two of them are often the same or a minute apart.
moments = st.builds(
    lambda days, minute: START + timedelta(days=days, minutes=minute),
    st.integers(0, 8),
    st.sampled_from([0, 1, 539, 540, 541, 1019, 1020, 1021, 1439]),
)
minutes = st.sampled_from([0, 1, 540, 541, 1020, 1021, 1439])


@st.composite
def hours(draw: st.DrawFn) -> GrantConditions:
    start = draw(minutes)
    end = draw(st.one_of(minutes, st.just(1440)).filter(lambda end: end not in (0, start)))
    days = draw(st.lists(st.integers(1, 7), unique=True, max_size=3))
    zone = draw(st.sampled_from(ZONES))
    return GrantConditions(
        hours=WeeklyHours(time_zone=zone, days=days, start_minute=start, end_minute=end)
    )


# Conditions of one kind; a kind is easily lost among eight that must hold together.
single = st.one_of(
    st.builds(lambda at: GrantConditions(valid_from=at), moments),
    st.builds(lambda at: GrantConditions(valid_until=at), moments),
    hours(),
    hours(),
    st.builds(
        lambda networks: GrantConditions(source_networks=networks),
        st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=2),
    ),
    st.just(GrantConditions(sign_in_age_max_s=60)),
    st.just(GrantConditions(second_factor_age_max_s=60)),
    st.just(GrantConditions(own_only=True)),
    st.builds(
        lambda ids: GrantConditions(resource_ids=ids),
        st.lists(st.sampled_from([*THINGS, "unknown"]), min_size=1, unique=True),
    ),
)


@st.composite
def conditions(draw: st.DrawFn) -> GrantConditions:
    made = GrantConditions()
    for one in draw(st.lists(single, max_size=3)):
        made.MergeFrom(one)
    return made


holdings = st.builds(
    Holding,
    source=st.just("user"),
    role_name=st.just("role"),
    permissions=st.frozensets(st.integers(1, 4), max_size=3),
    conditions=st.one_of(st.just(GrantConditions()), conditions()),
)
helds = st.builds(
    Held,
    user_id=st.just(ME),
    holdings=st.lists(holdings, max_size=4).map(tuple),
    scopes=st.one_of(st.none(), st.frozensets(st.integers(1, 4))),
    networks=st.sampled_from([(), (), ("10.0.0.0/8",), ("::1/128",)]),
)
things = st.builds(
    Thing,
    ids=st.frozensets(st.sampled_from(THINGS), max_size=2),
    owner_id=st.sampled_from([ME, OTHER, ""]),
)


@st.composite
def circumstances(draw: st.DrawFn) -> Circumstances:
    at = draw(moments)
    ages = st.one_of(st.none(), st.sampled_from([0, 59, 60, 61, 3600, 86400]))
    age, factor_age = draw(ages), draw(ages)
    return Circumstances(
        at=at,
        address=draw(st.sampled_from(ADDRESSES)),
        signed_in_at=None if age is None else at - timedelta(seconds=age),
        second_factor_at=None if factor_age is None else at - timedelta(seconds=factor_age),
        things=draw(st.one_of(st.none(), st.lists(things, max_size=2).map(tuple))),
        creates=draw(st.booleans()),
    )


def open_minutes(hours: WeeklyHours, at: datetime) -> bool:
    """By walking: is there a day on which the hours begin, from which the minute is reached?"""
    local = at.astimezone(ZoneInfo(hours.time_zone))
    now = local.hour * 60 + local.minute
    for days_ago in (0, 1):
        begins_on = (local.isoweekday() - 1 - days_ago) % 7 + 1
        if hours.days and begins_on not in list(hours.days):
            continue
        length = (hours.end_minute - hours.start_minute) % 1440 or 1440
        if hours.start_minute < hours.end_minute:
            length = hours.end_minute - hours.start_minute
        since = now + 1440 * days_ago - hours.start_minute
        if 0 <= since < length:
            return True
    return False


def inside(address: str, networks: list[str]) -> bool:
    return address != "" and any(
        ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in networks
    )


def model_holds(given: GrantConditions, seen: Circumstances) -> bool:
    """The conditions as sentences, one after the other."""
    if given.HasField("valid_from") and seen.at < given.valid_from.ToDatetime(UTC):
        return False
    if given.HasField("valid_until") and seen.at >= given.valid_until.ToDatetime(UTC):
        return False
    if given.HasField("hours") and not open_minutes(given.hours, seen.at):
        return False
    if given.source_networks and not inside(seen.address, list(given.source_networks)):
        return False
    if given.sign_in_age_max_s:
        if seen.signed_in_at is None:
            return False
        if (seen.at - seen.signed_in_at).total_seconds() > given.sign_in_age_max_s:
            return False
    if given.second_factor_age_max_s:
        if seen.second_factor_at is None:
            return False
        if (seen.at - seen.second_factor_at).total_seconds() > given.second_factor_age_max_s:
            return False
    named = seen.things or ()
    if given.own_only:
        if seen.things is None or (not named and not seen.creates):
            return False
        if any(thing.owner_id != ME for thing in named):
            return False
    if given.resource_ids:
        if not named:
            return False
        if any(not thing.ids.intersection(given.resource_ids) for thing in named):
            return False
    return True


def model(held: Held, permission: int, seen: Circumstances) -> bool:
    if held.scopes is not None and permission not in held.scopes:
        return False
    if held.networks and not inside(seen.address, list(held.networks)):
        return False
    return any(
        permission in holding.permissions and model_holds(holding.conditions, seen)
        for holding in held.holdings
    )


@settings(max_examples=400)
@given(single, circumstances())
def test_each_condition_is_what_its_sentence_says(
    conditions: GrantConditions, seen: Circumstances
) -> None:
    """Alone, to the minute, on the day and in the zone."""
    holding = Holding("user", "role", frozenset({1}), conditions)
    assert (not unmet(holding, ME, seen)) == model_holds(conditions, seen)


@given(helds, st.integers(1, 4), circumstances())
def test_the_decision_is_what_the_sentences_say(
    held: Held, permission: int, seen: Circumstances
) -> None:
    """And it explains itself: allowed if and only if nothing bars it and one verdict is clean."""
    decision = decide(held, permission, seen)
    assert decision.is_allowed == model(held, permission, seen)
    clean = any(not verdict.unmet for verdict in decision.verdicts)
    assert decision.is_allowed == (clean and not decision.barriers)
    for verdict in decision.verdicts:
        assert (not verdict.unmet) == model_holds(verdict.holding.conditions, seen)


@given(helds, circumstances())
def test_what_the_gate_takes_at_a_glance_is_what_is_decided(
    held: Held, seen: Circumstances
) -> None:
    """The set a caller carries holds just what would be decided before the request is looked at;
    what is lasting holds in all circumstances."""
    before = Circumstances(seen.at, seen.address, seen.signed_in_at)
    in_place = not held.networks or is_within(seen.address, held.networks)
    for permission in range(1, 5):
        if in_place:
            assert (permission in held.now(before)) == decide(held, permission, before).is_allowed
            assert permission not in held.lasting or decide(held, permission, seen).is_allowed
        if decide(held, permission, seen).is_allowed and permission not in held.now(before):
            names = {name for v in decide(held, permission, before).verdicts for name in v.unmet}
            assert names & set(ABOUT_THINGS), "only then does the gate look at the request"


@given(helds, st.integers(1, 4), circumstances(), holdings)
def test_more_is_never_less(
    held: Held, permission: int, seen: Circumstances, another: Holding
) -> None:
    """A further grant takes nothing away, and scopes or a network give nothing."""
    wider = Held(held.user_id, (*held.holdings, another), held.scopes, held.networks)
    bare = Held(held.user_id, held.holdings)
    allowed = decide(held, permission, seen).is_allowed
    assert not allowed or decide(wider, permission, seen).is_allowed
    assert not allowed or decide(bare, permission, seen).is_allowed


@given(
    st.lists(st.sampled_from(NETWORKS), max_size=3),
    st.lists(st.sampled_from(NETWORKS), max_size=3),
    st.sampled_from(ADDRESSES),
)
def test_inner_networks_reach_nothing_more(
    inner: list[str], outer: list[str], address: str
) -> None:
    if are_within(inner, outer) and is_within(address, inner):
        assert is_within(address, outer)
