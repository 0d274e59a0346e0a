"""`chimera migrate`: the migration commands, on the databases of a running `up` unless told."""

from __future__ import annotations

import os
from typing import Any

import typer

from chimera.cli.connection import home_folder, note_file, read_json

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
    note = read_json(note_file(home_folder()))
    for name in ("database_url", "clickhouse_url"):
        if note.get(name):
            os.environ.setdefault(f"CHIMERA_{name.upper()}", str(note[name]))
    from chimera.migrate import app

    app(context.args, prog_name="chimera migrate")
