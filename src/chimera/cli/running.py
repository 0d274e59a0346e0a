"""`chimera up`, `down` and `status`: the installation that stays up for work by hand."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from chimera.cli.connection import (
    api_key_file,
    connected,
    home_folder,
    note_file,
    read_json,
    stored_api_key,
)
from chimera.cli.failure import FAILED, Failure

STOP_TIMEOUT_S = 90.0


def up() -> None:
    """Start engines, server and worker; stays until Ctrl-C.

    Everything lies under CHIMERA_HOME (default: .chimera here). An engine whose URL is given
    (CHIMERA_DATABASE_URL, CHIMERA_REDIS_URL, CHIMERA_CLICKHOUSE_URL) is not started.
    """
    from chimera.cli.installation import (
        Installation,
        first_administrator,
        given_urls,
        require_engines,
        write_private,
    )

    given = given_urls()
    if len(given) < 3:
        require_engines()
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    home = home_folder()
    installation = Installation(home, given=given, listen=os.environ.get("CHIMERA_LISTEN", ""))
    typer.echo(f"starting under {home} ...")
    note = note_file(home)
    with installation:
        try:
            write_private(note, json.dumps(_note(installation)))
            typer.echo(f"engines ready; {installation.migrate()} migrations applied")
            made = first_administrator(installation)
            if made is not None:
                write_private(api_key_file(home), made.pop("api_key") + "\n")
                write_private(home / "keys" / "administrator.json", json.dumps(made, indent=1))
            installation.start_worker()
            installation.start_server()
            _register(installation, home)
            typer.echo(_welcome(installation, home))
            raise typer.Exit(installation.stack.run_until_signalled())
        finally:
            note.unlink(missing_ok=True)


def _register(installation: Any, home: Path) -> None:
    """Makes the embedded assistant a provider, so that a first campaign can run at once."""
    from chimera.cli.assistant import register_assistant
    from chimera.client import ApiError, Client

    api_key = stored_api_key(home)
    if not api_key:
        return
    with Client(installation.server, api_key) as client:
        try:
            register_assistant(client, installation.assistant_url)
        except ApiError as error:  # an old key, say; everything else works without it
            typer.echo(f"the assistant is not registered: {error}", err=True)


def _leave(number: int, _frame: Any) -> None:
    raise SystemExit(128 + number)


def _note(installation: Any) -> dict[str, Any]:
    """What the other commands need to find this process; given URLs may hold passwords and stay
    out."""
    from chimera.embedded.launch import process_identity

    own = {name: url for name, url in installation.urls.items() if name not in installation.given}
    pid = os.getpid()
    return {
        "pid": pid,
        "identity": process_identity(pid),
        "server": installation.server,
        "assistant_url": installation.assistant_url,
        **own,
    }


def _welcome(installation: Any, home: Path) -> str:
    server = installation.server
    key = stored_api_key(home)
    shown = key or "$CHIMERA_API_KEY"
    lines = [
        "",
        f"server     {server}",
        f"assistant  {installation.assistant_url}/v1  (models that guard a secret, to try attacks on)",
        f"home       {home}",
        f"mail       {'CHIMERA_MAIL_URL' if os.environ.get('CHIMERA_MAIL_URL') else installation.mail_folder}",
    ]
    if key:
        lines += [f"API key    {key}", f"           kept in {api_key_file(home)}"]
    else:
        lines.append("API key    none is kept here; make an organisation with `chimera bootstrap`")
    me = "chimera.v1.IdentityService/GetMe"
    lines += [
        "",
        "Who am I:",
        f"  buf curl --protocol grpc --http2-prior-knowledge -H 'authorization: Bearer {shown}' "
        f"-d '{{}}' http://{server}/{me}",
        f"  grpcurl -plaintext -H 'authorization: Bearer {shown}' {server} {me}",
        "",
        "A first campaign:",
        "  chimera campaign example > plan.yaml",
        "  chimera campaign run plan.yaml",
        "",
        "Ctrl-C or `chimera down` stops everything.",
        "",
    ]
    return "\n".join(lines)


def down() -> None:
    """Stop what `chimera up` started.

    Also ends what a killed one left running under the same CHIMERA_HOME.
    """
    from chimera.embedded.supervisor import end_process, sweep

    home = home_folder()
    path = note_file(home)
    note = read_json(path)
    if note and end_process(note["pid"], note["identity"], signal.SIGTERM, STOP_TIMEOUT_S):
        typer.echo(f"stopped process {note['pid']}")
        return
    owner = _lock_owner(home)
    if owner:
        raise Failure(f"{home} is in use by process {owner}, which is no finished `chimera up`")
    path.unlink(missing_ok=True)
    ended = sweep(home / "run")
    typer.echo(f"ended {len(ended)} left processes" if ended else f"nothing runs under {home}")


def _lock_owner(home: Path) -> str:
    """The process that holds the home folder, or empty."""
    import fcntl

    try:
        with (home / "run" / "lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip() or "?"
    except FileNotFoundError:
        pass
    return ""


def status(
    health: Annotated[
        bool,
        typer.Option("--health", help="Only ask the server on CHIMERA_LISTEN whether it serves."),
    ] = False,
) -> None:
    """Say what runs and where: health, versions, backlog.

    Exit code 1 if something is missing.
    """
    if health:
        raise typer.Exit(0 if _serves() else FAILED)
    from rich.console import Console
    from rich.table import Table

    from chimera.cli.installation import given_urls

    home = home_folder()
    note = read_json(note_file(home))
    table = Table("part", "state", "where", "version", title=f"home {home}", title_justify="left")
    held = True
    for part, (url, version) in _engines({**note, **given_urls()}).items():
        held &= bool(version)
        table.add_row(part, "up" if version else "away", url, version)
    for part, state, where, version in _server(note):
        held &= state in ("serving", "ok")
        table.add_row(part, state, where, version)
    Console().print(table)
    if not held:
        raise typer.Exit(FAILED)


def _serves() -> bool:
    """What a container's health check asks: this host's server, over plain loopback."""
    from chimera.client import Client
    from chimera.settings import load_settings

    port = load_settings().listen.rpartition(":")[2]
    with Client(f"127.0.0.1:{port}") as client:
        return client.is_serving()


def _engines(note: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Part -> (address without credentials, version; empty when it does not answer)."""
    found = {}
    for name, probe in (
        ("database_url", _postgres_version),
        ("redis_url", _redis_version),
        ("clickhouse_url", _clickhouse_version),
    ):
        url = str(note.get(name) or "")
        try:
            version = probe(url) if url else ""
        except Exception:  # whatever a driver says, the answer is: away
            version = ""
        part = {"database_url": "postgresql"}.get(name, name.removesuffix("_url"))
        found[part] = (url.rpartition("@")[2].rpartition("://")[2].partition("?")[0], version)
    return found


