"""`chimera audit`: export the log and verify it, trusting nothing of the server but its public key."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from chimera.cli import log_restore, witness
from chimera.cli.connection import ApiKey, Server, connected, use_running_databases
from chimera.cli.failure import Failure, reported

if TYPE_CHECKING:
    from chimera.audit.report import Report
    from chimera.client import Client

BAD_INPUT = 3

app = typer.Typer(help="The tamper-evident log.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(witness.app, name="witness")
app.add_typer(log_restore.app, name="restore")


@app.callback()
def group() -> None:
    """The tamper-evident log."""


class _Verdicts(TyperCommand):
    """Wrong usage leaves with the verifier's code for "nothing can be said"; the usual 2 would mean
    that something is missing from the log."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            vars(error)["exit_code"] = BAD_INPUT
            raise


@app.command(cls=_Verdicts)
def verify(
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="An exported file; else the log is exported over the API.", dir_okay=False
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="VKEY", help="Public key of the log or a witness; may be repeated."),
    ] = None,
    since: Annotated[
        Path | None, typer.Option(help="File with a checkpoint kept from earlier.", dir_okay=False)
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Keep the exported bundle here.", dir_okay=False)
    ] = None,
    database: Annotated[
        bool,
        typer.Option(
            "--database",
            help="Verify the database itself (CHIMERA_DATABASE_URL, else that of a running `up`), all "
            "organisations, with the signer's memory under CHIMERA_HOME.",
        ),
    ] = False,
    quorum: Annotated[
        int, typer.Option(help="How many of the witnesses given by --key must have cosigned.")
    ] = 0,
    policy: Annotated[
        Path | None,
        typer.Option(
            help="Trusted logs and witnesses, and how many it takes (tlog-policy).", dir_okay=False
        ),
    ] = None,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Verify the audit log. Exit code 0: verified, 1: tampered, 2: incomplete, 3: nothing can be
    said."""
    with _nothing_said():
        old = since.read_text("utf-8") if since else None
        if database:
            report = _verify_database()
        elif bundle is not None:
            if not key and not policy:
                raise Failure("a bundle is verified with a key you trust: give --key or --policy")
            report = verify_file(bundle, key or [], old, quorum=quorum, policy=policy)
        else:
            with connected(server, api_key) as client, TemporaryDirectory() as folder:
                path = save or Path(folder, "audit.jsonl")
                theirs = export(client, path)
                if not key:
                    typer.echo(f"key, as the server tells it: {theirs}", err=True)
                report = verify_file(path, key or [theirs], old, quorum=quorum, policy=policy)
    typer.echo(str(report))
    raise typer.Exit(int(report.verdict))


@contextmanager
def _nothing_said() -> Iterator[None]:
    """An error says nothing about the log, and has the verifier's code for that."""
    try:
        with reported():
            yield
    except SystemExit as leaving:
        raise SystemExit(130 if leaving.code == 130 else BAD_INPUT) from None
    except OSError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(BAD_INPUT) from None


def export(client: Client, path: Path) -> str:
    """Writes the log up to its newest checkpoint to `path`; the server's public key."""
    from chimera.v1.audit_pb2 import (
        ExportAuditLogRequest,
        ExportAuditLogResponse,
        GetCheckpointRequest,
        GetCheckpointResponse,
    )

    newest = client.call(GetCheckpointRequest(), GetCheckpointResponse)
    with path.open("wb") as file, _progress("exported") as show:
        leaves = -2  # header and checkpoint stand before them
        for part in client.stream(ExportAuditLogRequest(), ExportAuditLogResponse):
            file.write(part.lines)
            leaves += part.lines.count(b"\n")
            show(leaves, newest.size)
    return newest.verifier_key


def verify_file(
    path: Path,
    keys: list[str],
    since: str | None = None,
    *,
    quorum: int = 0,
    policy: Path | None = None,
) -> Report:
    """What the offline verifier finds in a bundle; the file is read once."""
    from chimera.audit.bundle import LINE_BYTES_MAX, open_bundle
    from chimera.audit.verify import policy_of, verify_bundle

    try:
        wanted = policy_of(keys, quorum, policy)
    except ValueError as error:
        raise Failure(str(error)) from None
    with open_bundle(path) as file, _progress("verified") as show:
        lines = iter(lambda: file.readline(LINE_BYTES_MAX + 1), b"")
        try:
            return verify_bundle(lines, keys, since, show, wanted)
        except (EOFError, zlib.error) as error:
            raise Failure(f"{path} is cut short or damaged: {error}") from None


def _verify_database() -> Report:
    from chimera.audit.inspection import verify_live
    from chimera.audit.note import NoteError
    from chimera.audit.signer import SigningRefused
    from chimera.settings import load_settings

    use_running_databases()
    try:
        with _progress("verified") as show:
            return verify_live(load_settings(), progress=show)
    except (SigningRefused, NoteError, ValueError) as error:
        raise Failure(str(error)) from None


@contextmanager
def _progress(what: str) -> Iterator[Any]:
    """On stderr; called with (done, total or None). A bar that goes away on a terminal, else a line
    per tenth, so that a log of hours shows in a job's output that it is alive."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        from chimera.audit.verify import ProgressLine

        yield ProgressLine(what)
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
