"""Events as producers name them, and a batch of them in its frozen form (see frozen.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

from chimera.call import NOBODY
from chimera.telemetry import frozen
from chimera.telemetry.frozen import BatchBroken, pack

EXECUTION_RECORDED = "execution.recorded"
JUDGEMENT_RECORDED = "judgement.recorded"
# Told by the product of its own doing, and counted as that: nobody else sends them.
OWN_TYPES = frozenset({EXECUTION_RECORDED, JUDGEMENT_RECORDED})


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


def freeze(events: Sequence[Event]) -> bytes:
    """The body of a batch of at least one event.

    Raises BatchBroken for a value that the store cannot hold; costs about 4 microseconds an event.
    """
    columns: Any = Event._make(zip(*events, strict=True))  # whose fields are whole columns
    names: Sequence[Sequence[str]] = columns.metric_names
    sizes = list(map(len, names))
    if sizes != list(map(len, columns.metric_values)) or sizes != list(
        map(len, columns.metric_units)
    ):
        raise BatchBroken("metrics need a name, a value and a unit each")
    ends = frozen.offsets(sizes)
    return pack(
        (
            frozen.different_uuids(columns.event_id),
            frozen.words(columns.event_type),
            frozen.words(columns.event_category),
            frozen.timestamps(columns.timestamp_ms),
            frozen.strings(columns.workload_id),
            frozen.uuids(columns.campaign_id),
            frozen.uuids(columns.user_id),
            frozen.strings(columns.session_id),
            frozen.strings(columns.correlation_id),
            frozen.word_arrays(ends, list(chain.from_iterable(names))),
            frozen.float_arrays(ends, chain.from_iterable(columns.metric_values)),
            frozen.word_arrays(ends, list(chain.from_iterable(columns.metric_units))),
            frozen.maps(columns.dimensions),
            frozen.strings(columns.payload),
            frozen.naturals(columns.latency_ms),
            frozen.costs(columns.cost_usd),
        )
    )


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


def execution_events(
    run: RunFacts, recorded: Iterable[Recorded], event_type: str = EXECUTION_RECORDED
) -> list[Event]:
    """One event a recorded execution. Its id is uuid5(run_id, "<event type>:<cell_no>"), so
    anybody can tell from the ledger which events there must be. For the engine's hot path: about
    3 microseconds an event."""
    run_id, campaign_id, user_id, correlation_id = (
        run.run_id,
        run.campaign_id,
        run.user_id,
        run.correlation_id,
    )
    digest = hashlib.sha1(UUID(run_id).bytes + f"{event_type}:".encode(), usedforsecurity=False)
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
                event_type,
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
