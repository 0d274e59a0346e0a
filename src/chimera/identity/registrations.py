"""Registrations: how people nobody knows yet get an account.

What must stay true: asking does the same work and answers the same for every address, known or not;
what there is to say is in the mail, which only the owner of the mailbox reads. Nothing is reserved
for who asks, and the password is chosen after the mailbox is proven: nobody can prepare an account
for somebody else's address and wait for them to confirm it.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.errors import UniqueViolation

from chimera import mail
from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.call import ANONYMOUS, Call, Caller
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.faults import Invalid, NotReady, Violation
from chimera.identity.calls import as_caller
from chimera.identity.invitations import find_invitation, invitation_invalid, use_invitation
from chimera.identity.one_time import token_invalid
from chimera.identity.organisations import insert_organisation
from chimera.identity.password_rules import check_joining
from chimera.identity.passwords import Hasher
from chimera.identity.returning import find_unattached, take_up
from chimera.identity.tokens import hash_of
from chimera.identity.users import INSERT_MEMBERSHIP, INSERT_USER, get_user, normal_login, taken
from chimera.ids import new_id
from chimera.updates import must_be_given
from chimera.v1.accounts_pb2 import (
    AcceptInvitationRequest,
    ConfirmRegistrationRequest,
    RegisterRequest,
)
from chimera.v1.identity_pb2 import User

LIFETIME_S = 24 * 3600
# Names that would pass for the installation's own; administrators may still give them.
RESERVED = frozenset(
    [
        "abuse",
        "admin",
        "administrator",
        "api",
        "chimera",
        "help",
        "info",
        "mail",
        "noreply",
        "operator",
        "postmaster",
        "root",
        "security",
        "staff",
        "support",
        "system",
        "webmaster",
    ]
)


@dataclass(frozen=True, slots=True)
class Registration:
    """One whose mailbox is proven by the token. `org_id` is that of the invitation, or of the
    organisation that will be made."""

    id: str
    org_id: str
    email: str
    username: str
    display_name: str
    organisation_name: str
    invitation_id: str | None
    role: str


FIND_REGISTRATION = sql(Registration, "SELECT * FROM identity.find_registration(%(token_hash)s)")

INSERT_REGISTRATION = sql(
    Nothing,
    """
    INSERT INTO identity.registrations
           (id, org_id, email, username, display_name, organisation_name, invitation_id, expires_at)
    VALUES (%(id)s, %(org_id)s, %(email)s, %(username)s, %(display_name)s, %(organisation_name)s,
            %(invitation_id)s, clock_timestamp() + make_interval(secs => %(lifetime_s)s))
    """,
)

CONFIRM_REGISTRATION = sql(
    Nothing,
    """
    UPDATE identity.registrations SET confirmed_at = clock_timestamp()
     WHERE token_hash = %(token_hash)s AND confirmed_at IS NULL AND expires_at > clock_timestamp()
    """,
)


async def register(core: Core, request: RegisterRequest, call: Call) -> None:
    """Notes the wish and asks for the mail.

    Raises NotReady(REGISTRATION_CLOSED), Invalid: INVITATION_INVALID, FIELD_INVALID.
    """
    mode = core.settings.registration
    username, email = normal_login(request.username), normal_login(request.email)
    check_name(username)
    if mode == "closed" or (mode == "invitation" and not request.invitation_code):
        raise NotReady("REGISTRATION_CLOSED", "Ask an administrator for an account.")
    org_id, invitation_id = new_id(), None
    if request.invitation_code:
        invitation = await find_invitation(core.db, call, request.invitation_code)
        if invitation.email not in ("", email):
            raise invitation_invalid()
        org_id, invitation_id = invitation.org_id, invitation.id
    elif not request.organisation_name.strip():
        raise must_be_given("organisation_name")
    registration_id = new_id()
    async with core.db.begin(as_caller(call, Caller("anonymous", org_id=org_id))) as tx:
        await tx.run(
            INSERT_REGISTRATION,
            id=registration_id,
            org_id=org_id,
            email=email,
            username=username,
            display_name=request.display_name,
            organisation_name="" if invitation_id else request.organisation_name.strip(),
            invitation_id=invitation_id,
            lifetime_s=LIFETIME_S,
        )
        await mail.ask(tx, "registration", registration_id=registration_id)
        record(tx, "user.register", "registration", registration_id, kind=Kind.SECURITY)


def check_name(username: str, field: str = "username") -> None:
    """Of who chooses it themselves. Raises Invalid(FIELD_INVALID)."""
    if username in RESERVED:
        message = "This name is kept for the installation; choose another."
        raise Invalid("FIELD_INVALID", message, violations=[Violation(field, message)])


async def confirm_registration(
    core: Core, hasher: Hasher, request: ConfirmRegistrationRequest, call: Call
) -> User:
    """Makes the account, and its organisation unless it joins one.

    Raises Invalid: ONE_TIME_TOKEN_INVALID, PASSWORD_TOO_WEAK, INVITATION_INVALID; AlreadyExists:
    USERNAME_TAKEN, EMAIL_TAKEN, ORGANISATION_NAME_TAKEN, after which the link is still good.
    """
    token_hash = hash_of(request.token)
    async with core.db.look(as_caller(call, ANONYMOUS, audited=False)) as tx:
        found = await tx.one(FIND_REGISTRATION, token_hash=token_hash)
    if found is None:
        raise token_invalid()
    username = normal_login(request.username) or found.username
    check_name(username)
    user_id = new_id()
    own = as_caller(call, Caller("user", org_id=found.org_id, user_id=user_id, role=found.role))
    await check_joining(core.db, own, found.org_id, request.password, found.email, username)
    password_hash = await hasher.hash(request.password)
    try:
        async with core.db.begin(own) as tx:
            if not await tx.run(CONFIRM_REGISTRATION, token_hash=token_hash):
                raise token_invalid()
            if found.invitation_id is None:
                await insert_organisation(tx, found.organisation_name)
            await _insert(
                tx,
                user_id,
                email=found.email,
                username=username,
                display_name=found.display_name,
                password_hash=password_hash,
                role=found.role,
            )
            if found.invitation_id is not None:
                await use_invitation(tx, found.invitation_id, user_id)
            _note(tx, "user.confirm_registration", user_id, found.email, found.role)
            return await get_user(tx, user_id)
    except UniqueViolation as error:
        raise taken(error) from None


async def accept_invitation(
    core: Core, hasher: Hasher, request: AcceptInvitationRequest, call: Call
) -> User:
    """An account for who was invited by mail: the code proves the mailbox. Who has one that belongs
    to no organisation any more gets it back.

    Raises Invalid: INVITATION_INVALID, also when it is not bound to an address; PASSWORD_TOO_WEAK;
    AlreadyExists: USERNAME_TAKEN, EMAIL_TAKEN.
    """
    invitation = await find_invitation(core.db, call, request.invitation_code)
    if not invitation.email:
        raise invitation_invalid()
    username = normal_login(request.username)
    check_name(username)
    account = await find_unattached(core.db, call, invitation.email)
    user_id = account.user_id if account else new_id()
    own = as_caller(
        call, Caller("user", org_id=invitation.org_id, user_id=user_id, role=invitation.role)
    )
    await check_joining(
        core.db, own, invitation.org_id, request.password, invitation.email, username
    )
    password_hash = await hasher.hash(request.password)
    try:
        async with core.db.begin(own) as tx:
            if account:
                await take_up(
                    tx,
                    account,
                    email=invitation.email,
                    username=username,
                    display_name=request.display_name,
                    password_hash=password_hash,
                )
            else:
                await _insert(
                    tx,
                    user_id,
                    email=invitation.email,
                    username=username,
                    display_name=request.display_name,
                    password_hash=password_hash,
                    role=invitation.role,
                )
            await use_invitation(tx, invitation.id, user_id)
            _note(tx, "invitation.accept", user_id, invitation.email, invitation.role)
            return await get_user(tx, user_id)
    except UniqueViolation as error:
        raise taken(error) from None


async def _insert(
    tx: Tx,
    user_id: str,
    *,
    email: str,
    username: str,
    display_name: str,
    password_hash: str,
    role: str,
) -> None:
    await tx.run(
        INSERT_USER,
        id=user_id,
        email=email,
        username=username,
        display_name=display_name,
        password_hash=password_hash,
        is_verified=True,
    )
    await tx.run(INSERT_MEMBERSHIP, org_id=tx.call.caller.org_id, user_id=user_id, role=role)


def _note(tx: Tx, action: str, user_id: str, email: str, role: str) -> None:
    record(
        tx,
        action,
        "user",
        user_id,
        new={"email": email, "role": role},
        severity=Severity.NOTICE,
        kind=Kind.SECURITY,
    )


async def resend_verification(core: Core, email: str, call: Call) -> None:
    """Asks for the mail, whoever has the address."""
    async with core.db.begin(as_caller(call, ANONYMOUS)) as tx:
        await mail.ask(tx, "verification", email=normal_login(email))
        _note_unknown(tx, core, "user.resend_verification", email)


async def request_password_reset(core: Core, email: str, call: Call) -> None:
    """Asks for the mail, whoever has the address."""
    async with core.db.begin(as_caller(call, ANONYMOUS)) as tx:
        await mail.ask(tx, "password_reset", email=normal_login(email))
        _note_unknown(tx, core, "password.request_reset", email)


def _note_unknown(tx: Tx, core: Core, action: str, email: str) -> None:
    """Without the address, and without looking whose it is: here that would show in the time it
    takes; the worker that writes the mail finds out."""
    digest = core.pages.digest(b"login\0" + normal_login(email).encode()).hex()[:32]
    record(tx, action, "login", digest, kind=Kind.SECURITY)
