"""CampaignService: one short method an RPC."""

from __future__ import annotations

from collections.abc import AsyncIterator

from chimera.call import Call
from chimera.campaigns import (
    archiving,
    cloning,
    costing,
    launching,
    operations,
    reruns,
    results,
    runs,
)
from chimera.campaigns.catalogue import scorer_kinds, techniques
from chimera.campaigns.secrecy import shown
from chimera.core import Core
from chimera.v1 import campaigns_pb2_grpc, usage_pb2_grpc
from chimera.v1.campaigns_pb2 import (
    ArchiveCampaignRequest,
    ArchiveCampaignResponse,
    CancelCampaignRequest,
    CancelCampaignResponse,
    CloneCampaignRequest,
    CloneCampaignResponse,
    CreateCampaignRequest,
    CreateCampaignResponse,
    DeleteCampaignRequest,
    DeleteCampaignResponse,
    GetCampaignRequest,
    GetCampaignResponse,
    GetExecutionRequest,
    GetExecutionResponse,
    GetRunRequest,
    GetRunResponse,
    GetRunSummaryRequest,
    GetRunSummaryResponse,
    LaunchCampaignRequest,
    LaunchCampaignResponse,
    ListCampaignsRequest,
    ListCampaignsResponse,
    ListExecutionsRequest,
    ListExecutionsResponse,
    ListRunsRequest,
    ListRunsResponse,
    ListScorersRequest,
    ListScorersResponse,
    ListTechniquesRequest,
    ListTechniquesResponse,
    PauseCampaignRequest,
    PauseCampaignResponse,
    PreviewCampaignRequest,
    PreviewCampaignResponse,
    RerunFailedRequest,
    RerunFailedResponse,
    ResumeCampaignRequest,
    ResumeCampaignResponse,
    TuneRunRequest,
    TuneRunResponse,
    UnarchiveCampaignRequest,
    UnarchiveCampaignResponse,
    UndeleteCampaignRequest,
    UndeleteCampaignResponse,
    UpdateCampaignRequest,
    UpdateCampaignResponse,
    WatchRunRequest,
    WatchRunResponse,
)
from chimera.v1.usage_pb2 import (
    CompareCostRequest,
    CompareCostResponse,
    PreviewCostRequest,
    PreviewCostResponse,
)


