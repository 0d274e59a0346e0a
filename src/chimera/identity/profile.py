"""One's own account: profile, address, password, proofs of who is there."""

from __future__ import annotations

from datetime import datetime

from psycopg.errors import UniqueViolation

from chimera import mail
from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.faults import Denied, Invalid, NotFound, NotReady, Violation
from chimera.identity.calls import as_caller
from chimera.identity.endings import CHANGES
from chimera.identity.one_time import (
    EMAIL_CHANGE_S,
    find_token,
    insert_token,
    new_token,
    spend_others,
    spend_token,
    token_invalid,
)
from chimera.identity.password_rules import Rules, hash_new_password, rules_of, set_password
from chimera.identity.passwords import Hasher
from chimera.identity.preferences import check_preferences
from chimera.identity.registrations import check_name
from chimera.identity.second_factor import SecondFactor, code_invalid, spend_proof
from chimera.identity.sessions import end_sessions, forget_devices, lock_person, renew_auth_time
from chimera.identity.taking_over import take_over
from chimera.identity.throttle import Throttle, code_names, in_session
from chimera.identity.users import get_user, normal_login, taken, update_own
from chimera.ids import new_id
from chimera.rows import struct_dict
from chimera.updates import checked_paths
from chimera.v1.accounts_pb2 import (
    ChangePasswordRequest,
    ResetPasswordRequest,
    StepUpRequest,
    UpdateMeRequest,
)
from chimera.v1.identity_pb2 import User

UPDATABLE = ("display_name", "username", "picture_url", "preferences")

# Whether it is the first proof of the mailbox. Operators were vouched for by operators.
PROVE_EMAIL = sql(
    bool,
    """
    WITH old AS (
        SELECT id, email_verified_at IS NULL AND NOT is_superuser AS is_first
          FROM identity.users WHERE id = %(user_id)s AND lower(email) = lower(%(email)s)
           FOR NO KEY UPDATE
    )
    UPDATE identity.users u
       SET email_verified_at = COALESCE(u.email_verified_at, clock_timestamp()),
           state = CASE WHEN u.state = 'unverified' AND u.password_hash IS NOT NULL THEN 'active'
                        ELSE u.state END
      FROM old WHERE u.id = old.id
    RETURNING old.is_first
    """,
)

CHANGE_EMAIL = sql(
    Nothing,
    """
    UPDATE identity.users SET email = %(email)s, email_verified_at = clock_timestamp()
     WHERE id = %(user_id)s AND deleted_at IS NULL
    """,
)


async def update_me(tx: Tx, request: UpdateMeRequest) -> User:
    """Raises Conflict(ETAG_MISMATCH), Invalid, NotFound when it names somebody else.
    UniqueViolation: see users.taken."""
    paths = checked_paths(request.update_mask.paths, UPDATABLE)
    user_id = tx.call.caller.user_id
    if request.user.id not in ("", user_id):
        raise NotFound("USER_NOT_FOUND", "This call changes your own account only.")
    check_preferences(struct_dict(request.user.preferences))
    new, before, after = await update_own(tx, request.user, paths, request.etag)
    if before.get("username") != after.get("username"):
        check_name(new.username, "user.username")
    record(tx, "user.update_me", "user", user_id, old=before, new=after)
    return new


async def change_email(tx: Tx, new_email: str) -> None:
    """Asks for the link to the new address and the notice to the old one. Whether the new one is
    somebody's already shows when the link is used, by whoever reads that mailbox."""
    user_id = tx.call.caller.user_id
    await lock_person(tx, user_id)
    await spend_others(tx, user_id, "email_change")
    mail_id = new_id()
    # What ends the wish before its letter is written ends the letter too. This token nobody has.
    await insert_token(
        tx,
        token=new_token(),
        purpose="email_change",
        org_id=tx.call.caller.org_id,
        user_id=user_id,
        lifetime_s=EMAIL_CHANGE_S,
        email=normal_login(new_email),
        mail_id=mail_id,
    )
    await mail.ask(
        tx,
        "email_change",
        mail_id=mail_id,
        user_id=user_id,
        email=normal_login(new_email),
        is_noted=True,
    )
    await mail.ask(tx, "security_notice", user_id=user_id, what="email_change_asked")
    record(tx, "email.change", "user", user_id, kind=Kind.SECURITY, severity=Severity.NOTICE)


async def verify_email(core: Core, token: str, call: Call) -> str:
    """The account's new address, which is proven now.

    Raises Invalid(ONE_TIME_TOKEN_INVALID), AlreadyExists(EMAIL_TAKEN).
    """
    holder = await find_token(core.db, call, token, "email_change")
    try:
        async with core.db.begin(as_caller(call, holder.caller())) as tx:
            user_id = holder.user_id
            await lock_person(tx, user_id)
            await spend_token(tx, token, "email_change")
            await spend_others(tx, user_id, "password_reset")
            await tx.run(CHANGE_EMAIL, user_id=user_id, email=holder.new_email)
            await mail.ask(
                tx, "security_notice", user_id=user_id, what="email_changed", email=holder.email
            )
            record(
                tx,
                "user.verify_email",
                "user",
                user_id,
                old={"email": holder.email},
                new={"email": holder.new_email},
                kind=Kind.SECURITY,
            )
    except UniqueViolation as error:
        raise taken(error) from None
    return holder.new_email


