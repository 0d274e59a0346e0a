"""Telemetry: how much comes in, how soon it is acknowledged, how fast it is asked about.

    python -m bench telemetry [ingest|burst|outage|queries] [--seconds 60] [--events 50000000]

ingest: both forms, paced at a rate and at half of it, through gRPC into server, PostgreSQL, worker and
ClickHouse; a backlog that grows says that the rate is too much. burst: in columns, for a third of the
time, more than the machine may be able to take for long. outage: the column store is away for two
minutes under load, Redis is flushed, PostgreSQL restarts; then accepted = stored + dead-lettered.
queries: against roll-ups of so many events, made inside ClickHouse. Senders are counted apart.

The floor of an acknowledgement is a write that reaches the disk: a process beside the senders writes one
page over and over, ten times a second, with fdatasync.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc

from bench.installation import Installation, installation, until
from chimera.v1 import telemetry_pb2_grpc
from chimera.v1.telemetry_pb2 import (
    EventBatch,
    EventColumns,
    EventFilter,
    EventRows,
    RecordEventsRequest,
    TelemetryDimension,
    TelemetryEvent,
    TelemetryOrder,
    TelemetryStep,
    TextColumn,
)
from tests.support.world import Person

# Events a second, events a batch. A little over the bars (30,000 and 8,000), so that what is taken, counted
# until the last acknowledgement, is not below them.
FORMS = {"columns": (30_600, 2_000), "rows": (8_160, 500)}
FLOOR_BYTES, FLOOR_EVERY_S = 4096, 0.1
BURSTS = ((60_000, 4_000), (100_000, 10_000))
D = TelemetryDimension
DAY = TelemetryStep.TELEMETRY_STEP_DAY


def main(options: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench telemetry")
    parser.add_argument("parts", nargs="*", default=["ingest", "burst", "outage", "queries"])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--away", type=float, default=120)
    parser.add_argument("--events", type=int, default=50_000_000)
    parser.add_argument("--rounds", type=int, default=30)
    chosen = parser.parse_args(options)
    for part in chosen.parts:
        run = {"ingest": _ingest, "burst": _burst, "outage": _outage, "queries": _queries}[part]
        asyncio.run(run(chosen))


def batch_of(form: str, events: int, seed: int) -> EventBatch:
    """A batch of model calls such as a gateway tells of; its id is given when it is sent."""
    chance = random.Random(seed)
    models, techniques = ["guard-1", "guard-2", "guard-3"], ["plain", "base64", "rot13", "story"]
    if form == "rows":
        rows = [
            TelemetryEvent(
                event_type="llm.call",
                event_category="gateway",
                workload_id=f"load-{chance.randrange(8)}",
                correlation_id=f"{chance.getrandbits(64):016x}",
                latency_ms=chance.randrange(2000),
                cost_usd=f"0.{chance.randrange(10**6):012d}",
                metrics={"input_tokens": chance.randrange(900), "output_tokens": 90},
                dimensions={"model": chance.choice(models), "technique": chance.choice(techniques)},
            )
            for _ in range(events)
        ]
        return EventBatch(producer="bench", rows=EventRows(events=rows))
    columns = EventColumns(
        count=events,
        event_types=TextColumn(dictionary=["llm.call"]),
        event_categories=TextColumn(dictionary=["gateway"]),
        workload_ids=TextColumn(
            dictionary=[f"load-{n}" for n in range(8)],
            codes=[chance.randrange(8) for _ in range(events)],
        ),
        correlation_ids=TextColumn(
            dictionary=[f"{chance.getrandbits(64):016x}" for _ in range(events)],
            codes=range(events),
        ),
        latencies_ms=[chance.randrange(2000) for _ in range(events)],
        costs_picousd=[chance.randrange(10**9) for _ in range(events)],
    )
    for name, values in (("model", models), ("technique", techniques)):
        codes = [chance.randrange(len(values)) for _ in range(events)]
        columns.dimensions.add(name=name, values=TextColumn(dictionary=values, codes=codes))
    columns.metrics.add(
        name="input_tokens", unit="tokens", values=[chance.randrange(900) for _ in range(events)]
    )
    columns.metrics.add(name="output_tokens", unit="tokens", values=[90.0] * events)
    return EventBatch(producer="bench", columns=columns)


def _send(
    address: str, metadata: Any, form: str, rate: float, size: int, seconds: float, pipe: Any
) -> None:
    """In a process of its own: batches at a steady rate, four at a time at most; then
    (events, each acknowledgement as (seconds from the start, milliseconds), refusals)."""

    async def run() -> tuple[int, list[tuple[float, float]], int]:
        samples = [batch_of(form, size, seed) for seed in range(4)]
        latencies: list[tuple[float, float]] = []
        refused = 0
        channels = [
            grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
            for _ in range(4)
        ]
        stubs = [telemetry_pb2_grpc.TelemetryServiceStub(channel) for channel in channels]
        pipe.send("ready")
        started = time.monotonic()
        numbers = iter(range(int(seconds * rate / size)))

        async def sender(stub: Any) -> None:
            nonlocal refused
            for number in numbers:
                await asyncio.sleep(max(0.0, started + number * size / rate - time.monotonic()))
                batch = EventBatch()
                batch.CopyFrom(samples[number % len(samples)])
                batch.batch_id = str(uuid4())
                request = RecordEventsRequest(batch=batch)
                while True:
                    sent = time.monotonic()
                    try:
                        await stub.RecordEvents(request, metadata=metadata, timeout=30)
                    except grpc.aio.AioRpcError:
                        refused += 1
                        await asyncio.sleep(0.2)
                        continue
                    took_ms = (time.monotonic() - sent) * 1000
                    latencies.append((sent - started, took_ms))
                    break

        await asyncio.gather(*(sender(stub) for stub in stubs))
        for channel in channels:
            await channel.close()
        return len(latencies) * size, latencies, refused

    pipe.send(asyncio.run(run()))


class _Beside:
    """`work` in a process of its own: it says "ready" on its pipe, its last value, and in the end what
    it found."""

    def __init__(self, work: Callable[..., None], *given: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, child = context.Pipe()
        self.process = context.Process(target=work, args=(*given, child), daemon=True)

    async def start(self) -> None:
        self.process.start()
        await asyncio.to_thread(self.pipe.recv)

    async def done(self) -> Any:
        found = await asyncio.to_thread(self.pipe.recv)
        self.process.join()
        return found


def _sender(running: Installation, form: str, rate: float, size: int, seconds: float) -> _Beside:
    admin = running.admin.metadata()
    return _Beside(_send, running.settings.listen, admin, form, rate, size, seconds)


def _write(folder: Path, pipe: Any) -> None:
    """In a process of its own: milliseconds of each write, until it is told to end."""
    took_ms = []
    with (folder / "floor").open("wb", buffering=0) as file:
        file.write(bytes(FLOOR_BYTES))
        os.fsync(file.fileno())
        pipe.send("ready")
        while not pipe.poll(FLOOR_EVERY_S):
            began = time.monotonic()
            os.pwrite(file.fileno(), os.urandom(FLOOR_BYTES), 0)
            os.fdatasync(file.fileno())
            took_ms.append((time.monotonic() - began) * 1000)
    pipe.send(took_ms)


async def _waiting(person: Person) -> int:
    status = await person.telemetry.GetIngestStatus()
    waiting: int = status.waiting
    return waiting


async def _ingest(chosen: argparse.Namespace) -> None:
    async with installation() as running:
        for form, (rate, size) in FORMS.items():
            for share in (0.5, 1.0):
                await _measure(running, form, rate * share, size, chosen.seconds)


async def _burst(chosen: argparse.Namespace) -> None:
    async with installation() as running:
        for rate, size in BURSTS:
            await _measure(running, "columns", rate, size, chosen.seconds / 3)


async def _measure(
    running: Installation, form: str, rate: float, size: int, seconds: float
) -> None:
    warm = _sender(running, form, rate, size, 3)
    await warm.start()
    await warm.done()
    await until(lambda: _drained(running))
    sender = _sender(running, form, rate, size, seconds)
    disk = _Beside(_write, running.settings.home)
    await disk.start()
    await sender.start()
    before, began = running.usages(), time.monotonic()
    backlog: list[int] = []
    done = asyncio.create_task(sender.done())
    while not done.done():
        await asyncio.wait({done}, timeout=1.0)
        backlog.append(await _waiting(running.admin))
    events, acknowledged, refused = await done
    disk.pipe.send("enough")
    written = await disk.done()
    latencies = [took_ms for _, took_ms in acknowledged]
    slowest = sorted(acknowledged, key=lambda one: -one[1])[:5]
    took_s = time.monotonic() - began
    drained_s = await until(lambda: _drained(running))
    after = running.usages()
    spent = {name: after[name].cpu_s - before[name].cpu_s for name in before if name != "target"}
    cuts, floor = (
        statistics.quantiles(values, n=100, method="inclusive") for values in (latencies, written)
    )
    third = max(1, len(backlog) // 3)
    print(
        f"\n{form}, {size} a batch, {rate:,.0f} events/s asked, {events / took_s:,.0f} taken"
        f" ({events:,} in {took_s:.1f} s, {refused} refused)\n"
        f"  acknowledged in p50 {cuts[49]:.1f} p95 {cuts[94]:.1f} p99 {cuts[98]:.1f} max"
        f" {max(latencies):.1f} ms; the slowest"
        f" {', '.join(f'{ms:.0f} ms at {at_s:.1f} s' for at_s, ms in sorted(slowest))}\n"
        f"  a bare write beside it p50 {floor[49]:.1f} p95 {floor[94]:.1f} p99 {floor[98]:.1f} max"
        f" {max(written):.1f} ms\n"
        f"  waiting events, mean of first third {statistics.mean(backlog[:third]):,.0f}, of last"
        f" {statistics.mean(backlog[-third:]):,.0f}, most {max(backlog):,}; empty {drained_s:.1f} s"
        " after the end\n"
        "  CPU-seconds per 100,000 events: "
        + ", ".join(f"{name} {cpu / events * 1e5:.2f}" for name, cpu in spent.items())
        + f"; together {sum(spent.values()) / events * 1e5:.2f}"
    )


async def _drained(running: Installation) -> bool:
    return not await _waiting(running.admin)


async def _outage(chosen: argparse.Namespace) -> None:
    import redis

    async with installation() as running:
        seconds = chosen.away + 30
        senders = [
            _sender(running, form, rate / 4, size, seconds) for form, (rate, size) in FORMS.items()
        ]
        for sender in senders:
            await sender.start()
        done = asyncio.gather(*(sender.done() for sender in senders))
        await asyncio.sleep(5)
        print("\nthe column store is killed")
        await asyncio.to_thread(running.stack.kill, "clickhouse")
        await asyncio.sleep(chosen.away / 2)
        redis.Redis.from_url(running.urls.redis_url).flushall()
        print("Redis is flushed; PostgreSQL restarts")
        await asyncio.to_thread(running.stack.kill, "postgres")
        await asyncio.to_thread(running.stack.restart, "postgres")
        await asyncio.sleep(chosen.away / 2)
        most = await _waiting(running.admin)
        await asyncio.to_thread(running.stack.restart, "clickhouse")
        print(f"the column store is back after {chosen.away:.0f} s; {most:,} events wait")
        results = await done
        took_s = await until(lambda: _drained(running), timeout_s=600)
        status = await running.admin.telemetry.GetIngestStatus()
        sent = sum(events for events, _, _ in results)
        refused = sum(count for _, _, count in results)
        from clickhouse_driver import Client

        with Client.from_url(running.urls.clickhouse_url) as client:
            ((rows, different),) = client.execute(
                "SELECT count(), uniqExact(event_id) FROM workload_events"
            )
            ((rolled,),) = client.execute("SELECT sum(events) FROM events_daily")
        print(
            f"acknowledged to senders {sent:,} ({refused} tries refused), accepted"
            f" {status.accepted:,}, stored {status.stored:,}, dead {status.dead_lettered:,};"
            f" in the store {rows:,}, different {different:,}, in the roll-up {rolled:,};"
            f" empty {took_s:.1f} s after the last"
        )


LOAD = """
    INSERT INTO workload_events
           (org_id, event_type, event_category, timestamp, workload_id, event_id, user_id, campaign_id,
            session_id, correlation_id, metrics.name, metrics.value, metrics.unit, dimensions, payload,
            latency_ms, cost, batch_id)
    SELECT toUUID(%(org)s), ['llm.call', 'execution.recorded', 'tool.call'][1 + n %% 3], 'bench',
           fromUnixTimestamp64Milli(toInt64(%(start_ms)s + n * %(gap_ms)s), 'UTC'),
           concat('load-', toString(load)), reinterpretAsUUID(sipHash128(n)),
           reinterpretAsUUID(sipHash128('user', load %% 20)),
           reinterpretAsUUID(sipHash128('campaign', load %% 50)), '', '',
           ['tokens'], [toFloat64(cityHash64(n) %% 1000)], ['tokens'],
           map('provider', 'assistant', 'model', concat('guard-', toString(cityHash64(n, 1) %% 4)),
               'technique', concat('technique-', toString(cityHash64(n, 2) %% 6)),
               'error_kind', if(cityHash64(n, 3) %% 20 = 0, 'timeout', '')), '',
           toUInt32(exp(3 + (cityHash64(n, 4) %% 1000) / 250)),
           toDecimal128((cityHash64(n, 5) %% 1000000) / 1e9, 12), toUUID(%(batch)s)
      FROM (SELECT number AS n, intDiv(number, 100000) * 4 + number %% 4 AS load
              FROM numbers(%(first)s, %(count)s))
