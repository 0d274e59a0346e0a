"""Users: people and their membership in the caller's organisation."""

from __future__ import annotations

import unicodedata

from chimera.db import Nothing, Tx, sql, violated
from chimera.faults import AlreadyExists, Denied, NotFound
from chimera.identity.roles import permissions_of
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.rows import enum_text
from chimera.v1.identity_pb2 import (
    CreateUserRequest,
    ListUsersRequest,
    ListUsersResponse,
    Organisation,
    User,
)

TAKEN = {
    "users_email": AlreadyExists("EMAIL_TAKEN", "Somebody has this e-mail address already."),
    "users_username": AlreadyExists("USERNAME_TAKEN", "Somebody has this user name already."),
}

GET_USER = sql(
    User,
    """
    SELECT u.id, u.email, u.username, u.display_name, m.role, u.state, u.preferences, u.picture_url,
           u.last_login_at, u.created_at, u.updated_at
      FROM identity.memberships m
      JOIN identity.users u ON u.id = m.user_id
     WHERE m.org_id = %(org_id)s AND m.user_id = %(user_id)s AND u.deleted_at IS NULL
    """,
)

LIST_USERS = sql(
    User,
    """
    SELECT u.id, u.email, u.username, u.display_name, m.role, u.state, u.preferences, u.picture_url,
           u.last_login_at, u.created_at, u.updated_at
      FROM identity.memberships m
      JOIN identity.users u ON u.id = m.user_id
     WHERE m.org_id = %(org_id)s AND u.deleted_at IS NULL
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
           (id, email, username, display_name, password_hash, password_changed_at, state)
    VALUES (%(id)s, %(email)s, %(username)s, %(display_name)s, %(password_hash)s, now(), 'active')
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


def normal_login(login: str) -> str:
    """How e-mail addresses and user names are stored and compared."""
    return unicodedata.normalize("NFC", login).strip().lower()


async def get_user(tx: Tx, user_id: str) -> User:
    """Raises NotFound(USER_NOT_FOUND), also for users of other organisations only."""
    user = await tx.one(GET_USER, org_id=tx.call.caller.org_id, user_id=user_id)
    if user is None:
        raise NotFound("USER_NOT_FOUND", f"There is no user {user_id}.")
    return user


async def list_users(tx: Tx, pages: Pages, request: ListUsersRequest) -> ListUsersResponse:
    """One page of the organisation's users, newest first."""
    org_id = tx.call.caller.org_id
    size, after = pages.page(request, org_id)
    rows = await tx.all(
        LIST_USERS, org_id=org_id, after=after[0] if after else None, limit=size + 1
    )
    return ListUsersResponse(
        users=rows[:size],
        next_page_token=pages.next_token(request, rows, size, "id", scope=org_id),
    )


def check_may_grant(tx: Tx, role: str) -> None:
    """Raises Denied(PERMISSION_MISSING): nobody grants what they do not hold lastingly. A narrow API
    key, or an administrator until tomorrow, could otherwise make a lasting one."""
    caller = tx.call.caller
    if not caller.is_operator and not permissions_of(role) <= caller.lasting:
        raise Denied("PERMISSION_MISSING", f"The role {role} allows more than this caller may do.")


async def create_user(tx: Tx, request: CreateUserRequest, password_hash: str) -> User:
    """A new, active user of the caller's organisation. UniqueViolation: see `taken`."""
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
    )
    await tx.run(INSERT_MEMBERSHIP, org_id=org_id, user_id=user_id, role=role)
    return await get_user(tx, user_id)


def taken(error: BaseException) -> BaseException:
    """What a UniqueViolation of the users table means: EMAIL_TAKEN or USERNAME_TAKEN."""
    return TAKEN.get(violated(error), error)
