"""What is over and serves nobody any more, as a worker removes it."""

from __future__ import annotations

from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, sql

# A day, so that "used already" can still be told from "never existed" by those who look.
PURGE_TOKENS = sql(
    Nothing,
    """
    DELETE FROM identity.one_time_tokens
     WHERE expires_at < now() - interval '1 day' OR used_at < now() - interval '1 day'
    """,
)

PURGE_REGISTRATIONS = sql(
    Nothing,
    """
    DELETE FROM identity.registrations
     WHERE expires_at < now() - interval '1 day' OR confirmed_at < now() - interval '1 day'
    """,
)

# A month, for those who ask who was let in; with its redemptions.
PURGE_INVITATIONS = sql(
    Nothing,
    """
    DELETE FROM identity.invitations
     WHERE least(expires_at, coalesce(revoked_at, 'infinity')) < now() - interval '30 days'
    """,
)

PURGE_LETTERS = sql(
    Nothing, "DELETE FROM identity.letters WHERE written_at < now() - interval '1 hour'"
)

PURGE_DEVICES = sql(Nothing, "DELETE FROM identity.devices WHERE expires_at < now()")

PURGE_RECOVERY_CODES = sql(
    Nothing, "DELETE FROM identity.recovery_codes WHERE used_at < now() - interval '30 days'"
)

# Their newest refresh token has run out; see sessions.LIST_SESSIONS.
END_IDLE_SESSIONS = sql(
    Nothing,
    """
    UPDATE identity.sessions s
       SET is_active = false, ended_at = clock_timestamp(),
           ended_reason = CASE WHEN s.absolute_expires_at > now() THEN 'idle' ELSE 'expired' END
      FROM (SELECT a.id FROM identity.sessions a
             WHERE a.is_active
               AND NOT COALESCE((SELECT t.used_at IS NULL AND t.expires_at > now()
                                   FROM identity.refresh_tokens t WHERE t.session_id = a.id
                                  ORDER BY t.generation DESC LIMIT 1), false)
             LIMIT %(most)s FOR NO KEY UPDATE OF a SKIP LOCKED) idle
     WHERE s.id = idle.id
    """,
)
IDLE_MAX = 5_000  # a run; the others have their turn in the next

# Not before those that descend from it: they are found through it.
PURGE_ENDED_SESSIONS = sql(
    Nothing,
    """
    DELETE FROM identity.sessions s
     WHERE s.ended_at < now() - interval '30 days'
       AND NOT EXISTS (SELECT FROM identity.sessions c
                        WHERE c.user_id = s.user_id AND c.parent_id = s.id)
    """,
)


async def purge(core: Core) -> int:
    """Ends sessions that cannot go on, and removes what is old; how many rows went. Safe to run at any
    time, also twice at once."""
    async with core.db.begin(Call.by_worker("purge_accounts")) as tx:
        await tx.run(END_IDLE_SESSIONS, most=IDLE_MAX)
        return sum(
            [
                await tx.run(statement)
                for statement in (
                    PURGE_TOKENS,
                    PURGE_REGISTRATIONS,
                    PURGE_INVITATIONS,
                    PURGE_LETTERS,
                    PURGE_DEVICES,
                    PURGE_RECOVERY_CODES,
                    PURGE_ENDED_SESSIONS,
                )
            ]
        )
