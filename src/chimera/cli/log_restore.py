"""`chimera audit restore`: operators answer for the restore of a backup, and signing goes on."""

from __future__ import annotations

from typing import Annotated

import typer

from chimera.cli.connection import ApiKey, Server, connected
from chimera.cli.failure import reported

app = typer.Typer(
    help="After the restore of a backup.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def group() -> None:
    """After the restore of a backup."""


@app.command()
def propose(
    reason: Annotated[str, typer.Option(help="One line; it stands in the signed statement.")],
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Say that the restore was meant. Where two operators are asked for, another one approves."""
    from chimera.v1.audit_pb2 import ProposeLogRestoreRequest, ProposeLogRestoreResponse

    with reported(), connected(server, api_key) as client:
        request = ProposeLogRestoreRequest(reason=reason)
        restore = client.call(request, ProposeLogRestoreResponse).log_restore
        typer.echo(f"{restore.id}  {restore.state}")


@app.command()
def approve(
    restore_id: Annotated[str, typer.Argument(metavar="ID")],
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Agree with what another operator proposed."""
    from chimera.v1.audit_pb2 import ApproveLogRestoreRequest, ApproveLogRestoreResponse

    with reported(), connected(server, api_key) as client:
        request = ApproveLogRestoreRequest(log_restore_id=restore_id)
        restore = client.call(request, ApproveLogRestoreResponse).log_restore
        typer.echo(f"{restore.id}  {restore.state}")


@app.command(name="list")
def list_restores(server: Server = "", api_key: ApiKey = "") -> None:
    """The newest restores with their statements, to be given to witnesses and auditors."""
    from chimera.v1.audit_pb2 import ListLogRestoresRequest, ListLogRestoresResponse

    with reported(), connected(server, api_key) as client:
        answer = client.call(ListLogRestoresRequest(page_size=20), ListLogRestoresResponse)
        for restore in answer.log_restores:
            typer.echo(f"{restore.id}  {restore.state}  {restore.reason}")
            if restore.statement:
                typer.echo(restore.statement)
