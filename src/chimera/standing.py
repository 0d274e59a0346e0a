"""The last look at who asks: what gives lasting power commits only while the caller still stands.

A session or key that has ended is believed for up to 2 s elsewhere. That is long enough to make what
outlasts it: a key, a second factor, a way in. So calls that ask for a fresh proof, and those that only a
person may make, look again in the message of COMMIT, holding their credential until then.
"""

from __future__ import annotations

from chimera.db import Nothing, Tx, sql

# What it raises: fault_of in pools.py.
CONFIRM_STANDING = sql(
    Nothing, "SELECT identity.confirm_standing(%(session_id)s::uuid, %(api_key_id)s::uuid)"
)


def confirm_standing(tx: Tx) -> None:
    call, caller = tx.call, tx.call.caller
    if not (call.access.step_up or call.access.session_only):
        return
    if caller.session_id or caller.api_key_id:
        tx.at_commit(
            CONFIRM_STANDING,
            session_id=caller.session_id or None,
            api_key_id=caller.api_key_id or None,
        )
