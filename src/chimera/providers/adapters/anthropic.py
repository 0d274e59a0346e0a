"""The Anthropic Messages wire format.

Differences that matter: the system prompt is a field of its own, `max_tokens` is required, there
is no seed, and `input_tokens` leaves cached tokens out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from yarl import URL

from chimera.providers.adapters import (
    NO_HEADERS,
    ChatReply,
    ChatRequest,
    EmbedReply,
    EmbedRequest,
    FinishReason,
    ProviderError,
    Usage,
)
from chimera.providers.adapters.config import PLAIN, AdapterConfig
from chimera.providers.adapters.exchange import (
    Answer,
    Exchange,
    bad_response,
    encode_json,
    error_identifier,
)
from chimera.providers.adapters.openai import NO_PARAMETERS, parse_models
from chimera.providers.adapters.reading import storable, token_count
from chimera.providers.adapters.sse import Event
from chimera.providers.adapters.streaming import Assembly, decoded, stream_chat, stream_error

API_VERSION = "2023-06-01"
# The format requires a limit; this one stands in when the caller sets none.
DEFAULT_MAX_TOKENS = 1024

_FINISH: dict[object, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "tool_use": "tool_calls",
}


class AnthropicAdapter:
    """See `ChatAdapter`."""

    __slots__ = ("_chat_url", "_exchange", "_headers", "_models_url", "_parameters")

    def __init__(
        self, exchange: Exchange, *, base_url: str, api_key: str, config: AdapterConfig = PLAIN
    ) -> None:
        base = base_url.rstrip("/").removesuffix("/v1")
        self._exchange = exchange
        self._chat_url = URL(base + "/v1/messages")
        self._models_url = URL(base + "/v1/models?limit=1000")
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "anthropic-version": API_VERSION,
            **config.headers,
            "x-api-key": api_key,
        }
        self._parameters = config.parameters

    async def chat(
        self, request: ChatRequest, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> ChatReply:
        """Sends `request` once, without streaming. Raises ProviderError."""
        answer = await self._exchange.send(
            "POST",
            self._chat_url,
            headers={**headers, **self._headers},
            body=encode_request(request, parameters=self._parameters),
            timeout_s=timeout_s,
        )
        return parse_reply(answer)

    def stream(
        self, request: ChatRequest, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> AsyncGenerator[str | ChatReply, None]:
        """Sends `request` once and hands the answer on as it comes. Raises ProviderError."""
        return stream_chat(
            self._exchange,
            self._chat_url,
            headers={**headers, **self._headers, "Accept": "text/event-stream"},
            body=encode_request(request, parameters=self._parameters, stream=True),
            timeout_s=timeout_s,
            read=read_event,
        )

    async def embed(
        self, request: EmbedRequest, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> EmbedReply:
        """Raises ProviderError (`unsupported`): the format has no embeddings."""
        raise ProviderError("unsupported", "this provider has no embeddings")

    async def list_models(
        self, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> list[str]:
        """GET /v1/models. Raises ProviderError."""
        answer = await self._exchange.send(
            "GET",
            self._models_url,
            headers={**headers, **self._headers},
            body=None,
            timeout_s=timeout_s,
        )
        return parse_models(answer.document)


def encode_request(
    request: ChatRequest, *, parameters: Mapping[str, Any] = NO_PARAMETERS, stream: bool = False
) -> bytes:
    """The JSON body. System messages, wherever they stand, are joined into `system`."""
    body: dict[str, Any] = {
        "max_tokens": DEFAULT_MAX_TOKENS,
        **parameters,
        "model": request.model,
        "messages": [
            {"role": m.role, "content": m.content} for m in request.messages if m.role != "system"
        ],
    }
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    system = "\n\n".join(m.content for m in request.messages if m.role == "system")
    if system:
        body["system"] = system
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop_sequences"] = request.stop
    if stream:
        body["stream"] = True
    return encode_json(body)


def read_event(event: Event, assembly: Assembly) -> str:
    """One event of a stream. Usage is split: the input at the start, the output at the end, where
    newer versions repeat all of it; counts are cumulative, so the last one of each stands."""
    document = decoded(event)
    match document.get("type"):
        case "message_start":
            message = document.get("message")
            if not isinstance(message, dict):
                raise bad_response("the stream has no message")
            for name, value in (("model", message.get("model")), ("identifier", message.get("id"))):
                if isinstance(value, str):
                    setattr(assembly, name, value)
            _take_counts(assembly, message.get("usage"))
        case "content_block_delta":
            delta = document.get("delta")
            if not isinstance(delta, dict):
                raise bad_response("a delta is not an object")
            text = delta.get("text", "") if delta.get("type") == "text_delta" else ""
            if not isinstance(text, str):
                raise bad_response("the content of a stream is not text")
            return text
        case "message_delta":
            delta = document.get("delta")
            reason = delta.get("stop_reason") if isinstance(delta, dict) else None
            if isinstance(reason, str):
                assembly.finish = _FINISH.get(reason, "other")
            if document.get("usage") is not None:
                _take_counts(assembly, document.get("usage"))
                assembly.usage = _usage(assembly.counts)
        case "message_stop":
            assembly.done = True
        case "error":
            error = document.get("error")
            kind = error.get("type") if isinstance(error, dict) else None
            raise stream_error(error_identifier(kind))
    return ""


def _take_counts(assembly: Assembly, usage: object) -> None:
    if usage is None:
        return
    if not isinstance(usage, dict):
        raise bad_response("the usage is not an object")
    assembly.counts |= {name: value for name, value in usage.items() if value is not None}


def parse_reply(answer: Answer) -> ChatReply:
    """The reply in an answer's document: its text blocks joined, other blocks left out. Raises
    ProviderError (`bad_response`) for any document that is not one."""
    document = answer.document
    blocks = document.get("content")
    if not isinstance(blocks, list):
        raise bad_response("the answer has no content")
    reason = document.get("stop_reason")
    finish = _FINISH.get(reason, "other") if isinstance(reason, str) else "other"
    texts = [_block_text(block) for block in blocks]
    if not blocks and finish not in ("length", "content_filter", "stop"):
        raise bad_response("the answer's content is empty")
    model = document.get("model")
    identifier = document.get("id")
    return ChatReply(
        text=storable("".join(texts)),
        finish_reason=finish,
        model=storable(model)[:200] if isinstance(model, str) else "",
        usage=_usage(document.get("usage")),
        latency_ms=answer.latency_ms,
        response_bytes=answer.body_bytes,
        truncated=finish == "length",
        provider_request_id=answer.request_id
        or (storable(identifier)[:128] if isinstance(identifier, str) else ""),
    )


def _block_text(block: object) -> str:
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        raise bad_response("a content block has no type")
    if block["type"] != "text":
        return ""
    text = block.get("text")
    if not isinstance(text, str):
        raise bad_response("a text block has no text")
    return text


def _usage(document: object) -> Usage | None:
    """Inclusive counts: cache reads and cache writes are added to `input_tokens`. Thinking is
    already inside `output_tokens` and not reported apart."""
    if document is None:
        return None
    if not isinstance(document, dict):
        raise bad_response("the usage is not an object")
    read = token_count(document, "input_tokens")
    written = token_count(document, "output_tokens")
    if read is None and written is None:
        return None
    if read is None or written is None:
        raise bad_response("the usage is incomplete")
    cached = token_count(document, "cache_read_input_tokens") or 0
    stored = token_count(document, "cache_creation_input_tokens") or 0
    return Usage(read + cached + stored, written, cached, 0, stored)
