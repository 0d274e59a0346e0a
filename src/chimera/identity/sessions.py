"""Sessions: signing in and out.

What must stay true: whatever is wrong with a login (nobody, a wrong password, a disabled account),
it runs the same statements, one Argon2 and one COMMIT that writes, and takes a multiple of 50 ms.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import psycopg
import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from chimera.audit.recording import record
from chimera.call import ANONYMOUS, NOBODY, Call, Caller
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.faults import Denied, Exhausted, Fault, Unauthenticated
from chimera.identity.endings import ENDED
from chimera.identity.passwords import Hasher
from chimera.identity.throttle import LOCK_AFTER_FAILURES, LOCK_S, Throttle, key_of
from chimera.identity.tokens import Issued, hash_of, new_refresh_token
from chimera.identity.users import get_user, normal_login
from chimera.ids import new_id
from chimera.v1.identity_pb2 import LoginRequest, SessionTokens, User
from chimera.v1.options_pb2 import Access

log = structlog.get_logger("chimera.identity")

STEP_S = 0.05


@dataclass(frozen=True, slots=True, repr=False)
class Account:
    """Somebody who may sign in, and into which organisation."""

    user_id: str
    org_id: str
    role: str
    password_hash: str | None
    state: str
    is_superuser: bool
    locked_until: datetime | None
    authz_epoch: int


@dataclass(frozen=True, slots=True, repr=False)
class Opened:
    """A new session; the token is shown to its owner only."""

    account: Account
    session_id: str
    refresh_token: str
    refresh_expires_at: datetime
    user: User


FIND_LOGIN = sql(Account, "SELECT * FROM identity.find_login(%(login)s)")

# A record in the write-ahead log even when NOTE_FAILURE finds nobody: each COMMIT has one to flush.
WEIGH = sql(Nothing, "SELECT pg_logical_emit_message(true, 'session.login', '')")

NOTE_FAILURE = sql(
    Nothing,
    """
    UPDATE identity.users
       SET failed_login_attempts = failed_login_attempts + 1,
           locked_until = CASE WHEN %(locked)s THEN clock_timestamp() + make_interval(secs => %(lock_s)s)
                               ELSE locked_until END
     WHERE id = %(user_id)s
    """,
)

# The account may have changed while its password was verified.
NOTE_LOGIN = sql(
    Nothing,
    """
    UPDATE identity.users
       SET failed_login_attempts = 0, locked_until = NULL, last_login_at = clock_timestamp()
     WHERE id = %(user_id)s AND state = 'active' AND deleted_at IS NULL
       AND authz_epoch = %(authz_epoch)s
    """,
)

INSERT_SESSION = sql(
    Nothing,
    """
    INSERT INTO identity.sessions (id, org_id, user_id, ip_address, user_agent, absolute_expires_at)
    VALUES (%(id)s, %(org_id)s, %(user_id)s, %(ip_address)s::inet, %(user_agent)s,
            clock_timestamp() + make_interval(secs => %(absolute_s)s))
    """,
)

INSERT_REFRESH_TOKEN = sql(
    datetime,
    """
    INSERT INTO identity.refresh_tokens (token_hash, session_id, org_id, user_id, generation, expires_at)
    SELECT %(token_hash)s, s.id, s.org_id, s.user_id, 1,
           LEAST(clock_timestamp() + make_interval(secs => %(idle_s)s), s.absolute_expires_at)
      FROM identity.sessions s WHERE s.id = %(session_id)s
    RETURNING expires_at
    """,
)

END_SESSION = sql(
    Nothing,
    """
    UPDATE identity.sessions SET is_active = false, ended_reason = %(reason)s
     WHERE id = %(session_id)s AND is_active
    """,
)

REPLACE_HASH = sql(
    Nothing,
    """
    UPDATE identity.users SET password_hash = %(new)s
     WHERE id = %(user_id)s AND password_hash = %(old)s
    """,
)


def as_caller(call: Call, caller: Caller, *, audited: bool = True) -> Call:
    """The same call on behalf of `caller`: how a public RPC goes on once it knows who it is."""
    return replace(call, caller=caller, access=call.access if audited else Access())


def session_tokens(
    access: Issued, refresh_token: str, refresh_expires_at: datetime
) -> SessionTokens:
    return SessionTokens(
        access_token=access.token,
        access_expires_at=Timestamp(seconds=access.expires_at),
        refresh_token=refresh_token,
        refresh_expires_at=refresh_expires_at,
    )


async def log_out(tx: Tx) -> None:
    """Ends the caller's session; in this process at once, elsewhere within STATE_AGE_S."""
    session_id = tx.call.caller.session_id
    if not session_id:
        raise Denied("PERMISSION_MISSING", "An API key has no session to end; revoke it instead.")
    await tx.run(END_SESSION, session_id=session_id, reason="logout")
    tx.after_commit.append(lambda: ENDED.note(session_id))


