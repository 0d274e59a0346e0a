"""From an answer to a turn, and from the end of a conversation to the result of its cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from chimera.campaigns.conversations.talk import marks_of
from chimera.campaigns.conversations.turns import ATTACKER, JUDGE, TARGET, Ask, End, Turn
from chimera.campaigns.engine.settlement import Outcome, Result, storable
from chimera.campaigns.plan import Prepared, RunPlan
from chimera.campaigns.scorers import Response
from chimera.campaigns.scorers.llm_judge import read_message, read_reply
from chimera.providers.adapters import ChatReply

log = structlog.get_logger("chimera.drive")

TEXT_CHARS_MAX = 200_000  # of an answer; what is longer is cut and marked


def hear(plan: RunPlan, prepared: Prepared, reply: ChatReply, outcome: Outcome) -> None:
    """Makes the answer a turn of its conversation, and with it either the next question or the
    result of the cell. What is kept is masked; scorers see the answer as it came."""
    ask, talk = prepared.ask, plan.talk
    assert ask is not None and talk is not None
    cell = prepared.cell
    if not talk.holds(cell):
        return  # its lease was lost, and with it the row it is made of: it is only booked
    text = reply.text[:TEXT_CHARS_MAX]

    def kept(said: str) -> str:
        return storable(plan.mask(cell.prompt_no, said))

    said = _read(plan, prepared, ask, text, reply.finish_reason)
    for name in ("message", "verdict_reason"):
        if said.get(name) is not None:
            said[name] = kept(said[name])
    turn = Turn(
        turn_no=ask.turn_no,
        purpose=ask.purpose,
        model_no=prepared.model_no,
        attempt_no=outcome.attempt_no,
        request=kept(ask.request),
        reply=kept(text),
        reply_truncated=len(text) < len(reply.text),
        finish_reason=reply.finish_reason,
        cost=outcome.cost,
        input_tokens=outcome.input_tokens,
        output_tokens=outcome.output_tokens,
        latency_ms=outcome.latency_ms,
        started_at=outcome.started_at,
        **said,
    )
    outcome.turn = turn
    turns = (*prepared.before, turn)
    step = talk.next(cell.cell_no, turns)
    if isinstance(step, End):
        outcome.result = conclude(plan, cell.cell_no, turns, step, outcome.attempt_no)
    else:
        outcome.next_ask = step


def _read(
    plan: RunPlan, prepared: Prepared, ask: Ask, text: str, finish_reason: str
) -> dict[str, Any]:
    """What a turn has beside its text, by who speaks."""
    talk = plan.talk
    assert talk is not None
    if ask.purpose == ATTACKER:
        return {"message": read_message(text, "message")}
    if ask.purpose == JUDGE:
        assert talk.panel is not None and ask.seat is not None
        verdict = read_reply(text, talk.panel.params[plan.seats[ask.seat].path])
        if verdict is None:
            return {}
        return {
            "is_successful": verdict.success,
            "success_score": verdict.score,
            "verdict_reason": verdict.reason,
        }
    response = Response(
        text=text,
        prompt=prepared.request.messages[-1].content,
        original_prompt=prepared.prompt.text,
        variables=prepared.prompt.variables,
        finish_reason=finish_reason,
    )
    try:
        if talk.panel is not None:
            return {"marks": marks_of(talk.panel.marks(response))}
        verdict = plan.judge(response)
    except Exception as error:
        # A scorer that breaks on an answer decides nothing about it; the answer is kept.
        log.error("drive.scorer_crashed", error=type(error).__name__)
        reason = f"the scorer failed: {type(error).__name__}"
        return {"error_kind": "scorer_error", "verdict_reason": reason}
    return {
        "is_successful": verdict.success,
        "success_score": verdict.score,
        "verdict_reason": verdict.reason[:1000],
    }


def conclude(plan: RunPlan, cell_no: int, turns: Sequence[Turn], end: End, attempts: int) -> Result:
    """The result of a conversation that ended so."""
    answers = {turn.turn_no: turn for turn in turns if turn.purpose == TARGET}
    decided = answers.get(end.turn_no) if end.turn_no is not None else None
    cell = plan.cell(cell_no)
    return Result(
        end.state,
        storable(plan.shown_prompt(cell.prompt_no).text),
        decided.request if decided else "",
        response=decided.reply if decided else "",
        response_truncated=decided.reply_truncated if decided else False,
        finish_reason=decided.finish_reason if decided else "",
        is_successful=end.is_successful,
        success_score=end.score,
        verdict_reason=storable(plan.mask(cell.prompt_no, end.reason))[:1000],
        error_kind=end.error_kind,
        attempts=attempts,
        turns=tuple(turns),
        decided_turn_no=end.turn_no,
        ended_by=end.ended_by,
        model_no=decided.model_no if decided else plan.order(cell_no)[0],
    )
