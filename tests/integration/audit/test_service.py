"""The log over the channel: an organisation reads its own events and checks every claim itself."""

import asyncio
import subprocess
import sys

import pytest

from chimera.audit import merkle
from chimera.audit.bundle import Entry, Foreign, decode_line
from chimera.audit.leaf import chain_leaf, decode_leaf
from chimera.audit.note import Checkpoint, Note, VerifierKey, verify_note
from chimera.audit.recording import record
from chimera.audit.report import Verdict
from chimera.audit.sealer import seal
from chimera.audit.verify import verify_bundle
from chimera.ids import new_id
from chimera.rows import struct_dict
from tests.support.audit import call_of
from tests.support.world import Refused


@pytest.fixture
async def acme(world, log):
    """An organisation with two people beside its administrator; all of it sealed and signed."""
    acme = await world.organisation("acme")
    await acme.person("olivia", role="user")
    await acme.person("victor", role="viewer")
    await log.seal()
    return acme


async def everything(person, **filters):
    events, token = [], ""
    while True:
        page = await person.audit.ListAuditEvents(page_size=3, page_token=token, **filters)
        events += page.events
        token = page.next_page_token
        if not token:
            return events


async def exported(person):
    return b"".join([part.lines async for part in person.audit.ExportAuditLog()])


async def test_an_organisation_lists_its_own_events(world, acme, log):
    """Page by page, newest first, each once; another organisation's are not among them."""
    globex = await world.organisation("globex")
    await globex.person("gina")
    await log.seal()

    events = await everything(acme.admin)
    theirs = await everything(globex.admin)
    ids = [event.id for event in events]
    assert ids == sorted(ids, reverse=True) and len(set(ids)) == len(ids)
    assert not set(ids) & {event.id for event in theirs}
    in_log = log.ask("SELECT count(*) FROM audit.events WHERE org_id = %s", acme.id)[0][0]
    assert len(ids) == in_log >= 5

    created = await everything(acme.admin, action="user.create")
    assert {event.action for event in created} == {"user.create"}
    assert len(created) == 2
    assert created == await everything(acme.admin, action="user.create", entity=created[0].entity)
    one = await everything(acme.admin, entity_id=created[0].entity_id, action="user.create")
    assert one == [created[0]]
    by_admin = await everything(acme.admin, actor_id=acme.admin.user_id)
    assert created[0] in by_admin


async def test_an_event_tells_who_did_what_from_where(acme, log):
    """Old and new values, address, client and reason, out of what the leaf commits to."""
    [recorded] = await log.record(1, org_id=acme.id)
    await log.seal()
    [event] = await everything(acme.admin, entity_id=recorded)

    assert (event.action, event.entity, event.outcome) == ("campaign.launch", "campaign", "success")
    assert (event.actor_kind, event.kind, event.severity) == ("user", "data", "info")
    assert (event.ip_address, event.user_agent) == ("192.0.2.7", "test/1")
    assert dict(event.old_values) == {"state": "draft"}
    assert dict(event.new_values) == {"state": "running", "budget": 0}
    assert event.session_id and event.correlation_id


async def test_values_are_told_as_they_were(acme, log):
    """Nested values as they are; a number too large for a Struct as its digits; none as none."""
    values = {"tags": ["a", {"b": None}], "count": 2**60, "share": 0.5}
    async with log.app.begin(call_of(acme.id)) as tx:
        record(tx, "campaign.update", "campaign", "c-1", new=values)
    await log.seal()
    [event] = await everything(acme.admin, entity_id="c-1")

    assert not event.HasField("old_values")
    assert struct_dict(event.new_values) == values | {"count": "1152921504606846976"}


async def test_the_leaf_of_an_event_has_its_hash(acme):
    """The exact bytes come along: the reader hashes them himself."""
    for listed in await everything(acme.admin):
        answer = await acme.admin.audit.GetAuditEvent(event_id=listed.id)
        event = answer.event
        hashed = chain_leaf(bytes.fromhex(event.previous_hash), answer.leaf)

        assert event == listed
        assert hashed.hex() == event.leaf_hash
        assert decode_leaf(answer.leaf).action == event.action


