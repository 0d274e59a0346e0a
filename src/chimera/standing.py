"""The last look at who asks: what gives lasting power commits only while the caller still stands.

A session or key that has ended is believed for up to 2 s elsewhere. That is long enough to make what
outlasts it: a key, a second factor, a way in. So changes that are declared `step_up` or `session_only` look
again in the message of COMMIT, holding their credential until then; others may ask for it. Whoever may
merely do less than before is heard within those 2 s, as anywhere.
"""

from __future__ import annotations

from chimera.db import Nothing, Tx, sql
from chimera.v1.options_pb2 import Access

# What it raises: fault_of in pools.py.
CONFIRM_STANDING = sql(
    Nothing, "SELECT identity.confirm_standing(%(session_id)s::uuid, %(api_key_id)s::uuid)"
)


def is_lasting(access: Access) -> bool:
    return bool(access.audit) and (access.step_up or access.session_only)


def confirm_standing(tx: Tx) -> None:
    """Of the caller, at COMMIT. Who came without a credential stands by what they showed instead."""
    caller = tx.call.caller
    if caller.session_id or caller.api_key_id:
        tx.at_commit(
            CONFIRM_STANDING,
            session_id=caller.session_id or None,
            api_key_id=caller.api_key_id or None,
        )
