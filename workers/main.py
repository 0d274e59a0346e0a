"""chimera-worker: pools -> arq workers and loops -> drain.

Signals are ours, not arq's: on SIGTERM the drives stop sending, record what is in flight, and give
their leases back, so that nothing is left for a takeover to guess at.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import structlog
from arq.worker import Function, Worker, func
from redis.exceptions import RedisError

from chimera.audit.monitor import BATCH as MONITOR_BATCH
from chimera.audit.monitor import watch_over
from chimera.audit.sealer import Sealer
from chimera.background import cancelled
from chimera.campaigns.engine.waiting import wake_runs
from chimera.core import Core, open_core, settle_memory
from chimera.doorbell import CAMPAIGN_QUEUE, UPKEEP_QUEUE, Doorbell, pack_job, unpack_job
from chimera.faults import Fault
from chimera.ids import new_id
from chimera.logs import set_up_logs
from chimera.providers.adapters.outbound import open_session
from chimera.providers.probes import Prober
from chimera.settings import Settings, load_settings
from chimera.telemetry.drain import EVENTS_MAX, drain
from chimera.telemetry.reconcile import reconcile
from workers.loops import hold, pause
from workers.schedule import cron_jobs
from workers.tasks.accounting import announce_alert, deliver_webhook
from workers.tasks.campaigns import (
    drive_runs,
    judge_again,
    settle_run,
    settle_template_use,
    sweep_runs,
    take_turns,
)
from workers.tasks.mail import send_mail
from workers.tasks.providers import rewrap_secrets
from workers.tasks.upkeep import keep_partitions

log = structlog.get_logger("chimera.worker")

RELAY_EVERY_S = 1.0
STOP_WITHIN_S = 10.0  # after the drives have drained
SWEEP_EVERY_S = 2.0
MONITOR_EVERY_S = 2.0
TURNS_EVERY_S = 1.0
PROBES_EVERY_S = 1.0
# A drive's job lives as long as its campaign. arq hides a crashed job for this long, which harms
# nothing: the sweep rings anew for whatever it was driving.
DRIVE_TIMEOUT_S = 24 * 3600
ABANDON_S = 2.0  # for giving leases back when the drain was too short


class WorkerProcess:
    """One worker process: `run` until `stop`. Tests run it inside their own loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = asyncio.Event()
        self.drives: dict[str, Any] = {}
        self.name = new_id()

    def stop(self) -> None:
        """Ends soon and tidily."""
        self.stopping.set()
        for drive in self.drives.values():
            drive.stop()

    async def run(self) -> None:
        """Everything this process does; returns after `stop`, when what was in flight is recorded."""
        async with AsyncExitStack() as stack:
            core = await stack.enter_async_context(open_core(self.settings, "worker"))
            sealing = await stack.enter_async_context(open_core(self.settings, "sealer"))
            bell = await stack.enter_async_context(Doorbell.opened(core))
            core.db.ring = bell.ring
            session = open_session(
                allow_loopback=self.settings.loopback_allowed,
                connections_max=2000,
                private_networks=self.settings.private_target_networks,
            )
            stack.push_async_callback(session.close)
            ctx = {
                "core": core,
                "session": session,
                "drives": self.drives,
                "stopping": self.stopping,
            }
            jobs = [
                self._relay(bell),
                self._sweep(core),
                self._take_turns(core),
                self._seal(sealing),
                self._watch_over(core),
                self._drain(core),
                self._probe(core, session),
                self._serve_queue(ctx, CAMPAIGN_QUEUE, [_function(drive_runs)]),
                self._serve_queue(
                    ctx,
                    UPKEEP_QUEUE,
                    [
                        _function(settle_run),
                        _function(judge_again),
                        _function(settle_template_use),
                        _function(send_mail),
                        _function(rewrap_secrets),
                        _function(announce_alert),
                        _function(deliver_webhook),
                    ],
                ),
            ]
            try:
                await keep_partitions(ctx)  # now, and not when Redis lets the cron run
            except Fault as fault:  # the cron comes back to it; there are partitions for days ahead
                log.warning("worker.partitions_wait", reason=fault.reason)
            settle_memory()
            log.info("worker.started", name=self.name)
            await asyncio.gather(*jobs)
        log.info("worker.stopped", name=self.name)

    async def _serve_queue(self, ctx: dict[str, Any], queue: str, functions: Sequence[Any]) -> None:
        """An arq worker, made anew when Redis was lost: arq ends with its connection."""
        core: Core = ctx["core"]
        while not self.stopping.is_set():
            worker = Worker(
                functions=functions,
                queue_name=queue,
                cron_jobs=cron_jobs() if queue == UPKEEP_QUEUE else None,
                redis_pool=_arq_pool(core),
                handle_signals=False,
                max_jobs=self.settings.drives_max,
                poll_delay=0.2,
                keep_result=0,
                max_tries=5,
                health_check_interval=30,
                ctx=dict(ctx),
                job_serializer=pack_job,
                job_deserializer=unpack_job,
                log_results=False,
            )
            serving = asyncio.create_task(worker.async_run())
            stopped = asyncio.create_task(self.stopping.wait())
            await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                await self._drives_ended()
            await cancelled(serving)
            await cancelled(stopped)
            error = None if serving.cancelled() else serving.exception()
            if isinstance(error, RedisError | OSError):
                log.warning("worker.redis_away", queue=queue, error=type(error).__name__)
            elif error is not None:
                log.error("worker.queue_failed", queue=queue, exc_info=error)
            await pause(1.0, self.stopping)

    async def _drives_ended(self) -> None:
        """What is in flight comes back and is recorded, or is left to others after drain_s."""
        if not await self._no_drives(self.settings.drain_s):
            for drive in self.drives.values():
                drive.abandon()
            await self._no_drives(ABANDON_S)

    async def _no_drives(self, seconds: float) -> bool:
        for _ in range(int(seconds / 0.05)):
            if not self.drives:
                break
            await asyncio.sleep(0.05)
        return not self.drives

    async def _relay(self, bell: Doorbell) -> None:
        while not self.stopping.is_set():
            await bell.relay()
            await pause(RELAY_EVERY_S, self.stopping)

    async def _sweep(self, core: Core) -> None:
        async def body(_fence: int) -> bool:
            await wake_runs(core)
            await sweep_runs(core)
            return False

        await self._hold(core, "sweeper", SWEEP_EVERY_S, body)

    async def _take_turns(self, core: Core) -> None:
        while not self.stopping.is_set():
            try:
                await take_turns(core, self.drives)
            except Fault as fault:
                log.warning("worker.no_turns", reason=fault.reason)
            await pause(TURNS_EVERY_S, self.stopping)

    async def _seal(self, core: Core) -> None:
        sealer = Sealer(core)

        async def body(fence: int) -> bool:
            return await sealer.run_once(fence) >= 1000

        try:
            await self._hold(core, "sealer", self.settings.seal_every_s, body)
        finally:
            await sealer.witnesses.close()

    async def _watch_over(self, core: Core) -> None:
        async def body(_fence: int) -> bool:
            return await watch_over(core) >= MONITOR_BATCH

        await self._hold(core, "monitor", MONITOR_EVERY_S, body)

    async def _drain(self, core: Core) -> None:
        compared_at = time.monotonic()

        async def body(_fence: int) -> bool:
            nonlocal compared_at
            is_behind = await drain(core, core.clickhouse) >= EVENTS_MAX
            # Here, because nothing may be inserted while the store is compared with the buffer.
            if time.monotonic() - compared_at > self.settings.telemetry_reconcile_s:
                compared_at = time.monotonic()
                await reconcile(core, core.clickhouse)
            return is_behind  # else at most once a second a table, whatever waits

        await self._hold(core, "telemetry", self.settings.telemetry_flush_s, body)

    async def _probe(self, core: Core, session: aiohttp.ClientSession) -> None:
        prober = Prober(core, session)

        async def body(_fence: int) -> bool:
            return await prober.probe_due()

        if core.settings.probe_every_s:
            await self._hold(core, "prober", PROBES_EVERY_S, body)

    async def _hold(
        self, core: Core, name: str, every_s: float, body: Callable[[int], Awaitable[bool]]
    ) -> None:
        lease_s = self.settings.lease_s
        await hold(core.db, name, self.name, every_s, self.stopping, body, lease_s=lease_s)


