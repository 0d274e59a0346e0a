"""Sessions of people whom somebody else vouches for: no password is asked, and may not exist."""

from __future__ import annotations

import re
from dataclasses import dataclass

from chimera.db import Nothing, Tx, sql
from chimera.faults import Unauthenticated
from chimera.identity import sessions
from chimera.identity.challenges import insert_challenge
from chimera.identity.sessions import Device, NewSession, session_caller
from chimera.identity.users import INSERT_MEMBERSHIP, normal_login
from chimera.ids import new_id
from chimera.settings import Settings
from chimera.v1.identity_pb2 import LoginChallenge

_NOT_IN_A_NAME = re.compile(r"[^a-z0-9._-]+")

INSERT_USER_WITHOUT_PASSWORD = sql(
    Nothing,
    """
    INSERT INTO identity.users (id, email, username, display_name, picture_url, state)
    VALUES (%(id)s, %(email)s, %(username)s, %(display_name)s, %(picture_url)s, 'active')
    """,
)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a session depends on, now."""

    authz_epoch: int
    has_second_factor: bool
    home_org_id: str | None
    is_superuser: bool


FIND_STANDING = sql(
    Standing,
    """
    SELECT authz_epoch, totp_confirmed_at IS NOT NULL AS has_second_factor, home_org_id,
           is_superuser
      FROM identity.users WHERE id = %(user_id)s
    """,
)


async def open_session(
    tx: Tx, settings: Settings, *, provider_org_id: str, vouched_at: float | None
) -> NewSession | LoginChallenge:
    """A session for the caller, which tx.call is a part of from then on; for those who have a second
    factor the challenge for one. Raises Unauthenticated(ACCOUNT_DISABLED).

    provider_org_id: whose provider vouches for the person; empty for one of the installation's. What an
    organisation vouches for counts inside it. For the account as such it counts only where that is the
    organisation's: others have proved nothing here (auth_time 0) until they step up. Nor have operators
    of the installation, whose mark reaches beyond any organisation: without a proof it does not count.
    vouched_at: when the provider asked for a second factor, in Unix seconds, if it is believed to have.
    """
    standing = await tx.one(FIND_STANDING, user_id=tx.call.caller.user_id)
    if standing is None:
        raise _disabled()
    is_guest = bool(provider_org_id) and standing.home_org_id != provider_org_id
    is_unproven = is_guest or (bool(provider_org_id) and standing.is_superuser)
    is_vouched = vouched_at is not None and not is_guest
    if standing.has_second_factor and not is_vouched:
        return await insert_challenge(tx, standing.authz_epoch, Device())
    session_id = new_id()
    tx.call.caller = session_caller(tx.call.caller, session_id)
    session = await sessions.open_session(
        tx,
        settings,
        session_id=session_id,
        authz_epoch=standing.authz_epoch,
        device=Device(),
        has_second_factor=is_vouched,
        second_factor_at=vouched_at,
        is_vouched=is_vouched,
        auth_time=0.0 if is_unproven else None,
    )
    if session is None:
        raise _disabled()
    return session


def _disabled() -> Unauthenticated:
    return Unauthenticated("ACCOUNT_DISABLED", "This account is not active.")


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
