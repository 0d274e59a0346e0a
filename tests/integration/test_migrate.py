"""Migrations on real engines: order, refusal, races, crashes, and the product's own folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from clickhouse_driver import Client
from clickhouse_migrations.clickhouse_cluster import ClickhouseCluster
from psycopg import sql
from typer.testing import CliRunner

from chimera import migrate
from chimera.embedded.stack import Stack, StackUrls
from chimera.migrate import MigrationError
from chimera.migrate.postgres import connect, take_lock
from tests.support.stack import quick_folder

GATE = 4242
CLI = [sys.executable, "-c", "from chimera.migrate import app; app()"]


@pytest.fixture(scope="module")
def servers() -> Iterator[StackUrls]:
    with quick_folder() as home, Stack(home, assistant=False, durable=False) as stack:
        yield stack.urls


@pytest.fixture
def database_url(servers: StackUrls) -> str:
    """A PostgreSQL database of this test alone."""
    return _new_database(servers)


@pytest.fixture
def clickhouse_url(servers: StackUrls) -> str:
    """A ClickHouse database of this test alone; the first `up` creates it."""
    return _with_path(servers.clickhouse_url, f"t{uuid4().hex}")


class Folder:
    """A folder of migrations that a test writes file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def postgres(self, file: str, up: str, down: str = "SELECT 1;", flags: str = "") -> Path:
        path = self.root / "postgres" / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"-- migrate:up{flags}\n{up}\n-- migrate:down\n{down}\n")
        return path

    def table(self, file: str) -> Path:
        """A migration that creates the table of its own name."""
        name = file.removesuffix(".sql").partition("_")[2]
        return self.postgres(file, f"CREATE TABLE {name} (id int);", f"DROP TABLE {name};")

    def clickhouse(self, file: str, up: str, down: str = "SELECT 1;") -> Path:
        path = self.root / "clickhouse" / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(up)
        path.with_suffix(".down.sql").write_text(down)
        return path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def _new_database(servers: StackUrls) -> str:
    name = f"t{uuid4().hex}"
    with psycopg.connect(servers.database_url, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return _with_path(servers.database_url, name)


def _with_path(url: str, name: str) -> str:
    base, _, query = url.partition("?")
    scheme, _, rest = base.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{name}" + (f"?{query}" if query else "")


def _query(database_url: str, statement: str) -> list[Any]:
    with psycopg.connect(database_url, autocommit=True) as conn:
        return [row[0] for row in conn.execute(statement.encode())]


def _clickhouse(clickhouse_url: str, statement: str) -> list[Any]:
    with Client.from_url(clickhouse_url) as client:
        rows: list[Any] = client.execute(statement)
        return rows


def _tables(database_url: str) -> list[Any]:
    return _query(
        database_url,
        """SELECT tablename FROM pg_tables WHERE schemaname = 'public'
           AND tablename <> 'schema_migrations' ORDER BY 1""",
    )


def _until(condition: Callable[[], bool]) -> None:
    """Wait for another process to get somewhere; the limit only ends a test that has failed."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def _sessions(database_url: str, application: str, event: str = "%") -> int:
    statement = f"""SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = '{application}'
        AND coalesce(wait_event, '') LIKE '{event}'"""  # noqa: S608 - the test's own words
    return int(_query(database_url, statement)[0])


def _start_up(root: Path, database_url: str, clickhouse_url: str = "") -> subprocess.Popen[str]:
    code = (
        "import sys; from pathlib import Path; from chimera import migrate\n"
        "for m in migrate.up(sys.argv[1], sys.argv[2] or None, folder=Path(sys.argv[3])):"
        " print(m.name)"
    )
    argv = [sys.executable, "-c", code, database_url, clickhouse_url, str(root)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _alive(*processes: subprocess.Popen[str]) -> bool:
    """True; fails with what a process said if it has ended."""
    for process in processes:
        assert process.poll() is None, process.communicate()
    return True


def _finish(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.split()


# --- PostgreSQL -----------------------------------------------------------------------------


def test_up_applies_what_is_pending_once_and_in_order(folder: Folder, database_url: str) -> None:
    """Two files are pending, then applied, then there is nothing to do; a third follows later."""
    folder.postgres("0002_b.sql", "ALTER TABLE a ADD COLUMN b int;")
    folder.table("0001_a.sql")

    before = migrate.status(database_url, folder=folder.root)
    first = migrate.up(database_url, folder=folder.root)
    again = migrate.up(database_url, folder=folder.root)
    folder.table("0003_c.sql")
    third = migrate.up(database_url, folder=folder.root)

    assert [(m.version, m.applied, m.applied_at) for m in before] == [
        (1, False, None),
        (2, False, None),
    ]
    assert [m.name for m in first] == ["a", "b"] and all(m.applied_at for m in first)
    assert again == []
    assert [m.name for m in third] == ["c"]
    done = migrate.history(database_url, folder=folder.root)
    assert [(m.name, m.digest_ok) for m in done] == [("a", True), ("b", True), ("c", True)]
    assert done[1].applied_at < done[2].applied_at  # type: ignore[operator]  # both were applied


def test_status_writes_nothing(folder: Folder, database_url: str) -> None:
    """Looking at an empty database leaves it empty."""
    folder.table("0001_a.sql")

    migrate.status(database_url, folder=folder.root)

    assert _query(database_url, "SELECT to_regclass('public.schema_migrations')::text") == [None]
    assert _query(database_url, "SELECT to_regnamespace('ops_migrations')::text") == [None]


def test_an_edited_file_stops_up_by_name(folder: Folder, database_url: str) -> None:
    """Somebody edits an applied file: nothing more is applied until it is restored."""
    edited, original = folder.table("0001_a.sql"), (folder.root / "postgres/0001_a.sql").read_text()
    folder.table("0002_b.sql")
    migrate.up(database_url, folder=folder.root)
    folder.table("0003_c.sql")

    edited.write_text(original + "-- a harmless remark\n")
    with pytest.raises(MigrationError, match=r"edited after it was applied: 0001_a\.sql"):
        migrate.up(database_url, folder=folder.root)
    rows = migrate.status(database_url, folder=folder.root)
    assert [(m.version, m.digest_ok) for m in rows] == [(1, False), (2, True), (3, True)]
    assert _tables(database_url) == ["a", "b"]

    edited.write_bytes(original.replace("\n", "\r\n").encode())
    assert [m.name for m in migrate.up(database_url, folder=folder.root)] == ["c"]


def test_a_failing_file_is_named_and_can_be_repaired(folder: Folder, database_url: str) -> None:
    """The second of three files fails: the first stays, and the corrected rest follows."""
    folder.table("0001_a.sql")
    broken = folder.postgres("0002_b.sql", "CREATE TABLE b (id int); SELECT 1/0;")
    folder.table("0003_c.sql")

    with pytest.raises(MigrationError, match=r"postgres/0002_b\.sql: .*division by zero"):
        migrate.up(database_url, folder=folder.root)
    assert _tables(database_url) == ["a"]

    broken.write_text(broken.read_text().replace("SELECT 1/0;", ""))
    assert [m.name for m in migrate.up(database_url, folder=folder.root)] == ["b", "c"]
    assert all(m.digest_ok for m in migrate.status(database_url, folder=folder.root))


def test_two_runs_at_once_apply_each_file_once(folder: Folder, database_url: str) -> None:
    """Two processes start together. The second must wait without holding a snapshot, or the
    concurrent index build of the first would wait for it for ever."""
    folder.postgres("0001_a.sql", f"CREATE TABLE a (i int); SELECT pg_advisory_xact_lock({GATE});")
    index = "CREATE INDEX CONCURRENTLY a_i ON a (i);"
    folder.postgres("0002_b.sql", index, "DROP INDEX a_i;", " transaction:false")
    folder.table("0003_c.sql")

    with psycopg.connect(database_url, autocommit=True) as gate:
        gate.execute("SELECT pg_advisory_lock(%s)", [GATE])
        first = _start_up(folder.root, database_url)
        _until(lambda: _alive(first) and _sessions(database_url, "chimera-dbmate", "advisory") == 1)
        second = _start_up(folder.root, database_url)
        _until(lambda: _alive(second) and _sessions(database_url, "chimera-migrate") == 2)
        gate.execute("SELECT pg_advisory_unlock(%s)", [GATE])
        outcomes = [_finish(first), _finish(second)]

    assert outcomes == [["a", "b", "c"], []]
    assert _tables(database_url) == ["a", "c"]


def test_waiting_for_another_run_has_an_end(
    folder: Folder, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that hangs does not hang the next one for ever."""
    folder.table("0001_a.sql")
    monkeypatch.setattr("chimera.migrate.postgres.LOCK_WAIT_S", 0.0)

    with connect(database_url) as holder:
        take_lock(holder)
        with pytest.raises(MigrationError, match="another migration is still running after 0 s"):
            migrate.up(database_url, folder=folder.root)
        assert _tables(database_url) == []
    assert [m.name for m in migrate.up(database_url, folder=folder.root)] == ["a"]


def test_a_killed_runner_is_taken_over(folder: Folder, database_url: str) -> None:
    """The runner dies by kill -9 while its dbmate works on: the next run waits for that, finds
    the work done, and knows the file's digest. The password was in no process list meanwhile."""
    gated = f"CREATE TABLE a (i int); SELECT pg_advisory_xact_lock({GATE});"
    edited = folder.postgres("0001_a.sql", gated)
    secret_url = database_url.replace("@", ":s3cret-w0rd@", 1)

    with psycopg.connect(database_url, autocommit=True) as gate:
        gate.execute("SELECT pg_advisory_lock(%s)", [GATE])
        first = _start_up(folder.root, secret_url)
        _until(lambda: _alive(first) and _sessions(database_url, "chimera-dbmate", "advisory") == 1)
        children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        arguments = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children]
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
        _until(lambda: _sessions(database_url, "chimera-migrate") == 0)
        second = _start_up(folder.root, database_url)
        _until(lambda: _alive(second) and _sessions(database_url, "chimera-migrate") == 1)
        assert _sessions(database_url, "chimera-dbmate") == 1
        gate.execute("SELECT pg_advisory_unlock(%s)", [GATE])
        assert _finish(second) == []

    assert len(arguments) == 1 and b"dbmate" in arguments[0] and b"s3cret" not in arguments[0]
    assert _tables(database_url) == ["a"]
    edited.write_text(edited.read_text() + "-- edited\n")
    with pytest.raises(MigrationError, match=r"0001_a\.sql"):
        migrate.up(database_url, folder=folder.root)


