"""Sessions: opening, listing and ending them.

A session always gets an id and a refresh token of its own; nothing a client presents becomes one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from google.protobuf.timestamp_pb2 import Timestamp
from psycopg.errors import NotNullViolation

from chimera.call import Caller
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotFound
from chimera.identity.calls import as_caller
from chimera.identity.endings import CHANGES
from chimera.identity.tokens import Issued, hash_of, new_refresh_token
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.settings import Settings
from chimera.v1.accounts_pb2 import ListSessionsRequest, ListSessionsResponse
from chimera.v1.identity_pb2 import (
    ListUserSessionsRequest,
    ListUserSessionsResponse,
    Session,
    SessionTokens,
    User,
)

__all__ = ["as_caller", "open_session", "session_tokens"]


@dataclass(frozen=True, slots=True)
class Device:
    """What a session is opened from. `known_id` when the device was known; else `new_token`, to be
    kept by it, unless it is to stay unknown."""

    known_id: str = ""
    new_token: str = ""
    name: str = ""
    platform: str = ""

    def info(self) -> dict[str, str]:
        given = {"name": self.name, "platform": self.platform}
        return {key: value for key, value in given.items() if value}


@dataclass(frozen=True, slots=True, repr=False)
class NewSession:
    """Whose it is, as they see themselves. The refresh token is shown to them only."""

    session_id: str
    org_id: str
    user: User
    authz_epoch: int
    refresh_token: str
    refresh_expires_at: datetime
    is_vouched: bool = False


@dataclass(frozen=True, slots=True)
class Parent:
    """A session that another one is opened out of, which is as old as it, ends no later and ends with
    it."""

    session_id: str
    signed_in_at: datetime
    absolute_expires_at: datetime


# One statement: a login that is no longer allowed (the account was changed meanwhile) opens nothing,
# and fails (NotNullViolation), for the token then has no session: so it may be the last statement.
# It answers with the person as GET_USER does, who is told at every login.
OPEN_SESSION = sql(
    User,
    """
    WITH person AS (
        UPDATE identity.users
           SET failed_login_attempts = 0, last_login_at = clock_timestamp()
         WHERE id = %(user_id)s AND state = 'active' AND deleted_at IS NULL
           AND authz_epoch = %(authz_epoch)s
           AND (%(password_changed_at)s::timestamptz IS NULL
                OR password_changed_at = %(password_changed_at)s::timestamptz)
        RETURNING *
    ), known AS (
        UPDATE identity.devices d
           SET last_used_at = clock_timestamp(),
               expires_at = clock_timestamp() + make_interval(days => %(device_days)s)
          FROM person WHERE d.id = %(known_id)s::uuid AND d.user_id = person.id
    ), device AS (
        INSERT INTO identity.devices (id, user_id, token_hash, user_agent, expires_at)
        SELECT %(device_id)s::uuid, person.id, %(device_hash)s::bytea, %(user_agent)s,
               clock_timestamp() + make_interval(days => %(device_days)s)
          FROM person WHERE %(device_hash)s::bytea IS NOT NULL
    ), session AS (
        INSERT INTO identity.sessions (id, org_id, user_id, device_info, ip_address, user_agent, device_id,
                                       absolute_expires_at, auth_time, second_factor_at, is_vouched,
                                       parent_id, signed_in_at)
        SELECT %(id)s::uuid, %(org_id)s::uuid, person.id, %(device_info)s::jsonb, %(ip_address)s::inet,
               %(user_agent)s, COALESCE(%(known_id)s::uuid, %(device_id)s::uuid),
               LEAST(clock_timestamp() + make_interval(secs => %(absolute_s)s),
                     %(ends_at)s::timestamptz),
               COALESCE(to_timestamp(%(auth_time)s::float8), clock_timestamp()),
               CASE WHEN %(has_second_factor)s
                    THEN COALESCE(to_timestamp(%(second_factor_at)s::float8), clock_timestamp()) END,
               %(is_vouched)s, %(parent_id)s::uuid, %(signed_in_at)s::timestamptz
          FROM person
        RETURNING id
    ), token AS (
        INSERT INTO identity.refresh_tokens (token_hash, session_id, org_id, user_id, generation, expires_at)
        SELECT %(token_hash)s, (SELECT id FROM session), %(org_id)s::uuid, %(user_id)s::uuid, 1,
               LEAST(%(expires_at)s::timestamptz, %(ends_at)s::timestamptz)
    )
    SELECT p.id, p.email, p.username, p.display_name, %(role)s::text AS role, p.state, p.preferences,
           p.picture_url, p.last_login_at, p.created_at, p.updated_at, p.metadata, p.email_verified_at,
           p.totp_confirmed_at IS NOT NULL AS has_second_factor, p.locked_until,
           p.failed_login_attempts, p.password_changed_at, p.erase_at, p.is_superuser,
           p.home_org_id IS NOT DISTINCT FROM %(org_id)s::uuid AS is_managed_here,
           to_char(p.updated_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') AS etag
      FROM person p
    """,
)

# Opening a session locks the person as well: none descends from another while that is being ended.
LOCK_PERSON = sql(Nothing, "SELECT FROM identity.users WHERE id = %(user_id)s FOR NO KEY UPDATE")

END_SESSION = sql(
    str,
    """
    WITH RECURSIVE family AS (
        SELECT s.id FROM identity.sessions s
         WHERE s.id = %(session_id)s AND s.user_id = %(user_id)s
        UNION
        SELECT s.id FROM family f
          JOIN identity.sessions s ON s.parent_id = f.id AND s.user_id = %(user_id)s
    )
    UPDATE identity.sessions s
       SET is_active = false, ended_reason = %(reason)s, ended_at = clock_timestamp()
      FROM family f WHERE s.id = f.id AND s.is_active
    RETURNING s.id
    """,
)

END_SESSIONS = sql(
    str,
    """
    UPDATE identity.sessions
       SET is_active = false, ended_reason = %(reason)s, ended_at = clock_timestamp()
     WHERE user_id = %(user_id)s AND is_active AND id <> COALESCE(%(but)s::uuid, gen_random_uuid())
       AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
    RETURNING id
    """,
    prepare=False,
)

FORGET_DEVICES = sql(
    Nothing,
    """
    DELETE FROM identity.devices d
     WHERE d.user_id = %(user_id)s
       AND NOT EXISTS (SELECT FROM identity.sessions s WHERE s.id = %(but)s::uuid AND s.device_id = d.id)
    """,
)

RENEW_AUTH_TIME = sql(
    datetime,
    """
    UPDATE identity.sessions
       SET auth_time = clock_timestamp(),
           second_factor_at = CASE WHEN %(has_second_factor)s THEN clock_timestamp() ELSE second_factor_at END,
           is_vouched = is_vouched AND NOT %(has_second_factor)s
     WHERE id = %(session_id)s AND is_active
    RETURNING auth_time
    """,
)

FIND_RESTRICTION = sql(str, "SELECT restriction FROM identity.session_state(%(session_id)s)")

# One whose newest refresh token has run out cannot go on, whatever is left until its absolute end.
LIST_SESSIONS = sql(
    Session,
    """
    SELECT s.id, s.org_id AS organisation_id, s.device_info, host(s.ip_address) AS ip_address,
           s.user_agent, going.is_on AS is_active, s.ended_reason,
           s.created_at, s.last_used_at, s.absolute_expires_at AS expires_at,
           NULLIF(s.auth_time, to_timestamp(0)) AS auth_time,
           s.second_factor_at IS NOT NULL AS has_second_factor,
           s.id = %(current)s::uuid AS is_current
      FROM identity.sessions s
     CROSS JOIN LATERAL (
        SELECT s.is_active AND s.absolute_expires_at > now()
               AND COALESCE((SELECT t.used_at IS NULL AND t.expires_at > now()
                               FROM identity.refresh_tokens t WHERE t.session_id = s.id
                              ORDER BY t.generation DESC LIMIT 1), false) AS is_on) going
     WHERE s.user_id = %(user_id)s AND (%(org_id)s::uuid IS NULL OR s.org_id = %(org_id)s::uuid)
       AND (%(show_ended)s OR going.is_on)
       AND (%(after)s::uuid IS NULL OR s.id < %(after)s::uuid)
     ORDER BY s.id DESC
     LIMIT %(limit)s
    """,
    prepare=False,
)


async def open_session(
    tx: Tx,
    settings: Settings,
    *,
    session_id: str,
    authz_epoch: int,
    device: Device,
    has_second_factor: bool = False,
    second_factor_at: float | None = None,
    is_vouched: bool = False,
    auth_time: float | None = None,
    password_changed_at: datetime | None = None,
    parent: Parent | None = None,
    is_last: bool = False,
) -> NewSession | None:
    """A session of tx.call.caller, whose state, epoch and (when given) password are checked once
    more; None when they are not what they were: nothing else can be done in tx then. `auth_time`,
    `second_factor_at` in Unix seconds: of an earlier proof that is carried over. is_vouched: the
    second factor is a provider's word. parent: the session it is opened out of. is_last: with what was recorded before, and committed."""
    call, token = tx.call, new_refresh_token()
    lasts_s = min(settings.refresh_idle_s, settings.refresh_absolute_s)
    expires_at = datetime.now(UTC) + timedelta(seconds=lasts_s)
    if parent is not None:
        expires_at = min(expires_at, parent.absolute_expires_at)
    send = tx.last if is_last else tx.one
    try:
        user = await send(
            OPEN_SESSION,
            id=session_id,
            org_id=call.caller.org_id,
            user_id=call.caller.user_id,
            role=call.caller.role,
            authz_epoch=authz_epoch,
            password_changed_at=password_changed_at,
            known_id=device.known_id or None,
            device_id=new_id() if device.new_token else None,
            device_hash=hash_of(device.new_token) if device.new_token else None,
            device_days=settings.device_days,
            device_info=orjson.dumps(device.info()).decode(),
            ip_address=call.ip_address or None,
            user_agent=call.user_agent,
            absolute_s=settings.refresh_absolute_s,
            expires_at=expires_at,
            auth_time=auth_time,
            has_second_factor=has_second_factor,
            second_factor_at=second_factor_at,
            is_vouched=is_vouched,
            parent_id=parent.session_id if parent else None,
            signed_in_at=parent.signed_in_at if parent else None,
            ends_at=parent.absolute_expires_at if parent else None,
            token_hash=hash_of(token),
        )
    except NotNullViolation as error:
        # What was recorded, for one, may fail like that.
        if error.diag.table_name != "refresh_tokens":
            raise
        return None
    assert user is not None
    org_id = call.caller.org_id
    return NewSession(session_id, org_id, user, authz_epoch, token, expires_at, is_vouched)


async def restriction_of(tx: Tx, session_id: str) -> str:
    """What has to be done in the session before it may do more; as on Caller."""
    return await tx.one(FIND_RESTRICTION, session_id=session_id) or ""


def session_tokens(
    access: Issued, refresh_token: str, refresh_expires_at: datetime
) -> SessionTokens:
    return SessionTokens(
        access_token=access.token,
        access_expires_at=Timestamp(seconds=access.expires_at),
        refresh_token=refresh_token,
        refresh_expires_at=refresh_expires_at,
    )


async def lock_person(tx: Tx, user_id: str) -> None:
    """Before any of their sessions, keys and links, by what makes and what ends them."""
    await tx.run(LOCK_PERSON, user_id=user_id)


async def end_family(tx: Tx, session_id: str, reason: str) -> list[str]:
    """Ends one of the caller's sessions and what descends from it; which ones. In this process at
    once, elsewhere within STATE_AGE_S."""
    user_id = tx.call.caller.user_id
    await lock_person(tx, user_id)
    ended = await tx.all(END_SESSION, session_id=session_id, user_id=user_id, reason=reason)
    _note_ends(tx, ended)
    return ended


def _note_ends(tx: Tx, ended: list[str]) -> None:
    def note() -> None:
        for session_id in ended:
            CHANGES.note_end(session_id)

    tx.after_commit.append(note)


async def log_out(tx: Tx) -> None:
    """Ends the caller's session, and those in other organisations that were opened out of it."""
    await end_family(tx, tx.call.caller.session_id, "logout")


async def end_session(tx: Tx, session_id: str) -> None:
    """The same for any session of the caller's. Raises NotFound(SESSION_NOT_FOUND), also for one that
    has ended."""
    if session_id not in await end_family(tx, session_id, "ended_by_owner"):
        raise NotFound("SESSION_NOT_FOUND", f"You have no session {session_id} that goes on.")


async def end_sessions(
    tx: Tx, user_id: str, reason: str, *, but: str = "", org_id: str = ""
) -> int:
    """Ends a person's sessions (all of them, or those of one organisation) but one; how many."""
    await lock_person(tx, user_id)
    ended = await tx.all(
        END_SESSIONS, user_id=user_id, reason=reason, but=but or None, org_id=org_id or None
    )
    _note_ends(tx, ended)
    return len(ended)


async def forget_devices(tx: Tx, *, but_of_session: str = "") -> None:
    """None of the caller's devices is known any more, but that of the session."""
    user_id = tx.call.caller.user_id
    await tx.run(FORGET_DEVICES, user_id=user_id, but=but_of_session or None)


async def renew_auth_time(tx: Tx, *, has_second_factor: bool) -> datetime:
    """The person has just proved who they are. Raises NotFound(SESSION_NOT_FOUND)."""
    session_id = tx.call.caller.session_id
    renewed = await tx.one(
        RENEW_AUTH_TIME, session_id=session_id, has_second_factor=has_second_factor
    )
    if renewed is None:
        raise NotFound("SESSION_NOT_FOUND", "This session has ended; sign in again.")
    tx.after_commit.append(CHANGES.note)
    return renewed


async def _list_sessions(
    tx: Tx, pages: Pages, request: Any, *, user_id: str, org_id: str, show_ended: bool
) -> tuple[list[Session], str]:
    scope = f"{org_id}/{user_id}"
    size, after = pages.page(request, scope)
    rows = await tx.all(
        LIST_SESSIONS,
        user_id=user_id,
        org_id=org_id or None,
        show_ended=show_ended,
        current=tx.call.caller.session_id or None,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "id", scope=scope)


async def list_sessions(tx: Tx, pages: Pages, request: ListSessionsRequest) -> ListSessionsResponse:
    """One page of the caller's sessions in all organisations, newest first."""
    rows, token = await _list_sessions(
        tx,
        pages,
        request,
        user_id=tx.call.caller.user_id,
        org_id="",
        show_ended=request.show_ended,
    )
    return ListSessionsResponse(sessions=rows, next_page_token=token)


async def list_user_sessions(
    tx: Tx, pages: Pages, request: ListUserSessionsRequest
) -> ListUserSessionsResponse:
    """One page of a user's sessions in the caller's organisation, newest first."""
    rows, token = await _list_sessions(
        tx,
        pages,
        request,
        user_id=request.user_id,
        org_id=tx.call.caller.org_id,
        show_ended=False,
    )
    return ListUserSessionsResponse(sessions=rows, next_page_token=token)


def session_caller(caller: Caller, session_id: str) -> Caller:
    """The person, in the session that is being opened."""
    return Caller(
        "user",
        org_id=caller.org_id,
        user_id=caller.user_id,
        session_id=session_id,
        role=caller.role,
    )
