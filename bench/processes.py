"""CPU and memory of process trees, from /proc: dead children are counted by their parents."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """CPU in seconds (own and of reaped children), resident memory in bytes now and at its peak."""

    cpu_s: float
    resident: int
    peak: int


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def descendants(roots: Iterable[int]) -> set[int]:
    """The roots and everything below them that is alive."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            parents.setdefault(int(stat[1]), []).append(int(entry.name))
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += parents.get(pid, [])
    return found


def usage(root: int) -> Usage:
    """Of a process and everything below it."""
    cpu = 0.0
    resident = peak = 0
    for pid in descendants([root]):
        stat = _stat(pid)
        if stat is None:
            continue
        # Of the root's own dead children too, whoever they were.
        cpu += _clock(pid) + (int(stat[13]) + int(stat[14])) * TICK_S
        resident += int(stat[21]) * PAGE_BYTES
        peak += _peak(pid)
    return Usage(cpu, resident, peak)


def _clock(pid: int) -> float:
    """Its CPU-seconds to the nanosecond (clock_getcpuclockid(3)); /proc counts in hundredths."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


def _peak(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0
