"""Around every RPC: who is it, may they, is the request sound, and what do they get told.

In order, outermost first: correlation id, metrics and the log line; translation of faults to
status; concurrency and deadline; peer limit; authentication; permission; rate; validation. All of
it is driven by the `access` option of the method (proto/chimera/v1/options.proto), read from the
descriptors at start-up; a method without one stops the server from starting.

Handlers get `(request, call)` and raise faults; status.py says what a fault is in gRPC, watching.py
ends streams whose caller may no longer have them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from chimera import metrics
from chimera.call import ANONYMOUS, Call, Caller
from chimera.faults import (
    Denied,
    Exhausted,
    Fault,
    Invalid,
    TimedOut,
    Unauthenticated,
    Violation,
)
from chimera.idempotency import Replay
from chimera.ids import new_id
from chimera.limits import CallLimits
from chimera.peers import Peers
from chimera.settings import Settings
from chimera.status import status_of, with_trailing
from chimera.v1 import options_pb2
from chimera.v1.options_pb2 import Access
from chimera.validation import validator
from chimera.watching import AuthenticateAgain, Authorize, StreamWatch

log = structlog.get_logger("chimera.rpc")

OUTSIDE_STREAMS_MAX = 200

# (metadata, address of the peer)
Authenticate = Callable[[dict[str, str], str], Awaitable[Caller]]
RecordRefusal = Callable[[Call, Fault], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC as the gate needs it."""

    path: str
    access: Access
    request_type: type[Any]
    answer_type: type[Any]
    has_request_id: bool
    streams: bool


def method_of(descriptor: MethodDescriptor) -> Method:
    """Raises LookupError when the RPC declares no access."""
    path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
    options: Any = descriptor.GetOptions()
    if not options.HasExtension(options_pb2.access):
        raise LookupError(f"{path} declares no access option; add one in its .proto")
    access: Access = options.Extensions[options_pb2.access]
    if access.WhichOneof("who") is None or not access.rate:
        raise LookupError(f"{path} must declare who may call it and its rate class")
    return Method(
        path=path,
        access=access,
        request_type=GetMessageClass(descriptor.input_type),
        answer_type=GetMessageClass(descriptor.output_type),
        has_request_id="request_id" in descriptor.input_type.fields_by_name,
        streams=descriptor.server_streaming,
    )


