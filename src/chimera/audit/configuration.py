"""Settings of an organisation that matter for its security: changed by proposal, with a reason, and
where marked only when a second person agrees.

What must stay true: whoever proposed a change does not approve it; an approval is for exactly the
change that was read (its old value still stands), and applies it in the same transaction.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from google.protobuf.json_format import MessageToDict, ParseDict, SerializeToJsonError
from google.protobuf.struct_pb2 import Value

from chimera.audit import rules
from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.faults import Conflict, Denied, Invalid, NotFound, NotReady
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.v1.audit_pb2 import (
    ConfigurationChange,
    ConfigurationSetting,
    ListConfigurationChangesRequest,
    ProposeConfigurationChangeRequest,
)

EXPIRES_HOURS = "change_expires_hours"
RETENTION_DAYS = "audit_retention_days"
READER_NETWORKS = "audit_reader_networks"
RULES = "security_rules"
CONTACTS = "security_contacts"
_MAIL = re.compile(r"[^@\s,;<>\"]{1,64}@[^@\s,;<>\"]{1,190}")


@dataclass(frozen=True, slots=True)
class Key:
    """A setting. check: gives the value as it is kept; raises ValueError with what is wrong."""

    name: str
    description: str
    default: Any
    requires_approval: bool
    check: Callable[[Any], Any]


def _whole(low: int, high: int) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def _days(value: Any) -> Any:
    if value is not None and (type(value) is not int or not 30 <= value <= 36500):
        raise ValueError("a whole number from 30 to 36500, or null for what the installation says")
    return value


def _networks(value: Any) -> Any:
    if not isinstance(value, list) or len(value) > 100:
        raise ValueError("a list of at most 100 networks such as 192.0.2.0/24")
    try:
        if all(isinstance(text, str) for text in value):  # a number would be an address as well
            return [str(ipaddress.ip_network(text)) for text in value]
    except ValueError:
        pass
    raise ValueError("a list of networks such as 192.0.2.0/24")


def _addresses(value: Any) -> Any:
    if not isinstance(value, list) or len(value) > 10:
        raise ValueError("a list of at most 10 mail addresses")
    if not all(isinstance(text, str) and _MAIL.fullmatch(text) for text in value):
        raise ValueError("a list of mail addresses")
    return list(dict.fromkeys(value))


KEYS: dict[str, Key] = {
    key.name: key
    for key in (
        Key(RETENTION_DAYS, "Days for which audit payloads are kept; null: as the installation "
            "says.", None, True, _days),
        Key(READER_NETWORKS, "Networks from which the audit log may be read; empty: from anywhere.",
            [], True, _networks),
        Key(RULES, "Rules of security monitoring that differ from their defaults.",
            {}, True, rules.checked_parameters),
        Key(CONTACTS, "Mail addresses that are told of findings.", [], False, _addresses),
        Key(EXPIRES_HOURS, "Hours after which a proposed change expires.", 24, True,
            _whole(1, 168)),
    )
}  # fmt: skip

FIND_VALUES = sql(
    dict,
    """
    SELECT key, value, version, updated_at FROM audit.configuration
     WHERE org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid)
    """,
)


async def list_configuration(tx: Tx) -> list[ConfigurationSetting]:
    """Every setting, the ones that stand at their default too."""
    rows = {row["key"]: row for row in await tx.all(FIND_VALUES)}
    settings = []
    for key in KEYS.values():
        row = rows.get(key.name)
        setting = ConfigurationSetting(
            key=key.name,
            description=key.description,
            value=ParseDict(row["value"] if row else key.default, Value()),
            default_value=ParseDict(key.default, Value()),
            requires_approval=key.requires_approval,
        )
        if row:
            setting.version = row["version"]
            setting.updated_at.FromDatetime(row["updated_at"])
        settings.append(setting)
    return settings


FIND_VALUE = sql(
    dict,
    """
    SELECT value, version FROM audit.configuration
     WHERE org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid) AND key = %(key)s
    """,
)


async def find_value(tx: Tx, key: str) -> Any:
    """The caller's organisation's value of a setting, or its default."""
    row = await tx.one(FIND_VALUE, key=key)
    return row["value"] if row else KEYS[key].default


async def check_reader(tx: Tx) -> None:
    """Raises Denied(NETWORK_NOT_ALLOWED) when the log may not be read from the caller's address."""
    networks = await find_value(tx, READER_NETWORKS)
    if not networks:
        return
    try:
        address = ipaddress.ip_address(tx.call.ip_address)
    except ValueError:
        address = None
    if address is None or not any(address in ipaddress.ip_network(text) for text in networks):
        raise Denied(
            "NETWORK_NOT_ALLOWED", "The audit log may not be read from this network; see the "
            f"setting {READER_NETWORKS}."
        )  # fmt: skip


