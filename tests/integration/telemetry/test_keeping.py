"""What could not be stored, what is compared with the store, what is watched, and who did what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from chimera.call import Call
from chimera.ids import new_id
from chimera.settings import Settings
from chimera.telemetry import tail
from chimera.telemetry.drain import TRIES_MAX, drain
from chimera.telemetry.events import execution_events, freeze
from chimera.telemetry.reconcile import reconcile
from chimera.telemetry.summaries import (
    REFRESH_USER_SUMMARIES,
    purge_receipts,
    refresh_user_summaries,
)
from chimera.telemetry.tail import Tail
from chimera.v1 import telemetry_pb2_grpc
from chimera.v1.campaigns_pb2 import CampaignPlan
from chimera.v1.telemetry_pb2 import (
    EventBatch,
    EventColumns,
    EventFilter,
    TelemetryEvent,
    TextColumn,
    WatchEventsRequest,
    WatchEventsResponse,
)
from tests.integration.telemetry.buffer import Producer, ask, run_sql, some_executions
from tests.integration.telemetry.conftest import Hands
from tests.integration.telemetry.sending import (
    in_columns,
    in_rows,
    record,
    some_events,
    within,
)
from tests.support.campaigns import secret_template
from tests.support.processes import eventually
from tests.support.statements import plain
from tests.support.world import Person, Refused, World


@pytest.fixture
def settings(stored_settings: Settings) -> Settings:
    return stored_settings


async def books(person: Person) -> tuple[int, int, int, int, int]:
    """(accepted, stored, dead, waiting, discarded), which must add up."""
    status = await person.telemetry.GetIngestStatus()
    assert status.accepted == status.stored + status.dead_lettered + status.waiting
    return (
        status.accepted,
        status.stored,
        status.dead_lettered,
        status.waiting,
        status.discarded,
    )


async def test_a_dead_event_is_put_back_once_it_is_fit(
    world: World, hands: Hands, database_url: str
) -> None:
    """Its campaign was hidden from the sender; whoever may manage telemetry vouches for it."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    campaign_id = str(uuid4())
    events = [TelemetryEvent(event_type="late", campaign_id=campaign_id), TelemetryEvent()]
    await record(olivia, in_rows(events))
    letters = (await acme.admin.telemetry.ListDeadLetters()).dead_letters
    by_reason = {letter.reason.partition(":")[0]: letter for letter in letters}
    assert by_reason.keys() == {"campaign_id", "event_type"}
    assert by_reason["campaign_id"].event.user_id == olivia.user_id
    assert by_reason["campaign_id"].event_index == 0

    good = [by_reason["campaign_id"].id]
    both = [letter.id for letter in letters]
    with pytest.raises(Refused) as refused:
        await acme.admin.telemetry.RequeueDeadLetters(dead_letter_ids=both)
    assert (refused.value.code, refused.value.reason) == (
        "FAILED_PRECONDITION",
        "DEAD_LETTER_UNUSABLE",
    )
    assert await books(acme.admin) == (2, 0, 2, 0, 0)
    request_id = str(uuid4())
    for _ in range(2):
        answer = await acme.admin.telemetry.RequeueDeadLetters(
            dead_letter_ids=good, request_id=request_id
        )
        assert answer.events == 1
    assert await books(acme.admin) == (2, 0, 1, 1, 0)
    await hands.drain()
    assert await books(acme.admin) == (2, 1, 1, 0, 0)
    rows = ask(hands.url, "SELECT toString(user_id), toString(campaign_id) FROM workload_events")
    assert rows == [(olivia.user_id, campaign_id)]

    await acme.admin.telemetry.DiscardDeadLetters(dead_letter_ids=[by_reason["event_type"].id])
    assert await books(acme.admin) == (2, 1, 1, 0, 1)
    for rpc in ("RequeueDeadLetters", "DiscardDeadLetters"):
        with pytest.raises(Refused) as refused:
            await getattr(acme.admin.telemetry, rpc)(dead_letter_ids=good)
        assert refused.value.reason == "DEAD_LETTER_NOT_FOUND"
    noted = run_sql(database_url, "SELECT facts ->> 'action' FROM audit.pending")
    assert {("dead_letter.requeue",), ("dead_letter.discard",)} <= set(noted)


