"""What comes next in a conversation: a pure function of the plan, the cell and its turns so far.

Nothing else may decide: whoever takes a cell over from a lost worker sees the same turns and asks
the same next question, so what is recorded is never asked again. That is why turns are kept masked
in memory too: attackers, judges and the history of a target know no more than what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from chimera.campaigns.conversations import attacker
from chimera.campaigns.conversations.strategies import Strategy
from chimera.campaigns.conversations.turns import ATTACKER, JUDGE, TARGET, Ask, End, Turn
from chimera.campaigns.parameters import ParameterError
from chimera.campaigns.scorers import Panel, Response, Verdict
from chimera.campaigns.scorers.llm_judge import AGAIN, fence_of, instruction, question
from chimera.campaigns.scorers.refusal import judge_refusal
from chimera.campaigns.techniques import TechniqueError
from chimera.providers.adapters import Message
from chimera.templates.values import RenderError

if TYPE_CHECKING:
    from chimera.campaigns.plan import Cell, RunPlan

MASK = "[secret]"
UNREADABLE_MAX = 2  # replies of a judge or an attacker, before the cell is given up
BAD_REPLY_CHARS = 2_000  # of an unreadable reply, as its author is shown it again


class Exchange(NamedTuple):
    """An answer of the target, the judges' replies to it, and the verdict once it is complete."""

    answer: Turn
    judges: tuple[Turn, ...]