async def test_every_event_is_proven_in_every_tree(acme, log):
    """Inclusion in the newest checkpoint and in each size before it; RFC 6962 decides."""
    await log.record(5, org_id=acme.id)
    await log.seal()
    signed = await acme.admin.audit.GetCheckpoint()
    note = Note.parse(signed.checkpoint)
    verify_note(note, [VerifierKey.parse(signed.verifier_key)])
    newest = Checkpoint.parse(note.text)
    assert (newest.size, newest.root) == (signed.size, signed.root)
    hashes = [row[0] for row in log.ask("SELECT leaf_hash FROM audit.leaves ORDER BY log_index")]
    assert merkle.root(hashes) == signed.root

    for event in await everything(acme.admin):
        proof = await acme.admin.audit.GetInclusionProof(event_id=event.id)
        assert (proof.log_index, proof.size) == (event.log_index, newest.size)
        leaf_hash = bytes.fromhex(event.leaf_hash)
        merkle.verify_inclusion(
            leaf_hash, proof.log_index, proof.size, list(proof.hashes), signed.root
        )
        for size in range(event.log_index + 1, newest.size):
            proof = await acme.admin.audit.GetInclusionProof(event_id=event.id, size=size)
            root = merkle.root(hashes[:size])
            merkle.verify_inclusion(leaf_hash, event.log_index, size, list(proof.hashes), root)


async def test_any_two_sizes_are_proven_consistent(acme, log):
    """Whoever kept an older checkpoint sees that the log only grew."""
    await log.record(8)
    await log.seal()
    hashes = [row[0] for row in log.ask("SELECT leaf_hash FROM audit.leaves ORDER BY log_index")]
    roots = [merkle.root(hashes[:size]) for size in range(len(hashes) + 1)]

    for first in range(len(hashes) + 1):
        for second in range(max(first, 1), len(hashes) + 1):
            proof = await acme.admin.audit.GetConsistencyProof(size_from=first, size_to=second)
            if first == 0:  # everything grows out of nothing
                assert not proof.hashes
                continue
            merkle.verify_consistency(
                first, roots[first], second, roots[second], list(proof.hashes)
            )
    newest = await acme.admin.audit.GetConsistencyProof(size_from=3)
    assert newest.size_to == len(hashes)


async def test_sizes_the_log_does_not_have_are_refused(acme):
    """Larger than the log, smaller than the event, shrinking."""
    audit = acme.admin.audit
    size = (await audit.GetCheckpoint()).size
    last = (await everything(acme.admin))[0]
    for call, fields in (
        (audit.GetInclusionProof, {"event_id": last.id, "size": size + 1}),
        (audit.GetInclusionProof, {"event_id": last.id, "size": last.log_index}),
        (audit.GetConsistencyProof, {"size_from": 1, "size_to": size + 1}),
        (audit.GetConsistencyProof, {"size_from": 3, "size_to": 2}),
        (audit.GetConsistencyProof, {"size_from": size + 1}),
    ):
        with pytest.raises(Refused) as refused:
            await call(**fields)
        assert (refused.value.code, refused.value.reason) == (
            "INVALID_ARGUMENT", "LOG_SIZE_INVALID",
        )  # fmt: skip


async def test_an_event_is_recorded_then_sealed_then_signed(world, log):
    """Between the steps the caller is told which one is still to come."""
    acme = await world.organisation("acme")
    audit = acme.admin.audit
    with pytest.raises(Refused) as refused:
        await audit.GetCheckpoint()
    assert (refused.value.code, refused.value.reason) == ("NOT_FOUND", "CHECKPOINT_NOT_FOUND")

    await log.record(1, org_id=acme.id)
    [(event_id,)] = log.ask(
        "SELECT id::text FROM audit.pending WHERE facts->>'entity' = 'campaign'"
    )
    for call in (audit.GetAuditEvent, audit.GetInclusionProof):
        with pytest.raises(Refused) as refused:
            await call(event_id=event_id)
        assert refused.value.reason == "AUDIT_EVENT_NOT_SEALED"

    await seal(log.core, 1)
    assert (await audit.GetAuditEvent(event_id=event_id)).event.id == event_id
    with pytest.raises(Refused) as refused:
        await audit.GetInclusionProof(event_id=event_id)
    assert (refused.value.code, refused.value.reason) == (
        "FAILED_PRECONDITION", "AUDIT_EVENT_NOT_SEALED",
    )  # fmt: skip

    await log.seal()
    assert (await audit.GetInclusionProof(event_id=event_id)).size > 0


async def test_anothers_event_does_not_exist(acme, log):
    """Whether it is waiting or sealed."""
    await log.record(1)
    [(event_id,)] = log.ask(
        "SELECT id::text FROM audit.pending WHERE facts->>'entity' = 'campaign'"
    )
    for step in ("waiting", "sealed"):
        for call in (acme.admin.audit.GetAuditEvent, acme.admin.audit.GetInclusionProof):
            for unknown in (event_id, new_id()):
                with pytest.raises(Refused) as refused:
                    await call(event_id=unknown)
                assert refused.value.reason == "AUDIT_EVENT_NOT_FOUND", step
        await log.seal()


