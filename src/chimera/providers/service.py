"""ProviderService: one method an RPC, each one transaction."""

from __future__ import annotations

from chimera.call import Call
from chimera.core import Core
from chimera.providers import keys, models, operations, targets
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
    DeleteProviderKeyRequest,
    DeleteProviderKeyResponse,
    DisallowTargetRequest,
    DisallowTargetResponse,
    GetModelRequest,
    GetModelResponse,
    GetProviderRequest,
    GetProviderResponse,
    ListModelsRequest,
    ListModelsResponse,
    ListProviderKeysRequest,
    ListProviderKeysResponse,
    ListProvidersRequest,
    ListProvidersResponse,
    UpdateProviderRequest,
    UpdateProviderResponse,
)


class ProviderService(providers_pb2_grpc.ProviderServiceServicer):
    def __init__(self, core: Core) -> None:
        self.db, self.pages, self.master = core.db, core.pages, core.master
        self.loopback_allowed = core.settings.loopback_allowed

    async def CreateProvider(
        self, request: CreateProviderRequest, call: Call
    ) -> CreateProviderResponse:
        async with self.db.begin(call) as tx:
            provider = await operations.create_provider(
                tx, request, loopback_allowed=self.loopback_allowed
            )
            return tx.answer(CreateProviderResponse(provider=provider))

    async def GetProvider(self, request: GetProviderRequest, call: Call) -> GetProviderResponse:
        async with self.db.begin(call) as tx:
            provider = await operations.get_provider(tx, request.provider_id)
            return GetProviderResponse(provider=provider)

    async def ListProviders(
        self, request: ListProvidersRequest, call: Call
    ) -> ListProvidersResponse:
        async with self.db.begin(call) as tx:
            found, token = await operations.list_providers(tx, self.pages, request)
            return ListProvidersResponse(providers=found, next_page_token=token)

    async def UpdateProvider(
        self, request: UpdateProviderRequest, call: Call
    ) -> UpdateProviderResponse:
        async with self.db.begin(call) as tx:
            provider = await operations.update_provider(
                tx, request, loopback_allowed=self.loopback_allowed
            )
            return tx.answer(UpdateProviderResponse(provider=provider))

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

    async def CreatePriceVersion(
        self, request: CreatePriceVersionRequest, call: Call
    ) -> CreatePriceVersionResponse:
        async with self.db.begin(call) as tx:
            version = await models.create_price_version(tx, request)
            return tx.answer(CreatePriceVersionResponse(price_version=version))

    async def CreateProviderKey(
        self, request: CreateProviderKeyRequest, call: Call
    ) -> CreateProviderKeyResponse:
        new = await keys.seal_key(self.master, call, request.secret)
        async with self.db.begin(call) as tx:
            key = await keys.create_key(tx, request, new)
            return tx.answer(CreateProviderKeyResponse(provider_key=key))

    async def ListProviderKeys(
        self, request: ListProviderKeysRequest, call: Call
    ) -> ListProviderKeysResponse:
        async with self.db.begin(call) as tx:
            found, token = await keys.list_keys(tx, self.pages, request)
            return ListProviderKeysResponse(provider_keys=found, next_page_token=token)

    async def DeleteProviderKey(
        self, request: DeleteProviderKeyRequest, call: Call
    ) -> DeleteProviderKeyResponse:
        async with self.db.begin(call) as tx:
            await keys.delete_key(tx, request.provider_key_id)
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
