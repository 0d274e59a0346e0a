"""Requests that are sent again: the first one's answer is kept and told once more.

The claim of a request_id is the first statement of its transaction, so it stands or falls with the
work: a crash leaves neither a key without work nor work without a key.
"""

from __future__ import annotations

from typing import Any

from psycopg import errors

from chimera.call import NOBODY, Call
from chimera.db import Nothing, Tx, sql
from chimera.faults import AlreadyExists, Conflict


class Replay(Exception):
    """Raised by `begin` when a request_id was answered before; carries that answer."""

    def __init__(self, answer: Any) -> None:
        super().__init__("answered before")
        self.answer = answer


CLAIM_REQUEST = sql(
    Nothing,
    """
    INSERT INTO ops.idempotency (org_id, principal_id, method, request_id, body_hash)
    VALUES (%(org_id)s, %(principal_id)s, %(method)s, %(request_id)s, %(body_hash)s)
    ON CONFLICT DO NOTHING
    """,
)

FIND_ANSWER = sql(
    dict,
    """
    SELECT body_hash = %(body_hash)s AS same, answer
      FROM ops.idempotency
     WHERE org_id = %(org_id)s AND principal_id = %(principal_id)s AND method = %(method)s
       AND request_id = %(request_id)s
    """,
)

KEEP_ANSWER = sql(
    Nothing,
    """
    UPDATE ops.idempotency SET answer = %(answer)s
     WHERE org_id = %(org_id)s AND principal_id = %(principal_id)s AND method = %(method)s
       AND request_id = %(request_id)s
    """,
)


async def claim_request(tx: Tx) -> None:
    """Raises Replay with the answer of before, Conflict, AlreadyExists(REQUEST_ID_REUSED)."""
    call = tx.call
    key = _request_key(call)
    try:
        if await tx.run(CLAIM_REQUEST, **key, body_hash=call.body_hash):
            return
    except errors.LockNotAvailable:
        raise Conflict(
            "CONFLICT_TRY_AGAIN",
            "The same request_id is being worked on right now; try again shortly.",
            retry_after_s=1.0,
        ) from None
    found = await tx.one(FIND_ANSWER, **key, body_hash=call.body_hash)
    if found is None or found["answer"] is None or call.answer_type is None:
        raise Conflict(
            "CONFLICT_TRY_AGAIN", "The request is being finished; try again.", retry_after_s=1.0
        )
    if not found["same"]:
        raise AlreadyExists(
            "REQUEST_ID_REUSED", "This request_id was used before with another request body."
        )
    raise Replay(call.answer_type.FromString(found["answer"]))


def keep_answer(tx: Tx) -> None:
    if tx.kept_answer is None:
        raise AssertionError(f"{tx.call.method} takes a request_id and kept no answer")
    answer = tx.kept_answer.SerializeToString()
    tx.at_commit(KEEP_ANSWER, **_request_key(tx.call), answer=answer)


def _request_key(call: Call) -> dict[str, str]:
    caller = call.caller
    return {
        "org_id": caller.org_id or NOBODY,
        "principal_id": caller.api_key_id or caller.user_id or NOBODY,
        "method": call.method,
        "request_id": call.request_id,
    }
