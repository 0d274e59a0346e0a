"""TelemetryService: events in, numbers out."""

from __future__ import annotations

from collections.abc import AsyncIterator

from chimera.call import Call
from chimera.core import Core
from chimera.paging import ANSWER_BYTES
from chimera.telemetry import activity, dead_letters, ledger, listing, operations, queries
from chimera.telemetry.intake import Intake
from chimera.telemetry.scope import Analytics
from chimera.telemetry.tail import Tail
from chimera.v1 import telemetry_pb2_grpc
from chimera.v1.telemetry_pb2 import (
    DiscardDeadLettersRequest,
    DiscardDeadLettersResponse,
    GetExecutionSeriesRequest,
    GetExecutionSeriesResponse,
    GetIngestStatusRequest,
    GetIngestStatusResponse,
    ListDeadLettersRequest,
    ListDeadLettersResponse,
    ListEventsRequest,
    ListEventsResponse,
    ListRecentWorkloadsRequest,
    ListRecentWorkloadsResponse,
    ListReconciliationsRequest,
    ListReconciliationsResponse,
    ListUserActivityRequest,
    ListUserActivityResponse,
    ListUserSummariesRequest,
    ListUserSummariesResponse,
    QuerySeriesRequest,
    QuerySeriesResponse,
    QueryTopRequest,
    QueryTopResponse,
    ReconcileTelemetryRequest,
    ReconcileTelemetryResponse,
    RecordEventsRequest,
    RecordEventsResponse,
    RequeueDeadLettersRequest,
    RequeueDeadLettersResponse,
    StreamEventsRequest,
    StreamEventsResponse,
    UploadEventsRequest,
    UploadEventsResponse,
    WatchEventsRequest,
    WatchEventsResponse,
)


class TelemetryService(telemetry_pb2_grpc.TelemetryServiceServicer):
    def __init__(self, core: Core) -> None:
        self.db, self.replica = core.db, core.replica
        self.pages = core.pages
        self.intake = Intake(core.db, core.settings)
        self.analytics = Analytics(core.analytics, core.settings)
        self.tail = Tail(core.db, core.pages)

    async def RecordEvents(self, request: RecordEventsRequest, call: Call) -> RecordEventsResponse:
        return RecordEventsResponse(receipt=await self.intake.record(call, request.batch))

    async def UploadEvents(
        self, requests: AsyncIterator[UploadEventsRequest], call: Call
    ) -> UploadEventsResponse:
        answer = UploadEventsResponse()
        told_bytes = 0
        async for receipt in self.intake.record_all(call, requests):
            told_bytes += receipt.ByteSize()
            if told_bytes > ANSWER_BYTES:
                receipt.ClearField("errors")
                receipt.ClearField("unfit_indexes")
            answer.receipts.append(receipt)
        return answer

    async def StreamEvents(
        self, requests: AsyncIterator[StreamEventsRequest], call: Call
    ) -> AsyncIterator[StreamEventsResponse]:
        async for receipt in self.intake.record_all(call, requests):
            yield StreamEventsResponse(receipt=receipt)

    async def ListEvents(self, request: ListEventsRequest, call: Call) -> ListEventsResponse:
        return await listing.list_events(self.db, self.analytics, self.pages, call, request)

    async def WatchEvents(
        self, request: WatchEventsRequest, call: Call
    ) -> AsyncIterator[WatchEventsResponse]:
        async for item in self.tail.watch(call, request):
            yield item

    async def QuerySeries(self, request: QuerySeriesRequest, call: Call) -> QuerySeriesResponse:
        return await queries.query_series(self.db, self.analytics, call, request)

    async def QueryTop(self, request: QueryTopRequest, call: Call) -> QueryTopResponse:
        return await queries.query_top(self.db, self.analytics, call, request)

    async def ListRecentWorkloads(
        self, request: ListRecentWorkloadsRequest, call: Call
    ) -> ListRecentWorkloadsResponse:
        return await activity.list_recent_workloads(
            self.db, self.analytics, self.pages, call, request
        )

    async def ListUserActivity(
        self, request: ListUserActivityRequest, call: Call
    ) -> ListUserActivityResponse:
        return await activity.list_user_activity(self.db, self.analytics, self.pages, call, request)

    async def ListUserSummaries(
        self, request: ListUserSummariesRequest, call: Call
    ) -> ListUserSummariesResponse:
        return await activity.list_user_summaries(self.replica, self.pages, call, request)

    async def GetExecutionSeries(
        self, request: GetExecutionSeriesRequest, call: Call
    ) -> GetExecutionSeriesResponse:
        return await listing.get_execution_series(self.db, self.analytics, call, request)

    async def GetIngestStatus(
        self, request: GetIngestStatusRequest, call: Call
    ) -> GetIngestStatusResponse:
        async with self.db.begin(call) as tx:
            return await operations.get_ingest_status(tx)

    async def ListDeadLetters(
        self, request: ListDeadLettersRequest, call: Call
    ) -> ListDeadLettersResponse:
        async with self.db.begin(call) as tx:
            return await dead_letters.list_dead_letters(tx, self.pages, request)

    async def RequeueDeadLetters(
        self, request: RequeueDeadLettersRequest, call: Call
    ) -> RequeueDeadLettersResponse:
        async with self.db.begin(call) as tx:
            events = await dead_letters.requeue_dead_letters(tx, list(request.dead_letter_ids))
            return tx.answer(RequeueDeadLettersResponse(events=events))

    async def DiscardDeadLetters(
        self, request: DiscardDeadLettersRequest, call: Call
    ) -> DiscardDeadLettersResponse:
        async with self.db.begin(call) as tx:
            events = await dead_letters.discard_dead_letters(tx, list(request.dead_letter_ids))
            return tx.answer(DiscardDeadLettersResponse(events=events))

    async def ListReconciliations(
        self, request: ListReconciliationsRequest, call: Call
    ) -> ListReconciliationsResponse:
        async with self.db.begin(call) as tx:
            return await ledger.list_reconciliations(tx, self.pages, request)

    async def ReconcileTelemetry(
        self, request: ReconcileTelemetryRequest, call: Call
    ) -> ReconcileTelemetryResponse:
        async with self.db.begin(call) as tx:
            await ledger.ask(tx, replaces=request.replace_differing)
            return tx.answer(ReconcileTelemetryResponse())
