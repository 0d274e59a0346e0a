"""Numbers equal a naive recount, and no question reaches another's events."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from chimera.core import open_core
from chimera.embedded.stack import StackUrls
from chimera.settings import Settings
from chimera.telemetry.scope import BY_CAMPAIGN, BY_ORGANISATION, BY_USER, Scope
from chimera.v1.campaigns_pb2 import CampaignPlan
from chimera.v1.telemetry_pb2 import (
    EventFilter,
    EventNumbers,
    TelemetryEvent,
    TelemetryOrder,
    TelemetryStep,
)
from tests.integration.telemetry.buffer import ask, run_sql
from tests.integration.telemetry.conftest import Hands
from tests.integration.telemetry.recount import KEYS, WIDTHS, D, check, recount
from tests.integration.telemetry.sending import (
    in_columns,
    in_rows,
    record,
    some_events,
    stamp,
    within,
)
from tests.support.world import Person, Refused, World


@pytest.fixture
def settings(stored_settings: Settings) -> Settings:
    return stored_settings


async def sent(person: Person, hands: Hands, count: int = 600) -> list[TelemetryEvent]:
    """Events in both forms, each batch sent twice, drained in several groups."""
    events = some_events(count, user_id=person.user_id)
    for at in range(0, count, 150):
        batch = (in_rows if at % 300 else in_columns)(events[at : at + 150])
        for _ in range(2):
            await record(person, batch)
        await hands.drain()
    return events


@pytest.mark.parametrize("is_exact", [False, True])
@pytest.mark.parametrize("metric", ["", "tokens"])
async def test_series_equal_a_recount_at_every_step_and_grouping(
    world: World, hands: Hands, metric: str, is_exact: bool
) -> None:
    """Every roll-up, all single groupings, pairs and some of several, after repeated and grouped
    batches."""
    acme = await world.organisation("acme")
    events = await sent(acme.admin, hands)
    pairs = [[D.TELEMETRY_DIMENSION_TECHNIQUE, D.TELEMETRY_DIMENSION_MODEL], list(KEYS)[2:4]]
    groupings = [[], *([number] for number in KEYS), list(KEYS)[:3], list(KEYS)[4:7], *pairs]
    for step, width_s in WIDTHS.items():
        for group_by in groupings[:: 1 if step == TelemetryStep.TELEMETRY_STEP_HOUR else 5]:
            answer = await acme.admin.telemetry.QuerySeries(
                **within(),
                step=step,
                group_by=group_by,
                metric=metric,
                is_exact=is_exact,
                with_percentiles=True,
            )
            truth = recount(events, width_s, group_by, metric)
            found = {(p.start.seconds, *p.group): p for p in answer.points}
            assert found.keys() == truth.keys()
            for key, numbers in found.items():
                check(numbers, truth[key], metric)
            assert answer.step == step
            assert answer.freshness.HasField("complete_to")


async def test_the_step_follows_the_range(world: World, hands: Hands) -> None:
    """And the answer says what it covers: the range is widened to whole steps."""
    acme = await world.organisation("acme")
    steps = []
    for hours in (5, 24, 24 * 60):
        answer = await acme.admin.telemetry.QuerySeries(**within(hours))
        steps.append(answer.step)
        width_s = WIDTHS[answer.step]
        assert getattr(answer, "from").seconds % width_s == answer.to.seconds % width_s == 0
        assert getattr(answer, "from").seconds <= within(hours)["from"].seconds
    assert steps == list(WIDTHS)
    with pytest.raises(Refused) as refused:
        await acme.admin.telemetry.QuerySeries(
            **within(24 * 30), step=TelemetryStep.TELEMETRY_STEP_MINUTE
        )
    assert refused.value.reason == "QUERY_TOO_LARGE"


async def test_a_short_range_of_long_ago_is_answered_from_what_is_kept(
    world: World, hands: Hands
) -> None:
    """Minutes and events go after 90 days, hours stay for a year; who asks for what is gone is told."""
    acme = await world.organisation("acme")
    await record(acme.admin, in_columns(some_events(50)))
    await hands.drain()
    moved = "SELECT * REPLACE (bucket - INTERVAL 100 DAY AS bucket) FROM events_hourly"
    ask(hands.url, f"INSERT INTO events_hourly {moved}")
    then = datetime.now(UTC) - timedelta(days=100)
    times = {"from": stamp(then - timedelta(hours=5)), "to": stamp(then + timedelta(minutes=1))}
    series = await acme.admin.telemetry.QuerySeries(**times)
    assert series.step == TelemetryStep.TELEMETRY_STEP_HOUR
    assert sum(point.events for point in series.points) == 50
    top = await acme.admin.telemetry.QueryTop(**times)
    assert [group.events for group in top.groups] == [50]
    minutes = {"step": TelemetryStep.TELEMETRY_STEP_MINUTE}
    for rpc, gone in (
        ("QuerySeries", minutes),
        ("QuerySeries", {"is_exact": True}),
        ("QueryTop", {"is_exact": True}),
    ):
        with pytest.raises(Refused) as refused:
            await getattr(acme.admin.telemetry, rpc)(**times, **gone)
        assert refused.value.reason == "FIELD_INVALID"


@pytest.mark.parametrize("is_exact", [False, True])
async def test_filters_are_those_of_a_recount(world: World, hands: Hands, is_exact: bool) -> None:
    acme = await world.organisation("acme")
    events = await sent(acme.admin, hands, 300)
    filters = {
        "event_types": ["llm.call"],
        "workload_ids": ["load-1", "load-2", "nowhere"],
        "models": ["guard-1"],
        "providers": ["assistant"],
        "event_categories": ["test"],
        "user_ids": [acme.admin.user_id],
        "techniques": ["plain", ""],
    }
    workload, model = D.TELEMETRY_DIMENSION_WORKLOAD, D.TELEMETRY_DIMENSION_MODEL
    for second in (workload, model):
        by = [D.TELEMETRY_DIMENSION_EVENT_TYPE, second]
        for chosen in (*([name] for name in filters), list(filters)):
            condition = EventFilter(**{name: filters[name] for name in chosen})
            answer = await acme.admin.telemetry.QuerySeries(
                **within(), group_by=by, filter=condition, is_exact=is_exact,
                step=TelemetryStep.TELEMETRY_STEP_HOUR,
            )  # fmt: skip
            kept = [
                event
                for event in events
                if all(
                    key(event) in getattr(condition, field)
                    for field, key in zip(
                        ("event_types", "event_categories", "campaign_ids", "user_ids",
                         "workload_ids", "providers", "models", "techniques"),
                        KEYS.values(), strict=True,
                    )
                    if getattr(condition, field)
                )
            ]  # fmt: skip
            truth = recount(kept, 3600, by)
            assert {(p.start.seconds, *p.group): p.events for p in answer.points} == {
                key: len(found) for key, found in truth.items()
            }


@pytest.mark.parametrize("days", [0.2, 2, 20])
async def test_the_top_is_in_the_right_order(world: World, hands: Hands, days: float) -> None:
    """By every number that can be asked for, from the events and the roll-ups of hours and days."""
    acme = await world.organisation("acme")
    events = await sent(acme.admin, hands)
    by = [D.TELEMETRY_DIMENSION_WORKLOAD, D.TELEMETRY_DIMENSION_EVENT_TYPE]
    truth = {key[1:]: found for key, found in recount(events, 0, by).items()}
    orders: dict[int, Callable[[EventNumbers], float]] = {
        TelemetryOrder.TELEMETRY_ORDER_UNSPECIFIED: lambda n: n.events,
        TelemetryOrder.TELEMETRY_ORDER_EVENTS: lambda n: n.events,
        TelemetryOrder.TELEMETRY_ORDER_ERRORS: lambda n: n.errors,
        TelemetryOrder.TELEMETRY_ORDER_ERROR_RATE: lambda n: n.error_rate,
        TelemetryOrder.TELEMETRY_ORDER_COST: lambda n: float(n.cost_usd),
        TelemetryOrder.TELEMETRY_ORDER_AVERAGE: lambda n: n.values.average,
        TelemetryOrder.TELEMETRY_ORDER_P95: lambda n: n.values.p95,
    }
    for order, number in orders.items():
        answer = await acme.admin.telemetry.QueryTop(
            **within(days * 24), group_by=by, order=order, with_percentiles=True
        )
        assert {tuple(group.group) for group in answer.groups} == truth.keys()
        for group in answer.groups:
            check(group, truth[tuple(group.group)])
        numbers = [number(group) for group in answer.groups]
        assert numbers == sorted(numbers, reverse=True)
    answer = await acme.admin.telemetry.QueryTop(**within(days * 24), group_by=by, size=2)
    assert len(answer.groups) == 2
    assert answer.groups[0].values.average and not answer.groups[0].values.p95, "not asked for"


async def test_events_are_paged_newest_first(world: World, hands: Hands) -> None:
    """Every event once, whole, with any filter; the range's end is not in it."""
    acme = await world.organisation("acme")
    events = await sent(acme.admin, hands, 150)
    found: list[TelemetryEvent] = []
    token = ""
    while True:
        page = await acme.admin.telemetry.ListEvents(page_size=40, page_token=token)
        found += page.events
        token = page.next_page_token
        if not token:
            break
    newest = sorted(events, key=lambda e: e.timestamp.ToMilliseconds(), reverse=True)
    assert [e.timestamp.ToMilliseconds() for e in found] == [
        e.timestamp.ToMilliseconds() for e in newest
    ]
    whole = {event.event_id: event for event in found}
    for event in events:
        kept = whole[event.event_id]
        kept.dimensions.update({k: v for k, v in event.dimensions.items()})
        for name, value in list(kept.dimensions.items()):
            if not value:
                del kept.dimensions[name]
        assert Decimal(kept.cost_usd) == Decimal(event.cost_usd)
        kept.cost_usd = event.cost_usd
        assert kept == event
    one = events[7]
    answer = await acme.admin.telemetry.ListEvents(correlation_id=one.correlation_id)
    assert [event.event_id for event in answer.events] == [one.event_id]
    bounds = {"from": events[3].timestamp, "to": events[3].timestamp}
    assert not (await acme.admin.telemetry.ListEvents(**bounds)).events


