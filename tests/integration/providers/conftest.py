"""A real assistant process, and raw servers that send exactly the bytes a test wants."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
import pytest

from chimera.providers.adapters.outbound import open_session

KEY = "sk-assistant-canary-key"


@dataclass(frozen=True)
class Assistant:
    """A running assistant: its origin, and its control calls over a plain session."""

    origin: str
    secret: str
    http: aiohttp.ClientSession

    async def fault(self, **rule: Any) -> None:
        async with self.http.post(f"{self.origin}/faults", json=rule) as response:
            assert response.status == 200, await response.text()

    async def faults(self) -> list[dict[str, Any]]:
        async with self.http.get(f"{self.origin}/faults") as response:
            return orjson.loads(await response.read())

    async def stats(self, **query: str) -> dict[str, Any]:
        async with self.http.get(f"{self.origin}/stats", params=query) as response:
            return orjson.loads(await response.read())

    async def until(self, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first statistics that satisfy `reached`; each look is a real exchange."""
        async with asyncio.timeout(20):
            while not reached(found := await self.stats()):
                pass
        return found

    async def post(
        self, path: str, body: dict[str, Any], *, key: str = KEY, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        auth = {"Authorization": f"Bearer {key}"} if "chat" in path else {"x-api-key": key}
        async with self.http.post(
            self.origin + path, json=body, headers={**auth, **headers}
        ) as response:
            return response.status, orjson.loads(await response.read())


@pytest.fixture(scope="session")
def assistant_process() -> Iterator[dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "chimera.embedded.assistant", "--port", "0"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield orjson.loads(process.stdout.readline())
    finally:
        process.terminate()
        assert process.wait(10) == 0


@pytest.fixture
async def assistant(assistant_process: dict[str, Any]) -> AsyncIterator[Assistant]:
    """The process with clean faults and statistics."""
    origin = f"http://{assistant_process['host']}:{assistant_process['port']}"
    async with aiohttp.ClientSession() as http:
        for path in ("/faults", "/stats"):
            async with http.delete(origin + path) as response:
                assert response.status == 200
        yield Assistant(origin, assistant_process["secret"], http)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """The product's own outbound session, loopback allowed."""
    async with open_session(allow_loopback=True, connections_max=64) as opened:
        yield opened


RawServer = Callable[..., Any]


@pytest.fixture
def raw_server() -> RawServer:
    """`async with raw_server(handler) as port`: a bare socket server; the handler gets reader and
    writer after one whole request was read, and the connection closes when it returns."""

    @asynccontextmanager
    async def serve(
        handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        host: str = "127.0.0.1",
    ) -> AsyncIterator[int]:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        await reader.readexactly(int(line.partition(b":")[2]))
                await handler(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(connected, host, 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    return serve
