"""Work that exists only if the transaction commits.

`enqueue` writes a row in the caller's transaction. The relay rings arq for rows that are due; the
arq job carries the row's id and nothing else that matters. A row leaves when its task has succeeded.
A job that was lost (Redis flushed, worker killed) is rung again when its row falls due again, with
a new ring number in the job id, because arq silently refuses an id it has seen. After rings_max the
row is dead and waits for an operator.
"""

from __future__ import annotations

from typing import Any

import orjson

from chimera.call import Call
from chimera.db import Nothing, Tx, sql
from chimera.ids import new_id
from chimera.pools import Database

RING_AGAIN_S = 60

ENQUEUE = sql(
    Nothing,
    """
    INSERT INTO ops.outbox (id, org_id, task, args)
    VALUES (%(id)s, %(org_id)s, %(task)s, %(args)s::jsonb)
    """,
)

ENQUEUE_LATER = sql(
    Nothing,
    """
    INSERT INTO ops.outbox (id, org_id, task, args, due_at)
    VALUES (%(id)s, %(org_id)s, %(task)s, %(args)s::jsonb,
            clock_timestamp() + make_interval(secs => %(delay_s)s))
    """,
)

CLAIM_DUE = sql(
    dict,
    """
    WITH due AS (
        SELECT id FROM ops.outbox
         WHERE state <> 'dead' AND due_at <= clock_timestamp()
         ORDER BY due_at LIMIT %(batch)s FOR UPDATE SKIP LOCKED
    )
    UPDATE ops.outbox o
       SET rings = o.rings + 1,
           state = CASE WHEN o.rings >= o.rings_max THEN 'dead' ELSE 'rung' END,
           due_at = clock_timestamp() + make_interval(secs => %(again_s)s)
      FROM due WHERE o.id = due.id
    RETURNING o.id, o.org_id, o.task, o.args, o.rings, o.state
    """,
)

RING_SOON = sql(
    Nothing,
    "UPDATE ops.outbox SET due_at = clock_timestamp(), rings = rings - 1 WHERE id = ANY(%(ids)s::uuid[])",
)

FINISH = sql(Nothing, "DELETE FROM ops.outbox WHERE id = %(id)s")

POSTPONE = sql(
    Nothing,
    """
    UPDATE ops.outbox
       SET due_at = clock_timestamp()
                    + make_interval(secs => least(300, %(delay_s)s::float8 * 2 ^ greatest(0, rings - 1))),
           last_error = %(error)s
     WHERE id = %(id)s
    """,
)


async def enqueue(tx: Tx, task: str, **args: Any) -> str:
    """Asks for `task` to run after this transaction commits; returns the row's id."""
    row_id = new_id()
    await tx.run(
        ENQUEUE,
        id=row_id,
        org_id=tx.call.caller.org_id or None,
        task=task,
        args=orjson.dumps(args).decode(),
    )
    tx.doorbells = True
    return row_id


async def enqueue_later(tx: Tx, task: str, delay_s: float, **args: Any) -> str:
    """The same, not before the delay is over."""
    row_id = new_id()
    await tx.run(
        ENQUEUE_LATER,
        id=row_id,
        org_id=tx.call.caller.org_id or None,
        task=task,
        args=orjson.dumps(args).decode(),
        delay_s=delay_s,
    )
    return row_id


async def claim_due(db: Database, org_id: str = "", batch: int = 100) -> list[dict[str, Any]]:
    """Takes up to `batch` due rows for ringing; workers see those of all organisations, a server
    those of the one it names. The claim commits before the ring: a relay that dies in between
    delays them by RING_AGAIN_S."""
    async with db.begin(Call.by_worker("relay", org_id, seconds=10)) as tx:
        return await tx.all(CLAIM_DUE, batch=batch, again_s=RING_AGAIN_S)


async def ring_soon(db: Database, ids: list[str], org_id: str = "") -> None:
    """Gives rows back whose doorbell could not be rung, uncounted."""
    async with db.begin(Call.by_worker("relay", org_id, seconds=10)) as tx:
        await tx.run(RING_SOON, ids=ids)


async def finish(db: Database, row_id: str) -> None:
    """The task has succeeded."""
    async with db.begin(Call.by_worker("outbox.finish", seconds=10)) as tx:
        await tx.run(FINISH, id=row_id)


async def postpone(db: Database, row_id: str, *, delay_s: float, error: str) -> None:
    """The task failed; it is rung again after the delay, twice as long each time up to 5 minutes."""
    async with db.begin(Call.by_worker("outbox.postpone", seconds=10)) as tx:
        await tx.run(POSTPONE, id=row_id, delay_s=delay_s, error=error[:1000])
