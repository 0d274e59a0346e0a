"""RouteService: one method an RPC, each one transaction."""

from __future__ import annotations

from chimera.call import Call
from chimera.core import Core
from chimera.providers import rate_limits, routes
from chimera.v1 import routes_pb2_grpc
from chimera.v1.routes_pb2 import (
    ClearRateLimitRequest,
    ClearRateLimitResponse,
    CreateRouteRequest,
    CreateRouteResponse,
    DeleteRouteRequest,
    DeleteRouteResponse,
    GetRateLimitRequest,
    GetRateLimitResponse,
    GetRouteRequest,
    GetRouteResponse,
    ListRoutesRequest,
    ListRoutesResponse,
    SetRateLimitRequest,
    SetRateLimitResponse,
    UpdateRouteRequest,
    UpdateRouteResponse,
)


class RouteService(routes_pb2_grpc.RouteServiceServicer):
    def __init__(self, core: Core) -> None:
        self.db, self.pages, self.redis = core.db, core.pages, core.redis

    async def CreateRoute(self, request: CreateRouteRequest, call: Call) -> CreateRouteResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(CreateRouteResponse(route=await routes.create_route(tx, request)))

    async def GetRoute(self, request: GetRouteRequest, call: Call) -> GetRouteResponse:
        async with self.db.look(call) as tx:
            route = await routes.get_route(tx, request.route_id, request.version_number)
            return GetRouteResponse(route=route)

    async def ListRoutes(self, request: ListRoutesRequest, call: Call) -> ListRoutesResponse:
        async with self.db.look(call) as tx:
            found, token = await routes.list_routes(tx, self.pages, request)
            return ListRoutesResponse(routes=found, next_page_token=token)

    async def UpdateRoute(self, request: UpdateRouteRequest, call: Call) -> UpdateRouteResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(UpdateRouteResponse(route=await routes.update_route(tx, request)))

    async def DeleteRoute(self, request: DeleteRouteRequest, call: Call) -> DeleteRouteResponse:
        async with self.db.begin(call) as tx:
            route = await routes.delete_route(tx, request.route_id, request.etag)
            return tx.answer(DeleteRouteResponse(route=route))

    async def SetRateLimit(self, request: SetRateLimitRequest, call: Call) -> SetRateLimitResponse:
        async with self.db.begin(call) as tx:
            limit = await rate_limits.set_rate_limit(tx, request)
            return tx.answer(SetRateLimitResponse(rate_limit=limit))

    async def ClearRateLimit(
        self, request: ClearRateLimitRequest, call: Call
    ) -> ClearRateLimitResponse:
        async with self.db.begin(call) as tx:
            limit = await rate_limits.clear_rate_limit(tx, request.provider_key_id)
            return tx.answer(ClearRateLimitResponse(rate_limit=limit))

    async def GetRateLimit(self, request: GetRateLimitRequest, call: Call) -> GetRateLimitResponse:
        async with self.db.look(call) as tx:
            limit = await rate_limits.get_rate_limit(tx, request.provider_key_id)
        await rate_limits.add_shared_state(self.redis, limit)
        return GetRateLimitResponse(rate_limit=limit)
