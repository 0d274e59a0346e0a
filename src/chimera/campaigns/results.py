"""Results of a run: listed, one by one, and as they are recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import lru_cache

from chimera.call import Call
from chimera.campaigns.plan import RunPlan
from chimera.campaigns.runs import LIVE, get_run
from chimera.db import Database, Tx, sql
from chimera.faults import NotFound
from chimera.paging import Pages
from chimera.rows import enum_text
from chimera.v1.campaigns_pb2 import (
    Attempt,
    Execution,
    GetExecutionResponse,
    ListExecutionsRequest,
    Run,
    WatchRunRequest,
    WatchRunResponse,
)
from chimera.v1.templates_pb2 import PromptMessage

POLL_S = 0.25
FLUSHES_A_PAGE = 20

LIST_EXECUTIONS = sql(
    Execution,
    """
    SELECT e.run_id, e.cell_no, e.prompt_no, e.technique_no, e.target_no, e.iteration_number, e.state,
           p.technique_names[e.technique_no + 1] AS technique_applied,
           split_part(p.target_names[e.target_no + 1], '/', 1) AS provider_used,
           substr(p.target_names[e.target_no + 1], strpos(p.target_names[e.target_no + 1], '/') + 1) AS model_used,
           e.original_prompt, e.transformed_prompt, e.response, e.response_truncated,
           e.is_successful, e.success_score::float8 AS success_score, e.verdict_reason, e.error_kind,
           e.attempts, e.latency_ms, e.input_tokens, e.output_tokens, e.cost AS cost_usd,
           e.started_at, e.recorded_at
      FROM campaigns.executions e JOIN campaigns.run_plans p ON p.run_id = e.run_id
     WHERE e.run_id = %(run_id)s
       AND (%(after)s::bigint IS NULL OR e.cell_no > %(after)s)
       AND (%(cells)s::bigint[] IS NULL OR e.cell_no = ANY(%(cells)s))
       AND (%(state)s::text IS NULL OR e.state = %(state)s)
       AND (%(is_successful)s::boolean IS NULL OR e.is_successful = %(is_successful)s)
       AND (%(technique_no)s::int IS NULL OR e.technique_no = %(technique_no)s)
       AND (%(target_no)s::int IS NULL OR e.target_no = %(target_no)s)
     ORDER BY e.cell_no LIMIT %(limit)s
    """,
    prepare=False,
)

LIST_ATTEMPTS = sql(
    Attempt,
    """
    SELECT attempt_no, state, error_kind, error_message, http_status, latency_ms,
           worst_cost AS worst_cost_usd, cost AS cost_usd, sent_at, settled_at
      FROM campaigns.attempts WHERE run_id = %(run_id)s AND cell_no = %(cell_no)s
     ORDER BY attempt_no
    """,
)

GET_PLAN = sql(bytes, "SELECT plan FROM campaigns.run_plans WHERE run_id = %(run_id)s")

# Rows commit out of order: only what is older than every open transaction is final. Integers
# compare with the epoch first, which a restore bumps.
NEW_FLUSHES = sql(
    dict,
    """
    SELECT xid::text AS xid, id, cells FROM campaigns.flushes
     WHERE run_id = %(run_id)s AND (xid, id) > (%(xid)s::text::xid8, %(id)s::uuid)
       AND xid < pg_snapshot_xmin(pg_current_snapshot())
     ORDER BY xid, id LIMIT %(limit)s
    """,
)

BEGINNING = ["0", "00000000-0000-0000-0000-000000000000"]


async def list_executions(
    tx: Tx, request: ListExecutionsRequest, *, after: int | None, limit: int
) -> list[Execution]:
    """By cell number. Raises NotFound(RUN_NOT_FOUND)."""
    await get_run(tx, request.run_id)

    def chosen(field: str) -> object:
        return getattr(request, field) if request.HasField(field) else None

    return await tx.all(
        LIST_EXECUTIONS,
        run_id=request.run_id,
        after=after,
        cells=None,
        state=enum_text(request, "state", request.state),
        is_successful=chosen("is_successful"),
        technique_no=chosen("technique_no"),
        target_no=chosen("target_no"),
        limit=limit,
    )


async def _executions_of(tx: Tx, run_id: str, cells: list[int]) -> list[Execution]:
    return await tx.all(
        LIST_EXECUTIONS,
        run_id=run_id,
        after=None,
        cells=cells,
        state=None,
        is_successful=None,
        technique_no=None,
        target_no=None,
        limit=len(cells),
    )


@lru_cache(maxsize=8)
def _compiled(body: bytes) -> RunPlan:
    return RunPlan(body)


async def get_execution(tx: Tx, run_id: str, cell_no: int) -> GetExecutionResponse:
    """One result, its attempts, and the messages as they were sent, made again from the plan."""
    await get_run(tx, run_id)
    found = await _executions_of(tx, run_id, [cell_no])
    if not found:
        raise NotFound("EXECUTION_NOT_FOUND", "This cell has no result (yet).")
    body = await tx.one(GET_PLAN, run_id=run_id)
    assert body is not None
    plan = _compiled(body)
    sent = plan.prepare(cell_no).request.messages if found[0].transformed_prompt else ()
    attempts: list[Attempt] = await tx.all(LIST_ATTEMPTS, run_id=run_id, cell_no=cell_no)
    return GetExecutionResponse(
        execution=found[0],
        attempts=attempts,
        messages=[
            PromptMessage(
                role=f"MESSAGE_ROLE_{message.role.upper()}",
                text=message.content,
            )
            for message in sent
        ],
    )


async def watch_run(
    db: Database, pages: Pages, request: WatchRunRequest, call: Call
) -> AsyncIterator[WatchRunResponse]:
    """Progress, and each result once, until the run is over and everything was told.

    The cursor is the last flush that was told. Each look is a transaction of its own: a stream
    must not hold one open.
    """
    purpose = f"watch/{request.run_id}"
    position = BEGINNING
    if request.cursor:
        position = pages.open(purpose, request.cursor, reason="CURSOR_INVALID")
    told: Run | None = None
    while True:
        async with db.begin(call) as tx:
            # The run is read first: what was recorded before it was over is then in the flushes.
            run = await get_run(tx, request.run_id)
            flushes = await tx.all(
                NEW_FLUSHES,
                run_id=request.run_id,
                xid=position[0],
                id=position[1],
                limit=FLUSHES_A_PAGE,
            )
            cells = [cell for flush in flushes for cell in flush["cells"]]
            executions = (
                await _executions_of(tx, request.run_id, cells)
                if cells and request.include_executions
                else []
            )
        if flushes:
            position = [flushes[-1]["xid"], flushes[-1]["id"]]
        if flushes or run != told:
            yield WatchRunResponse(
                cursor=pages.seal(purpose, position), run=run, executions=executions
            )
            told = run
        over = enum_text(run, "state", run.state) not in LIVE
        if over and not flushes:
            return
        if len(flushes) < FLUSHES_A_PAGE:
            await asyncio.sleep(POLL_S)
