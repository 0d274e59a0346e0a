"""A running server with people in it: `world.organisation("acme")`, then `org.person("olivia")`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from chimera.identity.bootstrap import bootstrap
from chimera.server import Server
from chimera.settings import Settings
from chimera.v1 import (
    access_pb2,
    access_pb2_grpc,
    accounts_pb2,
    accounts_pb2_grpc,
    analytics_pb2,
    analytics_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    budgets_pb2,
    budgets_pb2_grpc,
    campaigns_pb2,
    campaigns_pb2_grpc,
    collaboration_pb2,
    collaboration_pb2_grpc,
    datasets_pb2,
    datasets_pb2_grpc,
    evaluation_pb2,
    evaluation_pb2_grpc,
    federation_pb2,
    federation_pb2_grpc,
    health_pb2,
    health_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
    organisations_pb2,
    organisations_pb2_grpc,
    privacy_pb2,
    privacy_pb2_grpc,
    providers_pb2,
    providers_pb2_grpc,
    routes_pb2,
    routes_pb2_grpc,
    schedules_pb2,
    schedules_pb2_grpc,
    suites_pb2,
    suites_pb2_grpc,
    telemetry_pb2,
    telemetry_pb2_grpc,
    templates_pb2,
    templates_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
    vault_pb2,
    vault_pb2_grpc,
)

__all__ = ["Organisation", "Person", "Refused", "World", "world"]

PASSWORD = "correct horse battery staple"

SERVICES: dict[str, tuple[Any, Any, str]] = {
    "access": (access_pb2, access_pb2_grpc.AccessServiceStub, "AccessService"),
    "sign_in": (federation_pb2, federation_pb2_grpc.SignInServiceStub, "SignInService"),
    "teams": (access_pb2, access_pb2_grpc.TeamServiceStub, "TeamService"),
    "signing_keys": (access_pb2, access_pb2_grpc.SigningKeyServiceStub, "SigningKeyService"),
    "identity": (identity_pb2, identity_pb2_grpc.IdentityServiceStub, "IdentityService"),
    "account": (accounts_pb2, accounts_pb2_grpc.AccountServiceStub, "AccountService"),
    "organisations": (
        organisations_pb2,
        organisations_pb2_grpc.OrganisationServiceStub,
        "OrganisationService",
    ),
    "privacy": (privacy_pb2, privacy_pb2_grpc.PrivacyServiceStub, "PrivacyService"),
    "templates": (templates_pb2, templates_pb2_grpc.TemplateServiceStub, "TemplateService"),
    "datasets": (datasets_pb2, datasets_pb2_grpc.DatasetServiceStub, "DatasetService"),
    "providers": (providers_pb2, providers_pb2_grpc.ProviderServiceStub, "ProviderService"),
    "campaigns": (campaigns_pb2, campaigns_pb2_grpc.CampaignServiceStub, "CampaignService"),
    "collaboration": (
        collaboration_pb2,
        collaboration_pb2_grpc.CollaborationServiceStub,
        "CollaborationService",
    ),
    "suites": (suites_pb2, suites_pb2_grpc.SuiteServiceStub, "SuiteService"),
    "schedules": (schedules_pb2, schedules_pb2_grpc.ScheduleServiceStub, "ScheduleService"),
    "analytics": (analytics_pb2, analytics_pb2_grpc.AnalyticsServiceStub, "AnalyticsService"),
    "evaluation": (evaluation_pb2, evaluation_pb2_grpc.EvaluationServiceStub, "EvaluationService"),
    "telemetry": (telemetry_pb2, telemetry_pb2_grpc.TelemetryServiceStub, "TelemetryService"),
    "audit": (audit_pb2, audit_pb2_grpc.AuditServiceStub, "AuditService"),
    "operations": (operations_pb2, operations_pb2_grpc.OperationsServiceStub, "OperationsService"),
    "vault": (vault_pb2, vault_pb2_grpc.VaultServiceStub, "VaultService"),
    "health": (health_pb2, health_pb2_grpc.HealthServiceStub, "HealthService"),
    "routes": (routes_pb2, routes_pb2_grpc.RouteServiceStub, "RouteService"),
    "budgets": (budgets_pb2, budgets_pb2_grpc.BudgetServiceStub, "BudgetService"),
    "usage": (usage_pb2, usage_pb2_grpc.UsageServiceStub, "UsageService"),
    "costs": (usage_pb2, usage_pb2_grpc.CostServiceStub, "CostService"),
    "webhooks": (budgets_pb2, budgets_pb2_grpc.WebhookServiceStub, "WebhookService"),
    "alerts": (budgets_pb2, budgets_pb2_grpc.AlertServiceStub, "AlertService"),
}


class Refused(Exception):
    """What a caller was told: code (INVALID_ARGUMENT), reason (FIELD_INVALID), message, details."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code: str = error.code().name
        self.message: str = error.details() or ""
        self.details: list[Any] = []
        self.reason = ""
        self.facts: dict[str, str] = {}
        status = rpc_status.from_call(error)
        for item in status.details if status else ():
            name = item.type_url.rpartition(".")[2]
            detail = getattr(error_details_pb2, name)()
            item.Unpack(detail)
            self.details.append(detail)
            if name == "ErrorInfo":
                self.reason, self.facts = detail.reason, dict(detail.metadata)
        super().__init__(f"{self.code} {self.reason}: {self.message}")