LIST_CHANGES = sql(
    ConfigurationChange,
    """
    SELECT id, key, old_value, new_value, reason, requires_approval, state, changed_by, decided_by,
           decision_reason, created_at, decided_at, expires_at
      FROM audit.configuration_changes
     WHERE (%(after)s::uuid IS NULL OR id < %(after)s)
       AND (%(key)s::text IS NULL OR key = %(key)s)
       AND (%(state)s::text IS NULL OR state = %(state)s)
     ORDER BY id DESC LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_configuration_changes(
    tx: Tx, pages: Pages, request: ListConfigurationChangesRequest
) -> tuple[list[ConfigurationChange], str]:
    """A page, newest first, and the token of the next one."""
    size, after = pages.page(request)
    rows = await tx.all(
        LIST_CHANGES,
        after=after[0] if after else None,
        key=request.key or None,
        state=request.state or None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "id")


INSERT_CHANGE = sql(
    ConfigurationChange,
    """
    INSERT INTO audit.configuration_changes (id, org_id, key, old_value, new_value, base_version,
                                             reason, requires_approval, state, changed_by, expires_at)
    VALUES (%(id)s, %(org_id)s, %(key)s, %(old)s::jsonb, %(new)s::jsonb, %(base)s, %(reason)s,
            %(requires_approval)s, %(state)s, %(user_id)s, now() + make_interval(hours => %(hours)s))
    RETURNING id, key, old_value, new_value, reason, requires_approval, state, changed_by,
              created_at, expires_at
    """,
)
APPLY_CHANGE = sql(
    Nothing,
    """
    INSERT INTO audit.configuration AS c (org_id, key, value, version, change_id)
    SELECT org_id, key, new_value, base_version + 1, id FROM audit.configuration_changes
     WHERE id = %(id)s
    ON CONFLICT (org_id, key) DO UPDATE
       SET value = EXCLUDED.value, version = EXCLUDED.version, change_id = EXCLUDED.change_id,
           updated_at = now()
     WHERE c.version = EXCLUDED.version - 1
    """,
)


async def propose_configuration_change(
    tx: Tx, request: ProposeConfigurationChangeRequest
) -> ConfigurationChange:
    """Raises Invalid(CONFIGURATION_KEY_UNKNOWN, CONFIGURATION_VALUE_INVALID) and, where it applies at
    once, Conflict(CHANGE_OUTDATED)."""
    key = KEYS.get(request.key)
    if key is None:
        raise Invalid("CONFIGURATION_KEY_UNKNOWN", f"The settings are: {', '.join(KEYS)}.")
    try:
        value = key.check(_plain(MessageToDict(request.value)))
    except SerializeToJsonError:
        raise Invalid(
            "CONFIGURATION_VALUE_INVALID", f"{key.name} is no number without end."
        ) from None
    except ValueError as error:
        raise Invalid("CONFIGURATION_VALUE_INVALID", f"{key.name} is {error}.") from None
    row = await tx.one(FIND_VALUE, key=key.name)
    old = row["value"] if row else key.default
    change = await tx.one(
        INSERT_CHANGE,
        id=new_id(),
        org_id=tx.call.caller.org_id,
        key=key.name,
        old=orjson.dumps(old).decode(),
        new=orjson.dumps(value).decode(),
        base=row["version"] if row else 0,
        reason=request.reason,
        requires_approval=key.requires_approval,
        state="proposed" if key.requires_approval else "applied",
        user_id=tx.call.caller.user_id,
        hours=await find_value(tx, EXPIRES_HOURS),
    )
    assert change is not None
    if not key.requires_approval:
        await _apply(tx, change.id)
    record(
        tx, "configuration.propose", "configuration", key.name,
        old={key.name: old}, new={key.name: value, "state": change.state, "change_id": change.id},
        reason=request.reason, severity=Severity.NOTICE, kind=Kind.SECURITY,
    )  # fmt: skip
    return change


def _plain(value: Any) -> Any:
    """Numbers of a Value are doubles; whole ones are meant as such."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


async def _apply(tx: Tx, change_id: str) -> None:
    if not await tx.run(APPLY_CHANGE, id=change_id):
        raise Conflict(
            "CHANGE_OUTDATED", "The setting has another value by now; propose the change again."
        )


DECIDE_CHANGE = sql(
    ConfigurationChange,
    """
    UPDATE audit.configuration_changes
       SET state = %(state)s, decided_by = %(user_id)s, decision_reason = %(reason)s,
           decided_at = now()
     WHERE id = %(id)s AND state = 'proposed' AND expires_at > now()
       AND (changed_by = %(user_id)s::uuid) = %(is_own)s
    RETURNING id, key, old_value, new_value, reason, requires_approval, state, changed_by, decided_by,
              decision_reason, created_at, decided_at, expires_at
    """,
)
FIND_CHANGE = sql(
    dict,
    """
    SELECT state, changed_by, expires_at <= now() AS is_over
      FROM audit.configuration_changes WHERE id = %(id)s
    """,
)


async def _decide(
    tx: Tx, change_id: str, state: str, reason: str, *, is_own: bool
) -> ConfigurationChange:
    """Raises NotFound(CHANGE_NOT_FOUND), NotReady(CHANGE_NOT_OPEN), Denied(CHANGE_IS_OWN,
    CHANGE_NOT_OWN)."""
    change = await tx.one(
        DECIDE_CHANGE,
        id=change_id, state=state, reason=reason, is_own=is_own, user_id=tx.call.caller.user_id,
    )  # fmt: skip
    if change is not None:
        return change
    found = await tx.one(FIND_CHANGE, id=change_id)
    if found is None:
        raise NotFound("CHANGE_NOT_FOUND", f"There is no configuration change {change_id}.")
    if found["state"] != "proposed" or found["is_over"]:
        state = "expired" if found["state"] == "proposed" else found["state"]
        raise NotReady("CHANGE_NOT_OPEN", f"The change is {state}; propose it again.")
    if is_own:
        raise Denied("CHANGE_NOT_OWN", "Only who proposed a change takes it back.")
    raise Denied("CHANGE_IS_OWN", "Somebody else has to decide about what you proposed.")


async def approve_configuration_change(tx: Tx, change_id: str, reason: str) -> ConfigurationChange:
    """Applies it. Raises as `_decide`, and Conflict(CHANGE_OUTDATED)."""
    change = await _decide(tx, change_id, "applied", reason, is_own=False)
    await _apply(tx, change.id)
    _record_decision(tx, "configuration.approve", change, reason)
    return change


async def reject_configuration_change(tx: Tx, change_id: str, reason: str) -> ConfigurationChange:
    """Raises as `_decide`."""
    change = await _decide(tx, change_id, "rejected", reason, is_own=False)
    _record_decision(tx, "configuration.reject", change, reason)
    return change


async def withdraw_configuration_change(tx: Tx, change_id: str) -> ConfigurationChange:
    """Raises as `_decide`."""
    change = await _decide(tx, change_id, "withdrawn", "", is_own=True)
    _record_decision(tx, "configuration.withdraw", change, "")
    return change


def _record_decision(tx: Tx, action: str, change: ConfigurationChange, reason: str) -> None:
    old, new = _plain(MessageToDict(change.old_value)), _plain(MessageToDict(change.new_value))
    is_applied = change.state == "applied"
    record(
        tx, action, "configuration", change.key,
        old={"state": "proposed"} | ({change.key: old} if is_applied else {}),
        new={"state": change.state, "change_id": change.id}
            | ({change.key: new} if is_applied else {}),
        reason=reason, severity=Severity.WARNING if is_applied else Severity.NOTICE,
        kind=Kind.SECURITY,
    )  # fmt: skip


# --- expiry -----------------------------------------------------------------------------------------

FIND_OVERDUE = sql(
    str,
    """
    SELECT DISTINCT org_id::text FROM audit.configuration_changes
     WHERE state = 'proposed' AND expires_at <= now()
    """,
)
EXPIRE_CHANGES = sql(
    dict,
    """
    UPDATE audit.configuration_changes SET state = 'expired', decided_at = now()
     WHERE org_id = %(org_id)s AND state = 'proposed' AND expires_at <= now()
    RETURNING id, key
    """,
)


async def expire_changes(core: Core) -> int:
    """Ends proposals nobody decided about; returns how many. core: of the role worker."""
    async with core.db.begin(Call.by_worker("configuration.expire")) as tx:
        org_ids = await tx.all(FIND_OVERDUE)
    count = 0
    for org_id in org_ids:
        async with core.db.begin(Call.by_worker("configuration.expire", org_id)) as tx:
            for row in await tx.all(EXPIRE_CHANGES, org_id=org_id):
                record(
                    tx, "configuration.expire", "configuration", row["key"],
                    old={"state": "proposed"}, new={"state": "expired", "change_id": row["id"]},
                    kind=Kind.SECURITY,
                )  # fmt: skip
                count += 1
    return count
