"""A small Python client of the API: channel, credential, typed errors, retries, watching.

    from chimera.client import Client
    from chimera.v1.campaigns_pb2 import GetRunRequest, GetRunResponse

    with Client("127.0.0.1:8400", api_key) as chimera:
        run = chimera.call(GetRunRequest(run_id=run_id), GetRunResponse).run
        for item in chimera.watch(run_id):
            print(item.run.counts.recorded, "of", item.run.cells_total)

What must stay true:
* A request names its RPC: GetRunRequest is what GetRun takes, so there is no stub to choose.
* Only what the API declares idempotent is sent again, and then under the same request_id, so that
  no repetition takes effect twice.
* The credential appears in no repr and no error.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

# A command starts child processes after it has called a server; nothing here is shared with them.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
from google.protobuf.message import Message

from chimera.ids import new_id

if TYPE_CHECKING:
    from chimera.v1.campaigns_pb2 import GetExecutionResponse, WatchRunResponse

Answer = TypeVar("Answer", bound=Message)

TIMEOUT_S = 30.0
WATCH_TIMEOUT_S = 3600.0
TRIES_MAX = 6
PAUSE_S_MAX = 5.0
# About 16 s, in which a server is replaced; each item starts the count anew.
WATCH_TRIES_MAX = 8
MESSAGE_BYTES_MAX = 16_000_000
_RETRIED = ("UNAVAILABLE", "ABORTED", "RESOURCE_EXHAUSTED")
_LOOPBACK = ("127.", "localhost", "[::1]", "::1")


class ApiError(Exception):
    """A call that was not answered as asked.

    code: of gRPC (`NOT_FOUND`). reason: of ErrorReason, such as `RUN_NOT_FOUND`, or empty. facts:
    what belongs to it. violations: (field, what is wrong) pairs. retry_after_s: when trying again
    may help.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        reason: str = "",
        facts: Mapping[str, str] | None = None,
        violations: Sequence[tuple[str, str]] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.facts = dict(facts or {})
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message} ({self.reason or self.code})"


class InvalidRequest(ApiError):
    """The request can never succeed as it stands; see `violations`."""


class NotFound(ApiError):
    """There is no such thing, or the caller may not know of it."""


class Taken(ApiError):
    """The name or id is taken."""


class NotReady(ApiError):
    """The thing is in another state than the call needs."""


class Unauthenticated(ApiError):
    """The credential is missing, wrong, or over."""


class Denied(ApiError):
    """The caller is known and may not."""


class Busy(ApiError):
    """Too much at once, over a quota, or somebody else was faster; wait and try again."""


class Unreachable(ApiError):
    """No server answered, or it lost what it depends on."""


class TimedOut(ApiError):
    """The deadline passed; what was asked for may still happen."""


