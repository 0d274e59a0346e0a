"""SuiteService: one method an RPC."""

from __future__ import annotations

from chimera.call import Call
from chimera.campaigns.suites import operations
from chimera.campaigns.suites.content import built_in_suites
from chimera.core import Core
from chimera.v1 import suites_pb2_grpc
from chimera.v1.suites_pb2 import (
    CreateSuiteRequest,
    CreateSuiteResponse,
    DeleteSuiteRequest,
    DeleteSuiteResponse,
    GetSuiteRequest,
    GetSuiteResponse,
    ListBuiltInSuitesRequest,
    ListBuiltInSuitesResponse,
    ListSuitesRequest,
    ListSuitesResponse,
    ListSuiteVersionsRequest,
    ListSuiteVersionsResponse,
    UndeleteSuiteRequest,
    UndeleteSuiteResponse,
    UpdateSuiteRequest,
    UpdateSuiteResponse,
)


class SuiteService(suites_pb2_grpc.SuiteServiceServicer):
    """Suites of techniques."""

    def __init__(self, core: Core) -> None:
        self.db, self.pages = core.db, core.pages

    async def CreateSuite(self, request: CreateSuiteRequest, call: Call) -> CreateSuiteResponse:
        async with self.db.begin(call) as tx:
            suite = await operations.create_suite(tx, request)
            return tx.answer(CreateSuiteResponse(suite=suite))

    async def GetSuite(self, request: GetSuiteRequest, call: Call) -> GetSuiteResponse:
        async with self.db.look(call) as tx:
            return GetSuiteResponse(
                suite=await operations.get_suite(tx, request.suite_id, request.version_number)
            )

    async def ListSuites(self, request: ListSuitesRequest, call: Call) -> ListSuitesResponse:
        async with self.db.look(call) as tx:
            found, token = await operations.list_suites(tx, self.pages, request)
        return ListSuitesResponse(suites=found, next_page_token=token)

    async def ListBuiltInSuites(
        self, request: ListBuiltInSuitesRequest, call: Call
    ) -> ListBuiltInSuitesResponse:
        return ListBuiltInSuitesResponse(suites=built_in_suites())

    async def UpdateSuite(self, request: UpdateSuiteRequest, call: Call) -> UpdateSuiteResponse:
        async with self.db.begin(call) as tx:
            suite = await operations.update_suite(tx, request)
            return tx.answer(UpdateSuiteResponse(suite=suite))

    async def DeleteSuite(self, request: DeleteSuiteRequest, call: Call) -> DeleteSuiteResponse:
        async with self.db.begin(call) as tx:
            suite = await operations.delete_suite(tx, request.suite_id, request.etag)
            return tx.answer(DeleteSuiteResponse(suite=suite))

    async def UndeleteSuite(
        self, request: UndeleteSuiteRequest, call: Call
    ) -> UndeleteSuiteResponse:
        async with self.db.begin(call) as tx:
            suite = await operations.undelete_suite(tx, request.suite_id)
            return tx.answer(UndeleteSuiteResponse(suite=suite))

    async def ListSuiteVersions(
        self, request: ListSuiteVersionsRequest, call: Call
    ) -> ListSuiteVersionsResponse:
        async with self.db.look(call) as tx:
            found, token = await operations.list_suite_versions(tx, self.pages, request)
        return ListSuiteVersionsResponse(versions=found, next_page_token=token)
