"""Servers with settings of their own, and the probe service inside them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from chimera.server import Server
from chimera.settings import Settings
from tests.integration.server.probe import Probe, install
from tests.support.stack import settings_with
from tests.support.world import Organisation, Person, World


@dataclass
class Probed:
    """A world with the probe in it, an organisation and its administrator."""

    world: World
    probe: Probe
    acme: Organisation
    olivia: Person

    @property
    def server(self) -> Server:
        return self.world.server


Serve = Callable[..., AbstractAsyncContextManager[Probed]]


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Probe:
    return install(monkeypatch)


@pytest.fixture
def serve(settings: Settings, probe: Probe) -> Serve:
    """`async with serve(watchers_per_caller_max=2) as probed`: a server with these settings."""

    numbers = count(1)

    @asynccontextmanager
    async def serving(**changes: Any) -> AsyncIterator[Probed]:
        changed = settings_with(settings, **changes)
        server = Server(changed)
        await server.start()
        world = World(server, changed)
        try:
            acme = await world.organisation(f"acme{next(numbers)}")
            yield Probed(world, probe, acme, acme.admin)
        finally:
            await world.close()
            await server.stop(at_once=True)

    return serving


@pytest.fixture
async def probed(serve: Serve) -> AsyncIterator[Probed]:
    async with serve() as running:
        yield running
