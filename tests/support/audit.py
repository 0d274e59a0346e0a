"""A log on a real database: record, seal, verify, and what a superuser could do to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg

from chimera.audit.inspection import verify_live
from chimera.audit.recording import record
from chimera.audit.report import Report
from chimera.audit.sealer import Sealer
from chimera.call import Call, Caller
from chimera.core import Core, open_core, open_database
from chimera.ids import new_id
from chimera.pools import Database
from chimera.settings import Settings

PROTECTED = ("events", "leaves", "nodes", "checkpoints", "cosignatures")


def call_of(org_id: str, *, seconds: float = 60.0) -> Call:
    """A user of an organisation at work."""
    caller = Caller("user", org_id=org_id, user_id=new_id(), session_id=new_id())
    return Call(
        caller,
        "/test",
        time.monotonic() + seconds,
        ip_address="192.0.2.7",
        user_agent="test/1",
    )


class Log:
    """The log of one installation, with the pools that write and seal it."""

    def __init__(self, settings: Settings, app: Database, core: Core) -> None:
        self.settings, self.app, self.core = settings, app, core
        self.sealer = Sealer(core)
        self.fence = 1

    async def record(self, count: int = 1, *, org_id: str = "", each: int = 1) -> list[str]:
        """`count` transactions of `each` events; the ids of what they were about."""
        org_id = org_id or new_id()
        made = []
        for number in range(count):
            async with self.app.begin(call_of(org_id)) as tx:
                for _ in range(each):
                    made.append(new_id())
                    old, new = {"state": "draft"}, {"state": "running", "budget": number}
                    record(tx, "campaign.launch", "campaign", made[-1], old=old, new=new)
        return made

    async def seal(self) -> int:
        return await self.sealer.run_once(self.fence)

    async def verify(self) -> Report:
        """As `chimera audit verify` does, with the signer's key and memory."""
        return await asyncio.to_thread(verify_live, self.settings)

    def ask(self, query: LiteralString, *values: Any) -> list[tuple[Any, ...]]:
        """As superuser, who sees all rows."""
        with psycopg.connect(self.settings.database_url.get_secret_value()) as connection:
            return connection.execute(query, values).fetchall()

    def tamper(self, *statements: LiteralString, values: Sequence[Any] = ()) -> None:
        """As superuser, who switches the triggers off first and on again at the end."""
        url = self.settings.database_url.get_secret_value()
        with psycopg.connect(url, autocommit=True) as connection, connection.transaction():
            for table in _protected(connection):
                connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
            for statement in statements:
                connection.execute(statement, values)
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            for table in _protected(connection):
                for trigger in ("no_change", "no_truncate"):
                    connection.execute(
                        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}".encode()
                    )


def _protected(connection: psycopg.Connection[Any]) -> list[str]:
    """Tables with triggers, the months of events too."""
    months = connection.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits"
        " WHERE inhparent = 'audit.events'::regclass"
    ).fetchall()
    return [*(f"audit.{table}" for table in PROTECTED), *(row[0] for row in months)]


@asynccontextmanager
async def open_log(settings: Settings) -> AsyncIterator[Log]:
    app = open_database(settings, "app")
    await app.open()
    try:
        async with open_core(settings, "sealer") as core:
            yield Log(settings, app, core)
    finally:
        await app.close()