def test_a_digest_of_a_run_that_never_came_to_it_binds_nobody(
    folder: Folder, database_url: str
) -> None:
    """A run died between announcing a file and applying it; the file may still be changed."""
    folder.table("0001_a.sql")
    migrate.up(database_url, folder=folder.root)
    _query(
        database_url,
        "INSERT INTO ops_migrations.digests VALUES (2, 'of an earlier draft', now()) RETURNING 1",
    )
    folder.table("0002_b.sql")

    assert [m.name for m in migrate.up(database_url, folder=folder.root)] == ["b"]
    assert all(m.digest_ok for m in migrate.status(database_url, folder=folder.root))


def test_what_dbmate_alone_applied_is_adopted(folder: Folder, database_url: str) -> None:
    """A database that others migrated has no digests; the next `up` records them."""
    adopted = folder.table("0001_a.sql")
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("CREATE TABLE schema_migrations (version varchar PRIMARY KEY)")
        conn.execute("INSERT INTO schema_migrations VALUES ('0001')")
    rows = migrate.status(database_url, folder=folder.root)
    assert [(m.applied, m.applied_at, m.digest_ok) for m in rows] == [(True, None, True)]

    assert migrate.up(database_url, folder=folder.root) == []
    adopted.write_text(adopted.read_text() + "-- edited\n")
    assert not migrate.status(database_url, folder=folder.root)[0].digest_ok


