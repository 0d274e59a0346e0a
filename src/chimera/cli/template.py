"""`chimera template`: search the prompt library, and carry templates in and out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chimera.cli.connection import ApiKey, Server, connected
from chimera.cli.failure import FAILED, WRONG_USE, Failure

if TYPE_CHECKING:
    from chimera.client import Client
    from chimera.v1.templates_pb2 import HighlightedText

app = typer.Typer(
    help="Search, export and import templates.", no_args_is_help=True, rich_markup_mode=None
)
FORMATS = {".jsonl": 1, ".ndjson": 1, ".yaml": 2, ".yml": 2}


@app.command()
def search(
    query: Annotated[str, typer.Argument(help='Words, "a phrase", -not, OR, beginning*.')] = "",
    tag: Annotated[list[str] | None, typer.Option(help="With all of these tags.")] = None,
    vulnerability: Annotated[str, typer.Option(help="Such as LLM01:2025.")] = "",
    technique: Annotated[str, typer.Option(help="Such as AML.T0051.")] = "",
    state: Annotated[str, typer.Option(help="draft, review, published or archived.")] = "",
    size: Annotated[int, typer.Option(min=1, max=100)] = 20,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Find templates by what they say."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from chimera.rows import enum_text
    from chimera.v1.templates_pb2 import (
        SearchTemplatesRequest,
        SearchTemplatesResponse,
        Template,
        TemplateState,
    )

    states = {name.removeprefix("TEMPLATE_STATE_").lower() for name in TemplateState.keys()[1:]}
    if state and state not in states:
        raise Failure(
            f"there is no state {state!r}; there are {', '.join(sorted(states))}", WRONG_USE
        )
    request = SearchTemplatesRequest(
        query=query,
        tags=tag or [],
        vulnerability_type=vulnerability,
        technique_type=technique,
        state=f"TEMPLATE_STATE_{state.upper()}" if state else None,
        page_size=size,
    )
    with connected(server, api_key) as client:
        found = client.call(request, SearchTemplatesResponse)

    def shown(text: HighlightedText) -> Text:
        return Text.assemble(*((p.text, "bold" if p.is_match else "") for p in text.pieces))

    table = Table("template", "title", "state", "rating", "where")
    for hit in found.hits:
        it = hit.template
        rating = f"{it.average_rating:.1f} ({it.rating_count})" if it.rating_count else ""
        table.add_row(
            it.id,
            shown(hit.title),
            enum_text(Template, "state", it.state) or "",
            rating,
            shown(hit.snippet),
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{found.total}{' or more' if found.is_bounded else ''} found")


@app.command()
def export(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="New .jsonl or .yaml; - for JSONL out.")
    ],
    template_id: Annotated[
        list[str] | None, typer.Option("--id", help="Only these; else all you may see.")
    ] = None,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Write templates with all their versions and labels into a file."""
    from chimera.cli.files import write
    from chimera.v1.templates_pb2 import ExportTemplatesRequest, ExportTemplatesResponse

    request = ExportTemplatesRequest(format=_format(file), template_ids=template_id or [])
    with connected(server, api_key) as client:
        answers = client.stream(request, ExportTemplatesResponse)
        size_bytes = write(file, (answer.content for answer in answers))
    typer.echo(f"wrote {file} ({size_bytes} bytes)", err=True)


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".jsonl or .yaml; - for JSONL in.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen.")] = False,
    promptfoo: Annotated[
        bool, typer.Option("--promptfoo", help="The file is a promptfoo configuration.")
    ] = False,
    organisation: Annotated[
        bool, typer.Option("--organisation", help="For everybody in it; else private.")
    ] = False,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Read templates from a file. What was imported before stays as it is.

    Exit code 0 when every template was read.
    """
    with connected(server, api_key) as client:
        if promptfoo:
            _import_promptfoo(client, file, dry_run)
        elif not _import(client, file, dry_run, 3 if organisation else 1):
            raise typer.Exit(FAILED)


def _format(path: Path) -> Any:
    if str(path) == "-":
        return 1
    if path.suffix not in FORMATS:
        raise Failure(f"{path}: the name must end in {', '.join(FORMATS)}", WRONG_USE)
    return FORMATS[path.suffix]


def _import(client: Client, file: Path, dry_run: bool, sharing_level: Any) -> bool:
    from chimera.cli.files import first_piece, pieces
    from chimera.v1.templates_pb2 import (
        ImportOutcome,
        ImportTemplatesRequest,
        ImportTemplatesResponse,
    )

    content = pieces(file)
    first = ImportTemplatesRequest(
        format=_format(file),
        dry_run=dry_run,
        sharing_level=sharing_level,
        content=first_piece(content),
    )

    def rest() -> Iterator[ImportTemplatesRequest]:
        for piece in content:
            yield ImportTemplatesRequest(content=piece)

    is_whole = True
    for answer in client.exchange(first, rest(), ImportTemplatesResponse):
        word = ImportOutcome.Name(answer.outcome).removeprefix("IMPORT_OUTCOME_").lower()
        about = f"{answer.reason}: {answer.message}" if answer.reason else answer.template_id
        typer.echo(f"line {answer.line}: {word.replace('_', ' ')} {answer.title!r} {about}")
        is_whole &= not answer.reason
    return is_whole


def _import_promptfoo(client: Client, file: Path, dry_run: bool) -> None:
    from google.protobuf.json_format import MessageToDict

    from chimera.cli.files import pieces
    from chimera.v1.templates_pb2 import ImportPromptfooRequest, ImportPromptfooResponse

    try:
        content = b"".join(pieces(file)).decode()
    except UnicodeDecodeError:
        raise Failure(f"{file}: not UTF-8", WRONG_USE) from None
    request = ImportPromptfooRequest(content=content, dry_run=dry_run)
    made = client.call(request, ImportPromptfooResponse)
    would = "would make " if dry_run else ""
    typer.echo(f"{would}{made.prompt_count} templates, a dataset of {made.row_count} rows")
    for template in made.templates:
        typer.echo(f"template {template.id} {template.title!r}")
    if made.dataset_id:
        typer.echo(f"dataset  {made.dataset_id}")
    for scored in made.scored:
        typer.echo(f"row {scored.row_no}: scorer {MessageToDict(scored.scorer)}")
    for left in made.unmapped:
        typer.echo(f"left out {left.place} ({left.what}): {left.why}")
