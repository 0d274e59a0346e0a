"""The whole stack on a fresh folder: it comes up, serves, keeps its data and comes up again."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

import psycopg
import pytest
from clickhouse_driver import Client
from redis import Redis

from chimera.embedded import postgres
from chimera.embedded.stack import Stack, StackUrls


def write_everywhere(urls: StackUrls) -> None:
    with psycopg.connect(urls.database_url) as connection:
        connection.execute("CREATE TABLE kept (a int)")
        connection.execute("INSERT INTO kept VALUES (42)")
    Redis.from_url(urls.redis_url).set("kept", "42")
    with Client.from_url(urls.clickhouse_url) as client:
        client.execute("CREATE TABLE kept (a UInt8) ENGINE = MergeTree ORDER BY a")
        client.execute("INSERT INTO kept VALUES", [(42,)])


def read_everywhere(urls: StackUrls) -> list[int]:
    with psycopg.connect(urls.database_url) as connection:
        row = connection.execute("SELECT a FROM kept").fetchone()
    with Client.from_url(urls.clickhouse_url) as client:
        from_clickhouse = client.execute("SELECT a FROM kept")[0][0]
    return [row[0] if row else 0, int(Redis.from_url(urls.redis_url).get("kept")), from_clickhouse]


def test_a_second_run_finds_the_data_of_the_first_at_the_same_addresses(tmp_path: Path) -> None:
    """With fsync on, as in daily use. The folder above is closed to other users, and its name
    holds what patterns and shells would trip over."""
    home = tmp_path / "closed {a,b}*" / "home"
    home.parent.mkdir(mode=0o700)
    begun = time.monotonic()
    with Stack(home, assistant=False) as first:
        print(f"first start: {time.monotonic() - begun:.2f} s")
        urls = first.urls
        write_everywhere(urls)
    begun = time.monotonic()
    with Stack(home, assistant=False) as second:
        print(f"second start: {time.monotonic() - begun:.2f} s")
        assert second.urls == urls
        assert read_everywhere(urls) == [42, 42, 42]
    assert not list((home / "run").glob("*.pid"))


def test_parts_that_were_not_asked_for_are_not_started(tmp_path: Path) -> None:
    """Whoever brings a database of their own gets only the rest."""
    with Stack(tmp_path, postgres=False, clickhouse=False, assistant=False) as stack:
        assert stack.urls.database_url == stack.urls.clickhouse_url == ""
        assert Redis.from_url(stack.urls.redis_url).ping()
        assert [file.stem for file in (tmp_path / "run").glob("*.pid")] == ["redis"]


@pytest.fixture(scope="module")
def database_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("database")


def test_postgres_is_usable_as_the_product_needs_it(database_home: Path) -> None:
    """Any role logs in on loopback, UUIDv7 and vectors exist, the tools of the install work, and
    no server process runs as root."""
    with Stack(
        database_home, redis=False, clickhouse=False, assistant=False, durable=False
    ) as stack:
        url = stack.urls.database_url
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute("CREATE ROLE chimera_app LOGIN")
            admin.execute("CREATE EXTENSION vector")
            shown = admin.execute(
                "SELECT current_setting('server_version_num')::int / 10000,"
                " current_setting('max_connections'), current_setting('fsync'),"
                " uuid_extract_version(uuidv7()), pg_encoding_to_char(encoding)"
                " FROM pg_database WHERE datname = current_database()"
            ).fetchone()
            assert shown == (18, "200", "off", 7, "UTF8")
        with psycopg.connect(url.replace(postgres.SUPERUSER, "chimera_app")) as app:
            assert app.execute("SELECT current_user").fetchone() == ("chimera_app",)
        dumped = subprocess.run(
            [postgres.tool("pg_dump"), "--schema-only", url], capture_output=True, text=True
        )
        assert "CREATE EXTENSION" in dumped.stdout, dumped.stderr
        answer = subprocess.run(
            [postgres.tool("psql"), "-Atc", "SELECT 1", url], capture_output=True, text=True
        )
        assert answer.stdout == "1\n", answer.stderr
        assert os.stat(f"/proc/{stack.pid('postgres')}").st_uid != 0


def test_programs_in_a_closed_folder_are_copied_to_an_open_one(tmp_path: Path) -> None:
    """A user who cannot reach the installed wheel gets a copy it can execute, once."""
    closed = tmp_path / "site-packages"
    closed.mkdir()
    package = closed / postgres.package_folder().name
    package.symlink_to(postgres.package_folder())
    libraries = postgres.package_folder().with_name(f"{package.name}.libs")
    (closed / libraries.name).symlink_to(libraries)
    user = postgres.service_user(tmp_path / "new")
    closed.chmod(0o700)
    for folder in (tmp_path, *tmp_path.parents[:3]):  # one more under xdist
        if folder.stat().st_uid == os.getuid() and folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)
    copies = tmp_path / "copies"
    install = postgres.reachable_install(user, package, copies)
    assert install == postgres.reachable_install(user, package, copies)
    # Without root there is no other user, and the wheel itself is used.
    assert install.is_relative_to(copies if user else package)
    version = subprocess.run(
        [install / "bin" / "initdb", "--version"], capture_output=True, text=True
    )
    assert version.stdout.startswith("initdb (PostgreSQL) 18."), version.stderr


def test_the_whole_stack_with_its_target_comes_up(tmp_path: Path) -> None:
    """All four parts, the assistant included, answer at the addresses that were given."""
    with Stack(tmp_path, durable=False) as stack:
        with urlopen(f"{stack.urls.assistant_url}/healthz", timeout=10) as answer:
            assert answer.status == 200
        write_everywhere(stack.urls)
        assert read_everywhere(stack.urls) == [42, 42, 42]
