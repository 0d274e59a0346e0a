"""Whose turn it is with the store: inserts go on beside each other, a rebuild of roll-ups beside nothing.

A rebuild deletes a day and makes it anew from the events, so an event that is inserted in between would
count twice. Who drains and who rebuilds is one process while leases hold; a process that was stopped and
wakes up does not know that another took over. So each takes a lock of PostgreSQL, and never waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from chimera.call import Call
from chimera.db import Statement, Tx, sql
from chimera.faults import Conflict
from chimera.pools import Database

STAY_EVERY_S = 20.0  # a transaction that says nothing is ended after 60
TURN_MAX_S = 6 * 3600.0

TAKE_SHARED = sql(bool, "SELECT pg_try_advisory_xact_lock_shared(hashtext('telemetry.rollups'))")
TAKE_ALONE = sql(bool, "SELECT pg_try_advisory_xact_lock(hashtext('telemetry.rollups'))")
STAY = sql(int, "SELECT 1")


class Turn:
    """Taken until it ends, unless the database went away meanwhile."""

    def __init__(self, tx: Tx) -> None:
        self.over = asyncio.Event()
        self._staying = asyncio.create_task(self._stay(tx))

    def check(self) -> None:
        """Raises Conflict when it was lost."""
        if self._staying.done():
            raise _not_free()

    async def end(self) -> None:
        """Raises the fault of the database by which it was lost."""
        self.over.set()
        await self._staying

    async def _stay(self, tx: Tx) -> None:
        while not self.over.is_set():
            try:
                async with asyncio.timeout(STAY_EVERY_S):
                    await self.over.wait()
            except TimeoutError:
                await tx.one(STAY)


@asynccontextmanager
async def inserting(db: Database) -> AsyncIterator[Turn]:
    """Beside other inserts. Raises Conflict while roll-ups are made anew."""
    async with _taken(db, TAKE_SHARED) as turn:
        yield turn


@asynccontextmanager
async def rebuilding(db: Database) -> AsyncIterator[Turn]:
    """Alone. Raises Conflict while something is inserted or made anew."""
    async with _taken(db, TAKE_ALONE) as turn:
        yield turn


@asynccontextmanager
async def _taken(db: Database, statement: Statement[Any]) -> AsyncIterator[Turn]:
    async with db.begin(Call.by_worker("telemetry.turn", seconds=TURN_MAX_S)) as tx:
        if not await tx.one(statement):
            raise _not_free()
        turn = Turn(tx)
        try:
            yield turn
        finally:
            await turn.end()


def _not_free() -> Conflict:
    return Conflict("CONFLICT_TRY_AGAIN", "Another process works on the roll-ups.")
