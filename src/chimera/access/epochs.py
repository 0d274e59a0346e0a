"""Epochs: everyone whose permissions change gets a new one, so that tokens from before end."""

from __future__ import annotations

from chimera.db import Nothing, Tx, sql
from chimera.identity.endings import CHANGES

# In the order of ids, so that two changes about the same people do not wait for each other.
ADVANCE_EPOCHS = sql(
    Nothing,
    """
    WITH concerned AS (
        SELECT u.id FROM identity.users u
         WHERE u.id = ANY (%(user_ids)s::uuid[])
            OR u.id IN (SELECT m.user_id FROM identity.team_members m
                         WHERE m.team_id = ANY (%(team_ids)s::uuid[]))
         ORDER BY u.id FOR NO KEY UPDATE
    )
    UPDATE identity.users u SET authz_epoch = u.authz_epoch + 1 FROM concerned c WHERE u.id = c.id
    """,
)


async def advance_epochs(
    tx: Tx, *, user_ids: list[str] | None = None, team_ids: list[str] | None = None
) -> None:
    """Of these users and of the members of these teams."""
    await tx.run(ADVANCE_EPOCHS, user_ids=user_ids or [], team_ids=team_ids or [])
    tx.after_commit.append(CHANGES.note)
