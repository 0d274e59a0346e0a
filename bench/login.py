"""CPU of a login against one raw Argon2 verification with the same parameters, and 100 at once.

    python -m bench login [--rounds 5]

Counted: the serving process, and apart from it PostgreSQL and Redis. A hundred people sign in from known
devices, one after the other and eight at a time. The floor is argon2-cffi verifying in a process of its
own, one after the other, before and after each slice of logins, while nothing else runs; hashes side by
side take more CPU each, for they share caches and memory. The same verification takes more as well when
it comes only every 50 ms, as it does in logins one at a time: caches forget; told as "spaced". Figures
are medians of slices, so what happens now and then (GC) is mostly left out. Then: ten logins a second,
and how long they take; 100 people at once, whether all get in, the memory they take, and how long
somebody else (in a process of its own) waits for GetMe beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

from bench.installation import Installation, installation
from bench.processes import usage
from tests.support.world import PASSWORD

PEOPLE, CROWD = 100, 100
PARALLEL = (1, 8)
SLICES, SLICE = 10, 16
# The first ones after a pause find caches cold; they are not the floor.
RAW_WARM = 4
# Logins one at a time come so far apart: the next of the steps they take (identity/logins.py).
PACE_S = 0.05
SECONDS_QUIET, SECONDS_STEADY, PER_SECOND = 3, 20, 10
spawn = multiprocessing.get_context("spawn")
Raw = Callable[[int, float], float]


def main(options: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench login")
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(_run(parser.parse_args(options)))


async def _run(chosen: argparse.Namespace) -> None:
    async with installation(logins_per_minute=10_000_000) as running:
        running.children["worker"].terminate()
        running.children["worker"].wait()
        people = await _people(running)
        await _cost(running, people, 40, 8)  # warm
        with _floor() as raw:
            for parallel in PARALLEL:
                figures: dict[str, list[float]] = {}
                for _ in range(chosen.rounds):
                    for name, value in (await _round(running, people, raw, parallel)).items():
                        figures.setdefault(name, []).append(value)
                each = f"{SLICES} x {SLICE} logins"
                print(
                    f"\nCPU per login in ms, {parallel} at a time; {chosen.rounds} rounds of {each}"
                )
                _print(figures)
        times = sorted(await _steady(running, people))
        middle, late = times[len(times) // 2], times[int(len(times) * 0.95)]
        print(f"{PER_SECOND} logins a second: p50 {middle * 1e3:.0f} ms, p95 {late * 1e3:.0f} ms")
        figures = {}
        for _ in range(chosen.rounds):
            for name, value in (await _crowd(running, people)).items():
                figures.setdefault(name, []).append(value)
        print(f"{CROWD} at once")
        _print(figures)


def _print(figures: dict[str, list[float]]) -> None:
    for name, values in figures.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"  {name:20} {middle:.2f} ({low:.2f} to {high:.2f})")


async def _people(running: Installation) -> list[dict[str, str]]:
    """Who signs in, from which known device."""
    found = []
    for number in range(PEOPLE):
        name = f"person-{number}"
        await running.admin.identity.CreateUser(
            email=f"{name}@example.com", username=name, role=2, password=PASSWORD
        )
        answer = await running.admin.identity.Login(login=name, password=PASSWORD)
        found.append({"login": name, "device_token": answer.device_token})
    return found


async def _cost(
    running: Installation, people: list[dict[str, str]], calls: int, parallel: int
) -> dict[str, float]:
    """CPU-seconds per login, by part."""
    pids = {
        "server": running.children["server"].pid,
        "postgres": running.stack.pid("postgres"),
        "redis": running.stack.pid("redis"),
    }

    async def caller(mine: int) -> None:
        for number in range(calls // parallel):
            who = people[(mine + number * parallel) % PEOPLE]
            await running.admin.identity.Login(password=PASSWORD, **who)

    before = {name: usage(pid).cpu_s for name, pid in pids.items()}
    await asyncio.gather(*(caller(mine) for mine in range(parallel)))
    done = calls // parallel * parallel
    return {name: (usage(pid).cpu_s - before[name]) / done for name, pid in pids.items()}


async def _round(
    running: Installation, people: list[dict[str, str]], raw: Raw, parallel: int
) -> dict[str, float]:
    """Medians of slices; before and after each slice the floor, for the machine is not equally fast
    from one second to the next."""
    figures: dict[str, list[float]] = {}
    before = await asyncio.to_thread(raw, SLICE // 2, 0.0)
    for _ in range(SLICES):
        spent = await _cost(running, people, SLICE, parallel)
        after = await asyncio.to_thread(raw, SLICE // 2, 0.0)
        floor, before = (before + after) / 2, after
        slice_ = {"raw Argon2": floor * 1e3, **{part: spent[part] * 1e3 for part in spent}}
        slice_["server / raw"] = spent["server"] / floor
        slice_["all / raw"] = sum(spent.values()) / floor
        if parallel == 1:
            spaced = await asyncio.to_thread(raw, SLICE // 2, PACE_S)
            slice_ |= {"raw spaced": spaced * 1e3, "server / raw spaced": spent["server"] / spaced}
        for name, value in slice_.items():
            figures.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in figures.items()}


@contextmanager
def _floor() -> Iterator[Raw]:
    """Answers the CPU-seconds of a verification, the mean of so many, each so long after the one before
    began; in a process of its own."""
    here, there = spawn.Pipe()
    child = spawn.Process(target=_verify, args=(there,), daemon=True)
    child.start()

    def raw(calls: int, pace_s: float) -> float:
        here.send((calls, pace_s))
        cost: float = here.recv()
        return cost

    yield raw
    here.send((0, 0.0))
    child.join()


def _verify(asked: Connection) -> None:
    from argon2.low_level import Type, hash_secret, verify_secret

    stored = hash_secret(
        PASSWORD.encode(),
        b"0123456789abcdef",
        time_cost=2,
        memory_cost=19456,
        parallelism=1,
        hash_len=32,
        type=Type.ID,
    )
    while (order := asked.recv())[0]:
        calls, pace_s = order
        for number in range(calls + RAW_WARM):
            began = time.monotonic()
            if number == RAW_WARM:
                started = time.process_time()
            verify_secret(stored, PASSWORD.encode(), Type.ID)
            time.sleep(max(0.0, began + pace_s - time.monotonic()))
        asked.send((time.process_time() - started) / calls)


async def _steady(running: Installation, people: list[dict[str, str]]) -> list[float]:
    """Seconds of each login when they come evenly, however long those before take."""

    async def one(number: int) -> float:
        await asyncio.sleep(number / PER_SECOND)
        started = time.perf_counter()
        await running.admin.identity.Login(password=PASSWORD, **people[number % PEOPLE])
        return time.perf_counter() - started

    return list(await asyncio.gather(*map(one, range(SECONDS_STEADY * PER_SECOND))))


async def _crowd(running: Installation, people: list[dict[str, str]]) -> dict[str, float]:
    """A hundred at once, and a reader beside them."""
    server = running.children["server"].pid
    idle = usage(server).resident

    async def crowd() -> int:
        logins = (
            running.admin.identity.Login(password=PASSWORD, **people[number % PEOPLE])
            for number in range(CROWD)
        )
        answers = await asyncio.gather(*logins, return_exceptions=True)
        refused = Counter(str(answer) for answer in answers if isinstance(answer, BaseException))
        if refused:
            print(f"  not all got in: {dict(refused)}")
        return sum(not isinstance(answer, BaseException) for answer in answers)

    quiet, _ = await _beside(running, lambda: asyncio.sleep(SECONDS_QUIET))
    busy, inside = await _beside(running, crowd)
    return {
        "got in": inside,
        "MiB above idle": (usage(server).peak - idle) / 2**20,
        "GetMe p99 idle, ms": quiet * 1e3,
        "GetMe p99 busy, ms": busy * 1e3,
        "busy / idle": busy / quiet,
    }


async def _beside(running: Installation, work: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    """The 99th percentile of a reader's waits in seconds, while the work goes on; and its answer."""
    begun, over, told = spawn.Event(), spawn.Event(), spawn.Queue()
    given = (str(running.settings.listen), running.admin.credential, begun, over, told)
    reader = spawn.Process(target=_read, args=given, daemon=True)
    reader.start()
    await asyncio.to_thread(begun.wait)
    answer = await work()
    over.set()
    waits: list[float] = await asyncio.to_thread(told.get)
    reader.join()
    return sorted(waits)[int(len(waits) * 0.99)], answer


def _read(address: str, credential: str, begun: Event, over: Event, told: Any) -> None:
    """Asks who it is, over and over; the first answers are not counted."""
    from chimera.client import Client
    from chimera.v1.identity_pb2 import GetMeRequest, GetMeResponse

    waits = []
    with Client(address, credential) as chimera:
        for _ in range(20):
            chimera.call(GetMeRequest(), GetMeResponse)
        begun.set()
        while not over.is_set():
            started = time.perf_counter()
            chimera.call(GetMeRequest(), GetMeResponse)
            waits.append(time.perf_counter() - started)
    told.put(waits)
