"""Windows: a budget's day or month, with what is settled and what is held of it.

The engine moves them in its ticks, for a batch at once. Rows are locked in one order everywhere:
organisation, user, API key, provider key, campaign; then period and day. Reserving is
all-or-nothing over all windows of a call: a call that does not fit into one of them holds nothing
in the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import orjson

from chimera.accounting.alerts import THRESHOLDS, Standing, level_of, raise_alerts
from chimera.db import Nothing, Tx, sql

SCOPE_KINDS = ("organisation", "user", "api_key", "provider_key", "campaign")
PERIODS = ("daily", "monthly")


class Key(NamedTuple):
    """Primary key of a window."""

    scope_kind: str
    scope_id: str
    period: str
    window_start: date


@dataclass(frozen=True, slots=True)
class Purse:
    """Whose budgets a run's calls are under; api_key_id is empty when it was launched without."""

    org_id: str
    user_id: str
    campaign_id: str
    api_key_id: str = ""

    def scopes(self, provider_key_id: str | None) -> Iterator[tuple[str, str]]:
        ids = (self.org_id, self.user_id, self.api_key_id, provider_key_id, self.campaign_id)
        return ((kind, id_) for kind, id_ in zip(SCOPE_KINDS, ids, strict=True) if id_)

    def windows(self, provider_key_id: str | None, day: date) -> Iterator[Key]:
        """Where a call of that day counts, if there is a budget."""
        for kind, id_ in self.scopes(provider_key_id):
            yield Key(kind, id_, "daily", day)
            yield Key(kind, id_, "monthly", day.replace(day=1))


@dataclass(frozen=True, slots=True)
class Settled:
    """Attempts that came to their end: what they held and what they cost, by key and UTC day."""

    provider_key_id: str | None
    day: date
    requests_released: int
    cost_released: Decimal
    requests: int
    cost: Decimal


class Want(NamedTuple):
    """A call that should go out, at its worst cost."""

    provider_key_id: str
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Short:
    """The window that let nothing pass. is_spent: even if all that is held came back, it would not
    do. cost: what the cheapest refused call needs."""

    key: Key
    is_spent: bool
    cost: Decimal

    @property
    def until(self) -> datetime:
        return window_end(self.key.period, self.key.window_start)


class Verdict(NamedTuple):
    """Places of the wants that are held now; with none of them, why."""

    admitted: list[int]
    short: Short | None


def day_of(at: datetime) -> date:
    return at.astimezone(UTC).date()


def window_start(period: str, day: date) -> date:
    return day if period == "daily" else day.replace(day=1)


def window_end(period: str, start: date) -> datetime:
    following = start + timedelta(days=1 if period == "daily" else 32)
    return datetime.combine(window_start(period, following), datetime.min.time(), UTC)


# One statement checks all windows and moves all or, of what is wanted, none. A check by an
# aggregate over unlocked rows would see the statement's snapshot and overspend.
MOVE_WINDOWS = sql(
    dict,
    """
    WITH d AS MATERIALIZED (
        SELECT * FROM json_to_recordset(%(moves)s::json) AS d (
            place int, scope_kind text, scope_id uuid, period text, window_start date,
            requests_released bigint, cost_released numeric, requests bigint, cost numeric,
            requests_wanted bigint, cost_wanted numeric)
    ), missing AS MATERIALIZED (
        SELECT b.id FROM d JOIN accounting.budgets b USING (scope_kind, scope_id, period)
         WHERE d.requests_wanted > 0
           AND NOT EXISTS (SELECT FROM accounting.windows w
                            WHERE w.scope_kind = d.scope_kind AND w.scope_id = d.scope_id
                              AND w.period = d.period AND w.window_start = d.window_start)
    ), l AS MATERIALIZED (
        SELECT d.*, d.requests_wanted = 0
               OR ((w.requests_max IS NULL
                    OR w.requests_settled + d.requests + w.requests_held - d.requests_released
                       + d.requests_wanted <= w.requests_max)
                   AND (w.cost_max IS NULL
                        OR w.cost_settled + d.cost + w.cost_held - d.cost_released
                           + d.cost_wanted <= w.cost_max)) AS fits
          FROM accounting.windows w JOIN d USING (scope_kind, scope_id, period, window_start)
         WHERE NOT EXISTS (SELECT FROM missing)
         ORDER BY d.place
           FOR NO KEY UPDATE OF w
    ), moved AS (
        UPDATE accounting.windows w
           SET requests_settled = w.requests_settled + l.requests,
               cost_settled = w.cost_settled + l.cost,
               requests_held = w.requests_held - l.requests_released
                               + CASE WHEN a.fit THEN l.requests_wanted ELSE 0 END,
               cost_held = w.cost_held - l.cost_released
                           + CASE WHEN a.fit THEN l.cost_wanted ELSE 0 END
          FROM l CROSS JOIN (SELECT bool_and(fits) AS fit FROM l) a
         WHERE w.scope_kind = l.scope_kind AND w.scope_id = l.scope_id AND w.period = l.period
           AND w.window_start = l.window_start
        RETURNING l.place, w.scope_kind, w.scope_id, w.period, w.window_start, w.requests_max,
                  w.cost_max, w.requests_settled, w.requests_held, w.cost_settled, w.cost_held,
                  w.alerted, a.fit
    )
    SELECT EXISTS (SELECT FROM missing) AS is_missing, moved.*
      FROM (SELECT) AS one LEFT JOIN moved ON true
     ORDER BY place
    """,
)

