"""Second factor: time-based codes (RFC 6238) and recovery codes.

What must stay true: a code is accepted once. The 30 s step of the last accepted code is stored and
only grows (compare-and-set), so the same code is refused also when it comes twice at the same moment;
a recovery code is used up by one conditional UPDATE. Reading and opening the secret happens before
the transaction, because the master key may live across a network.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.faults import Denied, NotReady
from chimera.identity.tokens import hash_of
from chimera.keyring import open_field, seal_field

SECRET_BYTES, DIGITS, PERIOD_S, WINDOW = 20, 6, 30, 1
RECOVERY_CODES, RECOVERY_BITS = 10, 130
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_RECOVERY = re.compile(r"[A-Z2-7]{26}\Z")


@dataclass(frozen=True, slots=True, repr=False)
class Stored:
    """What is kept of an authenticator."""

    sealed: dict[str, Any]
    version: int
    is_confirmed: bool


@dataclass(frozen=True, slots=True, repr=False)
class Proof:
    """A right code, not used yet: the step of an authenticator's, or a recovery code's hash."""

    version: int = 0
    step: int = 0
    recovery_hash: bytes = b""


FIND_TOTP = sql(
    Stored,
    """
    SELECT totp_sealed AS sealed, totp_version AS version, totp_confirmed_at IS NOT NULL AS is_confirmed
      FROM identity.users WHERE id = %(user_id)s AND totp_sealed IS NOT NULL
    """,
)

ENROLL_TOTP = sql(
    Nothing,
    """
    UPDATE identity.users SET totp_sealed = %(sealed)s::jsonb, totp_version = %(version)s, totp_step = 0
     WHERE id = %(user_id)s AND totp_confirmed_at IS NULL AND totp_version = %(version)s - 1
    """,
)

TOTP_VERSION = sql(int, "SELECT totp_version FROM identity.users WHERE id = %(user_id)s")

ACCEPT_STEP = sql(
    Nothing,
    """
    UPDATE identity.users SET totp_step = %(step)s
     WHERE id = %(user_id)s AND totp_version = %(version)s AND totp_step < %(step)s
       AND totp_confirmed_at IS NOT NULL
    """,
)

CONFIRM_TOTP = sql(
    Nothing,
    """
    UPDATE identity.users SET totp_step = %(step)s, totp_confirmed_at = clock_timestamp()
     WHERE id = %(user_id)s AND totp_version = %(version)s AND totp_confirmed_at IS NULL
    """,
)

REMOVE_TOTP = sql(
    Nothing,
    """
    UPDATE identity.users SET totp_sealed = NULL, totp_confirmed_at = NULL, totp_step = 0
     WHERE id = %(user_id)s AND totp_sealed IS NOT NULL
    """,
)

USE_RECOVERY_CODE = sql(
    Nothing,
    """
    UPDATE identity.recovery_codes SET used_at = clock_timestamp()
     WHERE user_id = %(user_id)s AND code_hash = %(code_hash)s AND used_at IS NULL
    """,
)

REMOVE_RECOVERY_CODES = sql(
    Nothing, "DELETE FROM identity.recovery_codes WHERE user_id = %(user_id)s"
)

INSERT_RECOVERY_CODES = sql(
    Nothing,
    """
    INSERT INTO identity.recovery_codes (user_id, code_hash)
    SELECT %(user_id)s, unnest(%(hashes)s::bytea[])
    """,
)

COUNT_RECOVERY_CODES = sql(
    int,
    """
    SELECT count(*)::int FROM identity.recovery_codes
     WHERE user_id = %(user_id)s AND used_at IS NULL
    """,
)


def code_at(secret: bytes, step: int, digits: int = DIGITS) -> str:
    """The code of one 30 s step."""
    return TOTP(secret, digits, SHA1(), PERIOD_S).generate(step * PERIOD_S).decode()


def step_of(secret: bytes, code: str, at_s: float) -> int | None:
    """The step whose code it is, of the present one and its neighbours; None when it is wrong."""
    now = int(at_s // PERIOD_S)
    matching = None
    for step in range(now - WINDOW, now + WINDOW + 1):
        if hmac.compare_digest(code_at(secret, step).encode(), code.encode()):
            matching = step
    return matching


def otpauth_uri(secret: bytes, account: str, issuer: str) -> str:
    """For a QR code."""
    return TOTP(secret, DIGITS, SHA1(), PERIOD_S).get_provisioning_uri(account, issuer)


def new_recovery_code() -> str:
    """130 random bits as XXXXX-XXXXX-XXXXX-XXXXX-XXXXXX."""
    text = "".join(secrets.choice(_BASE32) for _ in range(RECOVERY_BITS // 5))
    return "-".join((text[:5], text[5:10], text[10:15], text[15:20], text[20:]))


def _plain(code: str) -> str:
    """Without what people put between the characters."""
    return code.replace(" ", "").replace("-", "").upper()


class SecondFactor:
    """Makes and checks second factors, for one server process."""

    def __init__(self, core: Core) -> None:
        self.core = core

    async def prove(self, call: Call, code: str, *, confirmed: bool = True) -> Proof | None:
        """What the code of call.caller proves; None when it is wrong or there is no factor.

        `confirmed` False: of an authenticator that is being set up.
        """
        code = _plain(code)
        user_id = call.caller.user_id
        if confirmed and _RECOVERY.match(code):
            return Proof(recovery_hash=hash_of(code))
        async with self.core.db.look(call) as tx:
            stored = await tx.one(FIND_TOTP, user_id=user_id)
        if stored is None or stored.is_confirmed is not confirmed:
            return None
        secret = await asyncio.to_thread(
            open_field, self.core.master, stored.sealed, *_place(user_id, stored.version)
        )
        if not (code.isascii() and code.isdigit() and len(code) == DIGITS):
            return None
        step = step_of(secret, code, time.time())
        return None if step is None else Proof(version=stored.version, step=step)

    async def check_exists(self, call: Call, *, confirmed: bool = True) -> None:
        """Of call.caller; with `confirmed` False one that is being set up does. Raises
        NotReady(TOTP_NOT_ENROLLED), which is no wrong code and counts as none."""
        async with self.core.db.look(call) as tx:
            stored = await tx.one(FIND_TOTP, user_id=call.caller.user_id)
        if stored is None or (confirmed and not stored.is_confirmed):
            raise not_enrolled()

    async def enroll(self, call: Call) -> tuple[bytes, str, int]:
        """A new secret, how it is to be stored, and its version."""
        user_id = call.caller.user_id
        async with self.core.db.look(call) as tx:
            version = (await tx.one(TOTP_VERSION, user_id=user_id) or 0) + 1
        secret = secrets.token_bytes(SECRET_BYTES)
        sealed = await asyncio.to_thread(
            seal_field, self.core.master, secret, *_place(user_id, version)
        )
        return secret, sealed, version


def _place(user_id: str, version: int) -> tuple[str, str, str, int]:
    return ("identity.users", user_id, "totp", version)


async def spend_proof(tx: Tx, proof: Proof) -> bool:
    """Uses the code up; False when it was used already."""
    user_id = tx.call.caller.user_id
    if proof.recovery_hash:
        return bool(await tx.run(USE_RECOVERY_CODE, user_id=user_id, code_hash=proof.recovery_hash))
    return bool(await tx.run(ACCEPT_STEP, user_id=user_id, version=proof.version, step=proof.step))


async def store_totp(tx: Tx, sealed: str, version: int) -> None:
    """An authenticator that is not confirmed yet; replaces another such. Raises
    NotReady(TOTP_ALREADY_ENROLLED)."""
    if not await tx.run(
        ENROLL_TOTP, user_id=tx.call.caller.user_id, sealed=sealed, version=version
    ):
        raise NotReady(
            "TOTP_ALREADY_ENROLLED", "There is an authenticator already; disable it first."
        )


async def confirm_totp(tx: Tx, proof: Proof) -> list[str]:
    """From now on it is a factor; its recovery codes. Raises Denied(CODE_INVALID)."""
    user_id = tx.call.caller.user_id
    if not await tx.run(CONFIRM_TOTP, user_id=user_id, version=proof.version, step=proof.step):
        raise code_invalid()
    return await renew_recovery_codes(tx)


async def remove_totp(tx: Tx, user_id: str) -> None:
    """Gives up the factor with its recovery codes. Raises NotReady(TOTP_NOT_ENROLLED)."""
    if not await tx.run(REMOVE_TOTP, user_id=user_id):
        raise not_enrolled()
    await tx.run(REMOVE_RECOVERY_CODES, user_id=user_id)


async def renew_recovery_codes(tx: Tx) -> list[str]:
    """Ten new ones instead of all there were."""
    user_id = tx.call.caller.user_id
    codes = [new_recovery_code() for _ in range(RECOVERY_CODES)]
    await tx.run(REMOVE_RECOVERY_CODES, user_id=user_id)
    await tx.run(
        INSERT_RECOVERY_CODES, user_id=user_id, hashes=[hash_of(_plain(code)) for code in codes]
    )
    return codes


async def count_recovery_codes(tx: Tx) -> int:
    """How many are left."""
    return await tx.one(COUNT_RECOVERY_CODES, user_id=tx.call.caller.user_id) or 0


def base32(secret: bytes) -> str:
    """For typing it in."""
    return base64.b32encode(secret).decode().rstrip("=")


def code_invalid() -> Denied:
    return Denied("CODE_INVALID", "This code is wrong, or was used before; wait for the next one.")


def not_enrolled() -> NotReady:
    return NotReady(
        "TOTP_NOT_ENROLLED", "There is no second factor; AccountService.EnrollTotp sets one up."
    )
