"""Budgets, alerts, usage: one short method an RPC."""

from __future__ import annotations

from chimera.accounting import (
    alerts,
    budgets,
    deliveries,
    reconciling,
    remaining,
    reports,
    webhooks,
)
from chimera.call import Call
from chimera.core import Core
from chimera.v1 import budgets_pb2_grpc, usage_pb2_grpc
from chimera.v1.budgets_pb2 import (
    AcknowledgeAlertRequest,
    AcknowledgeAlertResponse,
    CreateWebhookRequest,
    CreateWebhookResponse,
    DeleteBudgetRequest,
    DeleteBudgetResponse,
    DeleteWebhookRequest,
    DeleteWebhookResponse,
    GetBudgetRequest,
    GetBudgetResponse,
    GetRemainingRequest,
    GetRemainingResponse,
    ListAlertsRequest,
    ListAlertsResponse,
    ListBudgetsRequest,
    ListBudgetsResponse,
    ListDeliveriesRequest,
    ListDeliveriesResponse,
    ListWebhooksRequest,
    ListWebhooksResponse,
    RedeliverEventRequest,
    RedeliverEventResponse,
    RotateWebhookSecretRequest,
    RotateWebhookSecretResponse,
    SetBudgetRequest,
    SetBudgetResponse,
    UpdateWebhookRequest,
    UpdateWebhookResponse,
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
        self.db, self.replica, self.pages = core.db, core.replica, core.pages

    async def QueryUsage(self, request: QueryUsageRequest, call: Call) -> QueryUsageResponse:
        async with self.replica.look(call) as tx:
            return await reports.query_usage(tx, self.pages, request)

    async def ReconcileUsage(
        self, request: ReconcileUsageRequest, call: Call
    ) -> ReconcileUsageResponse:
        async with self.db.look(call) as tx:
            found, compared = await reconciling.reconcile(tx, request.days)
            return ReconcileUsageResponse(discrepancies=found, compared=compared)


class WebhookService(budgets_pb2_grpc.WebhookServiceServicer):
    """Endpoints that are told of events."""

    def __init__(self, core: Core) -> None:
        self.db, self.pages, self.master = core.db, core.pages, core.master
        self.settings = core.settings

    async def CreateWebhook(
        self, request: CreateWebhookRequest, call: Call
    ) -> CreateWebhookResponse:
        webhook_id = webhooks.new_webhook_id()
        secret = await webhooks.make_secret(self.master, call.caller.org_id, webhook_id, 1)
        async with self.db.begin(call) as tx:
            webhook = await webhooks.create_webhook(
                tx, request, webhook_id, secret, settings=self.settings
            )
            return tx.answer(
                CreateWebhookResponse(webhook=webhook, secret=secret.text),
                keep=CreateWebhookResponse(webhook=webhook),
            )

    async def ListWebhooks(self, request: ListWebhooksRequest, call: Call) -> ListWebhooksResponse:
        async with self.db.look(call) as tx:
            found, token = await webhooks.list_webhooks(tx, self.pages, request)
            return ListWebhooksResponse(webhooks=found, next_page_token=token)

    async def UpdateWebhook(
        self, request: UpdateWebhookRequest, call: Call
    ) -> UpdateWebhookResponse:
        async with self.db.begin(call) as tx:
            webhook = await webhooks.update_webhook(tx, request, settings=self.settings)
            return tx.answer(UpdateWebhookResponse(webhook=webhook))

    async def DeleteWebhook(
        self, request: DeleteWebhookRequest, call: Call
    ) -> DeleteWebhookResponse:
        async with self.db.begin(call) as tx:
            await webhooks.delete_webhook(tx, request.webhook_id)
            return tx.answer(DeleteWebhookResponse())

    async def RotateWebhookSecret(
        self, request: RotateWebhookSecretRequest, call: Call
    ) -> RotateWebhookSecretResponse:
        org_id, webhook_id = call.caller.org_id, request.webhook_id
        async with self.db.look(call) as tx:
            version = await webhooks.find_version(tx, webhook_id)
        secret = await webhooks.make_secret(self.master, org_id, webhook_id, version + 1)
        async with self.db.begin(call) as tx:
            webhook = await webhooks.rotate_secret(tx, webhook_id, secret, version)
            return tx.answer(
                RotateWebhookSecretResponse(webhook=webhook, secret=secret.text),
                keep=RotateWebhookSecretResponse(webhook=webhook),
            )

    async def ListDeliveries(
        self, request: ListDeliveriesRequest, call: Call
    ) -> ListDeliveriesResponse:
        async with self.db.look(call) as tx:
            await webhooks.get_webhook(tx, request.webhook_id)
            found, token = await deliveries.list_deliveries(tx, self.pages, request)
            return ListDeliveriesResponse(deliveries=found, next_page_token=token)

    async def RedeliverEvent(
        self, request: RedeliverEventRequest, call: Call
    ) -> RedeliverEventResponse:
        async with self.db.begin(call) as tx:
            delivery = await deliveries.redeliver(tx, request.delivery_id)
            return tx.answer(RedeliverEventResponse(delivery=delivery))
