"""The telemetry RPCs over a real channel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from chimera.clickhouse import ClickHouse
from chimera.core import Core
from chimera.settings import Settings
from chimera.telemetry.drain import drain
from chimera.telemetry.events import RunFacts
from chimera.telemetry.reconcile import reconcile
from tests.integration.telemetry.buffer import Producer, open_worker, recount
from tests.support.world import Person, Refused, World


@pytest.fixture
def settings(settings: Settings, clickhouse_url: str) -> Settings:
    return settings.model_copy(update={"clickhouse_url": type(settings.redis_url)(clickhouse_url)})


@pytest.fixture
async def worker(settings: Settings, clickhouse_url: str) -> AsyncIterator[tuple[Core, ClickHouse]]:
    async with open_worker(settings, clickhouse_url) as opened:
        yield opened


def last_hours(hours: int = 3) -> dict[str, Timestamp]:
    start, end = Timestamp(), Timestamp()
    start.FromDatetime(datetime.now(UTC) - timedelta(hours=hours))
    end.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    return {"from": start, "to": end}


async def test_each_organisation_sees_its_own_events_only(
    world: World, worker: tuple[Core, ClickHouse]
) -> None:
    """Both send events of a run with the same id; neither sees the other's, however it asks."""
    core, clickhouse = worker
    acme, rival = await world.organisation("acme"), await world.organisation("rival")
    run = RunFacts(*(str(Producer(core).org_id) for _ in range(4)))
    ours, theirs = Producer(core, acme.id, run), Producer(core, rival.id, run)
    await ours.flush(5)
    await theirs.flush(7)
    await drain(core, clickhouse)

    for person, producer in ((acme.admin, ours), (rival.admin, theirs)):
        listed = await person.telemetry.ListEvents(workload_id=run.run_id)
        assert len(listed.events) == len(producer.recorded)
        series = await person.telemetry.GetExecutionSeries(**last_hours())
        assert sum(point.executions for point in series.points) == len(producer.recorded)
        status = await person.telemetry.GetIngestStatus()
        assert (status.accepted, status.stored) == (len(producer.recorded),) * 2
    nothing = await acme.admin.telemetry.ListEvents(workload_id="' OR 1 = 1 --")
    assert not nothing.events


async def test_the_series_is_complete_up_to_what_still_waits(
    world: World, worker: tuple[Core, ClickHouse]
) -> None:
    """Points equal a recount; a batch that waits moves `complete_to` back before it."""
    core, clickhouse = worker
    acme = await world.organisation("acme")
    producer = Producer(core, acme.id)
    await producer.flush(64)
    await drain(core, clickhouse)
    before = datetime.now(UTC)
    series = await acme.admin.telemetry.GetExecutionSeries(**last_hours())

    assert series.complete_to.ToDatetime(tzinfo=UTC) >= before - timedelta(seconds=1)
    expected = recount([producer])
    assert [
        (point.hour.ToDatetime(), point.executions, point.scored, point.successes)
        for point in series.points
    ] == [(row[2], row[3], row[4], row[5]) for row in expected]
    for point, row in zip(series.points, expected, strict=True):
        assert point.latency_ms_avg == pytest.approx(row[6] / row[4])
        assert (point.latency_ms_min, point.latency_ms_max) == (row[7], row[8])
        assert point.latency_ms_min <= point.latency_ms_p95 <= point.latency_ms_max
        assert float(point.cost_usd) == pytest.approx(float(row[9]))

    await producer.flush(8)
    waiting = await acme.admin.telemetry.GetIngestStatus()
    series = await acme.admin.telemetry.GetExecutionSeries(**last_hours())
    assert waiting.waiting == 8
    assert series.complete_to == series.freshness.complete_to == waiting.oldest_waiting_at
    assert not series.freshness.HasField("verified_to")
    await drain(core, clickhouse)
    await reconcile(core, clickhouse)
    series = await acme.admin.telemetry.GetExecutionSeries(**last_hours())
    waited_from = waiting.oldest_waiting_at.ToDatetime()
    assert series.freshness.verified_to.ToDatetime() > waited_from


async def test_events_come_newest_first_and_whole(
    world: World, worker: tuple[Core, ClickHouse]
) -> None:
    core, clickhouse = worker
    acme = await world.organisation("acme")
    producer = Producer(core, acme.id)
    await producer.flush(40)
    await drain(core, clickhouse)

    listed = (await acme.admin.telemetry.ListEvents(page_size=10)).events
    newest = sorted(producer.recorded, key=lambda one: one.started_at, reverse=True)[:10]
    assert [event.timestamp.ToMilliseconds() for event in listed] == [
        int(one.started_at.timestamp() * 1000) for one in newest
    ]
    event = listed[0]
    assert event.campaign_id == producer.run.campaign_id
    assert event.user_id == producer.run.user_id
    assert event.metrics["input_tokens"] == 120
    assert event.dimensions["technique"] == "base64"
    assert not (await acme.admin.telemetry.ListEvents(event_type="another.type")).events


async def test_a_range_that_is_none_is_refused(world: World) -> None:
    """It goes backward, or one of its ends is in no calendar."""
    acme = await world.organisation("acme")
    hours = last_hours()
    ranges = [(hours["to"], hours["from"])]
    for no_moment in (Timestamp(seconds=5, nanos=2_000_000_000), Timestamp(seconds=2**62)):
        ranges += [(no_moment, hours["to"]), (hours["from"], no_moment)]
    for rpc in ("GetExecutionSeries", "QuerySeries", "QueryTop", "ListEvents"):
        # Of a list, the range ends where it likes: a backward one is empty.
        for start, end in ranges[rpc == "ListEvents" :]:
            with pytest.raises(Refused) as refused:
                await getattr(acme.admin.telemetry, rpc)(**{"from": start, "to": end})
            assert (refused.value.code, refused.value.reason) == (
                "INVALID_ARGUMENT",
                "FIELD_INVALID",
            ), (rpc, start, end)


@pytest.mark.parametrize("clickhouse_url", [""])
async def test_without_a_column_store_the_answer_says_so(world: World, clickhouse_url: str) -> None:
    """Reading is refused clearly; the state of the buffer can still be seen."""
    acme = await world.organisation("acme")
    person: Person = acme.admin
    with pytest.raises(Refused) as refused:
        await person.telemetry.ListEvents()
    assert (refused.value.code, refused.value.reason) == ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")
    assert "CHIMERA_CLICKHOUSE_URL" in refused.value.message
    assert (await person.telemetry.GetIngestStatus()).accepted == 0
