"""`chimera migrate`: the command line over the runner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from chimera.migrate.files import NO_FILE, Engine, Migration, MigrationError, new
from chimera.migrate.runner import down, status, up
from chimera.migrate.schema import dump_schema

app = typer.Typer(help="Move the database schemas up and down.", no_args_is_help=True)

DatabaseUrl = Annotated[
    str | None,
    typer.Option(envvar="CHIMERA_DATABASE_URL", show_default=False, help="PostgreSQL, as owner."),
]
ClickHouseUrl = Annotated[
    str | None,
    typer.Option(envvar="CHIMERA_CLICKHOUSE_URL", show_default=False, help="ClickHouse."),
]
One = Annotated[
    bool | None,
    typer.Option("--postgres/--clickhouse", show_default=False, help="Only this one."),
]


@contextmanager
def _said_plainly() -> Iterator[None]:
    try:
        yield
    except MigrationError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _only(one: bool | None, database_url: str | None, clickhouse_url: str | None) -> Engine | None:
    """Which engine was picked; a URL that is missing for it is an error, not a smaller run."""
    if not database_url and one is not False:
        raise MigrationError("CHIMERA_DATABASE_URL is not set (or choose --clickhouse)")
    if not clickhouse_url and one is not True:
        raise MigrationError("CHIMERA_CLICKHOUSE_URL is not set (or choose --postgres)")
    return None if one is None else "postgres" if one else "clickhouse"


def _say(done: Sequence[Migration], verb: str) -> None:
    for migration in done:
        typer.echo(f"{verb} {migration.engine} {migration.version:04d}_{migration.name}")
    if not done:
        typer.echo("nothing to do")


@app.command("up")
def up_command(
    database_url: DatabaseUrl = None, clickhouse_url: ClickHouseUrl = None, one: One = None
) -> None:
    """Apply everything pending."""
    with _said_plainly():
        only = _only(one, database_url, clickhouse_url)
        _say(up(database_url, clickhouse_url, only=only), "applied")


@app.command("down")
def down_command(
    database_url: DatabaseUrl = None,
    clickhouse_url: ClickHouseUrl = None,
    one: One = None,
    steps: Annotated[int, typer.Option(min=1, help="How many, per database.")] = 1,
) -> None:
    """Roll the newest migrations back."""
    with _said_plainly():
        only = _only(one, database_url, clickhouse_url)
        _say(down(database_url, clickhouse_url, steps=steps, only=only), "rolled back")


@app.command("status")
def status_command(
    database_url: DatabaseUrl = None, clickhouse_url: ClickHouseUrl = None, one: One = None
) -> None:
    """Show what is applied, pending, and edited after it was applied."""
    from rich.console import Console
    from rich.table import Table

    with _said_plainly():
        rows = status(database_url, clickhouse_url, only=_only(one, database_url, clickhouse_url))
    table = Table("database", "version", "name", "applied", "file")
    for row in rows:
        when = f"{row.applied_at:%Y-%m-%d %H:%M:%S %Z}" if row.applied_at else "yes"
        intact = "ok" if row.digest_ok else "edited" if row.name != NO_FILE else "missing"
        cells = (row.engine, f"{row.version:04d}", row.name, when if row.applied else "-", intact)
        table.add_row(*cells)
    Console().print(table)


@app.command("new")
def new_command(
    name: str, one: Annotated[bool, typer.Option("--postgres/--clickhouse")] = True
) -> None:
    """Create the next empty migration."""
    with _said_plainly():
        typer.echo(new("postgres" if one else "clickhouse", name))


@app.command("schema")
def schema_command(database_url: DatabaseUrl = None) -> None:
    """Print the PostgreSQL schema, to be kept in migrations/schema.sql."""
    with _said_plainly():
        if not database_url:
            raise MigrationError("CHIMERA_DATABASE_URL is not set")
        typer.echo(dump_schema(database_url), nl=False)
