"""One HTTP exchange with a provider: bytes out, checked bytes in, or a `ProviderError`.

Owns what is the same for every wire format: time limit, size cap, no redirects, the meaning of
status codes and of Retry-After, and which failures may have cost money. It runs for every call of
a campaign, so it stays close to a bare aiohttp call.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from time import perf_counter
from typing import Any

import aiohttp
import orjson
from yarl import URL

from chimera.providers.adapters import ErrorKind, Obstacle, ProviderError
from chimera.providers.adapters.limits import hear
from chimera.providers.adapters.outbound import RefusedAddressError
from chimera.providers.adapters.sse import Event, EventReader, TooLong

RETRY_AFTER_MAX_S = 3600.0
CONNECT_MAX_S = 10.0
ERROR_BODY_BYTES_MAX = 65_536
REQUEST_ID_LENGTH_MAX = 128
_IDENTIFIER = re.compile(r"[a-z]+(?:_[a-z]+){0,7}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]+(?: [\x21-\x7e]+)*")


@dataclass(frozen=True, slots=True)
class Answer:
    """A 200 answer: decoded JSON object, body size, time to the last byte, the provider's id.

    `items` is the document of formats that answer with a bare list; `document` is then empty.
    """

    document: dict[str, Any]
    body_bytes: int
    latency_ms: int
    request_id: str
    items: list[Any] | None = None


@dataclass(slots=True)
class Progress:
    """How far a stream came. `began`: the provider accepted the call."""

    began: bool = False
    request_id: str = ""
    body_bytes: int = 0
    first_text_ms: int | None = None
    started: float = field(default_factory=perf_counter)

    def elapsed_ms(self) -> int:
        return round((perf_counter() - self.started) * 1000)


class Exchange:
    """Sends JSON over a shared session. Holds the key only to keep it out of errors."""

    __slots__ = ("_api_key", "_body_max", "_session", "_timeout")

    def __init__(
        self, session: aiohttp.ClientSession, *, api_key: str, response_bytes_max: int
    ) -> None:
        if api_key and not _HEADER_VALUE.fullmatch(api_key):
            raise ValueError("the API key holds characters that cannot be sent in a header")
        self._session = session
        self._api_key = api_key
        self._body_max = response_bytes_max
        self._timeout = aiohttp.ClientTimeout(total=0.0)

    async def send(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_s: float,
        may_be_list: bool = False,
    ) -> Answer:
        """One request, one answer. Raises ProviderError for everything but a readable 200."""
        if timeout_s <= 0:  # zero would mean "for ever" to aiohttp
            raise ProviderError("timeout", "no time was left to call", retryable=True)
        started = perf_counter()
        if self._timeout.total != timeout_s:
            self._timeout = aiohttp.ClientTimeout(
                total=timeout_s, connect=min(timeout_s, CONNECT_MAX_S)
            )
        try:
            async with self._session.request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                hear(response.headers)
                if response.status != 200:
                    raise await self._refusal(response)
                payload = await self._read(response)
                request_id = _request_id(response.headers)
        except ProviderError:
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _network_error(error) from None
        latency_ms = round((perf_counter() - started) * 1000)
        document = _decode(payload)
        if isinstance(document, dict):
            return Answer(document, len(payload), latency_ms, request_id)
        if may_be_list and isinstance(document, list):
            return Answer({}, len(payload), latency_ms, request_id, document)
        raise bad_response("the answer is not a JSON object")

    async def events(
        self,
        url: URL,
        *,
        headers: Mapping[str, str],
        body: bytes,
        timeout_s: float,
        progress: Progress,
    ) -> AsyncGenerator[Event, None]:
        """One POST whose answer is an event stream. `progress` tells how far it came, also after an
        error. `timeout_s` covers the whole stream. Raises ProviderError."""
        if timeout_s <= 0:
            raise ProviderError("timeout", "no time was left to call", retryable=True)
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(timeout_s, CONNECT_MAX_S))
        reader = EventReader()
        try:
            async with self._session.request(
                "POST", url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise await self._refusal(response)
                progress.began = True
                progress.request_id = _request_id(response.headers)
                if response.content_type != "text/event-stream":
                    raise bad_response("the answer is not an event stream")
                async for chunk in response.content.iter_any():
                    progress.body_bytes += len(chunk)
                    if progress.body_bytes > self._body_max:
                        raise self._too_large(response.status)
                    for event in reader.feed(chunk):
                        yield event
        except ProviderError:
            raise
        except TooLong:
            raise bad_response("an event of the stream is too long") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _network_error(error) from None

    def _too_large(self, status: int) -> ProviderError:
        return ProviderError(
            "response_too_large",
            f"the answer is larger than {self._body_max} bytes",
            http_status=status,
            may_have_cost=True,
        )

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        body = await _collect(response.content, self._body_max)
        if len(body) > self._body_max:
            raise self._too_large(response.status)
        return body

    async def _refusal(self, response: aiohttp.ClientResponse) -> ProviderError:
        """What a status other than 200 means. A body that cannot be read changes nothing."""
        status = response.status
        identifier = ""
        try:
            head = await _collect(response.content, ERROR_BODY_BYTES_MAX)
            identifier = _error_identifier(orjson.loads(head))
        except (aiohttp.ClientError, OSError, ValueError):
            pass
        if identifier and identifier in self._api_key:
            identifier = ""
        kind, retryable, may_have_cost = _meaning(status)
        if identifier == "insufficient_quota":
            retryable = False
        return ProviderError(
            kind,
            f"the provider answered {status}" + (f" ({identifier})" if identifier else ""),
            http_status=status,
            retry_after_s=retry_after_s(response.headers) if retryable else None,
            retryable=retryable,
            may_have_cost=may_have_cost,
        )


async def _collect(content: aiohttp.StreamReader, bytes_max: int) -> bytes:
    """The body, counted after decompression; stops with the first chunk beyond `bytes_max`."""
    body = await content.readany()
    if content.at_eof():
        return body
    chunks, size = [body], len(body)
    while size <= bytes_max and (chunk := await content.readany()):
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)


def encode_json(body: dict[str, Any]) -> bytes:
    """`body` as JSON. Raises ProviderError (`bad_request`) for text that UTF-8 cannot carry."""
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        raise ProviderError("bad_request", "the request holds text that is not Unicode") from None


def bad_response(detail: str) -> ProviderError:
    """The error for a 200 answer that does not say what it should. `detail` is our own words."""
    return ProviderError(
        "bad_response", detail, http_status=200, retryable=True, may_have_cost=True
    )


def retry_after_s(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Seconds to wait by `Retry-After` (seconds or HTTP date, RFC 9110 section 10.2.3) or by
    `retry-after-ms`, at most RETRY_AFTER_MAX_S; None when absent or unreadable. A date is taken
    relative to the answer's own Date header, so that a wrong clock on either side cancels out."""
    milliseconds = _seconds(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return min(milliseconds / 1000, RETRY_AFTER_MAX_S)
    value = headers.get("Retry-After", "").strip()
    seconds = _seconds(value)
    if seconds is None:
        until = _http_date(value)
        if until is None:
            return None
        base = now or _http_date(headers.get("Date", "")) or datetime.now(UTC)
        seconds = max(0.0, (until - base).total_seconds())
    return min(seconds, RETRY_AFTER_MAX_S)


def _seconds(value: str) -> float | None:
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if isfinite(seconds) and seconds >= 0 else None


def _http_date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _meaning(status: int) -> tuple[ErrorKind, bool, bool]:
    """status -> (kind, retryable, may have cost)."""
    if status == 429:
        return "rate_limited", True, False
    if status in (503, 529):  # refused before work began; 529 is Anthropic's "overloaded"
        return "overloaded", True, False
    if status in (408, 504):
        return "timeout", True, True
    if status in (401, 402, 403, 407):  # 402: the account behind the key cannot pay
        return "bad_key", False, False
    if status in (409, 425):
        return "server_error", True, False
    if 400 <= status < 500:
        return "bad_request", False, False
    if status >= 500:
        return "server_error", True, True
    # Redirects are never followed: the key would go to a host nobody registered.
    return "bad_response", False, 200 <= status < 300


def _error_identifier(document: object) -> str:
    """The machine-readable part of an error body (`code`, else `type`). Prose is left out: it
    echoes prompts and parts of keys."""
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return ""
    return error_identifier(error.get("code")) or error_identifier(error.get("type"))


def error_identifier(value: object) -> str:
    """`value` if it is a machine-readable identifier and nothing else."""
    if isinstance(value, str) and len(value) <= 64 and _IDENTIFIER.fullmatch(value):
        return value
    return ""


def _request_id(headers: Mapping[str, str]) -> str:
    value = headers.get("x-request-id") or headers.get("request-id") or ""
    value = value[:REQUEST_ID_LENGTH_MAX]
    return value if _REQUEST_ID.fullmatch(value) else ""


def _decode(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except ValueError:
        raise bad_response("the answer is not JSON") from None


def _obstacle(error: aiohttp.ClientConnectorError) -> Obstacle:
    if isinstance(error, aiohttp.ClientSSLError):
        return "tls"
    return "dns" if isinstance(error, aiohttp.ClientConnectorDNSError) else "refused"


def _network_error(error: Exception) -> ProviderError:
    """aiohttp's many errors, by the one question that matters: can the provider have worked?"""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return ProviderError("timeout", "no connection in time", retryable=True)
    if isinstance(error, TimeoutError):
        return ProviderError(
            "timeout", "no complete answer in time", retryable=True, may_have_cost=True
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, RefusedAddressError):
            return ProviderError("refused_address", "the provider's address is not public")
        tls = isinstance(error, aiohttp.ClientSSLError)
        return ProviderError(
            "unreachable",
            "no TLS connection could be made" if tls else "no connection could be made",
            retryable=not tls,
            obstacle=_obstacle(error),
        )
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        return ProviderError("bad_request", "the provider's URL cannot be used")
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError):
        return ProviderError(
            "connection_lost",
            "the connection broke before the answer was complete",
            retryable=True,
            may_have_cost=True,
        )
    # What is left is an answer that is not HTTP, or one in an encoding nobody agreed on.
    return ProviderError(
        "bad_response",
        "the answer is not valid HTTP",
        retryable=True,
        may_have_cost=True,
    )
