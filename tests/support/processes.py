"""Real processes of the product on the test's stack: `python -m chimera.server`, `-m workers.main`."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chimera.settings import Settings
from tests.support.warm import WarmChild

ROOT = Path(__file__).resolve().parents[2]


def free_port(*, ports: int = 1) -> int:
    """The first of `ports` neighbouring TCP ports that nobody listens on."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
        try:
            for number in range(port, port + ports):
                with socket.socket() as other:
                    other.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port


def environment_of(settings: Settings, **more: Any) -> dict[str, str]:
    """The environment that makes a child process read these settings."""
    given = {
        "database_url": settings.database_url.get_secret_value(),
        "redis_url": settings.redis_url.get_secret_value(),
        "clickhouse_url": settings.clickhouse_url.get_secret_value(),
        "home": settings.home,
        "drain_s": settings.drain_s,
        "logins_per_minute": settings.logins_per_minute,
        "log_level": "debug",
        **more,
    }
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CHIMERA_")}
    return kept | {f"CHIMERA_{key.upper()}": str(value) for key, value in given.items()}


class Process:
    """A child with its log: the program `module`, or, warm, its main(); see warm.py."""

    def __init__(
        self,
        module: str,
        environment: dict[str, str],
        log: Path,
        *arguments: str,
        warm: bool = False,
    ) -> None:
        self.log = log
        log.touch()
        self.child: subprocess.Popen[bytes] | WarmChild
        if warm:
            self.child = WarmChild(module, environment, log, *arguments)
            return
        self.child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=log.open("wb"),
        )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def until_said(self, text: str, times: int = 1) -> None:
        until(lambda: self.said().count(text) >= times or self.child.poll() is not None)
        assert self.said().count(text) >= times, f"it ended first:\n{self.said()[-2000:]}"

    def terminated(self) -> int:
        """Sends SIGTERM; the exit code."""
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(30)


@contextmanager
def running(module: str, environment: dict[str, str], log: Path) -> Iterator[Process]:
    process = Process(module, environment, log)
    try:
        yield process
    finally:
        if process.child.poll() is None:
            process.child.terminate()
            try:
                process.child.wait(20)
            except subprocess.TimeoutExpired:
                process.child.kill()
                process.child.wait()


def until(reached: Callable[[], bool], *, seconds: float = 60) -> None:
    """Waits for another process to get somewhere; the limit only ends a test that has failed."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


async def eventually(reached: Callable[[], Any], *, seconds: float = 30) -> None:
    """The same inside a loop; `reached` may be a coroutine function. For what no event tells."""
    async with asyncio.timeout(seconds):
        while True:
            answer = reached()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(0.005)
