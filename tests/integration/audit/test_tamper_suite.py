"""What a database superuser could do to the log, one story each; the verifier or the sealer notices.

The verifier holds what is outside the database: the signer's key and its last checkpoint. A witness in
a folder, which keeps leaf hashes, names the very row also where everything after it was computed anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from chimera.audit import merkle
from chimera.audit.leaf import GENESIS, chain_leaf
from chimera.audit.report import Verdict
from chimera.audit.sealer import Sealer, seal
from chimera.audit.signing_home import load_signer
from chimera.audit.witness import Witness
from chimera.core import open_core
from chimera.ids import new_id
from chimera.settings import Settings
from tests.support.audit import Log, call_of, open_log
from tests.support.statements import plain


async def sealed_in_three(log: Log) -> Log:
    for _ in range(3):
        await log.record(4)
        await log.seal()
    return log


@pytest.fixture
async def sealed(log: Log) -> Log:
    """Twelve sealed and signed events by one writer, in three checkpoints."""
    return await sealed_in_three(log)


@pytest.fixture
async def witnessed(settings: Settings, tmp_path: Path) -> AsyncIterator[Log]:
    """The same with a witness in a folder, which was shown every leaf."""
    async with open_log(settings) as log:
        await log.record(1)
        await log.seal()  # makes the key
        witness = Witness.create(
            tmp_path / "witness", "witness.example/1", [load_signer(settings).verifier_key]
        )
    policy = tmp_path / "policy"
    policy.write_text(
        f"witness one {witness.verifier_key} file://{tmp_path / 'witness'}\nquorum one\n"
    )
    async with open_log(settings.model_copy(update={"audit_witness_policy": policy})) as log:
        for _ in range(3):
            await log.record(4)
            await log.seal()
        assert (await log.verify()).verdict is Verdict.VERIFIED
        yield log


def rewrite(log: Log, index: int, *, drop_checkpoints: bool = True) -> None:
    """Edits leaf `index` and computes everything after it anew: chain, tree, head; what cannot be
    signed anew is deleted."""
    rows = log.ask("SELECT id, leaf FROM audit.events ORDER BY log_index")
    leaves = [leaf for _, leaf in rows]
    leaves[index] = leaves[index][:12] + bytes([leaves[index][12] ^ 1]) + leaves[index][13:]
    chain = [GENESIS]
    for leaf in leaves:
        chain.append(chain_leaf(chain[-1], leaf))
    _frontier, nodes = merkle.EMPTY_TREE.extend(chain[1:])
    size = len(leaves)
    log.tamper(
        "UPDATE audit.events e SET leaf = n.leaf, leaf_hash = n.hash, previous_hash = n.before"
        " FROM unnest(%(ids)s::uuid[], %(leaves)s::bytea[], %(hashes)s::bytea[], %(befores)s::bytea[])"
        " AS n (id, leaf, hash, before) WHERE e.id = n.id",
        "UPDATE audit.leaves l SET leaf_hash = e.leaf_hash FROM audit.events e"
        " WHERE e.log_index = l.log_index",
        "UPDATE audit.nodes o SET hash = n.hash"
        " FROM unnest(%(levels)s::smallint[], %(places)s::bigint[], %(nodes)s::bytea[])"
        " AS n (level, place, hash) WHERE o.level = n.level AND o.node_index = n.place",
        "UPDATE audit.log_head SET last_hash = %(last)s",
        "DELETE FROM audit.cosignatures WHERE %(drop)s AND size BETWEEN 1 AND %(size)s - 1",
        "DELETE FROM audit.checkpoints WHERE %(drop)s AND size BETWEEN 1 AND %(size)s - 1",
        values={
            "ids": [row[0] for row in rows], "leaves": leaves, "hashes": chain[1:],
            "befores": chain[:-1], "levels": [n[0] for n in nodes], "places": [n[1] for n in nodes],
            "nodes": [n[2] for n in nodes], "last": chain[-1], "size": size,
            "drop": drop_checkpoints,
        },
    )  # fmt: skip


async def test_edit_a_row(sealed: Log) -> None:
    """The bytes of one event are changed: it is that row."""
    sealed.tamper(
        "UPDATE audit.events SET leaf = set_byte(leaf, 40, get_byte(leaf, 40) # 1) WHERE log_index = 5"
    )
    report = await sealed.verify()
    assert (report.verdict, report.first_bad_index) == (Verdict.TAMPERED, 5)


async def test_edit_a_row_and_recompute_the_whole_chain(sealed: Log) -> None:
    """Every hash in the database agrees again; the signatures do not. The first leaves that are no
    longer proven are those after the last checkpoint that still holds, which is 4."""
    rewrite(sealed, 5, drop_checkpoints=False)
    report = await sealed.verify()
    assert (report.verdict, report.first_bad_index) == (Verdict.TAMPERED, 4)
    assert "leaves up to 7 do not give the root signed" in report.findings[0].reason


async def test_a_recomputed_chain_is_named_to_the_row_by_a_witness(witnessed: Log) -> None:
    """Even when all older checkpoints are deleted too: the witness's own copy says where."""
    rewrite(witnessed, 6)
    report = await witnessed.verify()
    assert (report.verdict, report.first_bad_index) == (Verdict.TAMPERED, 6)
    assert any("the witness witness.example/1 kept" in f.reason for f in report.findings)


