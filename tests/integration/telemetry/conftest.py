"""A server with a column store, and a worker's hands to drain with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chimera.clickhouse import ClickHouse
from chimera.core import Core
from chimera.settings import Settings
from chimera.telemetry.drain import drain
from tests.integration.telemetry.buffer import open_worker


class Hands:
    """A worker's core and store, driven by hand."""

    def __init__(self, core: Core, clickhouse: ClickHouse, url: str) -> None:
        self.core, self.clickhouse, self.url = core, clickhouse, url

    async def drain(self) -> int:
        stored = 0
        while more := await drain(self.core, self.clickhouse):
            stored += more
        return stored


@pytest.fixture
def stored_settings(settings: Settings, clickhouse_url: str) -> Settings:
    return settings.model_copy(update={"clickhouse_url": type(settings.redis_url)(clickhouse_url)})


@pytest.fixture
async def hands(stored_settings: Settings, clickhouse_url: str) -> AsyncIterator[Hands]:
    async with open_worker(stored_settings, clickhouse_url) as (core, clickhouse):
        yield Hands(core, clickhouse, clickhouse_url)
