"""Batches in row form: each event is judged by itself, good ones become Events."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

from chimera.call import NOBODY
from chimera.telemetry.events import Event
from chimera.telemetry.frozen import BatchBroken, picodollars_of
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
from chimera.v1.telemetry_pb2 import TelemetryEvent


def read_rows(
    messages: Iterable[TelemetryEvent], sender: Sender
) -> tuple[dict[int, Event], dict[int, Unfit]]:
    """Good events and what is wrong with the others, by their place in the batch."""
    good: dict[int, Event] = {}
    bad: dict[int, Unfit] = {}
    ids: set[str] = set()
    for index, message in enumerate(messages):
        try:
            event = read_row(message, index, sender)
            if event.event_id in ids:
                raise Unfit("event_id", "comes twice in the batch")
        except Unfit as unfit:
            bad[index] = unfit
        else:
            ids.add(event.event_id)
            good[index] = event
    return good, bad


def read_row(message: TelemetryEvent, index: int, sender: Sender) -> Event:
    """Raises Unfit."""
    event_id = message.event_id
    if not event_id:
        event_id = sender.event_id(index)
    elif not UUID_FORM.fullmatch(event_id):
        raise Unfit("event_id", "is not a UUID")
    event_type, category = message.event_type, message.event_category
    if not 0 < len(event_type) <= NAME_MAX:
        raise Unfit("event_type", f"must have 1 to {NAME_MAX} characters")
    timestamp_ms = sender.now_ms
    if message.HasField("timestamp"):
        stamp = message.timestamp
        timestamp_ms = stamp.seconds * 1000 + stamp.nanos // 1_000_000
        sender.check_time("timestamp", timestamp_ms, timestamp_ms)
    user_id = message.user_id
    if user_id:
        sender.check_user("user_id", user_id)
    campaign_id = message.campaign_id
    if campaign_id and not UUID_FORM.fullmatch(campaign_id):
        raise Unfit("campaign_id", "is not a UUID")
    names, values, units = _metrics(message)
    dimensions = dict(message.dimensions)
    if dimensions:
        _check_pairs("dimensions", dimensions)
        if max(map(len, dimensions.values())) > TEXT_MAX:
            raise Unfit("dimensions", f"a value has more than {TEXT_MAX} characters")
    workload_id, session_id = message.workload_id, message.session_id
    correlation_id, payload = message.correlation_id, message.payload
    if len(category) > NAME_MAX:
        raise Unfit("event_category", f"has more than {NAME_MAX} characters")
    if max(len(workload_id), len(session_id), len(correlation_id)) > ID_MAX:
        raise Unfit(
            "workload_id", f"workload, session and correlation have at most {ID_MAX} characters"
        )
    if len(payload) > PAYLOAD_MAX:
        raise Unfit("payload", f"has more than {PAYLOAD_MAX} characters")
    latency_ms, cost_usd = message.latency_ms, message.cost_usd or "0"
    if latency_ms < 0:
        raise Unfit("latency_ms", "is negative")
    if cost_usd != "0":
        try:
            picodollars_of(cost_usd)
        except BatchBroken as broken:
            raise Unfit("cost_usd", str(broken)) from None
    return Event(
        event_id.lower(),
        event_type,
        category,
        timestamp_ms,
        workload_id,
        campaign_id.lower() or NOBODY,
        user_id.lower() or sender.user_id,
        session_id,
        correlation_id,
        names,
        values,
        units,
        dimensions,
        payload,
        latency_ms,
        cost_usd,
    )


def _metrics(message: TelemetryEvent) -> tuple[list[str], list[float], list[str]]:
    metrics = dict(message.metrics)
    if not metrics:
        return [], [], []
    _check_pairs("metrics", metrics)
    values = list(metrics.values())
    if not all(map(isfinite, values)):
        raise Unfit("metrics", "a value is not a finite number")
    units = dict(message.metric_units)
    if units and max(map(len, units.values())) > NAME_MAX:
        raise Unfit("metric_units", f"a unit has more than {NAME_MAX} characters")
    return list(metrics), values, [units.get(name, "") for name in metrics]


def _check_pairs(field: str, pairs: dict[str, str] | dict[str, float]) -> None:
    if len(pairs) > PAIRS_MAX:
        raise Unfit(field, f"there are more than {PAIRS_MAX}")
    if "" in pairs or max(map(len, pairs)) > NAME_MAX:
        raise Unfit(field, f"names must have 1 to {NAME_MAX} characters")
