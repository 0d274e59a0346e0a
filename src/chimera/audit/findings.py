"""Findings of security monitoring, for the people who look at them."""

from __future__ import annotations

from chimera.audit.leaf import Kind
from chimera.audit.recording import record
from chimera.db import Tx, sql
from chimera.faults import NotFound, NotReady
from chimera.paging import Pages
from chimera.v1.audit_pb2 import Finding, ListFindingsRequest

LIST_FINDINGS = sql(
    Finding,
    """
    SELECT id, rule, severity, subject, summary, events, event_id, log_index, state, note,
           acknowledged_by, acknowledged_at, occurred_at
      FROM audit.findings
     WHERE (org_id IS NULL) = %(of_the_installation)s
       AND (%(after)s::uuid IS NULL OR id < %(after)s)
       AND (%(state)s::text IS NULL OR state = %(state)s)
       AND (%(rule)s::text IS NULL OR rule = %(rule)s)
     ORDER BY id DESC LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_findings(
    tx: Tx, pages: Pages, request: ListFindingsRequest
) -> tuple[list[Finding], str]:
    """A page, newest first, and the token of the next one."""
    size, after = pages.page(request)
    rows = await tx.all(
        LIST_FINDINGS,
        of_the_installation=request.of_the_installation,
        after=after[0] if after else None,
        state=request.state or None,
        rule=request.rule or None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "id")


ACKNOWLEDGE_FINDING = sql(
    Finding,
    """
    UPDATE audit.findings
       SET state = 'acknowledged', note = %(note)s, acknowledged_by = %(user_id)s,
           acknowledged_at = now()
     WHERE id = %(id)s AND state = 'open'
    RETURNING id, rule, severity, subject, summary, events, event_id, log_index, state, note,
              acknowledged_by, acknowledged_at, occurred_at
    """,
)
FIND_FINDING = sql(bool, "SELECT true FROM audit.findings WHERE id = %(id)s")


async def acknowledge_finding(tx: Tx, finding_id: str, note: str) -> Finding:
    """Raises NotFound(FINDING_NOT_FOUND), NotReady(FINDING_ALREADY_ACKNOWLEDGED)."""
    finding = await tx.one(
        ACKNOWLEDGE_FINDING, id=finding_id, note=note, user_id=tx.call.caller.user_id
    )
    if finding is None:
        if await tx.one(FIND_FINDING, id=finding_id):
            raise NotReady("FINDING_ALREADY_ACKNOWLEDGED", "Somebody has acknowledged it before.")
        raise NotFound("FINDING_NOT_FOUND", f"There is no finding {finding_id}.")
    record(
        tx, "finding.acknowledge", "finding", finding_id,
        old={"state": "open"}, new={"state": "acknowledged", "note": note}, kind=Kind.SECURITY,
    )  # fmt: skip
    return finding
