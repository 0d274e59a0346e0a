"""How lists are shown on a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer


def show(headings: tuple[str, ...], rows: Iterable[tuple[Any, ...]], nothing: str) -> None:
    """A table, or the words for none."""
    from rich.console import Console
    from rich.table import Table

    from chimera.cli.watching import plain

    table = Table(*headings)
    for row in rows:
        table.add_row(*(plain(str(cell)) for cell in row))
    if table.row_count:
        Console().print(table)
    else:
        typer.echo(nothing)


def when(timestamp: Any) -> str:
    """An instant in UTC, or a dash for none."""
    return f"{timestamp.ToDatetime():%Y-%m-%d %H:%M:%S}Z" if timestamp.ByteSize() else "-"
