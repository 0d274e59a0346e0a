"""Mailboxes: nobody's is filled by somebody else's requests.

Counted by letters, not by what asked for them, and for each kind apart: who asks for one kind in a
stranger's name keeps no other from them. A letter that is written again counts once.
"""

from __future__ import annotations

from chimera.core import Core
from chimera.db import Nothing, Tx, sql

PER_HOUR_MAX = 5

# Of two workers that write to one mailbox the second sees what the first wrote.
LOCK_MAILBOX = sql(
    Nothing,
    "SELECT pg_advisory_xact_lock(hashtextextended(%(kind)s || encode(%(address_hash)s, 'hex'), 48))",
)

NOTE_LETTER = sql(
    str,
    """
    INSERT INTO identity.letters (address_hash, kind, mail_id)
    SELECT %(address_hash)s, %(kind)s, %(mail_id)s
     WHERE (SELECT count(*) FROM identity.letters
             WHERE address_hash = %(address_hash)s AND kind = %(kind)s AND mail_id <> %(mail_id)s
               AND written_at > now() - interval '1 hour') < %(per_hour_max)s
    ON CONFLICT (address_hash, kind, mail_id) DO UPDATE SET written_at = now()
    RETURNING mail_id
    """,
)


async def has_room(
    tx: Tx, core: Core, kind: str, mail_id: str, *names: str, per_hour_max: int = PER_HOUR_MAX
) -> bool:
    """Whether the letter may still be written within this hour, which is noted; names: its address,
    and whoever else it is counted by."""
    for name in sorted(names):
        mine = {
            "kind": kind,
            "address_hash": core.pages.digest(b"letter\0" + name.lower().encode()),
        }
        await tx.run(LOCK_MAILBOX, **mine)
        noted = await tx.one(NOTE_LETTER, **mine, mail_id=mail_id, per_hour_max=per_hour_max)
        if noted is None:
            return False
    return True
