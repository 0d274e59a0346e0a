"""chimera-server: settings -> pools -> services -> gate -> listen -> drain.

One process serves on its own event loop. With `processes` above one, this starts that many children
which share the port (SO_REUSEPORT; the kernel spreads connections) and takes them down together.
gRPC must not be touched before a fork, so children are spawned, never forked.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import structlog

from chimera.background import cancelled
from chimera.logs import set_up_logs
from chimera.settings import Settings, load_settings

log = structlog.get_logger("chimera.server")

# Keepalive numbers are published in the README: clients may ping every 30 s.
CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.so_reuseport", 1),
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
]


def services() -> list[tuple[Any, Callable[[Any, Any], None], Callable[..., Any]]]:
    """(descriptor module, registration, servicer) of every service of the product."""
    from chimera.access.service import AccessService, SigningKeyService, TeamService
    from chimera.accounting.service import (
        AlertService,
        BudgetService,
        UsageService,
        WebhookService,
    )
    from chimera.audit.service import AuditService
    from chimera.campaigns.analytics.service import AnalyticsService
    from chimera.campaigns.collaboration.service import CollaborationService
    from chimera.campaigns.evaluation.service import EvaluationService
    from chimera.campaigns.schedules.service import ScheduleService
    from chimera.campaigns.service import CampaignService, CostService
    from chimera.campaigns.suites.service import SuiteService
    from chimera.federation.service import SignInService
    from chimera.identity.account_service import AccountService
    from chimera.identity.organisation_service import OrganisationService
    from chimera.identity.service import IdentityService
    from chimera.operations.service import OperationsService
    from chimera.privacy.service import PrivacyService
    from chimera.providers.health_service import HealthService
    from chimera.providers.route_service import RouteService
    from chimera.providers.service import ProviderService
    from chimera.providers.vault_service import VaultService
    from chimera.telemetry.service import TelemetryService
    from chimera.templates.dataset_service import DatasetService
    from chimera.templates.service import TemplateService
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

    return [
        (identity_pb2, identity_pb2_grpc.add_IdentityServiceServicer_to_server, IdentityService),
        (accounts_pb2, accounts_pb2_grpc.add_AccountServiceServicer_to_server, AccountService),
        (
            organisations_pb2,
            organisations_pb2_grpc.add_OrganisationServiceServicer_to_server,
            OrganisationService,
        ),
        (privacy_pb2, privacy_pb2_grpc.add_PrivacyServiceServicer_to_server, PrivacyService),
        (access_pb2, access_pb2_grpc.add_AccessServiceServicer_to_server, AccessService),
        (access_pb2, access_pb2_grpc.add_TeamServiceServicer_to_server, TeamService),
        (access_pb2, access_pb2_grpc.add_SigningKeyServiceServicer_to_server, SigningKeyService),
        (federation_pb2, federation_pb2_grpc.add_SignInServiceServicer_to_server, SignInService),
        (templates_pb2, templates_pb2_grpc.add_TemplateServiceServicer_to_server, TemplateService),
        (datasets_pb2, datasets_pb2_grpc.add_DatasetServiceServicer_to_server, DatasetService),
        (providers_pb2, providers_pb2_grpc.add_ProviderServiceServicer_to_server, ProviderService),
        (campaigns_pb2, campaigns_pb2_grpc.add_CampaignServiceServicer_to_server, CampaignService),
        (suites_pb2, suites_pb2_grpc.add_SuiteServiceServicer_to_server, SuiteService),
        (schedules_pb2, schedules_pb2_grpc.add_ScheduleServiceServicer_to_server, ScheduleService),
        (
            collaboration_pb2,
            collaboration_pb2_grpc.add_CollaborationServiceServicer_to_server,
            CollaborationService,
        ),
        (
            analytics_pb2,
            analytics_pb2_grpc.add_AnalyticsServiceServicer_to_server,
            AnalyticsService,
        ),
        (
            evaluation_pb2,
            evaluation_pb2_grpc.add_EvaluationServiceServicer_to_server,
            EvaluationService,
        ),
        (
            telemetry_pb2,
            telemetry_pb2_grpc.add_TelemetryServiceServicer_to_server,
            TelemetryService,
        ),
        (audit_pb2, audit_pb2_grpc.add_AuditServiceServicer_to_server, AuditService),
        (
            operations_pb2,
            operations_pb2_grpc.add_OperationsServiceServicer_to_server,
            OperationsService,
        ),
        (vault_pb2, vault_pb2_grpc.add_VaultServiceServicer_to_server, VaultService),
        (health_pb2, health_pb2_grpc.add_HealthServiceServicer_to_server, HealthService),
        (routes_pb2, routes_pb2_grpc.add_RouteServiceServicer_to_server, RouteService),
        (budgets_pb2, budgets_pb2_grpc.add_BudgetServiceServicer_to_server, BudgetService),
        (budgets_pb2, budgets_pb2_grpc.add_AlertServiceServicer_to_server, AlertService),
        (budgets_pb2, budgets_pb2_grpc.add_WebhookServiceServicer_to_server, WebhookService),
        (usage_pb2, usage_pb2_grpc.add_UsageServiceServicer_to_server, UsageService),
        (usage_pb2, usage_pb2_grpc.add_CostServiceServicer_to_server, CostService),
    ]


def service_descriptors() -> list[Any]:
    """Descriptors of every service, for the gate, reflection and the guard tests."""
    files = {module.DESCRIPTOR.name: module.DESCRIPTOR for module, _add, _servicer in services()}
    return [service for file in files.values() for service in file.services_by_name.values()]


class _ByName:
    """What generated code adds its methods to, so that they are found by name when they are called.

    It would register them as well; grpcio then keeps a task waiting for each of them and looks at all
    of those for every call, which with 280 methods costs more than a small RPC itself.
    """

    def __init__(self, server: Any) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, _service: str, _handlers: Any) -> None:
        """Not these."""


class Server:
    """One listening server: `start`, then `stop`. Tests run it inside their own loop."""

    def __init__(self, settings: Settings, number: int = 0) -> None:
        self.settings = settings
        self.number = number  # of the process, where several share a port
        self.port = 0
        self.stack: Any = None

    async def start(self) -> int:
        """Opens pools, refuses what is wrong, listens; returns the port."""
        from contextlib import AsyncExitStack

        import grpc
        from grpc_health.v1 import health, health_pb2, health_pb2_grpc

        from chimera.audit.recording import Refusals
        from chimera.core import open_core
        from chimera.doorbell import Doorbell
        from chimera.gate import OUTSIDE_STREAMS_MAX, Gate, method_of
        from chimera.identity.authentication import Authenticator
        from chimera.limits import CallLimits
        from chimera.listener import listening

        settings = self.settings
        methods = [method_of(m) for s in service_descriptors() for m in s.methods]
        self.stack = AsyncExitStack()
        core = await self.stack.enter_async_context(open_core(settings, "app"))
        authenticator = await self.stack.enter_async_context(Authenticator.opened(core))
        await self.stack.enter_async_context(listening(settings, authenticator.jwks, self.number))
        self.doorbell = await self.stack.enter_async_context(Doorbell.opened(core))
        core.db.ring = self.doorbell.ring
        self.gate = Gate(
            methods,
            settings,
            authenticate=authenticator.authenticate,
            authenticate_again=authenticator.authenticate_again,
            authorize=authenticator.authorize,
            limits=CallLimits(settings, core.redis),
            record_refusal=Refusals(core.db).record,
            digest=core.pages.digest,
        )
        self.grpc = grpc.aio.server(
            interceptors=[self.gate],
            maximum_concurrent_rpcs=settings.concurrent_rpcs_max
            + settings.watchers_max
            + OUTSIDE_STREAMS_MAX,
            options=[
                *CHANNEL_OPTIONS,
                ("grpc.max_receive_message_length", settings.message_bytes_max),
                ("grpc.max_send_message_length", settings.message_bytes_max),
            ],
        )
        for _module, add, servicer in services():
            add(servicer(core), _ByName(self.grpc))
        self.health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, _ByName(self.grpc))
        self.names = ["", *(service.full_name for service in service_descriptors())]
        if settings.reflection:
            _add_reflection(self.grpc, [*self.names[1:], health.SERVICE_NAME])
        self.port = _listen(self.grpc, settings)
        await self.grpc.start()
        self._serving = health_pb2.HealthCheckResponse
        self._watcher = asyncio.create_task(self._watch_dependencies(core))
        log.info("server.listening", port=self.port, pid=os.getpid())
        return self.port

    async def _watch_dependencies(self, core: Any) -> None:
        """Readiness falls when the database is lost and comes back with it."""
        import psycopg

        from chimera.call import Call
        from chimera.db import PING
        from chimera.faults import Exhausted, Fault

        was: bool | None = None
        while True:
            try:
                async with core.db.begin(Call.by_worker("health", seconds=2)) as tx:
                    await tx.one(PING)
                ready = True
            except Exhausted:  # busy is not away
                ready = True
            except (Fault, psycopg.Error, OSError):
                ready = False
            if ready is not was:
                state = self._serving.SERVING if ready else self._serving.NOT_SERVING
                for name in self.names:
                    await self.health.set(name, state)
                log.info("server.readiness", ready=ready)
                was = ready
            await asyncio.sleep(2.0)

    async def stop(self, *, at_once: bool = False) -> None:
        """Health first, then new calls are refused, then those open end, then the pools close."""
        await cancelled(self._watcher)
        await self.health.enter_graceful_shutdown()
        grace = 0.0 if at_once else self.settings.drain_s
        await self.grpc.stop(grace)
        await self.gate.drained(2.0)
        await self.stack.aclose()
        log.info("server.stopped", pid=os.getpid())


def _listen(server: Any, settings: Settings) -> int:
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        port: int = server.add_insecure_port(settings.listen)
        return port
    from chimera.certificates import reloading_credentials

    secure: int = server.add_secure_port(settings.listen, reloading_credentials(settings))
    return secure


def _add_reflection(server: Any, names: list[str]) -> None:
    """grpcio-reflection knows v1alpha only; v1 has the same wire format under another name, and
    newer tools ask for it first. Only the former is listed: there is no descriptor of the latter."""
    import grpc
    from grpc_reflection.v1alpha import _async, reflection_pb2
    from grpc_reflection.v1alpha.reflection import SERVICE_NAME

    current = "grpc.reflection.v1.ServerReflection"
    servicer = _async.ReflectionServicer([*names, SERVICE_NAME])
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
            for name in (SERVICE_NAME, current)
        )
    )


async def serve(settings: Settings, number: int = 0) -> None:
    """Serves until SIGTERM or SIGINT."""
    from chimera.core import settle_memory

    server = Server(settings, number)
    await server.start()
    settle_memory()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    await stopping.wait()
    await server.stop()


def _supervise(processes: int) -> int:
    """Runs the children; when one dies or a signal comes, all are taken down."""
    children = [
        subprocess.Popen([sys.executable, "-m", "chimera.server", "--process", str(number)])
        for number in range(processes)
    ]

    def forward(number: int, _frame: Any) -> None:
        for child in children:
            child.send_signal(number)

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, forward)
    pid, status = os.wait()
    for child in children:
        if child.pid != pid and child.poll() is None:
            child.terminate()
    for child in children:
        if child.pid != pid:
            child.wait()
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    """Entry point of `chimera-server`."""
    import uvloop

    settings = load_settings()
    set_up_logs(settings.log_level, as_json=settings.log_json)
    if "--process" not in sys.argv and settings.processes > 1:
        sys.exit(_supervise(settings.processes))
    number = int(sys.argv[sys.argv.index("--process") + 1]) if "--process" in sys.argv else 0
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    uvloop.run(serve(settings, number))


if __name__ == "__main__":
    main()
