"""One shape for every provider's chat call.

Owns the types that pass between the campaign engine and a provider, and the choice of wire format.
What must stay true:

* An adapter sends each request exactly once. Retries belong to the engine, which has recorded the
  attempt and its budget hold beforehand; a second layer here would spend money nobody recorded.
* Whatever a provider answers ends as a `ChatReply` or a `ProviderError`. Cancellation passes.
* Token counts are normalised: `input_tokens` includes cached ones, `output_tokens` includes
  reasoning ones, whatever the provider's own convention is.
* Neither the key nor a header nor a piece of the provider's prose reaches an error or a repr.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import aiohttp

    from chimera.providers.adapters.config import AdapterConfig
    from chimera.providers.adapters.exchange import Exchange

ErrorKind = Literal[
    "rate_limited",
    "overloaded",
    "server_error",
    "timeout",
    "unreachable",
    "connection_lost",
    "bad_key",
    "bad_request",
    "refused_address",
    "bad_response",
    "response_too_large",
    "unsupported",
]
# What stood in the way of a connection, as far as it is known.
Obstacle = Literal["", "dns", "refused", "tls"]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls", "other"]

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `role` is `system`, `user` or `assistant`; adapters move `system` where the
    provider wants it."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One chat call. What is None is not sent. Providers without `seed` do not get it."""

    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, in inclusive form.

    `cached_input_tokens` is the part of `input_tokens` that was read from a cache,
    `cache_write_tokens` the part that was put into one, and `reasoning_tokens` the part of
    `output_tokens` that was not shown. So the kinds that have prices are disjoint; nothing is
    counted twice.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A provider's answer.

    `usage` is None when the provider sent none (the caller then books the worst case).
    `response_bytes` is the size of the body. `truncated`: the provider stopped at the output limit,
    so the text is not a whole answer. `latency_ms` runs from the call to the last byte, waiting
    for a free connection included. NUL characters in `text` are replaced by U+FFFD, because
    PostgreSQL cannot store them. `first_text_ms`: of a stream, until its first text.
    """

    text: str
    finish_reason: FinishReason
    model: str
    usage: Usage | None
    latency_ms: int
    response_bytes: int
    truncated: bool
    provider_request_id: str
    first_text_ms: int | None = None


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts to be turned into vectors. `dimensions` is sent where the format has it."""

    model: str
    texts: tuple[str, ...]
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class EmbedReply:
    """One vector a text, in the order of the texts; else as `ChatReply`."""

    vectors: tuple[tuple[float, ...], ...]
    model: str
    usage: Usage | None
    latency_ms: int
    response_bytes: int
    provider_request_id: str


class ProviderError(Exception):
    """A call that brought no reply.

    kind: closed set, see `ErrorKind`.
    http_status: the provider's status, when there was one.
    retry_after_s: seconds the provider asked to wait, already capped.
    retryable: the same call may succeed later.
    may_have_cost: the provider may have done (and charged for) the work, so a budget hold must not
        be given back at once.
    The message is short and safe to store: it holds no key, no header and no text of the provider
    beyond an error identifier such as `context_length_exceeded`.
    obstacle: what stood in the way of a connection.
    partial: of a stream that broke off, what had arrived; its usage is the final one, or None.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        http_status: int | None = None,
        retry_after_s: float | None = None,
        retryable: bool = False,
        may_have_cost: bool = False,
        obstacle: Obstacle = "",
    ) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.http_status = http_status
        self.retry_after_s = retry_after_s
        self.retryable = retryable
        self.may_have_cost = may_have_cost
        self.obstacle: Obstacle = obstacle
        self.partial: ChatReply | None = None


class ChatAdapter(Protocol):
    """A provider behind one key and base URL. Safe for any number of concurrent calls."""

    async def chat(
        self, request: ChatRequest, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> ChatReply:
        """Sends `request` once. `timeout_s` covers everything from the wait for a connection to
        the last byte. `headers` are added to this call. Raises ProviderError."""
        ...

    def stream(
        self, request: ChatRequest, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> AsyncGenerator[str | ChatReply, None]:
        """The same with the answer in pieces: texts, then the whole reply. Raises ProviderError with
        `partial`. Close it (`aclosing`) when leaving early; the connection ends with it."""
        ...

    async def embed(
        self, request: EmbedRequest, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> EmbedReply:
        """Sends `request` once. Raises ProviderError; kind `unsupported` where the provider has no
        embeddings."""
        ...

    async def list_models(
        self, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> list[str]:
        """The model names this key may use, as the provider lists them (first page, at most
        1,000). Costs nothing, so it also serves as health probe and key check. Raises
        ProviderError."""
        ...


# provider_type -> the field that limits output tokens. OpenAI's reasoning models refuse
# `max_tokens`; most servers that copy the format know only that one.
_OPENAI_WIRE = {
    "openai": "max_completion_tokens",
    "openai_compatible": "max_tokens",
    "local": "max_tokens",
    "huggingface": "max_tokens",
    "custom": "max_tokens",
}
PROVIDER_TYPES = frozenset({*_OPENAI_WIRE, "anthropic"})
# Servers of one's own often want no key, and tell nobody apart.
KEYLESS_TYPES = frozenset({"local", "custom", "openai_compatible"})


def open_adapter(
    provider_type: str,
    *,
    session: aiohttp.ClientSession,
    base_url: str,
    api_key: str,
    response_bytes_max: int = 1_000_000,
    config: Mapping[str, Any] = MappingProxyType({}),
) -> ChatAdapter:
    """The adapter for `provider_type` (one of `PROVIDER_TYPES`, else ValueError).

    `session` comes from `outbound.open_session` and stays the caller's. `base_url` ends where the
    provider's documentation ends it: `https://host/v1` for the OpenAI format, `https://host` or
    `https://host/v1` for Anthropic. A body beyond `response_bytes_max` is refused while reading.
    `config`: the provider's default configuration, see `config.read_config` (ConfigError).
    """
    from chimera.providers.adapters.config import read_config
    from chimera.providers.adapters.exchange import Exchange

    if provider_type not in PROVIDER_TYPES:
        raise ValueError(f"unknown provider type {provider_type!r}")
    checked = read_config(provider_type, config)
    exchange = Exchange(session, api_key=api_key, response_bytes_max=response_bytes_max)
    adapter = _adapter(provider_type, exchange, base_url, api_key, checked)
    if checked.stream:
        from chimera.providers.adapters.streaming import StreamedChats

        return StreamedChats(adapter)
    return adapter


def _adapter(
    provider_type: str, exchange: Exchange, base_url: str, api_key: str, checked: AdapterConfig
) -> ChatAdapter:
    if provider_type == "anthropic":
        from chimera.providers.adapters.anthropic import AnthropicAdapter

        return AnthropicAdapter(exchange, base_url=base_url, api_key=api_key, config=checked)
    if checked.mapping is not None:
        from chimera.providers.adapters.mapped import MappedAdapter

        return MappedAdapter(exchange, base_url=base_url, api_key=api_key, config=checked)
    if checked.api == "tgi":
        from chimera.providers.adapters.tgi import TgiAdapter

        return TgiAdapter(exchange, base_url=base_url, api_key=api_key, config=checked)
    from chimera.providers.adapters.openai import OpenAIAdapter

    return OpenAIAdapter(
        exchange,
        base_url=base_url,
        api_key=api_key,
        limit_field=_OPENAI_WIRE[provider_type],
        config=checked,
        extracts_features=provider_type == "huggingface" and checked.embeddings != "openai",
    )
