"""What the audit log tells: its events, its checkpoints, and the proofs made of its stored nodes.

Readers see the events of their organisation (row-level security); leaf hashes, nodes and
checkpoints name nobody and are read by all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from typing import Any

from chimera.audit import merkle
from chimera.audit.leaf import Kind, Outcome, Severity
from chimera.audit.merkle import Node, NodeAt
from chimera.audit.recording import record
from chimera.db import Tx, sql
from chimera.faults import Invalid, NotFound, NotReady, Violation
from chimera.paging import ANSWER_BYTES, Pages, rows_that_fit
from chimera.v1.audit_pb2 import (
    AuditEvent,
    Checkpoint,
    GetAuditEventResponse,
    GetCheckpointResponse,
    GetConsistencyProofRequest,
    GetConsistencyProofResponse,
    GetInclusionProofRequest,
    GetInclusionProofResponse,
    ListAuditEventsRequest,
    ListCheckpointsRequest,
)

# A Struct holds numbers as doubles, exact up to here.
_EXACT_MAX = 2**53


class LogDamaged(Exception):
    """Rows the log is made of are gone. Nobody but a superuser can have removed them."""


# --- events ---------------------------------------------------------------------------------------

# A function, for what the row policy would keep from using an index (see the migration).
LIST_AUDIT_EVENTS = sql(
    dict,
    """
    SELECT id, log_index, occurred_at, actor_kind, actor_id, action, entity, entity_id, outcome,
           severity, facts, fields, leaf_hash, previous_hash
      FROM audit.find_events(
               %(query)s::text, %(after)s::uuid, %(action)s::text, %(entity)s::text,
               %(entity_id)s::text, %(actor_id)s::uuid, %(kind)s::text, %(severity)s::text,
               %(outcome)s::text, %(ip_address)s::text, %(session_id)s::text,
               %(since)s::timestamptz, %(until)s::timestamptz, %(limit)s::int)
    """,
    prepare=False,
)
_FILTERS = (
    "query", "action", "entity", "entity_id", "actor_id", "kind", "severity", "outcome",
    "ip_address", "session_id",
)  # fmt: skip


# Filters with a closed set of values: a misspelled one would find nothing, and look like an answer.
CLOSED = {"kind": Kind, "severity": Severity, "outcome": Outcome}


def check_closed(filters: Mapping[str, str]) -> None:
    """Raises Invalid(FIELD_INVALID)."""
    for name, value in filters.items():
        if value and name in CLOSED and value not in tuple(CLOSED[name]):
            violation = Violation(name, f"is one of {', '.join(CLOSED[name])}", "FIELD_INVALID")
            raise Invalid("FIELD_INVALID", f"{name}: {violation.message}", violations=[violation])


async def list_audit_events(
    tx: Tx, pages: Pages, request: ListAuditEventsRequest
) -> tuple[list[AuditEvent], str]:
    """A page of sealed events, newest first, and the token of the next one. That somebody reads is
    an event as well, once a search. Raises Invalid(FIELD_INVALID)."""
    size, after = pages.page(request)
    filters = {name: getattr(request, name) for name in _FILTERS}
    check_closed(filters)
    if after is None:
        # Words and addresses may be of a person who is erased one day: only that they were given.
        asked = {
            name: "given" if name in ("query", "ip_address") else value
            for name, value in filters.items()
            if value
        }
        record(tx, "audit.read", "audit_log", tx.call.caller.org_id, new=asked, kind=Kind.ACCESS)

    async def fetch(event_id: str | None, limit: int) -> list[AuditEvent]:
        rows = await tx.all(
            LIST_AUDIT_EVENTS,
            after=event_id,
            since=request.since.ToDatetime(UTC) if request.HasField("since") else None,
            until=request.until.ToDatetime(UTC) if request.HasField("until") else None,
            limit=limit,
            **{name: value or None for name, value in filters.items()},
        )
        return [event_message(row) for row in rows]

    events, has_more = await rows_that_fit(
        fetch, after[0] if after else None, size, lambda event: event.id
    )
    return events, pages.next_token_at(request, [events[-1].id]) if has_more else ""


def fitting(events: Sequence[AuditEvent]) -> int:
    """How many of the first go into one message: all but where they are very large, and one at least."""
    size_bytes = 0
    for count, event in enumerate(events):
        size_bytes += event.ByteSize()
        if count and size_bytes > ANSWER_BYTES:
            return count
    return len(events)


GET_AUDIT_EVENT = sql(
    dict,
    """
    SELECT id, log_index, occurred_at, actor_kind, actor_id, action, entity, entity_id, outcome,
           severity, facts, fields, leaf_hash, previous_hash, leaf
      FROM audit.events
     WHERE id = %(event_id)s
    """,
)


async def get_audit_event(tx: Tx, event_id: str) -> GetAuditEventResponse:
    """Raises NotReady(AUDIT_EVENT_NOT_SEALED) and NotFound(AUDIT_EVENT_NOT_FOUND)."""
    row = await tx.one(GET_AUDIT_EVENT, event_id=event_id)
    if row is None:
        raise await _not_sealed(tx, event_id)
    return GetAuditEventResponse(event=event_message(row), leaf=row["leaf"])


FIND_PENDING = sql(bool, "SELECT true FROM audit.pending WHERE id = %(event_id)s")


async def _not_sealed(tx: Tx, event_id: str) -> NotReady | NotFound:
    if await tx.one(FIND_PENDING, event_id=event_id):
        return NotReady(
            "AUDIT_EVENT_NOT_SEALED",
            f"Event {event_id} is recorded and not sealed yet; try again in a second.",
            retry_after_s=1.0,
        )
    return NotFound("AUDIT_EVENT_NOT_FOUND", f"There is no audit event {event_id}.")


def event_message(row: dict[str, Any]) -> AuditEvent:
    """A row of audit.events as it is told; values that were erased are simply not there."""
    facts = row["facts"]
    values = {item["name"]: item["value"] for item in row["fields"] if "value" in item}
    return AuditEvent(
        id=row["id"],
        log_index=row["log_index"],
        occurred_at=row["occurred_at"],
        actor_kind=row["actor_kind"],
        actor_id=row["actor_id"] or "",
        session_id=facts.get("session_id") or "",
        api_key_id=facts.get("api_key_id") or "",
        action=row["action"],
        entity=row["entity"],
        entity_id=row["entity_id"],
        outcome=row["outcome"],
        severity=row["severity"],
        kind=facts.get("kind") or "",
        correlation_id=facts.get("correlation_id") or "",
        ip_address=values.get("ip", ""),
        user_agent=values.get("user_agent", ""),
        reason=values.get("reason", ""),
        old_values=_side(values, "old:"),
        new_values=_side(values, "new:"),
        leaf_hash=row["leaf_hash"].hex(),
        previous_hash=row["previous_hash"].hex(),
    )


def _side(values: dict[str, str], prefix: str) -> dict[str, Any] | None:
    side = {
        name.removeprefix(prefix): json.loads(text, parse_int=_exact)
        for name, text in values.items()
        if name.startswith(prefix)
    }
    return side or None


def _exact(digits: str) -> int | str:
    number = int(digits)
    return number if abs(number) <= _EXACT_MAX else digits


# --- checkpoints ----------------------------------------------------------------------------------

FIND_SIGNED = sql(
    GetCheckpointResponse,
    """
    SELECT note AS checkpoint, verifier_key, size, root
      FROM audit.checkpoints ORDER BY size DESC LIMIT 1
    """,
)

FIND_CHECKPOINT = sql(
    GetCheckpointResponse,
    """
    SELECT c.note || COALESCE(string_agg(s.line, '' ORDER BY s.verifier_key), '') AS checkpoint,
           c.verifier_key, c.size, c.root,
           COALESCE(array_agg(s.verifier_key ORDER BY s.verifier_key)
                    FILTER (WHERE s.verifier_key IS NOT NULL), '{}') AS witness_keys
      FROM audit.checkpoints c LEFT JOIN audit.cosignatures s USING (size)
     WHERE c.size = (SELECT max(size) FROM audit.checkpoints)
     GROUP BY c.size
    """,
)


async def find_signed(tx: Tx) -> GetCheckpointResponse | None:
    """The newest one, as the log alone signed it."""
    return await tx.one(FIND_SIGNED)


async def find_checkpoint(tx: Tx) -> GetCheckpointResponse | None:
    """The newest one, with the cosignatures of its witnesses."""
    return await tx.one(FIND_CHECKPOINT)


async def get_checkpoint(tx: Tx) -> GetCheckpointResponse:
    """The newest one. Raises NotFound(CHECKPOINT_NOT_FOUND) before the first."""
    found = await find_checkpoint(tx)
    if found is None:
        raise NotFound(
            "CHECKPOINT_NOT_FOUND",
            "No checkpoint is signed yet; the first follows the first event.",
        )
    return found


LIST_CHECKPOINTS = sql(
    Checkpoint,
    """
    SELECT c.note || COALESCE(s.lines, '') AS note, c.verifier_key, c.size, c.root,
           COALESCE(s.keys, '{}') AS witness_keys, c.created_at
      FROM audit.checkpoints c
      LEFT JOIN LATERAL (
          SELECT string_agg(line, '' ORDER BY verifier_key) AS lines,
                 array_agg(verifier_key ORDER BY verifier_key) AS keys
            FROM audit.cosignatures WHERE size = c.size) s ON true
     WHERE (%(after)s::bigint IS NULL OR c.size < %(after)s)
     ORDER BY c.size DESC LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_checkpoints(
    tx: Tx, pages: Pages, request: ListCheckpointsRequest
) -> tuple[list[Checkpoint], str]:
    """A page, newest first, and the token of the next one."""
    size, after = pages.page(request)
    rows = await tx.all(LIST_CHECKPOINTS, after=after[0] if after else None, limit=size + 1)
    return rows[:size], pages.next_token(request, rows, size, "size")


