"""How often each provider key was called with.

Calls of campaigns are counted out of the ledger, by whoever tails it and in the transaction that moves
its mark (accounting/usage.py): each once, a minute late, at no cost to the call. Calls that are in no
ledger (a connection that is tried, models that are listed, a probe) are counted as they are made.
"""

from __future__ import annotations

from chimera.db import Nothing, Tx, sql

# Rows in the order of their keys. A call has one entry 0; corrections have others.
ADD_LEDGER = sql(
    Nothing,
    """
    INSERT INTO providers.key_usage AS u (provider_key_id, org_id, requests, last_used_at)
    SELECT provider_key_id, org_id, count(*), max(booked_at)
      FROM providers.ledger
     WHERE xid >= %(upto)s::text::xid8 AND xid < %(bound)s::text::xid8
       AND entry_no = 0 AND provider_key_id IS NOT NULL
     GROUP BY provider_key_id, org_id ORDER BY provider_key_id
        ON CONFLICT (provider_key_id) DO UPDATE
       SET requests = u.requests + EXCLUDED.requests,
           last_used_at = GREATEST(u.last_used_at, EXCLUDED.last_used_at)
    """,
)


async def add_ledger(tx: Tx, upto: str, bound: str) -> None:
    """Counts the calls that transactions from `upto` to before `bound` have booked."""
    await tx.run(ADD_LEDGER, upto=upto, bound=bound)


COUNT_CALL = sql(
    Nothing,
    """
    UPDATE providers.provider_keys SET usage_count = usage_count + 1, last_used_at = now()
     WHERE id = %(key_id)s::uuid
    """,
)


async def count_call(tx: Tx, key_id: str) -> None:
    """One call that no ledger knows of."""
    await tx.run(COUNT_CALL, key_id=key_id)
