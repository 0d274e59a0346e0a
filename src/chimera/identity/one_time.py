"""One-time tokens: proof of a mailbox, or of a password while a second factor is asked for.

256 random bits of which the SHA-256 is stored; bound to one purpose and one person, and spent in the
transaction of what they are for. A token that does not work never says why.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import orjson

from chimera.call import ANONYMOUS, Call, Caller
from chimera.db import Nothing, Tx, sql
from chimera.faults import Invalid
from chimera.identity.calls import as_caller
from chimera.identity.tokens import hash_of
from chimera.pools import Database

PREFIX = "cht_"
EMAIL_CHANGE_S = 24 * 3600


@dataclass(frozen=True, slots=True, repr=False)
class Holder:
    """Whom a token is for. `new_email` is the address it was sent to."""

    user_id: str
    org_id: str
    role: str
    email: str
    username: str
    new_email: str
    facts: dict[str, Any]

    def caller(self) -> Caller:
        return Caller("user", org_id=self.org_id, user_id=self.user_id, role=self.role)


FIND_TOKEN = sql(Holder, "SELECT * FROM identity.find_one_time_token(%(token_hash)s, %(purpose)s)")

INSERT_TOKEN = sql(
    Nothing,
    """
    INSERT INTO identity.one_time_tokens
           (token_hash, purpose, org_id, user_id, email, facts, mail_id, expires_at)
    VALUES (%(token_hash)s, %(purpose)s, %(org_id)s, %(user_id)s, %(email)s, %(facts)s::jsonb,
            %(mail_id)s, clock_timestamp() + make_interval(secs => %(lifetime_s)s))
    """,
)

SPEND_TOKEN = sql(
    Nothing,
    """
    UPDATE identity.one_time_tokens SET used_at = clock_timestamp()
     WHERE token_hash = %(token_hash)s AND purpose = %(purpose)s AND used_at IS NULL
       AND expires_at > clock_timestamp()
    """,
)

# For a letter that is written later: the token it holds, unless what it is for has ended meanwhile.
RENEW_TOKEN = sql(
    Nothing,
    """
    UPDATE identity.one_time_tokens
       SET token_hash = %(token_hash)s, org_id = %(org_id)s,
           expires_at = clock_timestamp() + make_interval(secs => %(lifetime_s)s)
     WHERE user_id = %(user_id)s AND purpose = %(purpose)s AND mail_id = %(mail_id)s
       AND used_at IS NULL AND expires_at > clock_timestamp()
    """,
)

# What was sent to a person before and is worth nothing any more.
SPEND_ALL = sql(
    Nothing,
    """
    UPDATE identity.one_time_tokens SET used_at = clock_timestamp()
     WHERE user_id = %(user_id)s AND purpose = ANY(%(purposes)s) AND used_at IS NULL
    """,
)

COUNT_ATTEMPT = sql(
    int,
    """
    UPDATE identity.one_time_tokens SET attempts = attempts + 1
     WHERE token_hash = %(token_hash)s AND purpose = %(purpose)s AND used_at IS NULL
       AND expires_at > clock_timestamp() AND attempts < %(attempts_max)s
    RETURNING attempts
    """,
)


def new_token() -> str:
    """As it is shown to its holder; the prefix lets secret scanners find one that leaked."""
    return PREFIX + secrets.token_urlsafe(32)


async def insert_token(
    tx: Tx,
    *,
    token: str,
    purpose: str,
    org_id: str,
    user_id: str,
    lifetime_s: float,
    email: str = "",
    facts: dict[str, Any] | None = None,
    mail_id: str = "",
) -> None:
    """Stores the hash; the token is good from the commit on."""
    await tx.run(
        INSERT_TOKEN,
        token_hash=hash_of(token),
        purpose=purpose,
        org_id=org_id,
        user_id=user_id,
        email=email,
        facts=orjson.dumps(facts or {}).decode(),
        mail_id=mail_id,
        lifetime_s=lifetime_s,
    )


async def find_token(db: Database, call: Call, token: str, purpose: str) -> Holder:
    """Raises Invalid(ONE_TIME_TOKEN_INVALID) for what is unknown, spent, expired, or made for
    something else."""
    async with db.look(as_caller(call, ANONYMOUS, audited=False)) as tx:
        holder = await tx.one(FIND_TOKEN, token_hash=hash_of(token), purpose=purpose)
    if holder is None:
        raise token_invalid()
    return holder


async def spend_token(tx: Tx, token: str, purpose: str) -> None:
    """Of parallel holders one gets through. Raises Invalid(ONE_TIME_TOKEN_INVALID)."""
    if not await tx.run(SPEND_TOKEN, token_hash=hash_of(token), purpose=purpose):
        raise token_invalid()


async def spend_others(tx: Tx, user_id: str, *purposes: str) -> None:
    """Ends everything else that was sent to the person for these purposes."""
    await tx.run(SPEND_ALL, user_id=user_id, purposes=list(purposes))


async def count_attempt(tx: Tx, token: str, purpose: str, attempts_max: int) -> None:
    """Counts before anything is verified. Raises Invalid(ONE_TIME_TOKEN_INVALID) when it was tried
    too often."""
    found = await tx.one(
        COUNT_ATTEMPT, token_hash=hash_of(token), purpose=purpose, attempts_max=attempts_max
    )
    if found is None:
        raise token_invalid()


def token_invalid() -> Invalid:
    return Invalid(
        "ONE_TIME_TOKEN_INVALID", "This link or challenge is not valid (any more); ask for another."
    )