class Gate(grpc.aio.ServerInterceptor):
    """The one interceptor. `methods` are those of the product; others (health, reflection) pass."""

    def __init__(
        self,
        methods: list[Method],
        settings: Settings,
        *,
        authenticate: Authenticate,
        authenticate_again: AuthenticateAgain,
        authorize: Authorize,
        limits: CallLimits,
        record_refusal: RecordRefusal,
        digest: Callable[[bytes], bytes],
    ) -> None:
        self.methods = {method.path: method for method in methods}
        self.settings = settings
        self.authenticate = authenticate
        self.authenticate_again = authenticate_again
        self.authorize = authorize
        self.limits = limits
        self.record_refusal = record_refusal
        self.digest = digest
        self.peers = Peers(settings.trusted_proxies)
        self.validator = validator()
        self.outside_streams = 0
        self.open_calls: set[asyncio.Task[Any]] = set()
        self._handlers: dict[str, Any] = {}
        for method in methods:  # compiles each type's rules now, not under the first caller
            self.validator.collect_violations(method.request_type())

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        path = handler_call_details.method
        made = self._handlers.get(path)
        if made is not None:
            return made
        handler = await continuation(handler_call_details)
        method = self.methods.get(path)
        if handler is None or method is None:
            return handler and self._outside(handler)
        wrap: dict[tuple[bool, bool], tuple[Any, Any]] = {
            (False, False): (self._unary, grpc.unary_unary_rpc_method_handler),
            (False, True): (self._streaming, grpc.unary_stream_rpc_method_handler),
            (True, False): (self._unary, grpc.stream_unary_rpc_method_handler),
            (True, True): (self._streaming, grpc.stream_stream_rpc_method_handler),
        }
        around, make = wrap[handler.request_streaming, handler.response_streaming]
        inner = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )
        made = self._handlers[path] = make(
            around(method, inner),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return made

    def _outside(self, handler: Any) -> Any:
        """Health and reflection, which anyone may ask. Their streams are counted apart, or a few
        hundred idle ones would take every place there is."""
        if not handler.response_streaming:
            return handler
        inner = handler.unary_stream or handler.stream_stream

        async def handle(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            if self.outside_streams >= OUTSIDE_STREAMS_MAX:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many health or reflection streams."
                )
            self.outside_streams += 1
            try:
                answers = inner(request, context)
                if hasattr(answers, "__aiter__"):
                    async for answer in answers:
                        await context.write(answer)
                else:
                    await answers
            finally:
                self.outside_streams -= 1

        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        return make(
            handle,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _unary(self, method: Method, inner: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        async def handle(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            visit = _Visit(self, method, context)
            try:
                call = await visit.enter(request)
                async with asyncio.timeout(call.seconds_left) as ending:
                    if hasattr(request, "__aiter__"):
                        async with visit.watched(request, ending):
                            answer = await inner(visit.checked(request), call)
                    else:
                        answer = await inner(visit.checked(request), call)
                visit.code = "OK"
                return answer
            except Replay as replay:
                visit.code = "OK"
                return replay.answer
            except BaseException as error:
                await visit.fail(error)
            finally:
                visit.leave()

        return handle

    def _streaming(
        self, method: Method, inner: Callable[..., AsyncGenerator[Any, None]]
    ) -> Callable[..., Any]:
        async def handle(
            request: Any, context: grpc.aio.ServicerContext[Any, Any]
        ) -> AsyncIterator[Any]:
            visit = _Visit(self, method, context)
            try:
                call = await visit.enter(request)
                with self.limits.watching(call.caller):
                    async with (
                        asyncio.timeout(call.seconds_left) as ending,
                        visit.watched(request, ending),
                        # Closed here, not when collected: it may hold a transaction.
                        aclosing(inner(visit.checked(request), call)) as answers,
                    ):
                        async for answer in answers:
                            yield answer
                visit.code = "OK"
            except BaseException as error:
                await visit.fail(error)
            finally:
                visit.leave()

        return handle

    async def drained(self, seconds: float) -> None:
        """Waits for handlers that are still on their way out (server.stop does not: grpc #37239)."""
        me = asyncio.current_task()
        waiting = {task for task in self.open_calls if task is not me}
        if waiting:
            await asyncio.wait(waiting, timeout=seconds)

    def check(self, message: Any) -> None:
        """Raises Invalid naming every field that breaks a rule of its .proto."""
        violations = self.validator.collect_violations(message)
        if violations:
            found = [
                Violation(_field_path(v.proto.field), v.proto.message, v.proto.rule_id)
                for v in violations
            ]
            first = found[0]
            raise Invalid(
                "FIELD_INVALID", f"{first.field or 'request'}: {first.message}", violations=found
            )


class _Visit:
    """One RPC on its way through the gate."""

    def __init__(
        self, gate: Gate, method: Method, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        self.gate, self.method, self.context = gate, method, context
        self.started = time.perf_counter()
        self.code = "UNKNOWN"
        self.reason = ""
        self.watch: StreamWatch | None = None
        self.call = Call(ANONYMOUS, method.path, time.monotonic() + 1, method.access, "")
        self.entered = ANONYMOUS  # the caller with what is held whatever the request is about
        self.task = asyncio.current_task()
        if self.task is not None:
            gate.open_calls.add(self.task)

    async def enter(self, request: Any) -> Call:
        """Everything before the handler; raises faults."""
        gate, method, settings = self.gate, self.method, self.gate.settings
        metadata = {
            key: value if isinstance(value, str) else ""
            for key, value in self.context.invocation_metadata() or ()
        }
        call = self.call
        call.metadata = metadata
        call.correlation_id = _correlation_id(metadata)
        call.ip_address = gate.peers.address(self.context.peer(), metadata)
        call.user_agent = metadata.get("user-agent", "")[:300]
        call.answer_type = method.answer_type
        limit_s = method.access.deadline_ms / 1000 or settings.deadline_default_s
        left_s = self.context.time_remaining()
        call.deadline = time.monotonic() + (limit_s if left_s is None else min(left_s, limit_s))
        gate.limits.admit_peer(call.ip_address)
        who = method.access.WhichOneof("who")
        if who != "public":
            self.entered = call.caller = await gate.authenticate(metadata, call.ip_address)
            if call.caller is ANONYMOUS:
                raise Unauthenticated(
                    "CREDENTIALS_MISSING",
                    "Send an access token or an API key as `authorization: Bearer ...`.",
                )
            if who == "permission" and call.caller.restriction:
                raise _restricted(call.caller.restriction)
            about = None if hasattr(request, "__aiter__") else request
            await gate.authorize(call, method.access.permission, about)
            self._check_session()
        await gate.limits.admit(call)
        return call

    def _check_session(self) -> None:
        """Calls that are a person's own matter, and those that need a fresh proof of who it is."""
        caller, access = self.call.caller, self.method.access
        if access.session_only and caller.kind != "user":
            raise Denied(
                "SESSION_REQUIRED", "An API key may not call this; sign in and use a session."
            )
        if access.step_up:
            caller.check_stepped_up(self.gate.settings.step_up_s)

    def watched(self, request: Any, ending: asyncio.Timeout) -> AbstractAsyncContextManager[None]:
        """A stream goes on while its caller may; `fail` tells why it ended."""
        if self.method.access.public:
            return nullcontext()
        self.watch = StreamWatch(
            self.call,
            self.entered,
            None if hasattr(request, "__aiter__") else request,
            self.gate.authenticate_again,
            self.gate.authorize,
        )
        return self.watch.until_revoked(ending)

    def checked(self, request: Any) -> Any:
        """The request, validated; of a stream, each message when it is read."""
        if hasattr(request, "__aiter__"):
            return self._checked_stream(request)
        self.gate.check(request)
        if self.method.has_request_id and request.request_id:
            self.call.request_id = request.request_id
            body = request.SerializeToString(deterministic=True)
            self.call.body_hash = self.gate.digest(body)
        return request

    async def _checked_stream(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            self.gate.check(request)
            yield request

    async def fail(self, error: BaseException) -> None:
        """Ends the RPC with the status of `error`; always raises."""
        fault: Fault
        match error:
            case grpc.aio.AbortError() | GeneratorExit():
                raise error
            case asyncio.CancelledError():
                self.code = "CANCELLED"
                raise error
            case TimeoutError() if self.watch is not None and self.watch.revoked is not None:
                await self.fail(self.watch.revoked)
            case TimeoutError():
                fault = TimedOut(
                    "DEADLINE_TOO_SHORT", "The deadline passed before the work was done."
                )
            case Fault():
                fault = error
            case _:
                log.error("rpc.crash", method=self.method.path, exc_info=error, **self._facts())
                fault = Fault("INTERNAL", "Internal error; the correlation id finds it in the log.")
        self.code, self.reason = fault.code, fault.reason
        if self._is_worth_recording(fault):
            await self.gate.record_refusal(self.call, fault)
        status = status_of(fault, self.call.correlation_id)
        trailing = (("x-correlation-id", self.call.correlation_id),)
        self.context.set_trailing_metadata(trailing)
        await self.context.abort_with_status(with_trailing(status, trailing))

    def _is_worth_recording(self, fault: Fault) -> bool:
        """Refused changes belong into the audit log, but nobody may fill it from outside: what is
        refused for its number, or before anyone proved who they are, is in metrics and the log."""
        known = self.call.caller is not ANONYMOUS or self.method.access.public
        return (
            bool(self.method.access.audit)
            and known
            and not isinstance(fault, Exhausted)
            and not self.call.is_committed
        )

    def leave(self) -> None:
        seconds = time.perf_counter() - self.started
        metrics.RPC_SECONDS.labels(self.method.path, self.code).observe(seconds)
        log.info(
            "rpc",
            method=self.method.path,
            code=self.code,
            **({"reason": self.reason} if self.reason else {}),
            duration_ms=round(seconds * 1000, 1),
            **self._facts(),
        )
        if self.task is not None:
            self.gate.open_calls.discard(self.task)

    def _facts(self) -> dict[str, str]:
        caller = self.call.caller
        facts = {"correlation_id": self.call.correlation_id, "caller": caller.kind}
        if caller.user_id:
            facts |= {"org_id": caller.org_id, "user_id": caller.user_id}
        return facts


def _restricted(restriction: str) -> Denied:
    if restriction == "second_factor":
        return Denied(
            "SECOND_FACTOR_REQUIRED",
            "This organisation asks for a second factor: AccountService.EnrollTotp, ConfirmTotp.",
        )
    return Denied(
        "PASSWORD_EXPIRED",
        "The password is too old: choose another, AccountService.ChangePassword.",
    )


def _correlation_id(metadata: dict[str, str]) -> str:
    """The client's own, if it is short and plain, so that traces join up; else a new one."""
    given = metadata.get("x-correlation-id", "")
    return given if 8 <= len(given) <= 64 and given.replace("-", "").isalnum() else new_id()


def _field_path(path: Any) -> str:
    parts = []
    for element in path.elements if path is not None else ():
        text = element.field_name
        subscript = getattr(element, "subscript", None)
        if subscript is not None and getattr(subscript, "value", None) is not None:
            text += f"[{subscript.value}]"
        parts.append(text)
    return ".".join(parts)
