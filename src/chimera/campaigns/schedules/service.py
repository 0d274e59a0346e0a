"""ScheduleService: one method an RPC."""

from __future__ import annotations

from chimera.call import Call
from chimera.campaigns.schedules import operations
from chimera.campaigns.secrecy import shown
from chimera.core import Core
from chimera.v1 import schedules_pb2_grpc
from chimera.v1.schedules_pb2 import (
    GetScheduleRequest,
    GetScheduleResponse,
    ListSchedulesRequest,
    ListSchedulesResponse,
    ScheduleCampaignRequest,
    ScheduleCampaignResponse,
    UnscheduleCampaignRequest,
    UnscheduleCampaignResponse,
)


class ScheduleService(schedules_pb2_grpc.ScheduleServiceServicer):
    """Campaigns that are launched by themselves."""

    def __init__(self, core: Core) -> None:
        self.db, self.pages, self.settings = core.db, core.pages, core.settings
        self.row_seals = core.row_seals

    async def ScheduleCampaign(
        self, request: ScheduleCampaignRequest, call: Call
    ) -> ScheduleCampaignResponse:
        async with self.db.begin(call) as tx:
            campaign, schedule = await operations.schedule_campaign(
                tx, request, self.settings, self.row_seals
            )
            return tx.answer(
                ScheduleCampaignResponse(campaign=await shown(tx, campaign), schedule=schedule)
            )

    async def UnscheduleCampaign(
        self, request: UnscheduleCampaignRequest, call: Call
    ) -> UnscheduleCampaignResponse:
        async with self.db.begin(call) as tx:
            campaign, schedule = await operations.unschedule_campaign(tx, request.campaign_id)
            return tx.answer(
                UnscheduleCampaignResponse(campaign=await shown(tx, campaign), schedule=schedule)
            )

    async def GetSchedule(self, request: GetScheduleRequest, call: Call) -> GetScheduleResponse:
        async with self.db.look(call) as tx:
            return GetScheduleResponse(
                schedule=await operations.get_schedule(tx, request.campaign_id)
            )

    async def ListSchedules(
        self, request: ListSchedulesRequest, call: Call
    ) -> ListSchedulesResponse:
        async with self.db.look(call) as tx:
            found, token = await operations.list_schedules(tx, self.pages, request)
        return ListSchedulesResponse(schedules=found, next_page_token=token)
