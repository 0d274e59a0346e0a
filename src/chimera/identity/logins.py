"""Logins: signing people in.

What must stay true:
- Whatever is wrong with a login (nobody, a wrong password, a disabled or locked account), it runs
  the same statements, one Argon2 and one COMMIT, and takes a multiple of 45 ms (`in_steps`).
- It is counted before the password is looked at (see throttle).
- Whoever has a second factor gets no session without it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import structlog

from chimera.audit.leaf import Kind, Outcome, Severity
from chimera.audit.recording import record
from chimera.call import ANONYMOUS, NOBODY, Call, Caller
from chimera.core import Core
from chimera.db import Nothing, sql
from chimera.faults import Conflict, Fault, Unauthenticated
from chimera.identity.calls import as_caller
from chimera.identity.challenges import CHALLENGE_ATTEMPTS, insert_challenge
from chimera.identity.one_time import (
    count_attempt,
    find_token,
    new_token,
    spend_token,
    token_invalid,
)
from chimera.identity.passwords import Hasher
from chimera.identity.second_factor import SecondFactor, count_recovery_codes, spend_proof
from chimera.identity.sessions import (
    Device,
    NewSession,
    lock_person,
    open_session,
    restriction_of,
    session_caller,
)
from chimera.identity.throttle import (
    Attempt,
    Subject,
    Throttle,
    known,
    on_device,
    stranger,
    with_factor,
)
from chimera.identity.tokens import hash_of
from chimera.identity.users import normal_login
from chimera.ids import new_id
from chimera.v1.identity_pb2 import CompleteLoginRequest, LoginChallenge, LoginRequest, User

log = structlog.get_logger("chimera.identity")

# Whoever just misses the first step is answered within 100 ms by the second; by steps of 50 ms nobody
# would be, for the way there and back takes time as well.
STEP_S = 0.045
TRIES = 3


@dataclass(frozen=True, slots=True, repr=False)
class Account:
    """Somebody who may sign in, and into which organisation. `device_id` when the device is known;
    `restriction` as on Caller."""

    user_id: str
    org_id: str
    role: str
    password_hash: str | None
    state: str
    is_superuser: bool
    locked_until: datetime | None
    authz_epoch: int
    has_second_factor: bool
    device_id: str | None
    restriction: str
    password_changed_at: datetime | None

    def caller(self) -> Caller:
        return Caller("user", org_id=self.org_id, user_id=self.user_id, role=self.role)


@dataclass(frozen=True, slots=True, repr=False)
class Opened:
    """A session, or the challenge for one. `device_token` when the device is new."""

    user: User
    session: NewSession | None = None
    challenge: LoginChallenge | None = None
    device_token: str = ""
    restriction: str = ""
    recovery_codes_left: int = 0


class _CodeUsed(Exception):
    """Undoes the transaction; what is left to do is to note the failure."""


FIND_ACCOUNT = sql(
    Account,
    "SELECT * FROM identity.find_account(%(login)s, %(device_hash)s, %(org_id)s::uuid)",
)

NOTE_FAILURE = sql(
    Nothing,
    """
    UPDATE identity.users
       SET failed_login_attempts = failed_login_attempts + 1,
           locked_until = CASE WHEN %(locked_s)s::int > 0
                               THEN GREATEST(locked_until, clock_timestamp() + make_interval(secs => %(locked_s)s))
                               ELSE locked_until END
     WHERE id = %(user_id)s
    """,
)

REPLACE_HASH = sql(
    Nothing,
    """
    UPDATE identity.users SET password_hash = %(new)s
     WHERE id = %(user_id)s AND password_hash = %(old)s
    """,
)


@asynccontextmanager
async def in_steps() -> AsyncIterator[None]:
    """What is inside takes a multiple of STEP_S, whatever comes of it."""
    started = time.monotonic()
    try:
        yield
    finally:
        taken_s = time.monotonic() - started
        await asyncio.sleep(STEP_S - taken_s % STEP_S)


class Logins:
    """Signs people in, for one server process."""

    def __init__(self, core: Core, hasher: Hasher, throttle: Throttle) -> None:
        self.core, self.db, self.settings = core, core.db, core.settings
        self.hasher, self.throttle = hasher, throttle
        self.second_factor = SecondFactor(core)
        self._background: set[asyncio.Task[None]] = set()

    async def open(self, request: LoginRequest, call: Call) -> Opened:
        """A session for the right password, or a challenge when a second factor is due.

        Raises Unauthenticated(CREDENTIALS_INVALID) whatever is wrong, and Exhausted: RATE_LIMITED
        after failures, SERVER_BUSY. To be called in_steps, together with what is done for those who
        got in.
        """
        login = normal_login(request.login)
        source = stranger(login, call.ip_address)
        device_hash = hash_of(request.device_token) if request.device_token else None
        claims = _claims(request, login, call.ip_address)
        async with AsyncExitStack() as stack:
            attempts = [
                await stack.enter_async_context(self.throttle.attempt(subject))
                for subject in claims or [source]
            ]
            async with self.db.look(as_caller(call, ANONYMOUS, audited=False)) as tx:
                account = await tx.one(
                    FIND_ACCOUNT,
                    login=login,
                    device_hash=device_hash,
                    org_id=request.organisation_id or None,
                )
            is_trusted = _is_trusted(account, request)
            if claims and not is_trusted:
                attempts.append(await stack.enter_async_context(self.throttle.attempt(source)))
            stored = account.password_hash if account else None
            is_right = await self.hasher.verify(stored, request.password)
            if account is None or stored is None or not is_right or not _may(account, is_trusted):
                await self._note_failure(account, login, attempts, call)
                raise _refused()
            opened = await self._go_on(account, request, call)
            if opened is None:
                await self._note_failure(account, login, attempts, call)
                raise _refused()
            for attempt in attempts:
                await attempt.succeeded()
        if self.hasher.needs_rehash(stored):
            self._later(self._rehash(account, stored, request.password))
        return opened

    async def _go_on(self, account: Account, request: LoginRequest, call: Call) -> Opened | None:
        """After the right password: a session, or a challenge; None for a wrong code."""
        if not account.has_second_factor:
            return await self._session(account, _device_of(account, request), call)
        if not request.code:
            return await self._challenge(account, request, call)
        own = as_caller(call, account.caller(), audited=False)
        proof = await self.second_factor.prove(own, request.code)
        if proof is None:
            return None
        session_id = new_id()
        own = as_caller(call, session_caller(account.caller(), session_id))
        try:
            async with self.db.begin(own) as tx:
                if not await spend_proof(tx, proof):
                    raise _CodeUsed
                return await self._opened(tx, account, _device_of(account, request), True)
        except _CodeUsed:
            return None

    async def _session(self, account: Account, device: Device, call: Call) -> Opened:
        for tries_left in reversed(range(TRIES)):
            own = as_caller(call, session_caller(account.caller(), new_id()))
            try:
                async with self.db.begin(own) as tx:
                    return await self._opened(tx, account, device, False)
            except Conflict:
                # They sign in somewhere else at this moment; a hash was spent on this, so wait again.
                if not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _opened(
        self, tx: Any, account: Account, device: Device, has_second_factor: bool
    ) -> Opened:
        session_id = tx.call.caller.session_id
        record(
            tx,
            "session.login",
            "session",
            session_id,
            new={"device_is_new": bool(device.new_token), "second_factor": has_second_factor},
        )
        session = await open_session(
            tx,
            self.settings,
            session_id=session_id,
            authz_epoch=account.authz_epoch,
            device=device,
            has_second_factor=has_second_factor,
            password_changed_at=account.password_changed_at,
            is_last=True,
        )
        if session is None:
            raise _refused()
        restriction = account.restriction
        return Opened(
            session.user,
            session,
            device_token=device.new_token,
            restriction="" if has_second_factor and restriction == "second_factor" else restriction,
        )

    async def _challenge(self, account: Account, request: LoginRequest, call: Call) -> Opened:
        async with self.db.begin(as_caller(call, account.caller())) as tx:
            device = _device_of(account, request)
            challenge = await insert_challenge(tx, account.authz_epoch, device)
            record(tx, "session.login", "user", account.user_id, reason="challenge")
        return Opened(User(), challenge=challenge)

    async def complete(self, request: CompleteLoginRequest, call: Call) -> Opened:
        """The session of a challenge, for a right code.

        Raises Unauthenticated(CODE_INVALID), Invalid(ONE_TIME_TOKEN_INVALID), Exhausted.
        """
        token = request.challenge_token
        holder = await find_token(self.db, call, token, "login")
        call.caller = holder.caller()  # a refusal belongs into their organisation's log
        own = as_caller(call, session_caller(holder.caller(), new_id()))
        name, facts = f"code {holder.user_id}", holder.facts
        # On her device the owner goes on, whoever else knows the password and tries codes.
        device_id = facts["device_id"]
        source = known(name, device_id) if device_id else stranger(name, call.ip_address)
        async with self.throttle.attempt(source) as attempt:
            async with self.db.begin(as_caller(own, own.caller, audited=False)) as tx:
                await count_attempt(tx, token, "login", CHALLENGE_ATTEMPTS)
            proof = await self.second_factor.prove(own, request.code)
            device = Device(
                known_id=device_id,
                new_token="" if device_id else new_token(),
                name=facts["device_name"],
                platform=facts["device_platform"],
            )
            async with self.db.begin(own) as tx:
                # The token before the code, whatever it is: two who hold it would wait for each other.
                await lock_person(tx, holder.user_id)
                if proof is not None:
                    await spend_token(tx, token, "login")
                if proof is None or not await spend_proof(tx, proof):
                    await attempt.failed()
                    raise Unauthenticated("CODE_INVALID", "This code is wrong, or was used before.")
                session = await open_session(
                    tx,
                    self.settings,
                    session_id=own.caller.session_id,
                    authz_epoch=facts["authz_epoch"],
                    device=device,
                    has_second_factor=True,
                )
                if session is None:
                    raise token_invalid()
                restriction = await restriction_of(tx, session.session_id)
                left = await count_recovery_codes(tx)
                record(
                    tx,
                    "session.complete_login",
                    "session",
                    session.session_id,
                    new={
                        "device_is_new": bool(device.new_token),
                        "factor": "recovery_code" if proof.recovery_hash else "totp",
                    },
                    severity=Severity.WARNING if proof.recovery_hash else Severity.INFO,
                )
            await attempt.succeeded()
        return Opened(
            session.user,
            session,
            device_token=device.new_token,
            restriction=restriction,
            recovery_codes_left=left,
        )

    async def _note_failure(
        self, account: Account | None, login: str, attempts: list[Attempt], call: Call
    ) -> None:
        """Counts, and leaves a trace: of whom, when that is known, else a digest of what was typed,
        by which attempts on one identifier can be told apart."""
        locked_s = 0
        for attempt in attempts:
            locked_s = max(locked_s, await attempt.failed())
        caller = Caller("anonymous", org_id=account.org_id if account else "")
        digest = self.core.pages.digest(b"login\0" + login.encode()).hex()[:32]
        async with self.db.begin(as_caller(call, caller)) as tx:
            await tx.run(
                NOTE_FAILURE, user_id=account.user_id if account else NOBODY, locked_s=locked_s
            )
            record(
                tx,
                "session.login",
                "user" if account else "login",
                account.user_id if account else digest,
                outcome=Outcome.DENIED,
                severity=Severity.ERROR if locked_s else Severity.WARNING,
                kind=Kind.SECURITY,
                reason="CREDENTIALS_INVALID",
                new={"locked_s": locked_s} if locked_s else None,
            )
        call.is_committed = True  # recorded here; the gate need not do it again

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


def _claims(request: LoginRequest, login: str, ip_address: str) -> list[Subject]:
    """As what somebody wants to be counted who says they are no stranger."""
    claims = []
    if request.device_token:
        claims.append(on_device(login, hash_of(request.device_token)))
    if request.code:
        claims.append(with_factor(login, ip_address))
    return claims


def _is_trusted(account: Account | None, request: LoginRequest) -> bool:
    """Whether a lock for strangers does not hold: a known device, or a second factor, which is
    checked as well before anybody gets in."""
    return account is not None and (
        account.device_id is not None or bool(request.code and account.has_second_factor)
    )


def _may(account: Account, is_trusted: bool) -> bool:
    """Precedence: deleted (not found at all), disabled, locked, unverified, active."""
    is_locked = account.locked_until is not None and account.locked_until > datetime.now(UTC)
    return account.state == "active" and (is_trusted or not is_locked)


def _device_of(account: Account, request: LoginRequest) -> Device:
    known_id = account.device_id or ""
    return Device(
        known_id=known_id,
        new_token="" if known_id else new_token(),
        name=request.device_name,
        platform=request.device_platform,
    )


def _refused() -> Unauthenticated:
    return Unauthenticated("CREDENTIALS_INVALID", "The login or the password is wrong.")
