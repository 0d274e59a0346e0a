"""Batches over gRPC: what is taken, what is refused and why, and never anything twice."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from chimera.call import NOBODY
from chimera.clickhouse import ClickHouse
from chimera.settings import Settings
from chimera.telemetry import service
from chimera.telemetry.drain import drain
from chimera.telemetry.events import freeze
from chimera.telemetry.frozen import pack
from chimera.telemetry.rollups import differing_days
from chimera.telemetry.rows import read_rows, read_sound
from chimera.telemetry.sender import Sender
from chimera.v1.campaigns_pb2 import CampaignPlan
from chimera.v1.options_pb2 import Permission
from chimera.v1.telemetry_pb2 import (
    DimensionColumn,
    EventBatch,
    EventColumns,
    MetricColumn,
    TelemetryEvent,
    TextColumn,
)
from tests.integration.telemetry.buffer import ask, run_sql
from tests.integration.telemetry.conftest import Hands
from tests.integration.telemetry.sending import (
    combinations,
    in_columns,
    in_rows,
    record,
    some_events,
    stamp,
    stream,
    upload,
)
from tests.support.processes import eventually
from tests.support.world import Refused, World

ALL = """
    SELECT event_id, timestamp, event_type, event_category, workload_id, campaign_id, user_id,
           session_id, correlation_id, arraySort(metrics.name), metrics.value, metrics.unit,
           arraySort(mapFilter((k, v) -> v != '', dimensions)::Array(Tuple(String, String))),
           payload, latency_ms, cost
      FROM workload_events WHERE org_id = toUUID('{}') ORDER BY event_id
"""


@pytest.fixture
def settings(stored_settings: Settings) -> Settings:
    return stored_settings


async def test_rows_and_columns_store_the_same(world: World, hands: Hands) -> None:
    """One organisation sends rows, another the same events as columns."""
    events = some_events(300)
    stored = []
    for name, form in (("acme", in_rows), ("globex", in_columns)):
        org = await world.organisation(name)
        receipt = await record(org.admin, form(events))
        assert (receipt.accepted, receipt.dead_lettered, receipt.refused) == (300, 0, 0)
        assert await hands.drain() == 300
        rows = ask(hands.url, ALL.format(org.id))
        assert {row[6] for row in rows} == {type(rows[0][6])(org.admin.user_id)}, "the sender's"
        stored.append([(*row[:6], *row[7:]) for row in rows])
        status = await org.admin.telemetry.GetIngestStatus()
        assert (status.accepted, status.stored, status.waiting) == (300, 300, 0)
    assert len(stored[0]) == 300
    assert stored[0] == stored[1]


async def test_a_batch_again_is_answered_and_not_taken_again(world: World, hands: Hands) -> None:
    """Ten at a time, and later, in either form; with other content it is refused."""
    acme = await world.organisation("acme")
    for form in (in_rows, in_columns):
        batch = form(some_events(20))
        receipts = await asyncio.gather(*(record(acme.admin, batch) for _ in range(10)))
        assert sorted(receipt.is_repeated for receipt in receipts) == [False] + [True] * 9
        await hands.drain()
        assert (await record(acme.admin, batch)).is_repeated
        with pytest.raises(Refused) as refused:
            await record(acme.admin, form(some_events(20, seed=1), batch.batch_id))
        assert (refused.value.code, refused.value.reason) == ("ALREADY_EXISTS", "BATCH_ID_REUSED")
    assert await hands.drain() == 0
    assert ask(hands.url, "SELECT count(), uniqExact(batch_id) FROM workload_events") == [(40, 2)]
    assert (await acme.admin.telemetry.GetIngestStatus()).accepted == 40


async def test_a_repetition_is_known_when_it_would_be_refused_by_now(
    world: World, database_url: str
) -> None:
    """The answer to a retry depends on the receipt, not on what the sender sees by then: a campaign
    that is gone makes a new batch unfit, and an old one none the less accepted."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    made = await olivia.campaigns.CreateCampaign(name="ours", plan=CampaignPlan())
    batch = in_columns(some_events(3, campaign_id=made.campaign.id))
    assert (await record(olivia, batch)).accepted == 3
    run_sql(database_url, "UPDATE campaigns.campaigns SET visibility = 'private'")
    ada = await acme.person("ada")
    assert (await record(ada, batch)).is_repeated
    with pytest.raises(Refused) as refused:
        await record(ada, in_columns(some_events(3, campaign_id=made.campaign.id)))
    assert refused.value.message.startswith("campaign_ids:")


