"""EvaluationService: what people make of recorded results."""

from __future__ import annotations

from collections.abc import AsyncIterator

from chimera.call import Call
from chimera.campaigns.evaluation import agreement, comparison, overrides, scorings
from chimera.campaigns.evaluation.exporting import export_results
from chimera.campaigns.evidence.bundling import export_evidence
from chimera.core import Core
from chimera.v1 import evaluation_pb2_grpc
from chimera.v1.evaluation_pb2 import (
    CancelScoringRequest,
    CancelScoringResponse,
    CompareRunsRequest,
    CompareRunsResponse,
    EvaluateScorerRequest,
    EvaluateScorerResponse,
    ExportEvidenceRequest,
    ExportEvidenceResponse,
    ExportResultsRequest,
    ExportResultsResponse,
    GetScoringRequest,
    GetScoringResponse,
    ListFlipsRequest,
    ListFlipsResponse,
    ListOverridesRequest,
    ListOverridesResponse,
    ListScoringsRequest,
    ListScoringsResponse,
    ListVerdictsRequest,
    ListVerdictsResponse,
    OverrideVerdictRequest,
    OverrideVerdictResponse,
    RescoreRunRequest,
    RescoreRunResponse,
    WithdrawOverrideRequest,
    WithdrawOverrideResponse,
)


class EvaluationService(evaluation_pb2_grpc.EvaluationServiceServicer):
    def __init__(self, core: Core) -> None:
        self.db, self.pages = core.db, core.pages

    async def CompareRuns(self, request: CompareRunsRequest, call: Call) -> CompareRunsResponse:
        async with self.db.look(call) as tx:
            return await comparison.compare_runs(tx, request.pairing)

    async def ListFlips(self, request: ListFlipsRequest, call: Call) -> ListFlipsResponse:
        size, position = self.pages.page(request)
        async with self.db.look(call) as tx:
            rows = await comparison.list_flips(
                tx,
                request.pairing,
                after=position[0] if position else None,
                limit=size + 1,
            )
        token = self.pages.next_token(request, rows, size, "first_cell_no")
        return ListFlipsResponse(flips=rows[:size], next_page_token=token)

    async def RescoreRun(self, request: RescoreRunRequest, call: Call) -> RescoreRunResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(RescoreRunResponse(scoring=await scorings.rescore_run(tx, request)))

    async def CancelScoring(
        self, request: CancelScoringRequest, call: Call
    ) -> CancelScoringResponse:
        async with self.db.begin(call) as tx:
            scoring = await scorings.cancel_scoring(tx, request)
            return tx.answer(CancelScoringResponse(scoring=scoring))

    async def GetScoring(self, request: GetScoringRequest, call: Call) -> GetScoringResponse:
        async with self.db.look(call) as tx:
            return GetScoringResponse(scoring=await scorings.get_scoring(tx, request.scoring_id))

    async def ListScorings(self, request: ListScoringsRequest, call: Call) -> ListScoringsResponse:
        size, position = self.pages.page(request)
        async with self.db.look(call) as tx:
            rows = await scorings.list_scorings(
                tx, request.run_id, after=position[0] if position else None, limit=size + 1
            )
        token = self.pages.next_token(request, rows, size, "id")
        return ListScoringsResponse(scorings=rows[:size], next_page_token=token)

    async def ListVerdicts(self, request: ListVerdictsRequest, call: Call) -> ListVerdictsResponse:
        size, position = self.pages.page(request)
        async with self.db.look(call) as tx:
            rows = await scorings.list_verdicts(
                tx,
                request.scoring_id,
                flipped_only=request.flipped_only,
                after=position[0] if position else None,
                limit=size + 1,
            )
        token = self.pages.next_token(request, rows, size, "cell_no")
        return ListVerdictsResponse(verdicts=rows[:size], next_page_token=token)

    async def OverrideVerdict(
        self, request: OverrideVerdictRequest, call: Call
    ) -> OverrideVerdictResponse:
        async with self.db.begin(call) as tx:
            override = await overrides.override_verdict(tx, request)
            return tx.answer(OverrideVerdictResponse(override=override))

    async def WithdrawOverride(
        self, request: WithdrawOverrideRequest, call: Call
    ) -> WithdrawOverrideResponse:
        async with self.db.begin(call) as tx:
            override = await overrides.withdraw_override(tx, request.run_id, request.cell_no)
            return tx.answer(WithdrawOverrideResponse(override=override))

    async def ListOverrides(
        self, request: ListOverridesRequest, call: Call
    ) -> ListOverridesResponse:
        size, position = self.pages.page(request)
        async with self.db.look(call) as tx:
            rows = await overrides.list_overrides(
                tx,
                request.run_id,
                show_withdrawn=request.show_withdrawn,
                after=position[0] if position else None,
                limit=size + 1,
            )
        token = self.pages.next_token(request, rows, size, "id")
        return ListOverridesResponse(overrides=rows[:size], next_page_token=token)

    async def EvaluateScorer(
        self, request: EvaluateScorerRequest, call: Call
    ) -> EvaluateScorerResponse:
        async with self.db.look(call) as tx:
            return await agreement.evaluate_scorer(tx, request.run_id, request.scoring_id)

    async def ExportEvidence(
        self, request: ExportEvidenceRequest, call: Call
    ) -> AsyncIterator[ExportEvidenceResponse]:
        async for data in export_evidence(self.db, request.run_id, call):
            yield ExportEvidenceResponse(data=data)

    async def ExportResults(
        self, request: ExportResultsRequest, call: Call
    ) -> AsyncIterator[ExportResultsResponse]:
        async for data in export_results(self.db, request, call):
            yield ExportResultsResponse(data=data)
