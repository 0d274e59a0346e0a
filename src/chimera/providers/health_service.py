"""HealthService: one method an RPC, each one transaction or stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

from chimera.call import Call
from chimera.core import Core
from chimera.providers import health, held_circuits, probes, watching
from chimera.v1 import health_pb2_grpc
from chimera.v1.health_pb2 import (
    ConfigureProbeRequest,
    ConfigureProbeResponse,
    ForceCircuitRequest,
    ForceCircuitResponse,
    ForceInstallationCircuitRequest,
    ForceInstallationCircuitResponse,
    GetCircuitRequest,
    GetCircuitResponse,
    GetProviderHealthRequest,
    GetProviderHealthResponse,
    ListCircuitsRequest,
    ListCircuitsResponse,
    ListHealthHistoryRequest,
    ListHealthHistoryResponse,
    ListProviderHealthRequest,
    ListProviderHealthResponse,
    WatchHealthRequest,
    WatchHealthResponse,
)


class HealthService(health_pb2_grpc.HealthServiceServicer):
    def __init__(self, core: Core) -> None:
        self.db, self.pages = core.db, core.pages

    async def GetProviderHealth(
        self, request: GetProviderHealthRequest, call: Call
    ) -> GetProviderHealthResponse:
        async with self.db.look(call) as tx:
            found = await health.get_provider_health(tx, request.provider_id)
            return GetProviderHealthResponse(health=found)

    async def ListProviderHealth(
        self, request: ListProviderHealthRequest, call: Call
    ) -> ListProviderHealthResponse:
        async with self.db.look(call) as tx:
            found, token = await health.list_provider_health(tx, self.pages, request)
            return ListProviderHealthResponse(health=found, next_page_token=token)

    async def ListHealthHistory(
        self, request: ListHealthHistoryRequest, call: Call
    ) -> ListHealthHistoryResponse:
        async with self.db.look(call) as tx:
            return await health.list_health_history(tx, request)

    async def WatchHealth(
        self, request: WatchHealthRequest, call: Call
    ) -> AsyncIterator[WatchHealthResponse]:
        async for item in watching.watch_health(self.db, self.pages, request, call):
            yield item

    async def ConfigureProbe(
        self, request: ConfigureProbeRequest, call: Call
    ) -> ConfigureProbeResponse:
        async with self.db.begin(call) as tx:
            probe = await probes.configure_probe(tx, request)
            return tx.answer(ConfigureProbeResponse(probe=probe))

    async def GetCircuit(self, request: GetCircuitRequest, call: Call) -> GetCircuitResponse:
        async with self.db.look(call) as tx:
            circuit = await held_circuits.get_circuit(tx, request.model_id)
            return GetCircuitResponse(circuit=circuit)

    async def ListCircuits(self, request: ListCircuitsRequest, call: Call) -> ListCircuitsResponse:
        async with self.db.look(call) as tx:
            found, token = await held_circuits.list_circuits(tx, self.pages, request)
            return ListCircuitsResponse(circuits=found, next_page_token=token)

    async def ForceCircuit(self, request: ForceCircuitRequest, call: Call) -> ForceCircuitResponse:
        async with self.db.begin(call) as tx:
            circuit = await held_circuits.force_circuit(tx, request)
            return tx.answer(ForceCircuitResponse(circuit=circuit))

    async def ForceInstallationCircuit(
        self, request: ForceInstallationCircuitRequest, call: Call
    ) -> ForceInstallationCircuitResponse:
        async with self.db.begin(call) as tx:
            circuit = await held_circuits.force_installation_circuit(tx, request)
            return tx.answer(ForceInstallationCircuitResponse(circuit=circuit))