def _function(body: Any) -> Function:
    return func(body, name=body.__name__, timeout=DRIVE_TIMEOUT_S)


def _arq_pool(core: Core) -> Any:
    from arq.connections import ArqRedis

    return ArqRedis(
        pool_or_conn=core.redis.connection_pool,
        job_serializer=pack_job,
        job_deserializer=unpack_job,
    )


async def work(settings: Settings) -> None:
    """Works until SIGTERM or SIGINT."""
    process = WorkerProcess(settings)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, process.stop)
    running = asyncio.create_task(process.run())
    told = asyncio.create_task(process.stopping.wait())
    await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)
    ended, _ = await asyncio.wait({running}, timeout=settings.drain_s + STOP_WITHIN_S)
    told.cancel()
    if ended:
        return running.result()
    # Nothing waits for ever. An end like this is what a takeover is for: the leases run out.
    waiting = sorted(str(task.get_coro()) for task in asyncio.all_tasks())
    log.error("worker.stop_overdue", waiting=waiting)
    os._exit(1)


def main() -> None:
    """Entry point of `chimera-worker`."""
    import uvloop

    settings = load_settings()
    set_up_logs(settings.log_level, as_json=settings.log_json)
    if settings.metrics_listen and "--metrics" in sys.argv:
        from prometheus_client import start_http_server

        host, _, port = settings.metrics_listen.rpartition(":")
        start_http_server(int(port), addr=host or "127.0.0.1")
    uvloop.run(work(settings))


if __name__ == "__main__":
    main()
