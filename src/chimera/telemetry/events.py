"""Events and the frozen form in which a batch of them waits.

A batch is frozen once, when it is accepted, and its bytes are never made again: what is resent
after a crash must be what was sent before, or the store counts it twice. The form is columns, since
that is what the store takes: LZ4 over the JSON `[VERSION, [column, ...]]` in the order of FIELDS.
The organisation is not in it; it is a column of the batch, which row-level security checks.

`thaw` accepts nothing that the store could refuse, so a broken batch is known before anything of
its group is sent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from itertools import chain
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import orjson

from chimera.call import NOBODY

VERSION = 1
BYTES_MAX = 64_000_000  # of one batch, thawed
TIMESTAMP_MS_MAX = 4_102_444_800_000  # the year 2100; the store's seconds end in 2106
EXECUTION_RECORDED = "execution.recorded"
_DECIMAL = re.compile(r"-?\d{1,8}(\.\d{1,12})?")


class Event(NamedTuple):
    """One row of workload_events, as plain data. Ids are UUIDs as text; NOBODY for none.

    Each metric has one name, value and unit at the same place; a name comes once an event.
    """

    event_id: str
    event_type: str
    event_category: str
    timestamp_ms: int
    workload_id: str
    campaign_id: str = NOBODY
    user_id: str = NOBODY
    session_id: str = ""
    correlation_id: str = ""
    metric_names: Sequence[str] = ()
    metric_values: Sequence[float] = ()
    metric_units: Sequence[str] = ()
    dimensions: Mapping[str, str] = {}
    payload: str = ""
    latency_ms: int = 0
    cost_usd: str = "0"


# Columns of the table, field by field.
FIELDS: tuple[LiteralString, ...] = (
    "event_id",
    "event_type",
    "event_category",
    "timestamp",
    "workload_id",
    "campaign_id",
    "user_id",
    "session_id",
    "correlation_id",
    "metrics.name",
    "metrics.value",
    "metrics.unit",
    "dimensions",
    "payload",
    "latency_ms",
    "cost",
)


class BatchBroken(ValueError):
    """The bytes are not a batch of events."""


def freeze(events: Sequence[Event]) -> bytes:
    """The bytes of a batch of at least one event."""
    import lz4.block

    columns = list(zip(*events, strict=True))
    body: bytes = lz4.block.compress(orjson.dumps([VERSION, columns]))
    return body


def thaw(body: bytes, events: int) -> list[list[Any]]:
    """The columns of a frozen batch in the order of FIELDS, ready for the store.

    Raises BatchBroken unless they are `events` rows that the table can hold.
    """
    import lz4.block

    try:
        if int.from_bytes(body[:4], "little") > BYTES_MAX:
            raise BatchBroken(f"a batch must not be larger than {BYTES_MAX} bytes")
        version, columns = orjson.loads(lz4.block.decompress(body))
        if version != VERSION:
            raise BatchBroken(f"version {version!r} of the frozen form is not known here")
        if len(columns) != len(FIELDS) or any(len(column) != events for column in columns):
            raise BatchBroken(f"not {len(FIELDS)} columns of {events} values")
        _check(Event(*columns))
        for name, convert in _CONVERTERS.items():
            place = FIELDS.index(name)
            columns[place] = list(map(convert, columns[place]))
    except BatchBroken:
        raise
    except (ValueError, TypeError, AttributeError, lz4.block.LZ4BlockError) as error:
        raise BatchBroken(f"{type(error).__name__}: {error}"[:300]) from None
    return list(columns)


# Campaigns and users repeat, events do not.
_repeated = lru_cache(maxsize=1024)(UUID)
_CONVERTERS: dict[str, Callable[[str], UUID]] = {
    "event_id": UUID,
    "campaign_id": _repeated,
    "user_id": _repeated,
}


def _check(columns: Any) -> None:
    """`columns` is an Event whose fields are whole columns."""
    texts = ("event_type", "event_category", "workload_id", "session_id", "correlation_id")
    for name in (*texts, "event_id", "campaign_id", "user_id", "payload", "cost_usd"):
        _all(getattr(columns, name), {str}, name)
    for name, most in (("timestamp_ms", TIMESTAMP_MS_MAX), ("latency_ms", 2**32 - 1)):
        column = getattr(columns, name)
        _all(column, {int}, name)
        if min(column) < 0 or max(column) > most:
            raise BatchBroken(f"{name} is out of range")
    metrics: dict[str, set[type]] = {
        "metric_names": {str},
        "metric_values": {int, float},
        "metric_units": {str},
    }
    for name, kinds in metrics.items():
        _all(getattr(columns, name), {list}, name)
        _all(chain.from_iterable(getattr(columns, name)), kinds, name)
    names, values, units = (list(map(len, getattr(columns, name))) for name in metrics)
    if not names == values == units:
        raise BatchBroken("metrics need a name, a value and a unit each")
    _all(columns.dimensions, {dict}, "dimensions")
    _all(chain.from_iterable(map(dict.values, columns.dimensions)), {str}, "dimensions")
    if not all(map(_DECIMAL.fullmatch, set(columns.cost_usd))):
        raise BatchBroken("cost_usd is not a decimal number that fits")


def _all(values: Iterable[Any], kinds: set[type], name: str) -> None:
    if not set(map(type, values)) <= kinds:
        raise BatchBroken(f"{name} holds a value of another type")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What all events of a run have in common."""

    run_id: str
    campaign_id: str
    user_id: str
    correlation_id: str = ""