async def test_recent_workloads_and_activity(world: World, hands: Hands) -> None:
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    events = some_events(200)
    await record(olivia, in_rows(events[:120]))
    await record(acme.admin, in_columns(events[120:]))
    await hands.drain()
    truth: dict[tuple[str, str], list[TelemetryEvent]] = defaultdict(list)
    for place, event in enumerate(events):
        truth[event.workload_id, (olivia if place < 120 else acme.admin).user_id].append(event)

    workloads, token = [], ""
    while True:
        page = await acme.admin.telemetry.ListRecentWorkloads(page_size=2, page_token=token)
        workloads += page.workloads
        token = page.next_page_token
        if not token:
            break
    assert len(workloads) == len(truth)
    for workload in workloads:
        found = truth[workload.workload_id, workload.user_id]
        assert workload.events == len(found)
        assert workload.event_types == len({event.event_type for event in found})
        assert workload.last_seen_at.ToMilliseconds() == max(
            event.timestamp.ToMilliseconds() for event in found
        )
    seen = [workload.last_seen_at.ToMilliseconds() for workload in workloads]
    assert seen == sorted(seen, reverse=True)

    days = defaultdict(lambda: [0, 0])
    for place, event in enumerate(events):
        day = event.timestamp.ToDatetime().date().isoformat()
        key = (day, (olivia if place < 120 else acme.admin).user_id, event.event_type)
        days[key][0] += 1
        days[key][1] += event.latency_ms
    activities, token = [], ""
    while True:
        page = await acme.admin.telemetry.ListUserActivity(page_size=2, page_token=token)
        activities += page.activities
        token = page.next_page_token
        if not token:
            break
    assert {(a.day, a.user_id, a.action): [a.events, a.duration_ms] for a in activities} == days
    own = (await olivia.telemetry.ListUserActivity()).activities
    assert {activity.user_id for activity in own} == {olivia.user_id}
    assert sum(activity.events for activity in own) == 120
    assert not (await olivia.telemetry.ListUserActivity(user_id=acme.admin.user_id)).activities


