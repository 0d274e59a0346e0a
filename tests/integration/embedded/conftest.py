"""One embedded ClickHouse for the protocol suite: a real process, spoken to by the real driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_driver import Client

from chimera.embedded.stack import Stack


@pytest.fixture(scope="session")
def clickhouse_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home: Path = tmp_path_factory.mktemp("clickhouse")
    with Stack(home, postgres=False, redis=False, assistant=False, durable=False) as stack:
        yield stack.urls.clickhouse_url


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Client]:
    """A connection to a database of its own that is empty at the start of each test."""
    with Client.from_url(clickhouse_url) as first:
        first.execute("DROP DATABASE IF EXISTS story")
        first.execute("CREATE DATABASE story")
    with Client.from_url(clickhouse_url.replace("/chimera?", "/story?")) as driver:
        yield driver
