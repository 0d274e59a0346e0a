"""The two wire formats the embedded assistant speaks: OpenAI chat completions and Anthropic
messages, as whole documents and as event streams.

Token estimate, so that every count can be recomputed from the texts: `tokens(text)` is one token
per four bytes of UTF-8, rounded up. A prompt has 3 tokens plus, per message (system included),
4 + tokens(content). Of a prompt of 1,024 tokens or more, the system message counts as read from a
cache, rounded down to a multiple of 128. An answer has tokens(text) plus the guard's reasoning
tokens; `max_tokens` bounds both together. OpenAI's counts include cached and reasoning tokens,
Anthropic's `input_tokens` leaves cached ones out, as the real ones do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from chimera.embedded.assistant_parts import PARTS
from chimera.embedded.assistant_rules import GUARDS, Conversation

Format = Literal["openai", "anthropic", "tgi", "own"]
CACHE_FROM_TOKENS = 1024
CACHE_STEP_TOKENS = 128
_STREAM_PIECE_CHARS = 24


class BadCallError(Exception):
    """A call the real provider would refuse. `status` 400 or 404."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Call:
    """A chat call of either format."""

    format: Format
    model: str
    conversation: Conversation
    max_tokens: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool

    @property
    def prompt(self) -> str:
        """The last user message, or ''."""
        return next(
            (text for role, text in reversed(self.conversation.turns) if role == "user"), ""
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What is sent back. Token counts are inclusive (see module). `usage` replaces the format's
    usage object when it is not None; False leaves it out."""

    text: str
    finish: Literal["stop", "length"]
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    identifier: str
    usage: Any = None


def tokens(text: str) -> int:
    """The token estimate of the module docstring."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return (size + 3) // 4


def read_call(wire: Format, body: bytes) -> Call:
    """The call in a request body. Raises BadCallError."""
    try:
        document = orjson.loads(body)
    except ValueError:
        raise BadCallError(400, "the body is not JSON") from None
    if not isinstance(document, dict) or not isinstance(document.get("messages"), list):
        raise BadCallError(400, "messages: a list is required")
    model = document.get("model")
    if not isinstance(model, str) or (model not in GUARDS and model not in PARTS):
        raise BadCallError(404, "the model does not exist")
    limit = document.get("max_completion_tokens", document.get("max_tokens"))
    if (limit is None and wire == "anthropic") or not (
        limit is None or (type(limit) is int and limit > 0)
    ):
        raise BadCallError(400, "max_tokens: a positive number is required")
    messages = [_read_message(message) for message in document["messages"]]
    system = [text for role, text in messages if role in ("system", "developer")]
    if wire == "anthropic" and document.get("system"):
        system.insert(0, _read_content(document["system"]))
    turns = tuple(message for message in messages if message[0] in ("user", "assistant"))
    if not turns:
        raise BadCallError(400, "messages: at least one user message is required")
    seed = document.get("seed")
    response_format = document.get("response_format")
    stop = document.get("stop_sequences" if wire == "anthropic" else "stop") or ()
    options = document.get("stream_options")
    return Call(
        format=wire,
        model=model,
        conversation=Conversation(
            system="\n\n".join(system),
            turns=turns,
            seed=seed if type(seed) is int else 0,
            wants_json=isinstance(response_format, dict)
            and str(response_format.get("type", "")).startswith("json"),
        ),
        max_tokens=limit,
        stop=(stop,) if isinstance(stop, str) else tuple(s for s in stop if isinstance(s, str)),
        stream=document.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _read_message(message: object) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise BadCallError(400, "messages: each is an object")
    role = message.get("role")
    if role not in ("system", "developer", "user", "assistant"):
        raise BadCallError(400, "messages: unknown role")
    return role, _read_content(message.get("content"))


def _read_content(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, dict) and p.get("type") == "text"]
        if len(parts) == len(content) and all(isinstance(p, str) for p in parts):
            return "".join(p for p in parts if isinstance(p, str))
    raise BadCallError(400, "messages: content is a string or a list of text parts")


def result_of(call: Call, text: str, identifier: str) -> Result:
    """Applies stop sequences and the token limit to `text` and counts tokens."""
    guard = GUARDS.get(call.model)
    for stop in call.stop:
        if stop:
            text = text.partition(stop)[0]
    reasoning = guard.reasoning_tokens if guard is not None else 0
    finish: Literal["stop", "length"] = "stop"
    if call.max_tokens is not None:
        reasoning = min(reasoning, call.max_tokens)
        room = call.max_tokens - reasoning
        if tokens(text) > room:
            text = text.encode("utf-8", "replace")[: 4 * room].decode("utf-8", "ignore")
            finish = "length"
    conversation = call.conversation
    system = 4 + tokens(conversation.system) if conversation.system else 0
    read = 3 + system + sum(4 + tokens(turn) for _, turn in conversation.turns)
    cached = system // CACHE_STEP_TOKENS * CACHE_STEP_TOKENS if read >= CACHE_FROM_TOKENS else 0
    return Result(text, finish, read, cached, tokens(text) + reasoning, reasoning, identifier)


def document(call: Call, result: Result) -> bytes:
    """The whole answer as JSON."""
    body: dict[str, Any]
    if call.format == "anthropic":
        body = {
            "id": f"msg_{result.identifier}",
            "type": "message",
            "role": "assistant",
            "model": call.model,
            "content": [{"type": "text", "text": result.text}] if result.text else [],
            "stop_reason": _ANTHROPIC_FINISH[result.finish],
            "stop_sequence": None,
        }
    else:
        body = {
            "id": f"chatcmpl-{result.identifier}",
            "object": "chat.completion",
            "created": 0,
            "model": call.model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": result.text, "refusal": None},
                    "finish_reason": result.finish,
                }
            ],
        }
    usage = _usage(call.format, result)
    if usage is not False:
        body["usage"] = usage
    return orjson.dumps(body)


