"""Explaining: may somebody do something, and why, asked of what decides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf import descriptor_pool

from chimera.call import Call, Caller
from chimera.db import Tx, sql
from chimera.faults import Denied, Invalid, NotFound, Violation
from chimera.identity.authentication import is_creating
from chimera.identity.decisions import Circumstances, Decision, Held, Thing, decide
from chimera.identity.roles import holdings_of, scope_numbers
from chimera.identity.things import find_thing, nouns_of
from chimera.pools import Database
from chimera.v1 import options_pb2
from chimera.v1.access_pb2 import ExplainAccessRequest, ExplainAccessResponse, GrantVerdict
from chimera.v1.options_pb2 import Access, Permission


@dataclass(frozen=True, slots=True)
class Person:
    """A member of the organisation as deciding needs it."""

    user_id: str
    role: str
    state: str
    is_superuser: bool
    grants: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Key:
    """One of a person's API keys as deciding needs it. `may_operate`: not from before its owner became
    an operator."""

    scopes: list[str]
    source_networks: list[str]
    is_usable: bool
    may_operate: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked about: the permission (0 for none), and whether anyone at all may."""

    permission: int
    is_public: bool = False
    creates: bool = False
    needs_session: bool = False
    is_rpc: bool = False


FIND_PERSON = sql(
    Person,
    """
    SELECT u.id AS user_id, m.role, u.state, u.is_superuser,
           identity.find_grants(m.org_id, m.user_id) AS grants
      FROM identity.memberships m
      JOIN identity.users u ON u.id = m.user_id
     WHERE m.org_id = %(org_id)s AND m.user_id = %(user_id)s AND u.deleted_at IS NULL
    """,
)
FIND_KEY = sql(
    Key,
    """
    SELECT k.scopes, k.source_networks, k.is_active AND k.expires_at > %(at)s AS is_usable,
           k.created_at > COALESCE(u.superuser_at, to_timestamp(0)) AS may_operate
      FROM identity.api_keys k JOIN identity.users u ON u.id = k.user_id
     WHERE k.org_id = %(org_id)s AND k.user_id = %(user_id)s AND k.id = %(api_key_id)s
    """,
)


async def explain_access(
    db: Database, call: Call, request: ExplainAccessRequest
) -> ExplainAccessResponse:
    """Raises NotFound(USER_NOT_FOUND, API_KEY_NOT_FOUND), Denied(PERMISSION_MISSING),
    Invalid(FIELD_INVALID)."""
    caller = call.caller
    user_id = request.user_id or caller.user_id
    if user_id != caller.user_id and not caller.may(Permission.PERMISSION_ROLE_READ):
        raise Denied("PERMISSION_MISSING", "About others only those may ask who read roles.")
    wanted = _wanted(request)
    at = request.at.ToDatetime(UTC) if request.HasField("at") else datetime.now(UTC)
    async with db.look(call) as tx:
        person = await tx.one(FIND_PERSON, org_id=caller.org_id, user_id=user_id)
        if person is None:
            raise NotFound("USER_NOT_FOUND", f"There is no user {user_id}.")
        key = await _find_key(tx, request, user_id, at)
    held = held_of(person, key)
    # Under the row policies of the one it is about: what they cannot see is not theirs.
    about = Caller(
        "user",
        org_id=caller.org_id,
        user_id=user_id,
        role=person.role,
        is_operator=person.is_superuser,
    )
    async with db.look(replace(call, caller=about)) as tx:
        things = await _things(tx, request, wanted)
    has_factor = key is None and request.HasField("second_factor_age_s")
    seen = Circumstances(
        at=at,
        address=request.address or call.ip_address,
        signed_in_at=None if key else at - timedelta(seconds=request.sign_in_age_s),
        second_factor_at=at - timedelta(seconds=request.second_factor_age_s)
        if has_factor
        else None,
        things=things,
        creates=wanted.creates,
    )
    decision = decide(held, wanted.permission, seen)
    barriers = list(decision.barriers)
    if person.state != "active":
        barriers.append("account_state")
    if key is not None and not key.is_usable:
        barriers.append("api_key_state")
    if key is not None and wanted.needs_session:
        barriers.append("session_required")
    return ExplainAccessResponse(
        allowed=wanted.is_public or (decision.is_allowed and barriers == list(decision.barriers)),
        permission=Permission.Name(wanted.permission),
        verdicts=_verdicts(decision),
        barriers=[] if wanted.is_public else barriers,
    )


def _wanted(request: ExplainAccessRequest) -> Wanted:
    if request.WhichOneof("wanted") == "permission":
        return Wanted(request.permission)
    service_name, _, method_name = request.rpc.partition("/")
    try:
        service = descriptor_pool.Default().FindServiceByName(f"chimera.v1.{service_name}")
        method = service.methods_by_name[method_name]
    except KeyError:
        violation = Violation("rpc", "is no RPC of this server", "FIELD_INVALID")
        raise Invalid(
            "FIELD_INVALID", "rpc: is no RPC of this server", violations=[violation]
        ) from None
    options: Any = method.GetOptions()
    access: Access = options.Extensions[options_pb2.access]
    return Wanted(
        access.permission,
        is_public=access.public,
        creates=is_creating(f"/{service_name}/{method_name}"),
        needs_session=access.session_only,
        is_rpc=True,
    )


async def _find_key(
    tx: Tx, request: ExplainAccessRequest, user_id: str, at: datetime
) -> Key | None:
    if not request.api_key_id:
        return None
    key = await tx.one(
        FIND_KEY,
        org_id=tx.call.caller.org_id,
        user_id=user_id,
        api_key_id=request.api_key_id,
        at=at,
    )
    if key is None:
        raise NotFound("API_KEY_NOT_FOUND", "The user has no such API key.")
    return key


def held_of(person: Person, key: Key | None) -> Held:
    """All that they were given, narrowed by the key."""
    is_operator = person.is_superuser and (key is None or key.may_operate)
    holdings = holdings_of(person.role, is_operator=is_operator, grants=person.grants)
    if key is None:
        return Held(person.user_id, holdings)
    scopes = scope_numbers(key.scopes) if key.scopes else None
    return Held(person.user_id, holdings, scopes, tuple(key.source_networks))


async def _things(
    tx: Tx, request: ExplainAccessRequest, wanted: Wanted
) -> tuple[Thing, ...] | None:
    """What the call would name; None when only the permission is asked about."""
    if not request.resource_id:
        return () if wanted.is_rpc else None
    for noun in nouns_of(wanted.permission):
        thing = await find_thing(tx, noun, request.resource_id)
        if thing.ids:
            return (thing,)
    return (Thing(frozenset(), ""),)


SOURCES = {
    "membership": GrantVerdict.SOURCE_MEMBERSHIP,
    "operator": GrantVerdict.SOURCE_OPERATOR,
    "user": GrantVerdict.SOURCE_USER_GRANT,
    "team": GrantVerdict.SOURCE_TEAM_GRANT,
}


def _verdicts(decision: Decision) -> list[GrantVerdict]:
    return [
        GrantVerdict(
            source=SOURCES[verdict.holding.source],
            role_name=verdict.holding.role_name,
            grant_id=verdict.holding.grant_id,
            team_id=verdict.holding.team_id,
            team_name=verdict.holding.team_name,
            conditions=verdict.holding.conditions if verdict.holding.is_conditional else None,
            unmet=verdict.unmet,
        )
        for verdict in decision.verdicts
    ]
