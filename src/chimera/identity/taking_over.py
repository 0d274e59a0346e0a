"""Taking over: an account that somebody made for an address is its mailbox's owner's.

What must stay true: once the mailbox is proven for the first time, nothing that was set up before
lets anybody in: no password, session, key, second factor or identity elsewhere, in any organisation.
"""

from __future__ import annotations

from chimera.db import Nothing, Tx, sql
from chimera.identity.endings import CHANGES
from chimera.identity.one_time import spend_others
from chimera.identity.second_factor import REMOVE_RECOVERY_CODES, REMOVE_TOTP

UNLINK = sql(Nothing, "DELETE FROM identity.linked_identities WHERE user_id = %(user_id)s")

END_KEYS = sql(
    str,
    """
    UPDATE identity.api_keys SET is_active = false WHERE user_id = %(user_id)s AND is_active
    RETURNING id
    """,
)


async def take_over(tx: Tx, user_id: str) -> dict[str, object]:
    """What it ended, for the log. For the caller, beside a new password and after the end of sessions: none
    of them makes anything that lasts any more (standing.py)."""
    has_factor = bool(await tx.run(REMOVE_TOTP, user_id=user_id))
    await tx.run(REMOVE_RECOVERY_CODES, user_id=user_id)
    unlinked = await tx.run(UNLINK, user_id=user_id)
    keys: list[str] = []
    # What one of them has just made is there when the wait for it is over.
    while ended := await tx.all(END_KEYS, user_id=user_id):
        keys += ended
    await spend_others(tx, user_id, "login", "password_reset", "email_change", "email_verification")

    def note() -> None:
        for key_id in keys:
            CHANGES.note_end(key_id)

    tx.after_commit.append(note)
    return {
        "email_proven": True,
        "second_factor_removed": has_factor,
        "identities_unlinked": unlinked,
        "api_keys_ended": len(keys),
    }