async def test_a_batch_that_the_store_refused_is_put_back_whole(world: World, hands: Hands) -> None:
    acme, rival = await world.organisation("acme"), await world.organisation("rival")
    ask(hands.url, "ALTER TABLE workload_events ADD CONSTRAINT no CHECK event_type != 'odd'")
    await record(acme.admin, in_rows([TelemetryEvent(event_type="odd")] * 4))
    for _ in range(TRIES_MAX + 1):
        await drain(hands.core, hands.clickhouse)
    assert await books(acme.admin) == (4, 0, 4, 0, 0)
    (letter,) = (await acme.admin.telemetry.ListDeadLetters()).dead_letters
    assert letter.events == 4 and "no" in letter.reason and not letter.HasField("event_index")
    with pytest.raises(Refused):
        await rival.admin.telemetry.RequeueDeadLetters(dead_letter_ids=[letter.id])
    ask(hands.url, "ALTER TABLE workload_events DROP CONSTRAINT no")
    await acme.admin.telemetry.RequeueDeadLetters(dead_letter_ids=[letter.id])
    assert await hands.drain() == 4
    assert await books(acme.admin) == (4, 4, 0, 0, 0)


async def test_the_reconciler_vouches_for_what_it_found(
    world: World, hands: Hands, database_url: str
) -> None:
    """Nothing is verified before it is compared; the ledger by day and producer adds up."""
    acme = await world.organisation("acme")
    first = datetime.now(UTC)
    for producer in ("one", "two"):
        await record(acme.admin, in_rows(some_events(10), producer=producer))
        await record(acme.admin, in_columns(some_events(15), producer=producer))
    await record(acme.admin, in_rows([TelemetryEvent()], producer="two"))
    await hands.drain()
    series = await acme.admin.telemetry.QuerySeries(**within())
    assert not series.freshness.HasField("verified_to")

    report = await reconcile(hands.core, hands.clickhouse)
    assert (report.compared, report.missing, report.surplus) == (4, 0, 0)
    found = await acme.admin.telemetry.ListReconciliations()
    assert found.verified_to.ToDatetime(tzinfo=UTC) >= first
    assert [
        (r.producer, r.accepted, r.stored, r.dead_lettered, r.waiting, r.found)
        for r in found.reconciliations
    ] == [("two", 26, 25, 1, 0, 25), ("one", 25, 25, 0, 0, 25)]
    series = await acme.admin.telemetry.QuerySeries(**within())
    assert series.freshness.verified_to == found.verified_to

    await record(acme.admin, in_rows(some_events(5), producer="one"))
    waiting = run_sql(
        database_url, "SELECT min(created_at) FROM telemetry.batches WHERE state = 'waiting'"
    )
    report = await reconcile(hands.core, hands.clickhouse)
    assert report.compared == 0
    found = await acme.admin.telemetry.ListReconciliations()
    assert found.verified_to.ToDatetime(tzinfo=UTC) == waiting[0][0].astimezone(UTC)
    one = found.reconciliations[1]
    assert (one.producer, one.accepted, one.stored, one.waiting) == ("one", 30, 25, 5)


async def test_what_the_store_lost_is_sent_anew_and_counted_once(
    world: World, hands: Hands
) -> None:
    """A batch vanishes from the events after it was confirmed, and stays in the roll-ups."""
    acme = await world.organisation("acme")
    lost, kept = some_events(30, 1), some_events(20, 2)
    await record(acme.admin, in_rows(kept))
    await hands.drain()
    assert (await reconcile(hands.core, hands.clickhouse)).compared == 1
    await record(acme.admin, in_columns(lost))
    await hands.drain()
    ((batch_id,),) = ask(
        hands.url,
        "SELECT toString(batch_id) FROM workload_events GROUP BY batch_id HAVING count() = 30",
    )
    ask(hands.url, f"DELETE FROM workload_events WHERE batch_id = toUUID('{batch_id}')")  # noqa: S608
    report = await reconcile(hands.core, hands.clickhouse)
    assert (report.missing, report.resent) == (1, 1)
    assert (await books(acme.admin))[3] == 30

    assert await hands.drain() == 30
    report = await reconcile(hands.core, hands.clickhouse)
    assert (report.missing, report.compared) == (0, 1)
    assert report.rebuilt, "the roll-ups had counted it twice"
    for is_exact in (False, True):
        series = await acme.admin.telemetry.QuerySeries(**within(), is_exact=is_exact)
        assert sum(point.events for point in series.points) == 50
    metric = await acme.admin.telemetry.QuerySeries(**within(), metric="tokens")
    assert sum(p.events for p in metric.points) == sum("tokens" in e.metrics for e in lost + kept)
    activity = (await acme.admin.telemetry.ListUserActivity()).activities
    assert sum(one.events for one in activity) == 50
    (day,) = {r.day for r in (await acme.admin.telemetry.ListReconciliations()).reconciliations}
    assert day


