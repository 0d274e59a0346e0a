"""Results of a run: listed, one by one, and as they are recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from chimera.call import Call
from chimera.campaigns.dataset_rows import bring_rows, keep_rows
from chimera.campaigns.plan import RunPlan
from chimera.campaigns.runs import LIVE, add_waiting, get_run
from chimera.campaigns.skipped import asks_for_skipped, find_skipped, list_skipped
from chimera.campaigns.transcripts import list_turns, messages_of_turn
from chimera.db import Tx, sql
from chimera.faults import NotFound
from chimera.paging import Pages
from chimera.pools import Database
from chimera.row_seals import RowSeals, Seals
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
FLUSHES_A_LOOK = 21  # the first is often one that was told already
# Of prompts and answers in one message. gRPC clients take 4 MB unless told otherwise, and a single
# result may have a few hundred thousand characters.
PAGE_BYTES = 1_500_000

LIST_EXECUTIONS = sql(
    Execution,
    """
    SELECT e.run_id, e.cell_no, e.prompt_no, e.technique_no, e.target_no, e.iteration_number, e.state,
           p.technique_names[e.technique_no + 1] AS technique_applied,
           split_part(u.name, '/', 1) AS provider_used,
           substr(u.name, strpos(u.name, '/') + 1) AS model_used,
           e.original_prompt, e.transformed_prompt, e.response, e.response_truncated,
           e.finish_reason,
           e.is_successful, e.success_score::float8 AS success_score, e.verdict_reason, e.error_kind,
           e.attempts, e.latency_ms, e.input_tokens, e.output_tokens, e.cost AS cost_usd,
           e.started_at, e.recorded_at, e.turn_count, e.decided_turn_no, e.ended_by
      FROM campaigns.executions e JOIN campaigns.run_plans p ON p.run_id = e.run_id
     CROSS JOIN LATERAL (SELECT COALESCE(p.model_names[e.model_no + 1],
                                         p.target_names[e.target_no + 1]) AS name) u
     WHERE e.run_id = %(run_id)s AND e.cell_no = ANY(%(cells)s::bigint[])
     ORDER BY e.cell_no
    """,
)

# Lengths of stored texts are known without reading them.
FIND_SIZES = sql(
    dict,
    """
    SELECT cell_no, octet_length(original_prompt) + octet_length(transformed_prompt)
                    + octet_length(response) AS bytes
      FROM campaigns.executions
     WHERE run_id = %(run_id)s
       AND (%(cells)s::bigint[] IS NULL OR cell_no = ANY(%(cells)s))
       AND (%(after)s::bigint IS NULL OR cell_no > %(after)s)
       AND (%(state)s::text IS NULL OR state = %(state)s)
       AND (%(is_successful)s::boolean IS NULL OR is_successful = %(is_successful)s)
       AND (%(technique_no)s::int IS NULL OR technique_no = %(technique_no)s)
       AND (%(target_no)s::int IS NULL OR target_no = %(target_no)s)
     ORDER BY cell_no LIMIT %(limit)s
    """,
    prepare=False,
)

LIST_ATTEMPTS = sql(
    Attempt,
    """
    SELECT a.attempt_no, a.state, a.error_kind, a.error_message, a.http_status, a.latency_ms,
           a.worst_cost AS worst_cost_usd, a.cost AS cost_usd, a.sent_at, a.settled_at,
           split_part(u.name, '/', 1) AS provider_used,
           substr(u.name, strpos(u.name, '/') + 1) AS model_used, a.purpose
      FROM campaigns.attempts a JOIN campaigns.run_plans p ON p.run_id = a.run_id
     CROSS JOIN LATERAL (SELECT COALESCE(p.model_names[a.model_no + 1],
                                         p.target_names[%(target_no)s::int + 1]) AS name) u
     WHERE a.run_id = %(run_id)s AND a.cell_no = %(cell_no)s
     ORDER BY a.attempt_no
    """,
)

GET_PLAN = sql(dict, "SELECT plan, org_id FROM campaigns.run_plans WHERE run_id = %(run_id)s")

# Rows commit out of order: of a run that is live, only what is older than every open transaction is
# final. A run that is over has no more to come, except what a cancelled one had in flight. The flush
# of the cursor itself is read again, for a long one is told in parts. Integers compare with the
# epoch first, which a restore bumps.
LIST_FLUSHES = sql(
    dict,
    """
    SELECT xid::text AS xid, id, cells FROM campaigns.flushes
     WHERE run_id = %(run_id)s AND (xid, id) >= (%(xid)s::text::xid8, %(id)s::uuid)
       AND (%(is_final)s OR xid < pg_snapshot_xmin(pg_current_snapshot()))
     ORDER BY flushes.xid, id LIMIT %(limit)s
    """,
)

# Of a cancelled run: calls still in flight, or results that are not final yet.
MORE_TO_COME = sql(
    bool,
    """
    SELECT EXISTS (SELECT FROM campaigns.shards WHERE run_id = %(run_id)s AND state = 'open'
                      AND lease_until > clock_timestamp())
        OR EXISTS (SELECT FROM campaigns.flushes
                    WHERE run_id = %(run_id)s AND (xid, id) > (%(xid)s::text::xid8, %(id)s::uuid))
    """,
)

OVER_FOR_GOOD = ("completed", "failed")

IS_RECORDED = sql(
    bool,
    """
    SELECT EXISTS (SELECT FROM campaigns.executions
                    WHERE run_id = %(run_id)s AND cell_no = %(cell_no)s)
    """,
)


async def check_recorded(tx: Tx, run_id: str, cell_no: int) -> None:
    """Raises NotFound(EXECUTION_NOT_FOUND)."""
    if not await tx.one(IS_RECORDED, run_id=run_id, cell_no=cell_no):
        raise NotFound("EXECUTION_NOT_FOUND", "This cell has no result (yet).")


async def list_executions(
    tx: Tx, request: ListExecutionsRequest, *, after: int | None, limit: int
) -> tuple[list[Execution], bool]:
    """By cell number: at most `limit`, fewer when they are large, and whether there are more.
    Raises NotFound(RUN_NOT_FOUND)."""
    run = await get_run(tx, request.run_id)
    if asks_for_skipped(request):
        return await list_skipped(tx, run, request, after=after, limit=limit)

    def chosen(field: str) -> object:
        return getattr(request, field) if request.HasField(field) else None

    rows = await tx.all(
        FIND_SIZES,
        run_id=request.run_id,
        cells=None,
        after=after,
        state=enum_text(request, "state", request.state),
        is_successful=chosen("is_successful"),
        technique_no=chosen("technique_no"),
        target_no=chosen("target_no"),
        limit=limit + 1,
    )
    sizes = [(row["cell_no"], row["bytes"]) for row in rows]
    cells = next(_messages(sizes[:limit]), [])
    return await _executions_of(tx, request.run_id, cells), len(cells) < len(sizes)


def _messages(sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Cells in portions of about PAGE_BYTES, at least one each; sizes: (cell number, bytes)."""
    cells: list[int] = []
    left = PAGE_BYTES
    for cell_no, size in sizes:
        if cells and size > left:
            yield cells
            cells, left = [], PAGE_BYTES
        cells.append(cell_no)
        left -= size
    if cells:
        yield cells


