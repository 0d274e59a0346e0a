"""A headless Chromium that may reach nobody but a proxy which writes down what it is asked for."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@dataclass(frozen=True)
class Visit:
    """What a page became: its document after loading, what it wrote to the console, and the first
    lines of all requests that left the browser."""

    dom: str
    console: list[str]
    requests: list[str]

    def asked_for(self, host: str) -> bool:
        return any(host in line for line in self.requests)


def chromium() -> str | None:
    """Its path, if there is one on this machine."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def visit(browser: str, page: Path, folder: Path, *, dark: bool = False) -> Visit:
    """Opens a file, lets it load and run, and takes a screenshot into `folder`."""
    with _proxy() as (port, requests):
        done = subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",  # tests may run as root
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--enable-logging=stderr",
                "--virtual-time-budget=3000",
                f"--proxy-server=http://127.0.0.1:{port}",
                "--proxy-bypass-list=<-loopback>",
                f"--user-data-dir={folder / 'profile'}",
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                "--window-size=1180,1500",
                f"--screenshot={folder / ('dark.png' if dark else 'light.png')}",
                "--dump-dom",
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return Visit(done.stdout, console, requests)


@contextmanager
def _proxy() -> Iterator[tuple[int, list[str]]]:
    """Answers everything with 502."""
    requests: list[str] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _peer = listener.accept()
            except OSError:
                return
            with connection:
                first = connection.recv(65536).split(b"\r\n")[0]
                requests.append(first.decode(errors="replace"))
                connection.sendall(
                    b"HTTP/1.1 502 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1], requests
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