_KINDS: dict[str, type[ApiError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": Taken,
    "FAILED_PRECONDITION": NotReady,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": Denied,
    "ABORTED": Busy,
    "RESOURCE_EXHAUSTED": Busy,
    "UNAVAILABLE": Unreachable,
    "DEADLINE_EXCEEDED": TimedOut,
}


@dataclass(frozen=True, slots=True)
class _Rpc:
    path: str
    answer: type[Any]
    idempotent: bool
    has_request_id: bool


class Client:
    """One channel to one server, for any number of threads.

    address: `host:port`, or with `http://` (plain text) or `https://` (TLS) in front. Without a
    scheme, loopback is plain text and everything else TLS. A private certificate authority is named
    by gRPC's own variable GRPC_DEFAULT_SSL_ROOTS_FILE_PATH. api_key: an API key or access token.
    """

    def __init__(self, address: str, api_key: str = "", *, timeout_s: float = TIMEOUT_S) -> None:
        self.address = address
        self.timeout_s = timeout_s
        api_key = api_key.strip()  # as it is read from a file
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        self._channel = _channel(address)
        self._callables: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def call(self, request: Message, answer: type[Answer], *, timeout_s: float = 0.0) -> Answer:
        """The answer to one request, within timeout_s (0: the client's) all repetitions included.

        Raises ApiError, and TypeError when `answer` is not what this request is answered with. A
        request_id is filled in where there is one.
        """
        rpc = _rpc_of(request, answer)
        if rpc.has_request_id and not getattr(request, "request_id", ""):
            identified = type(request)()
            identified.CopyFrom(request)
            identified.request_id = new_id()  # type: ignore[attr-defined]  # has_request_id says so
            request = identified
        method = self._callable(rpc, self._channel.unary_unary)
        deadline = time.monotonic() + (timeout_s or self.timeout_s)
        for tries in range(1, TRIES_MAX + 1):
            left_s = deadline - time.monotonic()
            try:
                found: Answer = method(request, metadata=self._metadata, timeout=max(left_s, 0.001))
                return found
            except grpc.RpcError as raised:
                error = _error(raised)
            pause_s = _pause_s(error, tries)
            if not rpc.idempotent or tries == TRIES_MAX or pause_s is None:
                raise error
            if time.monotonic() + pause_s >= deadline:
                raise error
            time.sleep(pause_s)
        raise AssertionError("the last try returns or raises")

    def stream(
        self, request: Message, answer: type[Answer], *, timeout_s: float = WATCH_TIMEOUT_S
    ) -> Iterator[Answer]:
        """The answers to one request as they come. Raises ApiError."""
        method = self._callable(_rpc_of(request, answer), self._channel.unary_stream)
        yield from self._answers(method(request, metadata=self._metadata, timeout=timeout_s))

    def exchange(
        self,
        first: Message,
        rest: Iterator[Message],
        answer: type[Answer],
        *,
        timeout_s: float = WATCH_TIMEOUT_S,
    ) -> Iterator[Answer]:
        """The answers to a stream of requests of one kind, which are drawn as they are sent. Never
        sent again. Raises ApiError."""
        method = self._callable(_rpc_of(first, answer), self._channel.stream_stream)
        requests = itertools.chain([first], rest)
        yield from self._answers(method(requests, metadata=self._metadata, timeout=timeout_s))

    def _answers(self, answers: Any) -> Iterator[Any]:
        try:
            yield from answers
        except grpc.RpcError as error:
            raise _error(error) from None
        finally:
            answers.cancel()

    def pages(self, request: Message, answer: type[Answer]) -> Iterator[Answer]:
        """All pages of a List request, beginning at its page_token. Raises ApiError."""
        asked: Any = type(request)()
        asked.CopyFrom(request)
        while True:
            page: Any = self.call(asked, answer)
            yield page
            asked.page_token = page.next_page_token
            if not asked.page_token:
                return

    def watch(
        self, run_id: str, cursor: str = "", *, include_executions: bool = False
    ) -> Iterator[WatchRunResponse]:
        """Progress of a run until it is over; goes on without a gap when the connection is lost.

        cursor: of the last item somebody saw, to begin after it. Raises ApiError.
        """
        from chimera.v1.campaigns_pb2 import WatchRunRequest, WatchRunResponse

        tries = 0
        while True:
            request = WatchRunRequest(
                run_id=run_id, cursor=cursor, include_executions=include_executions
            )
            try:
                for item in self.stream(request, WatchRunResponse):
                    tries, cursor = 0, item.cursor
                    yield item
                return
            except (Unreachable, TimedOut, Busy) as error:
                tries += 1
                if tries == WATCH_TRIES_MAX:
                    raise
                time.sleep(min(error.retry_after_s or 0.1 * 2**tries, PAUSE_S_MAX))

    def read_cell(self, run_id: str, cell_no: int) -> GetExecutionResponse:
        """A result with all turns of its conversation, which may take several calls. Raises ApiError."""
        from chimera.v1.campaigns_pb2 import GetExecutionRequest, GetExecutionResponse

        request = GetExecutionRequest(run_id=run_id, cell_no=cell_no)
        told = page = self.call(request, GetExecutionResponse)
        while page.more_turns_after:
            request.turns_after = page.more_turns_after
            page = self.call(request, GetExecutionResponse)
            told.turns.extend(page.turns)
        told.more_turns_after = 0
        return told

    def is_serving(self, *, timeout_s: float = 2.0) -> bool:
        """Whether the server answers and has its database."""
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        stub = health_pb2_grpc.HealthStub(self._channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _callable(self, rpc: _Rpc, make: Any) -> Any:
        method = self._callables.get(rpc.path)
        if method is None:
            method = self._callables[rpc.path] = make(
                rpc.path,
                request_serializer=_serialized,
                response_deserializer=rpc.answer.FromString,
            )
        return method


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def _channel(address: str) -> grpc.Channel:
    scheme, separator, target = address.rpartition("://")
    if separator and scheme not in ("http", "https"):
        raise ValueError(f"the address {address!r} begins with neither http:// nor https://")
    options = [
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.primary_user_agent", "chimera-client"),
    ]
    if scheme == "http" or (not separator and target.startswith(_LOOPBACK)):
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(), options=options)


@cache
def _rpcs() -> dict[str, _Rpc]:
    """Every RPC of the product by the full name of its request."""
    from google.protobuf.message_factory import GetMessageClass

    from chimera.v1 import (
        access_pb2,
        accounts_pb2,
        analytics_pb2,
        audit_pb2,
        budgets_pb2,
        campaigns_pb2,
        datasets_pb2,
        evaluation_pb2,
        federation_pb2,
        identity_pb2,
        operations_pb2,
        options_pb2,
        organisations_pb2,
        privacy_pb2,
        providers_pb2,
        telemetry_pb2,
        templates_pb2,
        usage_pb2,
        vault_pb2,
    )

    found = {}
    for module in (
        accounts_pb2,
        access_pb2,
        analytics_pb2,
        audit_pb2,
        budgets_pb2,
        campaigns_pb2,
        datasets_pb2,
        evaluation_pb2,
        federation_pb2,
        identity_pb2,
        operations_pb2,
        organisations_pb2,
        privacy_pb2,
        providers_pb2,
        telemetry_pb2,
        templates_pb2,
        usage_pb2,
        vault_pb2,
    ):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                options: Any = method.GetOptions()
                found[method.input_type.full_name] = _Rpc(
                    path=f"/{service.full_name}/{method.name}",
                    answer=GetMessageClass(method.output_type),
                    idempotent=options.Extensions[options_pb2.access].idempotent,
                    has_request_id="request_id" in method.input_type.fields_by_name,
                )
    return found


def _rpc_of(request: Message, answer: type[Message]) -> _Rpc:
    rpc = _rpcs().get(request.DESCRIPTOR.full_name)
    if rpc is None:
        raise TypeError(f"{request.DESCRIPTOR.name} is not the request of any RPC")
    if rpc.answer is not answer:
        raise TypeError(
            f"{request.DESCRIPTOR.name} is answered with {rpc.answer.DESCRIPTOR.name}, "
            f"not {answer.DESCRIPTOR.name}"
        )
    return rpc


def _pause_s(error: ApiError, tries: int) -> float | None:
    """How long to wait before the next try; None when none can help."""
    if error.code not in _RETRIED:
        return None
    if error.retry_after_s is not None:
        return error.retry_after_s
    return None if error.code == "RESOURCE_EXHAUSTED" else min(0.05 * 2**tries, PAUSE_S_MAX)


def _error(raised: Any) -> ApiError:
    """What the server said, from the status details it sent along."""
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    code: str = raised.code().name
    reason, facts, violations, retry_after_s = "", {}, [], None
    status = None
    with suppress(ValueError):  # details that contradict the status are no details
        status = rpc_status.from_call(raised)
    for item in status.details if status else ():
        kind: Any = getattr(error_details_pb2, item.type_url.rpartition(".")[2], None)
        if kind is None or not item.Unpack(detail := kind()):
            continue
        match detail:
            case error_details_pb2.ErrorInfo():
                reason, facts = detail.reason, dict(detail.metadata)
            case error_details_pb2.BadRequest():
                violations = [(v.field, v.description) for v in detail.field_violations]
            case error_details_pb2.RetryInfo():
                retry_after_s = detail.retry_delay.ToTimedelta().total_seconds()
    return _KINDS.get(code, ApiError)(
        code,
        raised.details() or code,
        reason=reason,
        facts=facts,
        violations=violations,
        retry_after_s=retry_after_s,
    )
