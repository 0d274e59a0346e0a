"""Invitations into an organisation, with a role, for so many people until some day.

What must stay true:
- An invitation is used at most uses_max times, however many hold its code at the same moment: one
  conditional UPDATE takes a use, in the transaction of what it is taken for.
- It is worth no more than who made it: it ends when they go, may do less, or are shut out.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from psycopg.errors import UniqueViolation

from chimera import mail
from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.call import ANONYMOUS, Call
from chimera.db import Nothing, Tx, sql
from chimera.faults import AlreadyExists, Exhausted, Invalid, NotFound, NotReady, Violation
from chimera.identity.calls import as_caller
from chimera.identity.departures import end_keys
from chimera.identity.mailboxes import PER_HOUR_MAX
from chimera.identity.organisations import LIST_OWN
from chimera.identity.powers import check_may_grant, may_invite
from chimera.identity.tokens import hash_of
from chimera.identity.users import (
    INSERT_MEMBERSHIP,
    get_user,
    normal_login,
)
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.pools import Database
from chimera.rows import enum_text
from chimera.v1.organisations_pb2 import (
    CreateInvitationRequest,
    Invitation,
    ListInvitationsRequest,
    ListInvitationsResponse,
    OrganisationMembership,
)

PREFIX = "chi_"
DAYS_DEFAULT, DAYS_MAX = 7, 90


@dataclass(frozen=True, slots=True)
class Open:
    """An invitation that can be used. `email`: only by that address; empty: by whoever has it."""

    id: str
    org_id: str
    role: str
    email: str


@dataclass(frozen=True, slots=True)
class Used:
    """One that was taken for somebody."""

    role: str
    created_by: str


FIND_INVITATION = sql(Open, "SELECT * FROM identity.find_invitation(%(code_hash)s)")

INSERT_INVITATION = sql(
    Nothing,
    """
    INSERT INTO identity.invitations
           (id, org_id, role, email, code_hash, uses_max, created_by, expires_at)
    VALUES (%(id)s, %(org_id)s, %(role)s, %(email)s, %(code_hash)s, %(uses_max)s, %(created_by)s,
            %(expires_at)s)
    """,
)

GET_INVITATION = sql(
    Invitation,
    """
    SELECT id, role, email, uses, uses_max, expires_at, revoked_at, created_by, created_at,
           revoked_at IS NULL AND expires_at > now() AND uses < uses_max AS is_open
      FROM identity.invitations WHERE org_id = %(org_id)s AND id = %(invitation_id)s
    """,
)

LIST_INVITATIONS = sql(
    Invitation,
    """
    SELECT id, role, email, uses, uses_max, expires_at, revoked_at, created_by, created_at,
           revoked_at IS NULL AND expires_at > now() AND uses < uses_max AS is_open
      FROM identity.invitations
     WHERE org_id = %(org_id)s AND (%(after)s::uuid IS NULL OR id < %(after)s::uuid)
     ORDER BY id DESC
     LIMIT %(limit)s
    """,
    prepare=False,
)

COUNT_MAILED = sql(
    int,
    """
    SELECT count(*)::int FROM identity.invitations
     WHERE org_id = %(org_id)s AND email = %(email)s AND created_at > now() - interval '1 hour'
    """,
)

REVOKE_INVITATION = sql(
    Nothing,
    """
    UPDATE identity.invitations SET revoked_at = COALESCE(revoked_at, clock_timestamp())
     WHERE org_id = %(org_id)s AND id = %(invitation_id)s
    """,
)

# By the word of somebody who belongs there and can work: a guest may be disabled by their home.
USE_INVITATION = sql(
    Used,
    """
    WITH used AS (
        UPDATE identity.invitations i SET uses = uses + 1
         WHERE id = %(invitation_id)s AND revoked_at IS NULL AND expires_at > clock_timestamp()
           AND uses < uses_max
           AND EXISTS (SELECT FROM identity.memberships m JOIN identity.users u ON u.id = m.user_id
                        WHERE m.org_id = i.org_id AND m.user_id = i.created_by
                          AND u.state = 'active' AND u.deleted_at IS NULL)
        RETURNING org_id, id, role, created_by
    ), noted AS (
        INSERT INTO identity.redemptions (org_id, invitation_id, user_id)
        SELECT org_id, id, %(user_id)s FROM used
    )
    SELECT role, created_by FROM used
    """,
)


def invitation_invalid() -> Invalid:
    return Invalid(
        "INVITATION_INVALID",
        "This invitation is unknown, used up, expired or revoked, or for somebody else.",
    )


def new_code() -> str:
    """256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


