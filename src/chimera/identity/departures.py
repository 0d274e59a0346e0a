"""Departures: what ends with somebody's place in an organisation, beside their sessions.

What must stay true: nothing that a person made opens the organisation after they went, nor does it
come to life when they are let in again.
"""

from __future__ import annotations

from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.db import Tx, sql
from chimera.identity.endings import CHANGES
from chimera.providers.personal import revoke_personal_keys

END_API_KEYS = sql(
    str,
    """
    UPDATE identity.api_keys SET is_active = false
     WHERE org_id = %(org_id)s AND user_id = %(user_id)s AND is_active
    RETURNING id
    """,
)

END_INVITATIONS = sql(
    str,
    """
    UPDATE identity.invitations SET revoked_at = clock_timestamp()
     WHERE org_id = %(org_id)s AND created_by = %(user_id)s AND revoked_at IS NULL
       AND expires_at > now() AND uses < uses_max
    RETURNING id
    """,
)


async def end_keys(tx: Tx, user_id: str) -> None:
    """A person's keys in the caller's organisation: API keys, and keys to providers with their
    secrets."""
    ended = await tx.all(END_API_KEYS, org_id=tx.call.caller.org_id, user_id=user_id)
    for key_id in ended:
        record(tx, "api_key.revoke", "api_key", key_id, new={"is_active": False})

    def note() -> None:
        for key_id in ended:
            CHANGES.note_end(key_id)

    tx.after_commit.append(note)
    await revoke_personal_keys(tx, user_id)


async def end_invitations(tx: Tx, user_id: str) -> None:
    """The open ones of a person who may not make them any more, in the caller's organisation."""
    ended = await tx.all(END_INVITATIONS, org_id=tx.call.caller.org_id, user_id=user_id)
    for invitation_id in ended:
        record(
            tx,
            "invitation.revoke",
            "invitation",
            invitation_id,
            severity=Severity.NOTICE,
            kind=Kind.SECURITY,
        )
