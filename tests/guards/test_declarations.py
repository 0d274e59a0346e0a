"""Guard: what every RPC declares in its .proto, and what follows from it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

import chimera.server
from chimera.gate import Method, method_of
from chimera.server import Server, service_descriptors
from chimera.settings import Settings
from chimera.v1 import errors_pb2
from chimera.v1.options_pb2 import Permission, RateClass

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for folder in ("src/chimera", "workers")
    for path in (ROOT / folder).rglob("*.py")
    if "/chimera/v1/" not in path.as_posix()
]
METHODS = [method_of(m) for service in service_descriptors() for m in service.methods]
NAMES = [method.path for method in METHODS]


def bare_service() -> descriptor_pb2.FileDescriptorProto:
    """A service whose only RPC forgot its access option."""
    file = descriptor_pb2.FileDescriptorProto(
        name="guards/bare.proto", package="guards", syntax="proto3"
    )
    file.message_type.add(name="AskRequest")
    rpc = file.service.add(name="BareService").method.add(name="Ask")
    rpc.input_type = rpc.output_type = ".guards.AskRequest"
    return file


async def test_a_method_without_access_stops_the_server_from_starting(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is served that nobody decided about; the message names the RPC and what to do."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(bare_service().SerializeToString())
    service = pool.FindServiceByName("guards.BareService")
    with pytest.raises(LookupError, match=r"/guards\.BareService/Ask declares no access option"):
        method_of(service.methods[0])

    real = chimera.server.service_descriptors()
    monkeypatch.setattr(chimera.server, "service_descriptors", lambda: [*real, service])
    server = Server(settings)
    with pytest.raises(LookupError, match=r"add one in its \.proto"):
        await server.start()
    assert server.port == 0


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_the_declaration_is_sound(method: Method) -> None:
    """Repeatable changes, audited changes, and guessing made expensive for those we do not know."""
    access, path = method.access, method.path
    who = access.WhichOneof("who")
    if access.rate == RateClass.RATE_CLASS_WRITE:
        assert access.audit, f"{path} changes something: give its access option an `audit` action"
        assert access.idempotent, f"{path}: add `request_id` to its request and `idempotent: true`"
    if method.has_request_id:
        assert access.idempotent, f"{path} takes a request_id: declare `idempotent: true`"
        assert who == "permission", f"{path}: answers are kept per caller, so it needs a permission"
    if who == "public":
        assert access.rate == RateClass.RATE_CLASS_AUTH, (
            f"{path} is open to everyone: declare RATE_CLASS_AUTH, whose limit is per address"
        )
    if method.streams:
        assert access.rate == RateClass.RATE_CLASS_WATCH, f"{path} streams: use RATE_CLASS_WATCH"
        assert access.deadline_ms, f"{path} streams: give it a deadline_ms longer than a call's"
    if access.audit:
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", access.audit), f"{path}: audit is noun.verb"
    else:
        assert access.idempotent, f"{path} changes nothing, so `idempotent: true` is its nature"


# What these permissions change, gives power away, opens a way in or out, or weakens the evidence.
POWERFUL = {
    Permission.Value(f"PERMISSION_{name}")
    for name in (
        "USER_MANAGE", "API_KEY_MANAGE", "ORGANISATION_MANAGE", "MEMBER_MANAGE", "INVITATION_MANAGE",
        "ROLE_MANAGE", "SIGN_IN_MANAGE", "PROVIDER_KEY_MANAGE", "WEBHOOK_MANAGE", "LEGAL_HOLD",
        "CONFIGURATION_APPROVE", "AUDIT_EXPORT", "OPERATE",
    )
}  # fmt: skip
# These only take something away, and must be quick when something is wrong; or they change nothing
# that matters: names, notes, a connection that is tried.
NEED_NO_STEP_UP = {
    "RevokeGrant", "RevokeInvitation", "RevokeApiKey", "RevokeProviderKey", "EndUserSessions",
    "DeleteWebhook", "PlaceLegalHold", "RejectConfigurationChange", "UnlockUser", "SendPasswordReset",
    "UpdateUser", "UpdateProviderKey", "RedeliverEvent", "TestConnection",
    "DiscoverModels", "SeedPrices", "ReleaseShard", "RetryOutbox", "ForceInstallationCircuit",
}  # fmt: skip


def test_what_gives_power_asks_who_is_there() -> None:
    """A session that was left open is no reason to hand out roles, keys, ways in, or the log."""
    powerful = {
        method.path.rpartition("/")[2]: method.access
        for method in METHODS
        if method.access.audit and method.access.permission in POWERFUL
    }
    missing = {name for name, access in powerful.items() if not access.step_up} - NEED_NO_STEP_UP
    assert not missing, f"declare step_up: true on {sorted(missing)}, or say why not here"
    stale = NEED_NO_STEP_UP - {name for name, access in powerful.items() if not access.step_up}
    assert not stale, f"they ask for it, or are gone: {sorted(stale)}"


def recorded_actions() -> set[str]:
    """Texts that are passed on beside a transaction, as in record(tx, "campaign.launch", ...); of
    f"campaign.{verb}" the part before the variable."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            if ast.unparse(node.args[0]) != "tx":
                continue
            for argument in node.args[1:]:
                match argument:
                    case ast.Constant(value=str(text)):
                        found.add(text)
                    case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
                        found.add(text)
    return found


def test_every_declared_action_is_recorded_somewhere() -> None:
    """A call that commits without its declared action is refused at run time (Database.begin);
    this finds the forgotten one before anybody calls it."""
    recorded = recorded_actions()
    missing = {
        method.path: method.access.audit
        for method in METHODS
        if method.access.audit
        and method.access.audit not in recorded
        and not (
            method.access.audit.partition(".")[0] + "." in recorded
            and method.access.audit.partition(".")[2] in recorded
        )
    }
    assert not missing, f"call record(tx, <action>, ...) in the operations of {missing}"


def test_actions_belong_to_one_rpc() -> None:
    """Two RPCs with one action cannot be told apart in the log."""
    actions = [method.access.audit for method in METHODS if method.access.audit]
    twice = {action for action in actions if actions.count(action) > 1}
    assert not twice, f"give each RPC an action of its own: {sorted(twice)}"


def test_reasons_come_from_the_published_enum() -> None:
    """A reason that errors.proto does not name is one that no client can handle."""
    published = {name.removeprefix("ERROR_REASON_") for name in list(errors_pb2.ErrorReason.keys())}
    faults = {
        "Invalid", "NotFound", "AlreadyExists", "NotReady", "Conflict", "Unauthenticated",
        "Denied", "Exhausted", "Unavailable", "TimedOut", "Fault",
    }  # fmt: skip
    unknown = [
        SimpleNamespace(where=f"{path.relative_to(ROOT)}:{node.lineno}", reason=first.value)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in faults and node.args
        for first in node.args[:1]
        if isinstance(first, ast.Constant)
        and isinstance(first.value, str)
        and first.value not in published
    ]
    assert not unknown, f"add them to proto/chimera/v1/errors.proto (make generate): {unknown}"
