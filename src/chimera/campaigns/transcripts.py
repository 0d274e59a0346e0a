"""Conversations as they were recorded: the turns of a cell, and what one of them was asked."""

from __future__ import annotations

from collections.abc import Sequence

from chimera.campaigns.conversations.turns import Ask
from chimera.campaigns.conversations.turns import Turn as Recorded
from chimera.campaigns.plan import RunPlan
from chimera.db import Tx, sql
from chimera.v1.campaigns_pb2 import Turn

TURNS_BYTES = 1_500_000  # of texts in one message; gRPC clients take 4 MB

LIST_TURNS = sql(
    Turn,
    """
    SELECT t.turn_no, t.purpose, t.request, t.reply, t.reply_truncated, t.finish_reason,
           t.is_successful, t.success_score, t.verdict_reason, t.error_kind, t.attempt_no,
           split_part(p.model_names[t.model_no + 1], '/', 1) AS provider_used,
           substr(p.model_names[t.model_no + 1], strpos(p.model_names[t.model_no + 1], '/') + 1)
               AS model_used,
           t.input_tokens, t.output_tokens, t.cost AS cost_usd, t.latency_ms, t.started_at,
           t.recorded_at
      FROM campaigns.turns t JOIN campaigns.run_plans p ON p.run_id = t.run_id
     WHERE t.run_id = %(run_id)s AND t.cell_no = %(cell_no)s AND t.turn_no = ANY(%(turns)s::int[])
     ORDER BY t.turn_no
    """,
)

# Lengths of stored texts are known without reading them.
FIND_SIZES = sql(
    dict,
    """
    SELECT turn_no, octet_length(request) + octet_length(reply) AS bytes FROM campaigns.turns
     WHERE run_id = %(run_id)s AND cell_no = %(cell_no)s AND turn_no > %(after)s
     ORDER BY turn_no
    """,
)

READ_TURNS_BEFORE = sql(
    dict,
    """
    SELECT turn_no, purpose, model_no, attempt_no, request, reply, reply_truncated, finish_reason,
           message, marks, is_successful, success_score, verdict_reason, error_kind, input_tokens,
           output_tokens, cost, latency_ms, started_at
      FROM campaigns.turns
     WHERE run_id = %(run_id)s AND cell_no = %(cell_no)s AND turn_no < %(before)s
     ORDER BY turn_no
    """,
)


async def list_turns(tx: Tx, run_id: str, cell_no: int, after: int) -> tuple[list[Turn], int]:
    """The turns after one, as many as fit into a message, at least one; and the last of them when
    there are more, else 0."""
    sizes = await tx.all(FIND_SIZES, run_id=run_id, cell_no=cell_no, after=after)
    chosen: list[int] = []
    left = TURNS_BYTES
    for size in sizes:
        if chosen and size["bytes"] > left:
            break
        chosen.append(size["turn_no"])
        left -= size["bytes"]
    if not chosen:
        return [], 0
    turns = await tx.all(LIST_TURNS, run_id=run_id, cell_no=cell_no, turns=chosen)
    return turns, chosen[-1] if len(chosen) < len(sizes) else 0


async def messages_of_turn(
    tx: Tx, plan: RunPlan, run_id: str, cell_no: int, turn_no: int
) -> Sequence[tuple[str, str]]:
    """What was sent for a turn as (role, text), made again from the plan and the turns before it, with secret values
    masked: of a message the value itself, and the last one as it was kept."""
    if not turn_no or plan.talk is None:
        return ()
    rows = await tx.all(READ_TURNS_BEFORE, run_id=run_id, cell_no=cell_no, before=turn_no)
    asked = plan.talk.next(cell_no, [Recorded(**row) for row in rows])
    if not isinstance(asked, Ask):
        return ()
    prompt_no = plan.cell(cell_no).prompt_no
    last = len(asked.messages) - 1
    return [
        (
            message.role,
            asked.request if place == last else plan.mask(prompt_no, message.content),
        )
        for place, message in enumerate(asked.messages)
    ]
