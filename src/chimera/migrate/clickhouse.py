"""ClickHouse migrations: clickhouse-migrations does the work and keeps the scripts it ran."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from chimera.migrate.files import Applied, Engine, File, MigrationError, sha256_of


class ClickHouse:
    """One ClickHouse database: clickhouse-migrations' table, which keeps every script it ran.

    Script and version arrive in one insert after the last statement, so there is no applied file
    without a digest; there may be a half-applied one, which the next run starts from its top.
    """

    engine: Engine = "clickhouse"

    def __init__(self, url: str) -> None:
        from clickhouse_migrations.clickhouse_cluster import ClickhouseCluster
        from clickhouse_migrations.exceptions import MigrationException

        try:
            # The tools look at the port only when they connect, and then repeat what they could
            # not parse, which may be a piece of the password.
            _ = urlsplit(url).port
            self._cluster = ClickhouseCluster(db_url=url)
        except (ValueError, MigrationException):
            raise MigrationError(
                "the ClickHouse URL is not clickhouse://user:password@host:port/database"
            ) from None
        self._database: str = self._cluster.default_db_name or "default"

    def applied(self) -> dict[int, Applied]:
        with _clickhouse_errors("ClickHouse"):
            with self._cluster.connection("") as conn:
                found = conn.execute(
                    "SELECT 1 FROM system.tables"
                    " WHERE database = %(database)s AND name = 'schema_versions'",
                    {"database": self._database},
                )
            if not found:
                return {}
            with self._cluster.connection(self._database) as conn:
                rows = conn.execute(
                    """SELECT version, argMax(script, created_at), toUnixTimestamp(max(created_at))
                       FROM schema_versions GROUP BY version ORDER BY version"""
                )
        return {
            version: Applied(sha256_of(script), datetime.fromtimestamp(at_s, UTC))
            for version, script, at_s in rows
        }

    def up(self, folder: Path, pending: Sequence[File]) -> None:
        for file in pending:
            with _clickhouse_errors(f"clickhouse/{file.path.name}"):
                self._cluster.migrate(
                    self._database,
                    folder,
                    to_version=file.version,
                    migration_log_format="compact",
                )

    def down(self, folder: Path, newest_first: Sequence[File]) -> None:
        for file in newest_first:
            with _clickhouse_errors(f"clickhouse/{file.path.stem}.down.sql"):
                self._cluster.rollback(self._database, folder, steps=1)

    def adopt(self, files: Sequence[File]) -> None:
        """Nothing to do: every version in the table came with its script."""


@contextmanager
def _clickhouse_errors(where: str) -> Iterator[None]:
    from clickhouse_driver.errors import Error
    from clickhouse_migrations.exceptions import MigrationException

    try:
        yield
    except (Error, MigrationException, OSError, EOFError) as error:
        text = " ".join(str(error).split("Stack trace")[0].split())
        raise MigrationError(f"{where}: {text or type(error).__name__}") from None
