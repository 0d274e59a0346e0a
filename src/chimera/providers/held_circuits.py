"""Circuits as people see them, and hold them open or closed. How they move: circuits.py."""

from __future__ import annotations

from collections.abc import Sequence

from chimera.audit.leaf import Severity
from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.paging import Pages
from chimera.providers.models import get_model
from chimera.rows import enum_text
from chimera.v1.health_pb2 import (
    Circuit,
    ForceCircuitRequest,
    ForceInstallationCircuitRequest,
    ListCircuitsRequest,
)

SELECT_CIRCUIT = """
    SELECT m.id AS model_id, m.name AS model, p.id AS provider_id, p.name AS provider,
           COALESCE(c.state, 'closed') AS state, COALESCE(c.cause, '') AS cause, c.opened_at,
           CASE c.state WHEN 'open' THEN c.open_until WHEN 'half_open' THEN c.probe_until END AS retry_at,
           COALESCE(c.opened_count, 0) AS opened_count,
           COALESCE(c.consecutive_failures, 0) AS consecutive_failures,
           NULLIF(c.forced, '') AS force, c.forced_by,
           COALESCE(c.forced_reason, '') AS forced_reason,
           GREATEST(c.changed_at, h.changed_at) AS changed_at,
           NULLIF(h.forced, '') AS installation_force,
           COALESCE(h.forced_reason, '') AS installation_forced_reason
      FROM providers.models m
      JOIN providers.providers p ON p.id = m.provider_id
      LEFT JOIN providers.circuits c ON c.org_id = %(org_id)s::uuid AND c.model_id = m.id
      LEFT JOIN providers.circuit_holds h ON h.model_id = m.id
     WHERE (m.org_id IS NULL OR m.org_id = %(org_id)s::uuid) AND m.deleted_at IS NULL
"""

GET_CIRCUIT = sql(Circuit, SELECT_CIRCUIT + "AND m.id = %(model_id)s::uuid")


async def get_circuit(tx: Tx, model_id: str) -> Circuit:
    """Raises NotFound(MODEL_NOT_FOUND)."""
    circuit = await tx.one(GET_CIRCUIT, org_id=tx.call.caller.org_id, model_id=model_id)
    if circuit is None:
        await get_model(tx, model_id)
        raise LookupError(f"model {model_id} has no provider")
    return circuit


LIST_CIRCUITS = sql(
    Circuit,
    SELECT_CIRCUIT
    + """
       AND (c.model_id IS NOT NULL OR h.forced <> '')
       AND (%(state)s::text IS NULL OR COALESCE(c.state, 'closed') = %(state)s)
       AND (%(after_id)s::uuid IS NULL OR m.id > %(after_id)s)
     ORDER BY m.id LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_circuits(
    tx: Tx, pages: Pages, request: ListCircuitsRequest
) -> tuple[list[Circuit], str]:
    """A page by model id, and the token of the next."""
    size, after = pages.page(request)
    rows = await tx.all(
        LIST_CIRCUITS,
        org_id=tx.call.caller.org_id,
        state=enum_text(request, "state", request.state),
        after_id=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "model_id")


LIST_SHUT = sql(
    Circuit,
    SELECT_CIRCUIT
    + """
       AND m.id = ANY(%(models)s::uuid[])
       AND (providers.held(c.forced, h.forced) = 'open'
            OR (providers.held(c.forced, h.forced) = '' AND c.state <> 'closed'))
     ORDER BY m.id
    """,
)


async def list_shut(tx: Tx, models: Sequence[str]) -> list[Circuit]:
    """Of these models, the circuits that let nothing pass but a probe."""
    if not models:
        return []
    rows: list[Circuit] = await tx.all(LIST_SHUT, org_id=tx.call.caller.org_id, models=list(models))
    return rows


FORCE_CIRCUIT = sql(
    Nothing,
    """
    INSERT INTO providers.circuits AS c
        (org_id, model_id, state, forced, forced_by, forced_reason)
    VALUES (%(org_id)s, %(model_id)s, 'closed', %(forced)s, %(by)s, %(reason)s)
    ON CONFLICT (org_id, model_id) DO UPDATE
       SET forced = EXCLUDED.forced, forced_by = EXCLUDED.forced_by,
           forced_reason = EXCLUDED.forced_reason,
           -- From here on the calls decide anew.
           state = 'closed', cause = '', consecutive_failures = 0, openings = 0, opened_at = NULL,
           open_until = NULL, probe_until = NULL, probe_no = c.probe_no + 1,
           changed_at = clock_timestamp(), xid = pg_current_xact_id()
    """,
)


async def force_circuit(tx: Tx, request: ForceCircuitRequest) -> Circuit:
    """Raises NotFound(MODEL_NOT_FOUND)."""
    old = await get_circuit(tx, request.model_id)
    forced = enum_text(request, "force", request.force) or ""
    await tx.run(
        FORCE_CIRCUIT,
        org_id=tx.call.caller.org_id,
        model_id=request.model_id,
        forced=forced,
        by=tx.call.caller.user_id if forced else None,
        reason=request.reason if forced else "",
    )
    record(
        tx,
        "circuit.force",
        "circuit",
        request.model_id,
        old={
            "state": enum_text(old, "state", old.state),
            "force": enum_text(old, "force", old.force) or "",
        },
        new={"force": forced},
        reason=request.reason,
    )
    return await get_circuit(tx, request.model_id)


FORCE_INSTALLATION_CIRCUIT = sql(
    Nothing,
    """
    INSERT INTO providers.circuit_holds (model_id, forced, forced_by, forced_reason)
    VALUES (%(model_id)s, %(forced)s, %(by)s, %(reason)s)
    ON CONFLICT (model_id) DO UPDATE
       SET forced = EXCLUDED.forced, forced_by = EXCLUDED.forced_by,
           forced_reason = EXCLUDED.forced_reason, changed_at = clock_timestamp(),
           xid = pg_current_xact_id()
    """,
)


async def force_installation_circuit(tx: Tx, request: ForceInstallationCircuitRequest) -> Circuit:
    """For all organisations. What each has decided itself stays, and open wins.

    Raises NotFound(MODEL_NOT_FOUND).
    """
    old = await get_circuit(tx, request.model_id)
    forced = enum_text(request, "force", request.force) or ""
    await tx.run(
        FORCE_INSTALLATION_CIRCUIT,
        model_id=request.model_id,
        forced=forced,
        by=tx.call.caller.user_id,
        reason=request.reason if forced else "",
    )
    record(
        tx,
        "circuit.force_installation",
        "circuit",
        request.model_id,
        old={
            "installation_force": enum_text(old, "installation_force", old.installation_force) or ""
        },
        new={"installation_force": forced},
        reason=request.reason,
        severity=Severity.WARNING,
    )
    return await get_circuit(tx, request.model_id)
