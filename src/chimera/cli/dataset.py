"""`chimera dataset`: rows of values to fill templates with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chimera.cli.connection import ApiKey, Server, connected
from chimera.cli.failure import FAILED, WRONG_USE, Failure

if TYPE_CHECKING:
    from chimera.client import Client

app = typer.Typer(
    help="List, import and export datasets.", no_args_is_help=True, rich_markup_mode=None
)
FORMATS = {".csv": 1, ".tsv": 1, ".jsonl": 2, ".ndjson": 2}
Name = Annotated[str, typer.Argument(metavar="DATASET", help="Its name or id.")]


@app.command("list")
def list_all(server: Server = "", api_key: ApiKey = "") -> None:
    """List the datasets you may see."""
    from rich.console import Console
    from rich.table import Table

    table = Table("dataset", "name", "version")
    with connected(server, api_key) as client:
        for dataset in _datasets(client):
            table.add_row(dataset.id, dataset.name, str(dataset.version_number))
    Console(highlight=False).print(table)


@app.command("import")
def import_file(
    name: Name,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help=".csv, .tsv or .jsonl; - for CSV in.")
    ],
    delimiter: Annotated[str, typer.Option(help="Of CSV; else found out.")] = "",
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Store the rest of the rows.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen.")] = False,
    note: Annotated[str, typer.Option(help="Of the version.")] = "",
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Read a file as the next version of a dataset, which is made when there is none of this name.

    Exit code 0 when the rows are stored (or would be).
    """
    from chimera.cli.files import first_piece, pieces
    from chimera.v1.datasets_pb2 import ImportDatasetRequest, ImportDatasetResponse

    content = pieces(file)
    first = first_piece(content)
    with connected(server, api_key) as client:
        request = ImportDatasetRequest(
            dataset_id=_find(client, name) or _create(client, name),
            format=_format(file),
            delimiter=delimiter,
            dry_run=dry_run,
            skip_bad_rows=skip_bad_rows,
            change_note=note,
            content=first,
        )

        def rest() -> Iterator[ImportDatasetRequest]:
            for piece in content:
                yield ImportDatasetRequest(content=piece)

        for answer in client.exchange(request, rest(), ImportDatasetResponse):
            if answer.HasField("bad_row"):
                typer.echo(f"line {answer.bad_row.line}: {answer.bad_row.message}", err=True)
        _report(answer.summary, dry_run, skip_bad_rows)


def _report(summary: Any, dry_run: bool, skip_bad_rows: bool) -> None:
    counts = f"{summary.row_count} rows, {len(summary.columns)} columns"
    if summary.bad_row_count and not skip_bad_rows:
        raise Failure(f"{summary.bad_row_count} bad rows; nothing was stored", FAILED)
    if dry_run and not summary.is_unchanged:
        typer.echo(f"would store {counts}")
        return
    version = summary.version.version_number
    typer.echo(f"{'unchanged, ' if summary.is_unchanged else ''}version {version}: {counts}")
    typer.echo(f"SHA-256 {summary.content_hash}")


@app.command()
def export(
    name: Name,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="New .csv or .jsonl; - for CSV out.")
    ],
    version: Annotated[int, typer.Option(min=0, help="0: the newest.")] = 0,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Write a version of a dataset into a file."""
    from chimera.cli.files import write
    from chimera.v1.datasets_pb2 import ExportDatasetRequest, ExportDatasetResponse

    with connected(server, api_key) as client:
        dataset_id = _find(client, name)
        if not dataset_id:
            raise Failure(f"there is no dataset {name!r}")
        request = ExportDatasetRequest(
            dataset_id=dataset_id, version_number=version, format=_format(file)
        )
        answers = client.stream(request, ExportDatasetResponse)
        size_bytes = write(file, (answer.content for answer in answers))
    typer.echo(f"wrote {file} ({size_bytes} bytes)", err=True)


def _format(path: Path) -> Any:
    if str(path) == "-":
        return 1
    if path.suffix not in FORMATS:
        raise Failure(f"{path}: the name must end in {', '.join(FORMATS)}", WRONG_USE)
    return FORMATS[path.suffix]


def _datasets(client: Client) -> Iterator[Any]:
    from chimera.v1.datasets_pb2 import ListDatasetsRequest, ListDatasetsResponse

    for page in client.pages(ListDatasetsRequest(page_size=1000), ListDatasetsResponse):
        yield from page.datasets


def _find(client: Client, name: str) -> str:
    """The id of the dataset of this name or id; empty when there is none."""
    return next(
        (
            str(dataset.id)
            for dataset in _datasets(client)
            if dataset.id == name or dataset.name.lower() == name.lower()
        ),
        "",
    )


def _create(client: Client, name: str) -> str:
    from chimera.v1.datasets_pb2 import CreateDatasetRequest, CreateDatasetResponse

    made = client.call(CreateDatasetRequest(name=name), CreateDatasetResponse)
    return made.dataset.id