async def test_duplicates_and_wrong_roll_ups_are_found_when_somebody_asks(
    world: World, hands: Hands, database_url: str
) -> None:
    """Rows doubled behind the product's back are reported; roll-ups are made right again."""
    acme = await world.organisation("acme")
    await record(acme.admin, in_rows(some_events(20)))
    await hands.drain()
    await reconcile(hands.core, hands.clickhouse)
    ask(hands.url, "INSERT INTO events_minute SELECT * FROM events_minute")
    assert (await reconcile(hands.core, hands.clickhouse)).rebuilt == []
    run_sql(
        database_url, "UPDATE telemetry.verified SET rollups_checked_at = now() - interval '25 h'"
    )
    report = await reconcile(hands.core, hands.clickhouse)
    assert report.rebuilt, "looked at once a day without anybody asking"
    assert (await reconcile(hands.core, hands.clickhouse)).rebuilt == []
    ask(hands.url, "INSERT INTO event_slices_daily SELECT * FROM event_slices_daily")
    await acme.admin.telemetry.ReconcileTelemetry()
    report = await reconcile(hands.core, hands.clickhouse)
    assert report.rebuilt and not report.surplus
    series = await acme.admin.telemetry.QuerySeries(**within())
    assert sum(point.events for point in series.points) == 20
    for table in (
        "metrics_daily",
        "user_activity",
        "event_slices_hourly WHERE dimension = 'event_category,provider'",
        "event_totals_daily",
        "metric_slice_totals_daily WHERE dimension = 'event_category'",
    ):
        ask(hands.url, f"DELETE FROM {table}{'' if 'WHERE' in table else ' WHERE 1'}")  # noqa: S608
        await acme.admin.telemetry.ReconcileTelemetry()
        assert (await reconcile(hands.core, hands.clickhouse)).rebuilt, table
    assert (await acme.admin.telemetry.ListUserActivity()).activities

    ask(hands.url, "INSERT INTO workload_events SELECT * FROM workload_events")
    await acme.admin.telemetry.ReconcileTelemetry()
    assert (await reconcile(hands.core, hands.clickhouse)).surplus == 1
    status = await acme.admin.telemetry.GetIngestStatus()
    found = await acme.admin.telemetry.ListReconciliations()
    assert found.reconciliations[0].surplus_batches == 1
    assert status.verified_to == found.verified_to
    (accepted_at,) = run_sql(database_url, "SELECT created_at FROM telemetry.batches")[0]
    assert status.verified_to.ToDatetime(tzinfo=UTC) <= accepted_at


class Watching:
    """A live tail and what it has told."""

    def __init__(self, person: Person, **fields: Any) -> None:
        self.items: AsyncIterator[WatchEventsResponse] = person.telemetry.WatchEvents(**fields)
        self.cursor = ""

    async def begun(self) -> None:
        first = await anext(self.items)
        assert not first.events
        self.cursor = first.cursor

    async def next(self, count: int) -> list[str]:
        """Ids of the next so many events."""
        found: list[str] = []
        async with asyncio.timeout(20):
            while len(found) < count:
                item = await anext(self.items)
                found += [event.event_id for event in item.events]
                self.cursor = item.cursor
        return found


async def test_a_watch_tells_what_is_accepted_and_goes_on_where_it_was(
    world: World, hands: Hands
) -> None:
    """In rows and columns, before the store has them; after a break, what came meanwhile, once."""
    acme, rival = await world.organisation("acme"), await world.organisation("rival")
    before, events, meanwhile = some_events(5, 1), some_events(1200, 2), some_events(30, 3)
    await record(acme.admin, in_rows(before))
    watching = Watching(acme.admin)
    async with aclosing(watching.items):
        await watching.begun()
        await record(rival.admin, in_rows(some_events(7)))
        await record(acme.admin, in_columns(events))
        assert await watching.next(500) == [e.event_id for e in events[:500]]
        half = watching.cursor
        assert await watching.next(700) == [e.event_id for e in events[500:]]
        await record(acme.admin, in_rows(meanwhile))
        assert await watching.next(30) == [e.event_id for e in meanwhile]
    await hands.drain()
    again = Watching(acme.admin, cursor=half)
    async with aclosing(again.items):
        await again.begun()
        rest = [e.event_id for e in (*events[500:], *meanwhile)]
        assert await again.next(730) == rest
        late = some_events(3, 4)
        await record(acme.admin, in_columns(late))
        assert await again.next(3) == [e.event_id for e in late]
    with pytest.raises(Refused) as refused:
        await anext(rival.admin.telemetry.WatchEvents(cursor=half))
    assert refused.value.reason == "CURSOR_INVALID"