def _postgres_version(url: str) -> str:
    import psycopg

    with psycopg.connect(url, connect_timeout=3) as connection:
        row = connection.execute("SHOW server_version").fetchone()
        return str(row[0]) if row else ""


def _redis_version(url: str) -> str:
    from redis import Redis

    with Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3) as client:
        info: Any = client.info("server")
        return str(info["redis_version"])


def _clickhouse_version(url: str) -> str:
    from clickhouse_driver import Client

    with Client.from_url(url) as client:
        return str(client.execute("SELECT version()")[0][0])


def _server(note: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows about the server and what waits, as far as the API says."""
    from importlib.metadata import version

    from chimera.client import ApiError
    from chimera.v1.operations_pb2 import (
        ListOutboxRequest,
        ListOutboxResponse,
        ListStuckShardsRequest,
        ListStuckShardsResponse,
        OutboxState,
    )
    from chimera.v1.telemetry_pb2 import GetIngestStatusRequest, GetIngestStatusResponse

    ours = version("chimera")
    server = os.environ.get("CHIMERA_SERVER", "")
    try:
        with connected(server, os.environ.get("CHIMERA_API_KEY", "")) as client:
            if not client.is_serving():
                return [("server", "away", client.address, ours)]
            rows = [("server", "serving", client.address, ours)]
            telemetry = client.call(GetIngestStatusRequest(), GetIngestStatusResponse)
            dead = client.call(
                ListOutboxRequest(state=OutboxState.OUTBOX_STATE_DEAD), ListOutboxResponse
            )
            waiting = client.call(
                ListOutboxRequest(state=OutboxState.OUTBOX_STATE_WAITING), ListOutboxResponse
            )
            stuck = client.call(ListStuckShardsRequest(), ListStuckShardsResponse)
    except ApiError as error:
        return [*rows, ("backlog", "unknown", str(error), "")]
    except Failure as failure:
        return [("server", "unknown", str(failure), ours)]
    lost = bool(dead.rows or stuck.shards or telemetry.dead_lettered)
    backlog = (
        f"{telemetry.waiting} events, {len(waiting.rows)} jobs waiting; "
        f"{telemetry.dead_lettered} events, {len(dead.rows)} jobs dead; "
        f"{len(stuck.shards)} stuck shards"
    )
    return [*rows, ("backlog", "trouble" if lost else "ok", backlog, "")]
