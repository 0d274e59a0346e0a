"""PrivacyService: requests in, answers out."""

from __future__ import annotations

from chimera.call import Call
from chimera.core import Core
from chimera.identity.erasure import cancel_erasure, request_erasure
from chimera.privacy.export import export_person
from chimera.v1 import privacy_pb2_grpc
from chimera.v1.privacy_pb2 import (
    CancelErasureRequest,
    CancelErasureResponse,
    ExportMyDataRequest,
    ExportMyDataResponse,
    RequestErasureRequest,
    RequestErasureResponse,
)


class PrivacyService(privacy_pb2_grpc.PrivacyServiceServicer):
    """The servicer; see proto/chimera/v1/privacy.proto for what each call promises."""

    def __init__(self, core: Core) -> None:
        self.core, self.db = core, core.db

    async def ExportMyData(self, request: ExportMyDataRequest, call: Call) -> ExportMyDataResponse:
        document, next_page_token = await export_person(self.core, call, request.page_token)
        return ExportMyDataResponse(document=document, next_page_token=next_page_token)

    async def RequestErasure(
        self, request: RequestErasureRequest, call: Call
    ) -> RequestErasureResponse:
        async with self.db.begin(call) as tx:
            return RequestErasureResponse(erase_at=await request_erasure(self.core, tx))

    async def CancelErasure(
        self, request: CancelErasureRequest, call: Call
    ) -> CancelErasureResponse:
        async with self.db.begin(call) as tx:
            await cancel_erasure(tx)
            return CancelErasureResponse()
