"""Organisations: making one, going from one to another, its rules, and who belongs to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from psycopg.errors import UniqueViolation

from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, Tx, sql, violated
from chimera.faults import AlreadyExists, Denied, NotFound, NotReady, Unauthenticated
from chimera.identity.calls import as_caller
from chimera.identity.departures import end_invitations, end_keys
from chimera.identity.powers import (
    check_may_grant,
    check_may_manage,
    check_not_last_admin,
    check_not_last_operator,
)
from chimera.identity.roles import permissions_of
from chimera.identity.second_factor import not_enrolled
from chimera.identity.sessions import (
    Device,
    NewSession,
    Parent,
    end_sessions,
    lock_person,
    open_session,
    session_caller,
)
from chimera.identity.users import (
    GET_ORGANISATION,
    INSERT_MEMBERSHIP,
    get_user,
)
from chimera.ids import new_id
from chimera.pools import Database
from chimera.rows import enum_text
from chimera.updates import checked_paths, must_be_given
from chimera.v1.identity_pb2 import Organisation, Role, User
from chimera.v1.organisations_pb2 import (
    ChangeMemberRoleRequest,
    OrganisationMembership,
    OrganisationRules,
    UpdateOrganisationRequest,
)


@dataclass(frozen=True, slots=True)
class Present:
    """The session that somebody goes on from."""

    authz_epoch: int
    second_factor_at: datetime | None
    device_id: str | None
    device_info: dict[str, str]
    signed_in_at: datetime
    absolute_expires_at: datetime
    # Nothing that another organisation would have to believe.
    is_unproven: bool


INSERT_ORGANISATION = sql(
    Nothing, "INSERT INTO identity.organisations (id, name) VALUES (%(org_id)s, %(name)s)"
)

LIST_OWN = sql(
    OrganisationMembership,
    """
    SELECT id AS organisation_id, name, role, joined_at, id = %(org_id)s::uuid AS is_current
      FROM identity.own_organisations()
    """,
)

GET_PRESENT = sql(
    Present,
    """
    SELECT u.authz_epoch, s.device_id, s.device_info, s.absolute_expires_at,
           COALESCE(s.signed_in_at, s.created_at) AS signed_in_at,
           CASE WHEN NOT s.is_vouched THEN s.second_factor_at END AS second_factor_at,
           s.auth_time = to_timestamp(0) OR (s.is_vouched AND u.totp_confirmed_at IS NOT NULL)
               AS is_unproven
      FROM identity.sessions s JOIN identity.users u ON u.id = s.user_id
     WHERE s.id = %(session_id)s AND s.is_active
    """,
)

GET_RULES = sql(
    OrganisationRules,
    """
    SELECT password_characters_min, password_classes_min, password_history, password_age_days_max,
           requires_second_factor
      FROM identity.organisations WHERE id = %(org_id)s
    """,
)

UPDATE_ORGANISATION = sql(
    Nothing,
    """
    UPDATE identity.organisations
       SET name = %(name)s, password_characters_min = %(characters_min)s,
           password_classes_min = %(classes_min)s, password_history = %(history)s,
           password_age_days_max = %(age_days_max)s, requires_second_factor = %(requires_second_factor)s
     WHERE id = %(org_id)s
    """,
)

LOCK_NAME = sql(
    str, "SELECT name FROM identity.organisations WHERE id = %(org_id)s FOR NO KEY UPDATE"
)

CHANGE_ROLE = sql(
    Nothing,
    """
    UPDATE identity.memberships SET role = %(role)s
     WHERE org_id = %(org_id)s AND user_id = %(user_id)s
    """,
)

RAISE_EPOCH = sql(
    Nothing, "UPDATE identity.users SET authz_epoch = authz_epoch + 1 WHERE id = %(user_id)s"
)

REMOVE_MEMBER = sql(
    Nothing,
    "DELETE FROM identity.memberships WHERE org_id = %(org_id)s AND user_id = %(user_id)s",
)


def name_taken(name: str) -> AlreadyExists:
    return AlreadyExists("ORGANISATION_NAME_TAKEN", f"There is an organisation {name} already.")


async def insert_organisation(tx: Tx, name: str) -> None:
    """With the id that tx.call.caller names. Raises AlreadyExists(ORGANISATION_NAME_TAKEN)."""
    try:
        await tx.run(INSERT_ORGANISATION, org_id=tx.call.caller.org_id, name=name.strip())
    except UniqueViolation as error:
        if violated(error) == "organisations_name":
            raise name_taken(name) from None
        raise


async def create_organisation(core: Core, call: Call, name: str) -> Organisation:
    """With the caller as its administrator.

    Raises Denied(PERMISSION_MISSING) where only operators may, AlreadyExists, Invalid.
    """
    if core.settings.registration != "open" and not call.caller.is_operator:
        raise Denied("PERMISSION_MISSING", "Only operators make organisations here.")
    if not name.strip():
        raise must_be_given("name")
    org_id = new_id()
    own = as_caller(call, replace(call.caller, org_id=org_id, role="admin"))
    async with core.db.begin(own) as tx:
        await insert_organisation(tx, name)
        await tx.run(INSERT_MEMBERSHIP, org_id=org_id, user_id=call.caller.user_id, role="admin")
        record(tx, "organisation.create", "organisation", org_id, new={"name": name.strip()})
        organisation = await tx.one(GET_ORGANISATION, org_id=org_id)
    assert organisation is not None
    return organisation


async def list_own(tx: Tx) -> list[OrganisationMembership]:
    """In the order of joining. A key belongs to one organisation, and is told of that one only."""
    joined = await tx.all(LIST_OWN, org_id=tx.call.caller.org_id)
    is_key = tx.call.caller.kind == "api_key"
    return [membership for membership in joined if membership.is_current or not is_key]


async def switch_organisation(core: Core, db: Database, call: Call, org_id: str) -> NewSession:
    """A session in another of the caller's organisations; when and how they proved who they are is
    carried over and when it is over at the latest, what the organisation's sign-in provider vouched
    for is not. Raises NotFound(ORGANISATION_NOT_FOUND), NotReady: ORGANISATION_IS_CURRENT,
    STEP_UP_REQUIRED."""
    if org_id == call.caller.org_id:
        raise NotReady("ORGANISATION_IS_CURRENT", "This session is in that organisation already.")
    async with db.look(call) as tx:
        joined = {membership.organisation_id: membership for membership in await list_own(tx)}
    if org_id not in joined:
        raise NotFound("ORGANISATION_NOT_FOUND", f"You do not belong to an organisation {org_id}.")
    role = enum_text(OrganisationMembership, "role", joined[org_id].role) or ""
    caller = replace(call.caller, org_id=org_id, role=role)
    own = as_caller(call, session_caller(caller, new_id()))
    async with db.begin(own) as tx:
        await lock_person(tx, caller.user_id)
        present = await tx.one(GET_PRESENT, session_id=caller.session_id)
        if present is None:
            raise Unauthenticated("SESSION_ENDED", "This session has ended; sign in again.")
        if present.is_unproven:
            raise NotReady(
                "STEP_UP_REQUIRED",
                "You came by a sign-in provider that counts in one organisation:"
                " AccountService.StepUp first.",
            )
        factor_at = present.second_factor_at
        session = await open_session(
            tx,
            core.settings,
            session_id=own.caller.session_id,
            authz_epoch=present.authz_epoch,
            device=Device(known_id=present.device_id or "", **present.device_info),
            has_second_factor=factor_at is not None,
            second_factor_at=factor_at.timestamp() if factor_at else None,
            auth_time=call.caller.auth_time,
            parent=Parent(caller.session_id, present.signed_in_at, present.absolute_expires_at),
        )
        if session is None:
            raise NotFound("ORGANISATION_NOT_FOUND", "The account was changed; sign in again.")
        record(
            tx,
            "session.switch_organisation",
            "session",
            session.session_id,
            new={"from_organisation_id": call.caller.org_id},
        )
    return session


async def get_rules(tx: Tx) -> OrganisationRules:
    """Of the caller's organisation."""
    rules = await tx.one(GET_RULES, org_id=tx.call.caller.org_id)
    assert rules is not None
    return rules


