"""Whom newly recorded results are told to: watches, telemetry, the audit log, and the scoring that a
run judges for. Part of the transaction that records them, each result once.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from chimera.audit import merkle, recording
from chimera.audit.leaf import Kind, Severity
from chimera.campaigns.conversations.judgement import Judgement
from chimera.campaigns.evidence.digest import digested
from chimera.db import Nothing, Tx, sql
from chimera.ids import new_id
from chimera.telemetry.events import (
    EXECUTION_RECORDED,
    JUDGEMENT_RECORDED,
    Event,
    Recorded,
    RunFacts,
    execution_events,
)
from chimera.telemetry.operations import accept

if TYPE_CHECKING:
    from chimera.campaigns.engine.settlement import TickContext

FLUSHED = sql(
    Nothing,
    """
    INSERT INTO campaigns.flushes (run_id, id, org_id, cells, root)
    VALUES (%(run_id)s, %(id)s, %(org_id)s, %(cells)s::bigint[], %(root)s)
    """,
)

# The verdicts of a scoring, with those of the run beside them, and its counters.
STORE_VERDICTS = sql(
    Nothing,
    """
    WITH stored AS (
        INSERT INTO campaigns.verdicts
            (scoring_id, cell_no, org_id, is_successful, success_score, reason, recorded_is_successful)
        SELECT %(scoring_id)s, v.cell_no, %(org_id)s, v.success, v.score, v.reason, e.is_successful
          FROM unnest(%(cells)s::bigint[], %(successes)s::boolean[], %(scores)s::real[],
                      %(reasons)s::text[]) AS v (cell_no, success, score, reason)
          LEFT JOIN campaigns.executions e ON e.run_id = %(judged)s AND e.cell_no = v.cell_no
         ORDER BY v.cell_no
        RETURNING is_successful, recorded_is_successful
    ), c AS (
        SELECT count(*) AS answers, count(is_successful) AS scored,
               count(*) FILTER (WHERE is_successful) AS successes,
               count(*) FILTER (WHERE is_successful <> recorded_is_successful) AS flipped
          FROM stored
    )
    UPDATE campaigns.scorings s
       SET answers = s.answers + c.answers, scored = s.scored + c.scored,
           successes = s.successes + c.successes, errored = s.errored + c.answers - c.scored,
           flipped = s.flipped + c.flipped
      FROM c WHERE s.id = %(scoring_id)s
    """,
)


async def tell(tx: Tx, context: TickContext, fresh: Sequence[dict[str, Any]]) -> None:
    """The flush row that watches tail, the telemetry batch, the audit event over the rows, and the
    verdicts of a scoring. fresh: rows of settlement.settle that were really inserted."""
    rows = [_whole(row) for row in fresh]
    cells = [row["cell_no"] for row in rows]
    root = merkle.root(merkle.leaf_hash(digest_bytes(row)) for row in rows)
    flush_id = new_id()
    await tx.run(
        FLUSHED, run_id=context.run_id, id=flush_id, org_id=context.org_id, cells=cells, root=root
    )
    await accept(tx, "campaigns", context.org_id, _telemetry(context, rows))
    recording.record(
        tx,
        "run.record",
        "run",
        context.run_id,
        new={"flush_id": flush_id, "cells": len(cells), "merkle_root": root.hex()},
        kind=Kind.DATA,
        severity=Severity.DEBUG,
    )
    if context.scoring_id:
        await _store_verdicts(tx, context, rows)


async def _store_verdicts(tx: Tx, context: TickContext, rows: Sequence[dict[str, Any]]) -> None:
    talk = context.plan.talk
    assert isinstance(talk, Judgement)  # of a run with a scoring
    await tx.run(
        STORE_VERDICTS,
        scoring_id=context.scoring_id,
        org_id=context.org_id,
        judged=talk.run_id,
        cells=[row["cell_no"] for row in rows],
        successes=[row["is_successful"] for row in rows],
        scores=[row["success_score"] for row in rows],
        reasons=[row["verdict_reason"] for row in rows],
    )


def _telemetry(context: TickContext, rows: list[dict[str, Any]]) -> list[Event]:
    plan = context.plan
    facts = RunFacts(context.run_id, context.campaign_id, context.user_id)
    recorded = [
        Recorded(
            cell_no=row["cell_no"],
            started_at=row["started_at"],
            state=row["state"],
            is_successful=row["is_successful"],
            score=row["success_score"],
            technique=plan.technique_names[row["technique_no"]],
            provider=plan.models[row["model_no"]].provider,
            model=plan.models[row["model_no"]].model,
            error_kind=row["final_error"],
            latency_ms=row["latency_ms"],
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
            cost_usd=Decimal(row["cost"]),
        )
        for row in rows
    ]
    # A judged answer is no execution: rates over telemetry count it apart.
    return execution_events(
        facts, recorded, JUDGEMENT_RECORDED if context.scoring_id else EXECUTION_RECORDED
    )


def digest_bytes(row: dict[str, Any]) -> bytes:
    """The bytes of evidence.digest, by a faster encoder."""
    return orjson.dumps(digested(row))


def _whole(row: dict[str, Any]) -> dict[str, Any]:
    """A row as its execution is stored: of a conversation, with the sums over its turns."""
    if "cell_cost" not in row:
        return row
    return row | {
        name.removeprefix("cell_"): value
        for name, value in row.items()
        if name.startswith("cell_") and name != "cell_no" and value is not None
    }
