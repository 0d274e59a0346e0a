"""The ClickHouse part: one process owns the chDB engine and serves the native protocol.

Started as `python -m chimera.embedded.clickhouse --data DIR --port N`; importing it does not
load the engine. What must stay true:

* One process per data folder, guarded by a lock the system drops when the process dies.
* One engine session per connection, so `USE`, `SET` and temporary tables stay with it.
* Settings sent with a query hold for that query only.
* An insert reaches the engine only when the client has sent all of it, so a client that
  vanishes in between leaves no row; its errors reach the client, and the connection goes on.
* Query texts are never logged: they may carry secrets.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from chimera.embedded.engine import QueryError, Session, quoted, split_blocks
from chimera.embedded.native import (
    ClientPacket,
    ProtocolError,
    Query,
    ServerConnection,
    header_block,
    row_count,
)
from chimera.embedded.statement import Insert, parse_insert, returns_rows, without_format
from chimera.embedded.supervisor import Child, module_child

_log = logging.getLogger("chimera.embedded.clickhouse")

_NOT_IMPLEMENTED = 48  # ClickHouse's own code
_CLOSE_WAIT_S = 10.0
_SPOOL = Path("spool")  # in the data folder, which is the working folder of this process
# The engine takes *, ? and {} in a file's absolute name for patterns: this one cannot hold any.
_SPOOL_FOR_ENGINE = "/proc/self/cwd/spool" if sys.platform == "linux" else "spool"


class Client:
    """Serves one connection until it ends. Runs in a thread of its own."""

    def __init__(self, connection: socket.socket, engine_path: str) -> None:
        self._wire = ServerConnection(connection)
        self._engine_path = engine_path
        self._session: Session

    def serve(self) -> None:
        try:
            if not self._greet():
                return
            while True:
                kind = self._wire.read_packet_type()
                if kind == ClientPacket.PING:
                    self._wire.write_pong()
                elif kind == ClientPacket.QUERY:
                    self._answer(self._wire.read_query())
                elif kind != ClientPacket.CANCEL:  # a late cancel finds nothing to cancel
                    raise ProtocolError(f"packet {kind} is not understood here")
        except ProtocolError as error:
            _log.warning("connection refused: %s", error)
            self._refuse(error)
        except (EOFError, OSError):
            pass
        finally:
            if hasattr(self, "_session"):
                self._session.close()
            self._wire.socket.close()

    def _greet(self) -> bool:
        hello = self._wire.read_hello()
        try:
            self._session = Session(self._engine_path, hello.database)
            version = self._session.text("SELECT version()").split(".")
            timezone = self._session.text("SELECT timezone()")
        except Exception as error:
            shown = QueryError.of(error)
            self._wire.write_exception(shown.code, str(shown))
            return False
        major, minor, patch = (int(part) for part in version[:3])
        self._wire.write_hello("ClickHouse", (major, minor, patch), timezone)
        return True

    def _refuse(self, error: ProtocolError) -> None:
        """Says why and waits for the client to hang up: closing with unread data would reset
        the connection and take the message with it."""
        try:
            self._wire.write_exception(_NOT_IMPLEMENTED, f"DB::Exception: {error}")
            self._wire.socket.shutdown(socket.SHUT_WR)
            self._wire.socket.settimeout(2.0)
            while self._wire.socket.recv(1 << 16):
                pass
        except OSError:
            pass

    def _answer(self, query: Query) -> None:
        names: list[str] = []
        try:
            self._expect_no_external_tables()
            names = self._session.apply(query.settings)
            self._execute(query.text)
            self._wire.write_end_of_stream()
        except (ProtocolError, EOFError, OSError):
            raise
        except Exception as error:
            shown = QueryError.of(error)
            _log.info("query failed with code %d", shown.code)
            self._wire.write_exception(shown.code, str(shown))
        finally:
            self._session.reset(names)

    def _execute(self, text: str) -> None:
        insert = parse_insert(text)
        if insert is not None:
            self._insert(insert)
        elif returns_rows(text):
            self._select(without_format(text))
        else:
            self._run(without_format(text))

    def _expect_no_external_tables(self) -> None:
        tables = set()
        while (packet := self._next_block())[1] is not None:
            tables.add(packet[0])
        if tables:
            raise QueryError(
                _NOT_IMPLEMENTED,
                "DB::Exception: external tables are not supported by the embedded ClickHouse",
            )

    def _next_block(self) -> tuple[str, bytes | None]:
        kind = self._wire.read_packet_type()
        if kind != ClientPacket.DATA:
            raise ProtocolError(f"packet {kind} instead of data")
        return self._wire.read_data()

    def _select(self, text: str) -> None:
        self._wire.write_data(header_block(self._session.columns(text)))
        stream = self._session.stream(text)
        try:
            while (chunk := stream.fetch()) is not None:
                self._wire.write_data(bytes(chunk.bytes()))
                if self._cancelled():
                    return
        finally:
            stream.close()

    def _cancelled(self) -> bool:
        """Whether the client, who has nothing else to say now, sent a cancel or hung up."""
        # Not select(): it knows no file beyond the 1,024th, and the engine opens thousands.
        news = select.poll()
        news.register(self._wire.socket, select.POLLIN)
        return bool(news.poll(0)) and self._wire.read_packet_type() == ClientPacket.CANCEL

    def _run(self, text: str) -> None:
        result = self._session.run(text)
        if result:
            for block in split_blocks(result):
                self._wire.write_data(block)

    def _insert(self, insert: Insert) -> None:
        """Collects the blocks in a file and inserts that.

        Not by the engine's streaming insert: that one (chDB 26.9) answers success when the write
        itself fails, as by a constraint or in a materialized view.
        """
        like = f"SELECT {insert.columns} FROM {insert.source}"  # noqa: S608 - the client's own words
        # Described before the client is asked for data: an error now ends the query.
        self._wire.write_data(header_block(self._session.describe(like)))
        rows = 0
        with tempfile.NamedTemporaryFile(dir=_SPOOL, suffix=".native") as spool:
            while (block := self._next_block()[1]) is not None:
                spool.write(block)
                rows += row_count(block)
            spool.flush()
            if rows:
                name = f"{_SPOOL_FOR_ENGINE}/{os.path.basename(spool.name)}"
                self._session.insert(insert.from_file(name), rows)


class Server:
    """Accepts clients on loopback and gives each a thread. Owns the current folder."""

    def __init__(self, port: int) -> None:
        self._lock = os.open("owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another process owns {Path.cwd()}") from None
        shutil.rmtree(_SPOOL, ignore_errors=True)
        _SPOOL.mkdir()
        self._engine_path = "file:engine"
        self._keep_open = Session(self._engine_path, "")  # the engine ends with its last session
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self._open: dict[threading.Thread, socket.socket] = {}
        self._guard = threading.Lock()

    def accept(self) -> None:
        """Until the listener is closed."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._guard:
                self._open[thread] = connection
            thread.start()

    def close(self) -> None:
        """Lets running queries end for a while, then closes the engine."""
        self._listener.close()
        with self._guard:
            threads = dict(self._open)
        for connection in threads.values():
            try:
                connection.shutdown(socket.SHUT_RD)
            except OSError:
                continue
        deadline = time.monotonic() + _CLOSE_WAIT_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if not any(thread.is_alive() for thread in threads):
            self._keep_open.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            Client(connection, self._engine_path).serve()
        except Exception:
            _log.exception("a connection ended with an error")
        finally:
            with self._guard:
                del self._open[threading.current_thread()]


