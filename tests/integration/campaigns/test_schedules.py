"""Campaigns that are launched by themselves: once, as who scheduled them, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from chimera.core import Core, open_core
from chimera.v1.budgets_pb2 import BudgetLimits, BudgetPeriod, BudgetScope, BudgetScopeKind
from chimera.v1.campaigns_pb2 import CampaignPlan, CampaignState, CampaignVisibility
from chimera.v1.identity_pb2 import Role
from chimera.v1.options_pb2 import Permission
from chimera.v1.schedules_pb2 import Cron, Schedule, ScheduleState
from tests.support.campaigns import finished, worker
from tests.support.workers import Stage, until
from tests.support.world import Person, Refused
from workers.tasks.schedules import launch_scheduled

NIGHTLY = Cron(expression="0 3 * * *", time_zone="Europe/Berlin")
ACTIVE, DONE, STOPPED = (
    ScheduleState.SCHEDULE_STATE_ACTIVE,
    ScheduleState.SCHEDULE_STATE_DONE,
    ScheduleState.SCHEDULE_STATE_STOPPED,
)
RUNS: LiteralString = "SELECT count(*) FROM campaigns.runs"


def after(**delta: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) + timedelta(**delta))
    return stamp


class Clockwork:
    """Two workers' looks at what is due, and a hand that makes the time come."""

    def __init__(self, stage: Stage, cores: list[Core]) -> None:
        self.stage, self.cores = stage, cores

    async def comes(self, campaign_id: str, ago: str = "1 second") -> None:
        rows = await self.stage.books.rows(
            "UPDATE campaigns.schedules SET next_at = now() - %(ago)s::interval "
            "WHERE campaign_id = %(id)s AND state = 'active' RETURNING 1",
            id=campaign_id,
            ago=ago,
        )
        assert rows

    async def look(self, times: int = 1) -> None:
        """So many looks of each worker, all at once."""
        await asyncio.gather(
            *(launch_scheduled({"core": core}) for core in self.cores for _ in range(times))
        )


@pytest.fixture
async def clockwork(stage: Stage) -> AsyncIterator[Clockwork]:
    async with (
        open_core(stage.settings, "worker") as one,
        open_core(stage.settings, "worker") as other,
    ):
        yield Clockwork(stage, [one, other])


async def draft(
    stage: Stage,
    plan: CampaignPlan | None = None,
    name: str = "nightly",
    person: Person | None = None,
    **more: Any,
) -> str:
    plan = plan or await stage.plan(rows=1, techniques=("plain",))
    made = await (person or stage.olivia).campaigns.CreateCampaign(name=name, plan=plan, **more)
    campaign_id: str = made.campaign.id
    return campaign_id


async def schedule_of(person: Person, campaign_id: str) -> Schedule:
    schedule: Schedule = (await person.schedules.GetSchedule(campaign_id=campaign_id)).schedule
    return schedule


async def state_of(person: Person, campaign_id: str) -> str:
    campaign = (await person.campaigns.GetCampaign(campaign_id=campaign_id)).campaign
    return CampaignState.Name(campaign.state).removeprefix("CAMPAIGN_STATE_")


async def refusal(awaitable: Any) -> str:
    with pytest.raises(Refused) as caught:
        await awaitable
    return caught.value.reason