def test_a_file_below_an_applied_one_is_refused(folder: Folder, database_url: str) -> None:
    """Two branches took numbers; the one merged later has to take the next free one."""
    folder.table("0002_b.sql")
    migrate.up(database_url, folder=folder.root)
    folder.table("0001_a.sql")

    with pytest.raises(MigrationError, match=r"0001_a\.sql is older than version 0002"):
        migrate.up(database_url, folder=folder.root)


def test_a_newer_database_is_fine_but_a_hole_is_not(folder: Folder, database_url: str) -> None:
    """The previous release starts on the schema of the next one; a lost file is an error."""
    files = [folder.table(f"000{i}_{name}.sql") for i, name in enumerate("abc", start=1)]
    migrate.up(database_url, folder=folder.root)

    files[2].unlink()
    assert migrate.up(database_url, folder=folder.root) == []
    unknown = migrate.status(database_url, folder=folder.root)[2]
    assert (unknown.name, unknown.applied, unknown.digest_ok) == ("(no file)", True, False)
    with pytest.raises(MigrationError, match="0003 is applied but has no file"):
        migrate.down(database_url, folder=folder.root)
    files[0].unlink()
    with pytest.raises(MigrationError, match="file is missing: version 0001"):
        migrate.up(database_url, folder=folder.root)


