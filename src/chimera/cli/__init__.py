"""The `chimera` command.

One module a command group; what several need is in `connection` (which server, which key),
`installation` (home folder, engines, server and worker) and `failure`.

What must stay true:
* `chimera --help` imports neither gRPC nor a database driver: heavy modules are imported inside
  the commands that use them.
* Campaign, audit and operator commands talk to the public API, never to the database.
* A person gets one line and an exit code, not a traceback: 1 refused or failed, 2 wrong use (also a
  wrong file), 3 no server. `chimera audit verify` has the verifier's exit codes.
"""

from __future__ import annotations

import os
import sys

import typer

from chimera.cli import (
    access,
    audit,
    budget,
    campaign,
    dataset,
    migrations,
    ops,
    people,
    prices,
    running,
    statements,
    telemetry,
    template,
    vault,
)
from chimera.cli.demo import demo as demonstrate
from chimera.cli.failure import reported

app = typer.Typer(
    name="chimera",
    help="Chimera: test language models, and prove what was found.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)
app.command("demo")(demonstrate)
app.command("up")(running.up)
app.command("down")(running.down)
app.command("status")(running.status)
app.command("bootstrap")(people.bootstrap)
app.command("migrate", **migrations.PASSED_ON)(migrations.migrate)
app.command("sql")(statements.sql)
app.add_typer(campaign.app, name="campaign")
app.add_typer(template.app, name="template")
app.add_typer(dataset.app, name="dataset")
app.add_typer(audit.app, name="audit")
app.add_typer(budget.app, name="budget")
app.add_typer(budget.usage_app, name="usage")
app.add_typer(ops.app, name="ops")
app.add_typer(people.app, name="user")
app.add_typer(telemetry.app, name="telemetry")
app.add_typer(access.app, name="access")
app.add_typer(prices.app, name="prices")
app.add_typer(vault.app, name="vault")


def main() -> None:
    """Entry point of `chimera`."""
    try:
        with reported():
            app()
    except BrokenPipeError:
        # The reader of our output left, as `head` does. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