async def test_users_see_their_own_and_what_they_may_see(world: World, hands: Hands) -> None:
    """Private campaigns of others stay hidden, in every answer; naming one is naming nothing."""
    acme = await world.organisation("acme")
    olivia, mallory = await acme.person("olivia"), await acme.person("mallory")
    ids = {}
    for name, person in (("private", olivia), ("shared", olivia), ("own", mallory)):
        made = await person.campaigns.CreateCampaign(name=name, plan=CampaignPlan())
        ids[name] = made.campaign.id
    await asyncio.to_thread(
        run_sql,
        world.settings.database_url.get_secret_value(),
        "UPDATE campaigns.campaigns SET visibility = 'private' WHERE id = %s",
        ids["private"],
    )
    for seed, name in enumerate(ids):
        sender = mallory if name == "own" else olivia
        events = some_events(10, seed, campaign_id=ids[name])
        await record(sender, in_rows(events))
    await hands.drain()

    async def counts(person: Person, **filter: Any) -> list[int]:
        """By each way to ask."""
        chosen = EventFilter(**filter)
        t = person.telemetry
        found = []
        for is_exact in (False, True):
            series = await t.QuerySeries(**within(), filter=chosen, is_exact=is_exact)
            top = await t.QueryTop(**within(), filter=chosen, is_exact=is_exact)
            found += [sum(p.events for p in series.points), sum(g.events for g in top.groups)]
            metric = await t.QuerySeries(
                **within(), filter=chosen, metric="tokens", is_exact=is_exact
            )
            found.append(30 if metric.points else 0)
        found.append(len((await t.ListEvents(filter=chosen)).events))
        workloads = await t.ListRecentWorkloads(filter=chosen)
        found.append(sum(workload.events for workload in workloads.workloads))
        return [number for number in found if number != 30]

    assert set(await counts(mallory)) == {10}
    assert set(await counts(mallory, campaign_ids=[ids["shared"]])) == {10}
    assert set(await counts(olivia)) == {20}
    assert not await counts(acme.admin), "an administrator sees all thirty, everywhere"
    assert set(await counts(mallory, campaign_ids=[ids["shared"], ids["own"]])) == {20}
    for rpc in ("QuerySeries", "QueryTop", "ListEvents", "ListRecentWorkloads"):
        times = within() if rpc.startswith("Query") else {}
        with pytest.raises(Refused) as refused:
            await getattr(mallory.telemetry, rpc)(
                **times, filter=EventFilter(campaign_ids=[ids["private"]])
            )
        assert (refused.value.code, refused.value.reason) == ("NOT_FOUND", "CAMPAIGN_NOT_VISIBLE")
    with pytest.raises(Refused) as refused:
        await mallory.telemetry.GetExecutionSeries(**within())
    assert refused.value.code == "PERMISSION_DENIED"


