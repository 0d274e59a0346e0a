"""Turns itself into one child of the stack: pid file, signals, user, then exec.

Run as a script by file name, before any package is importable, so it uses the standard
library only. What must stay true:

* The pid file exists before the program does, so a supervisor that is killed between
  starting a child and noting its pid still leaves a trace to clean up by.
* The program dies with its supervisor where the system offers that (Linux). The request is
  repeated after the user changed, because the kernel forgets it then.
* The working folder is entered before the user changes: a process may stay in a folder it
  could not walk to.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def process_identity(pid: int) -> str | None:
    """A text that no other process ever shares with `pid`, or None if it is not running.

    Process ids are reused; the boot id with the start time is not. It survives exec.
    """
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        # The program's name stands in parentheses and may contain anything.
        fields = stat[stat.rindex(b")") + 2 :].split()
        if fields[0] in (b"Z", b"X"):
            return None
        return f"{boot}:{fields[19].decode()}"
    shown = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return shown or None


def die_with_parent(signal_no: int, parent_pid: int) -> None:
    """Asks for `signal_no` on the parent's death; leaves at once if it is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_no, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def write_pid_file(path: Path, orders: dict[str, Any]) -> None:
    """Notes this process, and how to end it, in `path`: whole or not at all."""
    note = {"pid": os.getpid(), "identity": process_identity(os.getpid())}
    note |= {name: orders[name] for name in ("stop_signal", "stop_timeout_s", "order")}
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(note))
    draft.replace(path)


def main(argv: list[str]) -> None:
    """argv: a JSON object with the orders, then the program and its arguments."""
    orders: dict[str, Any] = json.loads(argv[0])
    die_with_parent(orders["stop_signal"], orders["parent_pid"])
    if orders["pid_file"]:
        write_pid_file(Path(orders["pid_file"]), orders)
    if orders["cwd"]:
        os.chdir(orders["cwd"])
    if orders["user"]:
        uid, gid = orders["user"]
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        die_with_parent(orders["stop_signal"], orders["parent_pid"])
    os.execvp(argv[1], argv[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
