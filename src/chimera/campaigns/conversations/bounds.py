"""How long a conversation can become, and what it can cost at most.

The longest one: no answer succeeds, every answer and every message of an attacker is as long as it
may be, each judge is asked once. Answers that are quoted back count as many tokens as they may have;
tries of best-of-n are as long as the first. Calls that are tried again come on top, as for any cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from chimera.campaigns.conversations.turns import Ask
from chimera.providers.pricing import MESSAGE_OVERHEAD_TOKENS, upper_bound_tokens, worst_cost

if TYPE_CHECKING:
    from chimera.campaigns.plan import RunPlan

ATTACKER_INSTRUCTION_TOKENS = (
    2_000  # of bytes: what the attacker is told beside objective and answers
)
REPORT_TOKENS = 300  # of bytes: what stands around an answer that is shown to somebody
JUDGE_INSTRUCTION_TOKENS = 1_200


class Calls(NamedTuple):
    """So many alike calls. seat: None for the cell's target."""

    seat: int | None
    input_tokens: int
    output_tokens: int
    times: int = 1


def longest(
    plan: RunPlan,
    cell_no: int,
    tokens_of: Callable[[str], int] = upper_bound_tokens,
    answer_of: Callable[[int | None, int], int] = lambda _seat, most: most,
) -> Iterator[Calls]:
    """The calls of the longest conversation. tokens_of: a text; answer_of: a reply of a seat (None:
    the target) that may have so many tokens."""
    talk = plan.talk
    assert talk is not None
    cell = plan.cell(cell_no)
    strategy = talk.strategy
    most = int(plan.generation["output_tokens_max"])
    answer = answer_of(None, most)
    quoted = answer + MESSAGE_OVERHEAD_TOKENS
    prompt = plan.prompt(cell.prompt_no)
    count = strategy.answers_bound
    if strategy.kind == "crescendo":
        said = answer_of(0, strategy.attacker_tokens_max)
        told = ATTACKER_INSTRUCTION_TOKENS + tokens_of(prompt.text)
        context = sum(tokens_of(text) for _role, text in prompt.messages[: prompt.subject])
        for number in range(count):
            past = number * (said + quoted)
            yield Calls(0, told + past + number * REPORT_TOKENS, said)
            yield Calls(None, context + past + said + MESSAGE_OVERHEAD_TOKENS, answer)
        yield from _judging(plan, said, answer, count, tokens_of, answer_of)
        return
    first = talk.next(cell_no, ())
    if not isinstance(first, Ask):
        return  # its text cannot be made: it is recorded as failed and never sent
    size = sum(tokens_of(message.content) for message in first.messages)
    if strategy.kind != "script":
        yield Calls(None, size, answer, count)
        yield from _judging(plan, tokens_of(first.request), answer, count, tokens_of, answer_of)
        return
    follow_ups = [tokens_of(text) for text in plan.script(cell.prompt_no)]
    asked = tokens_of(first.request)
    for number in range(count):
        if number:
            asked = follow_ups[number - 1]
            size += quoted + asked
        yield Calls(None, size, answer)
        yield from _judging(plan, asked, answer, 1, tokens_of, answer_of)


def _judging(
    plan: RunPlan,
    asked: int,
    answer: int,
    times: int,
    tokens_of: Callable[[str], int],
    answer_of: Callable[[int | None, int], int],
) -> Iterator[Calls]:
    assert plan.talk is not None
    panel = plan.talk.panel
    if panel is None:
        return
    for path in panel.asked:
        seat, params = plan.seat_by_path(path), panel.params[path]
        told = JUDGE_INSTRUCTION_TOKENS + REPORT_TOKENS + tokens_of(params["rubric"])
        said = answer_of(seat.seat_no, params["output_tokens_max"])
        yield Calls(seat.seat_no, told + asked + answer, said, times)


def worst_cost_of_cell(plan: RunPlan, cell_no: int) -> Decimal:
    """What a cell can cost when each call takes one attempt, of a route all its models in turn."""
    total = Decimal(0)
    for calls in longest(plan, cell_no):
        for model_no in plan.order(cell_no, calls.seat):
            prices = plan.models[model_no].prices
            total += calls.times * worst_cost(calls.input_tokens, calls.output_tokens, prices)
    return total
