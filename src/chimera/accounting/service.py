"""Budgets, alerts, usage: one short method an RPC."""

from __future__ import annotations

from chimera.accounting import alerts, budgets, reconciling, remaining, reports
from chimera.call import Call
from chimera.core import Core
from chimera.v1 import budgets_pb2_grpc, usage_pb2_grpc
from chimera.v1.budgets_pb2 import (
    AcknowledgeAlertRequest,
    AcknowledgeAlertResponse,
    DeleteBudgetRequest,
    DeleteBudgetResponse,
    GetBudgetRequest,
    GetBudgetResponse,
    GetRemainingRequest,
    GetRemainingResponse,
    ListAlertsRequest,
    ListAlertsResponse,
    ListBudgetsRequest,
    ListBudgetsResponse,
    SetBudgetRequest,
    SetBudgetResponse,
)
from chimera.v1.usage_pb2 import (
    QueryUsageRequest,
    QueryUsageResponse,
    ReconcileUsageRequest,
    ReconcileUsageResponse,
)


class BudgetService(budgets_pb2_grpc.BudgetServiceServicer):
    """What may be spent, and what is left."""

    def __init__(self, core: Core) -> None:
        self.db, self.pages = core.db, core.pages

    async def SetBudget(self, request: SetBudgetRequest, call: Call) -> SetBudgetResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(SetBudgetResponse(budget=await budgets.set_budget(tx, request)))

    async def GetBudget(self, request: GetBudgetRequest, call: Call) -> GetBudgetResponse:
        async with self.db.look(call) as tx:
            return GetBudgetResponse(budget=await budgets.get_budget(tx, request.budget_id))

    async def ListBudgets(self, request: ListBudgetsRequest, call: Call) -> ListBudgetsResponse:
        async with self.db.look(call) as tx:
            found, token = await budgets.list_budgets(tx, self.pages, request)
            return ListBudgetsResponse(budgets=found, next_page_token=token)

    async def DeleteBudget(self, request: DeleteBudgetRequest, call: Call) -> DeleteBudgetResponse:
        async with self.db.begin(call) as tx:
            await budgets.delete_budget(tx, request.budget_id)
            return tx.answer(DeleteBudgetResponse())

    async def GetRemaining(self, request: GetRemainingRequest, call: Call) -> GetRemainingResponse:
        async with self.db.look(call) as tx:
            found = await remaining.get_remaining(tx, request.campaign_id)
            return GetRemainingResponse(remaining=found)


class AlertService(budgets_pb2_grpc.AlertServiceServicer):
    """Who was told that a budget is nearly spent."""

    def __init__(self, core: Core) -> None:
        self.db, self.pages = core.db, core.pages

    async def ListAlerts(self, request: ListAlertsRequest, call: Call) -> ListAlertsResponse:
        async with self.db.look(call) as tx:
            found, token = await alerts.list_alerts(tx, self.pages, request)
            return ListAlertsResponse(alerts=found, next_page_token=token)

    async def AcknowledgeAlert(
        self, request: AcknowledgeAlertRequest, call: Call
    ) -> AcknowledgeAlertResponse:
        async with self.db.begin(call) as tx:
            alert = await alerts.acknowledge_alert(tx, request.alert_id, request.note)
            return tx.answer(AcknowledgeAlertResponse(alert=alert))


class UsageService(usage_pb2_grpc.UsageServiceServicer):
    """What was used, and the proof of it."""

    def __init__(self, core: Core) -> None:
        self.db, self.pages = core.db, core.pages

    async def QueryUsage(self, request: QueryUsageRequest, call: Call) -> QueryUsageResponse:
        async with self.db.look(call) as tx:
            return await reports.query_usage(tx, self.pages, request)

    async def ReconcileUsage(
        self, request: ReconcileUsageRequest, call: Call
    ) -> ReconcileUsageResponse:
        async with self.db.look(call) as tx:
            found, compared = await reconciling.reconcile(tx, request.days)
            return ReconcileUsageResponse(discrepancies=found, compared=compared)
