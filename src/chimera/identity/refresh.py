"""Refresh: a session's tokens rotate, one generation after the other.

What must stay true: a token has at most one successor, decided by one conditional UPDATE. Who asks
again within RETRY_S (a lost answer, two tabs) gets that same successor, which is stored readable
only with the presented token. Any other reuse means that two parties hold the token, so the session
ends; that end is committed although the caller is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from chimera import mail
from chimera.audit.leaf import Kind, Outcome, Severity
from chimera.audit.recording import record
from chimera.call import ANONYMOUS, Call, Caller
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.faults import Unauthenticated
from chimera.identity.authentication import FIND_SESSION, SessionState
from chimera.identity.sessions import as_caller, end_family
from chimera.identity.tokens import hash_of, new_refresh_token, open_successor, seal_successor

RETRY_S = 10


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose a refresh token is."""

    session_id: str
    user_id: str
    org_id: str


@dataclass(frozen=True, slots=True)
class Rotated:
    generation: int
    expires_at: datetime


@dataclass(frozen=True, slots=True, repr=False)
class Spent:
    """A token that no longer rotates; `is_retry` when it was used within RETRY_S."""

    is_used: bool
    is_retry: bool
    successor_sealed: bytes | None
    successor_expires_at: datetime | None


@dataclass(frozen=True, slots=True, repr=False)
class Refreshed:
    """The live token of a session, and what its next access token says."""

    session_id: str
    session: SessionState
    refresh_token: str
    refresh_expires_at: datetime


FIND_HOLDER = sql(Holder, "SELECT * FROM identity.find_refresh_token(%(token_hash)s)")

ROTATE = sql(
    Rotated,
    """
    WITH spent AS (
        UPDATE identity.refresh_tokens t
           SET used_at = clock_timestamp(), successor_sealed = %(successor_sealed)s
          FROM identity.sessions s
         WHERE t.token_hash = %(token_hash)s AND t.used_at IS NULL AND t.expires_at > clock_timestamp()
           AND s.id = t.session_id AND s.is_active AND s.absolute_expires_at > clock_timestamp()
        RETURNING t.session_id, t.org_id, t.user_id, t.generation, s.absolute_expires_at
    )
    INSERT INTO identity.refresh_tokens (token_hash, session_id, org_id, user_id, generation, expires_at)
    SELECT %(successor_hash)s, session_id, org_id, user_id, generation + 1,
           LEAST(clock_timestamp() + make_interval(secs => %(idle_s)s), absolute_expires_at)
      FROM spent
    RETURNING generation, expires_at
    """,
)

# Or an old token and a copy of the table together would open the chain up to the live one.
FORGET_SUCCESSOR = sql(
    Nothing,
    """
    UPDATE identity.refresh_tokens SET successor_sealed = NULL
     WHERE session_id = %(session_id)s AND generation = %(generation)s
       AND used_at < clock_timestamp() - make_interval(secs => %(retry_s)s)
    """,
)

GET_SPENT = sql(
    Spent,
    """
    SELECT t.used_at IS NOT NULL AS is_used,
           COALESCE(t.used_at > clock_timestamp() - make_interval(secs => %(retry_s)s), false) AS is_retry,
           t.successor_sealed, n.expires_at AS successor_expires_at
      FROM identity.refresh_tokens t
      LEFT JOIN identity.refresh_tokens n
             ON n.session_id = t.session_id AND n.generation = t.generation + 1
     WHERE t.token_hash = %(token_hash)s
    """,
)

END_FAMILY = sql(
    Nothing,
    """
    UPDATE identity.refresh_tokens
       SET used_at = COALESCE(used_at, clock_timestamp()), successor_sealed = NULL
     WHERE session_id = %(session_id)s AND (used_at IS NULL OR successor_sealed IS NOT NULL)
    """,
)


class Refreshing:
    """Rotates refresh tokens, for one server process."""

    def __init__(self, core: Core) -> None:
        self.db, self.idle_s = core.db, core.settings.refresh_idle_s

    async def refresh(self, presented: str, call: Call) -> Refreshed:
        """Raises Unauthenticated(REFRESH_TOKEN_INVALID) whatever is wrong."""
        async with self.db.begin(as_caller(call, ANONYMOUS, audited=False)) as tx:
            holder = await tx.one(FIND_HOLDER, token_hash=hash_of(presented))
            session: SessionState | None = None
            if holder is not None:
                session = await tx.one(FIND_SESSION, session_id=holder.session_id)
        if holder is None or session is None or not session.is_active or session.state != "active":
            raise _refused()
        caller = Caller(
            "user",
            org_id=holder.org_id,
            user_id=holder.user_id,
            session_id=holder.session_id,
            role=session.role,
        )
        # The session is ended inside and the caller refused outside: raising would undo the end.
        async with self.db.begin(as_caller(call, caller)) as tx:
            live = await self._rotate(tx, presented) or await self._retry(tx, presented)
            if live is None:
                await _end_reused(tx)
        if live is None:
            raise _refused()
        token, expires_at = live
        return Refreshed(holder.session_id, session, token, expires_at)

    async def _rotate(self, tx: Tx, presented: str) -> tuple[str, datetime] | None:
        session_id, successor = tx.call.caller.session_id, new_refresh_token()
        rotated = await tx.one(
            ROTATE,
            token_hash=hash_of(presented),
            successor_hash=hash_of(successor),
            successor_sealed=seal_successor(presented, successor, session_id),
            idle_s=self.idle_s,
        )
        if rotated is None:
            return None
        tx.at_commit(
            FORGET_SUCCESSOR,
            session_id=session_id,
            generation=rotated.generation - 2,
            retry_s=RETRY_S,
        )
        record(tx, "session.refresh", "session", session_id)
        return successor, rotated.expires_at

    async def _retry(self, tx: Tx, presented: str) -> tuple[str, datetime] | None:
        session_id = tx.call.caller.session_id
        spent = await tx.one(GET_SPENT, token_hash=hash_of(presented), retry_s=RETRY_S)
        if spent is None or not spent.is_used:
            raise _refused()  # expired, or the session ended a moment ago
        if not (spent.is_retry and spent.successor_sealed and spent.successor_expires_at):
            return None
        record(tx, "session.refresh", "session", session_id, reason="retry")
        successor = open_successor(presented, spent.successor_sealed, session_id)
        return successor, spent.successor_expires_at


async def _end_reused(tx: Tx) -> None:
    session_id = tx.call.caller.session_id
    await end_family(tx, session_id, "refresh_token_reuse")
    await tx.run(END_FAMILY, session_id=session_id)
    await mail.ask(
        tx, "security_notice", user_id=tx.call.caller.user_id, what="refresh_token_reuse"
    )
    record(
        tx,
        "session.refresh",
        "session",
        session_id,
        old={"is_active": True},
        new={"is_active": False},
        outcome=Outcome.DENIED,
        severity=Severity.WARNING,
        kind=Kind.SECURITY,
        reason="REFRESH_TOKEN_INVALID",
    )


def _refused() -> Unauthenticated:
    return Unauthenticated("REFRESH_TOKEN_INVALID", "This session has ended; sign in again.")
