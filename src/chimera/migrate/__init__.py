"""Schema migrations of both stores.

PostgreSQL files are run by dbmate (one process for everything pending), ClickHouse files by
clickhouse-migrations. This package adds what they lack, and it must stay true that

- two runs never work on the same database at once, not even when the first one was killed and
  left its dbmate process behind;
- a file is never changed after it was applied without `up` and `status` saying so by name;
- a run that dies at any point is continued by simply running `up` again;
- the passwords in the URLs reach no process list, output or error.
"""

from chimera.migrate.cli import app
from chimera.migrate.files import Engine, Migration, MigrationError, migrations_folder, new
from chimera.migrate.runner import down, history, status, up
from chimera.migrate.schema import dump_schema

__all__ = [
    "Engine",
    "Migration",
    "MigrationError",
    "app",
    "down",
    "dump_schema",
    "history",
    "migrations_folder",
    "new",
    "status",
    "up",
]
