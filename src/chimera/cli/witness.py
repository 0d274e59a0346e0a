"""`chimera audit witness`: a witness of an audit log, on a machine of somebody else.

It needs nothing of the installation it watches but the public key of its log.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chimera.cli.failure import Failure, reported

if TYPE_CHECKING:
    from chimera.audit.witness import Witness

app = typer.Typer(help="A witness of an audit log.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", file_okay=False)]


@app.callback()
def group() -> None:
    """A witness of an audit log."""


@app.command()
def init(
    folder: Folder,
    name: Annotated[str, typer.Option(help="Under which it cosigns, such as example.com/w1.")],
    log: Annotated[
        list[str], typer.Option(metavar="VKEY", help="Public key of a log; may be repeated.")
    ],
) -> None:
    """Make the folder of a new witness: its key, the logs it watches, its memory. Prints its public
    key, for the policy file of the log and of everybody who verifies."""
    from chimera.audit.note import NoteError
    from chimera.audit.witness import Witness

    with reported():
        try:
            typer.echo(str(Witness.create(folder, name, log).verifier_key))
        except (NoteError, OSError) as error:
            raise Failure(str(error)) from None


@app.command()
def serve(
    folder: Folder,
    listen: Annotated[str, typer.Option(help="host:port")] = "127.0.0.1:8410",
    tls_certificate: Annotated[Path | None, typer.Option(dir_okay=False)] = None,
    tls_key: Annotated[Path | None, typer.Option(dir_okay=False)] = None,
) -> None:
    """Cosign over gRPC until SIGTERM."""
    import asyncio

    with reported():
        tls = None
        if tls_certificate and tls_key:
            tls = tls_key.read_bytes(), tls_certificate.read_bytes()
        asyncio.run(_serve(_witness(folder), listen, tls))


@app.command(name="accept-restore")
def accept_restore(
    folder: Folder, statement: Annotated[Path, typer.Argument(dir_okay=False)]
) -> None:
    """Go back to where a legitimate restore began, by the log's own signed statement."""
    from chimera.audit.witness import WitnessRefused

    with reported():
        try:
            now = _witness(folder).accept_restore(statement.read_text("utf-8"))
        except (WitnessRefused, OSError) as error:
            raise Failure(str(error)) from None
        typer.echo(f"goes on from size {now.size} of {now.origin}")


def _witness(folder: Path) -> Witness:
    from chimera.audit.note import NoteError
    from chimera.audit.witness import Witness

    try:
        return Witness(folder)
    except (NoteError, OSError) as error:
        raise Failure(f"{folder} is no witness's folder: {error}") from None


async def _serve(witness: Witness, listen: str, tls: tuple[bytes, bytes] | None) -> None:
    import asyncio

    from chimera.audit.witness_rpc import start_witness

    server, port = await start_witness(witness, listen, tls)
    typer.echo(f"{witness.verifier_key} listens on port {port}")
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    await stopped.wait()
    await server.stop(grace=2.0)