async def reset_password(
    core: Core, hasher: Hasher, throttle: Throttle, request: ResetPasswordRequest, call: Call
) -> None:
    """A new password for who reads the mailbox; ends every session. Nobody is signed in by it, so a
    second factor is asked for as ever. Who proves the mailbox first takes the account over.

    Raises Invalid: ONE_TIME_TOKEN_INVALID, PASSWORD_TOO_WEAK, PASSWORD_USED_BEFORE.
    """
    holder = await find_token(core.db, call, request.token, "password_reset")
    own = as_caller(call, holder.caller())
    rules = await rules_of(core.db, own, holder.user_id)
    password_hash = await hash_new_password(
        hasher, rules, request.password, holder.email, holder.username
    )
    async with core.db.begin(own) as tx:
        await lock_person(tx, holder.user_id)
        await spend_token(tx, request.token, "password_reset")
        await set_password(tx, holder.user_id, password_hash)
        is_first = await tx.one(PROVE_EMAIL, user_id=holder.user_id, email=holder.new_email)
        if is_first is None:
            raise token_invalid()
        await end_sessions(tx, holder.user_id, "password_reset")
        ended = await take_over(tx, holder.user_id) if is_first else {}
        await forget_devices(tx)
        await mail.ask(tx, "security_notice", user_id=holder.user_id, what="password_changed")
        _note(tx, "password.reset", holder.user_id, ended)
    if is_first or not rules.has_second_factor:
        await _forgive(throttle, holder.user_id, holder.email, holder.username)


async def change_password(
    core: Core, hasher: Hasher, throttle: Throttle, request: ChangePasswordRequest, call: Call
) -> int:
    """How many other sessions it ended.

    Raises Denied(PASSWORD_WRONG), NotReady(PASSWORD_NOT_SET), Invalid: PASSWORD_TOO_WEAK,
    PASSWORD_USED_BEFORE; Exhausted.
    """
    caller = call.caller
    async with core.db.look(as_caller(call, caller, audited=False)) as tx:
        user = await get_user(tx, caller.user_id)
    rules = await rules_of(core.db, as_caller(call, caller, audited=False), caller.user_id)
    _must_have_password(rules)
    async with throttle.attempt(in_session("password", caller)) as attempt:
        if not await hasher.verify(rules.password_hash, request.current_password):
            await attempt.failed()
            raise _password_wrong("current_password")
        await attempt.succeeded()
    password_hash = await hash_new_password(
        hasher, rules, request.new_password, user.email, user.username
    )
    async with core.db.begin(call) as tx:
        await set_password(tx, caller.user_id, password_hash)
        ended = await end_sessions(tx, caller.user_id, "password_changed", but=caller.session_id)
        await forget_devices(tx, but_of_session=caller.session_id)
        # The password alone is no step-up for who has a second factor.
        if not rules.has_second_factor:
            await renew_auth_time(tx, has_second_factor=False)
        # Lifts the restriction of a session whose password was too old.
        tx.after_commit.append(CHANGES.note)
        await mail.ask(tx, "security_notice", user_id=caller.user_id, what="password_changed")
        _note(tx, "password.change", caller.user_id)
    if not rules.has_second_factor:
        await _forgive(throttle, user.id, user.email, user.username)
    return ended


async def step_up(
    core: Core,
    hasher: Hasher,
    throttle: Throttle,
    factor: SecondFactor,
    request: StepUpRequest,
    call: Call,
) -> datetime:
    """The session's new auth_time, for the right password or code; with a second factor only for a
    code, which is the stronger proof.

    Raises Denied: PASSWORD_WRONG, CODE_INVALID; NotReady(PASSWORD_NOT_SET); Invalid(FIELD_INVALID);
    Exhausted.
    """
    caller = call.caller
    own = as_caller(call, caller, audited=False)
    rules = await rules_of(core.db, own, caller.user_id)
    needed = "code" if rules.has_second_factor else "password"
    if needed == "password":
        _must_have_password(rules)
    if not getattr(request, needed):
        message = f"Send the {needed}: it is what this account proves itself with."
        raise Invalid("FIELD_INVALID", message, violations=[Violation(needed, message)])
    async with throttle.attempt(in_session("step up", caller)) as attempt:
        if needed == "password":
            if not await hasher.verify(rules.password_hash, request.password):
                await attempt.failed()
                raise _password_wrong("password")
            proof = None
        elif (proof := await factor.prove(own, request.code)) is None:
            await attempt.failed()
            raise code_invalid()
        async with core.db.begin(call) as tx:
            if proof is not None and not await spend_proof(tx, proof):
                await attempt.failed()
                raise code_invalid()
            auth_time = await renew_auth_time(tx, has_second_factor=proof is not None)
            record(
                tx,
                "session.step_up",
                "session",
                caller.session_id,
                new={"with": needed},
                kind=Kind.SECURITY,
            )
        await attempt.succeeded()
    return auth_time


def _must_have_password(rules: Rules) -> None:
    if rules.password_hash is None:
        raise NotReady(
            "PASSWORD_NOT_SET",
            "This account has no password: sign in again as before, or choose one by"
            " RequestPasswordReset.",
        )


async def _forgive(throttle: Throttle, user_id: str, *names: str) -> None:
    """Failures of strangers no longer lock the owner out. Only for who has no second factor: with one
    they get in while the lock lasts, and who reads the mailbox could guess its codes for ever."""
    await throttle.forgive([*names, *code_names(user_id)])


def _password_wrong(field: str) -> Denied:
    message = "The password is wrong."
    return Denied("PASSWORD_WRONG", message, violations=[Violation(field, message)])


def _note(tx: Tx, action: str, user_id: str, new: dict[str, object] | None = None) -> None:
    record(tx, action, "user", user_id, new=new, kind=Kind.SECURITY, severity=Severity.NOTICE)
