"""ProviderService: one method an RPC, each one transaction."""

from __future__ import annotations

import asyncio

from chimera.call import Call
from chimera.core import Core
from chimera.providers import (
    connections,
    health,
    keys,
    models,
    operations,
    owned_keys,
    prices,
    seeding,
    targets,
)
from chimera.v1 import providers_pb2_grpc
from chimera.v1.providers_pb2 import (
    AllowTargetRequest,
    AllowTargetResponse,
    CreateModelRequest,
    CreateModelResponse,
    CreatePriceVersionRequest,
    CreatePriceVersionResponse,
    CreateProviderKeyRequest,
    CreateProviderKeyResponse,
    CreateProviderRequest,
    CreateProviderResponse,
    DeleteModelRequest,
    DeleteModelResponse,
    DeleteProviderKeyRequest,
    DeleteProviderKeyResponse,
    DeleteProviderRequest,
    DeleteProviderResponse,
    DisallowTargetRequest,
    DisallowTargetResponse,
    DiscoverModelsRequest,
    DiscoverModelsResponse,
    GetModelRequest,
    GetModelResponse,
    GetPriceVersionRequest,
    GetPriceVersionResponse,
    GetProviderKeyRequest,
    GetProviderKeyResponse,
    GetProviderRequest,
    GetProviderResponse,
    ListModelsRequest,
    ListModelsResponse,
    ListPriceVersionsRequest,
    ListPriceVersionsResponse,
    ListProviderKeysRequest,
    ListProviderKeysResponse,
    ListProvidersRequest,
    ListProvidersResponse,
    ReplaceProviderKeySecretRequest,
    ReplaceProviderKeySecretResponse,
    ResolveModelRequest,
    ResolveModelResponse,
    RevokeProviderKeyRequest,
    RevokeProviderKeyResponse,
    SeedPricesRequest,
    SeedPricesResponse,
    TestConnectionRequest,
    TestConnectionResponse,
    UpdateModelRequest,
    UpdateModelResponse,
    UpdateProviderKeyRequest,
    UpdateProviderKeyResponse,
    UpdateProviderRequest,
    UpdateProviderResponse,
)