async def test_a_single_moment_launches_once_whoever_looks(
    stage: Stage, clockwork: Clockwork
) -> None:
    """Not before its time; then one run, of six looks by two workers at once; and none later."""
    olivia = stage.olivia
    campaign_id = await draft(stage)
    answer = await olivia.schedules.ScheduleCampaign(
        campaign_id=campaign_id, start_at=after(hours=5)
    )
    assert answer.schedule.state == ACTIVE and answer.schedule.scheduled_by == olivia.user_id
    assert answer.campaign.state == CampaignState.CAMPAIGN_STATE_SCHEDULED
    await clockwork.look()
    assert await stage.books.value(RUNS) == 0
    assert await refusal(olivia.campaigns.LaunchCampaign(campaign_id=campaign_id)) == (
        "CAMPAIGN_NOT_DRAFT"
    )
    assert await refusal(olivia.campaigns.DeleteCampaign(campaign_id=campaign_id)) == (
        "CAMPAIGN_BUSY"
    )
    await clockwork.comes(campaign_id)
    await clockwork.look(times=3)
    await clockwork.look()
    schedule = await schedule_of(olivia, campaign_id)
    assert (schedule.state, schedule.launch_count) == (DONE, 1)
    assert not schedule.HasField("next_at") and schedule.HasField("last_launched_at")
    assert await stage.books.value(RUNS) == 1
    run = (await olivia.campaigns.GetRun(run_id=schedule.last_run_id)).run
    assert (run.launched_by, run.cells_total) == (olivia.user_id, 1)
    assert await state_of(olivia, campaign_id) == "RUNNING"
    actions = await stage.books.actions(campaign_id)
    assert actions.count("campaign.launch") == 1 and "campaign.schedule" in actions
    async with worker(stage.settings):  # which also looks by itself
        await finished(olivia, run.id)
        assert await state_of(olivia, campaign_id) == "COMPLETED"
        await olivia.schedules.ScheduleCampaign(campaign_id=campaign_id, start_at=after(seconds=1))

        async def launched_again() -> bool:
            return (await schedule_of(olivia, campaign_id)).launch_count == 2

        await until(launched_again, "the worker launches what is due", every_s=0.2)
        await finished(olivia, (await schedule_of(olivia, campaign_id)).last_run_id)


async def test_cron_makes_a_run_each_time_and_one_after_downtime(
    stage: Stage, clockwork: Clockwork
) -> None:
    """Ten missed nights are one run. While it goes on, the next moment is skipped and says so; when it
    is over the campaign waits again; and it is unscheduled back to what its last run left."""
    olivia = stage.olivia
    schedules, campaign_id = olivia.schedules, await draft(stage)
    made = (await schedules.ScheduleCampaign(campaign_id=campaign_id, cron=NIGHTLY)).schedule
    assert made.next_at.ToDatetime(UTC) > datetime.now(UTC)
    await clockwork.comes(campaign_id, "10 days")
    await clockwork.look()
    first = await schedule_of(olivia, campaign_id)
    assert (first.state, first.launch_count) == (ACTIVE, 1)
    assert first.next_at == made.next_at and await stage.books.value(RUNS) == 1

    await clockwork.comes(campaign_id)
    await clockwork.look()
    skipped = await schedule_of(olivia, campaign_id)
    assert (skipped.state, skipped.refusal_reason) == (ACTIVE, "CAMPAIGN_BUSY")
    assert skipped.next_at == made.next_at and skipped.launch_count == 1
    async with worker(stage.settings):
        await finished(olivia, first.last_run_id)
        await clockwork.look()
        assert await state_of(olivia, campaign_id) == "SCHEDULED"
        await clockwork.comes(campaign_id)
        await clockwork.look()
        second = await schedule_of(olivia, campaign_id)
        assert second.launch_count == 2 and second.last_run_id != first.last_run_id
        assert (second.refusal_reason, second.HasField("refused_at")) == ("", False)
        await finished(olivia, second.last_run_id)
    runs = (await olivia.campaigns.ListRuns(campaign_id=campaign_id)).runs
    assert [run.id for run in runs] == [second.last_run_id, first.last_run_id]
    await clockwork.look()
    ended = await schedules.UnscheduleCampaign(campaign_id=campaign_id)
    assert ended.schedule.state == STOPPED and ended.schedule.state_reason == "unscheduled"
    assert ended.campaign.state == CampaignState.CAMPAIGN_STATE_COMPLETED
    again = schedules.UnscheduleCampaign(campaign_id=campaign_id)
    assert await refusal(again) == "SCHEDULE_NOT_FOUND"


