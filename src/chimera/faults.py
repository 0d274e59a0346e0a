"""The one family of errors a caller is told about.

Operations raise these; the gate translates them to gRPC status once. A fault has a canonical code,
a reason from ErrorReason (proto/chimera/v1/errors.proto) and facts. Messages are for the person
who reads them at night: what was asked, what stood in the way, what to do next. They never hold
SQL, secrets, or another tenant's existence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """One field that was refused: `field` is its path in the request."""

    field: str
    message: str
    reason: str = ""


class Fault(Exception):
    """A refusal with a typed reason; `code` is the name of the canonical gRPC code."""

    code = "INTERNAL"

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        facts: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.facts = dict(facts or {})
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s


class Invalid(Fault):
    """The request can never succeed as it stands."""

    code = "INVALID_ARGUMENT"


class NotFound(Fault):
    """There is no such thing, or the caller may not know of it."""

    code = "NOT_FOUND"


class AlreadyExists(Fault):
    """The name or id is taken."""

    code = "ALREADY_EXISTS"


class NotReady(Fault):
    """The thing is in another state than the call needs."""

    code = "FAILED_PRECONDITION"


class Conflict(Fault):
    """Somebody else was faster; read again and retry."""

    code = "ABORTED"


class Unauthenticated(Fault):
    """Nobody knows who is calling."""

    code = "UNAUTHENTICATED"


class Denied(Fault):
    """The caller is known and may not."""

    code = "PERMISSION_DENIED"


class Exhausted(Fault):
    """Too much at once, or over a quota."""

    code = "RESOURCE_EXHAUSTED"


class Unavailable(Fault):
    """Something this needs is away; trying again may help."""

    code = "UNAVAILABLE"


class TimedOut(Fault):
    """The deadline passed before the work was done."""

    code = "DEADLINE_EXCEEDED"
