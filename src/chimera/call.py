"""Who is calling, and how: what the gate hands to a servicer and a worker makes for itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chimera.faults import NotReady
from chimera.ids import new_id
from chimera.v1.options_pb2 import Access, Permission

NOBODY = "00000000-0000-0000-0000-000000000000"
ALL_PERMISSIONS: frozenset[int] = frozenset(Permission.values()) - {
    0,
    Permission.PERMISSION_OPERATE,
}
# Asked at each statement; an enum of protobuf looks its names up anew every time.
_CAMPAIGN_MANAGE = Permission.PERMISSION_CAMPAIGN_MANAGE


@dataclass(frozen=True, slots=True)
class Caller:
    """A proven identity. kind: user, api_key, worker, system, or anonymous.

    org_id and user_id are empty for nobody. permissions are effective: role, grants whose conditions
    hold, and scopes already intersected. is_operator marks operators of the installation, across
    organisations. held is what identity knows of the credential (identity.decisions.Held).
    """

    kind: str
    org_id: str = ""
    user_id: str = ""
    session_id: str = ""
    api_key_id: str = ""
    role: str = ""
    permissions: frozenset[int] = frozenset()
    is_operator: bool = False
    # Of a session: when the person last proved who they are (Unix seconds), and what must be done
    # before it may do more than that: second_factor, password_expired, or nothing.
    auth_time: float = 0.0
    restriction: str = ""
    # Those of the permissions that hang on a condition. They may be used, not handed on.
    conditional: frozenset[int] = frozenset()
    held: Any = field(default=None, repr=False, compare=False)

    @property
    def lasting(self) -> frozenset[int]:
        """What the caller may hand on to others."""
        return self.permissions - self.conditional

    def may(self, permission: int) -> bool:
        return permission in self.permissions

    def check_stepped_up(self, age_max_s: int) -> None:
        """Raises NotReady(STEP_UP_REQUIRED) for a person whose last proof of who they are is older."""
        if self.kind == "user" and time.time() - self.auth_time > age_max_s:
            raise NotReady(
                "STEP_UP_REQUIRED",
                "Prove again who you are with AccountService.StepUp, then repeat this call.",
                facts={"max_age_s": str(age_max_s)},
            )

    @property
    def reach(self) -> str:
        """For row policies: "all" for who manages every campaign of the organisation."""
        return "all" if _CAMPAIGN_MANAGE in self.permissions else ""


ANONYMOUS = Caller("anonymous")


@dataclass(slots=True)
class Call:
    """One request or one run of a task. `deadline` is on the monotonic clock, in seconds."""

    caller: Caller
    method: str
    deadline: float
    access: Access = field(default_factory=Access)
    correlation_id: str = field(default_factory=new_id)
    ip_address: str = ""
    user_agent: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    # Of a mutation that may be repeated: the client's id and a keyed digest of the request.
    request_id: str = ""
    body_hash: bytes = b""
    answer_type: type[Any] | None = None
    # Its transaction stands, whatever the caller is told afterwards.
    is_committed: bool = False

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    @classmethod
    def by_worker(cls, task: str, org_id: str = "", *, seconds: float = 60.0) -> Call:
        """The call of a worker's task, inside one organisation or (empty) across all."""
        return cls(Caller("worker", org_id=org_id), task, time.monotonic() + seconds)