class Talk:
    """The conversations of a plan. panel: its scorer, when models judge."""

    def __init__(self, plan: RunPlan, strategy: Strategy, panel: Panel | None) -> None:
        self.plan, self.strategy, self.panel = plan, strategy, panel

    def holds(self, cell: Cell) -> bool:
        """Whether what its questions are made of is there."""
        return self.plan.holds(cell.prompt_no)

    def next(self, cell_no: int, turns: Sequence[Turn]) -> Ask | End:
        """The next call, or the verdict. An answer that came last is judged first."""
        try:
            return self._next(self.plan.cell(cell_no), turns)
        except (ParameterError, RenderError) as error:  # its text cannot be made
            return End("failed", "error", str(error), error_kind=error.reason)

    def _next(self, cell: Cell, turns: Sequence[Turn]) -> Ask | End:
        exchanges = exchanges_of(turns)
        if exchanges and turns[-1].purpose != ATTACKER:
            decided = self._judge(cell, turns, exchanges[-1])
            if not isinstance(decided, Verdict):
                return decided
            if decided.success:
                return self._succeeded(exchanges, decided)
        return self._over(turns, exchanges) or self._go_on(cell, turns, exchanges)

    # --- judging --------------------------------------------------------------------------------

    def _given(self, exchange: Exchange) -> dict[str, Verdict]:
        given = {path: Verdict(*mark) for path, mark in (exchange.answer.marks or {}).items()}
        for turn in exchange.judges:
            if turn.is_successful is not None and turn.success_score is not None:
                path = self.plan.seats[self.plan.seat_of(turn.model_no)].path
                given[path] = Verdict(turn.is_successful, turn.success_score, turn.verdict_reason)
        return given

    def verdict_of(self, exchange: Exchange) -> Verdict:
        """Of an exchange that is judged completely."""
        answer = exchange.answer
        if self.panel is None:
            score = answer.success_score or 0.0
            return Verdict(bool(answer.is_successful), score, answer.verdict_reason)
        given = self._given(exchange)
        verdict = self.panel.complete(given)
        if self.panel.asked == ("",):  # the judge alone: its words
            return verdict
        said = [given[path].reason for path in self.panel.asked if path in given]
        return Verdict(verdict.success, verdict.score, "; ".join([verdict.reason, *said]))

    def _judge(self, cell: Cell, turns: Sequence[Turn], exchange: Exchange) -> Verdict | Ask | End:
        answer = exchange.answer
        if answer.error_kind:
            return End(
                "failed",
                "error",
                answer.verdict_reason,
                answer.turn_no,
                error_kind=answer.error_kind,
            )
        open_ = self.panel.open(self._given(exchange)) if self.panel is not None else ()
        if not open_:
            return self.verdict_of(exchange)
        seat = self.plan.seat_by_path(open_[0])
        unreadable = [
            turn for turn in exchange.judges if self.plan.seat_of(turn.model_no) == seat.seat_no
        ]
        if len(unreadable) >= UNREADABLE_MAX:
            return End(
                "failed",
                "error",
                "the judge's reply cannot be read; the answer is kept for another scoring",
                answer.turn_no,
                error_kind="judge_unreadable",
            )
        assert self.panel is not None
        params = self.panel.params[open_[0]]
        # Of the answer, not of the try: what is asked again is asked alike.
        fence = self._fence(cell, answer.turn_no, answer.request, answer.reply)
        shown = self.plan.shown_prompt(cell.prompt_no)
        messages = [
            Message("system", instruction(params, shown.variables, fence)),
            Message("user", question(answer.request, answer.reply, fence)),
        ]
        for turn in unreadable:
            messages.append(Message("assistant", turn.reply[:BAD_REPLY_CHARS]))
            messages.append(Message("user", AGAIN.format(scale=params["scale"])))
        return self._asked(JUDGE, seat.seat_no, messages, turns, cell, params["output_tokens_max"])

    # --- the next question ----------------------------------------------------------------------

    def _go_on(self, cell: Cell, turns: Sequence[Turn], exchanges: Sequence[Exchange]) -> Ask | End:
        if self.strategy.kind == "crescendo":
            return self._crescendo(cell, turns, exchanges)
        if len(exchanges) >= self.strategy.answers_max:
            return self._ended(exchanges, self.strategy.over)
        prompt, shown = self.plan.prompt(cell.prompt_no), self.plan.shown_prompt(cell.prompt_no)
        place = f"/{len(exchanges)}" if exchanges else ""
        if self.strategy.variation is not None:
            text, kept = self._varied(cell, prompt.text, shown.text, len(exchanges) + 1)
            said = self._say(cell, text, kept, place)
            return self._to_target(cell, turns, list(self._context(cell, said[0])), said[1])
        said = self._say(cell, prompt.text, shown.text, "")
        messages = list(self._context(cell, said[0]))
        if exchanges:
            follow_ups = self.plan.script(cell.prompt_no)
            shown_ups = self.plan.shown_script(cell.prompt_no)
            for number, exchange in enumerate(exchanges):
                said = self._say(cell, follow_ups[number], shown_ups[number], f"/{number + 1}")
                _answered(messages, exchange.answer.reply)
                messages.append(Message("user", said[0]))
        return self._to_target(cell, turns, messages, said[1])

    def _crescendo(
        self, cell: Cell, turns: Sequence[Turn], exchanges: Sequence[Exchange]
    ) -> Ask | End:
        refused = {exchange.answer.turn_no: is_refusal(exchange.answer) for exchange in exchanges}
        last = turns[-1] if turns else None
        if last is not None and last.purpose == ATTACKER and last.message is not None:
            messages = list(self._context(cell, None))
            for exchange in exchanges:
                if not refused[exchange.answer.turn_no]:
                    messages.append(Message("user", exchange.answer.request))
                    _answered(messages, exchange.answer.reply)
            sent, kept = self._say(cell, last.message, last.message, f"/{len(exchanges) + 1}")
            return self._to_target(cell, turns, [*messages, Message("user", sent)], kept)
        unreadable = 0
        for turn in reversed(turns):
            if turn.purpose != ATTACKER:
                break
            unreadable += 1
        if unreadable >= UNREADABLE_MAX:
            reason = "the attacker's reply cannot be read"
            return End("failed", "error", reason, error_kind="attacker_unreadable")
        if sum(refused.values()) > self.strategy.backtracks_max:
            return self._ended(exchanges, "backtracks_max")
        if len(exchanges) >= self.strategy.answers_max:
            return self._ended(exchanges, self.strategy.over)
        heard = {
            exchange.answer.turn_no: (
                self.verdict_of(exchange),
                refused[exchange.answer.turn_no],
            )
            for exchange in exchanges
        }
        texts = [exchange.answer.reply for exchange in exchanges]
        messages = list(
            attacker.instruct(
                self.plan.shown_prompt(cell.prompt_no).text,
                turns,
                heard,
                turns_max=self.strategy.answers_bound,
                fence=self._fence(cell, 0, *texts),
            )
        )
        return self._asked(ATTACKER, 0, messages, turns, cell, attacker.OUTPUT_TOKENS_MAX)

    def _context(self, cell: Cell, said: str | None) -> Sequence[Message]:
        """The messages of the prompt, with what is said in place of its subject; without it, only
        what stands before the subject."""
        prompt = self.plan.prompt(cell.prompt_no)
        if said is None:
            return [Message(role, text) for role, text in prompt.messages[: prompt.subject]]
        return [
            Message(role, said if place == prompt.subject else text)
            for place, (role, text) in enumerate(prompt.messages)
        ]

    def _say(self, cell: Cell, text: str, shown: str, place: str) -> tuple[str, str]:
        """What the technique makes of a message, and what is kept of it. Raises TechniqueError."""
        chain = self.plan.chains[cell.technique_no]
        seed = self.plan.seed_at(f"{cell.prompt_no}/{cell.technique_no}/{cell.iteration}{place}")
        sent = chain.apply(text, seed)
        if shown == text:
            return sent, sent
        try:
            return sent, chain.apply(shown, seed)
        except TechniqueError:
            return sent, MASK

    def _varied(self, cell: Cell, text: str, shown: str, number: int) -> tuple[str, str]:
        """The same prompt, misspelt another way each try."""
        assert self.strategy.variation is not None
        seed = self.plan.seed_at(f"try/{cell.cell_no}/{number}")
        varied = self.strategy.variation.apply(text, seed)
        if shown == text:
            return varied, varied
        try:
            return varied, self.strategy.variation.apply(shown, seed)
        except TechniqueError:
            return varied, MASK

    def _to_target(
        self, cell: Cell, turns: Sequence[Turn], messages: list[Message], kept: str
    ) -> Ask:
        return self._asked(
            TARGET,
            None,
            messages,
            turns,
            cell,
            self.plan.generation["output_tokens_max"],
            kept=kept,
        )

    def _asked(
        self,
        purpose: str,
        seat: int | None,
        messages: Sequence[Message],
        turns: Sequence[Turn],
        cell: Cell,
        output_tokens_max: int,
        *,
        kept: str | None = None,
    ) -> Ask:
        turn_no = len(turns) + 1
        place = f"{cell.prompt_no}/{cell.iteration}" + (f"/{turn_no}" if turns else "")
        return Ask(
            turn_no,
            purpose,
            seat,
            tuple(messages),
            messages[-1].content if kept is None else kept,
            output_tokens_max,
            self.plan.seed_at(place) & 0x7FFF_FFFF,
        )

    def _fence(self, cell: Cell, turn_no: int, *texts: str) -> str:
        return fence_of(self.plan.seed_at(f"fence/{cell.cell_no}/{turn_no}"), *texts)

    # --- the end --------------------------------------------------------------------------------

    def _over(self, turns: Sequence[Turn], exchanges: Sequence[Exchange]) -> End | None:
        """Whether a limit of the cell forbids another question."""
        strategy = self.strategy
        if strategy.turns_max and len(exchanges) >= strategy.turns_max:
            return self._ended(exchanges, "turns_max")
        tokens = sum(turn.input_tokens + turn.output_tokens for turn in turns)
        if strategy.tokens_max and tokens >= strategy.tokens_max:
            return self._ended(exchanges, "tokens_max")
        return None

    def refuses(self, ask: Ask, turns: Sequence[Turn], worst_cost: Decimal) -> End | None:
        """Whether the cell's money forbids this call. An answer that was paid for is judged."""
        if not self.strategy.cost_usd_max or ask.purpose == JUDGE:
            return None
        spent = sum((turn.cost for turn in turns), Decimal(0))
        if spent + worst_cost <= Decimal(self.strategy.cost_usd_max):
            return None
        return self._ended(exchanges_of(turns), "cost_usd_max")

    def failed(self, ask: Ask | None, turns: Sequence[Turn], kind: str, reason: str) -> End:
        """A call that brought nothing ends its cell as errored, whatever was said before; an answer
        that only lacks its judgement is kept."""
        exchanges = exchanges_of(turns)
        is_judging = ask is not None and ask.purpose == JUDGE and exchanges
        turn_no = exchanges[-1].answer.turn_no if is_judging else None
        said = f"{ask.purpose}: {reason}" if ask is not None and ask.seat is not None else reason
        return End("failed", "error", said, turn_no, error_kind=kind)

    def _succeeded(self, exchanges: Sequence[Exchange], verdict: Verdict) -> End:
        answer = exchanges[-1].answer
        reason = verdict.reason
        if self.strategy.kind:
            reason = f"answer {len(exchanges)} (turn {answer.turn_no}) succeeded: {reason}"
        ended_by = "success" if self.strategy.kind else "answered"
        return End("succeeded", ended_by, reason, answer.turn_no, True, verdict.score)

    def _ended(self, exchanges: Sequence[Exchange], ended_by: str) -> End:
        if not exchanges:
            reason = f"the cell's limit ({ended_by}) let nothing be asked"
            return End("failed", ended_by, reason, error_kind=ended_by)
        verdicts = [self.verdict_of(exchange) for exchange in exchanges]
        best = max(range(len(verdicts)), key=lambda number: (verdicts[number].score, number))
        answer, verdict = exchanges[best].answer, verdicts[best]
        reason = verdict.reason
        if self.strategy.kind:
            reason = (
                f"none of {len(exchanges)} answers succeeded ({ended_by}); "
                f"the best is turn {answer.turn_no}: {reason}"
            )
        return End("succeeded", ended_by, reason, answer.turn_no, False, verdict.score)


def exchanges_of(turns: Sequence[Turn]) -> list[Exchange]:
    """The answers, each with the judges' replies that follow it."""
    found: list[Exchange] = []
    for turn in turns:
        if turn.purpose == TARGET:
            found.append(Exchange(turn, ()))
        elif turn.purpose == JUDGE and found:
            found[-1] = Exchange(found[-1].answer, (*found[-1].judges, turn))
    return found


def is_refusal(answer: Turn) -> bool:
    response = Response(answer.reply, finish_reason=answer.finish_reason)
    return judge_refusal(response).success


def _answered(messages: list[Message], reply: str) -> None:
    """Adds an answer; what the prompt had put into the target's mouth before it is part of it."""
    if messages and messages[-1].role == "assistant":
        reply = messages.pop().content + reply
    messages.append(Message("assistant", reply))


def marks_of(verdicts: Mapping[str, Verdict]) -> dict[str, tuple[bool, float, str]]:
    """Verdicts of single scorers as they are stored with an answer."""
    return {
        path: (verdict.success, verdict.score, verdict.reason[:200])
        for path, verdict in verdicts.items()
    }