async def test_a_recomputed_chain_is_not_signed_on(sealed: Log) -> None:
    """The sealer's signer notices by itself, at the next event."""
    rewrite(sealed, 5)
    await sealed.record(1)
    assert await sealed.seal() == 1
    assert sealed.sealer.refusals_total == 1
    assert load_signer(sealed.settings).last().size == 12


async def test_delete_the_tail(sealed: Log) -> None:
    """And everything in the database that speaks of it: the signer's memory says there were 12."""
    sealed.tamper(
        "DELETE FROM audit.events WHERE log_index >= 8",
        "DELETE FROM audit.leaves WHERE log_index >= 8",
        "DELETE FROM audit.checkpoints WHERE size > 8",
        "DELETE FROM audit.nodes n WHERE (n.node_index + 1) << n.level > 8",
        "UPDATE audit.log_head SET size = 8,"
        " last_hash = (SELECT leaf_hash FROM audit.leaves WHERE log_index = 7)",
        "UPDATE audit.writers w SET seq = 8 WHERE seq = 12",
    )
    report = await sealed.verify()
    assert (report.verdict, report.first_bad_index) == (Verdict.INCOMPLETE, 8)
    assert await sealed.seal() == 0
    assert sealed.sealer.refusals_total == 1


async def test_delete_the_middle(sealed: Log) -> None:
    """Rows 4 to 7, as they were: the first of them is named."""
    sealed.tamper(
        "DELETE FROM audit.events WHERE log_index BETWEEN 4 AND 7",
        "DELETE FROM audit.leaves WHERE log_index BETWEEN 4 AND 7",
    )
    report = await sealed.verify()
    assert (report.verdict, report.first_bad_index) == (Verdict.INCOMPLETE, 4)


async def test_swap_two_rows(sealed: Log) -> None:
    """Whole rows with their hashes change places."""
    sealed.tamper(
        "UPDATE audit.events e SET leaf = o.leaf, fields = o.fields, leaf_hash = o.leaf_hash,"
        " previous_hash = o.previous_hash FROM audit.events o"
        " WHERE (e.log_index, o.log_index) IN ((3, 8), (8, 3))"
    )
    report = await sealed.verify()
    assert (report.verdict, report.first_bad_index) == (Verdict.TAMPERED, 3)


async def test_restore_an_old_dump(settings: Settings, tmp_path: Path) -> None:
    """Rows of last week are put back in place of what came since, and the log goes on: the verifier
    names the first row that is gone, and the signer signs no other history."""
    async with open_log(settings) as log:
        await log.record(4)
        await log.seal()
        tables = ("events", "leaves", "nodes", "checkpoints", "log_head", "writers")
        old = {}
        with psycopg.connect(settings.database_url.get_secret_value()) as connection:
            for table in tables:
                with connection.cursor().copy(f"COPY audit.{table} TO STDOUT".encode()
                                              if table != "events" else
                                              b"COPY (SELECT * FROM audit.events) TO STDOUT") as copy:  # fmt: skip
                    old[table] = b"".join(bytes(part) for part in copy)
        await log.record(4)
        await log.seal()
        log.tamper(*(f"TRUNCATE audit.{table} CASCADE" for table in tables))  # type: ignore[arg-type]  # names from above
        with psycopg.connect(settings.database_url.get_secret_value()) as connection:
            for table in tables:
                with connection.cursor().copy(f"COPY audit.{table} FROM STDIN".encode()) as copy:
                    copy.write(old[table])
        report = await log.verify()
        assert (report.verdict, report.first_bad_index) == (Verdict.INCOMPLETE, 4)
    async with open_log(settings) as log:
        await log.record(9)
        assert await log.seal() == 9
        assert log.sealer.refusals_total == 1
        assert log.ask("SELECT max(size) FROM audit.checkpoints") == [(4,)]