class ProviderService(providers_pb2_grpc.ProviderServiceServicer):
    def __init__(self, core: Core) -> None:
        self.db, self.pages, self.master = core.db, core.pages, core.master
        self.settings = core.settings

    async def CreateProvider(
        self, request: CreateProviderRequest, call: Call
    ) -> CreateProviderResponse:
        async with self.db.begin(call) as tx:
            provider = await operations.create_provider(tx, request, settings=self.settings)
            return tx.answer(CreateProviderResponse(provider=provider))

    async def GetProvider(self, request: GetProviderRequest, call: Call) -> GetProviderResponse:
        async with self.db.begin(call) as tx:
            provider = await operations.get_provider(tx, request.provider_id)
            await health.add_health(tx, [provider])
            return GetProviderResponse(provider=provider)

    async def ListProviders(
        self, request: ListProvidersRequest, call: Call
    ) -> ListProvidersResponse:
        async with self.db.begin(call) as tx:
            found, token = await operations.list_providers(tx, self.pages, request)
            await health.add_health(tx, found)
            return ListProvidersResponse(providers=found, next_page_token=token)

    async def UpdateProvider(
        self, request: UpdateProviderRequest, call: Call
    ) -> UpdateProviderResponse:
        async with self.db.begin(call) as tx:
            provider = await operations.update_provider(tx, request, settings=self.settings)
            return tx.answer(UpdateProviderResponse(provider=provider))

    async def DeleteProvider(
        self, request: DeleteProviderRequest, call: Call
    ) -> DeleteProviderResponse:
        async with self.db.begin(call) as tx:
            await operations.delete_provider(tx, request.provider_id, request.etag)
            return tx.answer(DeleteProviderResponse())

    async def TestConnection(
        self, request: TestConnectionRequest, call: Call
    ) -> TestConnectionResponse:
        answer = await connections.test_connection(
            self.db, self.master, self.settings, call, request
        )
        async with self.db.begin(call) as tx:
            connections.record_test(tx, request, answer)
            return tx.answer(answer)

    async def DiscoverModels(
        self, request: DiscoverModelsRequest, call: Call
    ) -> DiscoverModelsResponse:
        names = await connections.discover_models(
            self.db, self.master, self.settings, call, request
        )
        async with self.db.begin(call) as tx:
            return tx.answer(await connections.record_discovery(tx, request, names))

    async def CreateModel(self, request: CreateModelRequest, call: Call) -> CreateModelResponse:
        async with self.db.begin(call) as tx:
            model = await models.create_model(tx, request)
            return tx.answer(CreateModelResponse(model=model))

    async def GetModel(self, request: GetModelRequest, call: Call) -> GetModelResponse:
        async with self.db.begin(call) as tx:
            return GetModelResponse(model=await models.get_model(tx, request.model_id))

    async def ListModels(self, request: ListModelsRequest, call: Call) -> ListModelsResponse:
        async with self.db.begin(call) as tx:
            found, token = await models.list_models(tx, self.pages, request)
            return ListModelsResponse(models=found, next_page_token=token)

    async def UpdateModel(self, request: UpdateModelRequest, call: Call) -> UpdateModelResponse:
        async with self.db.begin(call) as tx:
            model = await models.update_model(tx, request)
            return tx.answer(UpdateModelResponse(model=model))

    async def DeleteModel(self, request: DeleteModelRequest, call: Call) -> DeleteModelResponse:
        async with self.db.begin(call) as tx:
            await models.delete_model(tx, request.model_id, request.etag)
            return tx.answer(DeleteModelResponse())

    async def ResolveModel(self, request: ResolveModelRequest, call: Call) -> ResolveModelResponse:
        async with self.db.begin(call) as tx:
            return ResolveModelResponse(model=await models.resolve_model(tx, request))

    async def GetPriceVersion(
        self, request: GetPriceVersionRequest, call: Call
    ) -> GetPriceVersionResponse:
        async with self.db.begin(call) as tx:
            version = await prices.get_price_version(tx, request)
            return GetPriceVersionResponse(price_version=version)

    async def ListPriceVersions(
        self, request: ListPriceVersionsRequest, call: Call
    ) -> ListPriceVersionsResponse:
        async with self.db.begin(call) as tx:
            await models.get_model(tx, request.model_id)
            found, token = await prices.list_price_versions(tx, self.pages, request)
            return ListPriceVersionsResponse(price_versions=found, next_page_token=token)

    async def SeedPrices(self, request: SeedPricesRequest, call: Call) -> SeedPricesResponse:
        wanted = await asyncio.to_thread(seeding.wanted_models, request)
        async with self.db.begin(call) as tx:
            return tx.answer(await seeding.seed_prices(tx, request, wanted))

    async def CreatePriceVersion(
        self, request: CreatePriceVersionRequest, call: Call
    ) -> CreatePriceVersionResponse:
        async with self.db.begin(call) as tx:
            version = await prices.create_price_version(tx, request)
            return tx.answer(CreatePriceVersionResponse(price_version=version))

    async def CreateProviderKey(
        self, request: CreateProviderKeyRequest, call: Call
    ) -> CreateProviderKeyResponse:
        try:
            return await self._create_key(request, call)
        except owned_keys.SealedTooLate:
            return await self._create_key(request, call)

    async def _create_key(
        self, request: CreateProviderKeyRequest, call: Call
    ) -> CreateProviderKeyResponse:
        new = await keys.seal_key(
            self.master, call, request.secret, provider_id=request.provider_id
        )
        async with self.db.begin(call) as tx:
            key = await owned_keys.create_key(tx, request, new)
            return tx.answer(CreateProviderKeyResponse(provider_key=key))

    async def ListProviderKeys(
        self, request: ListProviderKeysRequest, call: Call
    ) -> ListProviderKeysResponse:
        async with self.db.begin(call) as tx:
            found, token = await owned_keys.list_keys(tx, self.pages, request)
            return ListProviderKeysResponse(provider_keys=found, next_page_token=token)

    async def GetProviderKey(
        self, request: GetProviderKeyRequest, call: Call
    ) -> GetProviderKeyResponse:
        async with self.db.begin(call) as tx:
            key = await owned_keys.get_key(tx, request.provider_key_id)
            return GetProviderKeyResponse(provider_key=key)

    async def UpdateProviderKey(
        self, request: UpdateProviderKeyRequest, call: Call
    ) -> UpdateProviderKeyResponse:
        async with self.db.begin(call) as tx:
            key = await owned_keys.update_key(tx, request)
            return tx.answer(UpdateProviderKeyResponse(provider_key=key))

    async def ReplaceProviderKeySecret(
        self, request: ReplaceProviderKeySecretRequest, call: Call
    ) -> ReplaceProviderKeySecretResponse:
        try:
            return await self._replace_secret(request, call)
        except owned_keys.SealedTooLate:
            return await self._replace_secret(request, call)

    async def _replace_secret(
        self, request: ReplaceProviderKeySecretRequest, call: Call
    ) -> ReplaceProviderKeySecretResponse:
        async with self.db.look(call) as tx:
            old = await owned_keys.get_replaceable(tx, request.provider_key_id)
        new = await keys.seal_key(
            self.master,
            call,
            request.secret,
            provider_id=old.provider_id,
            key_id=old.id,
            row_version=old.row_version + 1,
        )
        async with self.db.begin(call) as tx:
            key = await owned_keys.replace_secret(tx, request, old, new)
            return tx.answer(ReplaceProviderKeySecretResponse(provider_key=key))

    async def RevokeProviderKey(
        self, request: RevokeProviderKeyRequest, call: Call
    ) -> RevokeProviderKeyResponse:
        async with self.db.begin(call) as tx:
            key = await owned_keys.revoke_key(tx, request.provider_key_id)
            return tx.answer(RevokeProviderKeyResponse(provider_key=key))

    async def DeleteProviderKey(
        self, request: DeleteProviderKeyRequest, call: Call
    ) -> DeleteProviderKeyResponse:
        async with self.db.begin(call) as tx:
            await owned_keys.delete_key(tx, request.provider_key_id)
            return tx.answer(DeleteProviderKeyResponse())

    async def AllowTarget(self, request: AllowTargetRequest, call: Call) -> AllowTargetResponse:
        async with self.db.begin(call) as tx:
            model = await targets.allow_target(tx, request.model_id)
            return tx.answer(AllowTargetResponse(model=model))

    async def DisallowTarget(
        self, request: DisallowTargetRequest, call: Call
    ) -> DisallowTargetResponse:
        async with self.db.begin(call) as tx:
            model = await targets.disallow_target(tx, request.model_id)
            return tx.answer(DisallowTargetResponse(model=model))
