"""Answers that another run stored, judged by models: a conversation in which only judges are asked.

What comes next is a function of the plan, the stored answer and the recorded turns, as everywhere
(talk.py); a stored answer never changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from chimera.campaigns.conversations.strategies import Strategy
from chimera.campaigns.conversations.talk import Exchange, Talk
from chimera.campaigns.conversations.turns import Ask, End, Turn
from chimera.campaigns.scorers import Panel, Verdict

if TYPE_CHECKING:
    from chimera.campaigns.plan import Cell, RunPlan

# Of a stored answer: it is no turn of the run that judges it.
STORED = 0


class Judgement(Talk):
    """run_id: whose answers they are. answers: those that were brought in (stored_answers.py), by
    cell number, each as a turn with the verdicts of the scorers that need nobody."""

    panel: Panel

    def __init__(self, plan: RunPlan, panel: Panel, run_id: str) -> None:
        super().__init__(plan, Strategy(), panel)
        self.run_id = run_id
        self.answers: dict[int, Turn] = {}

    def holds(self, cell: Cell) -> bool:
        return cell.cell_no in self.answers and super().holds(cell)

    def failed(self, ask: Ask | None, turns: Sequence[Turn], kind: str, reason: str) -> End:
        said = f"{ask.purpose}: {reason}" if ask is not None else reason
        return End("failed", "error", said, error_kind=kind)

    def _next(self, cell: Cell, turns: Sequence[Turn]) -> Ask | End:
        answer = self.answers.get(cell.cell_no)
        if answer is None:
            return self.failed(None, turns, "answer_gone", "the answer is not stored any more")
        step = self._judge(cell, turns, Exchange(answer, tuple(turns)))
        if isinstance(step, Verdict):
            return End("succeeded", "judged", step.reason, None, step.success, step.score)
        return replace(step, turn_no=None) if isinstance(step, End) else step
