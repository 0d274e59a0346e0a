"""Real worker processes to kill, the assistant's view of what arrived, and the books of a run.

`stage` is a server with an organisation and its target; `stage.worker()` is a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, LiteralString
from urllib.request import Request, urlopen

import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from psycopg.rows import dict_row

from chimera.campaigns.conversations.turns import Turn, transcript_of
from chimera.embedded.stack import Stack, StackUrls
from chimera.settings import Settings
from chimera.v1.campaigns_pb2 import CampaignPlan, Run
from chimera.v1.providers_pb2 import Provider
from tests.support.campaigns import LIVE, assistant_models, launched, secret_plan, secret_template
from tests.support.processes import Process, environment_of
from tests.support.world import Organisation, Person, World

__all__ = ["Assistant", "Books", "Stage", "Worker", "open_stage", "stage", "until"]

# Short enough that a takeover is quick, long enough that a busy machine does not lose leases.
LEASE_S, HEARTBEAT_S = 2.0, 0.5


async def until(
    reached: Callable[[], Awaitable[Any]],
    what: str,
    *,
    seconds: float = 45.0,
    every_s: float = 0.03,
) -> Any:
    """The first true answer; the limit only ends a test that has failed."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not (answer := await reached()):
        assert asyncio.get_running_loop().time() < deadline, f"never: {what}"
        await asyncio.sleep(every_s)
    return answer


class Assistant:
    """The target: what arrived there, and how it misbehaves."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def fault(self, *faults: dict[str, Any]) -> None:
        await self._ask("POST", "/faults", list(faults))

    async def slow(self, ms: float) -> None:
        """Every answer takes so long."""
        await self.fault({"kind": "latency", "ms": ms})

    async def heal(self) -> None:
        await self._ask("DELETE", "/faults")

    async def forget_stats(self) -> None:
        await self._ask("DELETE", "/stats")

    async def forget(self) -> None:
        await self.heal()
        await self.forget_stats()

    async def stats(self, run_id: str = "") -> dict[str, Any]:
        """See chimera.embedded.assistant.Stats; only `cells` is of the run alone."""
        answer: dict[str, Any] = await self._ask("GET", f"/stats?run_id={run_id}")
        return answer

    async def arrived(self, run_id: str) -> Counter[int]:
        """Calls that arrived for each cell, whatever the attempt."""
        seen: Counter[int] = Counter()
        for name, calls in (await self.stats(run_id))["cells"].items():
            seen[int(name.split(":")[1])] += calls
        return seen

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        def ask() -> Any:
            data = None if body is None else json.dumps(body).encode()
            with urlopen(Request(self.url + path, data=data, method=method), timeout=10) as answer:
                return json.loads(answer.read())

        return await asyncio.to_thread(ask)


class Worker:
    """A worker process."""

    def __init__(self, settings: Settings, log: Path, more: dict[str, Any]) -> None:
        environment = environment_of(
            settings, **{"lease_s": LEASE_S, "heartbeat_s": HEARTBEAT_S, "drain_s": 10} | more
        )
        variables = {key: str(value) for key, value in more.items() if key.isupper()}
        # Variables are for the interpreter, which reads them when it starts.
        self.process = Process("workers.main", environment | variables, log, warm=not variables)

    @property
    def pid(self) -> int:
        return self.process.child.pid

    async def kill(self) -> None:
        """kill -9, and gone."""
        self.process.child.kill()
        await asyncio.to_thread(self.process.child.wait)

    async def terminate(self) -> int:
        """SIGTERM; the exit code."""
        return await asyncio.to_thread(self.process.terminated)

    async def ended(self, seconds: float = 45.0) -> int:
        """The exit code, once it ended by itself."""
        return await asyncio.to_thread(self.process.child.wait, seconds)

    def freeze(self) -> None:
        """SIGSTOP: it neither works nor notices."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@dataclass(frozen=True)
class Money:
    """Of a run, in US dollars."""

    settled: Decimal
    held: Decimal
    cost_max: Decimal | None


