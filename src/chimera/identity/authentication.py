"""Authentication: from what a call carries to who is calling.

Cheap on the hot path: a verified token is remembered until it expires, and the state of its session
(or of an API key) for at most STATE_AGE_S, so most calls touch no database. What a state says is
checked on every call; a permission taken away is gone in every process when the state is read anew.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from chimera.background import cancelled
from chimera.call import ANONYMOUS, Call, Caller
from chimera.core import Core
from chimera.db import Row, Statement, sql
from chimera.faults import Denied, Unauthenticated
from chimera.identity.api_keys import ParsedKey, key_environment, parse_key
from chimera.identity.decisions import (
    ABOUT_THINGS,
    Circumstances,
    Decision,
    Held,
    Thing,
    decide,
    is_outside,
)
from chimera.identity.endings import CHANGES, STATE_AGE_S
from chimera.identity.notices import Notices
from chimera.identity.roles import holdings_of, scope_numbers
from chimera.identity.things import find_thing, named_in
from chimera.identity.tokens import Claims, Tokens, check_not_expired, hash_of
from chimera.identity.usage import Usage
from chimera.ids import made_at
from chimera.pools import Database
from chimera.v1.options_pb2 import Permission

Value = TypeVar("Value")
CACHE_MAX = 20_000
# What is known of a stream's caller when the gate looks again; see gate.LOOK_AGAIN_S.
STREAM_STATE_AGE_S = 0.4


@dataclass(frozen=True, slots=True)
class SessionState:
    """A session and its person, now. `state` is the person's: unverified, active, disabled.
    `is_superuser` when they are an operator and have proved it (auth_time) since they became one."""

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
    # None: when the session was made.
    signed_in_at: datetime | None
    grants: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, repr=False)
class KeyState:
    """An API key and its owner, now. `is_superuser` when the owner was an operator as it was made."""

    api_key_id: str
    user_id: str
    org_id: str
    role: str
    secret_hash: bytes
    scopes: list[str]
    source_networks: list[str]
    is_active: bool
    expires_at: datetime
    state: str
    is_superuser: bool
    grants: list[dict[str, Any]]


FIND_SESSION = sql(
    SessionState,
    """
    SELECT s.*, identity.signed_in_at(%(session_id)s) AS signed_in_at,
           identity.find_grants(s.org_id, s.user_id) AS grants
      FROM identity.session_state(%(session_id)s) s
    """,
)
FIND_API_KEY = sql(
    KeyState,
    """
    SELECT k.*, identity.find_grants(k.org_id, k.user_id) AS grants
      FROM identity.find_key(%(public_id)s) k
    """,
)


def held_in_session(session: SessionState) -> Held:
    """What somebody who is signed in holds."""
    holdings = holdings_of(session.role, is_operator=session.is_superuser, grants=session.grants)
    return Held(
        session.user_id,
        holdings,
        second_factor_at=session.second_factor_at,
        signed_in_at=session.signed_in_at,
    )


def held_by_key(key: KeyState) -> Held:
    """What its owner holds, narrowed by the key's scopes and networks."""
    holdings = holdings_of(key.role, is_operator=key.is_superuser, grants=key.grants)
    scopes = scope_numbers(key.scopes) if key.scopes else None
    networks = tuple(key.source_networks)
    return Held(key.user_id, holdings, scopes, networks, expires_at=key.expires_at)


