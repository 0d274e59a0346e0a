"""The audit log: capture and sealing against a raw INSERT, proofs, verification, at two sizes.

    .venv/bin/python -m bench audit [--events 1000000]

No server and no worker run: one connection captures, one sealer seals, PostgreSQL is beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from psycopg.rows import dict_row

from bench.processes import usage
from chimera import migrate
from chimera.audit import merkle
from chimera.audit.bundle import encode_line
from chimera.audit.inspection import Inspection, verify_live
from chimera.audit.operations import find_checkpoint, get_inclusion_proof
from chimera.audit.recording import record
from chimera.audit.sealer import Sealer
from chimera.audit.signing_home import load_signer
from chimera.audit.verify import verify_bundle
from chimera.call import Call, Caller
from chimera.core import open_core, open_database
from chimera.db import Nothing, sql
from chimera.embedded.stack import Stack
from chimera.ids import new_id
from chimera.pools import Database
from chimera.settings import Settings
from chimera.v1.audit_pb2 import GetInclusionProofRequest

EACH = 200  # events a transaction
PROOFS = 1000

FLOOR_TABLE = sql(
    Nothing,
    """
    CREATE TABLE IF NOT EXISTS public.bench_floor (LIKE audit.pending INCLUDING ALL)
    """,
)
RAW_INSERT = sql(
    Nothing,
    """
    INSERT INTO public.bench_floor (id, org_id, occurred_at, facts, fields, leaf)
    SELECT gen_random_uuid(), org_id, occurred_at, facts, fields, leaf FROM audit.pending
    """,
)
SOME_EVENTS = sql(
    str, "SELECT event_id::text FROM audit.leaves ORDER BY hashtext(event_id::text) LIMIT %(n)s"
)


def main(options: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench audit")
    parser.add_argument("--events", type=int, default=1_000_000)
    asyncio.run(_run(parser.parse_args(options).events))


async def _run(events: int) -> None:
    with TemporaryDirectory(prefix="chimera-bench-") as folder:
        stack = Stack(Path(folder, "stack"), durable=True)
        urls = stack.start()
        try:
            migrate.up(urls.database_url, urls.clickhouse_url)
            settings = Settings.model_validate(
                {"database_url": urls.database_url, "redis_url": urls.redis_url, "home": folder}
            )
            await _measure(stack, settings, events)
        finally:
            stack.stop()


async def _measure(stack: Stack, settings: Settings, events: int) -> None:
    postgres = stack.pid("postgres")
    app = open_database(settings, "app")
    await app.open()
    try:
        async with open_core(settings, "sealer") as core:
            sealer = Sealer(core)
            small = events // 10
            await _fill(app, postgres, small, "captured")
            await _floor(settings, postgres, small)
            await _seal(sealer, postgres, small)
            await _proofs(core.db)
            await _fill(app, postgres, events - 2 * small, "captured")
            await _seal(sealer, postgres, events - 2 * small)
            await _fill(app, postgres, small, "captured")
            await _seal(sealer, postgres, small)
            await _proofs(core.db)
        await asyncio.to_thread(_verify, settings, postgres)
    finally:
        await app.close()


def _cpu_s(postgres: int) -> tuple[float, float]:
    """So far, of this process and of PostgreSQL."""
    return time.process_time(), usage(postgres).cpu_s


def _told(
    what: str, count: int, seconds: float, before: tuple[float, float], postgres: int
) -> None:
    now = _cpu_s(postgres)
    python_us, postgres_us = ((now[at] - before[at]) / count * 1e6 for at in (0, 1))
    print(
        f"{what:34} {count / seconds:9.0f} /s   CPU per event: {python_us:6.1f} us Python,"
        f" {postgres_us:6.1f} us PostgreSQL",
        flush=True,
    )


async def _fill(app: Database, postgres: int, count: int, what: str) -> None:
    caller = Caller("user", org_id=new_id(), user_id=new_id(), session_id=new_id())
    before, started = _cpu_s(postgres), time.perf_counter()
    for _ in range(count // EACH):
        call = Call(
            caller, "/bench", time.monotonic() + 60, ip_address="192.0.2.7", user_agent="b/1"
        )
        async with app.begin(call) as tx:
            for number in range(EACH):
                record(tx, "campaign.launch", "campaign", new_id(), old={"state": "draft"},
                       new={"state": "running", "budget": number})  # fmt: skip
    _told(what, count, time.perf_counter() - started, before, postgres)


async def _floor(settings: Settings, postgres: int, count: int) -> None:
    owner = Database(settings.database_url.get_secret_value())
    await owner.open()
    try:
        call = Call.by_worker("bench", seconds=600)
        async with owner.begin(call) as tx:
            await tx.run(FLOOR_TABLE)
        before, started = _cpu_s(postgres), time.perf_counter()
        async with owner.begin(call) as tx:
            await tx.run(RAW_INSERT)
        _told("floor: raw INSERT of the same rows", count, time.perf_counter() - started, before,
              postgres)  # fmt: skip
    finally:
        await owner.close()


async def _seal(sealer: Sealer, postgres: int, count: int) -> None:
    before, started = _cpu_s(postgres), time.perf_counter()
    sealed = 0
    while sealed < count:
        sealed += await sealer.run_once(1)
    size = sealer.signer.last().size if sealer.signer else 0
    what = f"sealed and signed, up to {size}"
    _told(what, sealed, time.perf_counter() - started, before, postgres)


async def _proofs(db: Database) -> None:
    call = Call.by_worker("bench", seconds=600)
    async with db.begin(call) as tx:
        ids = await tx.all(SOME_EVENTS, n=PROOFS)
        newest = await find_checkpoint(tx)
    assert newest is not None
    took_ms = []
    before = time.process_time()
    for event_id in ids:
        started = time.perf_counter()
        async with db.begin(call) as tx:
            proof = await get_inclusion_proof(tx, GetInclusionProofRequest(event_id=event_id))
        took_ms.append((time.perf_counter() - started) * 1000)
        if len(took_ms) == 1:
            assert len(proof.hashes) >= merkle.SIZE_MAX.bit_length() // 10
    cpu_ms = (time.process_time() - before) / len(ids) * 1000
    took_ms.sort()
    print(
        f"inclusion proofs at {newest.size} leaves: median {took_ms[len(took_ms) // 2]:.2f} ms,"
        f" p99 {took_ms[int(len(took_ms) * 0.99)]:.2f} ms, {cpu_ms:.2f} ms CPU Python each",
        flush=True,
    )


def _verify(settings: Settings, postgres: int) -> None:
    """In the database, and what an auditor does with an export, of the same leaves."""
    before, started = _cpu_s(postgres), time.perf_counter()
    report = verify_live(settings)
    count = report.entries + report.tombstones
    _told("verified in the database", count, time.perf_counter() - started, before, postgres)
    print(f"verdict: {report.verdict.name.lower()}, {report.opened} values opened", flush=True)

    path = settings.home / "bundle.jsonl"
    _export(settings, path)
    key = load_signer(settings).verifier_key
    before, started = _cpu_s(postgres), time.perf_counter()
    with path.open("rb") as file:
        report = verify_bundle(file, [key])
    _told("verified offline, from a bundle", report.entries, time.perf_counter() - started, before,
          postgres)  # fmt: skip
    print(f"verdict: {report.verdict.name.lower()}, {report.opened} values opened", flush=True)
    path.unlink()


def _export(settings: Settings, path: Path) -> None:
    with (
        psycopg.connect(settings.role_url("sealer"), row_factory=dict_row) as connection,
        path.open("wb") as file,
    ):
        connection.execute("SET ROLE chimera_sealer")
        file.writelines(map(encode_line, Inspection(connection).lines()))
