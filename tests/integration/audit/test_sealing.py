"""Sealing: recorded events become one log that verifies, whoever seals and how often."""

import asyncio

import psycopg
import pytest

from chimera.audit.report import Verdict
from chimera.audit.sealer import Sealer, seal
from chimera.core import open_core
from chimera.faults import Fault
from chimera.ids import new_id
from tests.support.audit import call_of
from tests.support.statements import plain


async def test_what_was_recorded_is_sealed_signed_and_verified(log):
    """Three transactions by two organisations: all in the log, in order, and nothing waits."""
    await log.record(2, org_id=new_id(), each=2)
    await log.record(1, org_id=new_id())

    assert await log.seal() == 5
    assert await log.seal() == 0

    report = await log.verify()
    assert (report.verdict, report.size, report.entries) == (Verdict.VERIFIED, 5, 5)
    assert report.opened == 25 and report.withheld == 0
    assert report.since_size == 5
    assert log.ask("SELECT count(*) FROM audit.pending") == [(0,)]


async def test_the_log_grows_over_many_batches(log):
    """Batches of any size join up: frontiers are rebuilt from stored nodes each time."""
    for count in (1, 1, 2, 3, 5, 8, 13):
        await log.record(count)
        assert await log.seal() == count

    report = await log.verify()
    assert (report.verdict, report.size, report.checkpoints) == (Verdict.VERIFIED, 33, 7)


async def test_a_writers_events_keep_their_order(log):
    """Ids made in one millisecond are in no order; numbers in the log are, and a transaction is
    never torn apart by the end of a batch."""
    await log.record(10, each=7)
    sealed = []
    while count := await seal(log.core, 1, batch=10):
        sealed.append(count)

    assert sealed == [14, 14, 14, 14, 14]
    rows = log.ask("SELECT substring(leaf FROM 29 FOR 8) FROM audit.events ORDER BY log_index")
    assert [int.from_bytes(row[0], "big") for row in rows] == list(range(1, 71))


async def test_an_open_transaction_holds_back_what_came_after_it(log):
    """Its events may still come and belong before; nothing is skipped for ever."""
    async with log.app.begin(call_of(new_id())) as tx:
        await tx.run(plain("SELECT pg_current_xact_id()"))
        await log.record(3)
        assert await log.seal() == 0
    assert await log.seal() == 3


async def test_events_of_a_restored_dump_are_sealed(log):
    """Their transaction ids are those of another life of the database, still to come in this."""
    await log.record(2)
    log.tamper("UPDATE audit.pending SET xid = '99999999'")

    assert await log.seal() == 2


async def test_two_sealers_never_fork_the_log(log):
    """Two at once with the same fence, event by event: one wins each batch, none is sealed twice."""
    made = await log.record(60)
    async with open_core(log.settings, "sealer") as other:

        async def drain(core):
            mine = 0
            while True:
                try:
                    count = await seal(core, 1, batch=3)
                except Fault:  # waited too long for the other one
                    continue
                mine += count
                if not count:
                    return mine

        shares = await asyncio.gather(drain(log.core), drain(other))

    assert sum(shares) == 60
    await log.seal()
    sealed = log.ask("SELECT entity_id FROM audit.events ORDER BY log_index")
    assert sorted(row[0] for row in sealed) == sorted(made)
    assert (await log.verify()).verdict is Verdict.VERIFIED


async def test_two_signers_at_once_do_not_accuse_the_database(log):
    """Both seal and sign in turns; whoever sees an outdated size looks again."""
    async with open_core(log.settings, "sealer") as core:
        other = Sealer(core)
        for _ in range(10):
            await log.record(2)
            await asyncio.gather(log.seal(), other.run_once(1))

        assert (log.sealer.refusals_total, other.refusals_total) == (0, 0)
    assert (await log.verify()).verdict is Verdict.VERIFIED


async def test_an_older_fence_does_nothing(log):
    """A sealer that slept through a takeover finds its fence outdated, even if there was nothing
    to seal for its successor."""
    await log.record(2)
    assert await seal(log.core, 7) == 2
    await log.record(2)
    assert await seal(log.core, 6) == 0
    assert await seal(log.core, 7) == 2
    assert await seal(log.core, 9) == 0
    await log.record(1)
    assert await seal(log.core, 8) == 0
    assert await seal(log.core, 9) == 1


async def test_odd_facts_cannot_stop_the_sealer(log):
    """Facts are for search only: a row with none, or with nonsense, is sealed like any other."""
    await log.record(3)
    log.tamper('UPDATE audit.pending SET facts = \'{"actor_id": "nobody"}\'')

    assert await log.seal() == 3
    report = await log.verify()
    assert (report.verdict, report.first_bad_index) == (Verdict.TAMPERED, 0)


async def test_an_id_that_is_sealed_already_stops_it(log):
    """Somebody put an old event in again: nothing is sealed until a human has looked."""
    await log.record(1)
    await log.seal()
    log.tamper(
        "INSERT INTO audit.pending (id, org_id, occurred_at, facts, fields, leaf)"
        " SELECT id, org_id, occurred_at, facts, fields, leaf FROM audit.events"
    )
    with pytest.raises(psycopg.errors.UniqueViolation):
        await log.seal()
    assert log.ask("SELECT size FROM audit.log_head") == [(1,)]


async def test_the_sealed_cannot_be_changed_by_the_roles_of_the_product(log):
    """No grant, and behind it triggers: sealer and application only ever add."""
    await log.record(1)
    await log.seal()
    for pool in (log.app, log.core.db):
        for change in (
            "UPDATE audit.events SET action = 'x'", "DELETE FROM audit.events",
            "DELETE FROM audit.leaves", "TRUNCATE audit.nodes", "DELETE FROM audit.checkpoints",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                async with pool.begin(call_of("")) as tx:
                    await tx.run(plain(change))
