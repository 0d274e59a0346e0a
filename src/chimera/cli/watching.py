"""A run, watched: the progress bar, and the tables of its results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chimera.cli.failure import Failure

if TYPE_CHECKING:
    from rich.console import Console

    from chimera.client import Client
    from chimera.v1.campaigns_pb2 import GetRunSummaryResponse, Rate, Run


def follow(client: Client, run_id: str, console: Console, cursor: str = "") -> Run:
    """Shows progress until the run is over; the run as it ended. Ctrl-C leaves the run alone."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from chimera.v1.campaigns_pb2 import Run

    run = Run()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("waiting", total=None, facts="")
            for item in client.watch(run_id, cursor):
                run, cursor = item.run, item.cursor
                counts = run.counts
                progress.update(
                    task,
                    description=state_word(run),
                    total=run.cells_total,
                    completed=counts.recorded,
                    facts=f"{counts.successes} successful, {counts.failed + counts.parked} errors, "
                    f"${money(counts.cost_usd)}",
                )
    except KeyboardInterrupt:
        raise Failure(
            "stopped watching; the run goes on. Continue with:\n"
            f"  chimera campaign watch {run_id}" + (f" --cursor {cursor}" if cursor else ""),
            130,
        ) from None
    if not run.id:
        raise Failure(f"the server told nothing about run {run_id}")
    return run


def state_word(run: Run) -> str:
    """`completed`, `paused` ..."""
    from chimera.v1.campaigns_pb2 import RunState

    return RunState.Name(run.state).removeprefix("RUN_STATE_").lower()


def money(usd: str) -> str:
    """Six digits after the point are shown of what is stored exactly."""
    from decimal import Decimal

    return f"{Decimal(usd or '0'):.6f}".rstrip("0").ljust(4, "0") if usd else "0.00"


def print_results(summary: GetRunSummaryResponse, console: Console) -> None:
    """Rates by technique and by target, the total, and errors apart."""
    from rich.table import Table

    for title, rows in (
        ("technique", [(row.technique, row.rate) for row in summary.by_technique]),
        ("target", [(f"{row.provider}/{row.model}", row.rate) for row in summary.by_target]),
    ):
        table = Table(box=_box(), header_style="bold")
        table.add_column(title)
        table.add_column("success rate", justify="right")
        table.add_column("", no_wrap=True)
        for heading in ("95 % interval", "scored", "errors", "p50 ms", "p95 ms", "cost $"):
            table.add_column(heading, justify="right", no_wrap=True)
        for name, rate in rows:
            table.add_row(plain(name), *_cells(rate))
        if title == "target":
            table.add_section()
            table.add_row("all", *_cells(summary.overall))
        console.print(table)
    counts = summary.run.counts
    console.print(
        f"{counts.recorded} of {summary.run.cells_total} cells recorded: {counts.scored} scored, "
        f"{counts.failed} failed, {counts.parked} parked, {counts.skipped} skipped. "
        "Errors are in no rate.",
        highlight=False,
    )


def plain(text: str) -> Any:
    """Text of other people, without markup and control characters."""
    from rich.text import Text

    return Text("".join(character if character.isprintable() else "�" for character in text))


def _box() -> Any:
    from rich.box import SIMPLE_HEAD

    return SIMPLE_HEAD


def _cells(rate: Rate) -> list[str]:
    if not rate.HasField("rate"):
        return ["-", "", "-", "0", str(rate.failed), "-", "-", money(rate.cost_usd)]
    return [
        f"{rate.rate:.1%}",
        "█" * round(rate.rate * 12) or "▏",
        f"{rate.low:.1%} to {rate.high:.1%}",
        str(rate.scored),
        str(rate.failed),
        f"{rate.latency_ms_p50:.0f}",
        f"{rate.latency_ms_p95:.0f}",
        money(rate.cost_usd),
    ]
