"""A target to test against where no model can be had: a loopback server that speaks the OpenAI
and Anthropic formats and those of `assistant_formats`, with a rule-based assistant behind it.

    python -m chimera.embedded.assistant --port 0 [--latency-ms 0] [--secret WORD]

prints one JSON line `{"host", "port", "secret"}` once it accepts connections. Any key that begins
with `sk-assistant-` is accepted. Models are the guards of `assistant_rules`, and the attackers
and judges of `assistant_parts`, which are not listed.

    POST /v1/chat/completions, POST /v1/messages, GET /v1/models, GET /healthz
    POST /faults (a fault or a list of them, see `assistant_faults`), GET, DELETE
    GET /stats[?run_id=][&min_calls=], DELETE

Statistics live here, so they outlive whatever is tested: a worker killed in the middle of a call
cannot hide that the call arrived. Calls are counted per value of the `x-chimera-cell` header
(`<run_id>:<cell_no>:<attempt>`) at arrival, before any fault.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import uvloop
from aiohttp import web

from chimera.embedded import assistant_formats as formats
from chimera.embedded.assistant_faults import RULES_MAX, Fault, read_fault
from chimera.embedded.assistant_parts import PARTS
from chimera.embedded.assistant_rules import GUARDS, answer
from chimera.embedded.assistant_wire import (
    BadCallError,
    Call,
    Format,
    Result,
    document,
    error_document,
    events,
    read_call,
    result_of,
)

KEY_PREFIX = "sk-assistant-"
HOST = "127.0.0.1"
CELLS_MAX = 500_000
CELL_LENGTH_MAX = 100
_CHAT_PATHS: dict[str, Format] = {
    "/v1/chat/completions": "openai",
    "/v1/messages": "anthropic",
    "/generate": "tgi",
    "/generate_stream": "tgi",
    "/own/chat": "own",
}


@dataclass(slots=True)
class Stats:
    """Counts since start or the last DELETE.

    calls: arrived, per model ("" for calls refused before a model was known). answered: worked out
    an answer, which a real provider would charge for, whether or not it could be delivered.
    abandoned: the client went away first. cells: calls per header value, up to CELLS_MAX values;
    what did not fit is in cells_uncounted. Tokens are of answered calls, inclusive.
    """

    calls: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    input_tokens: Counter[str] = field(default_factory=Counter)
    output_tokens: Counter[str] = field(default_factory=Counter)
    cells: dict[str, int] = field(default_factory=dict)
    cells_uncounted: int = 0
    abandoned: int = 0
    in_flight: int = 0
    max_in_flight: int = 0

    def arrive(self, cell: str | None) -> None:
        self.in_flight += 1
        if self.in_flight > self.max_in_flight:
            self.max_in_flight = self.in_flight
        if cell is None:
            return
        cell = cell[:CELL_LENGTH_MAX]
        seen = self.cells.get(cell, 0)
        if seen or len(self.cells) < CELLS_MAX:
            self.cells[cell] = seen + 1
        else:
            self.cells_uncounted += 1

    def answer(self, model: str, result: Result) -> None:
        self.answered[model] += 1
        self.input_tokens[model] += result.input_tokens
        self.output_tokens[model] += result.output_tokens

    def shown(self, *, run_id: str, min_calls: int) -> dict[str, Any]:
        start = f"{run_id}:" if run_id else ""
        return {
            "calls": self.calls,
            "calls_total": self.calls.total(),
            "answered": self.answered,
            "answered_total": self.answered.total(),
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "abandoned": self.abandoned,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "cells": {
                cell: count
                for cell, count in self.cells.items()
                if count >= min_calls and cell.startswith(start)
            },
            "cells_uncounted": self.cells_uncounted,
        }


class AssistantServer:
    """The request handler and its state. One event loop only."""

    def __init__(self, *, secret: str, latency_ms: float) -> None:
        self._secret = secret
        self._latency_s = latency_ms / 1000
        self._faults: list[Fault] = []
        self._stats = Stats()
        self._serial = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        wire = _CHAT_PATHS.get(request.path)
        if wire is not None and request.method == "POST":
            return await self._chat(request, wire)
        if request.method == "POST" and formats.takes_vectors(request.path):
            return await self._vectors(request)
        match request.method, request.path:
            case "GET", "/healthz":
                return web.Response(text="ok")
            case "GET", "/v1/models":
                return self._models(request)
            case "GET", "/info" | "/own/engines":
                return _engines(request)
            case method, "/faults":
                return await self._edit_faults(method, request)
            case method, "/stats":
                return self._show_stats(method, request)
        return web.Response(status=404, text="not found")

    async def _chat(self, request: web.BaseRequest, wire: Format) -> web.StreamResponse:
        self._stats.arrive(request.headers.get("x-chimera-cell"))
        self._serial += 1
        identifier = f"{self._serial:012x}"
        try:
            return await self._answer(request, wire, identifier)
        except BadCallError as error:
            return _error(wire, error.status, str(error), identifier)
        except asyncio.CancelledError:
            self._stats.abandoned += 1
            raise
        finally:
            self._stats.in_flight -= 1

    async def _answer(
        self, request: web.BaseRequest, wire: Format, identifier: str
    ) -> web.StreamResponse:
        body = await request.read()
        if not _has_key(request):
            self._stats.calls[""] += 1
            return _error(wire, 401, "the API key is not valid", identifier)
        try:
            call = _read(wire, request.path, body)
        except BadCallError:
            self._stats.calls[""] += 1
            raise
        self._stats.calls[call.model] += 1
        fault, delay_s = self._fault(call)
        if delay_s:
            await asyncio.sleep(delay_s)
        if fault is not None and fault.kind in ("rate_limited", "status"):
            return _refuse(wire, fault, identifier)
        if fault is not None and fault.where == "headers" and fault.kind in ("hang", "cut"):
            return await _break_off(request, fault)
        part = PARTS.get(call.model)
        if part is not None:
            text = part(call.conversation)
        else:
            text = answer(call.model, call.conversation, self._secret)
        result = result_of(call, text, identifier)
        if fault is not None and fault.kind == "huge":
            result = replace(result, text="x" * fault.bytes)
        elif fault is not None and fault.kind == "usage":
            result = replace(result, usage=False if fault.usage is None else fault.usage)
        self._stats.answer(call.model, result)
        return await _send(request, call, result, fault)

    async def _vectors(self, request: web.BaseRequest) -> web.Response:
        if not _has_key(request):
            return _error("openai", 401, "the API key is not valid", "vectors")
        try:
            model, answered = formats.vectors(request.path, await request.read())
        except BadCallError as error:
            return _error("openai", error.status, str(error), "vectors")
        self._stats.calls[model] += 1
        self._serial += 1
        return web.Response(body=answered, headers=_request_id("openai", f"{self._serial:012x}"))

    def _fault(self, call: Call) -> tuple[Fault | None, float]:
        """The fault that decides this call, and the seconds to wait first."""
        delay_s = self._latency_s
        if not self._faults:
            return None, delay_s
        model, prompt = call.model, call.prompt
        for fault in self._faults:
            if fault.takes(model, prompt):
                if fault.kind != "latency":
                    return fault, delay_s
                delay_s += fault.delay_s()
        return None, delay_s

    def _models(self, request: web.BaseRequest) -> web.Response:
        wire: Format = "anthropic" if "x-api-key" in request.headers else "openai"
        if not _has_key(request):
            return _error(wire, 401, "the API key is not valid", "models")
        if wire == "anthropic":
            data = [{"type": "model", "id": name, "display_name": name} for name in GUARDS]
            return _json({"data": data, "has_more": False})
        listing = [
            {"id": name, "object": "model", "created": 0, "owned_by": "chimera"} for name in GUARDS
        ]
        return _json({"object": "list", "data": listing})

    async def _edit_faults(self, method: str, request: web.BaseRequest) -> web.Response:
        if method == "DELETE":
            self._faults.clear()
        elif method == "POST":
            try:
                posted = orjson.loads(await request.read())
                faults = [read_fault(f) for f in (posted if isinstance(posted, list) else [posted])]
            except ValueError as error:
                return web.Response(status=400, text=str(error))
            if len(self._faults) + len(faults) > RULES_MAX:
                return web.Response(status=400, text=f"at most {RULES_MAX} faults")
            self._faults += faults
        elif method != "GET":
            return web.Response(status=405)
        return _json([fault.shown() for fault in self._faults])

    def _show_stats(self, method: str, request: web.BaseRequest) -> web.Response:
        if method == "DELETE":
            in_flight = self._stats.in_flight
            self._stats = Stats(in_flight=in_flight, max_in_flight=in_flight)
        elif method != "GET":
            return web.Response(status=405)
        minimum = request.query.get("min_calls", "0")
        return _json(
            self._stats.shown(
                run_id=request.query.get("run_id", ""),
                min_calls=int(minimum) if minimum.isdecimal() else 0,
            )
        )


def _read(wire: Format, path: str, body: bytes) -> Call:
    """Raises BadCallError."""
    if wire == "tgi":
        return replace(formats.read_tgi(body), stream=path == "/generate_stream")
    return formats.read_own(body) if wire == "own" else read_call(wire, body)


def _document(call: Call, result: Result) -> bytes:
    if call.format == "tgi":
        return formats.tgi_document(result)
    return formats.own_document(call, result) if call.format == "own" else document(call, result)


def _events(call: Call, result: Result) -> Iterator[bytes]:
    if call.format == "tgi":
        return formats.tgi_events(result)
    return formats.own_events(result) if call.format == "own" else events(call, result)


def _engines(request: web.BaseRequest) -> web.Response:
    if not _has_key(request):
        return _error("openai", 401, "the API key is not valid", "models")
    if request.path == "/info":
        return _json({"model_id": formats.TGI_MODEL, "version": "3.0.0"})
    return _json({"engines": [{"id": name} for name in GUARDS]})


def _has_key(request: web.BaseRequest) -> bool:
    headers = request.headers
    key = (
        headers.get("x-api-key")
        or headers.get("X-Token")
        or headers.get("Authorization", "").removeprefix("Bearer ")
    )
    return key.startswith(KEY_PREFIX)


def _json(body: Any) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")


def _request_id(wire: Format, identifier: str) -> dict[str, str]:
    name = "request-id" if wire == "anthropic" else "x-request-id"
    return {"Content-Type": "application/json", name: f"req_{identifier}"}


def _error(wire: Format, status: int, message: str, identifier: str) -> web.Response:
    return web.Response(
        status=status,
        body=error_document(wire, status, message),
        headers=_request_id(wire, identifier),
    )


def _refuse(wire: Format, fault: Fault, identifier: str) -> web.Response:
    limited = fault.kind == "rate_limited"
    status = 429 if limited else fault.status
    response = _error(wire, status, f"fault: {fault.kind}", identifier)
    retry_after = fault.retry_after() if limited else None
    if retry_after is not None:
        response.headers["Retry-After"] = retry_after
    return response


async def _break_off(request: web.BaseRequest, fault: Fault) -> web.Response:
    """Hangs until the client goes away, or cuts the connection; never returns an answer."""
    if fault.kind == "hang":
        await asyncio.Event().wait()
    transport = request.transport
    if transport is not None and fault.where == "headers":
        transport.abort()
    elif transport is not None:
        transport.close()  # which first sends the part of the body that was written
    return web.Response()


async def _send(
    request: web.BaseRequest, call: Call, result: Result, fault: Fault | None
) -> web.StreamResponse:
    headers = _request_id(call.format, result.identifier)
    if fault is not None and fault.kind == "content_type":
        headers["Content-Type"] = fault.content_type
    broken = fault is not None and fault.kind in ("hang", "cut", "malformed_json")
    if not call.stream and not broken:
        return web.Response(body=_document(call, result), headers=headers)
    if call.stream:
        headers["Content-Type"] = "text/event-stream"
        parts = list(_events(call, result))
    else:
        whole = _document(call, result)
        parts = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    for part in parts[: len(parts) // 2] if broken else parts:
        await response.write(part)
    if fault is not None and fault.kind in ("hang", "cut"):
        return await _break_off(request, fault)
    await response.write_eof()
    return response


async def serve(*, port: int, latency_ms: float, secret: str) -> None:
    """Serves on loopback until SIGINT or SIGTERM."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    handler = AssistantServer(secret=secret, latency_ms=latency_ms)
    # handler_cancellation: a client that goes away must end a hanging call and leave in_flight.
    server = web.Server(handler.handle, access_log=None, handler_cancellation=True)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, HOST, port, backlog=1024)
    await site.start()
    ready = {"host": HOST, "port": runner.addresses[0][1], "secret": secret}
    sys.stdout.write(orjson.dumps(ready).decode() + "\n")
    sys.stdout.flush()
    await stopped.wait()
    await runner.cleanup()


def main() -> None:
    """The command line; see the module docstring."""
    parser = argparse.ArgumentParser(prog="chimera.embedded.assistant")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free port")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="added to every chat call")
    parser.add_argument(
        "--secret",
        default=f"canary-{secrets.token_hex(4)}",
        help="guarded when the system message names none",
    )
    options = parser.parse_args()
    uvloop.run(serve(port=options.port, latency_ms=options.latency_ms, secret=options.secret))


if __name__ == "__main__":
    main()
