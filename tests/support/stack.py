"""Fixtures: the embedded stack, and databases cloned from a migrated template."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from clickhouse_driver import Client
from psycopg import sql

from chimera import migrate
from chimera.embedded.stack import Stack, StackUrls
from chimera.identity import logins
from chimera.settings import Settings

MEMORY = Path("/dev/shm")
# PostgreSQL keeps up to 2 GB of its log.
ROOM_BYTES = 4 * 2**30

TEMPLATE = "template_of_stores"

# Below what an installation may set.
QUICK_HASHING = {"argon2_memory_kib": 64, "argon2_passes": 1}

__all__ = [
    "clickhouse_url",
    "database_url",
    "hashing",
    "migrated",
    "running_stack",
    "settings",
    "stack",
    "store_statements",
]


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder for engines, removed at the end; in memory where the machine has one and the room.

    A database is a thousand files: to clone one took 0.46 s of CPU on ext4, and takes 0.03 s here.
    """
    has_room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES
    if has_room:
        for left in MEMORY.glob("chimera-tests-*"):  # by a run that was killed
            if not Path(f"/proc/{left.name.split('-')[2]}").exists():
                shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(
        prefix=f"chimera-tests-{os.getpid()}-", dir=MEMORY if has_room else None
    )
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def running_stack() -> Iterator[Stack]:
    """The stack itself, for tests that kill and restart its parts."""
    with quick_folder() as home:
        stack = Stack(home, durable=False)
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
def hashing(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What Argon2 costs: next to nothing, and logins wait no longer than they take. Tests that are
    about it leave it as it is shipped."""
    monkeypatch.setattr(logins, "STEP_S", 0.001)
    return dict(QUICK_HASHING)


@pytest.fixture
def settings(
    stack: StackUrls, database_url: str, tmp_path: Path, hashing: dict[str, int]
) -> Settings:
    """Settings of a small installation on the stack; telemetry tests add clickhouse_url."""
    import redis

    redis.Redis.from_url(stack.redis_url).flushall()
    settings = Settings.model_validate(
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
    return settings.model_copy(update=hashing)


def settings_with(settings: Settings, **changes: Any) -> Settings:
    """With other values, read and checked as those of an installation are."""
    given = settings.model_dump(exclude={"argon2_memory_kib", "argon2_passes"})
    hashing = {name: getattr(settings, name) for name in QUICK_HASHING}
    return Settings.model_validate({**given, **changes}).model_copy(update=hashing)
