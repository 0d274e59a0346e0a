"""Sealing processes are killed at every step of their work while events keep coming in."""

import asyncio

import psycopg
import pytest

from chimera.audit.report import Verdict
from tests.support.audit import Log, open_log
from tests.support.processes import Process, environment_of

# What the killed process is waiting for at its end, blocked there by a lock of ours: nothing of the
# batch is written; events and leaves are; the nodes too; the size is signed but not stored; and
# (None) nothing, right after it said that a batch is sealed.
STEPS = ["leaves", "nodes", "log_head", "checkpoints", None]
BLOCKED = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = %s::regclass"


class Victim(Process):
    """A real sealing process."""

    def __init__(self, log: Log, fence: int) -> None:
        environment = environment_of(log.settings)
        said = log.settings.home / f"sealing-{fence}.log"
        super().__init__("tests.support.sealing", environment, said, str(fence), warm=True)

    def sealed_once(self) -> None:
        """Waits until it sealed something."""
        self.until_said("sealed")

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()

    def blocked(self, table: str, url: str) -> None:
        """Waits until it stands before a locked table in the middle of its transaction, and kills
        it there."""
        with psycopg.connect(url) as connection:
            connection.execute(f"LOCK TABLE audit.{table} IN SHARE MODE".encode())
            while not connection.execute(BLOCKED, (f"audit.{table}",)).fetchone():
                assert self.child.poll() is None, "the sealing process ended by itself"
            self.kill()


@pytest.fixture
async def log(settings):
    async with open_log(settings) as log:
        yield log


async def test_ten_killed_sealers_lose_and_double_nothing(log):
    """Whatever a sealer was doing when it died, the next one goes on: each event is in the log
    once, the log verifies, and no signature contradicts another."""
    stop = asyncio.Event()
    made: list[str] = []

    async def go_on_recording() -> None:
        while not stop.is_set():
            made.extend(await log.record(2, each=3))

    recording = asyncio.create_task(go_on_recording())
    url = log.settings.database_url.get_secret_value()
    try:
        for fence, step in enumerate(STEPS * 2, start=1):
            victim = await asyncio.to_thread(Victim, log, fence)
            try:
                await asyncio.to_thread(victim.sealed_once)
                if step is not None:
                    await asyncio.to_thread(victim.blocked, step, url)
            finally:
                await asyncio.to_thread(victim.kill)
    finally:
        stop.set()
        await recording

    log.fence = 11
    while await log.seal():
        pass
    sealed = log.ask("SELECT entity_id FROM audit.events ORDER BY log_index")
    assert sorted(row[0] for row in sealed) == sorted(made)
    assert log.ask("SELECT count(*) FROM audit.pending") == [(0,)]
    assert log.sealer.refusals_total == 0
    report = await log.verify()
    assert (report.verdict, report.size) == (Verdict.VERIFIED, len(made))


async def test_a_size_that_was_signed_and_not_stored_is_stored_by_the_next(log):
    """Killed between the signature and its row, with nothing new to seal afterwards: the same note
    is stored, not another one."""
    await log.record(3)
    await log.seal()
    await log.record(3)
    victim = await asyncio.to_thread(Victim, log, 2)
    try:
        await asyncio.to_thread(
            victim.blocked, "checkpoints", log.settings.database_url.get_secret_value()
        )
    finally:
        await asyncio.to_thread(victim.kill)
    assert log.ask("SELECT max(size) FROM audit.checkpoints") == [(3,)]
    assert log.sealer.signer is not None
    signed = log.sealer.signer.last_note()

    log.fence = 3
    assert await log.seal() == 0
    assert log.ask("SELECT note FROM audit.checkpoints WHERE size = 6") == [(signed,)]
