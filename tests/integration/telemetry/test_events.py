"""The frozen form of a batch: what goes in comes out, and nothing else is let through."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4, uuid5

import lz4.block
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.telemetry.events import Event, Recorded, RunFacts, execution_events, freeze
from chimera.telemetry.frozen import BYTES_MAX, BatchBroken, pack, thaw, unpack

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
uuids = st.uuids().map(str)
metric_lists = st.lists(st.tuples(texts, st.floats(allow_nan=False, allow_infinity=False), texts))


@st.composite
def events(draw: st.DrawFn) -> Event:
    metrics = draw(metric_lists)
    return Event(
        draw(uuids),
        draw(texts),
        draw(texts),
        draw(st.integers(0, 4_000_000_000_000)),
        draw(texts),
        draw(uuids),
        draw(uuids),
        draw(texts),
        draw(texts),
        [name for name, _, _ in metrics],
        [value for _, value, _ in metrics],
        [unit for _, _, unit in metrics],
        draw(st.dictionaries(texts, texts, max_size=4)),
        draw(texts),
        draw(st.integers(0, 2**32 - 1)),
        format(draw(st.decimals(0, 99_999_999, places=12)), "f"),
    )


@settings(deadline=None)  # the first example imports the reader
@given(st.lists(events(), min_size=1, max_size=5))
def test_a_batch_comes_out_as_it_went_in(batch: list[Event]) -> None:
    """And freezing it again gives the same bytes."""
    body = freeze(batch)
    rows = list(zip(*thaw(body, len(batch)), strict=True))
    again = [Event(*map(plain, row)) for row in rows]
    assert again == batch
    assert freeze(again) == body


def plain(value: Any) -> Any:
    """A value of the store as events have it."""
    match value:
        case UUID():
            return str(value)
        case datetime():
            return round(value.timestamp() * 1000)
        case Decimal():
            return format(value, ".12f")
    return value


def sound() -> Event:
    return Event(str(uuid4()), "t", "c", 1_700_000_000_000, "w", dimensions={"a": "b"})


@pytest.mark.parametrize(
    "change",
    [
        {"event_id": "not an id"},
        {"timestamp_ms": -1},
        {"timestamp_ms": 10**14},
        {"timestamp_ms": 1.5},
        {"latency_ms": 2**32},
        {"latency_ms": -1},
        {"metric_names": ["one"]},
        {"metric_names": ["one"], "metric_values": ["1"], "metric_units": ["ms"]},
        {"dimensions": {"a": 1}},
        {"dimensions": ["a"]},
        {"cost_usd": "NaN"},
        {"cost_usd": "123456789"},
        {"cost_usd": "1e3"},
        {"payload": None},
    ],
    ids=str,
)
def test_a_value_the_table_cannot_hold_breaks_the_batch(change: dict[str, Any]) -> None:
    """Known before anything is sent, because one such value would take a whole group with it."""
    assert thaw(freeze([sound()]), 1)
    with pytest.raises(BatchBroken):
        freeze([sound(), sound()._replace(**change)])


def test_bytes_that_are_no_batch_of_one_event_are_refused() -> None:
    """Cut, changed, of another size or of other columns."""
    body = freeze([sound()])
    changed = bytes([*body[:40], body[40] ^ 1, *body[41:]])
    bomb = (BYTES_MAX + 1).to_bytes(4, "little") + b"bomb"
    for wrong in (b"", b"\x00\x01", body[:-3], changed, lz4.block.compress(b"x"), pack([b""])):
        with pytest.raises(BatchBroken):
            unpack(wrong)
    with pytest.raises(BatchBroken, match="not those that were accepted"):
        unpack(b"0" * 16 + bomb)
    with pytest.raises(BatchBroken):
        thaw(freeze([sound(), sound()]), 1)


def test_a_cost_finer_than_the_ledger_is_rounded() -> None:
    """Prices divide badly; an event must not be refused for what the ledger rounds."""
    run = RunFacts(*(str(uuid4()) for _ in range(4)))
    cost = Decimal(1) / 3
    one = Recorded(7, datetime.now(UTC), "succeeded", True, 1.0, "", "", "", "", 9, 1, 1, cost)
    event = execution_events(run, [one])[0]
    assert event.cost_usd == "0.333333333333"
    assert thaw(freeze([event]), 1)


def test_ids_of_events_follow_from_the_ledger() -> None:
    """Whoever knows run and cell knows the id; a skipped cell has no score and no verdict."""
    run = RunFacts(*(str(uuid4()) for _ in range(4)))
    skipped = Recorded(
        7, datetime.now(UTC), "skipped", None, None, "", "", "", "", 0, 0, 0, Decimal("1E-12")
    )
    event = execution_events(run, [skipped])[0]
    assert event.event_id == str(uuid5(UUID(run.run_id), "execution.recorded:7"))
    assert list(event.metric_names) == ["latency_ms", "input_tokens", "output_tokens"]
    assert event.dimensions["is_successful"] == ""
    assert event.cost_usd == "0.000000000001"
    assert thaw(freeze([event]), 1)