async def test_a_watch_waits_for_what_began_before_and_commits_later(
    world: World, hands: Hands
) -> None:
    """A batch that was written first and committed last is told, and nothing is told before it
    that would put the cursor past it."""
    acme = await world.organisation("acme")
    watching = Watching(acme.admin)
    early = Producer(hands.core, acme.id)
    async with aclosing(watching.items):
        await watching.begun()
        async with hands.core.db.begin(early.call()) as tx:
            events = execution_events(early.run, some_executions(0, 3))
            # Without its counters, whose row may be that of the sender's connection as well.
            insert = plain(
                "INSERT INTO telemetry.batches (batch_id, org_id, producer, body, events)"
                " VALUES (%(batch_id)s, %(org_id)s, 'engine', %(body)s, 3)"
            )
            await tx.run(insert, batch_id=new_id(), org_id=acme.id, body=freeze(events))
            later = some_events(4)
            await record(acme.admin, in_rows(later))
        told = await watching.next(7)
    assert set(told) == {event.event_id for event in (*events, *later)}
    assert len(told) == 7


async def test_a_watch_tells_only_what_was_asked_for_and_may_be_seen(
    world: World, hands: Hands
) -> None:
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    chosen = EventFilter(event_types=["llm.call"], models=["guard-1"])
    everybodys, own = Watching(acme.admin, filter=chosen), Watching(olivia)
    async with aclosing(everybodys.items), aclosing(own.items):
        await everybodys.begun()
        await own.begun()
        theirs, hers = some_events(60, 1), some_events(60, 2)
        await record(acme.admin, in_rows(theirs))
        await record(olivia, in_rows(hers))
        wanted = [
            event.event_id
            for event in (*theirs, *hers)
            if event.event_type == "llm.call" and event.dimensions["model"] == "guard-1"
        ]
        assert await everybodys.next(len(wanted)) == wanted
        assert await own.next(60) == [event.event_id for event in hers]


async def test_events_too_large_for_one_answer_come_in_several(world: World, hands: Hands) -> None:
    """A batch of 20 kB on its way in is 10 MB on its way out, watched or listed."""
    acme = await world.organisation("acme")
    columns = EventColumns(count=500, event_types=TextColumn(dictionary=["x"]))
    for number in range(20):
        columns.dimensions.add(name=f"d{number}", values=TextColumn(dictionary=["a" * 1000]))
    batch = EventBatch(producer="test", batch_id=str(uuid4()), columns=columns)
    watching = Watching(acme.admin)
    async with aclosing(watching.items):
        await watching.begun()
        await record(acme.admin, batch)
        told = await watching.next(1)
        assert 0 < len(told) < 500
        half = watching.cursor
        told += await watching.next(500 - len(told))
    assert len(told) == len(set(told)) == 500
    again = Watching(acme.admin, cursor=half)
    async with aclosing(again.items):
        await again.begun()
        assert told[0] not in await again.next(1)

    await hands.drain()
    listed, token = [], ""
    while not listed or token:
        page = await acme.admin.telemetry.ListEvents(page_size=500, page_token=token)
        assert page.ByteSize() < 4_000_000
        listed += [event.event_id for event in page.events]
        token = page.next_page_token
    assert sorted(listed) == sorted(told)