"""


async def _queries(chosen: argparse.Namespace) -> None:
    from clickhouse_driver import Client

    async with installation() as running:
        running.children["worker"].terminate()
        running.children["worker"].wait()
        me = await running.admin.identity.GetMe()
        days = 30
        start_ms = int(time.time() * 1000) - days * 86_400_000
        with Client.from_url(running.urls.clickhouse_url) as client:
            before, began, step = running.usages()["clickhouse"].cpu_s, time.monotonic(), 500_000
            for first in range(0, chosen.events, step):
                client.execute(
                    LOAD,
                    {
                        "org": me.organisation.id,
                        "start_ms": start_ms,
                        "gap_ms": days * 86_400_000 / chosen.events,
                        "first": first,
                        "count": min(step, chosen.events - first),
                        "batch": str(UUID(int=first)),
                    },
                    settings={"max_partitions_per_insert_block": 0},
                )
            cpu = running.usages()["clickhouse"].cpu_s - before
            print(
                f"\n{chosen.events:,} events made in {time.monotonic() - began:.0f} s,"
                f" {cpu / chosen.events * 1e5:.2f} CPU-seconds per 100,000"
            )
            for table in (
                "workload_events",
                "events_minute",
                "events_hourly",
                "events_daily",
                "event_slices_hourly",
                "event_slices_daily",
                "event_totals_daily",
                "event_slice_totals_daily",
            ):
                ((rows, size),) = client.execute(
                    "SELECT sum(rows), sum(bytes_on_disk) FROM system.parts"
                    " WHERE active AND database = currentDatabase() AND table = %(table)s",
                    {"table": table},
                )
                print(f"  {table:24} {rows:>12,} rows {size / 1e6:>9,.1f} MB")
        await _ask(running, chosen.rounds)


async def _ask(running: Installation, rounds: int) -> None:
    from tests.integration.telemetry.sending import within

    t = running.admin.telemetry
    by_model, by_campaign = [D.TELEMETRY_DIMENSION_MODEL], [D.TELEMETRY_DIMENSION_CAMPAIGN]
    workload = [D.TELEMETRY_DIMENSION_WORKLOAD]
    month, week, day, hours = 24 * 30.0, 24 * 7.0, 24.0, 5.5
    questions: dict[str, Any] = {
        "30 days by hour": lambda: t.QuerySeries(**within(month)),
        "30 days by day and campaign": lambda: t.QuerySeries(
            **within(month + 48), group_by=by_campaign
        ),
        "7 days by hour and model": lambda: t.QuerySeries(**within(week), group_by=by_model),
        "24 hours by hour, 3 groupings": lambda: t.QuerySeries(
            **within(day), group_by=[*by_model, D.TELEMETRY_DIMENSION_TECHNIQUE, *by_campaign]
        ),
        "24 hours by hour, percentiles": lambda: t.QuerySeries(
            **within(day), with_percentiles=True
        ),
        "30 days by hour, percentiles": lambda: t.QuerySeries(
            **within(month), with_percentiles=True
        ),
        "7 days by hour, model, percentiles": lambda: t.QuerySeries(
            **within(week), group_by=by_model, with_percentiles=True
        ),
        "7 days, 2 groupings, percentiles": lambda: t.QuerySeries(
            **within(week),
            group_by=[*by_model, D.TELEMETRY_DIMENSION_TECHNIQUE],
            with_percentiles=True,
        ),
        "30 days, campaign and model, perc.": lambda: t.QuerySeries(
            **within(month), step=DAY, group_by=[*by_campaign, *by_model], with_percentiles=True
        ),
        "7 days by day, 3 groupings, perc.": lambda: t.QuerySeries(
            **within(week),
            step=DAY,
            group_by=[*by_model, D.TELEMETRY_DIMENSION_TECHNIQUE, *by_campaign],
            with_percentiles=True,
        ),
        "6 hours by minute": lambda: t.QuerySeries(**within(hours)),
        "one campaign, 30 days by hour": lambda: t.QuerySeries(
            **within(month),
            filter=EventFilter(event_types=["llm.call"], models=["guard-1"]),
        ),
        "tokens, 7 days by hour": lambda: t.QuerySeries(**within(week), metric="tokens"),
        "tokens, 30 days by hour, percentiles": lambda: t.QuerySeries(
            **within(month), metric="tokens", with_percentiles=True
        ),
        "top workloads by cost, 60 days": lambda: t.QueryTop(
            **within(month * 2), group_by=workload, order=TelemetryOrder.TELEMETRY_ORDER_COST
        ),
        "top models by p95, 30 days": lambda: t.QueryTop(
            **within(month), group_by=by_model, order=TelemetryOrder.TELEMETRY_ORDER_P95
        ),
        "top campaign and model by p95, 30 d": lambda: t.QueryTop(
            **within(month),
            group_by=[*by_campaign, *by_model],
            order=TelemetryOrder.TELEMETRY_ORDER_P95,
        ),
        "recent workloads": lambda: t.ListRecentWorkloads(),
        "user activity": lambda: t.ListUserActivity(),
        "newest 50 events": lambda: t.ListEvents(),
        "raw: 24 hours by hour and model": lambda: t.QuerySeries(
            **within(day), group_by=by_model, is_exact=True
        ),
        "raw: 7 days, top types by p95": lambda: t.QueryTop(
            **within(week),
            group_by=[D.TELEMETRY_DIMENSION_EVENT_TYPE],
            order=TelemetryOrder.TELEMETRY_ORDER_P95,
            is_exact=True,
        ),
    }
    print(
        f"  {rounds} times each, milliseconds:   rows    first      p50      p95      max"
        "  CPU of ClickHouse"
    )
    rolled_up: list[float] = []
    for name, ask in questions.items():
        began = time.monotonic()
        answer = await ask()
        first_ms = (time.monotonic() - began) * 1000
        rows = max(len(value) for field, value in answer.ListFields() if field.is_repeated)
        before = running.usages()["clickhouse"].cpu_s
        took = []
        for _ in range(rounds):
            began = time.monotonic()
            await ask()
            took.append((time.monotonic() - began) * 1000)
        cpu_ms = (running.usages()["clickhouse"].cpu_s - before) / rounds * 1000
        cuts = statistics.quantiles(took, n=20, method="inclusive")
        print(
            f"  {name:36} {rows:5,} {first_ms:8.1f} {cuts[9]:8.1f} {cuts[18]:8.1f}"
            f" {max(took):8.1f} {cpu_ms:8.1f}"
        )
        if not name.startswith("raw"):
            rolled_up += took
    cuts = statistics.quantiles(rolled_up, n=20, method="inclusive")
    print(
        f"  {'all of them but raw':42} {'':8} {cuts[9]:8.1f} {cuts[18]:8.1f} {max(rolled_up):8.1f}"
    )