class Logins:
    """Signs people in, for one server process."""

    def __init__(self, core: Core, hasher: Hasher) -> None:
        self.db, self.settings, self.hasher = core.db, core.settings, hasher
        self.throttle = Throttle(core.redis)
        self._background: set[asyncio.Task[None]] = set()

    async def open(self, request: LoginRequest, call: Call) -> Opened:
        """A session for the right password.

        Raises Unauthenticated(CREDENTIALS_INVALID) whatever is wrong, and Exhausted: RATE_LIMITED
        after failures of this identifier from this source, SERVER_BUSY.
        """
        started = time.monotonic()
        try:
            return await self._open(request, call)
        finally:
            taken_s = time.monotonic() - started
            await asyncio.sleep(STEP_S - taken_s % STEP_S)

    async def _open(self, request: LoginRequest, call: Call) -> Opened:
        login = normal_login(request.login)
        throttle_key = key_of(login, call.ip_address)
        wait_s = await self.throttle.wait_s(throttle_key)
        if wait_s > 0:
            raise Exhausted(
                "RATE_LIMITED",
                "Too many failed attempts; wait and try again.",
                facts={"subject": "login"},
                retry_after_s=wait_s,
            )
        async with self.db.begin(as_caller(call, ANONYMOUS, audited=False)) as tx:
            account = await tx.one(FIND_LOGIN, login=login)
        stored = account.password_hash if account else None
        is_right = await self.hasher.verify(stored, request.password)
        if account is None or stored is None or not is_right or account.state != "active":
            await self._note_failure(account, throttle_key, call)
            raise _refused()
        opened = await self._note_login(account, call)
        await self.throttle.succeeded(throttle_key)
        if self.hasher.needs_rehash(stored):
            self._later(self._rehash(account, stored, request.password))
        return opened

    async def _note_failure(self, account: Account | None, throttle_key: str, call: Call) -> None:
        failures = await self.throttle.failed(throttle_key)
        caller = Caller("anonymous", org_id=account.org_id if account else "")
        async with self.db.begin(as_caller(call, caller, audited=False)) as tx:
            await tx.run(WEIGH)
            await tx.run(
                NOTE_FAILURE,
                user_id=account.user_id if account else NOBODY,
                locked=failures >= LOCK_AFTER_FAILURES,
                lock_s=LOCK_S,
            )

    async def _note_login(self, account: Account, call: Call) -> Opened:
        session_id, refresh_token = new_id(), new_refresh_token()
        caller = Caller(
            "user",
            org_id=account.org_id,
            user_id=account.user_id,
            session_id=session_id,
            role=account.role,
        )
        async with self.db.begin(as_caller(call, caller)) as tx:
            noted = await tx.run(
                NOTE_LOGIN, user_id=account.user_id, authz_epoch=account.authz_epoch
            )
            if not noted:
                raise _refused()
            expires_at = await self._insert_session(tx, session_id, refresh_token)
            user = await get_user(tx, account.user_id)
            record(tx, "session.login", "session", session_id)
        return Opened(account, session_id, refresh_token, expires_at, user)

    async def _insert_session(self, tx: Tx, session_id: str, refresh_token: str) -> datetime:
        call = tx.call
        await tx.run(
            INSERT_SESSION,
            id=session_id,
            org_id=call.caller.org_id,
            user_id=call.caller.user_id,
            ip_address=call.ip_address or None,
            user_agent=call.user_agent,
            absolute_s=self.settings.refresh_absolute_s,
        )
        expires_at = await tx.one(
            INSERT_REFRESH_TOKEN,
            token_hash=hash_of(refresh_token),
            session_id=session_id,
            idle_s=self.settings.refresh_idle_s,
        )
        assert expires_at is not None
        return expires_at

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _rehash(self, account: Account, stored: str, password: str) -> None:
        """With the present parameters, after the answer: doing it before would tell by its time
        whose password is old. Left for the next login when anything is in the way."""
        call = Call(
            Caller("system", org_id=account.org_id), "password.rehash", time.monotonic() + 30
        )
        try:
            renewed = await self.hasher.hash(password)
            async with self.db.begin(call) as tx:
                await tx.run(REPLACE_HASH, user_id=account.user_id, old=stored, new=renewed)
        except (Fault, psycopg.Error) as error:
            log.warning("password.rehash_failed", error=type(error).__name__)


def _refused() -> Unauthenticated:
    return Unauthenticated("CREDENTIALS_INVALID", "The login or the password is wrong.")
