"""A superuser with the triggers off, and what the verifier says of it, down to the row."""

import asyncio

import psycopg
import pytest
from psycopg import sql

from chimera.audit.inspection import verify_database
from chimera.audit.note import SigningKey
from chimera.audit.report import Verdict
from chimera.audit.restore import accept_restore
from chimera.audit.sealer import Sealer, seal
from chimera.audit.signing_home import load_signer
from chimera.core import open_core
from chimera.ids import new_id
from tests.support.audit import open_log
from tests.support.stack import other_database


@pytest.fixture
async def sealed(log):
    """Twelve sealed and signed events by one writer, in three checkpoints."""
    for _ in range(3):
        await log.record(4)
        await log.seal()
    return log


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit.events SET leaf = set_byte(leaf, 40, get_byte(leaf, 40) # 1) WHERE log_index = 5",
        "UPDATE audit.events SET fields = jsonb_set(fields, '{0,value}', '\"else\"') WHERE log_index = 5",
        "UPDATE audit.events SET fields = '[5]' WHERE log_index = 5",
        "UPDATE audit.events SET fields = '{\"value\": 1}' WHERE log_index = 5",
        "UPDATE audit.events SET fields = jsonb_set(fields, '{0,salt}', '\"no\"') WHERE log_index = 5",
        "UPDATE audit.events SET previous_hash = leaf_hash WHERE log_index = 5",
        "UPDATE audit.leaves SET leaf_hash = sha256(leaf_hash) WHERE log_index = 5",
        "UPDATE audit.events SET action = 'campaign.delete' WHERE log_index = 5",
        "UPDATE audit.events SET actor_id = gen_random_uuid() WHERE log_index = 5",
        "UPDATE audit.events SET org_id = gen_random_uuid() WHERE log_index = 5",
        "UPDATE audit.events SET occurred_at = occurred_at - interval '1 day' WHERE log_index = 5",
        "UPDATE audit.events SET occurred_at = 'infinity' WHERE log_index = 5",
        "UPDATE audit.events SET facts = facts - 'session_id' WHERE log_index = 5",
        "UPDATE audit.events SET action = 'campaign.launch campaign', entity = '' WHERE log_index = 5",
        "UPDATE audit.events SET leaf_hash = previous_hash WHERE log_index = 5",
    ],
)  # fmt: skip
async def test_an_edited_row_is_named(sealed, statement):
    """Bytes, values, hashes, and the columns people search: whatever was edited, it is row 5."""
    sealed.tamper(statement)
    report = await sealed.verify()

    assert (report.verdict, report.first_bad_index) == (Verdict.TAMPERED, 5)


async def test_swapped_rows_are_named(sealed):
    """Two events change places: the first of them is named."""
    sealed.tamper(
        "UPDATE audit.events e SET leaf = o.leaf, fields = o.fields FROM audit.events o"
        " WHERE (e.log_index, o.log_index) IN ((3, 8), (8, 3))"
    )
    report = await sealed.verify()
    assert (report.verdict, report.first_bad_index) == (Verdict.TAMPERED, 3)


async def test_a_recomputed_history_is_seen(sealed):
    """The editor recomputes hashes of leaf 11 everywhere but in the signature."""
    sealed.tamper(
        "UPDATE audit.events SET leaf_hash = sha256('\\x00'), leaf = leaf WHERE log_index = 11",
        "UPDATE audit.leaves SET leaf_hash = sha256('\\x00') WHERE log_index = 11",
    )
    report = await sealed.verify()
    assert (report.verdict, report.first_bad_index) == (Verdict.TAMPERED, 11)


async def test_a_removed_row_is_named(sealed):
    """A payload is gone and no leaf says why; then its leaf as well."""
    sealed.tamper("DELETE FROM audit.events WHERE log_index = 6")
    report = await sealed.verify()
    assert (report.verdict, report.first_bad_index) == (Verdict.INCOMPLETE, 6)

    sealed.tamper("DELETE FROM audit.leaves WHERE log_index = 6")
    report = await sealed.verify()
    assert (report.verdict, report.first_bad_index) == (Verdict.INCOMPLETE, 6)


