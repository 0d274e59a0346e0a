"""Searching, watching and counting the log; who may, and what an operator sees of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import Any

import pytest

from chimera.audit.bundle import Entry, decode_line
from chimera.audit.leaf import Kind, Outcome, Severity
from chimera.audit.monitor import watch_over
from chimera.audit.recording import record
from chimera.audit.report import Verdict
from chimera.audit.verify import verify_bundle
from chimera.core import open_core
from chimera.ids import new_id
from tests.support.audit import Log, call_of
from tests.support.statements import plain
from tests.support.world import Organisation, Refused, World


@pytest.fixture
async def acme(world: World, log: Log) -> Organisation:
    acme = await world.organisation("acme")
    await log.seal()
    return acme


async def happened(log: Log, org_id: str, action: str = "campaign.update", **more: Any) -> Any:
    call = call_of(org_id)
    call.ip_address = more.pop("ip", "192.0.2.7")
    async with log.app.begin(call) as tx:
        record(tx, action, more.pop("entity", "campaign"), more.pop("entity_id", new_id()), **more)
    return call


async def found(person: Any, **filters: Any) -> list[str]:
    answer = await person.audit.ListAuditEvents(page_size=100, **filters)
    return [event.entity_id for event in answer.events]


async def test_every_filter_finds_its_events(acme: Organisation, log: Log) -> None:
    """Actor, action, entity, kind, severity, outcome, address, session, time; together too."""
    before = datetime.now(UTC)
    odd = await happened(
        log, acme.id, "thing.do", entity="thing", entity_id="odd", outcome=Outcome.DENIED,
        severity=Severity.ERROR, kind=Kind.SECURITY, ip="2001:db8::7",
    )  # fmt: skip
    await happened(log, acme.id, "thing.do", entity="thing", entity_id="even")
    await log.seal()
    mine = {"entity": "thing"}
    assert await found(acme.admin, **mine) == ["even", "odd"]
    after = datetime.now(UTC) + timedelta(seconds=1)
    for filters in (
        {"actor_id": odd.caller.user_id}, {"kind": "security", "action": "thing.do"},
        {"severity": "error"}, {"outcome": "denied"}, {"ip_address": "2001:db8::7"},
        {"session_id": odd.caller.session_id}, {"entity_id": "odd"},
        {"severity": "error", "outcome": "denied", "since": before, "until": after},
        {"entity_id": "odd", "since": datetime.min.replace(tzinfo=UTC),
         "until": datetime.max.replace(tzinfo=UTC)},
    ):  # fmt: skip
        assert await found(acme.admin, **filters) == ["odd"], filters
    [event] = (await acme.admin.audit.ListAuditEvents(entity_id="odd")).events
    moment = event.occurred_at.ToDatetime(UTC)
    just = {"since": moment, "until": moment + timedelta(microseconds=1)}
    assert await found(acme.admin, **just, entity_id="odd") == ["odd"]
    [(is_down,)] = log.ask(
        "SELECT ops.uuid_floor('2026-11-21 00:00:00.0009Z') = ops.uuid_floor('2026-11-21 00:00:00Z')"
    )
    assert is_down
    for name, value in (("severity", "Error"), ("outcome", "ok"), ("kind", "audit")):
        with pytest.raises(Refused, match="is one of"):
            await found(acme.admin, **{name: value})
    assert await found(acme.admin, **mine, until=before) == []
    assert await found(acme.admin, **mine, since=after) == []


async def test_full_text_searches_what_events_say(
    acme: Organisation, log: Log, world: World
) -> None:
    """Words and phrases in old and new values, reasons and addresses; of nobody else's events, and
    not in salts."""
    globex = await world.organisation("globex")
    for org_id, name in ((acme.id, "ours"), (globex.id, "theirs")):
        await happened(log, org_id, entity="thing", entity_id=name,
                       new={"title": "Quarterly payment review"}, reason="asked by finance")  # fmt: skip
    await happened(log, acme.id, entity="thing", entity_id="other", new={"title": "payment"})
    await log.seal()
    assert await found(acme.admin, query="payment", entity="thing") == ["other", "ours"]
    assert await found(acme.admin, query='"quarterly payment"') == ["ours"]
    assert await found(acme.admin, query="payment -quarterly", entity="thing") == ["other"]
    assert await found(acme.admin, query="finance") == ["ours"]
    assert await found(globex.admin, query="payment", entity="thing") == ["theirs"]
    [(salt,)] = log.ask("SELECT fields->0->>'salt' FROM audit.events WHERE entity_id = 'ours'")
    assert await found(acme.admin, query=salt) == []


async def test_searches_use_indexes_under_the_row_policy(acme: Organisation, log: Log) -> None:
    """The plan of a rare word among many events reads no month from end to end."""
    await log.record(3, org_id=acme.id, each=400)
    await happened(log, acme.id, entity="thing", entity_id="needle", new={"word": "xylophone"})
    await log.seal()
    log.tamper("ANALYZE audit.events")
    [(before,)] = log.ask("SELECT sum(seq_tup_read) FROM pg_stat_user_tables"
                          " WHERE relname ~ '^events_'")  # fmt: skip
    assert await found(acme.admin, query="xylophone") == ["needle"]
    plan = log.ask(
        "EXPLAIN SELECT id FROM audit.events WHERE org_id = %s"
        " AND audit.words(fields) @@ plainto_tsquery('simple', 'xylophone')", acme.id,
    )  # fmt: skip
    assert any("words" in row[0] for row in plan), plan
    assert before is not None


async def test_reading_the_log_is_in_the_log(acme: Organisation, log: Log) -> None:
    """Once a search, not for each page of it; with the filters, but without the words, which may be
    about somebody who is erased one day."""
    first = await acme.admin.audit.ListAuditEvents(page_size=1, query="secret plans")
    for token in (first.next_page_token,):
        if token:
            await acme.admin.audit.ListAuditEvents(
                page_size=1, query="secret plans", page_token=token
            )
    await log.seal()
    events = (await acme.admin.audit.ListAuditEvents(action="audit.read", page_size=10)).events
    assert [dict(event.new_values) for event in events] == [{"query": "given"}]


async def test_a_watch_misses_and_repeats_nothing(acme: Organisation, log: Log) -> None:
    """Cut off after each answer and resumed from its cursor, while the log grows; a transaction that
    was open for long does not hide its events."""
    told: list[str] = []
    cursor = (await anext(acme.admin.audit.WatchAuditEvents())).cursor
    expected: list[str] = []
    async with log.app.begin(call_of(acme.id)) as slow:
        record(slow, "thing.slow", "thing", "slow")
        await slow.run(plain("SELECT pg_current_xact_id()"))
        expected += await log.record(2, org_id=acme.id)
        await log.seal()
    await log.record(2, org_id=new_id())
    expected += await log.record(3, org_id=acme.id)
    await log.seal()
    while len(told) < 6:
        watch = acme.admin.audit.WatchAuditEvents(cursor=cursor)
        async for answer in watch:
            cursor = answer.cursor
            told += [e.entity_id for e in answer.events if e.action != "audit.watch"]
            break
        await watch.aclose()
    assert sorted(told) == sorted([*expected, "slow"])
    theirs = [a async for a in _first(acme.admin.audit.WatchAuditEvents(from_beginning=True))]
    assert {e.action for e in theirs[0].events} >= {"campaign.launch", "thing.slow"}


async def _first(stream: Any) -> Any:
    async for answer in stream:
        yield answer
        break
    await stream.aclose()


async def test_large_events_hold_up_neither_sealer_nor_reader(acme: Organisation, log: Log) -> None:
    """One that is too large for an index is sealed all the same; large ones are told in as many answers
    as it takes, each of a size that every client receives."""
    await happened(log, acme.id, "thing.burst", entity="thing", entity_id="huge")
    log.tamper(
        "UPDATE audit.pending SET fields = jsonb_build_array(jsonb_build_object('name', 'reason',"
        " 'salt', '', 'value', (SELECT string_agg(md5(n::text), ' ') FROM generate_series(1, 60000) n)))"
        " WHERE facts->>'action' = 'thing.burst'"
    )
    large = " ".join(f"word{number}" for number in range(7_000))
    async with log.app.begin(call_of(acme.id)) as tx:
        for number in range(40):
            record(tx, "thing.grow", "thing", str(number), new={"text": large})
    await log.seal()
    assert await found(acme.admin, entity_id="huge", query=md5(b"7").hexdigest()) == ["huge"]

    listed: list[str] = []
    token, pages = "", 0
    while token or not pages:
        page = await acme.admin.audit.ListAuditEvents(
            action="thing.grow", page_size=1000, page_token=token
        )
        assert page.events and page.ByteSize() < 4_000_000
        listed += [event.entity_id for event in page.events]
        token, pages = page.next_page_token, pages + 1
    everything = {str(number) for number in range(40)}
    assert len(listed) == 40 and set(listed) == everything and pages > 1

    told: list[str] = []
    watch = acme.admin.audit.WatchAuditEvents(from_beginning=True, action="thing.grow")
    async for answer in watch:
        assert answer.ByteSize() < 4_000_000
        told += [event.entity_id for event in answer.events]
        if len(told) == 40:
            break
    await watch.aclose()
    assert len(told) == 40 and set(told) == everything


async def test_a_cursor_of_another_history_is_refused(acme: Organisation, log: Log) -> None:
    """After the restore of a backup the leaf before the cursor is another one."""
    cursor = (await anext(acme.admin.audit.WatchAuditEvents())).cursor
    log.tamper(
        "UPDATE audit.leaves SET leaf_hash = sha256(leaf_hash)"
        " WHERE log_index = (SELECT max(log_index) FROM audit.leaves)"
    )
    with pytest.raises(Refused) as refused:
        await anext(acme.admin.audit.WatchAuditEvents(cursor=cursor))
    assert refused.value.reason == "CURSOR_INVALID"


async def test_statistics_count_each_event_once(acme: Organisation, log: Log) -> None:
    """By day, action, severity, outcome and actor, of one organisation; counted by two monitors that
    run at once, event by event."""
    for _ in range(3):
        await happened(log, acme.id, "thing.fail", outcome=Outcome.FAILED, severity=Severity.ERROR)
    await log.record(2, org_id=new_id())
    await log.seal()
    async with open_core(log.settings, "worker") as one, open_core(log.settings, "worker") as two:
        await asyncio.gather(*(watch_over(core) for core in (one, two, one, two)))
        while await watch_over(one):
            pass
    answer = await acme.admin.audit.GetAuditStatistics()
    [(total,)] = log.ask("SELECT count(*) FROM audit.events WHERE org_id = %s", acme.id)
    assert answer.events == total == sum(day.events for day in answer.days)
    actions = {count.name: (count.events, count.failures) for count in answer.actions}
    assert actions["thing.fail"] == (3, 3)
    assert {c.name: c.events for c in answer.severities}["error"] == 3
    assert {c.name: c.failures for c in answer.outcomes}["failed"] == 3
    assert answer.counted_size >= total
    with pytest.raises(Refused) as refused:
        await acme.admin.audit.GetAuditStatistics(since=datetime(2020, 1, 1, tzinfo=UTC))
    assert refused.value.reason == "FIELD_INVALID"


async def test_an_auditor_sees_the_log_of_one_organisation_and_nothing_else(
    world: World, acme: Organisation, log: Log
) -> None:
    """Events, proofs and export of acme; no campaigns, no people, no changes, nobody else's events."""
    globex = await world.organisation("globex")
    await log.record(2, org_id=globex.id)
    auditor = await acme.person("aud", role="auditor")
    await log.seal()
    events = (await auditor.audit.ListAuditEvents(page_size=100)).events
    assert events
    proof = await auditor.audit.GetInclusionProof(event_id=events[0].id)
    assert proof.size > 0
    lines = b"".join([p.lines async for p in auditor.audit.ExportAuditLog()])
    key = (await auditor.audit.GetCheckpoint()).verifier_key
    report = verify_bundle(lines.splitlines(keepends=True), [key])
    assert report.verdict is Verdict.VERIFIED and report.foreign >= 2
    entries = [e for e in map(decode_line, lines.splitlines(keepends=True)) if isinstance(e, Entry)]
    assert entries
    [(theirs,)] = log.ask("SELECT id::text FROM audit.events WHERE org_id = %s LIMIT 1", globex.id)
    with pytest.raises(Refused) as refused:
        await auditor.audit.GetAuditEvent(event_id=theirs)
    assert refused.value.reason == "AUDIT_EVENT_NOT_FOUND"
    for attempt in (
        auditor.campaigns.ListCampaigns(), auditor.identity.ListUsers(),
        auditor.templates.ListTemplates(), auditor.audit.PlaceLegalHold(name="x", reason="y"),
        auditor.audit.ListLogRestores(), anext(auditor.audit.VerifyAuditLog()),
    ):  # fmt: skip
        with pytest.raises(Refused) as refused:
            await attempt
        assert refused.value.reason == "PERMISSION_MISSING"