class Recent(Generic[Value]):
    """Values read less than STATE_AGE_S ago, and since this process last changed what people may
    do. Callers that miss together share one read."""

    def __init__(self, read: Callable[[str], Awaitable[Value]]) -> None:
        self._read = read
        self._reads: dict[str, tuple[float, int, asyncio.Future[Value]]] = {}

    async def get(self, key: str, age_s: float = STATE_AGE_S) -> Value:
        """What was read at most `age_s` ago."""
        found = self._reads.get(key)
        if found is not None and time.monotonic() - found[0] < age_s and found[1] == CHANGES.count:
            task = found[2]
        else:
            self._reads.pop(key, None)
            # The age counts from before the read: what it sees cannot be older.
            task = asyncio.ensure_future(self._read(key))
            self._reads[key] = (time.monotonic(), CHANGES.count, task)
            if len(self._reads) > CACHE_MAX:
                del self._reads[next(iter(self._reads))]
        try:
            return await asyncio.shield(task)
        except Exception:
            if self._reads.get(key, (0.0, 0, None))[2] is task:
                del self._reads[key]
            raise

    def forget(self, key: str) -> None:
        """What is remembered is known to be older than something else."""
        self._reads.pop(key, None)


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

    async def jwks(self) -> dict[str, Any]:
        """The public keys of access tokens, as they are now."""
        await self.tokens.keep_fresh()
        return self.tokens.jwks()

    @classmethod
    @asynccontextmanager
    async def opened(cls, core: Core) -> AsyncIterator[Authenticator]:
        """With the installation's keys; exchanges notices and flushes usage in the background."""
        authenticator = cls(core, await Tokens.opened(core))
        flushing = asyncio.create_task(authenticator.usage.flush_for_ever())
        try:
            async with Notices.exchanged(core.redis):
                yield authenticator
        finally:
            await cancelled(flushing)
            await authenticator.usage.flush()

    async def authenticate(self, metadata: dict[str, str], address: str) -> Caller:
        """Who sent this metadata (`authorization: Bearer ...` or `x-api-key`) from this address;
        ANONYMOUS when it holds no credentials.

        Raises Unauthenticated: CREDENTIALS_INVALID, TOKEN_EXPIRED, SESSION_ENDED, API_KEY_INVALID,
        ACCOUNT_DISABLED.
        """
        credential, is_key = _credential_in(metadata)
        if not credential:
            return ANONYMOUS
        if is_key:
            caller = await self._by_api_key(credential, address)
            self.usage.saw_key(caller.api_key_id, address)
        else:
            await self.tokens.keep_fresh()
            caller = await self._by_claims(self._claims_of(credential), address)
            self.usage.saw_session(caller.session_id)
        return caller

    async def authenticate_again(self, call: Call) -> Caller:
        """Who has a stream open, as of now. An access token's five minutes do not end it: the
        session behind the token does, and is looked at more often than that. Raises as above."""
        credential, is_key = _credential_in(call.metadata)
        if is_key:
            return await self._by_api_key(credential, call.ip_address, STREAM_STATE_AGE_S)
        await self.tokens.keep_fresh()
        claims = self._claims_of(credential, ended=True)
        return await self._by_claims(claims, call.ip_address, STREAM_STATE_AGE_S)

    async def authorize(self, call: Call, permission: int, request: Any) -> None:
        """Adds `permission` to the caller's when a grant about the things that the request names
        gives it. Raises Denied: PERMISSION_MISSING with the conditions that stand in the way,
        API_KEY_NETWORK_REFUSED.

        permission: 0 when the method needs none. request: None for a stream of requests.
        """
        caller, held = call.caller, call.caller.held
        if is_outside(held, call.ip_address):
            raise Denied(
                "API_KEY_NETWORK_REFUSED", "This API key may not be used from this address."
            )
        if not permission or permission in caller.permissions:
            return
        seen = circumstances_of(caller, call.ip_address)
        decision = decide(held, permission, seen)
        if any(set(verdict.unmet) & set(ABOUT_THINGS) for verdict in decision.verdicts):
            things = await self._things_of(call, permission, request)
            seen = replace(seen, things=things, creates=is_creating(call.method))
            decision = decide(held, permission, seen)
        if not decision.is_allowed:
            raise _missing(permission, decision)
        call.caller = replace(
            caller,
            permissions=caller.permissions | {permission},
            conditional=caller.conditional | {permission},
        )

    async def _things_of(self, call: Call, permission: int, request: Any) -> tuple[Thing, ...]:
        named = named_in(request, permission) if request is not None else []
        if not named:
            return ()
        async with self.db.look(call) as tx:
            return tuple([await find_thing(tx, noun, thing_id) for noun, thing_id in named])

    async def _by_claims(self, claims: Claims, address: str, age_s: float = STATE_AGE_S) -> Caller:
        session, held = await self._sessions.get(claims.session_id, age_s) or (None, None)
        if session is not None and session.authz_epoch < claims.authz_epoch:
            # Another process has issued this token after a change that was not seen here yet.
            self._sessions.forget(claims.session_id)
            session, held = await self._sessions.get(claims.session_id) or (None, None)
        if (
            session is None
            or held is None
            or not session.is_active
            or CHANGES.has_ended(claims.session_id)
            or (session.user_id, session.org_id) != (claims.user_id, claims.org_id)
        ):
            raise Unauthenticated("SESSION_ENDED", "This session has ended; sign in again.")
        _check_account(session.state)
        if session.authz_epoch != claims.authz_epoch:
            raise Unauthenticated(
                "TOKEN_EXPIRED", "What this user may do has changed; refresh the session."
            )
        caller = Caller(
            "user",
            org_id=session.org_id,
            user_id=session.user_id,
            session_id=claims.session_id,
            role=session.role,
            permissions=frozenset() if session.restriction else held.lasting,
            is_operator=session.is_superuser and not session.restriction,
            auth_time=session.auth_time.timestamp(),
            restriction=session.restriction,
            held=held,
        )
        if session.restriction or not held.is_conditional:
            return caller
        return _with_conditional(caller, address)

    def _claims_of(self, token: str, *, ended: bool = False) -> Claims:
        """`ended`: also of a token whose time is over."""
        name = hash_of(token)
        claims = self._verified.get(name)
        if claims is None or claims.kid not in self.tokens.keys:
            claims = self._verified[name] = self.tokens.verify(token)
            if len(self._verified) > CACHE_MAX:
                del self._verified[next(iter(self._verified))]
        if not ended:
            check_not_expired(claims)
        return claims

    async def _by_api_key(self, text: str, address: str, age_s: float = STATE_AGE_S) -> Caller:
        parsed = parse_key(text)
        if parsed is None or parsed.environment != self.environment:
            raise _key_invalid()
        key, held = await self._keys.get(parsed.public_id, age_s) or (None, None)
        if key is None or held is None or not _is_valid(key, parsed):
            raise _key_invalid()
        _check_account(key.state)
        caller = Caller(
            "api_key",
            org_id=key.org_id,
            user_id=key.user_id,
            api_key_id=key.api_key_id,
            role=key.role,
            permissions=held.lasting,
            is_operator=key.is_superuser and Permission.PERMISSION_OPERATE in held.lasting,
            held=held,
        )
        return _with_conditional(caller, address) if held.is_conditional else caller

    async def _read_session(self, session_id: str) -> tuple[SessionState, Held] | None:
        session = await self._read(FIND_SESSION, session_id=session_id)
        return (session, held_in_session(session)) if session is not None else None

    async def _read_key(self, public_id: str) -> tuple[KeyState, Held] | None:
        key = await self._read(FIND_API_KEY, public_id=public_id)
        return (key, held_by_key(key)) if key is not None else None

    async def _read(self, statement: Statement[Row], **params: str) -> Row | None:
        # A call of its own: the read is shared, so no single caller's deadline ends it.
        call = Call(ANONYMOUS, "authenticate", time.monotonic() + 5)
        async with self.db.begin(call) as tx:
            return await tx.one(statement, **params)


