"""CPU of a login against one raw Argon2 verification with the same parameters, and 100 at once.

    python -m bench login [--calls 200] [--rounds 5]

Counted: the serving process, and apart from it PostgreSQL and Redis. Twenty people sign in from known
devices, eight at a time. The floor is argon2-cffi verifying in a process of its own, one after the
other, in the same round. Then: 100 people at once, whether all get in, and the memory they take.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import time
from typing import Any

from bench.installation import Installation, installation
from bench.processes import usage
from tests.support.world import PASSWORD

PEOPLE, PARALLEL = 20, 8


def main(options: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench login")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(_run(parser.parse_args(options)))


async def _run(chosen: argparse.Namespace) -> None:
    async with installation(logins_per_minute=10_000_000) as running:
        running.children["worker"].terminate()
        running.children["worker"].wait()
        people = await _people(running)
        figures: dict[str, list[float]] = {}
        for _ in range(chosen.rounds):
            floor = await asyncio.to_thread(_raw_cost, chosen.calls)
            spent = await _cost(running, people, chosen.calls)
            figures.setdefault("raw Argon2", []).append(floor * 1e3)
            for name, value in spent.items():
                figures.setdefault(name, []).append(value * 1e3)
            figures.setdefault("server / raw", []).append(spent["server"] / floor)
            figures.setdefault("all / raw", []).append(sum(spent.values()) / floor)
        print(f"\nCPU per login in ms, and ratios; {chosen.calls} x {chosen.rounds}")
        for name, values in figures.items():
            low, middle, high = min(values), statistics.median(values), max(values)
            print(f"  {name:14} {middle:.2f} ({low:.2f} to {high:.2f})")
        await _crowd(running, people)


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
    running: Installation, people: list[dict[str, str]], calls: int
) -> dict[str, float]:
    """CPU-seconds per login, by part."""
    pids = {
        "server": running.children["server"].pid,
        "postgres": running.stack.pid("postgres"),
        "redis": running.stack.pid("redis"),
    }

    async def caller(mine: int) -> None:
        for number in range(calls // PARALLEL):
            who = people[(mine + number * PARALLEL) % PEOPLE]
            await running.admin.identity.Login(password=PASSWORD, **who)

    before = {name: usage(pid).cpu_s for name, pid in pids.items()}
    await asyncio.gather(*(caller(mine) for mine in range(PARALLEL)))
    done = calls // PARALLEL * PARALLEL
    return {name: (usage(pid).cpu_s - before[name]) / done for name, pid in pids.items()}


def _raw_cost(calls: int) -> float:
    """CPU-seconds per verification, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_raw, (calls,))


def _raw(calls: int) -> float:
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
    for _ in range(10):
        verify_secret(stored, PASSWORD.encode(), Type.ID)
    started = time.process_time()
    for _ in range(calls):
        verify_secret(stored, PASSWORD.encode(), Type.ID)
    return (time.process_time() - started) / calls


async def _crowd(running: Installation, people: list[dict[str, str]]) -> None:
    """A hundred at once, and a reader beside them."""
    server = running.children["server"].pid
    idle = usage(server).resident

    async def reading(seconds_each: list[float], stop: asyncio.Event) -> None:
        while not stop.is_set():
            started = time.perf_counter()
            await running.admin.identity.GetMe()
            seconds_each.append(time.perf_counter() - started)

    async def beside(work: Any) -> tuple[Any, float]:
        times: list[float] = []
        stop = asyncio.Event()
        reader = asyncio.create_task(reading(times, stop))
        answer = await work
        stop.set()
        await reader
        return answer, sorted(times)[int(len(times) * 0.99)]

    _, quiet = await beside(asyncio.sleep(2))
    crowd = asyncio.gather(
        *(
            running.admin.identity.Login(password=PASSWORD, **people[number % PEOPLE])
            for number in range(100)
        ),
        return_exceptions=True,
    )
    answers, busy = await beside(crowd)
    inside = sum(not isinstance(answer, BaseException) for answer in answers)
    more = (usage(server).peak - idle) / 2**20
    print(f"  100 at once    {inside} got in, {more:.0f} MiB above idle at the peak")
    print(f"  GetMe p99      {quiet * 1e3:.1f} ms idle, {busy * 1e3:.1f} ms beside them")