ATTACKS = (
    "' OR 1 = 1 --",
    "\\' OR 1 = 1 --",
    "x') OR (1 = 1",
    "\\",
    "%(org_id)s",
    "'; DROP TABLE workload_events; --",
    "x' UNION ALL SELECT 1 --",
    "\0",
    "load-1\0' OR 1",
)


async def test_no_parameter_reaches_another_organisation(world: World, hands: Hands) -> None:
    """Every text of every question, filled with what would end a literal."""
    acme, rival = await world.organisation("acme"), await world.organisation("rival")
    await sent(rival.admin, hands, 150)
    t = acme.admin.telemetry
    texts = ("event_types", "event_categories", "workload_ids", "providers", "models", "techniques")
    for name in texts:
        condition = EventFilter(**{name: [*ATTACKS, "load-1"]})
        assert not (await t.QueryTop(**within(), filter=condition)).groups
        assert not (await t.QuerySeries(**within(), filter=condition, is_exact=True)).points
        assert not (await t.ListRecentWorkloads(filter=condition)).workloads
    for attack in ATTACKS:
        for field in ("workload_id", "event_type", "correlation_id", "session_id"):
            since = within()["from"]
            assert not (await t.ListEvents(**{field: attack, "from": since})).events
        assert not (await t.QuerySeries(**within(), metric=attack)).points
        assert not (await t.GetExecutionSeries(**within(), workload_id=attack)).points
        with pytest.raises(Refused):
            await t.ListUserActivity(user_id=attack)
        with pytest.raises(Refused):
            await t.ListEvents(page_token=attack)
    theirs = await rival.admin.telemetry.ListEvents(page_size=5)
    with pytest.raises(Refused):
        await t.ListEvents(page_size=5, page_token=theirs.next_page_token[:-4])
    assert not (await t.ListEvents(page_size=5, page_token=theirs.next_page_token)).events
    assert ask(hands.url, "SELECT count() FROM workload_events") == [(150,)]


