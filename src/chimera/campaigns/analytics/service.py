"""AnalyticsService: rates, latency and cost over time and by dimension."""

from __future__ import annotations

from chimera.call import Call
from chimera.campaigns.analytics import runs, windows
from chimera.core import Core
from chimera.v1 import analytics_pb2_grpc
from chimera.v1.analytics_pb2 import (
    AnalyseRunRequest,
    AnalyseRunResponse,
    ListWindowsRequest,
    ListWindowsResponse,
    SliceRatesRequest,
    SliceRatesResponse,
)


class AnalyticsService(analytics_pb2_grpc.AnalyticsServiceServicer):
    def __init__(self, core: Core) -> None:
        # What is computed of a run is read where it was written; stored figures follow anyway.
        self.db, self.replica, self.pages = core.db, core.replica, core.pages

    async def ListWindows(self, request: ListWindowsRequest, call: Call) -> ListWindowsResponse:
        size, position = self.pages.page(request)
        async with self.replica.look(call) as tx:
            rows = await windows.list_windows(
                tx, request, before=position[0] if position else None, limit=size + 1
            )
        token = self.pages.next_token(request, rows, size, "start_time")
        return ListWindowsResponse(windows=rows[:size], next_page_token=token)

    async def SliceRates(self, request: SliceRatesRequest, call: Call) -> SliceRatesResponse:
        async with self.replica.look(call) as tx:
            return await windows.slice_rates(tx, request)

    async def AnalyseRun(self, request: AnalyseRunRequest, call: Call) -> AnalyseRunResponse:
        async with self.db.look(call) as tx:
            return await runs.analyse_run(tx, request.run_id)