def _credential_in(metadata: Mapping[str, str]) -> tuple[str, bool]:
    """An access token or an API key, and whether it is a key; empty when there is none. Raises
    Unauthenticated(CREDENTIALS_INVALID)."""
    authorization = metadata.get("authorization", "")
    if not authorization:
        return metadata.get("x-api-key", ""), True
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("CREDENTIALS_INVALID", "Send `authorization: Bearer ...`.")
    credential = credential.strip()
    return credential, credential.startswith("chm_")


def circumstances_of(caller: Caller, address: str) -> Circumstances:
    """What is known about a call before its request is looked at."""
    held = caller.held
    signed_in_at = held.signed_in_at if held else None
    if signed_in_at is None and caller.session_id:
        signed_in_at = made_at(caller.session_id)
    second_factor_at = held.second_factor_at if held else None
    return Circumstances(datetime.now(UTC), address, signed_in_at, second_factor_at)


def is_creating(method: str) -> bool:
    """Whether an RPC (/chimera.v1.CampaignService/CreateCampaign) makes a thing of the caller's."""
    return method.rpartition("/")[2].startswith("Create")


def _with_conditional(caller: Caller, address: str) -> Caller:
    held: Held = caller.held
    permissions = held.now(circumstances_of(caller, address))
    return replace(caller, permissions=permissions, conditional=permissions - held.lasting)


def _missing(permission: int, decision: Decision) -> Denied:
    needed = Permission.Name(permission).removeprefix("PERMISSION_")
    facts = {"permission": needed}
    message = f"This call needs the permission {needed}."
    if decision.verdicts:
        facts["unmet"] = ",".join([*decision.barriers, *decision.unmet])
        message = f"The permission {needed} is held, but not here and now: {facts['unmet']}."
    return Denied("PERMISSION_MISSING", message, facts=facts)


def _is_valid(key: KeyState, parsed: ParsedKey) -> bool:
    return (
        hmac.compare_digest(key.secret_hash, hash_of(parsed.secret))
        and key.is_active
        and not CHANGES.has_ended(key.api_key_id)
        and key.expires_at > datetime.now(UTC)
    )


def _check_account(state: str) -> None:
    if state != "active":
        raise Unauthenticated("ACCOUNT_DISABLED", "This account is not active.")


def _key_invalid() -> Unauthenticated:
    return Unauthenticated("API_KEY_INVALID", "This API key is unknown, ended or expired.")