class CampaignService(campaigns_pb2_grpc.CampaignServiceServicer):
    """Campaigns, runs and results."""

    def __init__(self, core: Core) -> None:
        self.db, self.pages, self.settings = core.db, core.pages, core.settings
        self.row_seals = core.row_seals

    async def CreateCampaign(
        self, request: CreateCampaignRequest, call: Call
    ) -> CreateCampaignResponse:
        async with self.db.begin(call) as tx:
            campaign = await operations.create_campaign(tx, request, self.row_seals)
            return tx.answer(CreateCampaignResponse(campaign=await shown(tx, campaign)))

    async def GetCampaign(self, request: GetCampaignRequest, call: Call) -> GetCampaignResponse:
        async with self.db.look(call) as tx:
            campaign = await operations.get_campaign(tx, request.campaign_id)
            return GetCampaignResponse(campaign=await shown(tx, campaign))

    async def ListCampaigns(
        self, request: ListCampaignsRequest, call: Call
    ) -> ListCampaignsResponse:
        size, position = self.pages.page(request)
        answer = ListCampaignsResponse()
        async with self.db.look(call) as tx:
            await operations.list_campaigns(
                tx,
                answer.campaigns,
                request,
                after=position[0] if position else None,
                limit=size + 1,
            )
        answer.next_page_token = self.pages.next_token(request, answer.campaigns, size, "id")
        del answer.campaigns[size:]
        return answer

    async def UpdateCampaign(
        self, request: UpdateCampaignRequest, call: Call
    ) -> UpdateCampaignResponse:
        async with self.db.begin(call) as tx:
            campaign = await operations.update_campaign(tx, request, self.row_seals)
            return tx.answer(UpdateCampaignResponse(campaign=await shown(tx, campaign)))

    async def DeleteCampaign(
        self, request: DeleteCampaignRequest, call: Call
    ) -> DeleteCampaignResponse:
        async with self.db.begin(call) as tx:
            campaign = await operations.delete_campaign(tx, request.campaign_id, request.etag)
            return tx.answer(DeleteCampaignResponse(campaign=await shown(tx, campaign)))

    async def UndeleteCampaign(
        self, request: UndeleteCampaignRequest, call: Call
    ) -> UndeleteCampaignResponse:
        async with self.db.begin(call) as tx:
            campaign = await operations.undelete_campaign(tx, request.campaign_id)
            return tx.answer(UndeleteCampaignResponse(campaign=await shown(tx, campaign)))

    async def PreviewCampaign(
        self, request: PreviewCampaignRequest, call: Call
    ) -> PreviewCampaignResponse:
        async with self.db.begin(call) as tx:
            return await launching.preview_campaign(
                tx, request.campaign_id, self.settings, self.row_seals
            )

    async def LaunchCampaign(
        self, request: LaunchCampaignRequest, call: Call
    ) -> LaunchCampaignResponse:
        async with self.db.begin(call) as tx:
            campaign, run = await launching.launch_campaign(
                tx, request.campaign_id, self.settings, self.row_seals
            )
            return tx.answer(LaunchCampaignResponse(campaign=await shown(tx, campaign), run=run))

    async def PauseCampaign(
        self, request: PauseCampaignRequest, call: Call
    ) -> PauseCampaignResponse:
        async with self.db.begin(call) as tx:
            campaign = await runs.pause_campaign(tx, request.campaign_id, request.reason)
            return tx.answer(PauseCampaignResponse(campaign=await shown(tx, campaign)))

    async def ResumeCampaign(
        self, request: ResumeCampaignRequest, call: Call
    ) -> ResumeCampaignResponse:
        async with self.db.begin(call) as tx:
            campaign = await runs.resume_campaign(tx, request.campaign_id)
            return tx.answer(ResumeCampaignResponse(campaign=await shown(tx, campaign)))

    async def CancelCampaign(
        self, request: CancelCampaignRequest, call: Call
    ) -> CancelCampaignResponse:
        async with self.db.begin(call) as tx:
            campaign = await runs.cancel_campaign(tx, request.campaign_id, request.reason)
            return tx.answer(CancelCampaignResponse(campaign=await shown(tx, campaign)))

    async def TuneRun(self, request: TuneRunRequest, call: Call) -> TuneRunResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(TuneRunResponse(run=await runs.tune_run(tx, request)))

    async def GetRun(self, request: GetRunRequest, call: Call) -> GetRunResponse:
        async with self.db.look(call) as tx:
            run = await runs.get_run(tx, request.run_id)
            return GetRunResponse(run=await runs.add_waiting(tx, run))

    async def ListRuns(self, request: ListRunsRequest, call: Call) -> ListRunsResponse:
        size, position = self.pages.page(request)
        async with self.db.look(call) as tx:
            rows = await runs.list_runs(
                tx, request.campaign_id, after=position[0] if position else None, limit=size + 1
            )
        token = self.pages.next_token(request, rows, size, "id")
        return ListRunsResponse(runs=rows[:size], next_page_token=token)

    async def GetRunSummary(
        self, request: GetRunSummaryRequest, call: Call
    ) -> GetRunSummaryResponse:
        async with self.db.look(call) as tx:
            if request.include_origins:
                return await reruns.summarise_with_origins(tx, request.run_id)
            return await runs.summarise_run(tx, request.run_id)

    async def WatchRun(
        self, request: WatchRunRequest, call: Call
    ) -> AsyncIterator[WatchRunResponse]:
        async for item in results.watch_run(self.db, self.pages, request, call):
            yield item

    async def ListExecutions(
        self, request: ListExecutionsRequest, call: Call
    ) -> ListExecutionsResponse:
        size, position = self.pages.page(request)
        async with self.db.look(call) as tx:
            rows, more = await results.list_executions(
                tx, request, after=position[0] if position else None, limit=size
            )
        # A page of large results ends before it is full.
        fetched = [*rows, None] if more else rows
        token = self.pages.next_token(request, fetched, len(rows), "cell_no")
        return ListExecutionsResponse(executions=rows, next_page_token=token)

    async def GetExecution(self, request: GetExecutionRequest, call: Call) -> GetExecutionResponse:
        async with self.db.look(call) as tx:
            return await results.get_execution(
                tx, request.run_id, request.cell_no, self.row_seals, request.turns_after
            )

    async def CloneCampaign(
        self, request: CloneCampaignRequest, call: Call
    ) -> CloneCampaignResponse:
        async with self.db.begin(call) as tx:
            campaign = await cloning.clone_campaign(tx, request, self.row_seals)
            return tx.answer(CloneCampaignResponse(campaign=await shown(tx, campaign)))

    async def RerunFailed(self, request: RerunFailedRequest, call: Call) -> RerunFailedResponse:
        async with self.db.begin(call) as tx:
            campaign, run = await reruns.rerun_failed(tx, request)
            return tx.answer(RerunFailedResponse(campaign=await shown(tx, campaign), run=run))

    async def ArchiveCampaign(
        self, request: ArchiveCampaignRequest, call: Call
    ) -> ArchiveCampaignResponse:
        async with self.db.begin(call) as tx:
            campaign = await archiving.archive_campaign(tx, request.campaign_id, request.etag)
            return tx.answer(ArchiveCampaignResponse(campaign=await shown(tx, campaign)))

    async def UnarchiveCampaign(
        self, request: UnarchiveCampaignRequest, call: Call
    ) -> UnarchiveCampaignResponse:
        async with self.db.begin(call) as tx:
            campaign = await archiving.unarchive_campaign(tx, request.campaign_id)
            return tx.answer(UnarchiveCampaignResponse(campaign=await shown(tx, campaign)))

    async def ListTechniques(
        self, request: ListTechniquesRequest, call: Call
    ) -> ListTechniquesResponse:
        return ListTechniquesResponse(techniques=techniques())

    async def ListScorers(self, request: ListScorersRequest, call: Call) -> ListScorersResponse:
        return ListScorersResponse(scorers=scorer_kinds())


class CostService(usage_pb2_grpc.CostServiceServicer):
    """What a campaign will cost, and what it did."""

    def __init__(self, core: Core) -> None:
        self.db, self.settings, self.row_seals = core.db, core.settings, core.row_seals

    async def PreviewCost(self, request: PreviewCostRequest, call: Call) -> PreviewCostResponse:
        async with self.db.begin(call) as tx:
            return await costing.preview_cost(tx, request, self.settings, self.row_seals)

    async def CompareCost(self, request: CompareCostRequest, call: Call) -> CompareCostResponse:
        async with self.db.begin(call) as tx:
            return await costing.compare_cost(tx, request.run_id, self.row_seals)
