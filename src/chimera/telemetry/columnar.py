"""Batches in columns: judged column by column and taken whole, with little work an event.

Dictionary-coded columns go into the frozen form as they came, so that a text is looked at once and
not once an event. (Measured: about 1 microsecond an event of 14 columns, against 9 for rows.)
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from chimera.call import NOBODY
from chimera.telemetry import frozen
from chimera.telemetry.sender import (
    ID_MAX,
    NAME_MAX,
    PAIRS_MAX,
    PAYLOAD_MAX,
    TEXT_MAX,
    UUID_FORM,
    Sender,
    Unfit,
)
from chimera.v1.telemetry_pb2 import EventColumns, TextColumn

Codes = Sequence[int]


class Read(NamedTuple):
    """Columns in the frozen form, and the campaigns that they name."""

    columns: list[bytes]
    campaign_ids: set[str]


class _Texts(NamedTuple):
    dictionary: list[str]
    codes: Codes


def read_columns(batch: EventColumns, sender: Sender) -> Read:
    """Raises Unfit, which names the column and the place in it."""
    count = batch.count
    types = _texts("event_types", batch.event_types, count, NAME_MAX)
    if "" in types.dictionary:
        raise Unfit("event_types", "an event has no type")
    categories = _texts("event_categories", batch.event_categories, count, NAME_MAX)
    workloads = _texts("workload_ids", batch.workload_ids, count, ID_MAX)
    campaigns = _ids("campaign_ids", batch.campaign_ids, count)
    users = _users(batch, count, sender)
    sessions = _texts("session_ids", batch.session_ids, count, ID_MAX)
    correlations = _texts("correlation_ids", batch.correlation_ids, count, ID_MAX)
    payloads = list(batch.payloads) or [""] * count
    _check_size("payloads", payloads, count)
    if max(map(len, payloads)) > PAYLOAD_MAX:
        raise Unfit("payloads", f"one has more than {PAYLOAD_MAX} characters")
    latencies = _numbers("latencies_ms", batch.latencies_ms, count)
    costs = _numbers("costs_picousd", batch.costs_picousd, count)
    if min(costs) < 0:
        raise Unfit("costs_picousd", f"[{costs.index(min(costs))}] is negative")
    columns = [
        _event_ids(batch, count, sender),
        frozen.coded_words(*types),
        frozen.coded_words(*categories),
        frozen.timestamps(_timestamps(batch, count, sender)),
        frozen.coded_strings(*workloads),
        frozen.coded_uuids(*campaigns),
        frozen.coded_uuids(*users),
        frozen.coded_strings(*sessions),
        frozen.coded_strings(*correlations),
        *_metrics(batch, count),
        _dimensions(batch, count),
        frozen.strings(payloads),
        frozen.naturals(latencies),
        frozen.picodollars(costs),
    ]
    return Read(columns, set(campaigns.dictionary) - {NOBODY})


def _check_size(field: str, values: Sequence[object], count: int) -> None:
    if len(values) != count:
        raise Unfit(field, f"has {len(values)} values for {count} events")


def _numbers(field: str, given: Sequence[int], count: int) -> list[int]:
    values = list(given) or [0] * count
    _check_size(field, values, count)
    return values


def _texts(field: str, column: TextColumn, count: int, most: int) -> _Texts:
    dictionary = list(column.dictionary) or [""]
    for place, text in enumerate(dictionary):
        if len(text) > most:
            raise Unfit(field, f"dictionary[{place}] has more than {most} characters")
    codes: Codes = list(column.codes)
    if not codes and len(dictionary) == 1:
        return _Texts(dictionary, bytes(count))
    _check_size(f"{field}.codes", codes, count)
    if max(codes) >= len(dictionary):
        raise Unfit(f"{field}.codes", f"[{codes.index(max(codes))}] is not in the dictionary")
    return _Texts(dictionary, codes)


def _ids(field: str, column: TextColumn, count: int) -> _Texts:
    """UUIDs; an empty text is nobody's."""
    texts = _texts(field, column, count, ID_MAX)
    for place, text in enumerate(texts.dictionary):
        if text and not UUID_FORM.fullmatch(text):
            raise Unfit(field, f"dictionary[{place}] is not a UUID")
    return texts._replace(dictionary=[text.lower() or NOBODY for text in texts.dictionary])


