"""Users: people, and what the administrators of an organisation do with their accounts.

What must stay true:
- An account is managed by its home organisation; others manage only the membership.
- Whoever manages may (powers.py), and leaves an administrator and an operator.
"""

from __future__ import annotations

import unicodedata

import orjson

from chimera import mail
from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql, violated
from chimera.faults import AlreadyExists, NotFound, NotReady
from chimera.identity.departures import end_invitations
from chimera.identity.one_time import spend_others
from chimera.identity.powers import (
    check_may_grant,
    check_may_manage,
    check_not_last_admin,
    check_not_last_operator,
)
from chimera.identity.preferences import check_metadata
from chimera.identity.second_factor import remove_totp
from chimera.identity.sessions import end_sessions, lock_person
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.rows import enum_text, struct_dict
from chimera.updates import check_etag, checked_paths, must_be_given
from chimera.v1.identity_pb2 import (
    CreateUserRequest,
    ListUsersRequest,
    ListUsersResponse,
    Organisation,
    UpdateUserRequest,
    User,
)
from chimera.v1.options_pb2 import Permission

TAKEN = {
    "users_email": AlreadyExists("EMAIL_TAKEN", "Somebody has this e-mail address already."),
    "users_username": AlreadyExists("USERNAME_TAKEN", "Somebody has this user name already."),
}

UPDATABLE = ("display_name", "username", "picture_url", "metadata")


# in_detail: for the person and for administrators.
SELECT_USER = """
    SELECT u.id, u.email, u.username, u.display_name, m.role, u.state, u.picture_url, u.last_login_at,
           u.created_at, u.updated_at, u.totp_confirmed_at IS NOT NULL AS has_second_factor, u.deleted_at,
           u.home_org_id IS NOT DISTINCT FROM m.org_id AS is_managed_here,
           to_char(u.updated_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') AS etag,
           CASE WHEN %(in_detail)s THEN u.preferences END AS preferences,
           CASE WHEN %(in_detail)s THEN u.metadata END AS metadata,
           CASE WHEN %(in_detail)s THEN u.email_verified_at END AS email_verified_at,
           CASE WHEN %(in_detail)s THEN u.locked_until END AS locked_until,
           CASE WHEN %(in_detail)s THEN u.failed_login_attempts END AS failed_login_attempts,
           CASE WHEN %(in_detail)s THEN u.password_changed_at END AS password_changed_at,
           CASE WHEN %(in_detail)s THEN u.erase_at END AS erase_at,
           CASE WHEN %(in_detail)s THEN u.is_superuser END AS is_superuser
      FROM identity.memberships m
      JOIN identity.users u ON u.id = m.user_id
"""

GET_USER = sql(
    User,
    SELECT_USER
    + """
     WHERE m.org_id = %(org_id)s AND m.user_id = %(user_id)s
       AND (u.deleted_at IS NULL OR %(show_deleted)s)
    """,
)

LIST_USERS = sql(
    User,
    SELECT_USER
    + """
     WHERE m.org_id = %(org_id)s AND (u.deleted_at IS NULL OR %(show_deleted)s)
       AND (%(after)s::uuid IS NULL OR m.user_id < %(after)s::uuid)
     ORDER BY m.user_id DESC
     LIMIT %(limit)s
    """,
    prepare=False,
)

# Without RETURNING: a new user belongs nowhere yet and so is seen by nobody.
INSERT_USER = sql(
    Nothing,
    """
    INSERT INTO identity.users
           (id, email, username, display_name, password_hash, password_changed_at, state,
            email_verified_at)
    VALUES (%(id)s, %(email)s, %(username)s, %(display_name)s, %(password_hash)s,
            CASE WHEN %(password_hash)s::text IS NOT NULL THEN clock_timestamp() END,
            CASE WHEN %(password_hash)s::text IS NULL THEN 'unverified' ELSE 'active' END,
            CASE WHEN %(is_verified)s THEN clock_timestamp() END)
    """,
)

INSERT_MEMBERSHIP = sql(
    Nothing,
    """
    INSERT INTO identity.memberships (org_id, user_id, role)
    VALUES (%(org_id)s, %(user_id)s, %(role)s)
    """,
)

