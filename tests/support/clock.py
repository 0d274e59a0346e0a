"""The clock of the database, put forward and back: the product reads no other one for what it books.

Functions named like those of pg_catalog stand before them in the search path of every new session, so
install it before anything connects. Defaults and policies of tables keep the true time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql

from chimera.settings import Settings

__all__ = ["Clock", "clock"]

INSTALL = """
    CREATE SCHEMA shifted;
    CREATE TABLE shifted.clock (ahead interval NOT NULL);
    INSERT INTO shifted.clock VALUES ('0');
    CREATE FUNCTION shifted.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS 'SELECT pg_catalog.clock_timestamp() + (SELECT ahead FROM shifted.clock)';
    CREATE FUNCTION shifted.now() RETURNS timestamptz LANGUAGE sql STABLE
        AS 'SELECT pg_catalog.now() + (SELECT ahead FROM shifted.clock)';
    CREATE FUNCTION shifted.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
        AS 'SELECT pg_catalog.statement_timestamp() + (SELECT ahead FROM shifted.clock)';
    GRANT USAGE ON SCHEMA shifted TO PUBLIC;
    GRANT SELECT ON shifted.clock TO PUBLIC;
"""


class Clock:
    """Days around the end of a month that is not over: the last but one, the last, the first and the
    second of the next; each ten seconds before or after midnight. Sessions outlive them all."""

    def __init__(self, url: str) -> None:
        self.url = url
        first = (datetime.now(UTC).replace(day=28) + timedelta(days=4)).replace(
            day=1, hour=0, minute=0, second=0, microsecond=0
        )
        before, day = first - timedelta(seconds=10), timedelta(days=1)
        after = first + timedelta(seconds=10)
        self.times = [before - day, after - day, before, after, before + day, after + day]

    def _run(self, query: str, *values: object) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(query.encode(), values or None)

    def install(self) -> None:
        self._run(INSTALL)
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET search_path = shifted, pg_catalog, public").format(
                    sql.Identifier(connection.info.dbname)
                )
            )

    def jump(self, time_no: int) -> None:
        """To one of `times`, and on from there."""
        self._run(
            "UPDATE shifted.clock SET ahead = %s - pg_catalog.clock_timestamp()",
            self.times[time_no],
        )


@pytest.fixture
def clock(settings: Settings) -> Iterator[Clock]:
    """Ask for it before the server. It shows the true time until it is put."""
    made = Clock(settings.database_url.get_secret_value())
    made.install()
    yield made
