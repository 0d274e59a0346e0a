"""The OpenAI chat-completions wire format, also spoken by most other servers.

Compatible servers differ mostly in usage: some leave it out, some report reasoning beside instead
of inside `completion_tokens`, some send null details. `_usage` brings them to one meaning.
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
from chimera.providers.adapters.reading import embed_reply, storable, token_count, vectors_of
from chimera.providers.adapters.sse import Event
from chimera.providers.adapters.streaming import Assembly, decoded, stream_chat, stream_error

NO_PARAMETERS: Mapping[str, Any] = NO_HEADERS

_FINISH: dict[object, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


class OpenAIAdapter:
    """See `ChatAdapter`. `limit_field` names the request field that caps output tokens.

    extracts_features: embeddings come from Hugging Face's feature extraction, at the same origin.
    """

    __slots__ = (
        "_chat_url",
        "_embeddings_url",
        "_exchange",
        "_features_origin",
        "_headers",
        "_limit_field",
        "_models_url",
        "_parameters",
    )

    def __init__(
        self,
        exchange: Exchange,
        *,
        base_url: str,
        api_key: str,
        limit_field: str,
        config: AdapterConfig = PLAIN,
        extracts_features: bool = False,
    ) -> None:
        base = base_url.rstrip("/")
        self._exchange = exchange
        self._limit_field = limit_field
        self._parameters = config.parameters
        self._embeddings_url = URL(base + "/embeddings")
        self._features_origin = str(URL(base).origin()) if extracts_features else ""
        self._chat_url = URL(base + "/chat/completions")
        self._models_url = URL(base + "/models")
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
        """Sends `request` once, without streaming. Raises ProviderError."""
        answer = await self._exchange.send(
            "POST",
            self._chat_url,
            headers={**headers, **self._headers},
            body=encode_request(
                request, limit_field=self._limit_field, parameters=self._parameters
            ),
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
            body=encode_request(
                request,
                limit_field=self._limit_field,
                parameters=self._parameters,
                stream=True,
            ),
            timeout_s=timeout_s,
            read=read_event,
        )

    async def embed(
        self, request: EmbedRequest, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> EmbedReply:
        """POST /embeddings, or feature extraction. Raises ProviderError."""
        url, body = self._embeddings_url, encode_embedding(request)
        if self._features_origin:
            place = f"/hf-inference/models/{request.model}/pipeline/feature-extraction"
            url = URL(self._features_origin).with_path(place)
            body = encode_json({"inputs": request.texts})
        answer = await self._exchange.send(
            "POST",
            url,
            headers={**headers, **self._headers},
            body=body,
            timeout_s=timeout_s,
            may_be_list=bool(self._features_origin),
        )
        if self._features_origin:
            found = vectors_of(answer.items, len(request.texts))
            return embed_reply(answer, found, request.model, None)
        return parse_embedding(answer, len(request.texts))

    async def list_models(
        self, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> list[str]:
        """GET /models. Raises ProviderError."""
        answer = await self._exchange.send(
            "GET",
            self._models_url,
            headers={**headers, **self._headers},
            body=None,
            timeout_s=timeout_s,
        )
        return parse_models(answer.document)


def encode_request(
    request: ChatRequest,
    *,
    limit_field: str,
    parameters: Mapping[str, Any] = NO_PARAMETERS,
    stream: bool = False,
) -> bytes:
    """The JSON body. Fields that are None stay out, so `parameters` and then the provider's own
    defaults hold."""
    body: dict[str, Any] = {
        **parameters,
        "model": request.model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
    }
    if request.max_tokens is not None:
        body[limit_field] = request.max_tokens
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.seed is not None:
        body["seed"] = request.seed
    if request.stop:
        body["stop"] = request.stop
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return encode_json(body)


def read_event(event: Event, assembly: Assembly) -> str:
    """One event of a stream; usage comes in the last one, beside no choice, or in each."""
    if event.data == b"[DONE]":
        assembly.done = True
        return ""
    document = decoded(event)
    if document.get("error") is not None:
        error = document["error"]
        code = error.get("code") or error.get("type") if isinstance(error, dict) else ""
        raise stream_error(error_identifier(code))
    for name, value in (("model", document.get("model")), ("identifier", document.get("id"))):
        if isinstance(value, str) and value:
            setattr(assembly, name, value)
    assembly.usage = _usage(document.get("usage")) or assembly.usage
    choices = document.get("choices")
    if not isinstance(choices, list):
        raise bad_response("an event of the stream has no choices")
    if not choices:
        return ""
    choice = choices[0]
    if not isinstance(choice, dict):
        raise bad_response("a choice of the stream is not an object")
    reason = choice.get("finish_reason")
    if isinstance(reason, str):
        assembly.finish = _FINISH.get(reason, "other")
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return ""
    content = delta.get("content")
    if content is None:
        content = delta.get("refusal") or ""
    if not isinstance(content, str):
        raise bad_response("the content of a stream is not text")
    return content


def encode_embedding(request: EmbedRequest) -> bytes:
    body: dict[str, Any] = {
        "model": request.model,
        "input": request.texts,
        "encoding_format": "float",
    }
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    return encode_json(body)


def parse_embedding(answer: Answer, count: int) -> EmbedReply:
    """The vectors in an answer's document, by their index. Raises ProviderError."""
    data = answer.document.get("data")
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise bad_response("the answer has no data")
    places = [entry.get("index", number) for number, entry in enumerate(data)]
    whole = all(type(place) is int for place in places)
    if not whole or sorted(places) != list(range(count)):
        raise bad_response("the answer has another number of vectors than there were texts")
    ordered = [entry for _, entry in sorted(zip(places, data, strict=True), key=lambda p: p[0])]
    vectors = vectors_of([entry.get("embedding") for entry in ordered], count)
    usage = answer.document.get("usage")
    read = token_count(usage, "prompt_tokens") if isinstance(usage, dict) else None
    model = answer.document.get("model")
    return embed_reply(
        answer,
        vectors,
        model if isinstance(model, str) else "",
        None if read is None else Usage(read, 0),
    )


