"""The embedded assistant as a provider: models that guard a secret, each with another defence, and one
that attacks them in conversations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from chimera.v1.providers_pb2 import (
    AllowTargetRequest,
    AllowTargetResponse,
    CreateModelRequest,
    CreateModelResponse,
    CreateProviderKeyRequest,
    CreateProviderKeyResponse,
    CreateProviderRequest,
    CreateProviderResponse,
    ListProvidersRequest,
    ListProvidersResponse,
    Price,
    Provider,
    ProviderType,
    UpdateProviderRequest,
    UpdateProviderResponse,
)

if TYPE_CHECKING:
    from chimera.client import Client

NAME = "assistant"
# Model -> US dollars per million tokens in and out; better defences cost more.
MODELS = {
    "guard-none": ("0.10", "0.40"),
    "guard-instructed": ("0.25", "1.00"),
    "guard-keyword": ("0.25", "1.00"),
    "guard-normalising": ("0.40", "1.60"),
    "guard-decoding": ("0.80", "3.20"),
    "guard-output": ("0.80", "3.20"),
    "guard-strict": ("2.00", "8.00"),
    "attacker-steps": ("0.10", "0.40"),
}


def register_assistant(client: Client, url: str) -> None:
    """The assistant at `url` with its models, prices and a key of the caller; an assistant that is
    registered already is only told its new address. Raises ApiError."""
    base_url = f"{url}/v1"
    for page in client.pages(ListProvidersRequest(), ListProvidersResponse):
        for provider in page.providers:
            if provider.name == NAME:
                _move(client, provider, base_url)
                return
    request = CreateProviderRequest(
        name=NAME,
        display_name="Embedded assistant",
        provider_type=ProviderType.PROVIDER_TYPE_LOCAL,
        base_url=base_url,
    )
    provider = client.call(request, CreateProviderResponse).provider
    key = CreateProviderKeyRequest(
        provider_id=provider.id, name="main", secret="sk-assistant-demonstration", is_default=True
    )
    client.call(key, CreateProviderKeyResponse)
    for name, (per_input, per_output) in MODELS.items():
        price = Price(input_per_million_usd=per_input, output_per_million_usd=per_output)
        model = CreateModelRequest(provider_id=provider.id, name=name, price=price)
        model_id = client.call(model, CreateModelResponse).model.id
        client.call(AllowTargetRequest(model_id=model_id), AllowTargetResponse)


def _move(client: Client, provider: Provider, base_url: str) -> None:
    # A provider of that name which leads elsewhere is somebody's own.
    if provider.base_url == base_url or not provider.base_url.startswith("http://127.0.0.1:"):
        return
    request = UpdateProviderRequest(
        provider=Provider(id=provider.id, base_url=base_url),
        update_mask=FieldMask(paths=["base_url"]),
    )
    client.call(request, UpdateProviderResponse)