async def test_an_operator_verifies_everything_and_reads_nothing(
    world: World, acme: Organisation, log: Log
) -> None:
    """The verdict over all organisations, with progress; another organisation's bytes that were
    changed are named by their index, and nothing of them is told."""
    root = await world.organisation("root", operator=True)
    await log.record(5, org_id=acme.id)
    await log.seal()
    answers = [answer async for answer in root.admin.audit.VerifyAuditLog()]
    assert (answers[-1].verdict, answers[-1].first_bad_index) == ("verified", -1)
    assert answers[-1].done == answers[-1].size > 5
    [(index,)] = log.ask(
        "SELECT min(log_index) FROM audit.events WHERE org_id = %s AND entity = 'campaign'", acme.id
    )
    log.tamper(
        "UPDATE audit.events SET leaf = set_byte(leaf, 40, get_byte(leaf, 40) # 1)"
        " WHERE log_index = %s",
        values=[index],
    )
    last = [answer async for answer in root.admin.audit.VerifyAuditLog()][-1]
    assert (last.verdict, last.first_bad_index) == ("tampered", index)
    log.tamper("DELETE FROM audit.events WHERE log_index >= %s", values=[index])
    last = [answer async for answer in root.admin.audit.VerifyAuditLog()][-1]
    assert (last.verdict, last.first_bad_index) == ("incomplete", index)
    log.tamper("DELETE FROM audit.leaves WHERE log_index = %s", values=[index])
    last = [answer async for answer in root.admin.audit.VerifyAuditLog()][-1]
    assert (last.verdict, last.first_bad_index) == ("incomplete", index)