async def test_an_export_proves_ones_own_events_and_shows_nobody_elses(world, acme, log, tmp_path):
    """More leaves than a page: own events with payload, all others by their hash, in the order of
    the log, and the offline verifier, in a process of its own, says verified."""
    globex = await world.organisation("globex")
    for turn in range(4):
        await log.record(1, org_id=acme.id, each=150)
        await log.record(1, org_id=globex.id, each=100 + turn)
    await log.seal()
    key = (await acme.admin.audit.GetCheckpoint()).verifier_key
    bundle = await exported(acme.admin)
    report = verify_bundle(bundle.splitlines(keepends=True), [key])
    mine = log.ask("SELECT count(*) FROM audit.events WHERE org_id = %s", acme.id)[0][0]

    assert report.verdict is Verdict.VERIFIED
    assert (report.entries, report.entries + report.foreign) == (mine, report.size)
    assert report.withheld == 0 and report.foreign > 400
    lines = [decode_line(line) for line in bundle.splitlines(keepends=True)][2:]
    orgs = {decode_leaf(line.leaf).org_id for line in lines if isinstance(line, Entry)}
    assert {str(org) for org in orgs} == {acme.id}

    path = tmp_path / "log.jsonl"
    path.write_bytes(bundle)
    command = [sys.executable, "-m", "chimera.audit.verify", str(path), "--key", key]
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert f"not shown: {report.foreign} leaves of others" in run.stdout


async def test_the_log_is_exported_while_it_grows(acme, log):
    """Between any two pages events are recorded and sealed: the export is the log as it was signed
    when it began, whole and verified, and the next one continues it."""
    await log.record(1, org_id=acme.id, each=1200)
    await log.seal()
    newest = await acme.admin.audit.GetCheckpoint()
    bundle, parts = b"", 0
    async for part in acme.admin.audit.ExportAuditLog():
        bundle, parts = bundle + part.lines, parts + 1
        await log.record(1, org_id=acme.id, each=3)
        await log.seal()
    assert parts > 2
    report = verify_bundle(bundle.splitlines(keepends=True), [newest.verifier_key])
    assert (report.verdict, report.size) == (Verdict.VERIFIED, newest.size)
    later = (await exported(acme.admin)).splitlines(keepends=True)
    report = verify_bundle(later, [newest.verifier_key], newest.checkpoint)
    assert (report.verdict, report.since_size) == (Verdict.VERIFIED, newest.size)
    assert report.size >= newest.size + 3 * parts


async def test_an_edited_row_is_named_by_the_export(acme, log):
    """The reader needs no access to the database to see it."""
    await log.record(1, org_id=acme.id, each=10)
    await log.seal()
    key = (await acme.admin.audit.GetCheckpoint()).verifier_key
    [(index,)] = log.ask("SELECT max(log_index) FROM audit.events")
    log.tamper(
        "UPDATE audit.events SET fields = jsonb_set(fields, '{0,value}', '\"else\"')"
        " WHERE log_index = (SELECT max(log_index) FROM audit.events)"
    )
    report = verify_bundle((await exported(acme.admin)).splitlines(keepends=True), [key])
    assert (report.verdict, report.first_bad_index) == (Verdict.TAMPERED, index)


async def test_an_export_is_recorded_and_so_is_a_refused_one(acme, log):
    """Reading the whole log is an event of its own; the next export holds it."""
    await exported(acme.admin)
    victor = await acme.person("vera", role="viewer")
    with pytest.raises(Refused) as refused:
        await exported(victor)
    assert refused.value.reason == "PERMISSION_MISSING"
    with pytest.raises(Refused) as refused:
        await victor.audit.ListAuditEvents()
    assert refused.value.reason == "PERMISSION_MISSING"
    await log.seal()

    denied, done = await everything(acme.admin, action="audit.export")
    assert (denied.outcome, denied.actor_id) == ("denied", victor.user_id)
    assert (done.outcome, done.actor_id) == ("success", acme.admin.user_id)
    lines = (await exported(acme.admin)).splitlines(keepends=True)
    shown = [line for line in map(decode_line, lines) if not isinstance(line, Foreign)]
    assert "audit.export" in {decode_leaf(e.leaf).action for e in shown if isinstance(e, Entry)}