def test_down_takes_the_newest_back(folder: Folder, database_url: str) -> None:
    """Two steps down, also over a file its author is rewriting, and up again."""
    for file in ("0001_a.sql", "0002_b.sql", "0003_c.sql"):
        folder.table(file)
    migrate.up(database_url, folder=folder.root)
    rewritten = folder.root / "postgres/0003_c.sql"
    rewritten.write_text(rewritten.read_text().replace("(id int)", "(id bigint)"))

    undone = migrate.down(database_url, steps=2, folder=folder.root)

    assert [m.name for m in undone] == ["c", "b"]
    assert _tables(database_url) == ["a"]
    assert [m.name for m in migrate.up(database_url, folder=folder.root)] == ["b", "c"]
    assert [m.name for m in migrate.down(database_url, steps=9, folder=folder.root)] == [*"cba"]
    assert migrate.down(database_url, folder=folder.root) == []


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (["0001_a.sql", "0001_b.sql"], "0001_a.sql and 0001_b.sql have the same version"),
        (["1_a.sql"], "1_a.sql is not named NNNN_lower_case.sql"),
        (["0001_a.sql", "0001_a.down.sql"], "0001_a.down.sql is not named"),
    ],
)
def test_a_misnamed_file_is_refused(
    folder: Folder, database_url: str, files: list[str], complaint: str
) -> None:
    """dbmate would run or overlook these silently."""
    for file in files:
        folder.postgres(file, "SELECT 1;")
    with pytest.raises(MigrationError, match=complaint):
        migrate.up(database_url, folder=folder.root)


def test_odd_names_and_passwords_reach_dbmate(servers: StackUrls, folder: Folder) -> None:
    """What has to be quoted in one URL is quoted in the other, and libpq's own parameters, which
    dbmate does not know, stay away from it."""
    folder.table("0001_a.sql")
    with psycopg.connect(servers.database_url, autocommit=True) as conn:
        conn.execute('CREATE DATABASE "odd name%/?&x=1"')
    url = _with_path(servers.database_url, "odd%20name%25%2F%3F%26x%3D1")
    url = url.replace("@", ":p%40ss%2F%3F%25@", 1) + "?connect_timeout=9&gssencmode=disable"

    assert [m.name for m in migrate.up(url, folder=folder.root)] == ["a"]
    assert _tables(url) == ["a"] and "TABLE public.a" in migrate.dump_schema(url)