async def create_invitation(tx: Tx, request: CreateInvitationRequest) -> tuple[Invitation, str]:
    """The invitation, and its code unless it is mailed.

    Raises Denied(PERMISSION_MISSING) for a role above the caller's own, Invalid(FIELD_INVALID),
    Exhausted(RATE_LIMITED) for an address that was written to often within the hour.
    """
    caller = tx.call.caller
    role = enum_text(request, "role", request.role) or ""
    check_may_grant(tx, role)
    email = normal_login(request.email)
    if email and request.uses_max > 1:
        raise _invalid("uses_max", "An invitation for one address is for one person.")
    if (
        email
        and (await tx.one(COUNT_MAILED, org_id=caller.org_id, email=email) or 0) >= PER_HOUR_MAX
    ):
        raise Exhausted(
            "RATE_LIMITED",
            "This address was invited often within the hour; wait before the next letter.",
            facts={"subject": "invitation"},
            retry_after_s=3600,
        )
    invitation_id, code = new_id(), "" if email else new_code()
    await tx.run(
        INSERT_INVITATION,
        id=invitation_id,
        org_id=caller.org_id,
        role=role,
        email=email,
        code_hash=hash_of(code) if code else None,
        uses_max=request.uses_max or 1,
        created_by=caller.user_id,
        expires_at=_expiry(request),
    )
    if email:
        await mail.ask(tx, "invitation", invitation_id=invitation_id)
    # Without the address: the row has it, and is anonymised with the person; this event is another's.
    record(
        tx,
        "invitation.create",
        "invitation",
        invitation_id,
        new={"role": role, "is_mailed": bool(email), "uses_max": request.uses_max or 1},
        severity=Severity.NOTICE,
        kind=Kind.SECURITY,
    )
    return await get_invitation(tx, invitation_id), code


def _expiry(request: CreateInvitationRequest) -> datetime:
    now = datetime.now(UTC)
    if not request.HasField("expires_at"):
        return now + timedelta(days=DAYS_DEFAULT)
    asked = request.expires_at.ToDatetime(UTC)
    if asked > now + timedelta(days=DAYS_MAX):
        raise _invalid("expires_at", f"An invitation lasts at most {DAYS_MAX} days.")
    return asked


def _invalid(field: str, message: str) -> Invalid:
    return Invalid("FIELD_INVALID", message, violations=[Violation(field, message)])


async def get_invitation(tx: Tx, invitation_id: str) -> Invitation:
    """Raises NotFound(INVITATION_NOT_FOUND)."""
    found = await tx.one(GET_INVITATION, org_id=tx.call.caller.org_id, invitation_id=invitation_id)
    if found is None:
        raise NotFound("INVITATION_NOT_FOUND", f"There is no invitation {invitation_id}.")
    return found


async def list_invitations(
    tx: Tx, pages: Pages, request: ListInvitationsRequest
) -> ListInvitationsResponse:
    """One page, newest first."""
    org_id = tx.call.caller.org_id
    size, after = pages.page(request, org_id)
    rows = await tx.all(
        LIST_INVITATIONS, org_id=org_id, after=after[0] if after else None, limit=size + 1
    )
    return ListInvitationsResponse(
        invitations=rows[:size],
        next_page_token=pages.next_token(request, rows, size, "id", scope=org_id),
    )


async def revoke_invitation(tx: Tx, invitation_id: str) -> Invitation:
    """Raises NotFound(INVITATION_NOT_FOUND); one that was revoked stays so."""
    await tx.run(REVOKE_INVITATION, org_id=tx.call.caller.org_id, invitation_id=invitation_id)
    found = await get_invitation(tx, invitation_id)
    record(tx, "invitation.revoke", "invitation", invitation_id, kind=Kind.SECURITY)
    return found


async def find_invitation(db: Database, call: Call, code: str) -> Open:
    """Raises Invalid(INVITATION_INVALID)."""
    async with db.look(as_caller(call, ANONYMOUS, audited=False)) as tx:
        found = await tx.one(FIND_INVITATION, code_hash=hash_of(code))
    if found is None:
        raise invitation_invalid()
    return found


async def use_invitation(tx: Tx, invitation_id: str, user_id: str) -> str:
    """Takes one use for somebody; the role. Raises Invalid(INVITATION_INVALID)."""
    used = await tx.one(USE_INVITATION, invitation_id=invitation_id, user_id=user_id)
    if used is None or not await may_invite(tx, used.created_by, used.role):
        raise invitation_invalid()
    return used.role


async def redeem_invitation(db: Database, call: Call, code: str) -> OrganisationMembership:
    """The caller joins the inviting organisation.

    Raises Invalid(INVITATION_INVALID), AlreadyExists(ALREADY_A_MEMBER), NotReady(EMAIL_NOT_PROVEN):
    who is invited by address is the owner of its mailbox, not who made an account for it.
    """
    invitation = await find_invitation(db, call, code)
    caller = call.caller
    if invitation.email:
        async with db.look(call) as tx:
            user = await get_user(tx, caller.user_id)
        if user.email != invitation.email:
            raise invitation_invalid()
        if not user.HasField("email_verified_at"):
            raise NotReady(
                "EMAIL_NOT_PROVEN",
                "Prove your address first: AccountService.ResendVerification mails a link.",
            )
    own = as_caller(call, replace(caller, org_id=invitation.org_id, role=invitation.role))
    try:
        async with db.begin(own) as tx:
            role = await use_invitation(tx, invitation.id, caller.user_id)
            await tx.run(
                INSERT_MEMBERSHIP, org_id=invitation.org_id, user_id=caller.user_id, role=role
            )
            await end_keys(tx, caller.user_id)  # of a time when they belonged here before
            record(
                tx,
                "invitation.redeem",
                "invitation",
                invitation.id,
                new={"user_id": caller.user_id, "role": role},
                severity=Severity.NOTICE,
                kind=Kind.SECURITY,
            )
            joined = await tx.all(LIST_OWN, org_id=caller.org_id)
    except UniqueViolation:
        raise AlreadyExists(
            "ALREADY_A_MEMBER", "You belong to this organisation already."
        ) from None
    return next(one for one in joined if one.organisation_id == invitation.org_id)
