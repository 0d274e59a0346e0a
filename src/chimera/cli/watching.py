"""A run, watched: the progress bar, and the tables of its results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chimera.cli.failure import Failure

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from chimera.client import Client
    from chimera.v1.campaigns_pb2 import GetRunSummaryResponse, Rate, Run


def follow(client: Client, run_id: str, console: Console, cursor: str = "") -> Run:
    """Shows progress until the run is over; the run as it ended. Ctrl-C leaves the run alone."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from chimera.v1.campaigns_pb2 import GetRunRequest, GetRunResponse

    run = client.call(GetRunRequest(run_id=run_id), GetRunResponse).run
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(state_word(run), total=run.cells_total, facts="")
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
    return run


def state_word(run: Run) -> str:
    """`completed`, `paused` ..."""
    from chimera.v1.campaigns_pb2 import RunState

    return RunState.Name(run.state).removeprefix("RUN_STATE_").lower()


def money(usd: str) -> str:
    """US dollars, rounded for reading; what is stored is exact."""
    from decimal import Decimal

    amount = Decimal(usd or "0")
    return f"{amount:,.2f}" if amount >= 10 else f"{amount:.4f}"


def print_results(summary: GetRunSummaryResponse, console: Console) -> None:
    """Rates by technique and by target, the total, and errors apart. Fits 80 columns."""
    providers = {row.provider for row in summary.by_target}
    alone = f"{providers.pop()}/" if len(providers) == 1 else ""
    targets = [
        (f"{row.provider}/{row.model}".removeprefix(alone), row.rate) for row in summary.by_target
    ]
    for title, rows in (
        ("technique", [(row.technique, row.rate) for row in summary.by_technique]),
        ("target", targets),
    ):
        table = _rates_table(
            f"target {alone}" if title == "target" else title, with_bars=console.width >= 100
        )
        for name, rate in rows:
            _add_rate(table, name, rate)
        if title == "target":
            table.add_section()
            _add_rate(table, "all", summary.overall)
        console.print(table)
    counts = summary.run.counts
    console.print(
        f"{counts.recorded} of {summary.run.cells_total} cells recorded: {counts.scored} scored, "
        f"{counts.failed} failed, {counts.parked} parked, {counts.skipped} skipped. "
        "Errors are in no rate.",
        highlight=False,
    )
    if summary.run.stop_reason:
        console.print(f"The run stopped by itself: {summary.run.state_reason}.", highlight=False)


def _rates_table(title: str, *, with_bars: bool) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(title, overflow="fold")
    for heading in ("success", "95 % interval", "n", "err", "p50/p95 ms", "cost $"):
        table.add_column(heading, justify="right", no_wrap=True)
    if with_bars:
        table.add_column("", no_wrap=True)
    return table


def _add_rate(table: Table, name: str, rate: Rate) -> None:
    cells = ["-", "-", "0", str(rate.failed), "-", money(rate.cost_usd), ""]
    if rate.HasField("rate"):
        cells = [
            f"{rate.rate:.1%}",
            f"{rate.low * 100:.1f}-{rate.high * 100:.1f}",
            str(rate.scored),
            str(rate.failed),
            f"{rate.latency_ms_p50:.0f}/{rate.latency_ms_p95:.0f}",
            money(rate.cost_usd),
            "█" * round(rate.rate * 20) or "▏",
        ]
    table.add_row(plain(name), *cells[: len(table.columns) - 1])


def plain(text: str) -> Any:
    """Text of other people, without markup and control characters."""
    from rich.text import Text

    return Text("".join(character if character.isprintable() else "�" for character in text))