async def update_organisation(
    tx: Tx, request: UpdateOrganisationRequest
) -> tuple[Organisation, OrganisationRules]:
    """Raises AlreadyExists(ORGANISATION_NAME_TAKEN), NotReady(TOTP_NOT_ENROLLED), Invalid."""
    paths = checked_paths(request.update_mask.paths, ("name", "rules"))
    org_id = tx.call.caller.org_id
    old_name, old = await tx.one(LOCK_NAME, org_id=org_id) or "", await get_rules(tx)
    name = request.name.strip() if "name" in paths else old_name
    rules = request.rules if "rules" in paths else old
    if not name:
        raise must_be_given("name")
    if "rules" in paths and not request.HasField("rules"):
        raise must_be_given("rules")
    is_new = rules.requires_second_factor and not old.requires_second_factor
    # Or the one who switches it on is shut out first, and perhaps nobody can switch it off.
    if is_new and not (await get_user(tx, tx.call.caller.user_id)).has_second_factor:
        raise not_enrolled()
    try:
        await tx.run(
            UPDATE_ORGANISATION,
            org_id=org_id,
            name=name,
            characters_min=rules.password_characters_min,
            classes_min=rules.password_classes_min,
            history=rules.password_history,
            age_days_max=rules.password_age_days_max,
            requires_second_factor=rules.requires_second_factor,
        )
    except UniqueViolation:
        raise name_taken(name) from None
    record(
        tx,
        "organisation.update",
        "organisation",
        org_id,
        old={"name": old_name, **_rules(old)},
        new={"name": name, **_rules(rules)},
        severity=Severity.NOTICE,
        kind=Kind.SECURITY,
    )
    organisation = await tx.one(GET_ORGANISATION, org_id=org_id)
    assert organisation is not None
    return organisation, await get_rules(tx)


