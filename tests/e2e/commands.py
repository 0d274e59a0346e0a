"""Running `chimera` as people do: as a process, with a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
TIMEOUT_S = 120
MARK = "STARTED_FOR_HOME"  # every process inherits it


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment without settings of any other installation."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("CHIMERA_")}
    path = os.pathsep.join([str(BIN), mine.get("PATH", "")])
    return {
        **mine,
        "PATH": path,
        "CHIMERA_HOME": str(home),
        MARK: str(home),
        "COLUMNS": "120",
        **more,
    }


def argv(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "chimera.cli", *arguments]


def chimera(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The finished command; never raises for its exit code."""
    return subprocess.run(
        argv(*arguments),
        env=environment(home, **more),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], exit_code: int, told: str) -> None:
    """Asserts that a person got one clear line and this exit code."""
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == exit_code, done
    assert "Traceback" not in done.stderr
    assert len(errors) == 1, errors
    assert errors[0].startswith("error: ")
    assert told in errors[0]


def processes_of(home: Path) -> list[str]:
    """Command lines of processes that were started for this home, name it, or work in it: a server
    that shows its state as its title overwrites both environment and command line."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            environ = (process / "environ").read_bytes()
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ")
            folder = os.readlink(process / "cwd").encode()
            dead = b") Z " in (process / "stat").read_bytes()
        except OSError:
            continue
        if str(home).encode() in environ + line + folder and not dead:
            found.append(line.decode(errors="replace"))
    return found