_ANTHROPIC_FINISH = {"stop": "end_turn", "length": "max_tokens"}


def _usage(wire: Format, result: Result) -> Any:
    if result.usage is not None:
        return result.usage
    if wire == "anthropic":
        return {
            "input_tokens": result.input_tokens - result.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": result.cached_tokens,
            "output_tokens": result.output_tokens,
        }
    return {
        "prompt_tokens": result.input_tokens,
        "completion_tokens": result.output_tokens,
        "total_tokens": result.input_tokens + result.output_tokens,
        "prompt_tokens_details": {"cached_tokens": result.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": result.reasoning_tokens},
    }


def pieces_of(text: str) -> list[str]:
    """An answer as it is streamed."""
    return [text[at : at + _STREAM_PIECE_CHARS] for at in range(0, len(text), _STREAM_PIECE_CHARS)]


def events(call: Call, result: Result) -> Iterator[bytes]:
    """The answer as server-sent events, one per item."""
    pieces = pieces_of(result.text)
    stream = _anthropic_events if call.format == "anthropic" else _openai_events
    return stream(call, result, pieces)


def _openai_events(call: Call, result: Result, pieces: list[str]) -> Iterator[bytes]:
    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        head = {"id": f"chatcmpl-{result.identifier}", "object": "chat.completion.chunk"}
        body = {**head, "created": 0, "model": call.model, "choices": choices, **more}
        return b"data: " + orjson.dumps(body) + b"\n\n"

    def choice(delta: dict[str, str], finish: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "finish_reason": finish}]

    yield chunk(choice({"role": "assistant", "content": ""}))
    for piece in pieces:
        yield chunk(choice({"content": piece}))
    yield chunk(choice({}, result.finish))
    usage = _usage(call.format, result)
    if call.include_usage and usage is not False:
        yield chunk([], usage=usage)
    yield b"data: [DONE]\n\n"


def _anthropic_events(call: Call, result: Result, pieces: list[str]) -> Iterator[bytes]:
    def event(name: str, **body: Any) -> bytes:
        return (
            b"event: "
            + name.encode()
            + b"\ndata: "
            + orjson.dumps({"type": name, **body})
            + b"\n\n"
        )

    usage = _usage(call.format, result)
    message: dict[str, Any] = {
        "id": f"msg_{result.identifier}",
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }
    if usage is not False:
        message["usage"] = {**usage, "output_tokens": 1} if isinstance(usage, dict) else usage
    yield event("message_start", message=message)
    yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for piece in pieces:
        yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
    yield event("content_block_stop", index=0)
    end: dict[str, Any] = {
        "delta": {"stop_reason": _ANTHROPIC_FINISH[result.finish], "stop_sequence": None}
    }
    if usage is not False:
        end["usage"] = usage
    yield event("message_delta", **end)
    yield event("message_stop")


def error_document(wire: Format, status: int, message: str) -> bytes:
    """The error answer the real provider gives with `status`."""
    if wire == "anthropic":
        kind = _ANTHROPIC_ERRORS.get(
            status, "api_error" if status >= 500 else "invalid_request_error"
        )
        return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}})
    kind, code = _OPENAI_ERRORS.get(
        status, ("server_error", None) if status >= 500 else ("invalid_request_error", None)
    )
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


_ANTHROPIC_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_OPENAI_ERRORS: dict[int, tuple[str, str | None]] = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}
