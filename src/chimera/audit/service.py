"""AuditService: the log over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator

from chimera.audit import operations
from chimera.audit.export import export_lines
from chimera.call import Call
from chimera.core import Core
from chimera.v1 import audit_pb2_grpc
from chimera.v1.audit_pb2 import (
    ExportAuditLogRequest,
    ExportAuditLogResponse,
    GetAuditEventRequest,
    GetAuditEventResponse,
    GetCheckpointRequest,
    GetCheckpointResponse,
    GetConsistencyProofRequest,
    GetConsistencyProofResponse,
    GetInclusionProofRequest,
    GetInclusionProofResponse,
    ListAuditEventsRequest,
    ListAuditEventsResponse,
)


class AuditService(audit_pb2_grpc.AuditServiceServicer):
    def __init__(self, core: Core) -> None:
        self.db, self.pages = core.db, core.pages

    async def ListAuditEvents(
        self, request: ListAuditEventsRequest, call: Call
    ) -> ListAuditEventsResponse:
        async with self.db.begin(call) as tx:
            events, token = await operations.list_audit_events(tx, self.pages, request)
            return ListAuditEventsResponse(events=events, next_page_token=token)

    async def GetAuditEvent(
        self, request: GetAuditEventRequest, call: Call
    ) -> GetAuditEventResponse:
        async with self.db.begin(call) as tx:
            return await operations.get_audit_event(tx, request.event_id)

    async def GetCheckpoint(
        self, _request: GetCheckpointRequest, call: Call
    ) -> GetCheckpointResponse:
        async with self.db.begin(call) as tx:
            return await operations.get_checkpoint(tx)

    async def GetInclusionProof(
        self, request: GetInclusionProofRequest, call: Call
    ) -> GetInclusionProofResponse:
        async with self.db.begin(call) as tx:
            return await operations.get_inclusion_proof(tx, request)

    async def GetConsistencyProof(
        self, request: GetConsistencyProofRequest, call: Call
    ) -> GetConsistencyProofResponse:
        async with self.db.begin(call) as tx:
            return await operations.get_consistency_proof(tx, request)

    async def ExportAuditLog(
        self, _request: ExportAuditLogRequest, call: Call
    ) -> AsyncIterator[ExportAuditLogResponse]:
        async for lines in export_lines(self.db, call):
            yield ExportAuditLogResponse(lines=lines)
