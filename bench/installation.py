"""A whole installation for a benchmark: embedded stack, server and worker as processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc

from bench.processes import Usage, usage
from chimera import migrate
from chimera.embedded.ports import free_port
from chimera.embedded.stack import Stack, StackUrls
from chimera.identity.bootstrap import bootstrap
from chimera.settings import Settings
from tests.support.world import Person


@dataclass
class Installation:
    """What runs, and an administrator of it."""

    stack: Stack
    urls: StackUrls
    settings: Settings
    admin: Person
    environment: dict[str, str] = field(default_factory=dict)  # of its processes
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def usages(self) -> dict[str, Usage]:
        """By part; the target (assistant) apart."""
        pids = {name: self.stack.pid(name) for name in ("postgres", "redis", "clickhouse")}
        pids |= {name: child.pid for name, child in self.children.items()}
        pids["target"] = self.stack.pid("assistant")
        return {name: usage(pid) for name, pid in pids.items()}

    def start(self, name: str, module: str, env: dict[str, str]) -> None:
        log = (self.settings.home / f"{name}.log").open("ab")
        self.children[name] = subprocess.Popen(
            [sys.executable, "-m", module], env={**os.environ, **env}, stdout=log, stderr=log
        )

    def kill(self, name: str) -> None:
        """kill -9, and gone."""
        child = self.children.pop(name)
        child.kill()
        child.wait()


@asynccontextmanager
async def installation(*, durable: bool = True, **overrides: Any) -> AsyncIterator[Installation]:
    """Everything up and warm."""
    with TemporaryDirectory(prefix="chimera-bench-") as folder:
        home = Path(folder)
        stack = Stack(home / "stack", durable=durable)
        urls = stack.start()
        try:
            migrate.up(urls.database_url, urls.clickhouse_url)
            port = free_port()
            env = {
                "CHIMERA_DATABASE_URL": urls.database_url,
                "CHIMERA_REDIS_URL": urls.redis_url,
                "CHIMERA_CLICKHOUSE_URL": urls.clickhouse_url,
                "CHIMERA_HOME": str(home),
                "CHIMERA_LISTEN": f"127.0.0.1:{port}",
                "CHIMERA_LOG_LEVEL": "warning",
                "CHIMERA_READS_PER_MINUTE": "10000000",
                **{f"CHIMERA_{name.upper()}": str(value) for name, value in overrides.items()},
            }
            settings = Settings.model_validate(
                {name.removeprefix("CHIMERA_").lower(): value for name, value in env.items()}
            )
            made = await bootstrap(
                settings,
                organisation="bench",
                email="admin@bench.example.com",
                username="admin",
                password="correct horse battery staple",
                with_api_key=True,
            )
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            admin = Person(channel, "admin", made.api_key)
            running = Installation(stack, urls, settings, admin, env)
            running.start("server", "chimera.server", env)
            running.start("worker", "workers.main", env)
            await asyncio.wait_for(channel.channel_ready(), 30)
            try:
                yield running
            finally:
                await channel.close()
                for child in running.children.values():
                    child.send_signal(signal.SIGTERM)
                for child in running.children.values():
                    child.wait(20)
        finally:
            stack.stop()


async def until(condition: Any, *, every_s: float = 0.1, timeout_s: float = 120.0) -> float:
    """Polls; returns how long it took."""
    started = time.monotonic()
    while not await condition():
        if time.monotonic() - started > timeout_s:
            raise TimeoutError("the benchmark waited in vain")
        await asyncio.sleep(every_s)
    return time.monotonic() - started