async def _executions_of(tx: Tx, run_id: str, cells: list[int]) -> list[Execution]:
    return await tx.all(LIST_EXECUTIONS, run_id=run_id, cells=cells) if cells else []


@lru_cache(maxsize=8)
def _compiled(body: bytes, seals: Seals) -> RunPlan:
    return RunPlan(body, seals)


async def get_execution(
    tx: Tx, run_id: str, cell_no: int, row_seals: RowSeals, turns_after: int = 0
) -> GetExecutionResponse:
    """One result, its attempts, and the messages as they were sent, made again from the plan with
    secret values masked; of a conversation also its turns after `turns_after`, as many as fit into
    a message."""
    run = await get_run(tx, run_id)
    found = await _executions_of(tx, run_id, [cell_no])
    if not found:
        skipped = await find_skipped(tx, run, cell_no)
        if skipped is None:
            raise NotFound("EXECUTION_NOT_FOUND", "This cell has no result (yet).")
        found = [skipped]
    frozen = await tx.one(GET_PLAN, run_id=run_id)
    assert frozen is not None
    plan = _compiled(frozen["plan"], row_seals.of(frozen["org_id"]))
    turns, more_after = await list_turns(tx, run_id, cell_no, turns_after)
    sent: Sequence[tuple[str, str]] = []
    if plan.talk is not None or found[0].transformed_prompt:
        await bring_rows(tx, plan, [cell_no])
        if plan.talk is not None:
            sent = await messages_of_turn(tx, plan, run_id, cell_no, found[0].decided_turn_no)
        else:
            sent = plan.shown_messages(cell_no)
        keep_rows(plan, ())
    attempts: list[Attempt] = await tx.all(
        LIST_ATTEMPTS, run_id=run_id, cell_no=cell_no, target_no=found[0].target_no
    )
    return GetExecutionResponse(
        execution=found[0],
        attempts=attempts,
        messages=[
            PromptMessage(role=f"MESSAGE_ROLE_{role.upper()}", text=text) for role, text in sent
        ],
        turns=turns,
        more_turns_after=more_after,
    )


