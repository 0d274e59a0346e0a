"""Up, down, status: the same steps for both engines, under one lock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from chimera.migrate.clickhouse import ClickHouse
from chimera.migrate.files import (
    Applied,
    Engine,
    File,
    Migration,
    MigrationError,
    files_of,
    migrations_folder,
    pending_of,
    report,
)
from chimera.migrate.postgres import Postgres, connect, postgres_errors, take_lock


class Store(Protocol):
    @property
    def engine(self) -> Engine: ...
    def applied(self) -> dict[int, Applied]: ...
    def up(self, folder: Path, pending: Sequence[File]) -> None: ...
    def down(self, folder: Path, newest_first: Sequence[File]) -> None: ...
    def adopt(self, files: Sequence[File]) -> None: ...


def up(
    database_url: str | None = None,
    clickhouse_url: str | None = None,
    *,
    only: Engine | None = None,
    folder: Path | None = None,
) -> list[Migration]:
    """Apply everything pending in the named databases and return what was applied.

    Runs are serialised by an advisory lock in the PostgreSQL database, also with
    `only="clickhouse"`; without a `database_url` ClickHouse is migrated unlocked, and the caller
    must see to it that one run goes at a time.

    Raises MigrationError if an applied file was edited, a file is missing, a pending file is
    older than an applied one, the lock is not free within LOCK_WAIT_S, or a statement fails
    (what was applied before it stays applied).
    """
    root = folder or migrations_folder()
    done: list[Migration] = []
    with _open(database_url, clickhouse_url, only, lock=True) as stores:
        for store in stores:
            files, applied = files_of(root, store.engine), store.applied()
            pending = pending_of(files, applied)
            store.adopt([f for v, f in files.items() if v in applied and not applied[v].sha256])
            if pending:
                store.up(root / store.engine, pending)
                rows = report(store.engine, files, store.applied())
                done += [row for row in rows if row.version not in applied]
    return done


def down(
    database_url: str | None = None,
    clickhouse_url: str | None = None,
    *,
    steps: int = 1,
    only: Engine | None = None,
    folder: Path | None = None,
) -> list[Migration]:
    """Roll the newest `steps` migrations of each named database back; return them, newest first.

    Edited files are not refused: down, then up is how an author replaces his own unpublished file.
    Raises MigrationError as `up` does.
    """
    if steps < 1:
        raise MigrationError("steps must be at least 1")
    root = folder or migrations_folder()
    undone: list[Migration] = []
    with _open(database_url, clickhouse_url, only, lock=True) as stores:
        for store in reversed(stores):
            files = files_of(root, store.engine)
            applied = [m for m in report(store.engine, files, store.applied()) if m.applied]
            targets = applied[::-1][:steps]
            homeless = [f"{m.version:04d}" for m in targets if m.version not in files]
            if homeless:
                raise MigrationError(
                    f"{store.engine} version {', '.join(homeless)} is applied but has no file;"
                    " roll it back with the release that applied it"
                )
            if targets:
                store.down(root / store.engine, [files[m.version] for m in targets])
            undone += targets
    return undone


def status(
    database_url: str | None = None,
    clickhouse_url: str | None = None,
    *,
    only: Engine | None = None,
    folder: Path | None = None,
) -> list[Migration]:
    """Every known migration, applied or pending, by engine and version. Changes nothing."""
    root = folder or migrations_folder()
    with _open(database_url, clickhouse_url, only, lock=False) as stores:
        rows: list[Migration] = []
        for store in stores:
            rows += report(store.engine, files_of(root, store.engine), store.applied())
        return rows


def history(
    database_url: str | None = None,
    clickhouse_url: str | None = None,
    *,
    folder: Path | None = None,
) -> list[Migration]:
    """The applied migrations in the order they were applied."""
    never = datetime.min.replace(tzinfo=UTC)
    applied = [m for m in status(database_url, clickhouse_url, folder=folder) if m.applied]
    return sorted(applied, key=lambda m: m.applied_at or never)


@contextmanager
def _open(
    database_url: str | None, clickhouse_url: str | None, only: Engine | None, *, lock: bool
) -> Iterator[list[Store]]:
    """The stores to work on, PostgreSQL first, with the lock held if asked for."""
    stores: list[Store] = []
    with ExitStack() as stack:
        stack.enter_context(postgres_errors())
        if database_url:
            conn = stack.enter_context(connect(database_url))
            if lock:
                take_lock(conn)
            if only != "clickhouse":
                stores.append(Postgres(conn))
        if clickhouse_url and only != "postgres":
            stores.append(ClickHouse(clickhouse_url))
        if not stores:
            raise MigrationError(
                "no database is named: set CHIMERA_DATABASE_URL and CHIMERA_CLICKHOUSE_URL"
            )
        yield stores