def test_surroundings_do_not_change_what_runs(
    folder: Folder, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A .env file and DBMATE_ variables made for another project are not obeyed."""
    folder.table("0001_a.sql")
    (tmp_path / ".env").write_text("DBMATE_DRIVER=sqlite\nDBMATE_NO_DUMP_SCHEMA=false\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DBMATE_DRIVER", "mysql")

    migrate.up(database_url, folder=folder.root)

    assert _tables(database_url) == ["a"]
    assert not (tmp_path / "db").exists()


# --- the schema as text ---------------------------------------------------------------------

SCHEMA = """
CREATE SCHEMA app;
CREATE TABLE app.runs (id int NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE app.runs_rest PARTITION OF app.runs DEFAULT;
CREATE INDEX runs_id ON app.runs (id);
CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS $$
SELECT 1
-- Kept: part of the function
$$;
ALTER FUNCTION app.f() OWNER TO pg_monitor;
"""


def test_equal_schemas_have_equal_text(
    servers: StackUrls, folder: Folder, database_url: str
) -> None:
    """Two databases of the same migrations read the same, also after upkeep made partitions in
    one; a column more, or another owner of a function, shows."""
    folder.postgres("0001_app.sql", SCHEMA, "DROP SCHEMA app CASCADE;")
    other_url = _new_database(servers)
    for url in (database_url, other_url):
        migrate.up(url, folder=folder.root)
    text = migrate.dump_schema(database_url)

    with psycopg.connect(other_url, autocommit=True) as other:
        other.execute("CREATE TABLE app.runs_1 PARTITION OF app.runs FOR VALUES FROM (1) TO (9)")
        assert migrate.dump_schema(other_url) == text
        other.execute("ALTER TABLE app.runs ADD COLUMN more text")
        assert "more text" in migrate.dump_schema(other_url)

    assert "runs_rest" in text and "-- Kept: part of the function" in text
    assert "OWNER TO pg_monitor" in text and text.count("OWNER TO") == 1
    assert "schema_migrations" not in text and "ops_migrations" not in text
    assert not [line for line in text.splitlines() if line.startswith(("\\", "SET ", "--"))][1:]


# --- ClickHouse -----------------------------------------------------------------------------

EVENTS = "CREATE TABLE events (id UInt64) ENGINE = MergeTree ORDER BY id;"


def test_clickhouse_goes_up_and_down(
    folder: Folder, database_url: str, clickhouse_url: str
) -> None:
    """Both engines move together, under one call; the edited script is named."""
    folder.table("0001_a.sql")
    folder.clickhouse("0001_events.sql", EVENTS, "DROP TABLE events;")
    edited = folder.clickhouse("0002_more.sql", "ALTER TABLE events ADD COLUMN x String;")

    pending = migrate.status(database_url, clickhouse_url, folder=folder.root)
    applied = migrate.up(database_url, clickhouse_url, folder=folder.root)
    again = migrate.up(database_url, clickhouse_url, folder=folder.root)

    assert [m.applied for m in pending] == [False] * 3
    assert [(m.engine, m.name) for m in applied] == [
        ("postgres", "a"),
        ("clickhouse", "events"),
        ("clickhouse", "more"),
    ]
    assert again == []
    assert _clickhouse(clickhouse_url, "SELECT id, x FROM events") == []

    original = edited.read_text()
    edited.write_text(original + "-- edited\n")
    with pytest.raises(MigrationError, match=r"edited after it was applied: 0002_more\.sql"):
        migrate.up(database_url, clickhouse_url, folder=folder.root)
    rows = migrate.status(None, clickhouse_url, folder=folder.root)
    assert [(m.name, m.digest_ok) for m in rows] == [("events", True), ("more", False)]
    edited.write_text(original)

    undone = migrate.down(database_url, clickhouse_url, only="clickhouse", steps=2,
                          folder=folder.root)  # fmt: skip
    assert [m.name for m in undone] == ["more", "events"]
    assert ("events",) not in _clickhouse(clickhouse_url, "SHOW TABLES")
    assert _tables(database_url) == ["a"]


def test_clickhouse_continues_a_half_applied_file(folder: Folder, clickhouse_url: str) -> None:
    """Nothing is rolled back there: the corrected file starts again from its first statement."""
    create = EVENTS.replace("TABLE", "TABLE IF NOT EXISTS")
    folder.clickhouse("0001_events.sql", create)
    broken = folder.clickhouse(
        "0002_more.sql", f"{create} ALTER TABLE nowhere ADD COLUMN x String;"
    )

    with pytest.raises(MigrationError, match=r"clickhouse/0002_more\.sql: .*nowhere"):
        migrate.up(None, clickhouse_url, folder=folder.root)
    assert [m.applied for m in migrate.status(None, clickhouse_url, folder=folder.root)] == [
        True,
        False,
    ]
    broken.write_text(broken.read_text().replace("nowhere", "events"))
    assert [m.name for m in migrate.up(None, clickhouse_url, folder=folder.root)] == ["more"]


def test_clickhouse_needs_a_way_down(folder: Folder, clickhouse_url: str) -> None:
    """A file without its .down.sql would be noticed on the day it is needed."""
    path = folder.clickhouse("0001_events.sql", EVENTS)
    path.with_suffix(".down.sql").unlink()
    with pytest.raises(MigrationError, match=r"0001_events\.sql has no way down"):
        migrate.up(None, clickhouse_url, folder=folder.root)


def test_clickhouse_runs_wait_for_each_other_in_postgresql(
    folder: Folder, database_url: str, clickhouse_url: str
) -> None:
    """Two processes wait for the lock and are let in: the statements, which would fail if they
    ran twice, run once."""
    for number in range(1, 4):
        table = EVENTS.replace("events", f"e{number}")
        folder.clickhouse(f"000{number}_e{number}.sql", table)

    with connect(database_url) as holder:
        take_lock(holder)
        runs = [_start_up(folder.root, database_url, clickhouse_url) for _ in range(2)]
        _until(lambda: _alive(*runs) and _sessions(database_url, "chimera-migrate") == 3)
    assert sorted(map(_finish, runs)) == [[], ["e1", "e2", "e3"]]


# --- the command line, new files, secrets ---------------------------------------------------


def test_the_command_line_tells_what_it_did(
    folder: Folder, database_url: str, clickhouse_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """new, up, status, down as an author types them."""
    monkeypatch.setattr("chimera.migrate.runner.migrations_folder", lambda: folder.root)
    monkeypatch.setattr("chimera.migrate.files.migrations_folder", lambda: folder.root)
    monkeypatch.setenv("CHIMERA_DATABASE_URL", database_url)
    monkeypatch.setenv("CHIMERA_CLICKHOUSE_URL", clickhouse_url)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(migrate.app, list(arguments))
        assert result.exit_code == 0, result.output
        return result.output

    assert "0001_share_links.sql" in run("new", "Share links").replace("\n", "")
    assert "0001_events.sql" in run("new", "events", "--clickhouse").replace("\n", "")
    assert "-" in run("status")
    assert run("up", "--postgres") == "applied postgres 0001_share_links\n"
    assert run("up") == "applied clickhouse 0001_events\n"
    assert run("up") == "nothing to do\n"
    assert "share_links" in run("status", "--postgres")
    assert "events" not in run("status", "--postgres")
    assert "UTC" in run("status")
    assert run("down").splitlines() == [
        "rolled back clickhouse 0001_events",
        "rolled back postgres 0001_share_links",
    ]
    assert run("schema") == migrate.dump_schema(database_url)


def test_a_missing_url_is_an_error_not_a_smaller_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgetting ClickHouse must not look like having migrated it."""
    monkeypatch.delenv("CHIMERA_CLICKHOUSE_URL", raising=False)
    result = CliRunner().invoke(migrate.app, ["up", "--database-url", "postgresql://nowhere/x"])
    assert result.exit_code == 1
    assert result.output == ("error: CHIMERA_CLICKHOUSE_URL is not set (or choose --postgres)\n")


@pytest.mark.parametrize(
    ("flag", "url"),
    [
        ("--database-url", "postgresql://u:s3cret-w0rd@127.0.0.1:1/x"),
        ("--database-url", "postgress://u:s3cret-w0rd@127.0.0.1:1/x"),
        ("--database-url", "postgresql://u:s3cret-w0rd@127.0.0.1:port/x"),
        ("--clickhouse-url", "clickhouse://u:s3cret-w0rd@127.0.0.1:1/x"),
        ("--clickhouse-url", "http://u:s3cret-w0rd@127.0.0.1:1/x"),
        ("--clickhouse-url", "clickhouse://u:s3cret-w0rd/2@127.0.0.1:1/x"),
    ],
)
def test_no_error_shows_a_password(flag: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unreachable or mistyped, a URL is never repeated."""
    monkeypatch.delenv("CHIMERA_DATABASE_URL", raising=False)
    monkeypatch.delenv("CHIMERA_CLICKHOUSE_URL", raising=False)
    only = "--postgres" if flag == "--database-url" else "--clickhouse"
    result = CliRunner().invoke(migrate.app, ["up", only, flag, url])
    assert result.exit_code == 1 and result.output.startswith("error: ")
    assert ("PostgreSQL" if only == "--postgres" else "ClickHouse") in result.output
    assert "s3cret" not in result.output


def test_the_installed_package_finds_its_own_files(tmp_path: Path) -> None:
    """In a wheel the files lie inside the package, and nobody writes new ones there."""
    package = Path(migrate.__file__).parent
    site = tmp_path / "site"
    (site / "chimera/_migrations/postgres").mkdir(parents=True)
    (site / "chimera/migrate").mkdir()
    for module in package.glob("*.py"):
        (site / "chimera/migrate" / module.name).write_text(module.read_text())
    (site / "chimera/__init__.py").touch()
    code = "from chimera import migrate as m; print(m.migrations_folder()); m.new('postgres', 'x')"

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": str(site)})  # fmt: skip

    assert run.stdout.strip() == str(site / "chimera/_migrations")
    assert "new migrations are written in a source checkout" in run.stderr


# --- the product's own migrations -----------------------------------------------------------


def _checkout() -> Path:
    return Path(__file__).parents[2] / "migrations"


def test_the_checkout_is_what_runs() -> None:
    """From a source checkout the top-level folder is used."""
    assert migrate.migrations_folder() == _checkout()


def test_down_to_nothing_and_up_again_is_the_same_schema(
    database_url: str, clickhouse_url: str
) -> None:
    """Every migration of the product can be taken back, leaves nothing, and comes back equal."""

    def schemas() -> tuple[str, str]:
        return migrate.dump_schema(database_url), ClickhouseCluster(db_url=clickhouse_url).dump()

    name = clickhouse_url.rpartition("/")[2].partition("?")[0]
    _clickhouse(_with_path(clickhouse_url, "default"), f"CREATE DATABASE {name}")
    empty = schemas()
    count = len(migrate.up(database_url, clickhouse_url))
    full = schemas()
    undone = migrate.down(database_url, clickhouse_url, steps=max(count, 1))
    bare = schemas()
    migrate.up(database_url, clickhouse_url)

    assert len(undone) == count
    assert bare == empty
    assert schemas() == full


def test_schema_sql_is_what_the_migrations_make(database_url: str) -> None:
    """The file people read is never behind the files that run."""
    migrate.up(database_url)
    schema = _checkout() / "schema.sql"
    text = schema.read_text() if schema.exists() else ""
    assert text == migrate.dump_schema(database_url), (
        "run `chimera migrate schema > migrations/schema.sql` on a freshly migrated database"
    )
