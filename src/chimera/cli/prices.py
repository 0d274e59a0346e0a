"""`chimera prices`: models and prices of known providers."""

from __future__ import annotations

from typing import Annotated

import typer

from chimera.cli.connection import ApiKey, Server, connected

app = typer.Typer(
    help="Models and prices of known providers.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def prices() -> None:
    """A group, also while it has one command."""


@app.command()
def seed(
    provider: Annotated[
        list[str] | None,
        typer.Option(
            help="Which; repeat it for several. openai, anthropic and huggingface if none."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
    ] = False,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Take models and prices over from the installed price data, for all organisations."""
    from chimera.cli.watching import plain
    from chimera.v1.providers_pb2 import SeedPricesRequest, SeedPricesResponse

    request = SeedPricesRequest(providers=provider or [], dry_run=dry_run)
    with connected(server, api_key) as client:
        done = client.call(request, SeedPricesResponse)
    for change in done.changes:
        if change.HasField("before"):
            before, after = change.before, change.after
            typer.echo(
                plain(
                    f"{change.provider}/{change.model}: in {before.input_per_million_usd} ->"
                    f" {after.input_per_million_usd}, out {before.output_per_million_usd} ->"
                    f" {after.output_per_million_usd} $ a million tokens"
                )
            )
    changed = sum(change.HasField("before") for change in done.changes)
    typer.echo(
        f"{done.source}: {done.models_added} models added, {changed} prices changed,"
        f" {done.models_unchanged} unchanged, {done.prices_kept} written by people kept,"
        f" {done.models_deprecated} newly deprecated" + (" (nothing was stored)" if dry_run else "")
    )