class Books:
    """The tables of a run as a superuser sees them."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.database_url.get_secret_value()

    async def rows(self, query: LiteralString, **values: Any) -> list[dict[str, Any]]:
        connection = await psycopg.AsyncConnection.connect(self.url, row_factory=dict_row)
        async with connection:
            return await (await connection.execute(query, values)).fetchall()

    async def value(self, query: LiteralString, **values: Any) -> Any:
        row = (await self.rows(query, **values))[0]
        return next(iter(row.values()))

    async def actions(self, entity_id: str) -> list[str]:
        """What the audit log was told of a thing and has not sealed yet, by name."""
        rows = await self.rows(
            "SELECT facts->>'action' AS action FROM audit.pending "
            "WHERE facts->>'entity_id' = %(entity_id)s ORDER BY 1",
            entity_id=entity_id,
        )
        return [row["action"] for row in rows]

    async def recorded(self, run_id: str) -> list[int]:
        rows = await self.rows(
            "SELECT cell_no FROM campaigns.executions WHERE run_id = %(run_id)s ORDER BY cell_no",
            run_id=run_id,
        )
        return [row["cell_no"] for row in rows]

    async def attempts(self, run_id: str, state: str = "") -> list[dict[str, Any]]:
        return await self.rows(
            "SELECT * FROM campaigns.attempts WHERE run_id = %(run_id)s "
            "AND (%(state)s = '' OR state = %(state)s) ORDER BY cell_no, attempt_no",
            run_id=run_id,
            state=state,
        )

    async def money(self, run_id: str) -> Money:
        row = await self.rows(
            "SELECT settled, held, cost_max FROM campaigns.run_money WHERE run_id = %(run_id)s",
            run_id=run_id,
        )
        return Money(**row[0])

    async def check(self, run_id: str, *, cells: int | None = None) -> None:
        """What must hold at any moment between two transactions; with `cells`, also that each of
        so many cells was recorded, and that nothing is held for any of them."""
        recorded = await self.recorded(run_id)
        told = await self.rows(
            "SELECT unnest(cells) AS cell_no FROM campaigns.flushes "
            "WHERE run_id = %(run_id)s ORDER BY 1",
            run_id=run_id,
        )
        assert [row["cell_no"] for row in told] == recorded, "flushes and executions differ"
        assert await self._tallies(run_id) == await self._recount(run_id)
        await self._check_money(run_id)
        if cells is not None:
            assert recorded == list(range(cells))
            assert not await self.attempts(run_id, "sent")
            assert (await self.money(run_id)).held == 0

    async def _tallies(self, run_id: str) -> list[dict[str, Any]]:
        return await self.rows(
            """
            SELECT technique_no, target_no, sum(scored)::bigint AS scored,
                   sum(successes)::bigint AS successes, sum(failed)::bigint AS failed,
                   sum(parked)::bigint AS parked, sum(latency_ms_sum)::bigint AS latency_ms_sum,
                   sum(input_tokens)::bigint AS input_tokens,
                   sum(output_tokens)::bigint AS output_tokens, sum(cost) AS cost
              FROM campaigns.tallies WHERE run_id = %(run_id)s
             GROUP BY technique_no, target_no ORDER BY technique_no, target_no
            """,
            run_id=run_id,
        )

    async def _recount(self, run_id: str) -> list[dict[str, Any]]:
        return await self.rows(
            """
            SELECT technique_no, target_no, count(*) FILTER (WHERE state = 'succeeded') AS scored,
                   count(*) FILTER (WHERE is_successful) AS successes,
                   count(*) FILTER (WHERE state = 'failed') AS failed,
                   count(*) FILTER (WHERE state = 'parked') AS parked,
                   COALESCE(sum(latency_ms) FILTER (WHERE state = 'succeeded'), 0) AS latency_ms_sum,
                   sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
                   sum(cost) AS cost
              FROM campaigns.executions WHERE run_id = %(run_id)s
             GROUP BY technique_no, target_no ORDER BY technique_no, target_no
            """,
            run_id=run_id,
        )

    async def _check_money(self, run_id: str) -> None:
        """The ledger, the attempts, the executions and the run's money tell one story."""
        row = (
            await self.rows(
                """
                SELECT (SELECT COALESCE(sum(cost), 0) FROM providers.ledger
                         WHERE run_id = %(run_id)s) AS ledger,
                       (SELECT COALESCE(sum(cost), 0) FROM providers.ledger
                         WHERE run_id = %(run_id)s AND discarded) AS discarded,
                       (SELECT COALESCE(sum(cost), 0) FROM campaigns.executions
                         WHERE run_id = %(run_id)s) AS executions,
                       (SELECT COALESCE(sum(t.cost), 0) FROM campaigns.turns t
                         WHERE t.run_id = %(run_id)s
                           AND NOT EXISTS (SELECT FROM campaigns.executions e
                                WHERE e.run_id = t.run_id AND e.cell_no = t.cell_no)) AS open_turns,
                       (SELECT COALESCE(sum(cost), 0) FROM campaigns.attempts
                         WHERE run_id = %(run_id)s AND state <> 'sent') AS attempts,
                       (SELECT COALESCE(sum(worst_cost + reserve), 0) FROM campaigns.attempts
                         WHERE run_id = %(run_id)s AND state = 'sent') AS in_flight,
                       settled, held
                  FROM campaigns.run_money WHERE run_id = %(run_id)s
                """,
                run_id=run_id,
            )
        )[0]
        assert row["ledger"] == row["executions"] + row["open_turns"] + row["discarded"], row
        assert row["ledger"] == row["attempts"] == row["settled"], row
        assert row["held"] == row["in_flight"], row
        await self._check_conversations(run_id)

    async def _check_conversations(self, run_id: str) -> None:
        """Turns come in order and without holes, each from a settled attempt of its own; what a seat
        settled and holds is what its calls did; the sums and the hash of a cell are its turns'."""
        assert not await self.rows(
            """
            SELECT t.cell_no FROM campaigns.turns t
              LEFT JOIN campaigns.attempts a USING (run_id, cell_no, attempt_no)
             WHERE t.run_id = %(run_id)s
               AND (a.state IS DISTINCT FROM 'settled' OR a.cost <> t.cost OR a.purpose <> t.purpose)
            """,
            run_id=run_id,
        )
        assert not await self.rows(
            """
            SELECT cell_no FROM campaigns.turns WHERE run_id = %(run_id)s GROUP BY cell_no
            HAVING max(turn_no) <> count(*) OR count(DISTINCT attempt_no) <> count(*)
            """,
            run_id=run_id,
        )
        seats = await self.rows(
            """
            SELECT purpose, sum(settled) AS settled, sum(held) AS held FROM campaigns.seats
             WHERE run_id = %(run_id)s GROUP BY purpose ORDER BY purpose
            """,
            run_id=run_id,
        )
        for seat in seats:
            row = await self.rows(
                """
                SELECT COALESCE(sum(cost) FILTER (WHERE state <> 'sent'), 0) AS settled,
                       COALESCE(sum(worst_cost + reserve) FILTER (WHERE state = 'sent'), 0) AS held
                  FROM campaigns.attempts WHERE run_id = %(run_id)s AND purpose = %(purpose)s
                """,
                run_id=run_id,
                purpose=seat["purpose"],
            )
            assert (seat["settled"], seat["held"]) == (row[0]["settled"], row[0]["held"]), seat
        for execution in await self.rows(
            "SELECT cell_no, turn_count, transcript FROM campaigns.executions "
            "WHERE run_id = %(run_id)s AND ended_by <> ''",
            run_id=run_id,
        ):
            turns = await self.turns(run_id, execution["cell_no"])
            assert execution["turn_count"] == len(turns), execution
            assert execution["transcript"].hex() == transcript_of(turns), execution

    async def turns(self, run_id: str, cell_no: int | None = None) -> list[Turn]:
        """Of a cell, or of all in order."""
        rows = await self.rows(
            "SELECT * FROM campaigns.turns WHERE run_id = %(run_id)s "
            "AND (%(cell_no)s::bigint IS NULL OR cell_no = %(cell_no)s) ORDER BY cell_no, turn_no",
            run_id=run_id,
            cell_no=cell_no,
        )
        return [Turn(**{name: row[name] for name in Turn.__slots__}) for row in rows]