async def test_the_scope_holds_below_any_statement(world: World, hands: Hands) -> None:
    """Statements that name no organisation at all, read through every table, view and subquery."""
    acme, rival = await world.organisation("acme"), await world.organisation("rival")
    for org in (acme, rival):
        await sent(org.admin, hands, 150)
    tables = [row[0] for row in ask(hands.url, "SHOW TABLES") if not row[0].endswith("_mv")]
    known = {*BY_CAMPAIGN, *BY_USER, *BY_ORGANISATION}
    views = {"recent_workloads"}
    foreign = {table for table in tables if table not in known | views and "schema" not in table
               and "migrations" not in table}  # fmt: skip
    assert not foreign, f"name these tables in telemetry/scope.py: {foreign}"
    statements = [
        *(
            f"SELECT DISTINCT toString(org_id) FROM {table}"  # noqa: S608 - names of tables
            for table in tables
            if table in known | views
        ),
        "SELECT DISTINCT toString(org_id) FROM (SELECT * FROM events_hourly WHERE 1 OR 1)",
        "SELECT DISTINCT toString(a.org_id) FROM events_daily AS a CROSS JOIN user_activity AS b",
        "WITH x AS (SELECT org_id FROM workload_events) SELECT DISTINCT toString(org_id) FROM x",
    ]
    call = type("Asking", (), {"deadline": asyncio.get_running_loop().time() + 60})
    for statement in statements:
        rows = await hands.clickhouse.query(
            statement,
            {},
            deadline=call.deadline,
            rows_max=100,
            limits={"additional_table_filters": Scope(acme.id).filters()},
        )
        assert {row[0] for row in rows} <= {acme.id}, statement
        if "executions_hourly" not in statement:
            assert rows, statement
    outsider = Scope(acme.id, rival.admin.user_id)
    for statement in statements:
        rows = await hands.clickhouse.query(
            statement,
            {},
            deadline=call.deadline,
            rows_max=100,
            limits={"additional_table_filters": outsider.filters()},
        )
        assert not rows, statement


class TestLimits:
    """A query may read so much, and an organisation may ask so much at a time."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(
            update={"telemetry_query_rows_max": 40, "telemetry_queries_per_org": 1}
        )

    async def test_too_much_is_refused_by_name(self, world: World, hands: Hands) -> None:
        acme = await world.organisation("acme")
        await sent(acme.admin, hands, 150)
        with pytest.raises(Refused) as refused:
            await acme.admin.telemetry.QuerySeries(**within(), is_exact=True)
        assert (refused.value.code, refused.value.reason) == ("INVALID_ARGUMENT", "QUERY_TOO_LARGE")

        async def asked() -> str:
            now = datetime.now(UTC)
            try:
                await acme.admin.telemetry.QuerySeries(
                    **{
                        "from": stamp(now - timedelta(days=400)),
                        "to": stamp(now - timedelta(days=399)),
                    }
                )
            except Refused as one:
                return one.reason
            return ""

        reasons = await asyncio.gather(*(asked() for _ in range(60)))
        assert "TOO_MANY_QUERIES" in reasons
        assert "" in reasons
        assert set(reasons) == {"TOO_MANY_QUERIES", ""}
        assert not await asked(), "and afterwards there is room again"


class TestReplica:
    """Analytics read where they are told to, and the drain writes where it always does."""

    @pytest.fixture
    def settings(self, settings: Settings, stack: StackUrls) -> Settings:
        url = type(settings.redis_url)(stack.clickhouse_url)
        return settings.model_copy(update={"clickhouse_read_url": url})

    async def test_analytics_read_from_the_other_store(
        self, world: World, hands: Hands, stack: StackUrls
    ) -> None:
        from chimera import migrate

        migrate.up(clickhouse_url=stack.clickhouse_url, only="clickhouse")
        acme = await world.organisation("acme")
        events = await sent(acme.admin, hands, 150)
        here = await acme.admin.telemetry.QuerySeries(**within())
        assert not here.points and here.freshness.HasField("complete_to")
        name = hands.url.rpartition("/")[2].partition("?")[0]
        ask(
            stack.clickhouse_url,
            f"INSERT INTO events_hourly SELECT * FROM {name}.events_hourly"  # noqa: S608
            f" WHERE org_id = toUUID('{acme.id}')",
        )
        step = TelemetryStep.TELEMETRY_STEP_HOUR
        there = await acme.admin.telemetry.QuerySeries(**within(), step=step)
        assert sum(point.events for point in there.points) == len(events)


async def test_connections_to_the_store_end_with_the_process(settings: Settings) -> None:
    """What a server opened is closed when it stops."""
    async with open_core(settings, "app") as core:
        deadline = asyncio.get_running_loop().time() + 20
        await core.analytics.query("SELECT 1", {}, deadline=deadline, rows_max=1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        await core.analytics.query("SELECT 1", {}, deadline=deadline, rows_max=1)