def _users(batch: EventColumns, count: int, sender: Sender) -> _Texts:
    users = _ids("user_ids", batch.user_ids, count)
    own = [sender.user_id if text == NOBODY else text for text in users.dictionary]
    for text in own:
        if text != sender.user_id:
            sender.check_user("user_ids", text)
    return users._replace(dictionary=own)


def _event_ids(batch: EventColumns, count: int, sender: Sender) -> bytes:
    given = batch.event_ids
    if not given:
        return sender.event_ids(count)
    if len(given) != 16 * count:
        raise Unfit("event_ids", f"has {len(given)} bytes for {count} events of 16")
    halves = array("Q", given)
    if len(set(zip(halves[::2], halves[1::2], strict=True))) != count:
        raise Unfit("event_ids", "an id comes twice in the batch")
    return frozen.uuid_halves(given)


def _timestamps(batch: EventColumns, count: int, sender: Sender) -> list[int]:
    if not batch.timestamps_ms:
        return [sender.now_ms] * count
    values = list(batch.timestamps_ms)
    _check_size("timestamps_ms", values, count)
    sender.check_time("timestamps_ms", min(values), max(values))
    return values


def _metrics(batch: EventColumns, count: int) -> tuple[bytes, bytes, bytes]:
    """Names, values and units of the metrics of all events."""
    given = batch.metrics
    names, units = [metric.name for metric in given], [metric.unit for metric in given]
    _check_names("metrics", names)
    if any(len(unit) > NAME_MAX for unit in units):
        raise Unfit("metrics", f"a unit has more than {NAME_MAX} characters")
    values = [array("d", metric.values) for metric in given]
    for name, column in zip(names, values, strict=True):
        _check_size(f"metrics[{name}].values", column, count)
    width = len(given)
    if not any(_has_gaps(column) for column in values):
        together = array("d", bytes(8 * count * width))
        for place, column in enumerate(values):
            together[place::width] = column
        ends = _even(count, width)
        codes: Codes = bytes(range(width)) * count
    else:
        together, codes, ends = _sparse(values)
    return (
        frozen.coded_word_arrays(ends, names, codes),
        frozen.float_arrays(ends, together),
        frozen.coded_word_arrays(ends, units, codes),
    )


def _has_gaps(column: array[float]) -> bool:
    """Whether a value is NaN, which is how one is left out. Raises Unfit for infinite ones."""
    if math.isfinite(sum(column)):
        return False
    if any(map(math.isinf, column)):
        raise Unfit("metrics", "a value is infinite")
    return any(map(math.isnan, column))


def _sparse(values: list[array[float]]) -> tuple[array[float], Codes, bytes]:
    together, codes, sizes = array("d"), [], []
    for row in zip(*values, strict=True):
        size = 0
        for place, value in enumerate(row):
            if value == value:
                together.append(value)
                codes.append(place)
                size += 1
        sizes.append(size)
    return together, codes, frozen.offsets(sizes)


def _dimensions(batch: EventColumns, count: int) -> bytes:
    names = [dimension.name for dimension in batch.dimensions]
    _check_names("dimensions", names)
    columns = []
    for dimension in batch.dimensions:
        field = f"dimensions[{dimension.name}]"
        texts, codes = _texts(field, dimension.values, count, TEXT_MAX)
        columns.append(map(list(map(frozen.string, texts)).__getitem__, codes))
    codes = bytes(range(len(names))) * count
    values = b"".join(chain.from_iterable(zip(*columns, strict=True)))
    return frozen.coded_word_arrays(_even(count, len(names)), names, codes) + values


def _check_names(field: str, names: list[str]) -> None:
    if len(names) > PAIRS_MAX:
        raise Unfit(field, f"there are more than {PAIRS_MAX}")
    if len(set(names)) != len(names):
        raise Unfit(field, "a name comes twice")
    if any(not 0 < len(name) <= NAME_MAX for name in names):
        raise Unfit(field, f"names must have 1 to {NAME_MAX} characters")


def _even(count: int, width: int) -> bytes:
    """Ends of arrays that all have `width` elements."""
    return frozen.numbers("Q", range(width, width * count + 1, width) if width else bytes(count))
