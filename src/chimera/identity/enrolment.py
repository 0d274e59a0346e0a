"""Setting up a second factor, and giving it up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chimera import mail
from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.call import Call
from chimera.core import Core
from chimera.db import Tx
from chimera.identity.calls import as_caller
from chimera.identity.one_time import spend_others
from chimera.identity.second_factor import (
    SecondFactor,
    base32,
    code_invalid,
    confirm_totp,
    otpauth_uri,
    remove_totp,
    renew_recovery_codes,
    spend_proof,
    store_totp,
)
from chimera.identity.sessions import end_sessions, renew_auth_time
from chimera.identity.throttle import Throttle, in_session
from chimera.identity.users import get_user


class Enrolment:
    """Of the caller's own factor, for one server process."""

    def __init__(self, core: Core, factor: SecondFactor, throttle: Throttle) -> None:
        self.core, self.db, self.factor, self.throttle = core, core.db, factor, throttle

    async def enroll(self, call: Call) -> tuple[str, str]:
        """The secret and its URI, shown once. Raises NotReady(TOTP_ALREADY_ENROLLED)."""
        own = as_caller(call, call.caller, audited=False)
        secret, sealed, version = await self.factor.enroll(own)
        async with self.db.begin(call) as tx:
            await store_totp(tx, sealed, version)
            user = await get_user(tx, call.caller.user_id)
            _note(tx, "totp.enroll")
        issuer = "Chimera" if self.core.settings.issuer == "chimera" else self.core.settings.issuer
        return base32(secret), otpauth_uri(secret, user.email, issuer)

    async def confirm(self, code: str, call: Call) -> list[str]:
        """Recovery codes, shown once; ends the other sessions. Raises Denied(CODE_INVALID),
        NotReady(TOTP_NOT_ENROLLED)."""
        own = as_caller(call, call.caller, audited=False)
        await self.factor.check_exists(own, confirmed=False)
        user_id = call.caller.user_id
        async with self.throttle.attempt(in_session("code", call.caller)) as attempt:
            proof = await self.factor.prove(own, code, confirmed=False)
            if proof is None:
                await attempt.failed()
                raise code_invalid()
            async with self.db.begin(call) as tx:
                codes = await confirm_totp(tx, proof)
                await renew_auth_time(tx, has_second_factor=True)
                await self._end_others(tx, "second_factor_changed")
                await mail.ask(tx, "security_notice", user_id=user_id, what="second_factor_on")
                _note(tx, "totp.confirm")
            await attempt.succeeded()
        return codes

    async def disable(self, code: str, call: Call) -> None:
        """Raises Denied(CODE_INVALID), NotReady(TOTP_NOT_ENROLLED)."""
        async with self._proven(code, call) as tx:
            user_id = call.caller.user_id
            await remove_totp(tx, user_id)
            await self._end_others(tx, "second_factor_changed")
            await mail.ask(tx, "security_notice", user_id=user_id, what="second_factor_off")
            _note(tx, "totp.disable")

    async def regenerate(self, code: str, call: Call) -> list[str]:
        """New recovery codes, shown once. Raises Denied(CODE_INVALID), NotReady(TOTP_NOT_ENROLLED)."""
        async with self._proven(code, call) as tx:
            codes = await renew_recovery_codes(tx)
            _note(tx, "recovery_codes.regenerate")
        return codes

    @asynccontextmanager
    async def _proven(self, code: str, call: Call) -> AsyncIterator[Tx]:
        """A transaction in which a right code is used up."""
        own = as_caller(call, call.caller, audited=False)
        await self.factor.check_exists(own)
        async with self.throttle.attempt(in_session("code", call.caller)) as attempt:
            proof = await self.factor.prove(own, code)
            if proof is None:
                await attempt.failed()
                raise code_invalid()
            async with self.db.begin(call) as tx:
                if not await spend_proof(tx, proof):
                    await attempt.failed()
                    raise code_invalid()
                yield tx
            await attempt.succeeded()

    async def _end_others(self, tx: Tx, reason: str) -> None:
        caller = tx.call.caller
        await end_sessions(tx, caller.user_id, reason, but=caller.session_id)
        await spend_others(tx, caller.user_id, "login", "email_change")


def _note(tx: Tx, action: str) -> None:
    record(tx, action, "user", tx.call.caller.user_id, kind=Kind.SECURITY, severity=Severity.NOTICE)
