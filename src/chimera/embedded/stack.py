"""The whole stack on one machine: engines first, then whatever the caller adds.

What must stay true:

* One stack per home folder at a time; the lock ends with its process.
* Started in order, stopped in reverse: on `stop`, on a signal, and on the death of any child
  that was not told to end.
* Everything it writes lies under the home folder: `data/`, `logs/`, `run/`.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Self
from urllib.request import urlopen

from chimera.embedded import clickhouse as clickhouse_part
from chimera.embedded import postgres as postgres_part
from chimera.embedded import redis as redis_part
from chimera.embedded.ports import free_port, is_free
from chimera.embedded.supervisor import Child, Follower, Running, StackError, module_child, sweep

DATABASE = "chimera"
_PORT_ATTEMPTS = 3
_FOLLOW_PAUSE_S = 0.2


@dataclass(frozen=True)
class StackUrls:
    """Where the parts are; an empty text for a part that was not asked for."""

    database_url: str
    redis_url: str
    clickhouse_url: str
    assistant_url: str


def default_home() -> Path:
    """The folder named by CHIMERA_HOME, else `.chimera` in the current folder."""
    return Path(os.environ.get("CHIMERA_HOME") or ".chimera")


class Stack:
    """The embedded engines, supervised. Also a context manager; may be started again after stop.

    `home`: folder for data, logs and run files (made if missing). `durable=False`: no fsync; data
    survives the death of every process but not of the machine, for tests.
    """

    def __init__(
        self,
        home: Path,
        *,
        postgres: bool = True,
        redis: bool = True,
        clickhouse: bool = True,
        assistant: bool = True,
        durable: bool = True,
    ) -> None:
        self.home = home.absolute()
        # ClickHouse first: it loads while PostgreSQL makes its cluster.
        wanted = {
            "clickhouse": clickhouse,
            "redis": redis,
            "postgres": postgres,
            "assistant": assistant,
        }
        self._parts = [name for name, is_wanted in wanted.items() if is_wanted]
        self._durable = durable
        self._running: dict[str, Running] = {}
        self._ports: dict[str, int] = {}
        self._lock_file: IO[str] | None = None
        self._guard = threading.Lock()  # over _running and _open
        self._stop_guard = threading.Lock()
        self._open = False
        self._ended = threading.Event()
        self._dead: Running | None = None

    def start(self) -> StackUrls:
        """Starts the engines and waits until all serve and the databases exist.

        StackError if the home is in use or a part does not come up; nothing runs then.
        """
        self._take_home()
        try:
            sweep(self._folder("run"))
            self._open, self._dead = True, None
            self._ended.clear()
            remembered = self._remembered_ports()
            for name in self._parts:
                port = remembered.get(name, 0)
                self._ports[name] = port if is_free(port) else free_port()
                self._spawn(self._engine(name))
            for name in self._parts:
                self._await_engine(name)
            (self._folder("run") / "ports.json").write_text(json.dumps(self._ports))
            self._create_databases()
        except BaseException:
            self.stop()
            raise
        return self.urls

    @property
    def urls(self) -> StackUrls:
        """Valid once started."""
        forms = {
            "postgres": f"postgresql://{postgres_part.SUPERUSER}@127.0.0.1:%d/{DATABASE}",
            "redis": "redis://127.0.0.1:%d/0",
            "clickhouse": f"clickhouse://127.0.0.1:%d/{DATABASE}?compression=lz4",
            "assistant": "http://127.0.0.1:%d",
        }
        shown = {
            name: form % self._ports[name] for name, form in forms.items() if name in self._ports
        }
        return StackUrls(
            database_url=shown.get("postgres", ""),
            redis_url=shown.get("redis", ""),
            clickhouse_url=shown.get("clickhouse", ""),
            assistant_url=shown.get("assistant", ""),
        )

    def add(self, child: Child) -> None:
        """Starts one more child and waits until it is ready; stopped before all earlier ones."""
        if child.name in self._running:
            raise StackError(f"{child.name} is already part of this stack")
        running = self._spawn(child)
        try:
            running.wait_ready()
        except StackError:
            running.kill()
            self._running.pop(child.name, None)
            raise

    def stop(self) -> None:
        """Stops all children, last started first, and gives the home free. Safe to repeat."""
        with self._stop_guard:
            with self._guard:
                self._open = False
                running = list(self._running.values())
            for one in reversed(running):
                one.stop()
            self._running.clear()
            if self._lock_file is not None:
                self._lock_file.close()
                self._lock_file = None
            atexit.unregister(self.stop)
            self._ended.set()

    def kill(self, name: str) -> None:
        """SIGKILL to one child, for fault tests. The stack goes on without it."""
        self._running[name].kill()

    def restart(self, name: str) -> None:
        """Starts one child again on the same port and data, stopping it first if it runs."""
        old = self._running[name]
        old.stop()
        self._spawn(old.child).wait_ready()

    def pid(self, name: str) -> int:
        """Process id of one child."""
        return self._running[name].pid

    def run_until_signalled(self) -> int:
        """Shows the logs until Ctrl-C, SIGTERM or SIGHUP (answers 0) or a child's death (1).

        For the main thread of a foreground command. The stack is stopped when it returns.
        """
        signalled = threading.Event()

        def note(number: int, frame: FrameType | None) -> None:
            signalled.set()

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        earlier = {number: signal.signal(number, note) for number in numbers}
        followers = [Follower(one.child.name, one.log_file, one.log_start) for one in self._list()]
        try:
            while not signalled.is_set() and not self._ended.wait(_FOLLOW_PAUSE_S):
                self._show(followers)
            self.stop()
            self._show(followers)
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)
        if self._dead is None:
            return 0
        name, code = self._dead.child.name, self._dead.exit_code
        print(f"[stack] {name} ended unexpectedly with code {code}; stopped", file=sys.stderr)
        return 1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _engine(self, name: str) -> Child:
        port, data = self._ports[name], self._folder("data") / name
        if name == "postgres":
            return postgres_part.child(data, port, durable=self._durable)
        if name == "redis":
            return redis_part.child(data, port, durable=self._durable)
        if name == "clickhouse":
            return clickhouse_part.child(data, port)
        return module_child(
            "assistant",
            "chimera.embedded.assistant",
            ["--port", str(port)],
            ready=lambda: _healthy(f"http://127.0.0.1:{port}/healthz"),
        )

    def _await_engine(self, name: str) -> None:
        """Waits for a part; a port taken between choosing and binding is worth another try."""
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            running = self._running[name]
            try:
                return running.wait_ready()
            except StackError:
                taken = "already in use" in running.log_tail()
                if not taken or running.exit_code is None or attempt == _PORT_ATTEMPTS:
                    raise
            self._ports[name] = free_port()
            self._spawn(self._engine(name))

    def _create_databases(self) -> None:
        if "postgres" in self._ports:
            postgres_part.create_database(self._ports["postgres"], DATABASE)
        if "clickhouse" in self._ports:
            clickhouse_part.create_database(self._ports["clickhouse"], DATABASE)

    def _spawn(self, child: Child) -> Running:
        with self._guard:
            if not self._open:
                raise StackError(f"{child.name} not started: the stack is not running")
            names = list(self._running)
            running = Running(
                child,
                log_file=self._folder("logs") / f"{child.name}.log",
                pid_file=self._folder("run") / f"{child.name}.pid",
                order=names.index(child.name) if child.name in names else len(names),
                on_death=self._on_death,
            )
            self._running[child.name] = running
            return running

    def _on_death(self, dead: Running) -> None:
        if self._dead is None:
            self._dead = dead
        self.stop()

    def _take_home(self) -> None:
        if self._lock_file is not None:
            raise StackError("this stack is already started")
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (self._folder("run") / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip()
            lock.close()
            raise StackError(f"{self.home} is in use by another stack, process {owner}") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock_file = lock
        atexit.register(self.stop)

    def _remembered_ports(self) -> dict[str, int]:
        """The ports of the last run, so that URLs stay the same where they can."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self._folder("run") / "ports.json").read_text()))
        return {}

    def _folder(self, name: str) -> Path:
        folder = self.home / name
        folder.mkdir(exist_ok=True)
        return folder

    def _list(self) -> list[Running]:
        with self._guard:
            return list(self._running.values())

    @staticmethod
    def _show(followers: list[Follower]) -> None:
        for follower in followers:
            for line in follower.new_lines():
                print(line)
        sys.stdout.flush()


def _healthy(url: str) -> bool:
    with urlopen(url, timeout=2.0) as answer:
        return bool(answer.status == 200)
