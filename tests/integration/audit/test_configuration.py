"""Settings that matter change by proposal, with a reason, and where marked by four eyes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chimera.audit.configuration import expire_changes
from chimera.core import open_core
from tests.support.audit import Log
from tests.support.world import Organisation, Person, Refused, World


@pytest.fixture
async def acme(world: World) -> Organisation:
    return await world.organisation("acme")


@pytest.fixture
async def boss(acme: Organisation) -> Person:
    return await acme.person("boss", role="admin")


async def proposed(person: Person, days: float = 365, **more: Any) -> Any:
    answer = await person.audit.ProposeConfigurationChange(
        key="audit_retention_days", value={"number_value": days}, reason="contract", **more
    )
    return answer.change


async def setting(person: Person, key: str = "audit_retention_days") -> Any:
    settings = (await person.audit.ListConfiguration()).settings
    return next(item for item in settings if item.key == key)


async def refusal(call: Any) -> str:
    with pytest.raises(Refused) as refused:
        await call
    return refused.value.reason


async def test_a_change_is_applied_when_somebody_else_agrees(
    acme: Organisation, boss: Person, log: Log
) -> None:
    """Not by its author; then at once, with old and new value, who and why, in the log."""
    change = await proposed(acme.admin)
    assert change.state == "proposed" and change.requires_approval
    assert (await setting(boss)).version == 0
    audit = acme.admin.audit
    assert await refusal(audit.ApproveConfigurationChange(change_id=change.id)) == "CHANGE_IS_OWN"
    assert (
        await refusal(boss.audit.WithdrawConfigurationChange(change_id=change.id))
        == "CHANGE_NOT_OWN"
    )
    done = (await boss.audit.ApproveConfigurationChange(change_id=change.id, reason="ok")).change
    assert (done.state, done.decided_by, done.changed_by) == (
        "applied", boss.user_id, acme.admin.user_id,
    )  # fmt: skip
    now = await setting(acme.admin)
    assert (now.value.number_value, now.version) == (365, 1)
    assert (
        await refusal(boss.audit.ApproveConfigurationChange(change_id=change.id))
        == "CHANGE_NOT_OPEN"
    )
    await log.seal()
    [event] = (
        await audit.ListAuditEvents(action="configuration.approve", outcome="success")
    ).events
    assert event.new_values["audit_retention_days"] == 365
    assert event.old_values["audit_retention_days"] is None
    assert event.reason == "ok"


async def test_of_two_proposals_for_one_value_one_is_outdated(
    acme: Organisation, boss: Person
) -> None:
    """Both were read against the same old value; approved at the same moment, one wins."""
    changes = [await proposed(acme.admin, 100), await proposed(acme.admin, 200)]
    answers = await asyncio.gather(
        *(boss.audit.ApproveConfigurationChange(change_id=change.id) for change in changes),
        return_exceptions=True,
    )
    lost = [answer for answer in answers if isinstance(answer, Refused)]
    assert [answer.reason for answer in lost] == ["CHANGE_OUTDATED"]
    assert (await setting(boss)).version == 1
    states = [c.state for c in (await boss.audit.ListConfigurationChanges()).changes]
    assert sorted(states) == ["applied", "proposed"]


async def test_a_proposal_ends_rejected_withdrawn_or_expired(
    acme: Organisation, boss: Person, log: Log
) -> None:
    """And nothing changes; one that is over is not approved even before upkeep has seen it."""
    rejected, withdrawn, expired = [await proposed(acme.admin) for _ in range(3)]
    await boss.audit.RejectConfigurationChange(change_id=rejected.id, reason="no")
    await acme.admin.audit.WithdrawConfigurationChange(change_id=withdrawn.id)
    log.tamper("UPDATE audit.configuration_changes SET expires_at = now() WHERE state = 'proposed'")
    assert (
        await refusal(boss.audit.ApproveConfigurationChange(change_id=expired.id))
        == "CHANGE_NOT_OPEN"
    )
    async with open_core(log.settings, "worker") as worker:
        assert await expire_changes(worker) == 1
        assert await expire_changes(worker) == 0
    states = {c.id: c.state for c in (await boss.audit.ListConfigurationChanges()).changes}
    assert states == {rejected.id: "rejected", withdrawn.id: "withdrawn", expired.id: "expired"}
    assert (await setting(boss)).version == 0
    await log.seal()
    assert (await boss.audit.ListAuditEvents(action="configuration.expire")).events


async def test_wrong_values_and_strangers_change_nothing(
    acme: Organisation, world: World, boss: Person
) -> None:
    """Each setting knows its values; another organisation's change does not exist."""
    audit = acme.admin.audit
    for key, value in (
        ("audit_retention_days", {"number_value": 1}), ("audit_retention_days", {"string_value": "x"}),
        ("audit_retention_days", {"number_value": 30.5}), ("audit_retention_days", {"bool_value": True}),
        ("audit_retention_days", {"number_value": float("nan")}),
        ("security_contacts", {"list_value": ["nobody"]}), ("audit_reader_networks", {"list_value": [7]}),
        ("audit_reader_networks", {"list_value": ["10.0.0.300/8"]}),
        ("security_rules", {"struct_value": {"unknown": {}}}),
        ("security_rules", {"struct_value": {"kill_switch": {"threshold": 0}}}),
    ):  # fmt: skip
        call = audit.ProposeConfigurationChange(key=key, value=value, reason="r")
        assert await refusal(call) == "CONFIGURATION_VALUE_INVALID", (key, value)
    call = audit.ProposeConfigurationChange(key="nonsense", value={"bool_value": True}, reason="r")
    assert await refusal(call) == "CONFIGURATION_KEY_UNKNOWN"
    change = await proposed(acme.admin)
    globex = await world.organisation("globex")
    call = globex.admin.audit.ApproveConfigurationChange(change_id=change.id)
    assert await refusal(call) == "CHANGE_NOT_FOUND"
    assert (await globex.admin.audit.ListConfigurationChanges()).changes == []
    assert len((await boss.audit.ListConfigurationChanges()).changes) == 1


async def test_networks_of_readers_are_enforced(acme: Organisation, boss: Person) -> None:
    """From elsewhere the log is not read, by nobody, in no way."""
    change = (
        await acme.admin.audit.ProposeConfigurationChange(
            key="audit_reader_networks", value={"list_value": ["192.0.2.0/24"]}, reason="office"
        )
    ).change
    await boss.audit.ApproveConfigurationChange(change_id=change.id)
    audit = acme.admin.audit
    assert await refusal(audit.ListAuditEvents()) == "NETWORK_NOT_ALLOWED"
    assert await refusal(anext(audit.WatchAuditEvents())) == "NETWORK_NOT_ALLOWED"
    assert await refusal(anext(audit.ExportAuditLog())) == "NETWORK_NOT_ALLOWED"
    assert await refusal(audit.GetAuditStatistics()) == "NETWORK_NOT_ALLOWED"
