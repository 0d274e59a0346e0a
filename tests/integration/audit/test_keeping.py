"""What is kept and what goes: dropped months, legal holds, erased people, accepted restores."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

import chimera.audit.recording as recording
from chimera.audit import drops, merkle
from chimera.audit.archives import archive_folder
from chimera.audit.bundle import Entry, decode_line
from chimera.audit.drops import drop_old_months
from chimera.audit.erasure import erase_asked, erase_subject
from chimera.audit.leaf import decode_leaf
from chimera.audit.report import Report, Verdict
from chimera.audit.sealer import Sealer
from chimera.audit.signing_home import load_signer
from chimera.audit.verify import verify_bundle
from chimera.core import Core, open_core, open_database
from chimera.db import Statement
from chimera.server import Server
from chimera.settings import Settings
from tests.support.audit import Log, call_of
from tests.support.statements import plain
from tests.support.world import Organisation, Refused, World
from workers.tasks.upkeep import keep_partitions


@pytest.fixture
async def worker(log: Log) -> AsyncIterator[Core]:
    async with open_core(log.settings, "worker") as core:
        yield core


@pytest.fixture
async def acme(world: World) -> Organisation:
    return await world.organisation("acme")


class Clock:
    """The time at which events are recorded, some months ago."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ago = timedelta(0)
        clock = self

        class Then(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return datetime.now(tz) - clock.ago

        monkeypatch.setattr(recording, "datetime", Then)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def month_of(at: datetime) -> tuple[str, datetime, datetime]:
    start = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return f"audit.events_{start:%Y%m}", start, (start + timedelta(days=32)).replace(day=1)


async def in_month(log: Log, clock: Clock, ago_days: int, org_id: str, count: int = 5) -> str:
    """Events of a month in the past, in a partition of that month; its name."""
    clock.ago = timedelta(days=ago_days)
    name, start, stop = month_of(datetime.now(UTC) - clock.ago)
    with psycopg.connect(log.settings.database_url.get_secret_value(), autocommit=True) as owner:
        owner.execute("SET ROLE chimera_owner")
        owner.execute(
            f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF audit.events FOR VALUES"
            f" FROM ('{floor(owner, start)}') TO ('{floor(owner, stop)}')".encode()
        )
        owner.execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY".encode())
        owner.execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY".encode())
        owner.execute(
            f"CREATE OR REPLACE TRIGGER no_truncate BEFORE TRUNCATE ON {name}"
            " FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse()".encode()
        )
        owner.execute(f"ALTER TABLE {name} ENABLE ALWAYS TRIGGER no_truncate".encode())
    await log.record(count, org_id=org_id)
    clock.ago = timedelta(0)
    await log.seal()
    return name


def floor(connection: psycopg.Connection[Any], at: datetime) -> str:
    row = connection.execute("SELECT ops.uuid_floor(%s)::text", [at]).fetchone()
    assert row
    return str(row[0])


def is_there(log: Log, name: str) -> bool:
    [(found,)] = log.ask("SELECT to_regclass(%s) IS NOT NULL", name)
    return bool(found)


async def test_months_are_made_ahead_and_guarded_like_the_others(log: Log, worker: Core) -> None:
    """By upkeep, without anybody doing anything: a month that was not there is, before it comes, and
    what lies in it is as safe as elsewhere."""
    [(name,)] = log.ask(
        "SELECT max(inhrelid::regclass::text) FROM pg_inherits"
        " WHERE inhparent = 'audit.events'::regclass AND inhrelid::regclass::text ~ '_[0-9]{6}$'"
    )
    log.tamper(f"DROP TABLE {name}")  # type: ignore[arg-type]  # a name of the catalogue
    for _ in range(2):
        await keep_partitions({"core": worker})
    assert is_there(log, name) and name > f"audit.events_{datetime.now(UTC):%Y%m}"
    url = log.settings.database_url.get_secret_value()
    with psycopg.connect(url, autocommit=True) as superuser:
        superuser.execute("SET session_replication_role = replica")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
            superuser.execute(f"TRUNCATE {name}".encode())
    await log.record(1)
    await log.seal()
    assert (
        await log.verify()
    ).verdict is Verdict.VERIFIED  # which looks at the triggers of each month


async def test_a_month_goes_and_its_proofs_stay(
    acme: Organisation, log: Log, worker: Core, clock: Clock, world: World, tmp_path: Path
) -> None:
    """Past two years: archived, the drop recorded, sealed and signed, only then dropped. Inclusion of
    what went and of what stayed, consistency and the whole log still verify; the archive verifies
    offline, all by itself, with every value."""
    root = await world.organisation("root", operator=True)
    name = await in_month(log, clock, 800, acme.id)
    older = (await acme.admin.audit.GetCheckpoint()).checkpoint
    [(event_id, index, leaf_hash)] = log.ask(
        "SELECT id::text, log_index, leaf_hash FROM audit.events"
        " WHERE entity = 'campaign' ORDER BY id LIMIT 1"
    )
    assert await drop_old_months(worker) == 0  # the event of the drop is not sealed yet
    assert is_there(log, name)
    assert await drop_old_months(worker) == 0
    await log.seal()
    assert await drop_old_months(worker) == 1
    assert not is_there(log, name)
    assert await drop_old_months(worker) == 0

    report = await log.verify()
    assert (report.verdict, report.tombstones) == (Verdict.VERIFIED, 5)
    with pytest.raises(Refused):
        await acme.admin.audit.GetInclusionProof(event_id=event_id)
    proof = await acme.admin.audit.GetInclusionProof(log_index=index, leaf_hash=leaf_hash)
    newest = await acme.admin.audit.GetCheckpoint()
    merkle.verify_inclusion(leaf_hash, index, proof.size, list(proof.hashes), newest.root)
    last = [answer async for answer in root.admin.audit.VerifyAuditLog()][-1]
    assert last.verdict == "verified"

    [drop] = (await root.admin.audit.ListPayloadDrops()).payload_drops
    assert (drop.partition_name, drop.state, drop.events) == (name, "dropped", 5)
    archive = archive_folder(log.settings) / drop.archive_file
    packed = archive.read_bytes()
    report = verify_bundle(gzip.decompress(packed).splitlines(keepends=True), [newest.verifier_key])
    assert report.verdict is Verdict.VERIFIED and report.opened > 5
    command = [
        sys.executable,
        "-m",
        "chimera.audit.verify",
        str(archive),
        "--key",
        newest.verifier_key,
    ]
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    since = tmp_path / "older"
    since.write_text(older)
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(gzip.decompress(packed).replace(b'"index":1,', b'"index":2,'))
    assert verify_bundle(damaged.read_bytes().splitlines(keepends=True), [newest.verifier_key]
                         ).verdict is not Verdict.VERIFIED  # fmt: skip


async def test_a_second_month_continues_the_first(
    acme: Organisation, log: Log, worker: Core, clock: Clock
) -> None:
    """Two months go one after the other; the second archive is verified from where the first ended,
    and the record of its drop names both."""
    names = [await in_month(log, clock, days, acme.id) for days in (900, 840)]
    for _ in range(3):
        await drop_old_months(worker)
        await log.seal()
    assert not any(is_there(log, name) for name in names)
    assert (await log.verify()).verdict is Verdict.VERIFIED
    rows = log.ask(
        "SELECT archive_first, archive_size, archive_file FROM audit.drops ORDER BY partition_name"
    )
    assert rows[0][0] == 0 and rows[1][0] == rows[0][1]
    key = (await acme.admin.audit.GetCheckpoint()).verifier_key
    [(since,)] = log.ask("SELECT note FROM audit.checkpoints WHERE size = %s", rows[0][1])
    lines = gzip.decompress((archive_folder(log.settings) / rows[1][2]).read_bytes())
    report = verify_bundle(lines.splitlines(keepends=True), [key], since)
    assert report.verdict is Verdict.VERIFIED and report.first_index == rows[0][1]


async def test_holds_before_organisations_before_the_installation(
    acme: Organisation, log: Log, worker: Core, clock: Clock, world: World
) -> None:
    """A hold keeps a month for ever; an organisation that asks for ten years keeps it so long; else
    the installation's two years decide. And nobody but upkeep may drop at all."""
    root = await world.organisation("root", operator=True)
    boss = await acme.person("boss", role="admin")
    name = await in_month(log, clock, 800, acme.id)
    hold = (await acme.admin.audit.PlaceLegalHold(name="case 7", reason="litigation")).legal_hold
    everyone = (
        await root.admin.audit.PlaceLegalHold(name="all", reason="order", for_everyone=True)
    ).legal_hold
    with pytest.raises(Refused) as refused:
        await acme.admin.audit.PlaceLegalHold(name="all", reason="x", for_everyone=True)
    assert refused.value.reason == "PERMISSION_MISSING"
    change = (
        await acme.admin.audit.ProposeConfigurationChange(
            key="audit_retention_days", value={"number_value": 3650}, reason="law"
        )
    ).change
    await boss.audit.ApproveConfigurationChange(change_id=change.id)

    async def tried() -> bool:
        for _ in range(3):
            await log.seal()
            await drop_old_months(worker)
        return is_there(log, name)

    assert await tried()
    await acme.admin.audit.ReleaseLegalHold(legal_hold_id=hold.id, reason="settled")
    with pytest.raises(Refused) as refused:
        await acme.admin.audit.ReleaseLegalHold(legal_hold_id=hold.id, reason="settled")
    assert refused.value.reason == "LEGAL_HOLD_RELEASED"
    with pytest.raises(Refused) as refused:
        await acme.admin.audit.ReleaseLegalHold(legal_hold_id=everyone.id, reason="mine now")
    assert refused.value.reason == "LEGAL_HOLD_NOT_FOUND"
    [listed] = (await acme.admin.audit.ListLegalHolds()).legal_holds
    assert (listed.id, listed.release_reason) == (hold.id, "settled")
    assert listed.released_by == listed.placed_by == acme.admin.user_id
    assert await tried()
    [listed] = (await root.admin.audit.ListLegalHolds()).legal_holds
    assert (listed.id, listed.for_everyone) == (everyone.id, True)
    assert not listed.HasField("released_at")
    await root.admin.audit.ReleaseLegalHold(legal_hold_id=everyone.id, reason="lifted")
    assert await tried()  # the organisation's ten years
    assert log.ask("SELECT count(*) FROM audit.drops") == [(0,)]

    for role in ("app", "worker", "sealer", "upkeep"):
        db = open_database(log.settings, role)
        await db.open()
        try:
            for change in (f"DROP TABLE {name}", f"SELECT audit.drop_partition('{name}', 1)"):
                with pytest.raises((psycopg.errors.InsufficientPrivilege, Refused)):
                    async with db.begin(call_of("")) as tx:
                        await tx.run(plain(change))
        finally:
            await db.close()

    change = (
        await acme.admin.audit.ProposeConfigurationChange(
            key="audit_retention_days", value={"number_value": 30}, reason="less"
        )
    ).change
    await boss.audit.ApproveConfigurationChange(change_id=change.id)
    assert not await tried()
    assert (await log.verify()).verdict is Verdict.VERIFIED


async def test_a_crash_in_each_step_of_a_drop_is_gone_on_from(
    acme: Organisation, log: Log, worker: Core, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the archive, after the record, after the drop itself: the next run finishes, and nothing
    is dropped twice or unrecorded."""
    name = await in_month(log, clock, 800, acme.id)
    for statement in ("INSERT_DROP", "MARK_RECORDED", "FIND_DROP_EVENT", "MARK_DROPPED"):
        with monkeypatch.context() as broken:
            broken.setattr(drops, statement, None)
            with pytest.raises(AttributeError):
                await drop_old_months(worker)
        await log.seal()
        assert isinstance(getattr(drops, statement), Statement)
    await drop_old_months(worker)
    assert not is_there(log, name)
    assert log.ask("SELECT state FROM audit.drops") == [("dropped",)]
    assert log.ask("SELECT count(*) FROM audit.events WHERE action = 'audit.payloads.drop'") == [
        (1,)
    ]
    assert (await log.verify()).verdict is Verdict.VERIFIED


async def test_an_erased_person_is_unreadable_and_every_proof_holds(
    acme: Organisation, log: Log, worker: Core
) -> None:
    """Addresses, reasons and values of events by and about the person are gone, sealed or waiting;
    other people's stay. The log verifies as before, and the search finds the words no more."""
    olivia = await acme.person("olivia", role="user")
    await olivia.identity.CreateApiKey(name="zanzibar")
    await log.seal()
    before = await log.verify()
    assert (await acme.admin.audit.ListAuditEvents(query="zanzibar")).events
    await olivia.identity.CreateApiKey(name="mombasa")  # waits to be sealed

    app_call = call_of(acme.id)
    async with log.app.begin(app_call) as tx:
        await erase_subject(tx, olivia.user_id)
    assert await erase_asked(worker) > 0
    await log.seal()
    assert await erase_asked(worker) >= 0
    left = log.ask(
        "SELECT count(*) FROM audit.events WHERE (actor_id = %s OR"
        " (entity = 'user' AND entity_id = %s)) AND fields @? '$[*].value'",
        olivia.user_id, olivia.user_id,
    )  # fmt: skip
    assert left == [(0,)], log.ask(
        "SELECT action, actor_id, entity, fields FROM audit.events WHERE fields @? '$[*].value'"
    )
    assert log.ask("SELECT count(*) FROM audit.events WHERE fields::text ~ 'zanzibar|mombasa'") == [
        (0,)
    ]
    assert log.ask("SELECT count(*) FROM audit.events WHERE fields @? '$[*].salt'")[0][0] > 0
    report = await log.verify()
    assert report.verdict is Verdict.VERIFIED
    assert report.withheld > before.withheld
    assert not (await acme.admin.audit.ListAuditEvents(query="zanzibar")).events
    events = (await acme.admin.audit.ListAuditEvents(actor_id=olivia.user_id)).events
    assert events and not any(event.ip_address or event.HasField("new_values") for event in events)
    proof = await acme.admin.audit.GetInclusionProof(event_id=events[0].id)
    root = (await acme.admin.audit.GetCheckpoint()).root
    leaf_hash = bytes.fromhex(events[0].leaf_hash)
    merkle.verify_inclusion(leaf_hash, proof.log_index, proof.size, list(proof.hashes), root)
    erased = (await acme.admin.audit.ListAuditEvents(action="audit.erase")).events
    assert [event.entity_id for event in erased] == [olivia.user_id]


async def test_an_erased_person_goes_out_of_the_archives(
    acme: Organisation, log: Log, worker: Core, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The month is long dropped: its archive is rewritten without the person's values, says so by its
    digest, and verifies as before. One that was erased while an archive was written is not in it, for
    that archive is written again; one that was moved away stops nothing."""
    await in_month(log, clock, 800, acme.id)
    url = log.settings.database_url.get_secret_value()

    def while_somebody_is_erased(*arguments: Any) -> Report:
        with psycopg.connect(url) as superuser:
            superuser.execute(
                "INSERT INTO audit.erasures (id, subject_id, state, done_at)"
                " VALUES (gen_random_uuid(), gen_random_uuid(), 'done', clock_timestamp())"
            )
        return verified(*arguments)

    verified = drops._verified
    with monkeypatch.context() as during:
        during.setattr(drops, "_verified", while_somebody_is_erased)
        await drop_old_months(worker)
    assert log.ask("SELECT count(*) FROM audit.drops") == [(0,)]
    for _ in range(3):
        await drop_old_months(worker)
        await log.seal()
    [(name, digest)] = log.ask("SELECT archive_file, archive_sha256 FROM audit.drops")
    archive = archive_folder(log.settings) / name

    def read() -> tuple[dict[str, int], Report]:
        assert hashlib.sha256(archive.read_bytes()).digest() == digest
        lines = gzip.decompress(archive.read_bytes()).splitlines(keepends=True)
        entries = [line for line in map(decode_line, lines) if isinstance(line, Entry)]
        of_campaigns = [e for e in entries if decode_leaf(e.leaf).entity == "campaign"]
        opened = {str(decode_leaf(e.leaf).actor_id): len(e.openings) for e in of_campaigns}
        return opened, verify_bundle(lines, [load_signer(log.settings).verifier_key])

    opened, before = read()
    assert len(opened) == 5
    person = min(opened)
    async with log.app.begin(call_of(acme.id)) as tx:
        await erase_subject(tx, person)
    await erase_asked(worker)
    assert read()[0][person] > 0  # events of the person may still be on their way into the log
    waited = "UPDATE audit.erasures SET created_at = now() - interval '11 minutes'"
    log.tamper(waited)
    await erase_asked(worker)
    [(digest,)] = log.ask("SELECT archive_sha256 FROM audit.drops")
    now, after = read()
    assert now == opened | {person: 0}
    assert after.verdict is Verdict.VERIFIED
    assert after.opened == before.opened - opened[person]
    assert log.ask("SELECT count(*) FROM audit.erasures WHERE state = 'open'") == [(0,)]

    archive.rename(archive.with_suffix(".elsewhere"))
    async with log.app.begin(call_of(acme.id)) as tx:
        await erase_subject(tx, person)
    log.tamper(waited)
    await erase_asked(worker)
    assert log.ask("SELECT count(*) FROM audit.erasures WHERE state = 'open'") == [(0,)]


async def test_only_what_was_asked_for_is_erased(
    log: Log, worker: Core, acme: Organisation
) -> None:
    """Without a request the function refuses; with one it changes values only, and the triggers hold
    against everything else, the owner's UPDATE included."""
    await log.record(1, org_id=acme.id)
    await log.seal()
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="nobody asked"):
        async with worker.db.begin(call_of("")) as tx:
            await tx.run(plain("SELECT audit.erase_events(gen_random_uuid(), 10)"))
    with psycopg.connect(log.settings.database_url.get_secret_value(), autocommit=True) as owner:
        owner.execute("SET ROLE chimera_owner")
        owner.execute("GRANT UPDATE ON audit.events TO chimera_owner")
        for change in (b"action = 'x'", b"fields = '[]'", b"leaf = ''",
                       b"fields = jsonb_set(fields, '{0,value}', '\"forged\"')"):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
                owner.execute(b"UPDATE audit.events SET " + change)


@pytest.mark.parametrize("operators", [1, 2])
async def test_operators_answer_for_a_restore_over_the_api(
    settings: Settings, log: Log, operators: int
) -> None:
    """The signer refuses a log that fell back; one operator, or two where two are asked for, say that
    it was meant; the sealer then signs on, and their statement is in the log for everybody."""
    asking = settings.model_copy(update={"audit_restore_operators": operators})
    server = Server(asking)
    await server.start()
    world = World(server, asking)
    try:
        await _ceremony(settings, log, world, operators)
    finally:
        await world.close()
        await server.stop(at_once=True)


async def restore_command(world: World, who: Organisation, *arguments: str) -> str:
    """`chimera audit restore ...` by an organisation's administrator; what it printed."""
    command = [sys.executable, "-m", "chimera.cli", "audit", "restore", *arguments,
               "--server", world.address, "--api-key", who.admin.credential]  # fmt: skip
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


async def _ceremony(settings: Settings, log: Log, world: World, operators: int) -> None:
    root = await world.organisation("root", operator=True)
    second = await world.organisation("second", operator=True)
    await log.record(4)
    await log.seal()
    signed = load_signer(settings).last().size
    log.tamper(
        "DELETE FROM audit.events WHERE log_index >= 3", "DELETE FROM audit.leaves WHERE log_index >= 3",
        "DELETE FROM audit.checkpoints",
        "DELETE FROM audit.nodes n WHERE (n.node_index + 1) << n.level > 3",
        "UPDATE audit.log_head SET size = 3,"
        " last_hash = (SELECT leaf_hash FROM audit.leaves WHERE log_index = 2)",
    )  # fmt: skip
    await log.record(2)
    await log.seal()
    assert log.sealer.refusals_total == 1
    assert load_signer(settings).last().size == signed

    with pytest.raises(Refused) as refused:
        acme = await world.organisation("acme")
        await acme.admin.audit.ProposeLogRestore(reason="disk failure")
    assert refused.value.reason == "PERMISSION_MISSING"
    told = await restore_command(world, root, "propose", "--reason", "disk failure")
    assert told.split()[1] == ("approved" if operators == 1 else "proposed")
    [proposed] = (await root.admin.audit.ListLogRestores()).log_restores
    assert told.split()[0] == proposed.id
    with pytest.raises(Refused) as refused:
        await second.admin.audit.ProposeLogRestore(reason="again")
    assert refused.value.reason == "LOG_RESTORE_OPEN"
    if operators == 2:
        await log.seal()
        assert log.sealer.refusals_total == 2
        with pytest.raises(Refused) as refused:
            await root.admin.audit.ApproveLogRestore(log_restore_id=proposed.id)
        assert refused.value.reason == "LOG_RESTORE_IS_OWN"
        assert "approved" in await restore_command(world, second, "approve", proposed.id)
    refusals = log.sealer.refusals_total
    await log.seal()
    await log.seal()
    assert log.sealer.refusals_total == refusals
    [done] = (await root.admin.audit.ListLogRestores()).log_restores
    assert done.state == "done" and f"from {signed} " in done.statement
    assert done.statement in await restore_command(world, root, "list")
    assert "reason disk failure" in done.statement
    names = done.statement.partition("approved-by ")[2].partition("\n")[0]
    assert len(names.split(",")) == operators and root.admin.user_id in names
    report = await log.verify()
    assert report.since_size == load_signer(settings).last().size
    with pytest.raises(Refused) as refused:
        await second.admin.audit.ApproveLogRestore(log_restore_id=proposed.id)
    assert refused.value.reason == "LOG_RESTORE_NOT_OPEN"
    [(action,)] = log.ask("SELECT action FROM audit.events WHERE action = 'audit.restore'")
    assert action == "audit.restore"


async def test_a_crash_in_the_ceremony_is_gone_on_from(
    settings: Settings, log: Log, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signer has signed the statement and the database never learned of it: the next start of the
    sealer finishes, with the same statement."""
    import chimera.audit.restore as restore

    root = await world.organisation("root", operator=True)
    await log.record(4)
    await log.seal()
    log.tamper(
        "DELETE FROM audit.events WHERE log_index >= 2", "DELETE FROM audit.leaves WHERE log_index >= 2",
        "DELETE FROM audit.checkpoints", "DELETE FROM audit.nodes WHERE level > 1 OR node_index > 0",
        "UPDATE audit.log_head SET size = 2,"
        " last_hash = (SELECT leaf_hash FROM audit.leaves WHERE log_index = 1)",
    )  # fmt: skip
    proposed = (await root.admin.audit.ProposeLogRestore(reason="disk failure")).log_restore
    with monkeypatch.context() as broken:
        broken.setattr(restore, "FINISH_RESTORE", None)
        with pytest.raises(AttributeError):
            await log.seal()
    again = Sealer(log.core)
    await again.run_once(1)
    await again.run_once(1)
    assert again.refusals_total == 0
    [done] = (await root.admin.audit.ListLogRestores()).log_restores
    assert (done.id, done.state) == (proposed.id, "done")
    assert load_signer(settings).restores() == (done.statement,)
    assert (await log.verify()).since_size == load_signer(settings).last().size
