"""Security monitoring: rules over the log, findings once each, people told by mail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from chimera.audit.leaf import Kind, Outcome
from chimera.audit.monitor import watch_over, write_finding
from chimera.audit.recording import record
from chimera.core import Core, open_core
from chimera.ids import new_id
from tests.support.audit import Log, call_of
from tests.support.world import Organisation, Refused, World


@pytest.fixture
async def worker(log: Log) -> AsyncIterator[Core]:
    async with open_core(log.settings, "worker") as core:
        yield core


@pytest.fixture
async def acme(world: World, log: Log, worker: Core) -> Organisation:
    """An organisation; that it got an administrator was a finding, and is not talked of here."""
    acme = await world.organisation("acme")
    await looked_at(log, worker)
    [(rule,)] = log.ask("SELECT rule FROM audit.findings")
    assert rule == "privilege_change"
    log.tamper("DELETE FROM audit.findings")
    return acme


async def looked_at(log: Log, worker: Core) -> None:
    """Everything sealed, and seen by the monitor."""
    await log.seal()
    while await watch_over(worker):
        pass


async def failed(log: Log, org_id: str, count: int, *, ip: str = "203.0.113.9") -> None:
    for _ in range(count):
        call = call_of(org_id)
        call.ip_address = ip
        async with log.app.begin(call) as tx:
            record(tx, "session.create", "user", "someone", outcome=Outcome.DENIED,
                   kind=Kind.SECURITY)  # fmt: skip


async def findings(person: Any, **more: Any) -> list[tuple[str, str]]:
    answer = await person.audit.ListFindings(page_size=50, **more)
    return [(finding.rule, finding.subject) for finding in answer.findings]


async def test_many_failures_from_one_source_are_found_once(
    acme: Organisation, log: Log, worker: Core
) -> None:
    """Nine are nothing; the tenth makes a finding, by the source and by the identifier; the next one
    takes ten again. What the monitor has seen it does not count twice."""
    await failed(log, acme.id, 9)
    await looked_at(log, worker)
    assert await findings(acme.admin) == []
    await failed(log, acme.id, 1)
    await looked_at(log, worker)
    found = {("many_failures_source", "203.0.113.9"), ("many_failures_identifier", "someone")}
    assert set(await findings(acme.admin)) == found
    await failed(log, acme.id, 9)
    await looked_at(log, worker)
    assert len(await findings(acme.admin)) == 2
    assert await findings(acme.admin, rule="many_failures_source") == [
        ("many_failures_source", "203.0.113.9")
    ]
    await failed(log, acme.id, 12)
    await looked_at(log, worker)
    assert len(await findings(acme.admin)) == 4


async def test_failures_of_nobody_known_are_the_operators_business(
    acme: Organisation, log: Log, worker: Core, world: World
) -> None:
    """No organisation, so no organisation sees them."""
    await log.seal()
    root = await world.organisation("root", operator=True)
    async with log.app.begin(call_of("")) as tx:
        tx.call.ip_address = "198.51.100.1"
        for _ in range(10):
            record(tx, "session.create", "rpc", "Login", outcome=Outcome.DENIED, kind=Kind.SECURITY)
    await looked_at(log, worker)
    assert ("many_failures_source", "198.51.100.1") not in await findings(acme.admin)
    assert await findings(acme.admin, of_the_installation=True) == []
    assert ("many_failures_source", "198.51.100.1") in await findings(
        root.admin, of_the_installation=True
    )


async def test_privileges_switches_and_keys_are_found(
    acme: Organisation, log: Log, worker: Core
) -> None:
    """A role that changes, the kill switch, an API key from a network it was never used from."""
    await acme.person("olivia", role="user")
    key_id = new_id()
    async with log.app.begin(call_of(acme.id)) as tx:
        record(tx, "user.update", "user", "olivia", old={"role": "user"}, new={"role": "admin"})
    await acme.admin.operations.SetKillSwitch(sending_stopped=True, reason="drill")
    for ip in ("192.0.2.1", "192.0.2.200", "198.51.100.7", "198.51.100.9"):
        call = call_of(acme.id)
        call.ip_address = ip
        call.caller = type(call.caller)(
            "api_key", org_id=acme.id, user_id=new_id(), api_key_id=key_id
        )
        async with log.app.begin(call) as tx:
            record(tx, "thing.do", "thing", "t")
    await looked_at(log, worker)
    found = await findings(acme.admin)
    assert ("privilege_change", "olivia") in found
    assert found.count(("key_from_new_network", key_id)) == 1
    assert any(rule == "kill_switch" for rule, _ in found)
    assert sum(rule == "privilege_change" for rule, _ in found) == 1


async def test_a_finding_is_acknowledged_once(
    acme: Organisation, log: Log, worker: Core, world: World
) -> None:
    """By somebody, with a note, which is an event; another organisation does not see it."""
    await failed(log, acme.id, 10)
    await looked_at(log, worker)
    finding = (await acme.admin.audit.ListFindings(state="open")).findings[0]
    globex = await world.organisation("globex")
    with pytest.raises(Refused) as refused:
        await globex.admin.audit.AcknowledgeFinding(finding_id=finding.id)
    assert refused.value.reason == "FINDING_NOT_FOUND"
    done = await acme.admin.audit.AcknowledgeFinding(finding_id=finding.id, note="a drill")
    assert (done.finding.state, done.finding.acknowledged_by) == (
        "acknowledged",
        acme.admin.user_id,
    )
    with pytest.raises(Refused) as refused:
        await acme.admin.audit.AcknowledgeFinding(finding_id=finding.id)
    assert refused.value.reason == "FINDING_ALREADY_ACKNOWLEDGED"


async def test_parameters_and_contacts_are_the_organisations(
    acme: Organisation, log: Log, worker: Core
) -> None:
    """Threshold 3 instead of 10, one rule off; two people are told by mail, written when it is sent."""
    boss = await acme.person("boss", role="admin")
    await looked_at(log, worker)
    proposed = await acme.admin.audit.ProposeConfigurationChange(
        key="security_rules", reason="quiet",
        value={"struct_value": {"many_failures_source": {"threshold": 3},
                                "many_failures_identifier": {"enabled": False}}},
    )  # fmt: skip
    await boss.audit.ApproveConfigurationChange(change_id=proposed.change.id)
    contacts = {"list_value": ["ann@example.com", "bo@example.com"]}
    await acme.admin.audit.ProposeConfigurationChange(
        key="security_contacts", value=contacts, reason="on call"
    )
    await failed(log, acme.id, 3)
    await looked_at(log, worker)
    assert await findings(acme.admin, rule="many_failures_identifier") == []
    assert await findings(acme.admin, rule="many_failures_source") == [
        ("many_failures_source", "203.0.113.9")
    ]
    asked = log.ask("SELECT args FROM ops.outbox WHERE task = 'send_mail' ORDER BY id")
    letters = [await write_finding(worker, None, args) for (args,) in asked]
    assert [letter.to for letter in letters if letter] == ["ann@example.com", "bo@example.com"]
    assert letters[0] and "3 failures from 203.0.113.9" in letters[0].text


async def test_a_crash_between_is_no_second_finding(
    acme: Organisation, log: Log, worker: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything of a batch stands or falls together with the watermark."""
    await failed(log, acme.id, 10)
    await log.seal()
    import chimera.audit.monitor as monitor

    with monkeypatch.context() as broken:
        broken.setattr(monitor, "MOVE_WATERMARK", None)
        with pytest.raises(AttributeError):
            await watch_over(worker)
    assert log.ask("SELECT count(*) FROM audit.findings") == [(0,)]
    await looked_at(log, worker)
    assert log.ask("SELECT count(*) FROM audit.findings") == [(2,)]
    [(counted,)] = log.ask("SELECT sum(events) FROM audit.daily")
    assert counted == log.ask("SELECT count(*) FROM audit.events")[0][0]