def _rules(rules: OrganisationRules) -> dict[str, object]:
    """For the log, under names that are not taken for secrets."""
    return {
        "characters_min": rules.password_characters_min,
        "classes_min": rules.password_classes_min,
        "history": rules.password_history,
        "age_days_max": rules.password_age_days_max,
        "requires_second_factor": rules.requires_second_factor,
    }


async def change_member_role(tx: Tx, request: ChangeMemberRoleRequest) -> User:
    """Raises NotFound(USER_NOT_FOUND), NotReady(LAST_ADMIN), Denied(PERMISSION_MISSING)."""
    org_id, user_id = tx.call.caller.org_id, request.user_id
    user = await get_user(tx, user_id)
    old = enum_text(user, "role", user.role) or ""
    role = enum_text(request, "role", request.role) or ""
    check_may_grant(tx, role)
    await check_may_manage(tx, user)
    if request.role != Role.ROLE_ADMIN:
        await check_not_last_admin(tx, user_id)
    await tx.run(CHANGE_ROLE, org_id=org_id, user_id=user_id, role=role)
    await tx.run(RAISE_EPOCH, user_id=user_id)
    if not permissions_of(old) <= permissions_of(role):
        await end_invitations(tx, user_id)
    record(
        tx,
        "member.change_role",
        "user",
        user_id,
        old={"role": old},
        new={"role": role},
        severity=Severity.NOTICE,
        kind=Kind.SECURITY,
    )
    return await get_user(tx, user_id)


async def remove_member(tx: Tx, user_id: str) -> None:
    """Raises NotFound(USER_NOT_FOUND), NotReady(LAST_ADMIN), Denied(PERMISSION_MISSING)."""
    user = await get_user(tx, user_id, show_deleted=True)
    await check_may_manage(tx, user)
    if user.is_managed_here:
        await check_not_last_operator(tx, user_id)
    await _remove(tx, user_id, "removed")
    record(
        tx,
        "member.remove",
        "user",
        user_id,
        old={"role": enum_text(user, "role", user.role)},
        severity=Severity.NOTICE,
        kind=Kind.SECURITY,
    )


async def leave_organisation(tx: Tx, org_id: str) -> None:
    """The caller goes. Raises NotFound(ORGANISATION_NOT_FOUND) for another organisation than the
    session's, NotReady(LAST_ADMIN, LAST_ORGANISATION)."""
    caller = tx.call.caller
    if org_id != caller.org_id:
        raise NotFound("ORGANISATION_NOT_FOUND", "This session is in another organisation.")
    if (await get_user(tx, caller.user_id)).is_managed_here:
        await check_not_last_operator(tx, caller.user_id)
    await check_not_last_admin(
        tx, caller.user_id
    )  # which holds the organisation, before the person
    await lock_person(tx, caller.user_id)  # who leaves two at once would leave both
    await _remove(tx, caller.user_id, "left")
    # Without one nobody can sign in, nor have their data exported or erased.
    if not await list_own(tx):
        raise NotReady(
            "LAST_ORGANISATION",
            "This is your only organisation; PrivacyService.RequestErasure ends the account.",
        )
    record(tx, "member.leave", "user", caller.user_id, kind=Kind.SECURITY)


async def _remove(tx: Tx, user_id: str, reason: str) -> None:
    org_id = tx.call.caller.org_id
    await check_not_last_admin(tx, user_id)
    await end_sessions(tx, user_id, reason, org_id=org_id)
    await end_keys(tx, user_id)
    await end_invitations(tx, user_id)
    await tx.run(REMOVE_MEMBER, org_id=org_id, user_id=user_id)