async def test_a_watch_ends_when_its_campaign_is_made_private(
    world: World, hands: Hands, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For those to whom it is private; it is asked about again while the watch goes on."""
    monkeypatch.setattr(tail, "SCOPE_KNOWN_S", 0.0)
    acme = await world.organisation("acme")
    olivia, mallory = await acme.person("olivia"), await acme.person("mallory")
    made = await olivia.campaigns.CreateCampaign(name="ours", plan=CampaignPlan())
    chosen = EventFilter(campaign_ids=[made.campaign.id.upper()])
    hers, his = Watching(olivia, filter=chosen), Watching(mallory, filter=chosen)
    async with aclosing(hers.items), aclosing(his.items):
        await hers.begun()
        await his.begun()
        for seed in (1, 2):
            events = some_events(3, seed, campaign_id=made.campaign.id)
            await record(olivia, in_rows(events))
            assert await hers.next(3) == [event.event_id for event in events]
            if seed == 1:
                assert await his.next(3) == [event.event_id for event in events]
                run_sql(database_url, "UPDATE campaigns.campaigns SET visibility = 'private'")
        with pytest.raises(Refused) as refused:
            await his.next(1)
    assert refused.value.reason == "CAMPAIGN_NOT_VISIBLE"


async def test_what_watches_share_is_bounded_and_let_go(
    world: World, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many events are kept for the next watch, and none when the last one of an organisation ends."""
    monkeypatch.setattr(tail, "THAWED_MAX", 25)
    acme, rival = await world.organisation("acme"), await world.organisation("rival")
    tails: set[Tail] = set()
    told = Tail.watch

    def watch(self: Tail, call: Call, request: WatchEventsRequest) -> Any:
        tails.add(self)
        return told(self, call, request)

    monkeypatch.setattr(Tail, "watch", watch)
    calls, watches = [], []
    for person in (acme.admin, acme.admin, rival.admin):
        stub = telemetry_pb2_grpc.TelemetryServiceStub(person.channel)
        calls.append(stub.WatchEvents(WatchEventsRequest(), metadata=person.metadata()))
        watches.append(Watching(person))
        watches[-1].items = aiter(calls[-1])
        await watches[-1].begun()

    def kept() -> dict[str, int]:
        (one,) = tails
        return {thawed.org_id: thawed.count for thawed in one._kept.values()}

    for seed, count in ((1, 10), (2, 10), (3, 40), (4, 12)):
        events = some_events(count, seed)
        await record(acme.admin, in_columns(events))
        for one in watches[:2]:
            assert await one.next(count) == [event.event_id for event in events]
    await record(rival.admin, in_rows(some_events(3)))
    await watches[2].next(3)
    assert kept() == {acme.id: 12, rival.id: 3}
    for call in calls[:2]:
        call.cancel()

    async def let_go() -> bool:
        return kept() == {rival.id: 3}

    await eventually(let_go)
    calls[2].cancel()


async def test_summaries_are_what_each_person_has(
    world: World, hands: Hands, database_url: str
) -> None:
    """Of the caller's organisation alone, and of the caller alone without the right to more."""
    acme, rival = await world.organisation("acme"), await world.organisation("rival")
    olivia = await acme.person("olivia")
    await secret_template(olivia)
    for name in ("a", "b"):
        await olivia.campaigns.CreateCampaign(name=name, plan=CampaignPlan())
    await refresh_user_summaries(hands.core)
    await asyncio.gather(*(refresh_user_summaries(hands.core) for _ in range(2)))

    answer = await acme.admin.telemetry.ListUserSummaries(page_size=1)
    rest = await acme.admin.telemetry.ListUserSummaries(
        page_size=1, page_token=answer.next_page_token
    )
    people = {summary.user_id: summary for summary in (*answer.summaries, *rest.summaries)}
    assert people.keys() == {olivia.user_id, acme.admin.user_id}
    hers = people[olivia.user_id]
    assert (hers.campaigns, hers.templates, hers.executions, hers.ratings) == (2, 1, 0, 0)
    assert hers.HasField("last_activity_at") and answer.HasField("refreshed_at")
    # Made anew beside its readers: who asks meanwhile is answered, with what was there.
    await olivia.campaigns.CreateCampaign(name="c", plan=CampaignPlan())
    async with hands.core.db.begin(Call.by_worker("test")) as tx:
        await tx.run(REFRESH_USER_SUMMARIES)
        own = (await olivia.telemetry.ListUserSummaries()).summaries
        assert [summary.campaigns for summary in own] == [2]
    own = (await olivia.telemetry.ListUserSummaries()).summaries
    assert [summary.campaigns for summary in own] == [3]
    assert [summary.user_id for summary in own] == [olivia.user_id]
    for person in (olivia, rival.admin):
        asked = await person.telemetry.ListUserSummaries(user_id=acme.admin.user_id)
        assert not asked.summaries


async def test_receipts_go_after_a_week(world: World, hands: Hands, database_url: str) -> None:
    acme = await world.organisation("acme")
    batch = in_rows(some_events(1))
    await record(acme.admin, batch)
    await purge_receipts(hands.core)
    assert (await record(acme.admin, batch)).is_repeated
    run_sql(database_url, "UPDATE telemetry.receipts SET created_at = now() - interval '9 days'")
    await purge_receipts(hands.core)
    assert run_sql(database_url, "SELECT count(*) FROM telemetry.receipts") == [(0,)]
