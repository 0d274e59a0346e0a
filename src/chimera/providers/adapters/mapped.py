"""A provider with a format of its own, described instead of programmed.

A mapping says where to post, what the body looks like, and where in the answer things stand:

    {"path": "/chat", "key_header": "X-Token", "key_prefix": "",
     "request": {"engine": "{model}", "turns": "{messages}", "limit": "{max_tokens}"},
     "response": {"text": "/reply/text", "finish_reason": "/reply/why",
                  "input_tokens": "/counts/in", "output_tokens": "/counts/out"},
     "finish_reasons": {"done": "stop", "limit": "length"},
     "stream": {"request": {"stream": true}, "text": "/piece", "done": "[END]", ...},
     "models": {"path": "/engines", "list": "/engines", "name": "/id"},
     "embeddings": {"path": "/vectors", "request": {"texts": "{texts}"}, "list": "/vectors"}}

In bodies, a string that is exactly a placeholder becomes its value, with its type; a field whose
value is not given is left out. Inside longer strings, {model} and {prompt} are filled in. Placeholders:
model, messages (role and content), system, turns (messages without system), prompt (the last user
message), max_tokens, temperature, top_p, seed, stop; for embeddings model, texts and dimensions.
Places in answers are JSON pointers (RFC 6901).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import quote

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
from chimera.providers.adapters.config import AdapterConfig
from chimera.providers.adapters.exchange import Exchange, bad_response, encode_json
from chimera.providers.adapters.reading import embed_reply, storable, token_count, vectors_of
from chimera.providers.adapters.sse import Event
from chimera.providers.adapters.streaming import Assembly, decoded, stream_chat

_MISSING = object()
_WORDS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
}


class MappedAdapter:
    """See `ChatAdapter`."""

    __slots__ = ("_base", "_exchange", "_headers", "_mapping", "_parameters")

    def __init__(
        self, exchange: Exchange, *, base_url: str, api_key: str, config: AdapterConfig
    ) -> None:
        assert config.mapping is not None
        self._base = base_url.rstrip("/")
        self._exchange = exchange
        self._mapping = config.mapping
        self._parameters = config.parameters
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            **config.headers,
        }
        if api_key:
            name = self._mapping.get("key_header", "Authorization")
            self._headers[name] = self._mapping.get("key_prefix", "Bearer ") + api_key

    async def chat(
        self, request: ChatRequest, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> ChatReply:
        """Posts the mapped request. Raises ProviderError."""
        answer = await self._exchange.send(
            "POST",
            self._url(self._mapping["path"], request.model),
            headers={**headers, **self._headers},
            body=self._body(self._mapping["request"], _values(request)),
            timeout_s=timeout_s,
        )
        places = self._mapping["response"]
        text = find(answer.document, places["text"])
        if not isinstance(text, str):
            raise bad_response("the answer has no text where the mapping says")
        finish = self._finish(answer.document, places) or "stop"
        return ChatReply(
            text=storable(text),
            finish_reason=finish,
            model=_text_at(answer.document, places, "model"),
            usage=usage_at(answer.document, places),
            latency_ms=answer.latency_ms,
            response_bytes=answer.body_bytes,
            truncated=finish == "length",
            provider_request_id=answer.request_id or _text_at(answer.document, places, "id")[:128],
        )

    def stream(
        self, request: ChatRequest, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> AsyncGenerator[str | ChatReply, None]:
        """The same with events. Raises ProviderError, kind `unsupported` without a mapping for it."""
        places = self._mapping.get("stream")
        if places is None:
            raise ProviderError("unsupported", "the mapping says nothing about streams")
        done = places.get("done", "[DONE]").encode()

        def read(event: Event, assembly: Assembly) -> str:
            if event.data == done:
                assembly.done = True
                return ""
            document = decoded(event)
            assembly.usage = usage_at(document, places) or assembly.usage
            assembly.finish = self._finish(document, places) or assembly.finish
            assembly.model = _text_at(document, places, "model") or assembly.model
            assembly.identifier = _text_at(document, places, "id") or assembly.identifier
            text = find(document, places["text"])
            return text if isinstance(text, str) else ""

        body = {**self._mapping["request"], **places["request"]}
        return stream_chat(
            self._exchange,
            self._url(places.get("path", self._mapping["path"]), request.model),
            headers={**headers, **self._headers, "Accept": "text/event-stream"},
            body=self._body(body, _values(request)),
            timeout_s=timeout_s,
            read=read,
        )

    async def embed(
        self, request: EmbedRequest, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> EmbedReply:
        """Raises ProviderError, kind `unsupported` without a mapping for it."""
        places = self._mapping.get("embeddings")
        if places is None:
            raise ProviderError("unsupported", "the mapping says nothing about embeddings")
        values = {
            "model": request.model,
            "texts": list(request.texts),
            "dimensions": request.dimensions,
        }
        answer = await self._exchange.send(
            "POST",
            self._url(places["path"], request.model),
            headers={**headers, **self._headers},
            body=self._body(places["request"], values),
            timeout_s=timeout_s,
            may_be_list=True,
        )
        document: Any = answer.document if answer.items is None else answer.items
        rows = find(document, places["list"])
        if "vector" in places and isinstance(rows, list):
            rows = [find(row, places["vector"]) for row in rows]
        read = None
        if "input_tokens" in places:
            read = token_count({"input": find(document, places["input_tokens"], None)}, "input")
        usage = None if read is None else Usage(read, 0)
        return embed_reply(answer, vectors_of(rows, len(request.texts)), request.model, usage)

    async def list_models(
        self, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> list[str]:
        """Raises ProviderError, kind `unsupported` without a mapping for it."""
        places = self._mapping.get("models")
        if places is None:
            raise ProviderError("unsupported", "the mapping says nothing about models")
        answer = await self._exchange.send(
            "GET",
            self._url(places["path"], ""),
            headers={**headers, **self._headers},
            body=None,
            timeout_s=timeout_s,
            may_be_list=True,
        )
        document: Any = answer.document if answer.items is None else answer.items
        entries = find(document, places["list"])
        if not isinstance(entries, list):
            raise bad_response("the listing is not where the mapping says")
        names = [find(entry, places.get("name", "")) for entry in entries]
        return [
            name
            for name in names
            if isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable()
        ][:1000]

    def _url(self, path: str, model: str) -> URL:
        return URL(self._base + path.replace("{model}", quote(model, safe="")), encoded=True)

    def _body(self, template: Mapping[str, Any], values: Mapping[str, Any]) -> bytes:
        return encode_json({**self._parameters, **fill(template, values)})

    def _finish(self, document: Any, places: Mapping[str, Any]) -> FinishReason | None:
        if "finish_reason" not in places:
            return None
        word = find(document, places["finish_reason"], None)
        if not isinstance(word, str):
            return None
        finish: FinishReason = self._mapping.get("finish_reasons", _WORDS).get(word, "other")
        return finish


def _values(request: ChatRequest) -> dict[str, Any]:
    messages = [{"role": m.role, "content": m.content} for m in request.messages]
    users = [m.content for m in request.messages if m.role == "user"]
    system = "\n\n".join(m.content for m in request.messages if m.role == "system")
    return {
        "model": request.model,
        "messages": messages,
        "turns": [message for message in messages if message["role"] != "system"],
        "system": system or None,
        "prompt": users[-1] if users else "",
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "stop": list(request.stop) or None,
    }


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """`template` with its placeholders filled in; fields without a value are left out."""
    if isinstance(template, Mapping):
        filled = {name: fill(part, values) for name, part in template.items()}
        return {name: part for name, part in filled.items() if part is not _MISSING}
    if isinstance(template, list):
        return [part for part in (fill(part, values) for part in template) if part is not _MISSING]
    if not isinstance(template, str) or "{" not in template:
        return template
    if template[1:-1] in values and template == f"{{{template[1:-1]}}}":
        value = values[template[1:-1]]
        return _MISSING if value is None else value
    for name in ("model", "prompt"):
        if isinstance(values.get(name), str):
            template = template.replace(f"{{{name}}}", values[name])
    return template


def find(document: Any, pointer: str, default: Any = _MISSING) -> Any:
    """What stands at a JSON pointer; `default` (something that is no JSON value) when nothing does."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict) and name in document:
            document = document[name]
        elif isinstance(document, list) and name.isdecimal() and int(name) < len(document):
            document = document[int(name)]
        else:
            return default
    return document


def _text_at(document: Any, places: Mapping[str, Any], name: str) -> str:
    value = find(document, places[name], None) if name in places else None
    return storable(value)[:200] if isinstance(value, str) else ""


def usage_at(document: Any, places: Mapping[str, Any]) -> Usage | None:
    """The counts a mapping names, inclusive as the mapped provider gives them; None without both of
    input and output. Raises ProviderError for counts that cannot be."""
    found = {
        name: find(document, places[name], None)
        for name in ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")
        if name in places
    }
    counts = {name: token_count(found, name) for name in found}
    read, written = counts.get("input_tokens"), counts.get("output_tokens")
    if read is None or written is None:
        return None
    return Usage(
        read,
        written,
        min(counts.get("cached_input_tokens") or 0, read),
        min(counts.get("reasoning_tokens") or 0, written),
    )