def bad_events() -> dict[str, TelemetryEvent]:
    """By the field at fault."""
    now = datetime.now(UTC)
    nan = TelemetryEvent(event_type="x", metrics={"a": float("nan")})
    return {
        "event_id": TelemetryEvent(event_type="x", event_id="7"),
        "event_type": TelemetryEvent(),
        "event_category": TelemetryEvent(event_type="x", event_category="c" * 101),
        "timestamp": TelemetryEvent(event_type="x", timestamp=stamp(now + timedelta(minutes=10))),
        "campaign_id": TelemetryEvent(event_type="x", campaign_id="no id"),
        "user_id": TelemetryEvent(event_type="x", user_id="nobody"),
        "workload_id": TelemetryEvent(event_type="x", workload_id="w" * 201),
        "session_id": TelemetryEvent(event_type="x", session_id="s" * 201),
        "metrics": nan,
        "dimensions": TelemetryEvent(event_type="x", dimensions={"": "a"}),
        "latency_ms": TelemetryEvent(event_type="x", latency_ms=-1),
        "cost_usd": TelemetryEvent(event_type="x", cost_usd="1e3"),
        "payload": TelemetryEvent(event_type="x", payload="p" * 32_001),
    }


def test_a_sound_batch_is_frozen_as_its_events_one_by_one() -> None:
    """Byte for byte; and whatever one by one would be refused is left to them."""
    user_id = str(uuid4())
    for is_relay in (False, True):
        sender = Sender(user_id, is_relay, "test", str(uuid4()))
        named = some_events(40, user_id=user_id.upper(), campaign_id=str(uuid4()).upper())
        plain = [TelemetryEvent(event_type="x", metrics={"a": 1.5, "b": 2})] * 3
        for events in (some_events(200), named, plain, [TelemetryEvent(event_type="x")], named[:1]):
            sound = read_sound(events, sender)
            good, bad = read_rows(events, sender)
            assert sound is not None and not bad
            assert pack(sound.columns) == freeze(list(good.values()))
            assert sound.campaign_ids == {event.campaign_id for event in good.values()} - {NOBODY}
        for field, event in bad_events().items():
            assert read_rows([event], sender)[1], field
            assert read_sound([plain[0], event], sender) is None, field
        twice = TelemetryEvent(event_type="x", event_id=user_id)
        assert read_sound([twice, twice], sender) is None
        assert read_sound([twice, plain[0]], sender) is None, "one id is made and one given"


async def test_each_bad_event_is_named_and_the_good_ones_are_taken(
    world: World, hands: Hands
) -> None:
    """Index and field of each; they wait in the dead letters and are counted."""
    acme = await world.organisation("acme")
    bad = bad_events()
    events = [event for wrong in bad.values() for event in (TelemetryEvent(event_type="ok"), wrong)]
    twice = str(uuid4())
    events += [TelemetryEvent(event_type="ok", event_id=twice) for _ in range(2)]
    receipt = await record(acme.admin, in_rows(events))

    assert [(error.index, error.field) for error in receipt.errors] == [
        *((2 * place + 1, field) for place, field in enumerate(bad)),
        (len(events) - 1, "event_id"),
    ]
    assert all(error.is_kept and error.message for error in receipt.errors)
    good = len(bad) + 1
    assert (receipt.accepted, receipt.dead_lettered, receipt.refused) == (good, len(bad) + 1, 0)
    assert await hands.drain() == good
    status = await acme.admin.telemetry.GetIngestStatus()
    assert (status.accepted, status.stored, status.dead_lettered) == (
        2 * good,
        good,
        len(bad) + 1,
    )


