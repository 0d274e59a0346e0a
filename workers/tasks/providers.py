"""Wrapping secrets anew, and telling people that their keys are due."""

from __future__ import annotations

from typing import Any

from chimera import mail
from chimera.audit.leaf import Kind
from chimera.audit.recording import record
from chimera.call import Call
from chimera.core import Core
from chimera.db import sql
from chimera.providers.rotation import rewrap_all
from workers.tasks import task

DUE_MAX = 500


@task
async def rewrap_secrets(ctx: dict[str, Any], _org_id: str | None, args: dict[str, Any]) -> None:
    """Goes on with a rotation of the master key; what was done before a crash is not done again."""
    await rewrap_all(ctx["core"], args["rotation_id"])


FIND_DUE = sql(dict, "SELECT id, org_id FROM providers.find_keys_due(%(size)s::int)")
# Of two workers that remind at once, one finds the row unmarked.
MARK_REMINDED = sql(
    dict,
    """
    UPDATE providers.provider_keys SET reminded_at = now()
     WHERE id = %(key_id)s::uuid AND is_active AND rotate_at <= now() AND reminded_at IS NULL
    RETURNING id, user_id, name, provider_id
    """,
)


async def remind_of_keys(ctx: dict[str, Any]) -> None:
    """Writes to the owners of keys whose rotate_at has passed, once for each date."""
    core: Core = ctx["core"]
    async with core.db.begin(Call.by_worker("remind_of_keys", seconds=30)) as tx:
        due = await tx.all(FIND_DUE, size=DUE_MAX)
    for row in due:
        call = Call.by_worker("remind_of_keys", row["org_id"], seconds=30)
        async with core.db.begin(call) as tx:
            key = await tx.one(MARK_REMINDED, key_id=row["id"])
            if key is None:
                continue
            await mail.ask(tx, "provider_key_due", provider_key_id=key["id"])
            new = {"name": key["name"], "provider_id": key["provider_id"]}
            record(tx, "provider_key.due", "provider_key", key["id"], new=new, kind=Kind.SECURITY)


FIND_REMINDER = sql(
    dict,
    """
    SELECT k.name, k.last_four, k.rotate_at, p.name AS provider, o.email, o.display_name
      FROM providers.provider_keys k
      JOIN providers.providers p ON p.id = k.provider_id
      JOIN LATERAL providers.owner_of_key(k.id) o ON true
     WHERE k.id = %(key_id)s::uuid AND k.is_active AND k.rotate_at <= now()
    """,
)


async def write_key_due(core: Core, org_id: str | None, args: dict[str, Any]) -> mail.Mail | None:
    """The mail to the owner; None when the key was replaced or revoked meanwhile."""
    call = Call.by_worker("write_key_due", org_id or "", seconds=10)
    async with core.db.begin(call) as tx:
        row = await tx.one(FIND_REMINDER, key_id=args["provider_key_id"])
    if row is None:
        return None
    text = (
        f"Hello {row['display_name'] or row['email']},\n\n"
        f"your key {row['name']!r} for {row['provider']} (it ends in {row['last_four']}) was to be "
        f"replaced by {row['rotate_at']:%Y-%m-%d}.\n\nMake a new one at the provider and store it "
        "with ReplaceProviderKeySecret; campaigns take it up by themselves. Then end the old one "
        "at the provider.\n"
    )
    return mail.Mail(row["email"], f"Your key for {row['provider']} is due", text)
