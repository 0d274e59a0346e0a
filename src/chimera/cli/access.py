"""`chimera access`: why somebody may do something, and the keys that sign access tokens."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from chimera.cli.connection import ApiKey, Server, connected
from chimera.cli.failure import WRONG_USE, Failure
from chimera.cli.tables import show, when

app = typer.Typer(
    help="Why somebody may do something; signing keys.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def explain(
    wanted: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help="A permission (TEMPLATE_WRITE) or an RPC (Service/Method)."
        ),
    ],
    user: Annotated[str, typer.Option(metavar="USER_ID", help="Default: you.")] = "",
    resource: Annotated[str, typer.Option(metavar="ID", help="What it would be about.")] = "",
    address: Annotated[str, typer.Option(help="From where; default: from here.")] = "",
    key: Annotated[str, typer.Option("--with-key", metavar="ID", help="With this API key.")] = "",
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Say whether a user may do something, and which grants and conditions decide it."""
    from chimera.v1.access_pb2 import ExplainAccessRequest, ExplainAccessResponse
    from chimera.v1.options_pb2 import Permission

    request = ExplainAccessRequest(
        user_id=user, resource_id=resource, address=address, api_key_id=key
    )
    if "/" in wanted:
        request.rpc = wanted
    else:
        try:
            number: Any = Permission.Value(f"PERMISSION_{wanted.upper()}")
            request.permission = number
        except ValueError:
            raise Failure(f"{wanted} is no permission", WRONG_USE) from None
    with connected(server, api_key) as client:
        found = client.call(request, ExplainAccessResponse)
    needed = Permission.Name(found.permission).removeprefix("PERMISSION_")
    typer.echo(
        f"{'allowed' if found.allowed else 'refused'}; needs {needed if found.permission else 'no permission'}"
    )
    for barrier in found.barriers:
        typer.echo(f"barred by {barrier}")
    if found.verdicts:
        show(
            ("from", "role", "grant", "team", "does not hold"),
            (_row(verdict) for verdict in found.verdicts),
            "",
        )


def _row(verdict: Any) -> tuple[Any, ...]:
    from chimera.v1.access_pb2 import GrantVerdict

    source = GrantVerdict.Source.Name(verdict.source).removeprefix("SOURCE_").lower()
    return (
        source.replace("_", " "),
        verdict.role_name,
        verdict.grant_id or "-",
        verdict.team_name or "-",
        ", ".join(verdict.unmet) or "-",
    )


@app.command("signing-keys")
def signing_keys(server: Server = "", api_key: ApiKey = "") -> None:
    """List the keys that sign access tokens; operators only."""
    from chimera.v1.access_pb2 import ListSigningKeysRequest, ListSigningKeysResponse

    with connected(server, api_key) as client:
        found = client.call(ListSigningKeysRequest(), ListSigningKeysResponse)
    show(
        ("key id", "made", "signs from", "verifies until", "now"),
        (
            (
                key.kid,
                when(key.created_at),
                when(key.signs_from),
                when(key.verifies_until),
                "signs" if key.is_signing else "published" if key.is_published else "retired",
            )
            for key in found.signing_keys
        ),
        "no signing keys",
    )


@app.command("rotate-signing-key")
def rotate_signing_key(
    withdraw_others: Annotated[
        bool,
        typer.Option("--withdraw-others", help="A key got into wrong hands: end all others now."),
    ] = False,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Make a new signing key; operators only."""
    from chimera.v1.access_pb2 import RotateSigningKeyRequest, RotateSigningKeyResponse

    request = RotateSigningKeyRequest(withdraw_others=withdraw_others)
    with connected(server, api_key) as client:
        made = client.call(request, RotateSigningKeyResponse).signing_key
    typer.echo(f"key {made.kid} signs from {when(made.signs_from)}")