GET_ORGANISATION = sql(
    Organisation,
    "SELECT id, name, created_at FROM identity.organisations WHERE id = %(org_id)s",
)

UPDATE_USER = sql(
    Nothing,
    """
    UPDATE identity.users SET
        display_name = CASE WHEN 'display_name' = ANY (%(paths)s) THEN %(display_name)s ELSE display_name END,
        username = CASE WHEN 'username' = ANY (%(paths)s) THEN %(username)s ELSE username END,
        picture_url = CASE WHEN 'picture_url' = ANY (%(paths)s) THEN %(picture_url)s ELSE picture_url END,
        metadata = CASE WHEN 'metadata' = ANY (%(paths)s) THEN %(metadata)s::jsonb ELSE metadata END,
        preferences =
            CASE WHEN 'preferences' = ANY (%(paths)s) THEN %(preferences)s::jsonb ELSE preferences END
     WHERE id = %(user_id)s
    """,
)

SET_STATE = sql(
    Nothing,
    """
    UPDATE identity.users
       SET state = CASE WHEN %(is_disabled)s THEN 'disabled'
                        WHEN password_hash IS NULL AND email_verified_at IS NULL AND last_login_at IS NULL
                        THEN 'unverified'
                        ELSE 'active' END,
           authz_epoch = authz_epoch + 1
     WHERE id = %(user_id)s
    """,
)

SET_DELETED = sql(
    Nothing,
    """
    UPDATE identity.users
       SET deleted_at = CASE WHEN %(is_deleted)s THEN clock_timestamp() END, authz_epoch = authz_epoch + 1
     WHERE id = %(user_id)s
    """,
)

UNLOCK_USER = sql(
    Nothing,
    """
    UPDATE identity.users SET failed_login_attempts = 0, locked_until = NULL WHERE id = %(user_id)s
    """,
)

FIND_ERASED = sql(bool, "SELECT erased_at IS NOT NULL FROM identity.users WHERE id = %(user_id)s")

SET_SUPERUSER = sql(bool, "SELECT identity.set_superuser(%(user_id)s, %(is_superuser)s)")


def normal_login(login: str) -> str:
    """How e-mail addresses and user names are stored and compared: look-alikes that Unicode itself
    calls the same (full-width letters, ligatures) are the same; both are ASCII when they are made,
    so no other alphabet passes for one."""
    return unicodedata.normalize("NFKC", login).strip().casefold()


def _in_detail(tx: Tx, user_id: str = "") -> bool:
    """Whether the caller sees all of somebody: themselves, or as who may manage users."""
    caller = tx.call.caller
    return caller.may(Permission.PERMISSION_USER_MANAGE) or user_id == caller.user_id


async def get_user(tx: Tx, user_id: str, *, show_deleted: bool = False) -> User:
    """Raises NotFound(USER_NOT_FOUND), also for users of other organisations only."""
    user = await tx.one(
        GET_USER,
        org_id=tx.call.caller.org_id,
        user_id=user_id,
        in_detail=_in_detail(tx, user_id),
        show_deleted=show_deleted,
    )
    if user is None:
        raise NotFound("USER_NOT_FOUND", f"There is no user {user_id}.")
    return user


