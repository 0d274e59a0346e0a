"""A small service of all four handler kinds, served by the real server through the real gate.

It exists to be slow, to fail and to repeat on demand; what it does is decided by `Ask.text`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass

import chimera.server
from chimera.audit.recording import record
from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotReady
from chimera.ids import new_id
from chimera.v1 import options_pb2, validate_pb2
from chimera.v1.options_pb2 import RateClass
from tests.support.world import Person, Refused

SLEEP = sql(Nothing, "SELECT pg_sleep(%(seconds)s)")
FAIL = sql(Nothing, "SELECT 1 / 0")

READ, WRITE, WATCH = (
    RateClass.RATE_CLASS_READ,
    RateClass.RATE_CLASS_WRITE,
    RateClass.RATE_CLASS_WATCH,
)
# name -> (client streams, server streams, access)
RPCS: dict[str, tuple[bool, bool, dict[str, Any]]] = {
    "Say": (False, False, {"authenticated": True, "rate": READ, "idempotent": True}),
    "Hurry": (False, False, {"authenticated": True, "rate": READ, "deadline_ms": 200}),
    "Tell": (True, False, {"authenticated": True, "rate": READ}),
    "Count": (False, True, {"authenticated": True, "rate": WATCH, "deadline_ms": 60_000}),
    "Chat": (True, True, {"authenticated": True, "rate": WATCH, "deadline_ms": 60_000}),
    "Write": (
        False,
        False,
        {
            "permission": options_pb2.PERMISSION_TEMPLATE_WRITE,
            "rate": WRITE,
            "audit": "probe.write",
            "idempotent": True,
        },
    ),
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="probe/v1/probe.proto", package="probe.v1", syntax="proto3"
    )
    ask, answer = file.message_type.add(name="Ask"), file.message_type.add(name="Answer")
    string = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
    optional = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
    text = ask.field.add(name="text", number=1, type=string, label=optional)
    text.options.Extensions[validate_pb2.field].string.min_len = 1
    ask.field.add(name="request_id", number=15, type=string, label=optional)
    answer.field.add(name="text", number=1, type=string, label=optional)
    service = file.service.add(name="ProbeService")
    for name, (client_streams, server_streams, access) in RPCS.items():
        rpc = service.method.add(name=name, input_type=".probe.v1.Ask")
        rpc.output_type = ".probe.v1.Answer"
        rpc.client_streaming, rpc.server_streaming = client_streams, server_streams
        rpc.options.Extensions[options_pb2.access].CopyFrom(options_pb2.Access(**access))
    return file


_pool = descriptor_pool.Default()
_pool.AddSerializedFile(_file().SerializeToString())
SERVICE = _pool.FindServiceByName("probe.v1.ProbeService")
Ask: Any = GetMessageClass(_pool.FindMessageTypeByName("probe.v1.Ask"))
Answer: Any = GetMessageClass(_pool.FindMessageTypeByName("probe.v1.Answer"))


class Probe:
    """The servicer, and what a test may look at."""

    def __init__(self) -> None:
        self.core: Core
        self.effects: Counter[str] = Counter()
        self.entered = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()
        self.calls = self.closed = 0
        self.before_commit: Callable[[Tx], Awaitable[None]] = self.nothing

    @staticmethod
    async def nothing(_tx: Tx) -> None:
        """The usual thing to happen before COMMIT."""

    async def Say(self, request: Any, call: Call) -> Any:
        self.calls += 1
        self.entered.release()
        match request.text.split():
            case ["sleep", seconds]:
                async with self.core.db.begin(call) as tx:
                    await tx.run(SLEEP, seconds=float(seconds))
            case ["wait"]:
                await self.go_on.wait()
            case ["crash", secret]:
                raise RuntimeError(f"this must not be told: {secret}")
            case ["refuse"]:
                raise NotReady("CAMPAIGN_NOT_DRAFT", "Not now.", retry_after_s=1.5)
            case ["swallow"]:
                async with self.core.db.begin(call) as tx:
                    try:
                        await tx.run(FAIL)
                    except Exception:
                        return Answer(text="as if nothing had happened")
            case ["address"]:
                return Answer(text=call.ip_address)
        return Answer(text=f"{call.caller.kind} said {request.text}")

    Hurry = Say

    async def Tell(self, requests: AsyncIterator[Any], call: Call) -> Any:
        return Answer(text=" ".join([request.text async for request in requests]))

    async def Count(self, request: Any, call: Call) -> AsyncIterator[Any]:
        try:
            async with self.core.db.begin(call) as tx:
                await tx.run(SLEEP, seconds=0.0)
            for number in range(int(request.text)):
                yield Answer(text=str(number))
            self.entered.release()
            await self.go_on.wait()
        finally:
            self.closed += 1

    async def Chat(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        async for request in requests:
            yield Answer(text=request.text.upper())

    async def Write(self, request: Any, call: Call) -> Any:
        async with self.core.db.begin(call) as tx:
            if request.text != "forget":
                record(tx, "probe.write", "probe", new_id(), new={"text": request.text})
            answer = Answer(text=f"{request.text} {self.effects[request.text] + 1}")
            tx.after_commit.append(lambda: self.effects.update([request.text]))
            await self.before_commit(tx)
            return tx.answer(answer)


def _make(name: str) -> Any:
    client_streams, server_streams, _ = RPCS[name]
    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    return kinds[client_streams, server_streams]


def install(monkeypatch: pytest.MonkeyPatch) -> Probe:
    """From now on servers of this test serve the probe as well."""
    probe, real = Probe(), chimera.server.services

    def add(servicer: Probe, server: Any) -> None:
        handlers = {
            name: _make(name)(
                getattr(servicer, name),
                request_deserializer=Ask.FromString,
                response_serializer=Answer.SerializeToString,
            )
            for name in RPCS
        }
        generic = grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)
        server.add_generic_rpc_handlers((generic,))

    def serve(core: Core) -> Probe:
        probe.core = core
        return probe

    module = SimpleNamespace(DESCRIPTOR=SERVICE.file)
    monkeypatch.setattr(chimera.server, "services", lambda: [*real(), (module, add, serve)])
    return probe


def rpc(person: Person, name: str) -> Any:
    """The RPC as somebody calls it; answers with grpc's own call objects."""
    client_streams, server_streams, _ = RPCS[name]
    channel = person.channel
    kinds = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    method = kinds[client_streams, server_streams](
        f"/{SERVICE.full_name}/{name}",
        request_serializer=Ask.SerializeToString,
        response_deserializer=Answer.FromString,
    )

    def call(given: Any, *, timeout_s: float | None = 30, metadata: Any = ()) -> Any:
        request = Ask(text=given) if isinstance(given, str) else given
        return method(request, metadata=(*person.metadata(), *metadata), timeout=timeout_s)

    return call


async def said(person: Person, name: str, given: Any, **more: Any) -> str:
    """The text of a unary answer, or Refused."""
    try:
        answer = await rpc(person, name)(given, **more)
    except grpc.aio.AioRpcError as error:
        raise Refused(error) from None
    text: str = answer.text
    return text