async def test_insert_before_sealing_and_remove_as_the_application(log: Log) -> None:
    """Whoever took over the server may add events and nothing else: not remove one, not turn the
    counter back unnoticed."""
    await log.record(2)
    for change in ("DELETE FROM audit.pending", "UPDATE audit.pending SET leaf = ''",
                      "TRUNCATE audit.pending", "DELETE FROM audit.writers"):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with log.app.begin(call_of(new_id())) as tx:
                await tx.run(plain(change))
    async with log.app.begin(call_of(new_id())) as tx:
        await tx.run(plain("UPDATE audit.writers SET seq = seq - 1"))
    with pytest.raises(psycopg.errors.NotNullViolation, match="writers"):
        await log.record(1)
    await log.seal()
    assert (await log.verify()).entries == 2


async def test_insert_before_sealing_and_remove_as_superuser(log: Log) -> None:
    """Event 3 of 5 vanishes before it is sealed: its number is missing at index 2. When the last one
    vanishes and the counter with it, only the writer itself, outside the database, knows better."""
    await log.record(5)
    log.tamper(
        "DELETE FROM audit.pending WHERE substring(leaf FROM 29 FOR 8) = '\\x0000000000000003'"
    )
    await log.seal()
    report = await log.verify()
    assert (report.verdict, report.first_bad_index) == (Verdict.INCOMPLETE, 2)

    await log.record(1)
    log.tamper(
        "DELETE FROM audit.pending WHERE substring(leaf FROM 29 FOR 8) = '\\x0000000000000006'",
        "UPDATE audit.writers SET seq = 5",
    )
    with pytest.raises(psycopg.errors.NotNullViolation, match="writers"):
        await log.record(1)


@pytest.mark.parametrize("table", ["events", "leaves"])
async def test_truncate(sealed: Log, table: str) -> None:
    """All payloads, or all leaves, so that the payloads are in none: from index 0 on."""
    sealed.tamper("TRUNCATE audit.events" if table == "events" else "TRUNCATE audit.leaves")
    report = await sealed.verify()
    verdict = Verdict.INCOMPLETE if table == "events" else Verdict.TAMPERED
    assert (report.verdict, report.first_bad_index) == (verdict, 0)


async def test_detach_a_partition(sealed: Log) -> None:
    """The month is still there, in a table nobody reads."""
    [(month,)] = sealed.ask("SELECT DISTINCT tableoid::regclass::text FROM audit.events")
    sealed.tamper(f"ALTER TABLE audit.events DETACH PARTITION {month}")  # type: ignore[arg-type]  # a name of the catalogue
    report = await sealed.verify()
    assert (report.verdict, report.first_bad_index) == (Verdict.INCOMPLETE, 0)


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE audit.events DISABLE TRIGGER ALL",
        "ALTER TABLE audit.leaves DISABLE TRIGGER no_change",
        "ALTER TABLE audit.nodes ENABLE TRIGGER no_change",
        "DROP TRIGGER no_truncate ON audit.checkpoints",
    ],
)
async def test_disable_triggers(sealed: Log, statement: str) -> None:
    """Noticed before anything was changed behind it; ENABLE without ALWAYS is not enough, as
    session_replication_role would step over it."""
    url = sealed.settings.database_url.get_secret_value()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())
    report = await sealed.verify()
    assert report.verdict is Verdict.TAMPERED
    assert all("is switched off" in finding.reason for finding in report.findings)


async def test_fork_with_two_sealers(sealed: Log) -> None:
    """Somebody lets a second sealer begin from an older head: the unique keys stop it in the very
    transaction. With those gone as well, the signer and the verifier see two leaves in one place."""
    await sealed.record(1)
    sealed.tamper(
        "UPDATE audit.log_head SET size = 8, last_hash ="
        " (SELECT leaf_hash FROM audit.leaves WHERE log_index = 7)"
    )
    async with open_core(sealed.settings, "sealer") as core:
        with pytest.raises(psycopg.errors.UniqueViolation):
            await seal(core, 2)
        sealed.tamper(
            "ALTER TABLE audit.leaves DROP CONSTRAINT leaves_pkey",
            "ALTER TABLE audit.nodes DROP CONSTRAINT nodes_pkey",
        )
        forked = Sealer(core)
        await forked.run_once(2)
        assert forked.refusals_total == 1
    assert load_signer(sealed.settings).last().size == 12
    report = await sealed.verify()
    assert report.verdict is Verdict.TAMPERED
    assert report.first_bad_index == 8
