"""`chimera vault`: the master key that wraps every stored secret."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from chimera.cli.connection import ApiKey, Server, connected

app = typer.Typer(
    help="The master key: versions, rotation, retirement.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
POLL_S = 0.5


@app.command()
def status(server: Server = "", api_key: ApiKey = "") -> None:
    """Show the versions of the master key with what they wrap, and the last rotation."""
    from chimera.v1.vault_pb2 import GetVaultStatusRequest, GetVaultStatusResponse, KeyVersionState

    with connected(server, api_key) as client:
        found = client.call(GetVaultStatusRequest(), GetVaultStatusResponse)
    for version in found.versions:
        state = KeyVersionState.Name(version.state).removeprefix("KEY_VERSION_STATE_").lower()
        name = f" {version.key_ref}" if version.key_ref else ""
        typer.echo(
            f"version {version.version}: {state}, wraps {version.values_count} values"
            f" ({version.kind}{name})"
        )
    if found.HasField("rotation"):
        typer.echo(_told(found.rotation))


@app.command()
def rotate(
    key_ref: Annotated[
        str, typer.Option("--key", help="At a key service: the key to go over to.")
    ] = "",
    to: Annotated[
        str, typer.Option("--to", help="file or service: move the master key there.")
    ] = "",
    wait: Annotated[bool, typer.Option(help="Until everything is wrapped anew.")] = True,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Make a new version of the master key and wrap everything under it, while all goes on."""
    from chimera.v1.vault_pb2 import (
        GetVaultStatusRequest,
        GetVaultStatusResponse,
        KeyHome,
        RotateMasterKeyRequest,
        RotateMasterKeyResponse,
        RotationState,
    )

    homes = {
        "": KeyHome.KEY_HOME_UNSPECIFIED,
        "file": KeyHome.KEY_HOME_FILE,
        "service": KeyHome.KEY_HOME_SERVICE,
    }
    if to not in homes:
        raise typer.BadParameter("must be file or service", param_hint="--to")
    with connected(server, api_key) as client:
        request = RotateMasterKeyRequest(key_ref=key_ref, home=homes[to])
        rotation = client.call(request, RotateMasterKeyResponse).rotation
        typer.echo(_told(rotation))
        while wait and rotation.state == RotationState.ROTATION_STATE_RUNNING:
            time.sleep(POLL_S)
            status = client.call(GetVaultStatusRequest(), GetVaultStatusResponse)
            if _told(status.rotation) != _told(rotation):
                typer.echo(_told(status.rotation))
            rotation = status.rotation


@app.command()
def retire(
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1)],
    destroy: Annotated[
        bool, typer.Option("--destroy", help="Remove its key from the file, for good.")
    ] = False,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """End an older version that wraps nothing any more."""
    from chimera.v1.vault_pb2 import RetireMasterKeyVersionRequest, RetireMasterKeyVersionResponse

    request = RetireMasterKeyVersionRequest(version=version, destroy=destroy)
    with connected(server, api_key) as client:
        client.call(request, RetireMasterKeyVersionResponse)
    typer.echo(f"version {version} is {'destroyed' if destroy else 'disabled'}")


def _told(rotation: Any) -> str:
    from chimera.v1.vault_pb2 import RotationState

    state = RotationState.Name(rotation.state).removeprefix("ROTATION_STATE_").lower()
    line = (
        f"rotation to version {rotation.to_version}: {state},"
        f" {rotation.values_done} of {rotation.values_total} values"
    )
    if rotation.values_unreadable:
        line += f", {rotation.values_unreadable} unreadable"
    return f"{line}; waits: {rotation.last_error}" if rotation.last_error else line
