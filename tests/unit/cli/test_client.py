"""The client against a server that fails on purpose: what is sent again, and under which id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from chimera.client import Busy, Client, InvalidRequest, NotFound, Unreachable
from chimera.v1.campaigns_pb2 import (
    CreateCampaignRequest,
    CreateCampaignResponse,
    GetRunRequest,
    GetRunResponse,
    ListRunsRequest,
    ListRunsResponse,
    Run,
    WatchRunRequest,
    WatchRunResponse,
)
from chimera.v1.identity_pb2 import LoginRequest, LoginResponse

SERVICE = "/chimera.v1.CampaignService/"


@contextmanager
def serving(**methods: tuple[type[Any], Callable[..., Any], bool]) -> Iterator[Client]:
    """A real gRPC server with these methods: name -> (request type, handler, streams)."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            request_type, handle, streams = methods[details.method.rpartition("/")[2]]
            make = (
                grpc.unary_stream_rpc_method_handler
                if streams
                else grpc.unary_unary_rpc_method_handler
            )
            return make(handle, request_type.FromString, lambda answer: answer.SerializeToString())

    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"127.0.0.1:{port}", "key", timeout_s=10) as client:
            yield client
    finally:
        server.stop(0).wait()


def refuse(context: Any, code: int, message: str, *details: Any) -> None:
    packed = []
    for detail in details:
        one = any_pb2.Any()
        one.Pack(detail)
        packed.append(one)
    status = status_pb2.Status(code=code, message=message, details=packed)
    context.abort_with_status(rpc_status.to_status(status))


def test_a_repeated_request_keeps_its_id() -> None:
    """A server that is away twice sees the same request three times, so it takes effect once."""
    seen: list[CreateCampaignRequest] = []

    def create(request: CreateCampaignRequest, context: Any) -> CreateCampaignResponse:
        seen.append(request)
        if len(seen) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return CreateCampaignResponse()

    with serving(CreateCampaign=(CreateCampaignRequest, create, False)) as client:
        client.call(CreateCampaignRequest(name="x"), CreateCampaignResponse)
        client.call(CreateCampaignRequest(name="x"), CreateCampaignResponse)

    assert len(seen) == 4
    assert len({request.request_id for request in seen[:3]}) == 1
    assert seen[0].request_id != seen[3].request_id


def test_what_is_not_idempotent_is_sent_once() -> None:
    seen = []

    def login(request: LoginRequest, context: Any) -> LoginResponse:
        seen.append(request)
        context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        raise AssertionError

    with serving(Login=(LoginRequest, login, False)) as client, pytest.raises(Unreachable):
        client.call(LoginRequest(login="a", password="b"), LoginResponse)

    assert len(seen) == 1


def test_a_refusal_carries_reason_fields_and_facts() -> None:
    def get(_request: GetRunRequest, context: Any) -> GetRunResponse:
        field = error_details_pb2.BadRequest.FieldViolation(field="run_id", description="no uuid")
        refuse(
            context,
            code_pb2.INVALID_ARGUMENT,
            "run_id is wrong",
            error_details_pb2.ErrorInfo(reason="FIELD_INVALID", metadata={"n": "1"}),
            error_details_pb2.BadRequest(field_violations=[field]),
        )
        raise AssertionError

    with (
        serving(GetRun=(GetRunRequest, get, False)) as client,
        pytest.raises(InvalidRequest) as refused,
    ):
        client.call(GetRunRequest(run_id="x"), GetRunResponse)

    error = refused.value
    assert (error.code, error.reason, error.facts) == (
        "INVALID_ARGUMENT",
        "FIELD_INVALID",
        {"n": "1"},
    )
    assert error.violations == (("run_id", "no uuid"),)


def test_a_named_delay_is_waited_for_but_not_beyond_the_deadline() -> None:
    def get(_request: GetRunRequest, context: Any) -> GetRunResponse:
        delay = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=60))
        refuse(context, code_pb2.RESOURCE_EXHAUSTED, "later", delay)
        raise AssertionError

    with serving(GetRun=(GetRunRequest, get, False)) as client, pytest.raises(Busy) as refused:
        client.call(GetRunRequest(), GetRunResponse)

    assert refused.value.retry_after_s == 60


def test_pages_follow_the_token_and_leave_the_request_alone() -> None:
    tokens = {"": "b", "b": "c", "c": ""}

    def runs(request: ListRunsRequest, _context: Any) -> ListRunsResponse:
        return ListRunsResponse(
            runs=[Run(id=request.page_token)], next_page_token=tokens[request.page_token]
        )

    request = ListRunsRequest(campaign_id="x")
    with serving(ListRuns=(ListRunsRequest, runs, False)) as client:
        found = [run.id for page in client.pages(request, ListRunsResponse) for run in page.runs]

    assert found == ["", "b", "c"]
    assert request.page_token == ""


def test_a_watch_goes_on_where_it_was_cut() -> None:
    """The connection breaks after two items; the next watch begins with the cursor of the second."""
    asked: list[str] = []

    def watch(request: WatchRunRequest, context: Any) -> Iterator[WatchRunResponse]:
        asked.append(request.cursor)
        first = int(request.cursor or 0)
        for number in range(first + 1, first + 3):
            yield WatchRunResponse(cursor=str(number))
        if len(asked) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")

    with serving(WatchRun=(WatchRunRequest, watch, True)) as client:
        seen = [item.cursor for item in client.watch("run")]

    assert asked == ["", "2", "4"]
    assert seen == ["1", "2", "3", "4", "5", "6"]


def test_a_watch_of_nothing_ends_at_once() -> None:
    def watch(_request: WatchRunRequest, context: Any) -> Iterator[WatchRunResponse]:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such run")
        yield WatchRunResponse()

    with serving(WatchRun=(WatchRunRequest, watch, True)) as client, pytest.raises(NotFound):
        list(client.watch("run"))


def test_the_wrong_answer_type_is_a_mistake_of_the_caller() -> None:
    with Client("127.0.0.1:1") as client:
        with pytest.raises(TypeError, match="is answered with GetRunResponse"):
            client.call(GetRunRequest(), ListRunsResponse)
        with pytest.raises(TypeError, match="is not the request of any RPC"):
            client.call(Run(), GetRunResponse)


def test_the_credential_is_not_shown() -> None:
    with Client("127.0.0.1:1", "chm_test_secret", timeout_s=0.2) as client:
        with pytest.raises(Unreachable) as away:
            client.call(GetRunRequest(), GetRunResponse)

        assert "chm_test_secret" not in repr(client) + repr(away.value) + str(away.value)