class Stub:
    """A service as somebody calls it: keyword fields in, the answer out, or Refused."""

    def __init__(self, person: Person, name: str) -> None:
        self._person = person
        self._pb2, stub, service = SERVICES[name]
        self._stub = stub(person.channel)
        self._service = self._pb2.DESCRIPTOR.services_by_name[service]

    def __getattr__(self, rpc: str) -> Any:
        descriptor = self._service.methods_by_name[rpc]
        method = getattr(self._stub, rpc)
        request_type = descriptor.input_type._concrete_class

        def request_of(message: Any, fields: dict[str, Any]) -> Any:
            if descriptor.client_streaming:  # a list of requests, or of their fields
                return (m if not isinstance(m, dict) else request_type(**m) for m in message)
            return message if message is not None else request_type(**fields)

        async def unary(message: Any = None, /, *, timeout_s: float = 30.0, **fields: Any) -> Any:
            try:
                return await method(
                    request_of(message, fields),
                    metadata=self._person.metadata(),
                    timeout=timeout_s,
                )
            except grpc.aio.AioRpcError as error:
                raise Refused(error) from None

        async def stream(message: Any = None, /, *, timeout_s: float = 60.0, **fields: Any) -> Any:
            try:
                async for item in method(
                    request_of(message, fields),
                    metadata=self._person.metadata(),
                    timeout=timeout_s,
                ):
                    yield item
            except grpc.aio.AioRpcError as error:
                raise Refused(error) from None

        return stream if descriptor.server_streaming else unary


class Person:
    """Somebody with a channel and maybe a credential (access token or API key)."""

    access: Stub
    teams: Stub
    sign_in: Stub
    signing_keys: Stub
    identity: Stub
    account: Stub
    organisations: Stub
    privacy: Stub
    templates: Stub
    datasets: Stub
    providers: Stub
    campaigns: Stub
    collaboration: Stub
    suites: Stub
    schedules: Stub
    evaluation: Stub
    analytics: Stub
    telemetry: Stub
    audit: Stub
    operations: Stub
    vault: Stub
    health: Stub
    routes: Stub
    budgets: Stub
    alerts: Stub
    webhooks: Stub
    usage: Stub
    costs: Stub

    def __init__(self, channel: grpc.aio.Channel, name: str = "", credential: str = "") -> None:
        self.channel, self.name, self.credential = channel, name, credential
        self.user_id = ""
        self.tokens: Any = None
        for service in SERVICES:
            setattr(self, service, Stub(self, service))

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.credential}"),) if self.credential else ()

    async def refresh(self) -> Person:
        """The same person with new tokens, after something about their access has changed."""
        answer = await self.identity.RefreshSession(refresh_token=self.tokens.refresh_token)
        self.tokens, self.credential = answer.tokens, answer.tokens.access_token
        return self

    def holding(self, credential: str) -> Person:
        """The same channel with another credential."""
        return Person(self.channel, self.name, credential)


class Organisation:
    """A tenant with people; `admin` is its first administrator (an operator of the installation
    when it was made so)."""

    def __init__(self, world: World, org_id: str, admin: Person) -> None:
        self.world, self.id, self.admin = world, org_id, admin

    async def person(self, name: str, role: str = "user") -> Person:
        """A new, logged-in user."""
        email = f"{name}@{self.id[-12:]}.example.com"
        made = await self.admin.identity.CreateUser(
            email=email,
            username=f"{name}-{self.id[-8:]}",
            display_name=name.title(),
            role=identity_pb2.Role.Value(f"ROLE_{role.upper()}"),
            password=PASSWORD,
        )
        person = await self.world.log_in(email)
        person.name, person.user_id = name, made.user.id
        return person


class World:
    """One server in this process and the channels to it."""

    def __init__(self, server: Server, settings: Settings) -> None:
        self.server, self.settings = server, settings
        self.address = f"127.0.0.1:{server.port}"
        self.channels: list[grpc.aio.Channel] = []

    def channel(self) -> grpc.aio.Channel:
        channel = grpc.aio.insecure_channel(self.address)
        self.channels.append(channel)
        return channel

    def nobody(self) -> Person:
        return Person(self.channel())

    async def log_in(self, login: str, password: str = PASSWORD) -> Person:
        person = self.nobody()
        answer = await person.identity.Login(login=login, password=password)
        person.credential, person.tokens = answer.tokens.access_token, answer.tokens
        person.user_id = answer.user.id
        return person

    async def organisation(self, name: str, *, operator: bool = False) -> Organisation:
        """A new tenant with its administrator logged in."""
        email = f"admin@{name}.example.com"
        org_id, _user_id, *_key = await bootstrap(
            self.settings,
            organisation=name,
            email=email,
            username=f"admin-{name}",
            password=PASSWORD,
            is_superuser=operator,
        )
        return Organisation(self, org_id, await self.log_in(email))

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()


@pytest.fixture
async def world(settings: Settings) -> AsyncIterator[World]:
    server = Server(settings)
    await server.start()
    running = World(server, settings)
    try:
        yield running
    finally:
        await running.close()
        await server.stop(at_once=True)
