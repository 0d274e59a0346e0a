"""A key management service on loopback: moto's server in a process of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

from tests.support.processes import free_port


class Kms:
    """The running service. `pause` and `resume` make it hang and come back."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.origin = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1):
                    return
            except OSError:
                assert self.process.poll() is None, "the key service ended by itself"
                assert time.monotonic() < deadline, "the key service did not start"
                time.sleep(0.05)

    def ask(self, operation: str, **given: object) -> dict[str, object]:
        request = Request(
            self.origin,
            data=json.dumps(given).encode(),
            headers={
                "X-Amz-Target": f"TrentService.{operation}",
                "Content-Type": "application/x-amz-json-1.1",
                "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/eu-central-1/kms/"
                "aws4_request, SignedHeaders=host, Signature=0",
            },
        )
        with urlopen(request, timeout=20) as answer:
            found: dict[str, object] = json.loads(answer.read() or b"{}")
        return found

    def new_key(self) -> str:
        """A new key; its id."""
        made = self.ask("CreateKey")["KeyMetadata"]
        assert isinstance(made, dict)
        return str(made["KeyId"])

    def url(self, key: str) -> str:
        """For CHIMERA_MASTER_KEY."""
        return f"aws-kms://eu-central-1/{key}?endpoint={self.origin}"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def running_kms() -> Iterator[Kms]:
    kms = Kms(free_port())
    try:
        kms.wait()
        yield kms
    finally:
        kms.end()
