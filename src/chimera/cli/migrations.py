"""`chimera migrate`: the migration commands, on the databases of a running `up` unless told."""

from __future__ import annotations

from typing import Any

import typer

from chimera.cli.connection import use_running_databases

# All arguments go to the command behind, its --help too.
PASSED_ON: dict[str, Any] = {
    "context_settings": {
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
    "help": "Move the database schemas up and down.",
    "add_help_option": False,
}


def migrate(context: typer.Context) -> None:
    """Move the database schemas up and down."""
    use_running_databases()
    from chimera.migrate import app

    app(context.args, prog_name="chimera migrate")