class Recorded(NamedTuple):
    """A recorded execution. `state`: succeeded, failed, parked, skipped. `started_at` is aware and
    equals the ledger's, so that both can be compared hour by hour. Empty texts: not known."""

    cell_no: int
    started_at: datetime
    state: str
    is_successful: bool | None
    score: float | None
    technique: str
    provider: str
    model: str
    error_kind: str
    latency_ms: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal


_NAMES = ("latency_ms", "input_tokens", "output_tokens", "score")
_UNITS = ("ms", "tokens", "tokens", "ratio")
_VERDICTS = {True: "true", False: "false", None: ""}
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def execution_events(run: RunFacts, recorded: Iterable[Recorded]) -> list[Event]:
    """One event a recorded execution. Its id is uuid5(run_id, "execution.recorded:<cell_no>"), so
    anybody can tell from the ledger which events there must be. For the engine's hot path: about
    3 microseconds an event."""
    run_id, campaign_id, user_id, correlation_id = (
        run.run_id,
        run.campaign_id,
        run.user_id,
        run.correlation_id,
    )
    digest = hashlib.sha1(UUID(run_id).bytes + b"execution.recorded:", usedforsecurity=False)
    events = []
    for one in recorded:
        named = digest.copy()
        named.update(b"%d" % one.cell_no)
        h = named.hexdigest()
        score = one.score
        values = (one.latency_ms, one.input_tokens, one.output_tokens)
        events.append(
            Event(
                # The layout of RFC 9562, section 5.5.
                f"{h[:8]}-{h[8:12]}-5{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:32]}",
                EXECUTION_RECORDED,
                "campaign",
                int(one.started_at.timestamp() * 1000),
                run_id,
                campaign_id,
                user_id,
                "",
                correlation_id,
                _NAMES[:3] if score is None else _NAMES,
                values if score is None else (*values, score),
                _UNITS[:3] if score is None else _UNITS,
                {
                    "state": one.state,
                    "is_successful": _VERDICTS[one.is_successful],
                    "technique": one.technique,
                    "provider": one.provider,
                    "model": one.model,
                    "error_kind": one.error_kind,
                },
                "",
                one.latency_ms,
                # Not finer than the ledger.
                format(one.cost_usd, ".12f"),
            )
        )
    return events