NOW_MS = int(datetime.now(UTC).timestamp() * 1000)
# Sixty texts of a thousand characters, a hundred thousand times: 60 kB here and 6 GB written out.
LONG = [
    DimensionColumn(name=f"d{number}", values=TextColumn(dictionary=["x" * 1000]))
    for number in range(60)
]
UNFIT_COLUMNS: list[tuple[dict[str, Any], str]] = [
    ({"event_types": TextColumn()}, "event_types[0]"),
    ({"event_types": TextColumn(dictionary=["a", ""], codes=[0, 1])}, "event_types[1]"),
    ({"event_types": TextColumn(dictionary=["a", "b"], codes=[0, 2])}, "event_types.codes[1]"),
    (
        {"event_types": TextColumn(dictionary=["a", "execution.recorded"], codes=[0, 1])},
        "event_types[1]",
    ),
    ({"event_types": TextColumn(dictionary=["judgement.recorded"])}, "event_types[0]"),
    ({"workload_ids": TextColumn(dictionary=["a"], codes=[0])}, "workload_ids.codes"),
    ({"timestamps_ms": [1]}, "timestamps_ms"),
    ({"timestamps_ms": [1, 2]}, "timestamps_ms[0]"),
    ({"timestamps_ms": [NOW_MS, NOW_MS + 10**6]}, "timestamps_ms[1]"),
    ({"event_ids": bytes(16)}, "event_ids"),
    ({"event_ids": bytes(32)}, "event_ids[1]"),
    ({"user_ids": TextColumn(dictionary=["me"])}, "user_ids"),
    ({"campaign_ids": TextColumn(dictionary=["it"])}, "campaign_ids"),
    ({"costs_picousd": [1, -1]}, "costs_picousd[1]"),
    ({"payloads": ["a", "b" * 32_001]}, "payloads[1]"),
    ({"metrics": [MetricColumn(name="m", values=[1, float("inf")])]}, "metrics[m].values[1]"),
    ({"dimensions": LONG, "count": 100_000}, "columns"),
]


async def test_columns_are_taken_whole_or_refused(world: World) -> None:
    """What is wrong is named, with the first event at fault, and nothing of any of them is accepted."""
    acme = await world.organisation("acme")
    for columns, path in UNFIT_COLUMNS:
        given = {"count": 2, "event_types": TextColumn(dictionary=["x"]), **columns}
        batch = EventBatch(producer="p", batch_id=str(uuid4()), columns=EventColumns(**given))
        with pytest.raises(Refused) as refused:
            await record(acme.admin, batch)
        assert (refused.value.code, refused.value.reason) == ("INVALID_ARGUMENT", "EVENT_INVALID")
        bad = [detail for detail in refused.value.details if type(detail).__name__ == "BadRequest"]
        assert [one.field for one in bad[0].field_violations] == [path]
        assert refused.value.message.startswith(f"{path.rstrip('[01]')}:"), columns
    assert (await acme.admin.telemetry.GetIngestStatus()).accepted == 0


async def test_nobody_speaks_for_others_or_about_hidden_campaigns(
    world: World, hands: Hands
) -> None:
    """A user's events are the user's; a campaign must be one the user sees. Relays may say more."""
    acme = await world.organisation("acme")
    olivia, rival = await acme.person("olivia"), await world.organisation("rival")
    made = await rival.admin.campaigns.CreateCampaign(name="theirs", plan=CampaignPlan())
    own = await olivia.campaigns.CreateCampaign(name="ours", plan=CampaignPlan())
    events = [
        TelemetryEvent(event_type="x", campaign_id=own.campaign.id),
        TelemetryEvent(event_type="x", campaign_id=made.campaign.id),
        TelemetryEvent(event_type="x", user_id=acme.admin.user_id),
        TelemetryEvent(event_type="x", user_id=olivia.user_id),
    ]
    receipt = await record(olivia, in_rows(events))
    assert [(error.index, error.field) for error in receipt.errors] == [
        (1, "campaign_id"),
        (2, "user_id"),
    ]
    assert receipt.accepted == 2
    hidden = EventColumns(
        count=1,
        event_types=TextColumn(dictionary=["x"]),
        campaign_ids=TextColumn(dictionary=[made.campaign.id]),
    )
    with pytest.raises(Refused) as refused:
        await record(olivia, EventBatch(producer="p", batch_id=str(uuid4()), columns=hidden))
    assert refused.value.message.startswith("campaign_ids:")

    relayed = [TelemetryEvent(event_type="x", user_id=olivia.user_id) for _ in range(3)]
    assert (await record(acme.admin, in_rows(relayed))).accepted == 3
    await hands.drain()
    assert ask(
        hands.url, "SELECT DISTINCT toString(user_id), toString(org_id) FROM workload_events"
    ) == [(olivia.user_id, acme.id)]