# --- proofs ---------------------------------------------------------------------------------------

FIND_NODES = sql(
    dict,
    """
    SELECT wanted.level, wanted.node_index, COALESCE(n.hash, l.leaf_hash) AS hash
      FROM unnest(%(levels)s::smallint[], %(indexes)s::bigint[]) AS wanted (level, node_index)
      LEFT JOIN audit.nodes n ON n.level = wanted.level AND n.node_index = wanted.node_index
      LEFT JOIN audit.leaves l ON wanted.level = 0 AND l.log_index = wanted.node_index
    """,
)


async def read_nodes(tx: Tx, nodes: Iterable[Node]) -> NodeAt:
    """Fetches complete subtrees in one query and gives access to them. Raises LogDamaged."""
    wanted = list(dict.fromkeys(nodes))
    rows = await tx.all(
        FIND_NODES, levels=[level for level, _ in wanted], indexes=[index for _, index in wanted]
    )
    hashes = {(row["level"], row["node_index"]): row["hash"] for row in rows}
    gone = [node for node in wanted if hashes.get(node) is None]
    if gone:
        raise LogDamaged(f"nodes {gone} (level, index) of the audit log are missing")
    return lambda level, index: hashes[level, index]


async def read_frontier(tx: Tx, size: int) -> merkle.Frontier:
    """The right edge of the tree of the first `size` leaves. Raises LogDamaged."""
    nodes = merkle.frontier_nodes(size)
    node_at = await read_nodes(tx, nodes)
    return merkle.Frontier(size, tuple(node_at(*node) for node in nodes))


