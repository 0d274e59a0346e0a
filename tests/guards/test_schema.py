"""Guard: migrations/schema.sql equals what the migrations make, and they can be taken back."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from chimera import migrate
from chimera.embedded.stack import StackUrls
from tests.support.stack import other_database

FILE = Path(__file__).parents[2] / "migrations" / "schema.sql"


def test_schema_sql_is_what_the_migrations_make(
    database_url: str, request: pytest.FixtureRequest
) -> None:
    """The file is for reading, and its diff is the review of a migration."""
    schema = migrate.dump_schema(database_url)
    if request.config.getoption("--update-schema"):
        FILE.write_text(schema)
    kept = FILE.read_text() if FILE.exists() else ""
    changed = sorted(set(schema.splitlines()) ^ set(kept.splitlines()))
    assert schema == kept, "run `make schema` and read the diff:\n" + "\n".join(changed[:40])


def test_every_migration_can_be_taken_back(stack: StackUrls, database_url: str) -> None:
    """Up, down to nothing, up again: the same schema, and nothing left in between."""
    name = f"t_{uuid4().hex[:12]}"
    url = other_database(stack.database_url, name)
    with psycopg.connect(other_database(stack.database_url, "postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            bare = migrate.dump_schema(url)
            count = len(migrate.up(url, only="postgres"))
            migrate.down(url, only="postgres", steps=count)
            assert migrate.dump_schema(url) == bare, "a `migrate:down` leaves something behind"
            migrate.up(url, only="postgres")
            assert migrate.dump_schema(url) == migrate.dump_schema(database_url), (
                "going down and up again changes the schema: complete the newest `migrate:down`"
            )
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
