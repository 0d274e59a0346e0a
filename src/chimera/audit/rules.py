"""The rules of security monitoring: what in an event is worth a second look.

A rule answers for one event whether it speaks, and about whom. With a threshold above 1 it makes a
finding when that many events about the same subject come within its window. Organisations change
threshold, window and whether a rule is on (the setting `security_rules`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

SUBJECT_MAX = 200
_READS = frozenset({"audit.read", "audit.watch", "audit.export"})
_SIGN_IN = ("login", "session.", "password", "token", "totp", "recovery", "oauth")
_POWERS = frozenset({"new:role", "new:permissions", "new:scopes", "new:is_superuser", "new:roles"})
_POWERLESS = frozenset({'"user"', '"viewer"'})


@dataclass(frozen=True, slots=True)
class Seen:
    """What a rule is shown of an event. values: what is opened, by commitment name (`ip`,
    `new:role`), as canonical JSON or text."""

    action: str
    entity: str
    entity_id: str
    outcome: str
    kind: str
    actor_id: str
    api_key_id: str
    values: Mapping[str, str]

    @property
    def ip(self) -> str:
        return self.values.get("ip", "")

    @property
    def has_failed(self) -> bool:
        return self.outcome != "success"

    @property
    def is_sign_in(self) -> bool:
        return any(word in self.action for word in _SIGN_IN)


@dataclass(frozen=True, slots=True)
class Rule:
    """subject_of: whom the event is about if the rule speaks, else "". window_s: seconds."""

    name: str
    severity: str
    threshold: int
    window_s: int
    summary: str
    subject_of: Callable[[Seen], str]
    enabled: bool = True


def _failure_source(seen: Seen) -> str:
    return seen.ip if seen.has_failed and (seen.is_sign_in or seen.kind == "security") else ""


def _failure_identifier(seen: Seen) -> str:
    if not (seen.has_failed and seen.is_sign_in):
        return ""
    return seen.entity_id if seen.entity == "user" else seen.actor_id


def _denied(seen: Seen) -> str:
    return seen.actor_id if seen.outcome == "denied" else ""


def _privilege(seen: Seen) -> str:
    if seen.has_failed:
        return ""
    if seen.action.startswith(("role.", "membership.")):
        return seen.entity_id
    given = {name: value for name, value in seen.values.items() if name in _POWERS}
    if seen.action.endswith(".create"):  # a new person or key with the usual rights is no change
        given = {name: value for name, value in given.items()
                 if value not in _POWERLESS and name != "new:scopes" and value != "false"}  # fmt: skip
    return seen.entity_id if given else ""


def _export(seen: Seen) -> str:
    return seen.actor_id if seen.action.endswith(".export") and not seen.has_failed else ""


def _audit_read(seen: Seen) -> str:
    return seen.actor_id if seen.action in _READS and not seen.has_failed else ""


def _named(*actions: str) -> Callable[[Seen], str]:
    return lambda seen: seen.entity_id or seen.actor_id if (
        seen.action in actions and not seen.has_failed) else ""  # fmt: skip


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("many_failures_source", "warning", 10, 600,
             "{count} failures from {subject}", _failure_source),
        Rule("many_failures_identifier", "warning", 10, 900,
             "{count} failed sign-ins as {subject}", _failure_identifier),
        Rule("many_denials", "warning", 20, 600,
             "{subject} was denied {count} calls", _denied),
        Rule("privilege_change", "warning", 1, 60,
             "rights of {subject} were changed by {action}", _privilege),
        Rule("many_exports", "warning", 5, 3600,
             "{subject} exported {count} times", _export),
        Rule("audit_read", "notice", 100, 3600,
             "{subject} read the audit log {count} times", _audit_read),
        # The network is remembered by the monitor, which then speaks for this rule.
        Rule("key_from_new_network", "warning", 1, 60,
             "API key {subject} was used from a new network", lambda seen: ""),
        Rule("kill_switch", "critical", 1, 60,
             "the kill switch was set", _named("kill_switch.set")),
        Rule("hold_released", "warning", 1, 60,
             "legal hold {subject} was released", _named("legal_hold.release")),
        Rule("log_restore", "critical", 1, 60,
             "signing goes on from a restored log of size {subject}", _named("audit.restore")),
    )
}  # fmt: skip


def checked_parameters(value: Any) -> Any:
    """The setting `security_rules` as it is kept; raises ValueError with what it has to be."""
    what = (
        f"an object of rules ({', '.join(RULES)}), each with enabled, threshold (1 to 100000) or "
        "window_s (60 to 86400)"
    )
    if not isinstance(value, dict) or not value.keys() <= RULES.keys():
        raise ValueError(what)
    for parameters in value.values():
        if not isinstance(parameters, dict):
            raise ValueError(what)
        for name, given in parameters.items():
            low, high = {"threshold": (1, 100_000), "window_s": (60, 86_400)}.get(name, (0, -1))
            is_number = type(given) is int and low <= given <= high
            if not is_number and not (name == "enabled" and type(given) is bool):
                raise ValueError(what)
    return value


def rules_for(parameters: Mapping[str, Mapping[str, Any]]) -> list[Rule]:
    """The rules that are on, with an organisation's parameters."""
    rules = [replace(rule, **parameters.get(rule.name, {})) for rule in RULES.values()]
    return [rule for rule in rules if rule.enabled]


def network_of(ip: str) -> str:
    """The /24 or /48 an address lies in; "" for none."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ""
    prefix = 24 if address.version == 4 else 48
    return str(ipaddress.ip_network(f"{address}/{prefix}", strict=False))