LOG_SIZE = sql(int, "SELECT size FROM audit.log_head")

FIND_LOG_INDEX = sql(dict, "SELECT log_index, leaf_hash FROM audit.events WHERE id = %(event_id)s")


# Whoever names the hash has seen the event; that its payload was dropped changes nothing.
FIND_LEAF = sql(
    dict,
    """
    SELECT log_index, leaf_hash FROM audit.leaves
     WHERE log_index = %(log_index)s AND leaf_hash = %(leaf_hash)s
    """,
)


async def get_inclusion_proof(
    tx: Tx, request: GetInclusionProofRequest
) -> GetInclusionProofResponse:
    """Raises NotFound(AUDIT_EVENT_NOT_FOUND); NotReady(AUDIT_EVENT_NOT_SEALED), also when no
    checkpoint covers the event yet and none but the newest was asked for; Invalid(LOG_SIZE_INVALID)
    for a size that leaves the event out or that the log does not have."""
    if request.event_id:
        event = await tx.one(FIND_LOG_INDEX, event_id=request.event_id)
        if event is None:
            raise await _not_sealed(tx, request.event_id)
    else:
        event = await tx.one(FIND_LEAF, log_index=request.log_index, leaf_hash=request.leaf_hash)
        if event is None:
            raise NotFound("AUDIT_EVENT_NOT_FOUND", "There is no such leaf at that index.")
    index, size = event["log_index"], request.size
    if size:
        await _check_size(tx, size)
        if index >= size:
            raise _size_invalid(f"The event is number {index + 1} of the log, beyond {size}.")
    else:
        newest = await find_checkpoint(tx)
        size = newest.size if newest else 0
        if index >= size:
            raise NotReady(
                "AUDIT_EVENT_NOT_SEALED",
                "No checkpoint covers the event yet; try again in a second.",
                retry_after_s=1.0,
            )
    node_at = await read_nodes(tx, merkle.inclusion_nodes(index, size))
    return GetInclusionProofResponse(
        log_index=index,
        size=size,
        leaf_hash=event["leaf_hash"],
        hashes=merkle.inclusion_proof(index, size, node_at),
    )


async def get_consistency_proof(
    tx: Tx, request: GetConsistencyProofRequest
) -> GetConsistencyProofResponse:
    """Raises Invalid(LOG_SIZE_INVALID), and NotFound(CHECKPOINT_NOT_FOUND) when the newest
    checkpoint is asked for and there is none."""
    size_from, size_to = request.size_from, request.size_to
    if size_to:
        await _check_size(tx, size_to)
    else:
        size_to = (await get_checkpoint(tx)).size
    if size_from > size_to:
        raise _size_invalid(f"A log of {size_from} events does not shrink to {size_to}.")
    node_at = await read_nodes(tx, merkle.consistency_nodes(size_from, size_to))
    return GetConsistencyProofResponse(
        size_from=size_from,
        size_to=size_to,
        hashes=merkle.consistency_proof(size_from, size_to, node_at),
    )


async def _check_size(tx: Tx, size: int) -> None:
    have = await tx.one(LOG_SIZE)
    if have is None:
        raise LogDamaged("the head of the audit log is missing")
    if size > have:
        raise _size_invalid(f"The log has {have} events, not {size}.")


def _size_invalid(message: str) -> Invalid:
    return Invalid("LOG_SIZE_INVALID", message)
