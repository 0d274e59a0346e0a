"""Faults as gRPC tells them: google.rpc.Status with the details that fit."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from chimera.faults import Exhausted, Fault


def status_of(fault: Fault, correlation_id: str) -> grpc.Status:
    """The fault as google.rpc.Status: one ErrorInfo, and BadRequest, RetryInfo, QuotaFailure or
    PreconditionFailure where they fit."""
    details: list[Any] = [
        error_details_pb2.ErrorInfo(
            reason=fault.reason,
            domain="chimera",
            metadata={**fault.facts, "correlation_id": correlation_id},
        )
    ]
    if fault.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=v.field, description=v.message, reason=v.reason
                    )
                    for v in fault.violations
                ]
            )
        )
    if fault.code == "FAILED_PRECONDITION":
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=fault.reason, description=fault.message
        )
        details.append(error_details_pb2.PreconditionFailure(violations=[violation]))
    if isinstance(fault, Exhausted):
        quota = error_details_pb2.QuotaFailure.Violation(
            subject=fault.facts.get("subject", fault.reason), description=fault.message
        )
        details.append(error_details_pb2.QuotaFailure(violations=[quota]))
    if fault.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(fault.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        item = any_pb2.Any()
        item.Pack(detail)
        packed.append(item)
    code = code_pb2.Code.Value(fault.code)
    message = status_pb2.Status(code=code, message=fault.message, details=packed)
    status: grpc.Status = rpc_status.to_status(message)
    return status


class _Status(grpc.Status):
    def __init__(self, code: Any, details: str, trailing_metadata: Any) -> None:
        self.code, self.details, self.trailing_metadata = code, details, trailing_metadata


def with_trailing(status: Any, extra: tuple[tuple[str, str], ...]) -> grpc.Status:
    return _Status(status.code, status.details, (*status.trailing_metadata, *extra))