async def test_it_is_launched_with_the_permissions_of_that_moment(
    stage: Stage, clockwork: Clockwork
) -> None:
    """Somebody who became a viewer, somebody who was disabled, and a key that was revoked: each stops
    the schedule, which says why, and the campaign is as before."""
    admin, plan = stage.olivia, await stage.plan(rows=1)
    provider = (await admin.providers.ListProviders()).providers[0]
    people = {name: await stage.acme.person(name) for name in ("paul", "rosa", "kurt")}
    campaigns: dict[str, str] = {}
    for name, person in people.items():
        await person.providers.CreateProviderKey(
            provider_id=provider.id, name="own", secret="sk-own-0123456789", is_default=True
        )
        campaigns[name] = await draft(
            stage,
            plan,
            name,
            person,
            visibility=CampaignVisibility.CAMPAIGN_VISIBILITY_PRIVATE,
        )
    key = await people["kurt"].identity.CreateApiKey(
        name="ci", scopes=[Permission.PERMISSION_CAMPAIGN_RUN, Permission.PERMISSION_CAMPAIGN_READ]
    )
    for name, person in people.items():
        who = person.holding(key.secret) if name == "kurt" else person
        await who.schedules.ScheduleCampaign(campaign_id=campaigns[name], cron=NIGHTLY)
    # While nothing has changed, each is launched as the person it is, who alone sees the campaign.
    for campaign_id in campaigns.values():
        await clockwork.comes(campaign_id)
    await clockwork.look()
    launched = await stage.books.rows("SELECT launched_by::text AS who FROM campaigns.runs")
    assert {row["who"] for row in launched} == {person.user_id for person in people.values()}
    for name, person in people.items():
        await person.campaigns.CancelCampaign(campaign_id=campaigns[name])
        await clockwork.look()
        stopped = await schedule_of(person, campaigns[name])
        assert (stopped.state, stopped.state_reason) == (STOPPED, "its run was cancelled")
        who = person.holding(key.secret) if name == "kurt" else person
        await who.schedules.ScheduleCampaign(campaign_id=campaigns[name], cron=NIGHTLY)

    await admin.organisations.ChangeMemberRole(
        user_id=people["paul"].user_id, role=Role.ROLE_VIEWER
    )
    await admin.identity.DisableUser(user_id=people["rosa"].user_id)
    await people["kurt"].identity.RevokeApiKey(api_key_id=key.api_key.id)
    for campaign_id in campaigns.values():
        await clockwork.comes(campaign_id)
    await clockwork.look()
    assert await stage.books.value(RUNS) == 3
    rows = await stage.books.rows(
        "SELECT s.campaign_id::text AS id, s.state, s.refusal_reason, c.state AS campaign_state"
        "  FROM campaigns.schedules s JOIN campaigns.campaigns c ON c.id = s.campaign_id"
    )
    found = {row.pop("id"): row for row in rows}
    for name, reason in (
        ("paul", "PERMISSION_MISSING"),
        ("rosa", "ACCOUNT_DISABLED"),
        ("kurt", "API_KEY_NOT_ACTIVE"),
    ):
        assert found[campaigns[name]] == {
            "state": "stopped",
            "refusal_reason": reason,
            "campaign_state": "cancelled",
        }, name
        assert "schedule.stop" in await stage.books.actions(campaigns[name])
    kurt = await schedule_of(people["kurt"], campaigns["kurt"])
    assert "API key" in kurt.state_reason and kurt.HasField("refused_at")


