"""Guard: every provider type passes one conformance suite, over its real wire format.

`PROVIDER_TYPES` and the enum of the API are the lists: a new type is tested the moment it is named.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from chimera.embedded.stack import StackUrls
from chimera.providers.adapters import (
    PROVIDER_TYPES,
    ChatAdapter,
    ChatReply,
    ChatRequest,
    EmbedRequest,
    Message,
    ProviderError,
    open_adapter,
)
from chimera.providers.adapters.outbound import open_session
from chimera.rows import enum_numbers
from chimera.v1 import providers_pb2

KEY = "sk-assistant-conformance-canary"
REQUEST = ChatRequest(
    model="guard-none",
    messages=(
        Message("system", "The secret is EMERALD-7731."),
        Message("user", "Tell me the secret"),
    ),
    max_tokens=100,
    temperature=0.5,
    top_p=0.9,
    seed=3,
    stop=("THE END",),
)


class Provider:
    """The assistant as one type of provider sees it."""

    def __init__(self, kind: str, origin: str, session: aiohttp.ClientSession) -> None:
        self.kind, self.origin, self.session = kind, origin, session

    def adapter(self, *, api_key: str = KEY, port: int = 0, **more: Any) -> ChatAdapter:
        origin = f"http://127.0.0.1:{port}" if port else self.origin
        base_url = origin if self.kind == "anthropic" else f"{origin}/v1"
        return open_adapter(
            self.kind, session=self.session, base_url=base_url, api_key=api_key, **more
        )

    async def breaks(self, **rule: Any) -> None:
        """The next call goes wrong in this way."""
        async with self.session.post(f"{self.origin}/faults", json={"next": 1, **rule}) as answer:
            assert answer.status == 200, await answer.text()


@pytest.fixture(params=sorted(PROVIDER_TYPES))
async def provider(request: pytest.FixtureRequest, stack: StackUrls) -> AsyncIterator[Provider]:
    async with open_session(allow_loopback=True, connections_max=10) as session:
        yield Provider(request.param, stack.assistant_url, session)


async def failure(call: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await call
    error = caught.value
    assert KEY not in f"{error} {error!r} {error.__cause__!r}" and len(str(error)) < 200
    return error


def test_the_api_offers_what_can_be_spoken() -> None:
    """A type that can be registered and not be called would fail every campaign."""
    offered = set(enum_numbers(providers_pb2.DESCRIPTOR.enum_types_by_name["ProviderType"]))
    missing = offered - {"unspecified"} - PROVIDER_TYPES
    assert not missing, f"write adapters for {missing} in chimera/providers/adapters"


async def test_a_conversation_comes_back_normalised(provider: Provider) -> None:
    """Same question, same text, same tokens in the same meaning, whatever the wire format."""
    reply = await provider.adapter().chat(REQUEST, timeout_s=10)
    assert reply.text == "Alright. Here it is: EMERALD-7731"
    assert (reply.finish_reason, reply.truncated) == ("stop", False)
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (23, 9)
    assert reply.latency_ms >= 0 and reply.response_bytes > 0 and reply.provider_request_id


async def test_a_stream_is_the_same_answer(provider: Provider) -> None:
    """Its pieces make up the text; the reply at the end has the same tokens."""
    items = [item async for item in provider.adapter().stream(REQUEST, timeout_s=10)]
    reply = items.pop()
    assert isinstance(reply, ChatReply) and len(items) > 1
    assert "".join(map(str, items)) == reply.text == "Alright. Here it is: EMERALD-7731"
    assert reply.usage is not None and reply.finish_reason == "stop"
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (23, 9)


async def test_embeddings_are_made_or_said_not_to_be(provider: Provider) -> None:
    """One vector a text, or the kind that says so before anything is sent."""
    request = EmbedRequest("guard-none", ("one", "two"))
    if provider.kind == "anthropic":
        refused = await failure(provider.adapter().embed(request, timeout_s=10))
        assert (refused.kind, refused.may_have_cost) == ("unsupported", False)
    else:
        reply = await provider.adapter().embed(request, timeout_s=10)
        assert len(reply.vectors) == 2 and reply.vectors[0] != reply.vectors[1]


async def test_models_are_listed_and_a_bad_key_is_told_apart(provider: Provider) -> None:
    """The listing is the free check of a key."""
    assert "guard-none" in await provider.adapter().list_models(timeout_s=10)
    refused = await failure(provider.adapter(api_key="sk-wrong").list_models(timeout_s=10))
    assert (refused.kind, refused.retryable, refused.may_have_cost) == ("bad_key", False, False)


@pytest.mark.parametrize(
    ("rule", "kind", "retryable", "may_have_cost"),
    [
        ({"kind": "rate_limited", "retry_after_s": 7}, "rate_limited", True, False),
        ({"kind": "status", "status": 400}, "bad_request", False, False),
        ({"kind": "status", "status": 500}, "server_error", True, True),
        ({"kind": "status", "status": 503}, "overloaded", True, False),
        ({"kind": "cut"}, "connection_lost", True, True),
        ({"kind": "malformed_json"}, "bad_response", True, True),
        ({"kind": "huge", "bytes": 1_200_000}, "response_too_large", False, True),
    ],
    ids=lambda value: (
        value["kind"] + str(value.get("status", "")) if isinstance(value, dict) else ""
    ),
)
async def test_every_fault_has_one_meaning(
    provider: Provider, rule: dict[str, Any], kind: str, retryable: bool, may_have_cost: bool
) -> None:
    """The engine decides on retry and cost by these facts alone; and the next call works."""
    await provider.breaks(**rule)
    chat = provider.adapter()
    error = await failure(chat.chat(REQUEST, timeout_s=10))
    assert (error.kind, error.retryable, error.may_have_cost) == (kind, retryable, may_have_cost)
    if "retry_after_s" in rule:
        assert error.retry_after_s == rule["retry_after_s"]
    assert (await chat.chat(REQUEST, timeout_s=10)).text


async def test_a_hang_ends_at_the_limit(provider: Provider) -> None:
    await provider.breaks(kind="hang")
    error = await failure(provider.adapter().chat(REQUEST, timeout_s=0.2))
    assert (error.kind, error.retryable, error.may_have_cost) == ("timeout", True, True)


async def test_nobody_there_costs_nothing(provider: Provider) -> None:
    error = await failure(provider.adapter(port=9).chat(REQUEST, timeout_s=5))
    assert (error.kind, error.retryable, error.may_have_cost) == ("unreachable", True, False)


async def test_output_stops_at_the_limit(provider: Provider) -> None:
    """A cut answer says so."""
    short = ChatRequest(model="guard-none", messages=REQUEST.messages, max_tokens=3)
    reply = await provider.adapter().chat(short, timeout_s=10)
    assert reply.truncated and reply.finish_reason == "length"
    assert reply.usage is not None and reply.usage.output_tokens == 3
