"""Limits of a run beside its money: what may still begin, and which limit stops it.

They stand in the run's money row, which every tick that records or sends holds until its COMMIT; so
what is decided here is decided one tick at a time, over all workers. A cell begins with its first
attempt, or when it is recorded without one. A call holds the tokens it could take until it has come
back, and what was lost counts with all of them.

A run that was stopped sends nothing more. Whoever holds a shard of it records what is in flight and
closes the shard; the last one ends the run (completion.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from chimera.audit import recording
from chimera.campaigns.engine.settlement import Outcome, TickContext
from chimera.campaigns.statistics import wilson_interval
from chimera.db import Tx, sql

if TYPE_CHECKING:
    from chimera.campaigns.engine.tick import Send

STOP_RUN = sql(
    bool,
    """
    UPDATE campaigns.run_money SET stop_reason = %(reason)s
     WHERE run_id = %(run_id)s AND stop_reason IS NULL
    RETURNING true
    """,
)


async def stop_run(tx: Tx, context: TickContext, reason: str) -> None:
    """Writes down which limit stops the run; the first one stands."""
    if await tx.one(STOP_RUN, run_id=context.run_id, reason=reason):
        recording.record(tx, "run.stop", "run", context.run_id, new={"stop_reason": reason})


def reached(standing: dict[str, Any], cells_total: int) -> str:
    """The limit that what was recorded has reached, "" for none. standing: the money row's limits
    and counters. A run whose last cell is recorded ends without one."""
    recorded, failed = standing["cells_recorded"], standing["cells_failed"]
    if recorded >= cells_total:
        return ""
    if standing["executions_max"] is not None and recorded >= standing["executions_max"]:
        return "executions"
    share_max = standing["error_share_max"]
    has_enough = recorded >= standing["error_cells_min"]
    if share_max is not None and has_enough and failed > share_max * recorded:
        return "error_share"
    width_max = standing["interval_width_max"]
    if width_max is not None and recorded > failed:
        low, high = wilson_interval(standing["cells_successful"], recorded - failed)
        if high - low <= width_max:
            return "interval"
    return ""


def fitting(sends: Sequence[Send], standing: dict[str, Any]) -> tuple[list[Send], bool]:
    """Of `sends`, in order, what fits into the tokens and cells that are left; and whether it was
    the tokens that let nothing pass."""
    tokens_left, cells_left = standing["tokens_left"], standing["cells_left"]
    if tokens_left is None and cells_left is None:
        return list(sends), False
    fit: list[Send] = []
    for send in sends:
        begins = send.attempt_no == 1
        if begins and cells_left is not None and cells_left <= 0:
            continue
        if tokens_left is not None:
            tokens_left -= send.prepared.worst_tokens
            if tokens_left < 0:
                return fit, not fit
        if begins and cells_left is not None:
            cells_left -= 1
        fit.append(send)
    return fit, False


def beginning(
    outcomes: Sequence[Outcome], cells_left: int | None
) -> tuple[list[Outcome], list[Outcome]]:
    """Outcomes to settle, and those of cells that were never sent and may not begin any more."""
    if cells_left is None:
        return list(outcomes), []
    settled: list[Outcome] = []
    held_back: list[Outcome] = []
    for outcome in outcomes:
        if not outcome.begins:
            settled.append(outcome)
        elif cells_left > 0:
            cells_left -= 1
            settled.append(outcome)
        else:
            held_back.append(outcome)
    return settled, held_back
