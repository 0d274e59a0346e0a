"""The migration files, and the rules that compare them with what a database has applied."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

Engine = Literal["postgres", "clickhouse"]

FILE_NAME = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
NO_FILE = "(no file)"


class MigrationError(Exception):
    """A migration cannot be done; the message says which file and what to do next."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration of one engine, as `status` reports it.

    `applied_at` is when the run that applied it began; None while pending, and for a file that
    dbmate applied without this module. `digest_ok` is False when an applied file was edited
    afterwards or is gone.
    """

    engine: Engine
    version: int
    name: str
    applied: bool
    applied_at: datetime | None
    digest_ok: bool


@dataclass(frozen=True, slots=True)
class File:
    version: int
    name: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What a database remembers of one version; the digest is None if nobody recorded one."""

    sha256: str | None
    applied_at: datetime | None


def migrations_folder() -> Path:
    """Where the files are: inside the installed package, or at the root of a source checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_migrations", package.parents[1] / "migrations"):
        if folder.is_dir():
            return folder
    raise MigrationError(f"no migrations beside {package}: the installation is incomplete")


def files_of(root: Path, engine: Engine) -> dict[int, File]:
    """The migrations of one engine by version, ascending. Raises MigrationError on a bad one."""
    files: dict[int, File] = {}
    for path in sorted((root / engine).glob("*.sql")):
        if engine == "clickhouse" and path.name.endswith(".down.sql"):
            continue
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{engine}/{path.name} is not named NNNN_lower_case.sql")
        version = int(match["version"])
        if version in files:
            raise MigrationError(
                f"{files[version].path.name} and {path.name} have the same version; renumber one"
            )
        # Read as text: a checkout that turns line ends into CRLF has not edited the file.
        text = path.read_text("utf-8")
        if engine == "postgres":
            reversible = "-- migrate:down" in text
        else:
            reversible = path.with_suffix(".down.sql").exists()
        if not reversible:
            raise MigrationError(f"{engine}/{path.name} has no way down")
        files[version] = File(version, match["name"], path, sha256_of(text))
    return files


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def pending_of(files: Mapping[int, File], applied: Mapping[int, Applied]) -> list[File]:
    """What is to be applied, in order; raises MigrationError where applying would be wrong.

    A database may be newer than the files as long as nothing is pending: the previous release
    must be able to start while, or after, the next one is rolled out.
    """
    newest_file, newest_applied = max(files, default=0), max(applied, default=0)
    edited = [f.path.name for v, f in files.items() if v in applied and not _same(f, applied[v])]
    if edited:
        raise MigrationError(
            f"edited after it was applied: {', '.join(edited)};"
            " restore the file and put the change into a new migration"
        )
    missing = [f"{v:04d}" for v in applied if v not in files and v < newest_file]
    if missing:
        raise MigrationError(f"applied, but the file is missing: version {', '.join(missing)}")
    pending = [file for version, file in files.items() if version not in applied]
    if pending and pending[0].version < newest_applied:
        raise MigrationError(
            f"{pending[0].path.name} is older than version {newest_applied:04d}, which is applied;"
            " give it the next free number"
        )
    return pending


def _same(file: File, applied: Applied) -> bool:
    return applied.sha256 is None or applied.sha256 == file.sha256


def report(
    engine: Engine, files: Mapping[int, File], applied: Mapping[int, Applied]
) -> list[Migration]:
    """Every version there is a file or a mark of, ascending."""
    rows = []
    for version in sorted({*files, *applied}):
        file, mark = files.get(version), applied.get(version)
        intact = mark is None or (file is not None and _same(file, mark))
        rows.append(
            Migration(
                engine=engine,
                version=version,
                name=file.name if file else NO_FILE,
                applied=mark is not None,
                applied_at=mark.applied_at if mark else None,
                digest_ok=intact,
            )
        )
    return rows


def new(engine: Engine, name: str, *, folder: Path | None = None) -> Path:
    """Create the next empty migration of `engine` and return its path.

    For ClickHouse the way back is a second file beside it, `NNNN_name.down.sql`.
    Raises MigrationError if the name has no letters or digits.
    """
    root = folder or migrations_folder()
    if root.name == "_migrations":
        raise MigrationError("new migrations are written in a source checkout")
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not slug:
        raise MigrationError(f"a migration name needs letters or digits, not {name!r}")
    version = max(files_of(root, engine), default=0) + 1
    path = root / engine / f"{version:04d}_{slug}.sql"
    path.parent.mkdir(parents=True, exist_ok=True)
    if engine == "postgres":
        bounds = "SET LOCAL lock_timeout = '2s';\nSET LOCAL statement_timeout = '60s';\n"
        path.write_text(f"-- migrate:up\n{bounds}\n\n-- migrate:down\n{bounds}", "utf-8")
    else:
        path.write_text("-- Not transactional: IF NOT EXISTS lets it run again.\n", "utf-8")
        path.with_suffix(".down.sql").write_text("-- Not transactional: IF EXISTS.\n", "utf-8")
    return path
