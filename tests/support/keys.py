"""Provider keys as a worker takes them up."""

from __future__ import annotations

from chimera.db import Tx, sql
from chimera.providers.keys import StoredKey, take_key

FIND_ADDRESS = sql(
    str,
    """
    SELECT p.base_url FROM providers.provider_keys k JOIN providers.providers p ON p.id = k.provider_id
     WHERE k.id = %(key_id)s
    """,
)


async def taken(tx: Tx, key_id: str, purpose: str = "test") -> StoredKey:
    """For a call to where its provider is now."""
    address = await tx.one(FIND_ADDRESS, key_id=key_id) or "https://nowhere.example.com"
    return await take_key(tx, key_id, purpose=purpose, base_url=address)