async def list_users(tx: Tx, pages: Pages, request: ListUsersRequest) -> ListUsersResponse:
    """One page of the organisation's users, newest first."""
    org_id, in_detail = tx.call.caller.org_id, _in_detail(tx)
    size, after = pages.page(request, org_id)
    rows = await tx.all(
        LIST_USERS,
        org_id=org_id,
        in_detail=in_detail,
        show_deleted=request.show_deleted and in_detail,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return ListUsersResponse(
        users=rows[:size],
        next_page_token=pages.next_token(request, rows, size, "id", scope=org_id),
    )


async def create_user(tx: Tx, request: CreateUserRequest, password_hash: str | None) -> User:
    """A new user of the caller's organisation; without a password they choose it through a mail.
    UniqueViolation: see `taken`."""
    role = enum_text(request, "role", request.role) or ""
    check_may_grant(tx, role)
    user_id, org_id = new_id(), tx.call.caller.org_id
    await tx.run(
        INSERT_USER,
        id=user_id,
        email=normal_login(request.email),
        username=normal_login(request.username),
        display_name=request.display_name,
        password_hash=password_hash,
        is_verified=False,
    )
    await tx.run(INSERT_MEMBERSHIP, org_id=org_id, user_id=user_id, role=role)
    if password_hash is None:
        await mail.ask(tx, "welcome", user_id=user_id)
    user = await get_user(tx, user_id)
    record(
        tx,
        "user.create",
        "user",
        user.id,
        new={"email": user.email, "username": user.username, "role": role},
    )
    return user


def taken(error: BaseException) -> BaseException:
    """What a UniqueViolation of the users table means: EMAIL_TAKEN or USERNAME_TAKEN."""
    return TAKEN.get(violated(error), error)


async def lock_managed(tx: Tx, user_id: str, *, show_deleted: bool = False) -> User:
    """A user whose account the caller may manage, locked.

    Raises NotFound, NotReady(USER_MANAGED_ELSEWHERE), Denied(PERMISSION_MISSING) for somebody who
    may do more.
    """
    await lock_person(tx, user_id)
    user = await get_user(tx, user_id, show_deleted=show_deleted)
    if not user.is_managed_here:
        raise NotReady(
            "USER_MANAGED_ELSEWHERE",
            "Another organisation manages this account; here, only the membership can be changed.",
        )
    await check_may_manage(tx, user)
    return user


async def update_user(tx: Tx, request: UpdateUserRequest) -> User:
    """Raises NotFound, NotReady(USER_MANAGED_ELSEWHERE), Conflict(ETAG_MISMATCH), Invalid.
    UniqueViolation: see `taken`."""
    paths = checked_paths(request.update_mask.paths, UPDATABLE)
    old = await lock_managed(tx, request.user.id)
    new = await _update(tx, old, request.user, paths, request.etag)
    record(tx, "user.update", "user", old.id, old=_facts(old, paths), new=_facts(new, paths))
    return new


async def _update(tx: Tx, old: User, wanted: User, paths: list[str], etag: str) -> User:
    if "username" in paths and not wanted.username:
        raise must_be_given("user.username")
    check_etag(etag, old.etag)
    metadata = struct_dict(wanted.metadata)
    check_metadata(metadata)
    await tx.run(
        UPDATE_USER,
        user_id=old.id,
        paths=paths,
        display_name=wanted.display_name,
        username=normal_login(wanted.username),
        picture_url=wanted.picture_url,
        metadata=orjson.dumps(metadata).decode(),
        preferences=orjson.dumps(struct_dict(wanted.preferences)).decode(),
    )
    return await get_user(tx, old.id)


async def update_own(
    tx: Tx, wanted: User, paths: list[str], etag: str
) -> tuple[User, dict[str, object], dict[str, object]]:
    """The caller's own row; new state, and old and new facts for the log."""
    await lock_person(tx, tx.call.caller.user_id)
    old = await get_user(tx, tx.call.caller.user_id)
    new = await _update(tx, old, wanted, paths, etag)
    return new, _facts(old, paths), _facts(new, paths)


def _facts(user: User, paths: list[str]) -> dict[str, object]:
    """Of the fields that may have changed, for the log."""
    found: dict[str, object] = {}
    for path in paths:
        value = getattr(user, path)
        found[path] = value if isinstance(value, str) else struct_dict(value)
    return found


async def disable_user(tx: Tx, user_id: str) -> User:
    """Raises NotFound, NotReady: LAST_ADMIN, USER_MANAGED_ELSEWHERE."""
    await check_not_last_admin(tx, user_id)
    user = await lock_managed(tx, user_id)
    await check_not_last_operator(tx, user_id)
    await tx.run(SET_STATE, user_id=user_id, is_disabled=True)
    await end_sessions(tx, user_id, "disabled")
    await end_invitations(tx, user_id)
    _note(tx, "user.disable", user, {"state": "disabled"})
    return await get_user(tx, user_id)


async def enable_user(tx: Tx, user_id: str) -> User:
    """Raises NotFound, NotReady(USER_MANAGED_ELSEWHERE)."""
    user = await lock_managed(tx, user_id)
    await tx.run(SET_STATE, user_id=user_id, is_disabled=False)
    _note(tx, "user.enable", user, {"state": "active"})
    return await get_user(tx, user_id)


async def unlock_user(tx: Tx, user_id: str) -> User:
    """Only the row; the throttle forgives its identifiers after the commit."""
    user = await lock_managed(tx, user_id)
    await tx.run(UNLOCK_USER, user_id=user_id)
    _note(tx, "user.unlock", user, {"failed_login_attempts": 0})
    return await get_user(tx, user_id)


async def delete_user(tx: Tx, user_id: str) -> User:
    """Raises NotFound, NotReady: LAST_ADMIN, USER_MANAGED_ELSEWHERE."""
    await check_not_last_admin(tx, user_id)
    user = await lock_managed(tx, user_id)
    await check_not_last_operator(tx, user_id)
    await tx.run(SET_DELETED, user_id=user_id, is_deleted=True)
    await end_sessions(tx, user_id, "deleted")
    await end_invitations(tx, user_id)
    _note(tx, "user.delete", user, {"deleted": True})
    return await get_user(tx, user_id, show_deleted=True)


async def undelete_user(tx: Tx, user_id: str) -> User:
    """Raises NotFound, also for who was erased. UniqueViolation: see `taken`."""
    user = await lock_managed(tx, user_id, show_deleted=True)
    if await tx.one(FIND_ERASED, user_id=user_id):
        raise NotFound("USER_NOT_FOUND", f"There is no user {user_id} any more.")
    await tx.run(SET_DELETED, user_id=user_id, is_deleted=False)
    _note(tx, "user.undelete", user, {"deleted": False})
    return await get_user(tx, user_id)


async def send_password_reset(tx: Tx, user_id: str) -> None:
    """Asks for the mail; nobody but the person sees the link."""
    user = await lock_managed(tx, user_id)
    await mail.ask(tx, "password_reset", user_id=user_id)
    _note(tx, "user.send_password_reset", user, {})


async def reset_second_factor(tx: Tx, user_id: str) -> User:
    """Raises NotFound, NotReady: TOTP_NOT_ENROLLED, USER_MANAGED_ELSEWHERE."""
    user = await lock_managed(tx, user_id)
    await remove_totp(tx, user_id)
    await end_sessions(tx, user_id, "second_factor_reset")
    await spend_others(tx, user_id, "email_change")
    await mail.ask(tx, "security_notice", user_id=user_id, what="second_factor_reset")
    _note(tx, "user.reset_second_factor", user, {"has_second_factor": False})
    return await get_user(tx, user_id)


async def end_user_sessions(tx: Tx, user_id: str) -> int:
    """Those in the caller's organisation; how many."""
    user = await get_user(tx, user_id)
    await check_may_manage(tx, user)
    ended = await end_sessions(tx, user_id, "ended_by_administrator", org_id=tx.call.caller.org_id)
    # Which such a session may have asked for. Where the person is a guest, it is their home's matter.
    await spend_others(tx, user_id, "email_change")
    _note(tx, "user.end_sessions", user, {"ended": ended})
    return ended


async def set_superuser(tx: Tx, user_id: str, is_superuser: bool) -> None:
    """For operators. Raises NotFound, also when the last operator would go."""
    if not await tx.one(SET_SUPERUSER, user_id=user_id, is_superuser=is_superuser):
        raise NotFound("USER_NOT_FOUND", f"There is no such user, or no other operator: {user_id}.")
    record(
        tx,
        "user.set_superuser",
        "user",
        user_id,
        new={"is_superuser": is_superuser},
        severity=Severity.WARNING,
        kind=Kind.SECURITY,
    )


def _note(tx: Tx, action: str, user: User, new: dict[str, object]) -> None:
    record(
        tx,
        action,
        "user",
        user.id,
        new={"username": user.username, **new},
        severity=Severity.NOTICE,
        kind=Kind.SECURITY,
    )