def child(data: Path, port: int) -> Child:
    """This module as a child of the stack."""
    return replace(
        module_child(
            "clickhouse",
            "chimera.embedded.clickhouse",
            ["--data", str(data), "--port", str(port)],
            ready=lambda: _answers(port),
        ),
        stop_timeout_s=_CLOSE_WAIT_S + 10.0,
    )


def create_database(port: int, name: str) -> None:
    """Creates the database unless it exists."""
    _execute(port, f"CREATE DATABASE IF NOT EXISTS {quoted(name, '`')}")


def _answers(port: int) -> bool:
    # Asked first because the client library logs every refused connection at length.
    socket.create_connection(("127.0.0.1", port), timeout=2.0).close()
    return bool(_execute(port, "SELECT 1") == [(1,)])


def _execute(port: int, query: str) -> Any:
    from clickhouse_driver import Client as Driver

    with Driver("127.0.0.1", port=port, compression="lz4", connect_timeout=2) as driver:
        return driver.execute(query)


def main() -> None:
    parser = argparse.ArgumentParser(description="The embedded ClickHouse, on loopback.")
    parser.add_argument("--data", type=Path, required=True, help="folder owned by this process")
    parser.add_argument("--port", type=int, required=True)
    orders = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # Blocked before any thread exists, so that only the wait below receives them.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    orders.data.mkdir(parents=True, exist_ok=True)
    os.chdir(orders.data)
    server = Server(orders.port)
    threading.Thread(target=server.accept, daemon=True).start()
    _log.info("serving on 127.0.0.1:%d", orders.port)
    signal.sigwait(signals)
    server.close()
    _log.info("closed")
    logging.shutdown()
    # Past the interpreter's own teardown, which would wait for the engine's threads.
    os._exit(0)


if __name__ == "__main__":
    main()