# The first call of a new day or month, wherever the clock was put: what was sent in it before there
# was a budget, whoever set that has counted (budgets.py). The limits are those of the budget as it
# stands: whoever changes it holds the money row of this run.
INSERT_MISSING = sql(
    Nothing,
    """
    INSERT INTO accounting.windows
        (scope_kind, scope_id, period, window_start, org_id, requests_max, cost_max)
    SELECT b.scope_kind, b.scope_id, b.period, d.window_start, b.org_id,
           least(b.requests_max, b.own_requests_max), least(b.cost_max, b.own_cost_max)
      FROM json_to_recordset(%(moves)s::json) AS d (
            place int, scope_kind text, scope_id uuid, period text, window_start date,
            requests_wanted bigint)
      JOIN accounting.budgets b USING (scope_kind, scope_id, period)
     WHERE d.requests_wanted > 0
     ORDER BY d.place
        ON CONFLICT DO NOTHING
    """,
)

# Only after MOVE_WINDOWS has locked these rows.
HOLD = sql(
    Nothing,
    """
    UPDATE accounting.windows w
       SET requests_held = w.requests_held + d.requests, cost_held = w.cost_held + d.cost
      FROM json_to_recordset(%(moves)s::json) AS d (
            scope_kind text, scope_id uuid, period text, window_start date, requests bigint,
            cost numeric)
     WHERE w.scope_kind = d.scope_kind AND w.scope_id = d.scope_id AND w.period = d.period
       AND w.window_start = d.window_start
    """,
)


class _Move:
    """What changes in one window."""

    __slots__ = (
        "cost",
        "cost_released",
        "cost_wanted",
        "requests",
        "requests_released",
        "requests_wanted",
    )

    def __init__(self) -> None:
        self.requests_released = self.requests = self.requests_wanted = 0
        self.cost_released = self.cost = self.cost_wanted = Decimal(0)


async def move(
    tx: Tx, purse: Purse, at: datetime, settled: Sequence[Settled], wants: Sequence[Want]
) -> Verdict:
    """Settles what came back, and holds of `wants` (sent at `at`) those that fit everywhere, in
    order. The caller holds the money row of the run. Raises the alerts that follow."""
    moves: dict[Key, _Move] = {}
    for group in settled:
        for key in purse.windows(group.provider_key_id, group.day):
            change = moves.setdefault(key, _Move())
            change.requests_released += group.requests_released
            change.cost_released += group.cost_released
            change.requests += group.requests
            change.cost += group.cost
    today = day_of(at)
    by_key: dict[str, list[Decimal]] = {}
    for want in wants:
        by_key.setdefault(want.provider_key_id, []).append(want.cost)
    for provider_key_id, costs in by_key.items():
        total = sum(costs, Decimal(0))
        for key in purse.windows(provider_key_id, today):
            change = moves.setdefault(key, _Move())
            change.requests_wanted += len(costs)
            change.cost_wanted += total
    if not moves:
        return Verdict([], None)
    packed = _packed(moves)
    rows = await tx.all(MOVE_WINDOWS, moves=packed)
    while rows[0]["is_missing"]:
        await tx.run(INSERT_MISSING, moves=packed)
        rows = await tx.all(MOVE_WINDOWS, moves=packed)
    windows = {_key(row): row for row in rows if row["place"] is not None}
    if settled:
        crossed = [row for row in windows.values() if level_of(_standing(row)) > row["alerted"]]
        if crossed:
            await raise_alerts(tx, [_standing(row) for row in crossed])
    if not windows or rows[0]["fit"]:
        return Verdict(list(range(len(wants))), None)
    return await _hold_what_fits(tx, purse, today, wants, windows)


