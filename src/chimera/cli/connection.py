"""Which server a command talks to, and as whom: options, else the environment, else a running `up`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chimera.cli.failure import NO_SERVER, WRONG_USE, Failure

if TYPE_CHECKING:
    from chimera.client import Client

DEFAULT_SERVER = "127.0.0.1:8400"

Server = Annotated[
    str,
    typer.Option(
        "--server",
        envvar="CHIMERA_SERVER",
        show_default=False,
        metavar="HOST:PORT",
        help="The server; else the running `chimera up`, else 127.0.0.1:8400. Other hosts are "
        "called over TLS unless http:// stands in front.",
    ),
]
ApiKey = Annotated[
    str,
    typer.Option(
        "--api-key",
        envvar="CHIMERA_API_KEY",
        show_default=False,
        metavar="KEY",
        help="API key or access token; else the one `chimera up` stored.",
    ),
]


def home_folder() -> Path:
    """The folder named by CHIMERA_HOME, else `.chimera` in the current folder."""
    return Path(os.environ.get("CHIMERA_HOME") or ".chimera").absolute()


def note_file(home: Path) -> Path:
    """Where `up` notes its process and addresses while it runs."""
    return home / "run" / "up.json"


def api_key_file(home: Path) -> Path:
    """Where `up` keeps the first administrator's API key (mode 0600)."""
    return home / "api-key"


def stored_api_key(home: Path) -> str:
    """The key in that file, or empty."""
    with suppress(OSError):
        return api_key_file(home).read_text().strip()
    return ""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty when there is none."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        if isinstance(found, dict):
            return found
    return {}


def use_running_databases() -> None:
    """Names the databases of a running `up` where the environment names none."""
    note = read_json(note_file(home_folder()))
    for name in ("database_url", "redis_url", "clickhouse_url"):
        if note.get(name):
            os.environ.setdefault(f"CHIMERA_{name.upper()}", str(note[name]))


@contextmanager
def connected(server: str, api_key: str) -> Iterator[Client]:
    """A client for a command; a server that does not answer is said plainly."""
    from chimera.client import Client, Unauthenticated, Unreachable

    home = home_folder()
    server = server or str(read_json(note_file(home)).get("server") or DEFAULT_SERVER)
    api_key = api_key or stored_api_key(home)
    if not api_key:
        raise Failure("no API key: give --api-key or CHIMERA_API_KEY", WRONG_USE)
    try:
        with Client(server, api_key) as client:
            yield client
    except ValueError as error:
        if "begins with neither" not in str(error):
            raise
        raise Failure(str(error), WRONG_USE) from None
    except Unauthenticated as error:
        raise Failure(f"{server} does not accept this API key: {error}") from None
    except Unreachable as error:
        if error.reason:  # the server itself said so
            raise
        raise Failure(
            f"no server answers at {server}; start one with `chimera up`, or give --server",
            NO_SERVER,
        ) from None