class Position(NamedTuple):
    """Where a watch stands: the last flush it told of, and how many of its cells."""

    xid: str = "0"
    flush_id: str = "00000000-0000-0000-0000-000000000000"
    told: int = 0


async def watch_run(
    db: Database, pages: Pages, request: WatchRunRequest, call: Call
) -> AsyncIterator[WatchRunResponse]:
    """Progress, and each result once, until the run is over and everything was told.

    Each look is short: a stream must not hold a transaction open.
    """
    purpose = f"watch/{request.run_id}"
    position = Position()
    if request.cursor:
        position = Position(*pages.open(purpose, request.cursor, reason="CURSOR_INVALID"))
    told: Run | None = None
    while True:
        async with db.look(call) as tx:
            # The run is read first: what was recorded before it was over is then in the flushes.
            run = await add_waiting(tx, await get_run(tx, request.run_id))
            news, is_full = await _news(tx, run, position)
            is_last = not news and not await _more_to_come(tx, run, position)
            portions = await _portions(tx, request, list(news))
        for cells in portions:
            executions = []
            if request.include_executions:
                async with db.look(call) as tx:
                    await tx.name_run(request.run_id)
                    executions = await _executions_of(tx, request.run_id, cells)
            position = news[cells[-1]]
            yield WatchRunResponse(
                cursor=pages.seal(purpose, position), run=run, executions=executions
            )
        if not portions and run != told:
            yield WatchRunResponse(cursor=pages.seal(purpose, position), run=run)
        told = run
        if is_last:
            return
        if not is_full:
            await asyncio.sleep(POLL_S)


async def _news(tx: Tx, run: Run, position: Position) -> tuple[dict[int, Position], bool]:
    """Cells that were not told yet, in order, with the position after each; and whether there may
    be more of them at once."""
    flushes = await tx.all(
        LIST_FLUSHES,
        run_id=run.id,
        xid=position.xid,
        id=position.flush_id,
        is_final=enum_text(run, "state", run.state) in OVER_FOR_GOOD,
        limit=FLUSHES_A_LOOK,
    )
    news: dict[int, Position] = {}
    for flush in flushes:
        key = flush["xid"], flush["id"]
        begin = position.told if key == (position.xid, position.flush_id) else 0
        for number, cell_no in enumerate(flush["cells"][begin:], start=begin + 1):
            news[cell_no] = Position(*key, number)
    return news, len(flushes) == FLUSHES_A_LOOK


async def _portions(tx: Tx, request: WatchRunRequest, cells: list[int]) -> list[list[int]]:
    """Cells in portions that fit into a message, in the given order; all in one when their results
    are not asked for."""
    if not cells or not request.include_executions:
        return [cells] if cells else []
    rows = await tx.all(
        FIND_SIZES,
        run_id=request.run_id,
        cells=cells,
        after=None,
        state=None,
        is_successful=None,
        technique_no=None,
        target_no=None,
        limit=len(cells),
    )
    sizes = {row["cell_no"]: row["bytes"] for row in rows}
    return list(_messages([(cell_no, sizes[cell_no]) for cell_no in cells]))


async def _more_to_come(tx: Tx, run: Run, position: Position) -> bool:
    state = enum_text(run, "state", run.state)
    if state in LIVE:
        return True
    if state in OVER_FOR_GOOD:
        return False
    more = await tx.one(MORE_TO_COME, run_id=run.id, xid=position.xid, id=position.flush_id)
    return bool(more)
