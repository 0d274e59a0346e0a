"""One call: from the wire to a scored answer or a typed error. It decides nothing about retries."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import structlog

from chimera import metrics
from chimera.campaigns.engine.ending import TEXT_CHARS_MAX, hear
from chimera.campaigns.engine.lanes import Lane
from chimera.campaigns.engine.settlement import Outcome, Result
from chimera.campaigns.engine.tick import Send
from chimera.campaigns.plan import RunPlan
from chimera.campaigns.scorers import Judge, Response
from chimera.providers.adapters import ChatReply, ProviderError
from chimera.providers.pricing import cost

log = structlog.get_logger("chimera.drive")

TOKENS_MAX = 50_000_000  # of one call, beyond which a provider's count is not believed


async def make_call(
    lane: Lane, send: Send, run_id: str, plan: RunPlan
) -> tuple[Outcome, ProviderError | None]:
    """Sends the attempt once. The outcome has a result (or a turn) when there was an answer, else
    the error says why not; what may have cost money is booked at its worst."""
    cell_no = send.prepared.cell.cell_no
    outcome = Outcome(cell_no, send.attempt_no, datetime.now(UTC))
    outcome.worst_cost, outcome.model_no = send.prepared.worst_cost, send.prepared.model_no
    outcome.fence = send.fence
    outcome.worst_tokens = send.prepared.worst_tokens
    clock = time.perf_counter()
    try:
        if lane.adapter is None:
            raise ProviderError("bad_key", "the key cannot be opened")
        reply = await lane.adapter.chat(
            send.prepared.request,
            timeout_s=lane.model.timeout_s,
            headers={"x-chimera-cell": f"{run_id}:{cell_no}:{send.attempt_no}"},
        )
        outcome.latency_ms = reply.latency_ms
        _book(lane, send, outcome, reply)
        if send.prepared.ask is None:
            outcome.result = _scored(send, reply, plan.judge, run_id)
        else:
            hear(plan, send.prepared, reply, outcome)
    except ProviderError as error:
        failure = error
    except Exception as crash:
        # Our own mistake. The cell must not hang on it: its call may have cost money, and the same
        # request would crash again.
        log.error("drive.call_crashed", run_id=run_id, cell_no=cell_no, exc_info=crash)
        message = f"internal: {type(crash).__name__}"
        failure = ProviderError("bad_response", message, may_have_cost=True)
    else:
        metrics.ATTEMPTS.labels("answered").inc()
        return outcome, None
    metrics.ATTEMPTS.labels(failure.kind).inc()
    outcome.latency_ms = int((time.perf_counter() - clock) * 1000)
    outcome.error_kind, outcome.error_message = failure.kind, str(failure)[:500]
    outcome.http_status = failure.http_status
    if failure.may_have_cost:
        outcome.cost, outcome.tokens = send.prepared.worst_cost, send.prepared.worst_tokens
        if failure.partial is not None:  # a stream that broke off may have stated its usage
            _book(lane, send, outcome, failure.partial)
    return outcome, failure


def _book(lane: Lane, send: Send, outcome: Outcome, reply: ChatReply) -> None:
    usage = reply.usage
    if usage is None or usage.input_tokens + usage.output_tokens > TOKENS_MAX:
        # The provider did not say, or says what cannot be: the worst case stands.
        outcome.cost, outcome.tokens = send.prepared.worst_cost, send.prepared.worst_tokens
    else:
        outcome.cost = cost(usage, lane.model.prices)
        outcome.tokens = usage.input_tokens + usage.output_tokens
        outcome.input_tokens, outcome.output_tokens = usage.input_tokens, usage.output_tokens


def _scored(send: Send, reply: ChatReply, judge: Judge, run_id: str) -> Result:
    prepared = send.prepared
    text = reply.text[:TEXT_CHARS_MAX]
    result = Result(
        "succeeded",
        prepared.prompt.text,
        prepared.transformed,
        response=text,
        response_truncated=len(text) < len(reply.text),
        finish_reason=reply.finish_reason,
        attempts=send.attempt_no,
    )
    response = Response(
        text=text,
        prompt=prepared.transformed,
        original_prompt=prepared.prompt.text,
        variables=prepared.prompt.variables,
        finish_reason=reply.finish_reason,
    )
    try:
        verdict = judge(response)
    except Exception as error:
        # A scorer that breaks on an answer decides nothing about it; the answer is kept.
        log.error("drive.scorer_crashed", run_id=run_id, error=type(error).__name__)
        result.state, result.error_kind = "failed", "scorer_error"
        result.verdict_reason = f"the scorer failed: {type(error).__name__}"
        return result
    result.is_successful = verdict.success
    result.success_score = verdict.score
    result.verdict_reason = verdict.reason[:1000]
    return result