async def test_made_ids_are_the_same_for_the_same_batch(world: World, hands: Hands) -> None:
    """Rows and columns without ids get theirs from producer and batch."""
    batch_id, ids = str(uuid4()), []
    for name, form in (("acme", "rows"), ("globex", "columns")):
        org = await world.organisation(name)
        batch = in_rows([TelemetryEvent(event_type="x")] * 3, batch_id)
        if form == "columns":
            columns = EventColumns(count=3, event_types=TextColumn(dictionary=["x"]))
            batch = EventBatch(producer="test", batch_id=batch_id, columns=columns)
        await record(org.admin, batch)
        await hands.drain()
        ids.append(ask(hands.url, ALL.format(org.id)))
    made = [[row[0] for row in rows] for rows in ids]
    assert len(set(made[0])) == 3
    assert made[0] == made[1]
    assert {event_id.version for event_id in made[0]} == {8}


async def test_streams_acknowledge_each_batch(world: World, hands: Hands) -> None:
    """In order, each durable; an upload answers for all at its end."""
    acme = await world.organisation("acme")
    batches = [in_rows(some_events(5, seed)) for seed in range(8)]
    receipts = [receipt async for receipt in stream(acme.admin, batches)]
    assert [receipt.batch_id for receipt in receipts] == [batch.batch_id for batch in batches]
    again = await upload(acme.admin, [*batches, in_columns(some_events(7, 9))])
    assert [receipt.is_repeated for receipt in again] == [True] * 8 + [False]
    assert await hands.drain() == 47


async def test_what_came_before_a_refusal_in_a_stream_stands(world: World, hands: Hands) -> None:
    acme = await world.organisation("acme")
    batches = [in_rows(some_events(5)), in_rows([]), in_rows(some_events(5, 2))]
    taken = []
    with pytest.raises(Refused) as refused:
        async for receipt in stream(acme.admin, batches):
            taken.append(receipt.accepted)  # noqa: PERF401 - what came before the refusal counts
    assert refused.value.reason == "BATCH_TOO_LARGE"
    assert taken == [5]
    assert await hands.drain() == 5


async def test_what_the_roll_ups_make_of_a_batch_is_bounded(world: World, hands: Hands) -> None:
    """A small message can ask for a million roll-ups. It is stored piece by piece by a store with little
    memory, others' events with it, and is one batch to its sender; beyond reason it is refused."""
    acme, rival = await world.organisation("acme"), await world.organisation("rival")
    little = ClickHouse(f"{hands.url}{'&' if '?' in hands.url else '?'}max_memory_usage=450000000")
    heavy = combinations(400, 10)
    events = some_events(200)
    assert (await record(acme.admin, heavy)).accepted == 400
    again = await record(acme.admin, heavy)
    assert (again.accepted, again.is_repeated) == (400, True)
    await record(acme.admin, in_columns(events))
    await record(rival.admin, in_columns(events))

    stored = 0
    while more := await drain(hands.core, little):
        stored += more
    await little.close()
    assert stored == 800
    rows = []
    for org, count in ((acme, 600), (rival, 200)):
        status = await org.admin.telemetry.GetIngestStatus()
        assert (status.accepted, status.stored, status.waiting) == (count, count, 0)
        assert await differing_days(hands.clickhouse, org.id) == []
        rows.append([(*row[:6], *row[7:]) for row in ask(hands.url, ALL.format(org.id))])
    cut = {row[4]: row for row in rows[0] if row[2] == "x"}
    assert [row for row in rows[0] if row[2] != "x"] == rows[1]
    for place, workload_id in enumerate(heavy.columns.workload_ids.dictionary):
        row = cut.pop(workload_id)
        assert row[3] == f"c{place}"
        assert row[8:10] == (sorted(f"m{n}" for n in range(10)), [float(place)] * 10)
        assert dict(row[11])["model"] == f"model{place}"
    assert not cut

    with pytest.raises(Refused) as refused:
        await record(acme.admin, combinations(2_000, 60))
    assert (refused.value.code, refused.value.reason) == ("INVALID_ARGUMENT", "BATCH_TOO_LARGE")


