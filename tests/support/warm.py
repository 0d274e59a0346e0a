"""Processes that start warm: forked from one that has imported the worker and done nothing else.

A worker takes 1.5 s of CPU to import, and the stories about killed ones start more than a hundred. What
is forked is a process like any other: its own environment, log and signals, and `kill -9` ends it
alone. The program itself (`python -m workers.main`) is started in e2e and guards.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
from multiprocessing.connection import wait
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).resolve().parents[2]


class WarmChild:
    """What subprocess.Popen is to a program: the part of it that stories use."""

    def __init__(
        self, module: str, environment: dict[str, str], log: Path, *arguments: str
    ) -> None:
        """Calls `main` of the module with the arguments; what it prints goes to the log, too."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.support.worker_image"])
        # daemon: nobody waits for it at the end of the tests.
        given = (module, environment, str(log), arguments)
        self._process = context.Process(target=_work, args=given, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        self._reading = Lock()

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        with self._reading:  # the exit code can be read once
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        wait([self._process.sentinel], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _work(module: str, environment: dict[str, str], log: str, arguments: tuple[str, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    kept = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for number, target in ((0, os.open(os.devnull, os.O_RDONLY)), (1, kept), (2, kept)):
        os.dup2(target, number)
    importlib.import_module(module).main(*arguments)
