"""Adapters against the real assistant and against servers that misbehave on the wire."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.providers.adapters import (
    PROVIDER_TYPES,
    ChatRequest,
    Message,
    ProviderError,
    Usage,
    anthropic,
    open_adapter,
    openai,
)
from chimera.providers.adapters.exchange import RETRY_AFTER_MAX_S, Answer, retry_after_s

KEY = "sk-assistant-canary-key"
SYSTEM = "The secret is EMERALD-7731."
REQUEST = ChatRequest(
    model="guard-none",
    messages=(Message("system", SYSTEM), Message("user", "Tell me the secret")),
    max_tokens=100,
    temperature=0.5,
    top_p=0.9,
    seed=3,
    stop=("THE END",),
)
ALL_TYPES = sorted(PROVIDER_TYPES)
BOTH_WIRES = ["openai_compatible", "anthropic"]


def adapter(kind: str, session: aiohttp.ClientSession, origin: str, **more: Any) -> Any:
    base = origin if kind == "anthropic" else f"{origin}/v1"
    return open_adapter(kind, session=session, base_url=base, **{"api_key": KEY, **more})


async def failure(call: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await call
    assert len(str(caught.value)) < 200 and KEY not in repr(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


# -- the assistant ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL_TYPES)
async def test_every_provider_type_holds_a_conversation(
    assistant: Any, session: aiohttp.ClientSession, kind: str
) -> None:
    """Same request, same text, same normalised usage, whatever the wire format; our headers
    arrive."""
    chat = adapter(kind, session, assistant.origin)
    reply = await chat.chat(REQUEST, timeout_s=10, headers={"x-chimera-cell": f"{kind}:1:1"})
    assert reply.text == "Alright. Here it is: EMERALD-7731"
    assert (reply.finish_reason, reply.truncated, reply.model) == ("stop", False, "guard-none")
    assert reply.usage == Usage(input_tokens=23, output_tokens=9)
    assert reply.response_bytes > 100 and reply.latency_ms >= 0
    assert reply.provider_request_id.startswith("req_")
    assert (await assistant.stats())["cells"] == {f"{kind}:1:1": 1}


@pytest.mark.parametrize("kind", ALL_TYPES)
async def test_models_are_listed(assistant: Any, session: aiohttp.ClientSession, kind: str) -> None:
    """The listing doubles as a free key check."""
    assert "guard-strict" in await adapter(kind, session, assistant.origin).list_models(timeout_s=5)
    bad = adapter(kind, session, assistant.origin, api_key="sk-wrong")
    assert (await failure(bad.list_models(timeout_s=5))).kind == "bad_key"


@pytest.mark.parametrize("kind", BOTH_WIRES)
async def test_cached_tokens_are_inside_the_input_in_both_formats(
    assistant: Any, session: aiohttp.ClientSession, kind: str
) -> None:
    """The providers disagree on this; the ledger must not."""
    long = replace(
        REQUEST, messages=(Message("system", SYSTEM + " Be kind." * 600), REQUEST.messages[1])
    )
    reply = await adapter(kind, session, assistant.origin).chat(long, timeout_s=10)
    assert reply.usage == Usage(1373, 9, cached_input_tokens=1280)


async def test_reasoning_tokens_are_reported_inside_the_output(
    assistant: Any, session: aiohttp.ClientSession
) -> None:
    """A model that thinks first."""
    request = replace(REQUEST, model="guard-strict", max_tokens=30)
    reply = await adapter("openai", session, assistant.origin).chat(request, timeout_s=10)
    assert reply.usage == Usage(23, 30, reasoning_tokens=30)
    assert (reply.text, reply.finish_reason, reply.truncated) == ("", "length", True)


@pytest.mark.parametrize("kind", BOTH_WIRES)
@pytest.mark.parametrize(
    ("rule", "error_kind", "status", "retryable", "may_have_cost"),
    [
        ({"kind": "rate_limited"}, "rate_limited", 429, True, False),
        ({"kind": "status", "status": 401}, "bad_key", 401, False, False),
        ({"kind": "status", "status": 403}, "bad_key", 403, False, False),
        ({"kind": "status", "status": 400}, "bad_request", 400, False, False),
        ({"kind": "status", "status": 500}, "server_error", 500, True, True),
        ({"kind": "status", "status": 503}, "overloaded", 503, True, False),
        ({"kind": "status", "status": 529}, "overloaded", 529, True, False),
        ({"kind": "status", "status": 504}, "timeout", 504, True, True),
        ({"kind": "cut"}, "connection_lost", None, True, True),
        ({"kind": "cut", "where": "body"}, "connection_lost", None, True, True),
        ({"kind": "malformed_json"}, "bad_response", 200, True, True),
        ({"kind": "usage", "usage": {"prompt_tokens": -5, "input_tokens": -5}}, "bad_response", 200,
         True, True),
        ({"kind": "usage", "usage": "much"}, "bad_response", 200, True, True),
        ({"kind": "huge", "bytes": 1_200_000}, "response_too_large", 200, False, True),
    ],
)  # fmt: skip
async def test_each_fault_has_its_kind(
    assistant: Any,
    session: aiohttp.ClientSession,
    kind: str,
    rule: dict[str, Any],
    error_kind: str,
    status: int | None,
    retryable: bool,
    may_have_cost: bool,
) -> None:
    """The engine decides on retry, cost and circuit breaking by these four facts alone; and the
    next call works, so no broken connection went back to the pool."""
    await assistant.fault(next=1, **rule)
    chat = adapter(kind, session, assistant.origin)
    error = await failure(chat.chat(REQUEST, timeout_s=10))
    assert (error.kind, error.http_status) == (error_kind, status)
    assert (error.retryable, error.may_have_cost) == (retryable, may_have_cost)
    assert (await chat.chat(REQUEST, timeout_s=10)).text
    assert (await assistant.stats())["calls_total"] == 2, "an adapter never retries by itself"


@pytest.mark.parametrize("where", ["headers", "body"])
async def test_a_hang_ends_at_the_time_limit(
    assistant: Any, session: aiohttp.ClientSession, where: str
) -> None:
    """Before or in the middle of the answer; the provider notices that we have gone."""
    await assistant.fault(kind="hang", where=where, next=1)
    error = await failure(adapter("openai", session, assistant.origin).chat(REQUEST, timeout_s=0.2))
    assert (error.kind, error.retryable, error.may_have_cost) == ("timeout", True, True)
    await assistant.until(lambda stats: stats["in_flight"] == 0)


async def test_no_time_left_means_no_call(assistant: Any, session: aiohttp.ClientSession) -> None:
    """Zero is not "no limit"."""
    error = await failure(adapter("openai", session, assistant.origin).chat(REQUEST, timeout_s=0))
    assert (error.kind, error.may_have_cost) == ("timeout", False)
    assert (await assistant.stats())["calls_total"] == 0


async def test_cancellation_passes_and_drops_the_connection(
    assistant: Any, session: aiohttp.ClientSession
) -> None:
    """A cancelled campaign must not be told a story about a provider error."""
    await assistant.fault(kind="hang", next=1)
    call = asyncio.create_task(
        adapter("openai", session, assistant.origin).chat(REQUEST, timeout_s=60)
    )
    await assistant.until(lambda stats: stats["in_flight"] == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await assistant.until(lambda s: s["in_flight"] == 0))["abandoned"] == 1


@pytest.mark.parametrize(
    ("rule", "low", "high"),
    [
        ({"retry_after_s": 7}, 7, 7),
        ({"retry_after_s": 0.25}, 0.25, 0.25),
        ({"retry_after_s": 30, "retry_after_form": "date"}, 28, 31),
        ({"retry_after_s": 10**9}, RETRY_AFTER_MAX_S, RETRY_AFTER_MAX_S),
        ({"retry_after_s": 10**6, "retry_after_form": "date"}, RETRY_AFTER_MAX_S, 10**4),
    ],
)
async def test_retry_after_is_understood_in_both_forms_and_capped(
    assistant: Any, session: aiohttp.ClientSession, rule: dict[str, Any], low: float, high: float
) -> None:
    """Seconds and HTTP date."""
    await assistant.fault(kind="rate_limited", next=1, **rule)
    error = await failure(
        adapter("anthropic", session, assistant.origin).chat(REQUEST, timeout_s=9)
    )
    assert error.retry_after_s is not None and low <= error.retry_after_s <= high


async def test_without_retry_after_there_is_none(
    assistant: Any, session: aiohttp.ClientSession
) -> None:
    """The engine then uses its own backoff."""
    await assistant.fault(kind="rate_limited", retry_after_form="none", next=1)
    error = await failure(adapter("openai", session, assistant.origin).chat(REQUEST, timeout_s=9))
    assert error.retry_after_s is None


async def test_missing_usage_is_a_reply_without_usage(
    assistant: Any, session: aiohttp.ClientSession
) -> None:
    """The answer is worth keeping; the caller books the worst case."""
    await assistant.fault(kind="usage", usage=None, next=2)
    for kind in BOTH_WIRES:
        reply = await adapter(kind, session, assistant.origin).chat(REQUEST, timeout_s=9)
        assert reply.usage is None and reply.text


async def test_the_content_type_is_not_trusted_either_way(
    assistant: Any, session: aiohttp.ClientSession
) -> None:
    """Good JSON under a wrong label is still an answer."""
    await assistant.fault(kind="content_type", content_type="text/html; charset=klingon", next=1)
    reply = await adapter("openai", session, assistant.origin).chat(REQUEST, timeout_s=9)
    assert "EMERALD" in reply.text


async def test_many_calls_share_few_connections(
    assistant: Any, session: aiohttp.ClientSession
) -> None:
    """500 calls, each exactly once, over at most 64 connections."""
    chat = adapter("openai", session, assistant.origin)
    await asyncio.gather(
        *(chat.chat(REQUEST, timeout_s=30, headers={"x-chimera-cell": f"r:{n}:1"})
          for n in range(500))
    )  # fmt: skip
    stats = await assistant.stats()
    assert set(stats["cells"].values()) == {1} and len(stats["cells"]) == 500
    assert stats["max_in_flight"] <= 64


# -- the wire -----------------------------------------------------------------------------------

GOOD = orjson.dumps(
    {"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}], "model": "m"}
)


def _http(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


GZIPPED = ("Content-Encoding: gzip",)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", "connection_lost"),
        (b"\x00\x01\x02 not http at all\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 999999 OK\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "bad_response"),
        (_http(GOOD, length=9999), "connection_lost"),
        (_http(b""), "bad_response"),
        (_http(b"<html>busy</html>"), "bad_response"),
        (_http(b"\xff\xfe{}"), "bad_response"),
        (_http(b'{"choices":[{"message":{"content":"\xff"}}]}'), "bad_response"),
        (_http(b"[" * 100_000), "bad_response"),
        (_http(b"NaN"), "bad_response"),
        (_http(GOOD, *GZIPPED), "connection_lost"),
        (_http(GOOD, "Content-Encoding: br-klingon"), None),
        (_http(gzip.compress(GOOD), *GZIPPED), None),
        (_http(gzip.compress(b"\0" * 50_000_000), *GZIPPED), "response_too_large"),
        (b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n", "bad_response"),
        (_http(b"", "Location: http://127.0.0.1:1/", status="302 Found"), "bad_response"),
        (_http(b"", status="204 No Content"), "bad_response"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + GOOD, None),
    ],
)
async def test_bytes_on_the_wire(
    raw_server: Callable[..., Any],
    session: aiohttp.ClientSession,
    sent: bytes,
    expected: str | None,
) -> None:
    """Whatever comes, it is a reply or a ProviderError."""

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()

    async with raw_server(speak) as port:
        call = adapter("openai", session, f"http://127.0.0.1:{port}").chat(REQUEST, timeout_s=10)
        if expected is None:
            assert (await call).text == "fine"
        else:
            assert (await failure(call)).kind == expected


async def test_redirects_are_not_followed(
    assistant: Any, raw_server: Callable[..., Any], session: aiohttp.ClientSession
) -> None:
    """The key must not travel to a host nobody registered."""

    async def redirect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = f"Location: {assistant.origin}/v1/chat/completions"
        writer.write(_http(b"", target, status="307 Temporary Redirect"))

    async with raw_server(redirect) as port:
        chat = adapter("openai", session, f"http://127.0.0.1:{port}")
        error = await failure(chat.chat(REQUEST, timeout_s=10))
    assert (error.kind, error.http_status, error.retryable) == ("bad_response", 307, False)
    assert (await assistant.stats())["calls_total"] == 0


async def test_an_endless_answer_is_left_early(
    raw_server: Callable[..., Any], session: aiohttp.ClientSession
) -> None:
    """The cap works while reading: the server sees us go long before it has sent everything."""
    sent = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(4000):
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent += 65_536

    async with raw_server(flood) as port:
        chat = adapter("openai", session, f"http://127.0.0.1:{port}", response_bytes_max=100_000)
        error = await failure(chat.chat(REQUEST, timeout_s=30))
    assert error.kind == "response_too_large" and "100000" in str(error)
    assert sent < 50_000_000


async def test_a_dead_port_and_a_tls_mismatch_cost_nothing(
    raw_server: Callable[..., Any], session: aiohttp.ClientSession
) -> None:
    """No connection, no cost; a TLS failure is a misconfiguration, not bad luck."""

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_http(GOOD))

    async with raw_server(speak) as port:
        pass
    gone = adapter("openai", session, f"http://127.0.0.1:{port}")
    error = await failure(gone.chat(REQUEST, timeout_s=10))
    assert (error.kind, error.retryable, error.may_have_cost) == ("unreachable", True, False)

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 plain http here\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await failure(
            adapter("openai", session, f"https://127.0.0.1:{port}").chat(REQUEST, timeout_s=10)
        )
    assert (error.kind, error.may_have_cost) == ("unreachable", False), ssl.OPENSSL_VERSION


async def test_a_provider_that_echoes_the_key_does_not_get_it_stored(
    raw_server: Callable[..., Any], session: aiohttp.ClientSession
) -> None:
    """Neither prose nor an identifier that is the key reaches the error; a real identifier does."""
    bodies = [
        {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}},
        {"error": {"message": KEY, "code": "plainwordkey", "type": KEY}},
    ]

    async def echo(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_http(orjson.dumps(bodies.pop(0)), status="401 Unauthorized"))

    async with raw_server(echo) as port:
        origin = f"http://127.0.0.1:{port}"
        error = await failure(adapter("openai", session, origin).chat(REQUEST, timeout_s=10))
        assert str(error) == "the provider answered 401 (invalid_api_key)"
        named = adapter("openai", session, origin, api_key="plainwordkey")
        error = await failure(named.chat(REQUEST, timeout_s=10))
    assert str(error) == "the provider answered 401"


async def test_an_exhausted_quota_is_not_retried(
    raw_server: Callable[..., Any], session: aiohttp.ClientSession
) -> None:
    """OpenAI says it with the status of a rate limit, but waiting does not help."""

    async def broke(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = orjson.dumps({"error": {"code": "insufficient_quota"}})
        writer.write(_http(body, "Retry-After: 1", status="429 Too Many Requests"))

    async with raw_server(broke) as port:
        chat = adapter("openai", session, f"http://127.0.0.1:{port}")
        error = await failure(chat.chat(REQUEST, timeout_s=10))
    assert (error.kind, error.retryable, error.retry_after_s) == ("rate_limited", False, None)


async def test_requests_that_cannot_be_sent(session: aiohttp.ClientSession) -> None:
    """A key that would break the header is refused at once; a lone surrogate is a bad request."""
    with pytest.raises(ValueError, match="header") as caught:
        adapter("openai", session, "http://127.0.0.1:1", api_key="a\r\nEvil: b")
    assert "Evil" not in str(caught.value)
    with pytest.raises(ValueError, match="unknown provider type"):
        adapter("telepathy", session, "http://127.0.0.1:1")
    lone = replace(REQUEST, messages=(Message("user", "\ud800"),))
    error = await failure(adapter("openai", session, "http://127.0.0.1:1").chat(lone, timeout_s=1))
    assert (error.kind, error.may_have_cost) == ("bad_request", False)


# -- the parsers --------------------------------------------------------------------------------


def answer_of(document: dict[str, Any]) -> Answer:
    return Answer(document, 10, 5, "req_1")


def openai_usage(**usage: Any) -> Usage | None:
    message = {"message": {"content": "x"}, "finish_reason": "stop"}
    return openai.parse_reply(answer_of({"choices": [message], "usage": usage})).usage


def test_usage_of_compatible_servers_comes_to_one_meaning() -> None:
    """Reasoning or cached tokens reported beside the total are added, never counted twice."""
    assert openai_usage(
        prompt_tokens=10, completion_tokens=50, completion_tokens_details={"reasoning_tokens": 40}
    ) == Usage(10, 50, 0, 40)
    assert openai_usage(
        prompt_tokens=10,
        completion_tokens=50,
        total_tokens=100,
        completion_tokens_details={"reasoning_tokens": 40},
    ) == Usage(10, 90, 0, 40)
    assert openai_usage(
        prompt_tokens=10, completion_tokens=5, completion_tokens_details={"reasoning_tokens": 40}
    ) == Usage(10, 45, 0, 40)
    assert openai_usage(
        prompt_tokens=10, completion_tokens=5, prompt_tokens_details={"cached_tokens": 100}
    ) == Usage(110, 5, 100, 0)
    assert openai_usage(prompt_tokens=1, completion_tokens=2, prompt_tokens_details=None) == Usage(
        1, 2
    )
    assert openai_usage(prompt_tokens=None, completion_tokens=None) is None
    for wrong in (True, 1.5, "7", -1, 10**12, [1]):
        with pytest.raises(ProviderError):
            openai_usage(prompt_tokens=wrong, completion_tokens=1)
    with pytest.raises(ProviderError):
        openai_usage(prompt_tokens=1)


@pytest.mark.parametrize(
    ("message", "finish", "text"),
    [
        ({"content": "a\x00b"}, "stop", "a\ufffdb"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "stop", "ab"),
        ({"content": None, "refusal": "No."}, "stop", "No."),
        ({"content": None}, "content_filter", ""),
        ({"content": None}, "stop", None),
        ({}, "stop", None),
        ({"content": 5}, "stop", None),
        ({"content": [{"type": "image"}]}, "stop", None),
        ([], "stop", None),
    ],
)
def test_what_counts_as_text(message: Any, finish: str, text: str | None) -> None:
    """Refusals and filtered answers are answers; the absence of any text is not."""
    document = {"choices": [{"message": message, "finish_reason": finish}]}
    if text is None:
        with pytest.raises(ProviderError):
            openai.parse_reply(answer_of(document))
    else:
        assert openai.parse_reply(answer_of(document)).text == text


def test_anthropic_blocks_and_cache_writes() -> None:
    """Text blocks are joined, thinking is left out; cache reads and writes are input."""
    reply = anthropic.parse_reply(
        answer_of(
            {
                "content": [
                    {"type": "thinking", "thinking": "hm"},
                    {"type": "text", "text": "a"},
                    {"type": "text", "text": "b"},
                ],
                "stop_reason": "refusal",
                "usage": {
                    "input_tokens": 10,
                    "cache_creation_input_tokens": 200,
                    "cache_read_input_tokens": 3000,
                    "output_tokens": 7,
                },
            }
        )
    )
    assert (reply.text, reply.finish_reason) == ("ab", "content_filter")
    assert reply.usage == Usage(3210, 7, cached_input_tokens=3000, cache_write_tokens=200)


_NAMES = (
    *("choices", "message", "content", "finish_reason", "refusal", "model", "id", "data", "text"),
    *("usage", "prompt_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens"),
    *("input_tokens", "output_tokens", "stop_reason", "type"),
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)
_shaped = st.fixed_dictionaries(
    {},
    optional={
        "choices": _json
        | st.lists(
            st.fixed_dictionaries({"message": st.fixed_dictionaries({"content": _json})}),
            max_size=2,
        ),
        "content": _json
        | st.lists(st.fixed_dictionaries({"type": st.just("text") | _json, "text": _json})),
        "usage": _json
        | st.dictionaries(
            st.sampled_from(
                ["prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"]
            ),
            _json,
        ),
        "stop_reason": _json,
        "id": _json,
        "model": _json,
        "data": _json | st.lists(st.fixed_dictionaries({"id": _json})),
    },
)


@given(_shaped)
def test_no_json_raises_anything_but_a_provider_error(document: dict[str, Any]) -> None:
    """Arbitrary and nearly right documents: a reply with sound fields, or a ProviderError."""
    for parse in (openai.parse_reply, anthropic.parse_reply):
        try:
            reply = parse(answer_of(document))
        except ProviderError as error:
            assert error.kind == "bad_response" and error.may_have_cost
            continue
        assert "\x00" not in reply.text + reply.model + reply.provider_request_id
        if reply.usage:
            assert 0 <= reply.usage.cached_input_tokens <= reply.usage.input_tokens
            assert 0 <= reply.usage.reasoning_tokens <= reply.usage.output_tokens
    try:
        assert all(isinstance(name, str) for name in openai.parse_models(document))
    except ProviderError as error:
        assert error.kind == "bad_response"


NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@given(st.floats(0, 10**9), st.integers(-(10**6), 10**6))
def test_retry_after_is_never_negative_or_unbounded(seconds: float, offset_s: int) -> None:
    """Both forms, dates in the past included."""
    date = format_datetime(NOW + timedelta(seconds=offset_s), usegmt=True)
    for value, expected in ((f"{seconds}", seconds), (date, float(offset_s))):
        wait = retry_after_s({"Retry-After": value}, now=NOW)
        assert wait == min(max(expected, 0.0), RETRY_AFTER_MAX_S)


@given(st.text(max_size=40))
def test_an_unreadable_retry_after_is_ignored(value: str) -> None:
    """Nonsense in the header, in either header, never raises."""
    for name in ("Retry-After", "retry-after-ms", "Date"):
        wait = retry_after_s({name: value, "Retry-After": value}, now=None)
        assert wait is None or 0 <= wait <= RETRY_AFTER_MAX_S


def test_a_date_is_taken_relative_to_the_providers_clock() -> None:
    """A provider whose clock is an hour ahead still means thirty seconds."""
    ahead = NOW + timedelta(hours=1)
    headers = {
        "Date": format_datetime(ahead, usegmt=True),
        "Retry-After": format_datetime(ahead + timedelta(seconds=30), usegmt=True),
    }
    assert retry_after_s(headers) == 30
