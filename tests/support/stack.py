"""Fixtures: the embedded stack, and databases cloned from a migrated template."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from clickhouse_driver import Client
from psycopg import sql

from chimera import migrate
from chimera.embedded.stack import Stack, StackUrls
from chimera.settings import Settings

__all__ = [
    "clickhouse_url",
    "database_url",
    "migrated",
    "running_stack",
    "settings",
    "stack",
    "store_statements",
]

TEMPLATE = "template_of_stores"


@pytest.fixture(scope="session")
def running_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack itself, for tests that kill and restart its parts."""
    stack = Stack(tmp_path_factory.mktemp("stack"), durable=False)
    stack.start()
    try:
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="session")
def stack(running_stack: Stack) -> StackUrls:
    return running_stack.urls


@pytest.fixture(scope="session")
def migrated(stack: StackUrls) -> str:
    """Name of the template database."""
    migrate.up(stack.database_url, only="postgres")
    return "chimera"


def other_database(url: str, name: str) -> str:
    """The same server's URL with another database."""
    head, _, tail = url.rpartition("/")
    return f"{head}/{name}" + (f"?{tail.partition('?')[2]}" if "?" in tail else "")


@pytest.fixture
def database_url(stack: StackUrls, migrated: str) -> Iterator[str]:
    """A fresh database (about 50 ms), dropped afterwards."""
    name = f"t_{uuid4().hex[:12]}"
    admin = other_database(stack.database_url, "postgres")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                sql.Identifier(name), sql.Identifier(migrated)
            )
        )
    yield other_database(stack.database_url, name)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def store_statements(stack: StackUrls) -> list[str]:
    """What makes a migrated ClickHouse database as it is at the end, which takes a third of the time
    of migrating another: there is no cloning of one."""
    with Client.from_url(stack.clickhouse_url) as client:
        client.execute(f"CREATE DATABASE {TEMPLATE}")
        migrate.up(clickhouse_url=other_database(stack.clickhouse_url, TEMPLATE), only="clickhouse")
        made = client.execute(
            "SELECT create_table_query FROM system.tables WHERE database = %(name)s"
            " ORDER BY engine LIKE '%%View'",
            {"name": TEMPLATE},
        )
    applied = f"INSERT INTO schema_versions SELECT * FROM {TEMPLATE}.schema_versions"  # noqa: S608
    return [query.replace(f"{TEMPLATE}.", "") for (query,) in made] + [applied]


@pytest.fixture
def clickhouse_url(stack: StackUrls, store_statements: list[str]) -> Iterator[str]:
    """A fresh, migrated ClickHouse database."""
    name = f"t_{uuid4().hex[:12]}"
    url = other_database(stack.clickhouse_url, name)
    with Client.from_url(stack.clickhouse_url) as client:
        client.execute(f"CREATE DATABASE {name}")
    with Client.from_url(url) as client:
        for statement in store_statements:
            client.execute(statement)
    yield url
    with Client.from_url(stack.clickhouse_url) as client:
        client.execute(f"DROP DATABASE {name}")


@pytest.fixture
def settings(stack: StackUrls, database_url: str, tmp_path: Path) -> Settings:
    """Settings of a small installation on the stack; telemetry tests add clickhouse_url."""
    import redis

    redis.Redis.from_url(stack.redis_url).flushall()
    return Settings.model_validate(
        {
            "database_url": database_url,
            "redis_url": stack.redis_url,
            "home": tmp_path / "home",
            "listen": "127.0.0.1:0",
            "drain_s": 1.0,
            "log_level": "warning",
            "logins_per_minute": 100_000,
        }
    )