async def test_nobody_sends_what_the_product_tells_of_itself(world: World, hands: Hands) -> None:
    """Or anybody could write executions, and what they cost, beside those of the engine."""
    acme = await world.organisation("acme")
    mallory = await acme.person("mallory")
    events = [
        TelemetryEvent(event_type=event_type, workload_id="run", cost_usd="99999999")
        for event_type in ("execution.recorded", "judgement.recorded")
    ]
    for sender in (mallory, acme.admin):
        receipt = await record(sender, in_rows([*events, TelemetryEvent(event_type="mine")]))
        assert [(error.index, error.field) for error in receipt.errors] == [
            (0, "event_type"),
            (1, "event_type"),
        ]
        assert receipt.accepted == 1
    for letter in (await acme.admin.telemetry.ListDeadLetters()).dead_letters:
        with pytest.raises(Refused) as refused:
            await acme.admin.telemetry.RequeueDeadLetters(dead_letter_ids=[letter.id])
        assert refused.value.reason == "DEAD_LETTER_UNUSABLE"
    await hands.drain()
    assert ask(hands.url, "SELECT DISTINCT event_type FROM workload_events") == [("mine",)]


async def test_all_that_is_unfit_is_told_by_its_place(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the first hundred without the reason, also when it is asked again; of an upload as far as
    its answer has room, and numbers in any case."""
    acme = await world.organisation("acme")
    fit, unfit = TelemetryEvent(event_type="x"), TelemetryEvent()
    batch = in_rows([fit if number % 2 else unfit for number in range(3000)])
    for _ in range(2):
        receipt = await record(acme.admin, batch)
        assert (receipt.accepted, receipt.dead_lettered, receipt.refused) == (1500, 1000, 500)
        assert len(receipt.errors) == 100
        assert list(receipt.unfit_indexes) == list(range(0, 3000, 2))
    monkeypatch.setattr(service, "ANSWER_BYTES", receipt.ByteSize() + 10)
    first, later = await upload(acme.admin, [batch, in_rows([fit, unfit])])
    assert (len(first.errors), len(first.unfit_indexes)) == (100, 1500)
    assert (later.accepted, later.dead_lettered) == (1, 1)
    assert not later.errors and not later.unfit_indexes


async def test_large_dead_letters_are_cut_listed_and_stay_unfit(
    world: World, database_url: str
) -> None:
    """By field, to one character more than may be; those kept whole before are listed without it."""
    acme = await world.organisation("acme")
    text = "ü" * 700_000
    large = [
        TelemetryEvent(event_type="x", payload=text),
        TelemetryEvent(event_type="x", dimensions={"d": text}),
        TelemetryEvent(event_type="x", dimensions={f"d{n}": "v" * 900 for n in range(900)}),
        TelemetryEvent(event_type="x", metrics={f"{'m' * 40}{n}": 1 for n in range(9_000)}),
        TelemetryEvent(event_type=text),
        TelemetryEvent(event_type="x", workload_id=text),
        TelemetryEvent(event_type="x", cost_usd="1" * 700_000),
        TelemetryEvent(event_type="x", campaign_id="1" * 700_000),
    ]
    for event in large:
        assert (await record(acme.admin, in_rows([event]))).dead_lettered == 1
    letters = (await acme.admin.telemetry.ListDeadLetters()).dead_letters
    assert len(letters) == len(large)
    assert letters[-1].event.payload == "ü" * 32_001
    assert max(letter.ByteSize() for letter in letters) < 100_000
    for letter in letters:
        with pytest.raises(Refused) as refused:
            await acme.admin.telemetry.RequeueDeadLetters(dead_letter_ids=[letter.id])
        assert refused.value.reason == "DEAD_LETTER_UNUSABLE", letter.reason

    events = [TelemetryEvent(payload=payload) for payload in (text, text * 2)]
    for letter, event in zip(letters, [*events, *events[:1] * 3], strict=False):
        run_sql(
            database_url,
            "UPDATE telemetry.dead_letters SET body = %s WHERE id = %s",
            event.SerializeToString(),
            letter.id,
        )
    listed, token = [], ""
    while not listed or token:
        page = await acme.admin.telemetry.ListDeadLetters(page_token=token)
        assert page.ByteSize() < 4_000_000
        listed += page.dead_letters
        token = page.next_page_token
    assert [letter.id for letter in listed] == [letter.id for letter in letters]
    assert [letter.HasField("event") for letter in listed[:3]] == [True, False, True]


async def test_viewers_send_nothing(world: World) -> None:
    acme = await world.organisation("acme")
    viewer = await acme.person("vera", role="viewer")
    with pytest.raises(Refused) as refused:
        await record(viewer, in_rows(some_events(1)))
    assert refused.value.facts["permission"] == "TELEMETRY_WRITE"
    key = await acme.admin.identity.CreateApiKey(
        name="gateway", scopes=[Permission.PERMISSION_TELEMETRY_WRITE]
    )
    assert (await record(acme.admin.holding(key.secret), in_rows(some_events(1)))).accepted == 1


class TestFull:
    """The buffer is bounded."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(
            update={
                "telemetry_org_backlog_bytes_max": 5_000,
                "telemetry_dead_letters_max": 3,
                "telemetry_dead_letter_bytes_max": 90_000,
            }
        )

    async def test_a_full_buffer_refuses_with_a_delay_and_takes_again_when_emptied(
        self, world: World, hands: Hands
    ) -> None:
        """Nothing that was acknowledged is lost, and the other organisation is not in the way."""
        acme, globex = await world.organisation("acme"), await world.organisation("globex")
        taken = 0
        with pytest.raises(Refused) as refused:
            for seed in range(20_000):  # looked at once a second
                await record(acme.admin, in_rows(some_events(20, seed)))
                taken += 20
        assert (refused.value.code, refused.value.reason) == (
            "RESOURCE_EXHAUSTED",
            "TELEMETRY_BACKLOG_FULL",
        )
        assert any(type(detail).__name__ == "RetryInfo" for detail in refused.value.details)
        assert (await record(globex.admin, in_rows(some_events(20)))).accepted == 20
        assert await hands.drain() == taken + 20

        async def taken_again() -> bool:
            try:
                await record(acme.admin, in_rows(some_events(20, 300)))
            except Refused:
                return False
            return True

        await eventually(taken_again)

    async def test_dead_letters_are_bounded_and_the_sender_is_told(
        self, world: World, database_url: str
    ) -> None:
        acme = await world.organisation("acme")
        receipt = await record(acme.admin, in_rows([TelemetryEvent()] * 5))
        assert (receipt.dead_lettered, receipt.refused) == (3, 2)
        assert [error.is_kept for error in receipt.errors] == [True] * 3 + [False] * 2
        globex = await world.organisation("globex")
        large = [TelemetryEvent(event_type="x", payload="a" * 40_000)] * 3
        receipt = await record(globex.admin, in_rows(large))
        assert (receipt.dead_lettered, receipt.refused) == (2, 1), "in bytes as well"
        assert (await acme.admin.telemetry.GetIngestStatus()).accepted == 3
        assert run_sql(database_url, "SELECT count(*) FROM telemetry.dead_letters") == [(5,)]
