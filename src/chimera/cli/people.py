"""`chimera bootstrap`: the first organisation of an installation, and its administrator."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from chimera.cli.connection import use_running_databases
from chimera.cli.failure import WRONG_USE, Failure


def bootstrap(
    organisation: Annotated[str, typer.Option(prompt=True, help="Its name.")],
    email: Annotated[str, typer.Option(prompt=True, help="Of the administrator.")],
    username: Annotated[str, typer.Option(prompt=True, help="Of the administrator.")],
    password: Annotated[
        str,
        typer.Option(
            envvar="CHIMERA_BOOTSTRAP_PASSWORD",
            prompt=True,
            hide_input=True,
            confirmation_prompt=True,
            help="15 characters or more; asked for unless in the environment.",
        ),
    ],
    operator: Annotated[
        bool, typer.Option(help="May also operate the installation: stuck shards, kill switch.")
    ] = True,
) -> None:
    """Create an organisation, its administrator and an API key.

    The key is printed once. Works on CHIMERA_DATABASE_URL, else on the database of a running `chimera up`. Everything else is
    made over the API by somebody who is signed in.
    """
    use_running_databases()
    if not os.environ.get("CHIMERA_DATABASE_URL"):
        raise Failure("CHIMERA_DATABASE_URL is not set, and no `chimera up` runs here", WRONG_USE)

    import asyncio

    from chimera.identity.bootstrap import bootstrap as make
    from chimera.settings import load_settings

    made = asyncio.run(
        make(
            load_settings(),
            organisation=organisation,
            email=email,
            username=username,
            password=password,
            is_superuser=operator,
            with_api_key=True,
        )
    )
    typer.echo(f"organisation  {made.org_id}\nuser          {made.user_id}")
    typer.echo(f"API key       {made.api_key}\n\nThe key is shown only now; keep it safe.")
