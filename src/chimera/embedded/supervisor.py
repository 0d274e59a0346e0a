"""Child processes: start, wait until ready, stop, and find again after a crash.

What must stay true:

* Every child is noted in a pid file with an identity that survives the reuse of process ids;
  nothing is ever signalled on the strength of a bare number.
* The thread that starts a child lives as long as the child: on Linux "die with the parent"
  means the starting thread, not the process.
* A child's output goes straight into its log file, so it is complete even if the supervisor
  was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chimera.embedded import launch

_LOG_KEEP_BYTES = 16 * 1024 * 1024
_PROBE_PAUSE_S = 0.02
_KILL_WAIT_S = 10.0


class StackError(RuntimeError):
    """A part of the embedded stack could not be started or was used wrongly."""


@dataclass(frozen=True)
class Child:
    """One process to supervise.

    `argv`: program and arguments. `ready`: answers True when the child serves; any exception
    counts as "not yet". `env`: added to the supervisor's own environment (not shown by repr).
    `user`: (uid, gid) to run as, only for a supervisor that runs as root. `before_start`: runs
    in the supervisor before every start, to clear what a crash left behind.
    """

    name: str
    argv: Sequence[str]
    ready: Callable[[], bool]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: Path | None = None
    user: tuple[int, int] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    ready_timeout_s: float = 60.0
    stop_timeout_s: float = 15.0
    before_start: Callable[[], None] | None = None


def launcher_argv(
    argv: Sequence[str],
    *,
    stop_signal: int = signal.SIGTERM,
    stop_timeout_s: float = 0.0,
    pid_file: Path | None = None,
    order: int = 0,
    cwd: Path | None = None,
    user: tuple[int, int] | None = None,
) -> list[str]:
    """The command line that becomes `argv` under the given user, in the given folder."""
    orders = {
        "parent_pid": os.getpid(),
        "stop_signal": int(stop_signal),
        "stop_timeout_s": stop_timeout_s,
        "pid_file": str(pid_file) if pid_file else None,
        "order": order,
        "cwd": str(cwd) if cwd else None,
        "user": list(user) if user else None,
    }
    script = str(Path(launch.__file__).resolve())
    # -I -S: nothing of the environment or of site-packages, which also starts fastest.
    return [sys.executable, "-I", "-S", script, json.dumps(orders), *argv]


class Running:
    """One started child. Not restartable: a restart is a new Running of the same Child.

    `on_death` is called, from this child's own thread, when it ends without having been told
    to by `stop` or `kill`.
    """

    def __init__(
        self,
        child: Child,
        *,
        log_file: Path,
        pid_file: Path,
        order: int,
        on_death: Callable[[Running], None],
    ) -> None:
        self.child = child
        self.log_file = log_file
        self._pid_file = pid_file
        self._order = order
        self._on_death = on_death
        self._process: subprocess.Popen[bytes] | None = None
        self._spawn_error: OSError | None = None
        self._spawned = threading.Event()
        self._exited = threading.Event()
        self._expected = True  # until it was ready once: before that, wait_ready tells
        rotate(log_file)
        self.log_start = _size(log_file)
        if child.before_start is not None:
            child.before_start()
        threading.Thread(target=self._live, name=f"child-{child.name}", daemon=True).start()
        self._spawned.wait()
        if self._spawn_error is not None:
            raise StackError(f"{child.name} could not be started: {self._spawn_error}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the number of the signal that ended it."""
        return self._process.returncode if self._process and self._exited.is_set() else None

    def wait_ready(self) -> None:
        """Returns as soon as the probe says yes; StackError if it dies or never does."""
        deadline = time.monotonic() + self.child.ready_timeout_s
        reason = "the probe said no"
        while not self._exited.wait(_PROBE_PAUSE_S):
            try:
                if self.child.ready():
                    self._expected = False
                    if not self._exited.is_set():
                        return
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
            if time.monotonic() > deadline:
                raise StackError(
                    f"{self.child.name} is not ready after {self.child.ready_timeout_s:.0f} s "
                    f"({reason}); its log {self.log_file} ends with:\n{self.log_tail()}"
                )
        raise StackError(
            f"{self.child.name} ended with code {self.exit_code} while starting; "
            f"its log {self.log_file} ends with:\n{self.log_tail()}"
        )

    def stop(self) -> None:
        """Asks it to end, insists after `stop_timeout_s`. Returns when it is gone."""
        self._expected = True
        self._signal(self.child.stop_signal)
        if not self._exited.wait(self.child.stop_timeout_s):
            self._signal(signal.SIGKILL)
            self._exited.wait(_KILL_WAIT_S)

    def kill(self) -> None:
        """SIGKILL. Returns when it is gone."""
        self._expected = True
        self._signal(signal.SIGKILL)
        self._exited.wait(_KILL_WAIT_S)

    def log_tail(self, lines: int = 15) -> str:
        with contextlib.suppress(OSError):
            text = self.log_file.read_bytes()[-8192:].decode(errors="replace")
            return "\n".join(text.splitlines()[-lines:])
        return ""

    def _signal(self, number: int) -> None:
        if not self._exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _live(self) -> None:
        try:
            self._process = self._spawn()
        except OSError as error:
            self._spawn_error = error
            return
        finally:
            self._spawned.set()
        self._process.wait()
        # What the child itself started and did not take down, in its own process group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._pid_file.unlink(missing_ok=True)
        self._exited.set()
        if not self._expected:
            self._on_death(self)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                launcher_argv(
                    self.child.argv,
                    stop_signal=self.child.stop_signal,
                    stop_timeout_s=self.child.stop_timeout_s,
                    pid_file=self._pid_file,
                    order=self._order,
                    cwd=self.child.cwd,
                    user=self.child.user,
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.child.env},
                # A session of its own: Ctrl-C reaches the supervisor only, which keeps the order.
                start_new_session=True,
            )


