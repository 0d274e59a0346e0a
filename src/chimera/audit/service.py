"""AuditService: the log over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator

from chimera.audit import configuration, findings, holds, operations, restore, statistics
from chimera.audit.checking import verify_audit_log
from chimera.audit.export import export_lines
from chimera.audit.watching import watch_audit_events
from chimera.call import Call
from chimera.core import Core
from chimera.v1 import audit_pb2_grpc
from chimera.v1.audit_pb2 import (
    AcknowledgeFindingRequest,
    AcknowledgeFindingResponse,
    ApproveConfigurationChangeRequest,
    ApproveConfigurationChangeResponse,
    ApproveLogRestoreRequest,
    ApproveLogRestoreResponse,
    ExportAuditLogRequest,
    ExportAuditLogResponse,
    GetAuditEventRequest,
    GetAuditEventResponse,
    GetAuditStatisticsRequest,
    GetAuditStatisticsResponse,
    GetCheckpointRequest,
    GetCheckpointResponse,
    GetConsistencyProofRequest,
    GetConsistencyProofResponse,
    GetInclusionProofRequest,
    GetInclusionProofResponse,
    ListAuditEventsRequest,
    ListAuditEventsResponse,
    ListCheckpointsRequest,
    ListCheckpointsResponse,
    ListConfigurationChangesRequest,
    ListConfigurationChangesResponse,
    ListConfigurationRequest,
    ListConfigurationResponse,
    ListFindingsRequest,
    ListFindingsResponse,
    ListLegalHoldsRequest,
    ListLegalHoldsResponse,
    ListLogRestoresRequest,
    ListLogRestoresResponse,
    ListPayloadDropsRequest,
    ListPayloadDropsResponse,
    PlaceLegalHoldRequest,
    PlaceLegalHoldResponse,
    ProposeConfigurationChangeRequest,
    ProposeConfigurationChangeResponse,
    ProposeLogRestoreRequest,
    ProposeLogRestoreResponse,
    RejectConfigurationChangeRequest,
    RejectConfigurationChangeResponse,
    ReleaseLegalHoldRequest,
    ReleaseLegalHoldResponse,
    VerifyAuditLogRequest,
    VerifyAuditLogResponse,
    WatchAuditEventsRequest,
    WatchAuditEventsResponse,
    WithdrawConfigurationChangeRequest,
    WithdrawConfigurationChangeResponse,
)


class AuditService(audit_pb2_grpc.AuditServiceServicer):
    def __init__(self, core: Core) -> None:
        self.db, self.pages, self.settings = core.db, core.pages, core.settings

    async def _check_reader(self, call: Call) -> None:
        """Before a stream's own transactions. Raises Denied(NETWORK_NOT_ALLOWED)."""
        async with self.db.look(call) as tx:
            await configuration.check_reader(tx)

    async def ListAuditEvents(
        self, request: ListAuditEventsRequest, call: Call
    ) -> ListAuditEventsResponse:
        async with self.db.begin(call) as tx:
            await configuration.check_reader(tx)
            events, token = await operations.list_audit_events(tx, self.pages, request)
            return ListAuditEventsResponse(events=events, next_page_token=token)

    async def GetAuditEvent(
        self, request: GetAuditEventRequest, call: Call
    ) -> GetAuditEventResponse:
        async with self.db.begin(call) as tx:
            await configuration.check_reader(tx)
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
        await self._check_reader(call)
        async for lines in export_lines(self.db, call):
            yield ExportAuditLogResponse(lines=lines)

    async def WatchAuditEvents(
        self, request: WatchAuditEventsRequest, call: Call
    ) -> AsyncIterator[WatchAuditEventsResponse]:
        await self._check_reader(call)
        async for answer in watch_audit_events(self.db, self.pages, request, call):
            yield answer

    async def GetAuditStatistics(
        self, request: GetAuditStatisticsRequest, call: Call
    ) -> GetAuditStatisticsResponse:
        async with self.db.begin(call) as tx:
            await configuration.check_reader(tx)
            return await statistics.get_audit_statistics(tx, request)

    async def ListCheckpoints(
        self, request: ListCheckpointsRequest, call: Call
    ) -> ListCheckpointsResponse:
        async with self.db.begin(call) as tx:
            rows, token = await operations.list_checkpoints(tx, self.pages, request)
        return ListCheckpointsResponse(checkpoints=rows, next_page_token=token)

    async def VerifyAuditLog(
        self, request: VerifyAuditLogRequest, call: Call
    ) -> AsyncIterator[VerifyAuditLogResponse]:
        async for answer in verify_audit_log(self.db, call):
            yield answer

    async def ListFindings(self, request: ListFindingsRequest, call: Call) -> ListFindingsResponse:
        async with self.db.begin(call) as tx:
            rows, token = await findings.list_findings(tx, self.pages, request)
        return ListFindingsResponse(findings=rows, next_page_token=token)

    async def AcknowledgeFinding(
        self, request: AcknowledgeFindingRequest, call: Call
    ) -> AcknowledgeFindingResponse:
        async with self.db.begin(call) as tx:
            finding = await findings.acknowledge_finding(tx, request.finding_id, request.note)
            return tx.answer(AcknowledgeFindingResponse(finding=finding))

    async def ListConfiguration(
        self, request: ListConfigurationRequest, call: Call
    ) -> ListConfigurationResponse:
        async with self.db.begin(call) as tx:
            return ListConfigurationResponse(settings=await configuration.list_configuration(tx))

    async def ListConfigurationChanges(
        self, request: ListConfigurationChangesRequest, call: Call
    ) -> ListConfigurationChangesResponse:
        async with self.db.begin(call) as tx:
            rows, token = await configuration.list_configuration_changes(tx, self.pages, request)
        return ListConfigurationChangesResponse(changes=rows, next_page_token=token)

    async def ProposeConfigurationChange(
        self, request: ProposeConfigurationChangeRequest, call: Call
    ) -> ProposeConfigurationChangeResponse:
        async with self.db.begin(call) as tx:
            change = await configuration.propose_configuration_change(tx, request)
            return tx.answer(ProposeConfigurationChangeResponse(change=change))

    async def ApproveConfigurationChange(
        self, request: ApproveConfigurationChangeRequest, call: Call
    ) -> ApproveConfigurationChangeResponse:
        async with self.db.begin(call) as tx:
            change = await configuration.approve_configuration_change(
                tx, request.change_id, request.reason
            )
            return tx.answer(ApproveConfigurationChangeResponse(change=change))

    async def RejectConfigurationChange(
        self, request: RejectConfigurationChangeRequest, call: Call
    ) -> RejectConfigurationChangeResponse:
        async with self.db.begin(call) as tx:
            change = await configuration.reject_configuration_change(
                tx, request.change_id, request.reason
            )
            return tx.answer(RejectConfigurationChangeResponse(change=change))

    async def WithdrawConfigurationChange(
        self, request: WithdrawConfigurationChangeRequest, call: Call
    ) -> WithdrawConfigurationChangeResponse:
        async with self.db.begin(call) as tx:
            change = await configuration.withdraw_configuration_change(tx, request.change_id)
            return tx.answer(WithdrawConfigurationChangeResponse(change=change))

    async def ListLegalHolds(
        self, request: ListLegalHoldsRequest, call: Call
    ) -> ListLegalHoldsResponse:
        async with self.db.begin(call) as tx:
            rows, token = await holds.list_legal_holds(tx, self.pages, request)
        return ListLegalHoldsResponse(legal_holds=rows, next_page_token=token)

    async def PlaceLegalHold(
        self, request: PlaceLegalHoldRequest, call: Call
    ) -> PlaceLegalHoldResponse:
        async with self.db.begin(call) as tx:
            legal_hold = await holds.place_legal_hold(tx, request)
            return tx.answer(PlaceLegalHoldResponse(legal_hold=legal_hold))

    async def ReleaseLegalHold(
        self, request: ReleaseLegalHoldRequest, call: Call
    ) -> ReleaseLegalHoldResponse:
        async with self.db.begin(call) as tx:
            legal_hold = await holds.release_legal_hold(tx, request.legal_hold_id, request.reason)
            return tx.answer(ReleaseLegalHoldResponse(legal_hold=legal_hold))

    async def ListLogRestores(
        self, request: ListLogRestoresRequest, call: Call
    ) -> ListLogRestoresResponse:
        async with self.db.begin(call) as tx:
            rows, token = await restore.list_log_restores(tx, self.pages, request)
        return ListLogRestoresResponse(log_restores=rows, next_page_token=token)

    async def ProposeLogRestore(
        self, request: ProposeLogRestoreRequest, call: Call
    ) -> ProposeLogRestoreResponse:
        async with self.db.begin(call) as tx:
            log_restore = await restore.propose_log_restore(
                tx, request, self.settings.audit_restore_operators
            )
            return tx.answer(ProposeLogRestoreResponse(log_restore=log_restore))

    async def ApproveLogRestore(
        self, request: ApproveLogRestoreRequest, call: Call
    ) -> ApproveLogRestoreResponse:
        async with self.db.begin(call) as tx:
            log_restore = await restore.approve_log_restore(tx, request.log_restore_id)
            return tx.answer(ApproveLogRestoreResponse(log_restore=log_restore))

    async def ListPayloadDrops(
        self, request: ListPayloadDropsRequest, call: Call
    ) -> ListPayloadDropsResponse:
        async with self.db.begin(call) as tx:
            rows, token = await holds.list_payload_drops(tx, self.pages, request)
        return ListPayloadDropsResponse(payload_drops=rows, next_page_token=token)