class Stage:
    """A server, an organisation with a target, and worker processes as they are wanted."""

    def __init__(
        self, world: World, stack: StackUrls, settings: Settings, folder: Path, acme: Organisation
    ) -> None:
        self.world, self.stack, self.settings, self.folder = world, stack, settings, folder
        self.acme = acme
        self.olivia: Person = acme.admin
        self.assistant = Assistant(stack.assistant_url)
        self.books = Books(settings)
        self.workers: list[Worker] = []

    def worker(self, **more: Any) -> Worker:
        """A new process; `more` are settings, or variables of its environment in capitals."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        worker = Worker(self.settings, log, more)
        self.workers.append(worker)
        return worker

    async def plan(
        self,
        names: Sequence[str] = ("guard-none",),
        *,
        provider: dict[str, Any] | None = None,
        **plan: Any,
    ) -> CampaignPlan:
        """A plan on new models of the assistant, see secret_plan."""
        provider = dict(provider or {})
        url = provider.pop("url", self.stack.assistant_url)
        models = await assistant_models(self.olivia, url, names)
        if provider:
            made = (await self.olivia.providers.ListProviders()).providers[0]
            await self.olivia.providers.UpdateProvider(
                provider=Provider(id=made.id, **provider),
                update_mask=FieldMask(paths=list(provider)),
            )
        return secret_plan(await secret_template(self.olivia), models, **plan)

    async def launched(self, plan: CampaignPlan, name: str = "campaign") -> Run:
        return await launched(self.olivia, plan, name)

    async def run(self, run_id: str) -> Run:
        run: Run = (await self.olivia.campaigns.GetRun(run_id=run_id)).run
        return run

    async def over(self, run_id: str, *, seconds: float = 45.0) -> Run:
        """The run, once it is over. Polled, so that it outlives a lost database."""

        async def over() -> Run | None:
            run = await self.run(run_id)
            return None if run.state in LIVE else run

        answer: Run = await until(over, "the run is over", seconds=seconds, every_s=0.1)
        return answer

    async def arrivals(self, run_id: str, calls: int) -> None:
        """Waits until so many calls of the run have arrived at the target."""

        async def enough() -> bool:
            return (await self.assistant.arrived(run_id)).total() >= calls

        await until(enough, f"{calls} calls arrive")

    async def results(self, run_id: str, count: int) -> None:
        """Waits until so many cells are recorded."""

        async def enough() -> bool:
            return len(await self.books.recorded(run_id)) >= count

        await until(enough, f"{count} results")

    def close(self) -> None:
        """Ends the workers; what they said is shown with a test that failed."""
        for number, worker in enumerate(self.workers):
            if worker.process.child.poll() is None:
                worker.process.child.kill()
                worker.process.child.wait()
            print(f"--- worker {number}\n{worker.process.said()[-3000:]}")


@asynccontextmanager
async def open_stage(
    world: World, stack: StackUrls, settings: Settings, folder: Path
) -> AsyncIterator[Stage]:
    acme = await world.organisation("acme", operator=True)
    stage = Stage(world, stack, settings, folder, acme)
    await stage.assistant.forget()
    try:
        yield stage
    finally:
        stage.close()
        await stage.assistant.heal()


@pytest.fixture
async def stage(
    world: World, running_stack: Stack, settings: Settings, tmp_path: Path
) -> AsyncIterator[Stage]:
    async with open_stage(world, running_stack.urls, settings, tmp_path) as opened:
        yield opened