async def test_a_removed_tail_is_named(sealed):
    """The newest rows are deleted, then every trace of them in the database: the checkpoint says
    there were twelve, and when that is gone too, the signer's memory does."""
    sealed.tamper(
        "DELETE FROM audit.events WHERE log_index >= 10",
        "DELETE FROM audit.leaves WHERE log_index >= 10",
    )
    report = await sealed.verify()
    assert (report.verdict, report.first_bad_index) == (Verdict.INCOMPLETE, 10)

    sealed.tamper(
        "DELETE FROM audit.events WHERE log_index >= 8",
        "DELETE FROM audit.leaves WHERE log_index >= 8",
        "DELETE FROM audit.checkpoints WHERE size > 8",
        "UPDATE audit.log_head SET size = 8,"
        " last_hash = (SELECT leaf_hash FROM audit.leaves WHERE log_index = 7)",
        "UPDATE audit.writers w SET seq = 8 WHERE seq = 12",
    )
    report = await sealed.verify()
    assert report.verdict is Verdict.INCOMPLETE
    assert any("the log had 12 leaves" in finding.reason for finding in report.findings)


async def test_the_middle_removed_and_closed_up_is_seen(sealed):
    """Rows 4 to 7 are deleted and the later ones moved down."""
    sealed.tamper(
        "DELETE FROM audit.events WHERE log_index BETWEEN 4 AND 7",
        "DELETE FROM audit.leaves WHERE log_index BETWEEN 4 AND 7",
        "UPDATE audit.events SET log_index = log_index - 4 WHERE log_index > 7",
        "UPDATE audit.leaves SET log_index = log_index - 4 WHERE log_index > 7",
    )
    report = await sealed.verify()
    assert (report.verdict, report.first_bad_index) == (Verdict.TAMPERED, 4)


async def test_events_removed_before_sealing_leave_a_gap(log):
    """The tree never had them. The writer's numbers did: in the middle, and at the very end."""
    await log.record(5)
    log.tamper(
        "DELETE FROM audit.pending WHERE substring(leaf FROM 29 FOR 8) = '\\x0000000000000003'"
    )
    await log.seal()
    report = await log.verify()
    assert (report.verdict, report.first_bad_index) == (Verdict.INCOMPLETE, 2)
    assert "number 3 was never sealed" in report.findings[0].reason

    await log.record(2)
    log.tamper(
        "DELETE FROM audit.pending WHERE substring(leaf FROM 29 FOR 8) = '\\x0000000000000007'"
    )
    await log.seal()
    reasons = [finding.reason for finding in (await log.verify()).findings]
    assert any("its last 1 numbers were never sealed" in reason for reason in reasons)


async def test_a_row_put_in_is_seen(sealed):
    """A made-up event that people would find in their list, in no leaf."""
    sealed.tamper(
        "INSERT INTO audit.events SELECT gen_random_uuid(), 99, org_id, occurred_at, actor_kind,"
        " actor_id, action, entity, entity_id, outcome, severity, facts, fields, leaf, leaf_hash,"
        " previous_hash FROM audit.events WHERE log_index = 3"
    )
    report = await sealed.verify()
    assert report.verdict is Verdict.TAMPERED
    assert "1 rows of audit.events are in no leaf" in report.findings[0].reason


async def test_damaged_nodes_are_seen(sealed):
    """Proofs would be made of them."""
    sealed.tamper("UPDATE audit.nodes SET hash = sha256(hash) WHERE level = 2 AND node_index = 1")
    report = await sealed.verify()
    assert report.verdict is Verdict.TAMPERED
    assert "(2, 1)" in report.findings[0].reason


async def test_events_beyond_the_checkpoint_are_looked_at_too(sealed):
    """Sealed and not yet signed: an edit there is named all the same."""
    await sealed.record(3)
    await seal(sealed.core, 1)
    assert (await sealed.verify()).verdict is Verdict.VERIFIED
    sealed.tamper("UPDATE audit.events SET outcome = 'denied' WHERE log_index = 13")
    assert (await sealed.verify()).first_bad_index == 13


