"""One cell of a run on a terminal: what was sent, what came back, and of a conversation every turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from chimera.v1.campaigns_pb2 import Execution, GetExecutionResponse, Turn

TEXT_CHARACTERS = 600  # of a text, before it is cut


def print_cell(told: GetExecutionResponse, console: Console) -> None:
    one = told.execution
    console.print(_headline(one, len(told.turns)), soft_wrap=True)
    if told.turns:
        for turn in told.turns:
            _print_turn(turn, console)
    else:
        _print_text("prompt", one.original_prompt, console)
        if one.transformed_prompt != one.original_prompt:
            _print_text("as sent", one.transformed_prompt, console)
        _print_text("response", one.response, console)
    _print_text(one.error_kind or "verdict", one.verdict_reason, console)


def _headline(one: Execution, turns: int) -> str:
    from chimera.cli.watching import money
    from chimera.v1.campaigns_pb2 import ExecutionState

    state = ExecutionState.Name(one.state).removeprefix("EXECUTION_STATE_").lower()
    if one.HasField("is_successful"):
        state = f"the attack {'succeeded' if one.is_successful else 'did not succeed'}"
    parts = [
        f"cell {one.cell_no}: {one.technique_applied} -> {one.provider_used}/{one.model_used}",
        state,
        *([f"{turns} turns, ended by {one.ended_by}"] if turns else []),
        f"${money(one.cost_usd)}",
    ]
    return ", ".join(parts)


def _print_turn(turn: Turn, console: Console) -> None:
    """Of an attacker or a judge only what it said: what it was told is long, and always alike."""
    from chimera.v1.campaigns_pb2 import TurnPurpose

    who = TurnPurpose.Name(turn.purpose).removeprefix("TURN_PURPOSE_").lower()
    console.print(f"  {turn.turn_no}. {who} [dim]{turn.model_used}, {turn.latency_ms} ms[/dim]")
    if turn.purpose == TurnPurpose.TURN_PURPOSE_TARGET:
        _print_text("asked", turn.request, console)
    _print_text("said", turn.reply, console)


def _print_text(name: str, text: str, console: Console) -> None:
    from rich.padding import Padding

    from chimera.cli.watching import plain

    if not text:
        return
    cut = text[:TEXT_CHARACTERS]
    shown = plain(" ".join(cut.split("\n")) + ("..." if len(cut) < len(text) else ""))
    shown.stylize("default")
    label = plain(f"{name}: ")
    label.stylize("dim")
    console.print(Padding(label + shown, (0, 0, 0, 5)))