def parse_reply(answer: Answer) -> ChatReply:
    """The reply in an answer's document. Raises ProviderError (`bad_response`) for any document
    that is not one."""
    document = answer.document
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise bad_response("the answer has no choices")
    choice = choices[0]
    message = choice.get("message")
    if not isinstance(message, dict):
        raise bad_response("the answer has no message")
    reason = choice.get("finish_reason")
    finish = _FINISH.get(reason, "other") if isinstance(reason, str) else "other"
    model = document.get("model")
    identifier = document.get("id")
    return ChatReply(
        text=storable(_text(message, finish)),
        finish_reason=finish,
        model=storable(model)[:200] if isinstance(model, str) else "",
        usage=_usage(document.get("usage")),
        latency_ms=answer.latency_ms,
        response_bytes=answer.body_bytes,
        truncated=finish == "length",
        provider_request_id=answer.request_id
        or (storable(identifier)[:128] if isinstance(identifier, str) else ""),
    )


def parse_models(document: Mapping[str, Any]) -> list[str]:
    """The names in a `{"data": [{"id": ...}]}` listing; the first 1,000. Raises ProviderError."""
    data = document.get("data")
    if not isinstance(data, list):
        raise bad_response("the listing has no data")
    names = [entry["id"] for entry in data if isinstance(entry, dict) and _is_name(entry)]
    return names[:1000]


def _is_name(entry: dict[str, Any]) -> bool:
    name = entry.get("id")
    return isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable()


def _text(message: dict[str, Any], finish: FinishReason) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None:
        refusal = message.get("refusal")
        if isinstance(refusal, str):
            return refusal
        # A filter, or reasoning that used up the whole limit, leaves nothing to say.
        if finish in ("content_filter", "length"):
            return ""
        raise bad_response("the message has no content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        if len(parts) == len(content) and all(isinstance(part, str) for part in parts):
            return "".join(part for part in parts if isinstance(part, str))
    raise bad_response("the message's content is not text")


def _usage(document: object) -> Usage | None:
    """Inclusive counts. Providers that report cached or reasoning tokens *beside* the total (the
    part is then larger than the whole, or `total_tokens` says so) get them added."""
    if document is None:
        return None
    if not isinstance(document, dict):
        raise bad_response("the usage is not an object")
    read = token_count(document, "prompt_tokens")
    written = token_count(document, "completion_tokens")
    if read is None and written is None:
        return None
    if read is None or written is None:
        raise bad_response("the usage is incomplete")
    cached = _detail(document, "prompt_tokens_details", "cached_tokens")
    reasoning = _detail(document, "completion_tokens_details", "reasoning_tokens")
    total = token_count(document, "total_tokens")
    if reasoning > written or (reasoning and total == read + written + reasoning):
        written += reasoning
    if cached > read:
        read += cached
    return Usage(read, written, cached, reasoning)


def _detail(document: dict[str, Any], group: str, name: str) -> int:
    details = document.get(group)
    if details is None:
        return 0
    if not isinstance(details, dict):
        raise bad_response("the usage details are not an object")
    return token_count(details, name) or 0
