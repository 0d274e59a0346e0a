"""A chat call whose answer arrives in pieces, whatever the wire format.

What must stay true: every piece of text is handed on once and in order; the last thing handed on is
the whole `ChatReply`; a stream that ends in any other way raises a ProviderError that carries what
had arrived (`partial`), with a usage only if the provider had already stated the final one. So a cut
stream is booked by its usage, or else at its worst.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson
from yarl import URL

from chimera.providers.adapters import (
    NO_HEADERS,
    ChatAdapter,
    ChatReply,
    ChatRequest,
    ErrorKind,
    FinishReason,
    ProviderError,
    Usage,
)
from chimera.providers.adapters.exchange import Exchange, Progress, bad_response
from chimera.providers.adapters.reading import storable
from chimera.providers.adapters.sse import Event


@dataclass(slots=True)
class Assembly:
    """What has arrived. A wire format's reader fills it and gives back the new text of an event.

    done: the provider has said that nothing follows. finish: it has said why the text ended, which
    also makes it whole where the format has no last word.
    """

    texts: list[str] = field(default_factory=list)
    finish: FinishReason | None = None
    model: str = ""
    identifier: str = ""
    usage: Usage | None = None
    done: bool = False
    counts: dict[str, Any] = field(default_factory=dict)

    def reply(self, progress: Progress) -> ChatReply:
        finish = self.finish or "other"
        return ChatReply(
            text=storable("".join(self.texts)),
            finish_reason=finish,
            model=storable(self.model)[:200],
            usage=self.usage,
            latency_ms=progress.elapsed_ms(),
            response_bytes=progress.body_bytes,
            truncated=finish == "length",
            provider_request_id=progress.request_id or storable(self.identifier)[:128],
            first_text_ms=progress.first_text_ms,
        )


Reader = Callable[[Event, Assembly], str]


async def stream_chat(
    exchange: Exchange,
    url: URL,
    *,
    headers: Mapping[str, str],
    body: bytes,
    timeout_s: float,
    read: Reader,
) -> AsyncGenerator[str | ChatReply, None]:
    """Sends once; yields texts as they come, then the reply. Raises ProviderError."""
    progress, assembly = Progress(), Assembly()
    try:
        async for event in exchange.events(
            url, headers=headers, body=body, timeout_s=timeout_s, progress=progress
        ):
            text = read(event, assembly)
            if text:
                if progress.first_text_ms is None:
                    progress.first_text_ms = progress.elapsed_ms()
                assembly.texts.append(text)
                yield text
            if assembly.done:
                break
        if not assembly.done and assembly.finish is None:
            raise ProviderError(
                "connection_lost",
                "the stream ended before the answer was complete",
                retryable=True,
                may_have_cost=True,
            )
    except ProviderError as error:
        if progress.began:
            error.partial = assembly.reply(progress)
        raise
    yield assembly.reply(progress)


class StreamedChats:
    """An adapter whose every chat call goes out as a stream. See `ChatAdapter`."""

    __slots__ = ("_adapter", "embed", "list_models", "stream")

    def __init__(self, adapter: ChatAdapter) -> None:
        self._adapter = adapter
        self.stream = adapter.stream
        self.embed = adapter.embed
        self.list_models = adapter.list_models

    async def chat(
        self, request: ChatRequest, *, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> ChatReply:
        """The reply once the stream has ended. Raises ProviderError, with `partial`."""
        reply: str | ChatReply = ""
        stream = self._adapter.stream(request, timeout_s=timeout_s, headers=headers)
        async with aclosing(stream) as items:
            async for item in items:
                reply = item
        assert isinstance(reply, ChatReply)  # the last item of a stream that did not raise
        return reply


def decoded(event: Event) -> dict[str, Any]:
    """An event's data as a JSON object. Raises ProviderError (`bad_response`)."""
    try:
        document = orjson.loads(event.data)
    except ValueError:
        raise bad_response("an event of the stream is not JSON") from None
    if not isinstance(document, dict):
        raise bad_response("an event of the stream is not a JSON object")
    return document


_KINDS: dict[str, ErrorKind] = {
    "overloaded_error": "overloaded",
    "rate_limit_error": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "authentication_error": "bad_key",
    "permission_error": "bad_key",
    "invalid_request_error": "bad_request",
}


def stream_error(identifier: str) -> ProviderError:
    """The error for a failure that is told inside a stream which had begun as a success."""
    kind = _KINDS.get(identifier, "server_error")
    return ProviderError(
        kind,
        "the provider broke the stream off" + (f" ({identifier})" if identifier else ""),
        http_status=200,
        retryable=kind in ("overloaded", "rate_limited", "server_error"),
        may_have_cost=True,
    )
