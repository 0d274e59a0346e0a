"""Batches in row form: each event is judged by itself, good ones become Events."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import isfinite

from chimera.call import NOBODY
from chimera.telemetry.events import Event
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

COST_FORM = re.compile(r"[0-9]{1,8}(\.[0-9]{0,12})?")


def read_rows(
    messages: Iterable[TelemetryEvent], sender: Sender
) -> tuple[dict[int, Event], dict[int, Unfit]]:
    """Good events and what is wrong with the others, by their place in the batch."""
    good: dict[int, Event] = {}
    bad: dict[int, Unfit] = {}
    ids: set[str] = set()
    reader = Reader(sender)
    for index, message in enumerate(messages):
        try:
            event = reader.read(message, index)
            if event.event_id in ids:
                raise Unfit("event_id", "comes twice in the batch")
        except Unfit as unfit:
            bad[index] = unfit
        else:
            ids.add(event.event_id)
            good[index] = event
    return good, bad


class Reader:
    """Judges the events of one batch. What comes again (names, users) is judged once."""

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self.id_head = sender.event_id_head()
        self.fit_names: set[tuple[str, ...]] = {()}
        self.fit_users = {""}

    def read(self, message: TelemetryEvent, index: int) -> Event:
        """Raises Unfit."""
        sender = self.sender
        event_id = message.event_id
        if not event_id:
            event_id = f"{self.id_head}{index:08x}"
        elif not UUID_FORM.fullmatch(event_id):
            raise Unfit("event_id", "is not a UUID")
        event_type, category = message.event_type, message.event_category
        if not 0 < len(event_type) <= NAME_MAX:
            raise Unfit("event_type", f"must have 1 to {NAME_MAX} characters")
        if len(category) > NAME_MAX:
            raise Unfit("event_category", f"has more than {NAME_MAX} characters")
        timestamp_ms = sender.now_ms
        if message.HasField("timestamp"):
            stamp = message.timestamp
            timestamp_ms = stamp.seconds * 1000 + stamp.nanos // 1_000_000
            sender.check_time("timestamp", timestamp_ms)
        user_id, campaign_id = message.user_id, message.campaign_id
        if user_id not in self.fit_users:
            sender.check_user("user_id", user_id)
            self.fit_users.add(user_id)
        if campaign_id and not UUID_FORM.fullmatch(campaign_id):
            raise Unfit("campaign_id", "is not a UUID")
        workload_id, session_id = message.workload_id, message.session_id
        correlation_id, payload = message.correlation_id, message.payload
        if len(workload_id) > ID_MAX or len(session_id) > ID_MAX or len(correlation_id) > ID_MAX:
            for field in ("workload_id", "session_id", "correlation_id"):
                if len(getattr(message, field)) > ID_MAX:
                    raise Unfit(field, f"has more than {ID_MAX} characters")
        if len(payload) > PAYLOAD_MAX:
            raise Unfit("payload", f"has more than {PAYLOAD_MAX} characters")
        latency_ms, cost_usd = message.latency_ms, message.cost_usd or "0"
        if latency_ms < 0:
            raise Unfit("latency_ms", "is negative")
        if not COST_FORM.fullmatch(cost_usd):
            raise Unfit("cost_usd", "is not a decimal number that fits")
        names, values, units = self._metrics(message)
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
            self._dimensions(message),
            payload,
            latency_ms,
            cost_usd,
        )

    def _metrics(
        self, message: TelemetryEvent
    ) -> tuple[Sequence[str], Sequence[float], Sequence[str]]:
        metrics = message.metrics
        names = tuple(metrics)
        if not names:
            return (), (), ()
        if names not in self.fit_names:
            self._check_names("metrics", names)
        values = [metrics[name] for name in names]
        if not isfinite(sum(values)) and not all(map(isfinite, values)):
            raise Unfit("metrics", "a value is not a finite number")
        given = message.metric_units
        if not given:
            return names, values, ("",) * len(names)
        units = [given.get(name, "") for name in names]
        if max(map(len, units)) > NAME_MAX:
            raise Unfit("metric_units", f"a unit has more than {NAME_MAX} characters")
        return names, values, units

    def _dimensions(self, message: TelemetryEvent) -> dict[str, str]:
        given = message.dimensions
        names = tuple(given)
        if names not in self.fit_names:
            self._check_names("dimensions", names)
        # A map of messages is slow to copy in any other way.
        dimensions = {name: given[name] for name in names}
        if names and max(map(len, dimensions.values())) > TEXT_MAX:
            raise Unfit("dimensions", f"a value has more than {TEXT_MAX} characters")
        return dimensions

    def _check_names(self, field: str, names: tuple[str, ...]) -> None:
        if len(names) > PAIRS_MAX:
            raise Unfit(field, f"there are more than {PAIRS_MAX}")
        if not all(0 < len(name) <= NAME_MAX for name in names):
            raise Unfit(field, f"names must have 1 to {NAME_MAX} characters")
        self.fit_names.add(names)
