"""Hugging Face text generation inference: one prompt in, one continuation out (`/generate`).

The server knows no roles: a lone user message is the prompt, a conversation is written out with its
roles. It counts what it generated; what it read only when asked for the prompt's tokens, so the count
of the input is that of `details.prefill`, or the stream's `input_length`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from yarl import URL

from chimera.providers.adapters import (
    NO_HEADERS,
    ChatReply,
    ChatRequest,
    EmbedReply,
    EmbedRequest,
    FinishReason,
    Message,
    ProviderError,
    Usage,
)
from chimera.providers.adapters.config import AdapterConfig
from chimera.providers.adapters.exchange import (
    Answer,
    Exchange,
    bad_response,
    encode_json,
    error_identifier,
)
from chimera.providers.adapters.reading import storable, token_count
from chimera.providers.adapters.sse import Event
from chimera.providers.adapters.streaming import Assembly, decoded, stream_chat, stream_error

_FINISH: dict[object, FinishReason] = {
    "length": "length",
    "eos_token": "stop",
    "stop_sequence": "stop",
}


class TgiAdapter:
    """See `ChatAdapter`."""

    __slots__ = ("_base", "_exchange", "_headers", "_parameters")

    def __init__(
        self, exchange: Exchange, *, base_url: str, api_key: str, config: AdapterConfig
    ) -> None:
        self._base = base_url.rstrip("/").removesuffix("/v1")
        self._exchange = exchange
        self._parameters = config.parameters
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            **config.headers,
        }
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    async def chat(
        self, request: ChatRequest, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> ChatReply:
        """POST /generate. Raises ProviderError."""
        answer = await self._exchange.send(
            "POST",
            URL(self._base + "/generate"),
            headers={**headers, **self._headers},
            body=encode_request(request, self._parameters),
            timeout_s=timeout_s,
            may_be_list=True,  # the hosted API wraps it in a list
        )
        return parse_reply(answer, request.model)

    def stream(
        self, request: ChatRequest, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> AsyncGenerator[str | ChatReply, None]:
        """POST /generate_stream. Raises ProviderError."""
        return stream_chat(
            self._exchange,
            URL(self._base + "/generate_stream"),
            headers={**headers, **self._headers, "Accept": "text/event-stream"},
            body=encode_request(request, self._parameters, stream=True),
            timeout_s=timeout_s,
            read=read_event,
        )

    async def embed(
        self, request: EmbedRequest, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> EmbedReply:
        """Raises ProviderError (`unsupported`): it generates text only."""
        raise ProviderError("unsupported", "text generation has no embeddings")

    async def list_models(
        self, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> list[str]:
        """GET /info: the one model it serves. Raises ProviderError."""
        answer = await self._exchange.send(
            "GET",
            URL(self._base + "/info"),
            headers={**headers, **self._headers},
            body=None,
            timeout_s=timeout_s,
        )
        name = answer.document.get("model_id")
        if not isinstance(name, str) or not 0 < len(name) <= 200 or not name.isprintable():
            raise bad_response("the server does not say which model it serves")
        return [name]


def prompt_of(messages: Sequence[Message]) -> str:
    """A conversation as one text that the model goes on with."""
    if len(messages) == 1:
        return messages[0].content
    turns = [f"{message.role.capitalize()}: {message.content}" for message in messages]
    return "\n\n".join([*turns, "Assistant:"])


def encode_request(
    request: ChatRequest, defaults: Mapping[str, Any], *, stream: bool = False
) -> bytes:
    """The JSON body. Fields that are None stay out; `details` are what usage is read from."""
    parameters: dict[str, Any] = {**defaults, "details": True}
    if not stream:
        parameters["decoder_input_details"] = True
    given = {
        "max_new_tokens": request.max_tokens,
        "temperature": request.temperature or None,  # it refuses 0, which means greedy anyway
        "top_p": request.top_p,
        "seed": request.seed,
        "stop": list(request.stop) or None,
    }
    parameters |= {name: value for name, value in given.items() if value is not None}
    return encode_json({"inputs": prompt_of(request.messages), "parameters": parameters})


def parse_reply(answer: Answer, model: str) -> ChatReply:
    """The reply in an answer. Raises ProviderError (`bad_response`)."""
    document: Any = answer.items[0] if answer.items else answer.document
    text = document.get("generated_text") if isinstance(document, dict) else None
    if not isinstance(text, str):
        raise bad_response("the answer has no generated_text")
    finish, usage = _details(document.get("details"))
    return ChatReply(
        text=storable(text),
        finish_reason=finish or "other",
        model=model,
        usage=usage,
        latency_ms=answer.latency_ms,
        response_bytes=answer.body_bytes,
        truncated=finish == "length",
        provider_request_id=answer.request_id,
    )


def _details(details: object) -> tuple[FinishReason | None, Usage | None]:
    if details is None:
        return None, None
    if not isinstance(details, dict):
        raise bad_response("the details are not an object")
    reason = details.get("finish_reason")
    finish = _FINISH.get(reason, "other") if isinstance(reason, str) else None
    written = token_count(details, "generated_tokens")
    read = token_count(details, "input_length")
    prefill = details.get("prefill")
    if read is None and isinstance(prefill, list) and prefill:
        read = len(prefill)
    return finish, None if written is None or read is None else Usage(read, written)


def read_event(event: Event, assembly: Assembly) -> str:
    """One event of a stream: a token, and with the last one the details."""
    document = decoded(event)
    if document.get("error") is not None:
        raise stream_error(error_identifier(document.get("error_type")))
    token = document.get("token")
    if not isinstance(token, dict):
        raise bad_response("an event of the stream has no token")
    if document.get("generated_text") is not None:
        assembly.done = True
        finish, assembly.usage = _details(document.get("details"))
        assembly.finish = finish or "other"
    text = token.get("text")
    if not isinstance(text, str):
        raise bad_response("a token of the stream has no text")
    return "" if token.get("special") is True else text
