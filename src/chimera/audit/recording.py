"""Capture: audit events are written in the transaction of what they tell.

`record` notes an event on the transaction; `Database.begin` calls `flush` right before COMMIT. Each
connection is a writer that counts its committed events 1, 2, 3 ...: the counter row moves in the
same transaction, so rows removed before they are sealed leave a gap, and a rollback leaves none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson
import structlog

from chimera import metrics
from chimera.audit.canonical import canonical_json
from chimera.audit.leaf import (
    ActorKind,
    AuditEvent,
    FieldChange,
    Kind,
    Outcome,
    Severity,
    committed_values,
    encode_committed,
    salts_for,
)
from chimera.call import Call
from chimera.db import Nothing, Tx, sql
from chimera.faults import Fault
from chimera.ids import new_id
from chimera.pools import Database

log = structlog.get_logger("chimera.audit")

# Values that never belong in a log, whoever passes them by mistake; as in `apiKey` and `API-Key`.
# Not "hash": hashes of plans and templates are what the log is for, and those of secrets are called
# after the secret.
SECRET_FIELDS = (
    "password", "passphrase", "secret", "token", "apikey", "privatekey", "credential", "sealed",
)  # fmt: skip
REDACTED = "[redacted]"
# What is longer is recorded by its digest: events are searched, watched and kept for years. Of all
# values of an event together, and of each.
EVENT_BYTES_MAX = 256 * 1024
VALUE_BYTES_MAX = 64 * 1024
BEGINNING_CHARS = 1000
# Messages nest three times as deep as what they carry, and readers take 100 levels.
DEPTH_MAX = 16


@dataclass(frozen=True, slots=True)
class Noted:
    """An event on its way into the transaction."""

    action: str
    entity: str
    entity_id: str
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    outcome: Outcome
    severity: Severity
    kind: Kind
    reason: str


# A counter that somebody else has moved becomes NULL, which it may not be: nothing is committed.
INSERT_EVENTS = sql(
    Nothing,
    """
    WITH writer AS (
        INSERT INTO audit.writers (writer_id, seq) VALUES (%(writer_id)s, %(seq_after)s)
        ON CONFLICT (writer_id)
        DO UPDATE SET seq = CASE WHEN writers.seq = %(seq_before)s THEN EXCLUDED.seq END
        RETURNING true
    )
    INSERT INTO audit.pending (id, org_id, occurred_at, facts, fields, leaf)
    SELECT e.id, %(org_id)s::uuid, %(occurred_at)s, e.facts, e.fields, decode(e.leaf, 'hex')
      FROM writer, jsonb_to_recordset(%(events)s::jsonb) AS e (id uuid, facts jsonb, fields jsonb, leaf text)
    """,
)


def record(
    tx: Tx,
    action: str,
    entity: str,
    entity_id: str,
    *,
    old: Mapping[str, Any] | None = None,
    new: Mapping[str, Any] | None = None,
    outcome: Outcome = Outcome.SUCCESS,
    severity: Severity = Severity.INFO,
    kind: Kind = Kind.DATA,
    reason: str = "",
) -> None:
    """Notes that `action` (noun.verb) was done to an entity. Of `old` and `new`, only values that
    differ are kept; fields that hold secrets must not be passed and are masked if they are, at any
    depth. A value of more than VALUE_BYTES_MAX is recorded by its beginning, length and digest."""
    before, after = _redacted(old or {}), _redacted(new or {})
    same = {name for name in before.keys() & after.keys() if before[name] == after[name]}
    tx.audit_events.append(
        Noted(
            action,
            entity,
            entity_id,
            {name: value for name, value in before.items() if name not in same},
            {name: value for name, value in after.items() if name not in same},
            outcome,
            severity,
            kind,
            reason,
        )
    )


def _redacted(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _cleaned(value, _is_secret(str(name)), 0) for name, value in values.items()}


def _cleaned(value: Any, is_secret: bool, depth: int) -> Any:
    """Without the texts below names of secrets, however deep these are. Numbers stay: a count of
    tokens is no secret."""
    if isinstance(value, str | bytes):
        return REDACTED if is_secret else value
    if not isinstance(value, dict | list | tuple):
        return value
    if depth == DEPTH_MAX:
        return "[nested deeper]"
    if isinstance(value, dict):
        return {
            name: _cleaned(item, is_secret or _is_secret(str(name)), depth + 1)
            for name, item in value.items()
        }
    return [_cleaned(item, is_secret, depth + 1) for item in value]


@lru_cache(maxsize=4096)
def _is_secret(name: str) -> bool:
    bare = name.lower().replace("_", "").replace("-", "").replace(" ", "")
    return any(word in bare for word in SECRET_FIELDS)


def flush(tx: Tx) -> None:
    """Has the noted events written with COMMIT (see Database.begin)."""
    connection, call = tx.connection, tx.call
    before: int = connection.writer_seq  # type: ignore[attr-defined]  # set by Database
    writer_id: str = connection.writer_id  # type: ignore[attr-defined]  # set by Database
    now = datetime.now(UTC)
    events = []
    for position, noted in enumerate(tx.audit_events, start=1):
        event = _event(noted, call, now, writer_id, before + position)
        values = committed_values(event)
        salts = salts_for(values)
        opened = [
            {"name": name, "value": values[name].decode(), "salt": salts[name].hex()}
            for name in values
        ]
        events.append(
            {
                "id": event.event_id,
                "facts": _facts(event),
                "fields": opened,
                "leaf": encode_committed(event, values, salts).hex(),
            }
        )
    after = before + len(events)
    tx.at_commit(
        INSERT_EVENTS,
        writer_id=writer_id,
        seq_before=before,
        seq_after=after,
        org_id=call.caller.org_id or None,
        occurred_at=now,
        events=orjson.dumps(events).decode(),
    )
    connection.writer_seq = after  # type: ignore[attr-defined]  # taken back by Database on rollback


def _event(noted: Noted, call: Call, now: datetime, writer_id: str, seq: int) -> AuditEvent:
    caller = call.caller
    written = _Written()
    changed = tuple(
        FieldChange(
            name,
            written.value(noted.old[name]) if name in noted.old else None,
            written.value(noted.new[name]) if name in noted.new else None,
        )
        for name in sorted(noted.old.keys() | noted.new.keys())
    )
    return AuditEvent(
        event_id=UUID(new_id(now)),
        occurred_at=now,
        writer_id=writer_id,
        writer_seq=seq,
        actor_kind=ActorKind(caller.kind),
        outcome=noted.outcome,
        severity=noted.severity,
        kind=noted.kind,
        action=noted.action,
        entity=noted.entity,
        org_id=UUID(caller.org_id) if caller.org_id else None,
        session_id=UUID(caller.session_id) if caller.session_id else None,
        api_key_id=UUID(caller.api_key_id) if caller.api_key_id else None,
        actor_id=caller.user_id or None,
        entity_id=noted.entity_id or None,
        request_id=call.correlation_id,
        ip=call.ip_address or None,
        user_agent=_without_nul(call.user_agent) or None,
        reason=_without_nul(noted.reason) or None,
        fields=changed,
    )


class _Written:
    """The values of one event as they are committed to, and how much of it there may still be."""

    def __init__(self) -> None:
        self.bytes_left = EVENT_BYTES_MAX

    def value(self, value: Any) -> bytes:
        whole = canonical_json(value)
        if len(whole) > min(VALUE_BYTES_MAX, self.bytes_left):
            begins = whole[: 4 * BEGINNING_CHARS].decode(errors="ignore")[:BEGINNING_CHARS]
            digest = sha256(whole).hexdigest()
            whole = canonical_json({"begins": begins, "bytes": len(whole), "sha256": digest})
        self.bytes_left -= len(whole)
        return whole


def _without_nul(text: str) -> str:
    """jsonb holds no NUL, and what is committed to must be what is stored. (A NUL inside an old or
    new value is an escape of its canonical JSON and stays.)"""
    return text.replace("\0", "\ufffd")


def _facts(event: AuditEvent) -> dict[str, Any]:
    return {
        "actor_kind": event.actor_kind,
        "actor_id": event.actor_id,
        "session_id": event.session_id,
        "api_key_id": event.api_key_id,
        "action": event.action,
        "entity": event.entity,
        "entity_id": event.entity_id or "",
        "outcome": event.outcome,
        "severity": event.severity,
        "kind": event.kind,
        "correlation_id": event.request_id,
    }


class Refusals:
    """Records calls that were denied or failed; their own transaction has rolled back."""

    def __init__(self, db: Database) -> None:
        self.db = db

    async def record(self, call: Call, fault: Fault) -> None:
        """In a short transaction of its own; if even that fails, a metric and a log line."""
        denied = fault.code in ("PERMISSION_DENIED", "UNAUTHENTICATED")
        own = Call(
            call.caller,
            call.method,
            deadline=Call.by_worker("refusal", seconds=2).deadline,
            correlation_id=call.correlation_id,
            ip_address=call.ip_address,
            user_agent=call.user_agent,
        )
        try:
            async with self.db.begin(own) as tx:
                record(
                    tx,
                    call.access.audit,
                    "rpc",
                    call.method.rpartition("/")[2],
                    outcome=Outcome.DENIED if denied else Outcome.FAILED,
                    severity=Severity.WARNING if denied else Severity.NOTICE,
                    kind=Kind.SECURITY if denied else Kind.ACCESS,
                    reason=fault.reason,
                )
        except Exception as error:
            metrics.AUDIT_REFUSALS_LOST.inc()
            log.error("audit.refusal_lost", method=call.method, error=type(error).__name__)
