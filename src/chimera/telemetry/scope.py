"""Whose events a caller may read, enforced below the text of any query.

ClickHouse has no row-level security that both a server and the embedded engine offer (row policies
need a right that the engine does not grant). So the caller's condition travels as the setting
`additional_table_filters`, which the server adds to every read of these tables, also inside views and
subqueries, whatever the statement says. The statements name the organisation too, because that is
what the tables are sorted by; a mistake there is slow and tells nobody anything. Whether the server
heeds the setting at all is tried before anything is read, and again every few minutes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

from chimera.call import Call
from chimera.clickhouse import ClickHouse
from chimera.faults import NotFound, Unavailable
from chimera.pools import Database
from chimera.settings import Settings
from chimera.telemetry.intake import visible_campaigns
from chimera.telemetry.quotas import Quotas
from chimera.v1.options_pb2 import Permission
from chimera.v1.telemetry_pb2 import EventFilter

# Tables by whether their rows name a campaign, so that part of an organisation may be read.
BY_CAMPAIGN = (
    "workload_events",
    "events_minute",
    "events_hourly",
    "events_daily",
    "event_totals_daily",
    "metrics_minute",
    "metrics_hourly",
    "metrics_daily",
    "metric_totals_daily",
)
BY_USER = ("user_activity",)
BY_ORGANISATION = (
    "executions_hourly",
    "event_slices_hourly",
    "event_slices_daily",
    "event_slice_totals_daily",
    "metric_slices_hourly",
    "metric_slices_daily",
    "metric_slice_totals_daily",
)
REPLICA_DELAY: LiteralString = "SELECT max(absolute_delay) FROM system.replicas"
DELAY_KNOWN_S = 2.0
ONE: LiteralString = "SELECT dummy FROM system.one"
FILTERS_KNOWN_S = 300.0
# The server thinks a second thread worth it from 160,000 rows on, and gives none fewer than eight
# granules; of sketches a few thousand are work.
IN_PARALLEL = {
    "merge_tree_min_rows_for_concurrent_read": 1024,
    "merge_tree_min_bytes_for_concurrent_read": 0,
    "merge_tree_min_read_task_size": 1,
}


@dataclass(frozen=True, slots=True)
class Scope:
    """What one caller may read: all of its organisation, or its own events and some campaigns'."""

    org_id: str
    user_id: str = ""  # empty: everybody's
    campaign_ids: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        return not self.user_id

    def allows(self, user_id: UUID, campaign_id: UUID) -> bool:
        """Whether an event of the organisation is in it."""
        return (
            self.is_whole or str(user_id) == self.user_id or str(campaign_id) in self.campaign_ids
        )

    def filters(self) -> str:
        """For the setting additional_table_filters."""
        org = f"org_id = {_id(self.org_id)}"
        partly, own, whole = org, org, org
        if not self.is_whole:
            mine = f"user_id = {_id(self.user_id)}"
            named = ", ".join(map(_id, self.campaign_ids))
            own, whole = f"{org} AND {mine}", "0"
            partly = f"{org} AND ({mine} OR campaign_id IN ({named}))" if named else own
        conditions = {
            **dict.fromkeys(BY_CAMPAIGN, partly),
            **dict.fromkeys(BY_USER, own),
            **dict.fromkeys(BY_ORGANISATION, whole),
        }
        pairs = (f"'{table}': '{_escaped(text)}'" for table, text in conditions.items())
        return "{" + ", ".join(pairs) + "}"


def _id(text: str) -> str:
    return f"toUUID('{UUID(text)}')"


def _escaped(text: str) -> str:
    return text.replace("'", "\\'")


async def scope_of(db: Database, call: Call, filter: EventFilter) -> Scope:
    """Raises NotFound(CAMPAIGN_NOT_VISIBLE) when the filter names one that the caller may not see."""
    caller = call.caller
    if caller.may(Permission.PERMISSION_TELEMETRY_READ):
        return Scope(caller.org_id)
    named = {text.lower() for text in filter.campaign_ids}
    if named and named != await visible_campaigns(db, call, named):
        raise NotFound("CAMPAIGN_NOT_VISIBLE", "The filter names a campaign that does not exist.")
    return Scope(caller.org_id, caller.user_id, tuple(sorted(named)))


class Analytics:
    """Queries to the column store: within a scope, within limits, within the organisation's share."""

    def __init__(self, clickhouse: ClickHouse, settings: Settings) -> None:
        self.clickhouse = clickhouse
        self.settings = settings
        self.quotas = Quotas(settings)
        self.is_replica = bool(settings.clickhouse_read_url.get_secret_value())
        self._delay_s, self._delay_known_at = 0, -DELAY_KNOWN_S
        self._filters_known_at = -FILTERS_KNOWN_S

    async def replica_delay_s(self, call: Call) -> int:
        """How far what is read may be behind what was written. Raises what `rows` raises."""
        if self.is_replica and time.monotonic() - self._delay_known_at >= DELAY_KNOWN_S:
            rows = await self.clickhouse.query(
                REPLICA_DELAY, {}, deadline=call.deadline, rows_max=1
            )
            self._delay_s, self._delay_known_at = int(rows[0][0]), time.monotonic()
        return self._delay_s

    async def rows(
        self,
        call: Call,
        scope: Scope,
        statement: LiteralString,
        params: Mapping[str, Any],
        *,
        rows_max: int,
        merges_sketches: bool = False,
    ) -> list[tuple[Any, ...]]:
        """Rows of a SELECT, with %(org_id)s given.

        Raises Unavailable, TimedOut, Invalid(QUERY_TOO_LARGE), Exhausted(TOO_MANY_QUERIES,
        QUERY_TIME_USED).
        """
        settings = self.settings
        limits = {
            "additional_table_filters": scope.filters(),
            "max_rows_to_read": settings.telemetry_query_rows_max,
            "max_memory_usage": settings.telemetry_query_bytes_max,
            "read_overflow_mode": "throw",
            "timeout_overflow_mode": "throw",
            **(IN_PARALLEL if merges_sketches else {}),
        }

        async def ask() -> list[tuple[Any, ...]]:
            await self._expect_filters(call)
            return await self.clickhouse.query(
                statement,
                {**params, "org_id": str(UUID(scope.org_id))},
                deadline=min(call.deadline, time.monotonic() + settings.telemetry_query_s),
                rows_max=rows_max,
                limits=limits,
                to_the_end=True,
            )

        return await self.quotas.within(scope.org_id, ask)

    async def _expect_filters(self, call: Call) -> None:
        """That the server applies filters, for one that does not know the setting ignores it and says
        nothing. Raises Unavailable(STORE_WITHOUT_FILTERS)."""
        if time.monotonic() - self._filters_known_at < FILTERS_KNOWN_S:
            return
        limits = {"additional_table_filters": "{'system.one': '0'}"}
        rows = await self.clickhouse.query(
            ONE, {}, deadline=call.deadline, rows_max=1, limits=limits
        )
        if rows:
            raise Unavailable(
                "STORE_WITHOUT_FILTERS",
                "The column store ignores the setting that keeps organisations apart, so nothing is"
                " read from it. Operators: ClickHouse 24.5 or newer, and a user who may change settings.",
            )
        self._filters_known_at = time.monotonic()
