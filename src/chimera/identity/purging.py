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

PURGE_ENDED_SESSIONS = sql(
    Nothing, "DELETE FROM identity.sessions WHERE ended_at < now() - interval '30 days'"
)


async def purge(core: Core) -> int:
    """How many rows went. Safe to run at any time, also twice at once."""
    async with core.db.begin(Call.by_worker("purge_accounts")) as tx:
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