async def test_a_refused_launch_is_written_on_the_schedule(
    stage: Stage, clockwork: Clockwork
) -> None:
    """A spent budget: cron waits for the next moment, a single moment is over and the campaign a draft
    again. What is lifted in time is forgotten with the next launch."""
    olivia = stage.olivia
    plan = await stage.plan(rows=1)
    campaign_id, single = await draft(stage, plan, "cron"), await draft(stage, plan, "single")
    await olivia.schedules.ScheduleCampaign(campaign_id=campaign_id, cron=NIGHTLY)
    await olivia.schedules.ScheduleCampaign(campaign_id=single, start_at=after(days=1))
    scope = BudgetScope(kind=BudgetScopeKind.BUDGET_SCOPE_KIND_ORGANISATION)
    day = BudgetPeriod.BUDGET_PERIOD_DAILY
    budget = await olivia.budgets.SetBudget(
        scope=scope, period=day, limits=BudgetLimits(requests_max=0)
    )
    for one in (campaign_id, single):
        await clockwork.comes(one)
    await clockwork.look()
    cron, once = await schedule_of(olivia, campaign_id), await schedule_of(olivia, single)
    assert (cron.state, cron.refusal_reason) == (ACTIVE, "BUDGET_SPENT")
    assert "organisation" in cron.refusal_message and cron.HasField("next_at")
    assert (once.state, once.refusal_reason) == (STOPPED, "BUDGET_SPENT")
    assert once.state_reason == once.refusal_message
    assert await state_of(olivia, campaign_id) == "SCHEDULED"
    assert await state_of(olivia, single) == "DRAFT"
    assert await stage.books.value(RUNS) == 0
    assert "schedule.refuse" in await stage.books.actions(campaign_id)
    await olivia.budgets.DeleteBudget(budget_id=budget.budget.id)
    await clockwork.comes(campaign_id)
    await clockwork.look()
    cron = await schedule_of(olivia, campaign_id)
    assert (cron.launch_count, cron.refusal_reason, cron.refusal_message) == (1, "", "")


async def test_schedules_that_make_no_sense(stage: Stage) -> None:
    """Bad times, plans that could not be launched, campaigns that run; strangers and lists."""
    olivia = stage.olivia
    schedule = olivia.schedules.ScheduleCampaign
    plan = await stage.plan(rows=1)
    campaign_id = await draft(stage, plan)
    for cron in (
        Cron(expression="0 0 30 2 *", time_zone="UTC"),
        Cron(expression="* * * * * *", time_zone="UTC"),
        Cron(expression="0 3 * * *", time_zone="Middle/Earth"),
    ):
        assert await refusal(schedule(campaign_id=campaign_id, cron=cron)) == "SCHEDULE_INVALID"
    past = schedule(campaign_id=campaign_id, start_at=after(seconds=-5))
    assert await refusal(past) == "SCHEDULE_INVALID"
    assert await refusal(schedule(campaign_id=campaign_id)) == "FIELD_INVALID"
    empty = (await olivia.campaigns.CreateCampaign(name="empty")).campaign.id
    assert await refusal(schedule(campaign_id=empty, cron=NIGHTLY)) == "PLAN_EMPTY"
    none = olivia.schedules.GetSchedule(campaign_id=campaign_id)
    assert await refusal(none) == "SCHEDULE_NOT_FOUND"
    assert await state_of(olivia, campaign_id) == "DRAFT"
    await schedule(campaign_id=campaign_id, cron=NIGHTLY)
    moved = await schedule(campaign_id=campaign_id, start_at=after(days=2))  # takes its place
    assert not moved.schedule.HasField("cron") and moved.schedule.HasField("start_at")
    busy = await draft(stage, plan, "busy")
    await olivia.campaigns.LaunchCampaign(campaign_id=busy)
    assert await refusal(schedule(campaign_id=busy, cron=NIGHTLY)) == "CAMPAIGN_BUSY"
    vera = await stage.acme.person("vera", role="viewer")
    listed = (await vera.schedules.ListSchedules(state=ACTIVE)).schedules
    assert [one.campaign_id for one in listed] == [campaign_id]
    denied = vera.schedules.UnscheduleCampaign(campaign_id=campaign_id)
    assert await refusal(denied) == "PERMISSION_MISSING"
    mallory = (await stage.world.organisation("globex")).admin
    assert not (await mallory.schedules.ListSchedules()).schedules
    theirs = mallory.schedules.ScheduleCampaign(campaign_id=campaign_id, cron=NIGHTLY)
    assert await refusal(theirs) == "CAMPAIGN_NOT_FOUND"
