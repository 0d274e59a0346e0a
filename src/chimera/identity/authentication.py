"""Authentication: from what a call carries to who is calling.

Cheap on the hot path: a verified token is remembered until it expires, and the state of its session
(or of an API key) for at most STATE_AGE_S, so most calls touch no database. What a state says is
checked on every call; a permission taken away is gone in every process when the state is read anew.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from chimera.background import cancelled
from chimera.call import ANONYMOUS, Call, Caller
from chimera.core import Core
from chimera.db import Database, Row, Statement, sql
from chimera.faults import Unauthenticated
from chimera.identity.api_keys import ParsedKey, key_environment, parse_key
from chimera.identity.endings import CHANGED, ENDED, STATE_AGE_S
from chimera.identity.roles import permissions_of, scope_numbers
from chimera.identity.tokens import Claims, Tokens, check_not_expired, hash_of
from chimera.identity.usage import Usage
from chimera.v1.options_pb2 import Permission

Value = TypeVar("Value")
CACHE_MAX = 20_000


@dataclass(frozen=True, slots=True)
class SessionState:
    """A session and its person, now. `state` is the person's: unverified, active, disabled."""

    user_id: str
    org_id: str
    role: str
    is_active: bool
    state: str
    is_superuser: bool
    authz_epoch: int
    auth_time: datetime
    second_factor_at: datetime | None
    restriction: str


@dataclass(frozen=True, slots=True, repr=False)
class KeyState:
    """An API key and its owner, now."""

    api_key_id: str
    user_id: str
    org_id: str
    role: str
    secret_hash: bytes
    scopes: list[str]
    is_active: bool
    expires_at: datetime
    state: str
    is_superuser: bool


FIND_SESSION = sql(SessionState, "SELECT * FROM identity.session_state(%(session_id)s)")
FIND_API_KEY = sql(KeyState, "SELECT * FROM identity.find_api_key(%(public_id)s)")


class Recent(Generic[Value]):
    """Values read less than STATE_AGE_S ago. Callers that miss together share one read."""

    def __init__(self, read: Callable[[str], Awaitable[Value]]) -> None:
        self._read = read
        self._reads: dict[str, tuple[float, asyncio.Future[Value]]] = {}

    async def get(self, key: str, *, not_before: float = 0.0) -> Value:
        """What was read less than STATE_AGE_S ago, and after `not_before` (monotonic seconds)."""
        found = self._reads.get(key)
        if found is not None and max(not_before, time.monotonic() - STATE_AGE_S) < found[0]:
            task = found[1]
        else:
            self._reads.pop(key, None)
            # The age counts from before the read: what it sees cannot be older.
            task = asyncio.ensure_future(self._read(key))
            self._reads[key] = (time.monotonic(), task)
            if len(self._reads) > CACHE_MAX:
                del self._reads[next(iter(self._reads))]
        try:
            return await asyncio.shield(task)
        except Exception:
            if self._reads.get(key, (0.0, None))[1] is task:
                del self._reads[key]
            raise