async def test_keys_of_somebody_else_prove_nothing(sealed):
    """A superuser signs a history of his own; the key to check with is not from the database."""
    foreign = str(SigningKey.generate("chimera/audit").verifier)
    url = sealed.settings.role_url("sealer")
    report = await asyncio.to_thread(verify_database, url, keys=[foreign])
    assert report.verdict is Verdict.BAD_INPUT


# --- restored backups -----------------------------------------------------------------------------


def copy_database(settings, name):
    """What a backup of this moment would restore."""
    url = settings.database_url.get_secret_value()
    source = sql.Identifier(url.rpartition("/")[2])
    with psycopg.connect(other_database(url, "postgres"), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                sql.Identifier(name), source
            )
        )
    return settings.model_copy(
        update={"database_url": type(settings.database_url)(other_database(url, name))}
    )


async def test_after_a_restored_backup_the_signer_refuses_and_sealing_goes_on(settings):
    """The database goes back in time, the signer does not: no new checkpoint until somebody has
    looked, whether the log is shorter than what was signed or has grown past it differently. Then the
    restore is accepted by name, which is an event of the log, and signing goes on."""
    async with open_log(settings) as log:
        await log.record(4)
        await log.seal()
    restored = copy_database(settings, f"restored_{new_id()[-12:]}")
    async with open_log(settings) as log:
        await log.record(4)
        await log.seal()
        assert load_signer(settings).last().size == 8

    try:
        async with open_log(restored) as log:
            assert await log.seal() == 0
            assert log.sealer.refusals_total == 1  # noticed before anything new happens

            await log.record(2)
            assert await log.seal() == 2
            await log.record(20)
            assert await log.seal() == 20
            assert log.sealer.refusals_total == 3
            assert log.ask("SELECT max(size) FROM audit.checkpoints") == [(4,)]
            assert load_signer(settings).last().size == 8

            report = await log.verify()
            assert report.verdict is Verdict.INCOMPLETE
            assert any("the log had 8 leaves" in f.reason for f in report.findings)

            async with open_core(restored, "worker") as worker:
                statement = await accept_restore(
                    worker, reason="disk failure", approved_by=["Ann Lee", "Bo Ek"]
                )
            assert "to 26 " in statement and "approved-by Ann Lee,Bo Ek" in statement
            assert await log.seal() == 1
            assert log.ask("SELECT max(size) FROM audit.checkpoints") == [(27,)]
            assert log.sealer.refusals_total == 3
            report = await log.verify()
            assert (report.verdict, report.size) == (Verdict.VERIFIED, 27)
            [(action,)] = log.ask("SELECT action FROM audit.events WHERE log_index = 26")
            assert action == "audit.restore"
    finally:
        url = settings.database_url.get_secret_value()
        name = restored.database_url.get_secret_value().rpartition("/")[2]
        with psycopg.connect(other_database(url, "postgres"), autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            )


async def test_a_lost_signer_folder_is_not_made_anew(sealed):
    """Deleting the key and the memory does not switch the guard off."""
    folder = sealed.settings.home / "audit"
    folder.rename(folder.with_name("elsewhere"))
    sealer = Sealer(sealed.core)
    await sealed.record(1)

    assert await sealer.run_once(1) == 1
    assert sealer.refusals_total == 1
    assert not folder.exists()
    folder.with_name("elsewhere").rename(folder)
    await sealer.run_once(1)
    assert sealed.ask("SELECT max(size) FROM audit.checkpoints") == [(13,)]


async def test_a_key_that_others_may_read_is_not_used(sealed):
    """The file is closed to all but its owner, and stays unused when it is not."""
    key = sealed.settings.home / "audit" / "log.key"
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o644)
    sealer = Sealer(sealed.core)
    await sealer.run_once(1)
    assert sealer.refusals_total == 1