def module_child(
    name: str, module: str, arguments: Sequence[str], *, ready: Callable[[], bool]
) -> Child:
    """`python -m module arguments` as a child, importing the same `chimera` as this process."""
    source = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    return Child(
        name=name,
        argv=[sys.executable, "-m", module, *arguments],
        ready=ready,
        env={"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
    )


class Follower:
    """Reads what is added to a log file, as lines with the child's name before them."""

    def __init__(self, name: str, log_file: Path, start: int) -> None:
        self._name = name
        self._log_file = log_file
        self._at = start

    def new_lines(self) -> list[str]:
        """The lines completed since the last call."""
        if _size(self._log_file) < self._at:
            self._at = 0  # a new file after rotation
        with contextlib.suppress(OSError), self._log_file.open("rb") as log:
            log.seek(self._at)
            whole, newline, _ = log.read().rpartition(b"\n")
            self._at += len(whole) + len(newline)
            text = whole.decode(errors="replace")
            return [f"[{self._name}] {line}" for line in text.splitlines()]
        return []


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def rotate(log_file: Path) -> None:
    """Keeps one earlier log once the current one is large."""
    if _size(log_file) > _LOG_KEEP_BYTES:
        log_file.replace(log_file.with_suffix(".log.1"))


def sweep(run_dir: Path) -> list[int]:
    """Ends what an earlier supervisor left running; returns the process ids it ended.

    Last started, first stopped. A pid file whose identity does not match is only removed: that
    number belongs to somebody else by now.
    """
    notes = []
    for path in run_dir.glob("*.pid"):
        with contextlib.suppress(OSError, ValueError):
            notes.append((json.loads(path.read_text()), path))
    ended = []
    for note, path in sorted(notes, key=lambda pair: -int(pair[0]["order"])):
        if end_process(note["pid"], note["identity"], note["stop_signal"], note["stop_timeout_s"]):
            ended.append(note["pid"])
        path.unlink(missing_ok=True)
    return ended


def end_process(pid: int, identity: str | None, stop_signal: int, stop_timeout_s: float) -> bool:
    """Ends `pid` if it is still the process of that identity; True if there was one to end."""
    if identity is None or launch.process_identity(pid) != identity:
        return False
    for number, wait_s in ((stop_signal, stop_timeout_s), (signal.SIGKILL, _KILL_WAIT_S)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if launch.process_identity(pid) != identity:
                return True
            time.sleep(_PROBE_PAUSE_S)
    raise StackError(f"process {pid} of an earlier run does not end")
