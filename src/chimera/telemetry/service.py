"""TelemetryService: events, hourly series, and how far the store is behind."""

from __future__ import annotations

from chimera.call import Call
from chimera.clickhouse import ClickHouse
from chimera.core import Core
from chimera.telemetry.operations import (
    complete_to,
    get_execution_series,
    get_ingest_status,
    list_events,
)
from chimera.v1 import telemetry_pb2_grpc
from chimera.v1.telemetry_pb2 import (
    GetExecutionSeriesRequest,
    GetExecutionSeriesResponse,
    GetIngestStatusRequest,
    GetIngestStatusResponse,
    ListEventsRequest,
    ListEventsResponse,
)


class TelemetryService(telemetry_pb2_grpc.TelemetryServiceServicer):
    def __init__(self, core: Core) -> None:
        self.db = core.db
        self.clickhouse = ClickHouse(core.settings.clickhouse_url.get_secret_value())

    async def ListEvents(self, request: ListEventsRequest, call: Call) -> ListEventsResponse:
        return ListEventsResponse(events=await list_events(self.clickhouse, call, request))

    async def GetExecutionSeries(
        self, request: GetExecutionSeriesRequest, call: Call
    ) -> GetExecutionSeriesResponse:
        # First the buffer, then the store: what leaves the one in between is in the other.
        async with self.db.begin(call) as tx:
            complete = await complete_to(tx)
        points = await get_execution_series(self.clickhouse, call, request)
        return GetExecutionSeriesResponse(points=points, complete_to=complete)

    async def GetIngestStatus(
        self, request: GetIngestStatusRequest, call: Call
    ) -> GetIngestStatusResponse:
        async with self.db.begin(call) as tx:
            return await get_ingest_status(tx)
