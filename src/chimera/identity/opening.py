"""Sessions of people whom somebody else vouches for: no password is asked, and may not exist."""

from __future__ import annotations

import re
from datetime import datetime

from chimera.db import Nothing, Tx, sql
from chimera.faults import Unauthenticated
from chimera.identity import sessions
from chimera.identity.users import INSERT_MEMBERSHIP, normal_login
from chimera.settings import Settings

_NOT_IN_A_NAME = re.compile(r"[^a-z0-9._-]+")

INSERT_USER_WITHOUT_PASSWORD = sql(
    Nothing,
    """
    INSERT INTO identity.users (id, email, username, display_name, picture_url, state)
    VALUES (%(id)s, %(email)s, %(username)s, %(display_name)s, %(picture_url)s, 'active')
    """,
)
FIND_EPOCH = sql(int, "SELECT authz_epoch FROM identity.users WHERE id = %(user_id)s")


async def open_session(tx: Tx, settings: Settings) -> tuple[str, datetime, int]:
    """A session for the caller, whose session_id is new: its first refresh token, when that ends,
    and the caller's epoch. Raises Unauthenticated(ACCOUNT_DISABLED)."""
    caller = tx.call.caller
    epoch = await tx.one(FIND_EPOCH, user_id=caller.user_id) or 0
    session = await sessions.open_session(
        tx, settings, session_id=caller.session_id, authz_epoch=epoch, device=sessions.Device()
    )
    if session is None:
        raise Unauthenticated("ACCOUNT_DISABLED", "This account is not active.")
    return session.refresh_token, session.refresh_expires_at, epoch


async def add_user_without_password(
    tx: Tx, *, email: str, username: str, display_name: str, picture_url: str
) -> None:
    """The caller, as a new and active user of its organisation with its role. UniqueViolation: see
    users.taken."""
    caller = tx.call.caller
    await tx.run(
        INSERT_USER_WITHOUT_PASSWORD,
        id=caller.user_id,
        email=normal_login(email),
        username=username,
        display_name=display_name,
        picture_url=picture_url if picture_url.startswith("https://") else "",
    )
    await tx.run(INSERT_MEMBERSHIP, org_id=caller.org_id, user_id=caller.user_id, role=caller.role)


def user_name_from(*wishes: str) -> str:
    """A valid user name like the first of the wishes that gives one."""
    for wish in wishes:
        name = _NOT_IN_A_NAME.sub("-", wish.lower()).strip("._-")[:50]
        if len(name) > 1:
            return name
    return "user"