async def _hold_what_fits(
    tx: Tx, purse: Purse, today: date, wants: Sequence[Want], windows: dict[Key, dict[str, Any]]
) -> Verdict:
    """Not all of them do: one by one, on rows that are locked by now."""
    admitted: list[int] = []
    held: dict[Key, tuple[int, Decimal]] = {}
    short: Short | None = None
    for place, want in enumerate(wants):
        keys = [key for key in purse.windows(want.provider_key_id, today) if key in windows]
        full = next((key for key in keys if not _fits(windows[key], want.cost)), None)
        if full is not None:
            if short is None or want.cost < short.cost:
                short = Short(full, _is_spent(windows[full], want.cost), want.cost)
            continue
        admitted.append(place)
        for key in keys:
            windows[key]["requests_held"] += 1
            windows[key]["cost_held"] += want.cost
            requests, cost = held.get(key, (0, Decimal(0)))
            held[key] = requests + 1, cost + want.cost
    if held:
        await tx.run(HOLD, moves=_changes(held))
    return Verdict(admitted, None if admitted else short)


async def give_back(tx: Tx, purse: Purse, at: datetime, wants: Sequence[Want]) -> None:
    """Takes back holds of this transaction for calls that do not go out after all."""
    held: dict[Key, tuple[int, Decimal]] = {}
    for want in wants:
        for key in purse.windows(want.provider_key_id, day_of(at)):
            requests, cost = held.get(key, (0, Decimal(0)))
            held[key] = requests - 1, cost - want.cost
    await tx.run(HOLD, moves=_changes(held))


LOCK_WINDOW = sql(
    Standing,
    """
    SELECT scope_kind, scope_id, period, window_start, requests_max, cost_max, requests_settled,
           cost_settled, alerted
      FROM accounting.windows
     WHERE scope_kind = %(scope_kind)s AND scope_id = %(scope_id)s AND period = %(period)s
       AND window_start = %(window_start)s FOR NO KEY UPDATE
    """,
)


async def reach_limit(tx: Tx, key: Key) -> None:
    """Not even one more call fits into the window: that is its 100 %."""
    standing = await tx.one(LOCK_WINDOW, **key._asdict())
    if standing is not None and standing.alerted < THRESHOLDS[-1]:
        await raise_alerts(tx, [standing], level=THRESHOLDS[-1])


def _fits(window: dict[str, Any], cost: Decimal) -> bool:
    requests_max, cost_max = window["requests_max"], window["cost_max"]
    if (
        requests_max is not None
        and window["requests_settled"] + window["requests_held"] >= requests_max
    ):
        return False
    return cost_max is None or window["cost_settled"] + window["cost_held"] + cost <= cost_max


def _is_spent(window: dict[str, Any], cost: Decimal) -> bool:
    return not _fits({**window, "requests_held": 0, "cost_held": Decimal(0)}, cost)


def _standing(row: dict[str, Any]) -> Standing:
    return Standing(**{name: row[name] for name in Standing.__slots__})


def _key(row: dict[str, Any]) -> Key:
    return Key(row["scope_kind"], row["scope_id"], row["period"], row["window_start"])


def _packed(moves: dict[Key, _Move]) -> str:
    """The moves in the order of locks, as JSON; money as text, for floats round."""
    ordered = sorted(moves.items(), key=_place)
    return orjson.dumps(
        [
            {
                "place": place,
                "scope_kind": key.scope_kind,
                "scope_id": key.scope_id,
                "period": key.period,
                "window_start": key.window_start,
                "requests_released": change.requests_released,
                "cost_released": str(change.cost_released),
                "requests": change.requests,
                "cost": str(change.cost),
                "requests_wanted": change.requests_wanted,
                "cost_wanted": str(change.cost_wanted),
            }
            for place, (key, change) in enumerate(ordered)
        ]
    ).decode()


def _place(item: tuple[Key, _Move]) -> tuple[int, str, str, date]:
    kind, id_, period, start = item[0]
    return SCOPE_KINDS.index(kind), id_, period, start


def _changes(held: dict[Key, tuple[int, Decimal]]) -> str:
    return orjson.dumps(
        [
            {**key._asdict(), "requests": requests, "cost": str(cost)}
            for key, (requests, cost) in held.items()
        ]
    ).decode()