class Authenticator:
    """Of one server process; see `opened`."""

    def __init__(self, core: Core, tokens: Tokens) -> None:
        self.db: Database = core.db
        self.tokens = tokens
        self.environment = key_environment(core.settings)
        self.usage = Usage(core.redis)
        self._verified: dict[bytes, Claims] = {}
        self._sessions = Recent(self._read_session)
        self._keys = Recent(self._read_key)

    @classmethod
    @asynccontextmanager
    async def opened(cls, core: Core) -> AsyncIterator[Authenticator]:
        """With the installation's keys, flushing usage in the background."""
        authenticator = cls(core, await Tokens.opened(core))
        flushing = asyncio.create_task(authenticator.usage.flush_for_ever())
        try:
            yield authenticator
        finally:
            await cancelled(flushing)
            await authenticator.usage.flush()

    async def authenticate(self, metadata: dict[str, str]) -> Caller:
        """Who sent this metadata (`authorization: Bearer ...` or `x-api-key`); ANONYMOUS when it
        holds no credentials.

        Raises Unauthenticated: CREDENTIALS_INVALID, TOKEN_EXPIRED, SESSION_ENDED, API_KEY_INVALID,
        ACCOUNT_DISABLED.
        """
        authorization = metadata.get("authorization", "")
        if not authorization:
            key = metadata.get("x-api-key", "")
            return await self._by_api_key(key) if key else ANONYMOUS
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("CREDENTIALS_INVALID", "Send `authorization: Bearer ...`.")
        credential = credential.strip()
        if credential.startswith("chm_"):
            return await self._by_api_key(credential)
        return await self._by_access_token(credential)

    async def _by_access_token(self, token: str) -> Caller:
        claims = self._claims_of(token)
        session_id = claims.session_id
        session = await self._sessions.get(session_id, not_before=CHANGED.at(session_id))
        if (
            session is None
            or not session.is_active
            or claims.session_id in ENDED
            or (session.user_id, session.org_id) != (claims.user_id, claims.org_id)
        ):
            raise Unauthenticated("SESSION_ENDED", "This session has ended; sign in again.")
        _check_account(session.state)
        if session.authz_epoch != claims.authz_epoch:
            raise Unauthenticated(
                "TOKEN_EXPIRED", "What this user may do has changed; refresh the session."
            )
        self.usage.saw_session(claims.session_id)
        is_operator = session.is_superuser and not session.restriction
        held = permissions_of(session.role, is_operator=is_operator)
        return Caller(
            "user",
            org_id=session.org_id,
            user_id=session.user_id,
            session_id=claims.session_id,
            role=session.role,
            permissions=frozenset() if session.restriction else held,
            is_operator=is_operator,
            auth_time=session.auth_time.timestamp(),
            restriction=session.restriction,
        )

    def _claims_of(self, token: str) -> Claims:
        name = hash_of(token)
        claims = self._verified.get(name)
        if claims is not None:
            check_not_expired(claims)
            return claims
        claims = self.tokens.verify(token)
        self._verified[name] = claims
        if len(self._verified) > CACHE_MAX:
            del self._verified[next(iter(self._verified))]
        return claims

    async def _by_api_key(self, text: str) -> Caller:
        parsed = parse_key(text)
        if parsed is None or parsed.environment != self.environment:
            raise _key_invalid()
        key = await self._keys.get(parsed.public_id)
        if key is None or not _is_valid(key, parsed):
            raise _key_invalid()
        _check_account(key.state)
        is_operator = key.is_superuser and (not key.scopes or "operate" in key.scopes)
        permissions = permissions_of(key.role, is_operator=is_operator)
        if key.scopes:
            permissions &= scope_numbers(key.scopes)
        self.usage.saw_key(key.api_key_id)
        return Caller(
            "api_key",
            org_id=key.org_id,
            user_id=key.user_id,
            api_key_id=key.api_key_id,
            role=key.role,
            permissions=permissions,
            is_operator=is_operator and Permission.PERMISSION_OPERATE in permissions,
        )

    async def _read_session(self, session_id: str) -> SessionState | None:
        return await self._read(FIND_SESSION, session_id=session_id)

    async def _read_key(self, public_id: str) -> KeyState | None:
        return await self._read(FIND_API_KEY, public_id=public_id)

    async def _read(self, statement: Statement[Row], **params: str) -> Row | None:
        # A call of its own: the read is shared, so no single caller's deadline ends it.
        call = Call(ANONYMOUS, "authenticate", time.monotonic() + 5)
        async with self.db.begin(call) as tx:
            return await tx.one(statement, **params)


def _is_valid(key: KeyState, parsed: ParsedKey) -> bool:
    return (
        hmac.compare_digest(key.secret_hash, hash_of(parsed.secret))
        and key.is_active
        and key.api_key_id not in ENDED
        and key.expires_at > datetime.now(UTC)
    )


def _check_account(state: str) -> None:
    if state != "active":
        raise Unauthenticated("ACCOUNT_DISABLED", "This account is not active.")


def _key_invalid() -> Unauthenticated:
    return Unauthenticated("API_KEY_INVALID", "This API key is unknown, ended or expired.")
