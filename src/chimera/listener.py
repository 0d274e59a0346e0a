"""The HTTP side of a server process: metrics for Prometheus, and the keys of access tokens for
whoever verifies them offline. It needs no credentials, so it listens on an address of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import structlog
from aiohttp import web

from chimera.settings import Settings

log = structlog.get_logger("chimera.listener")

JWKS_PATH = "/.well-known/jwks.json"
CONFIGURATION_PATH = "/.well-known/openid-configuration"
# Well below signing_key_lead_s: who caches for so long has a key before it signs.
JWKS_AGE_S = 60

ReadJwks = Callable[[], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def listening(settings: Settings, read_jwks: ReadJwks, number: int) -> AsyncIterator[None]:
    """Serves on metrics_listen (port + number) until the end; nothing when it is not set."""
    if not settings.metrics_listen:
        yield
        return
    host, _, port = settings.metrics_listen.rpartition(":")
    runner = web.AppRunner(application(settings, read_jwks), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host or "127.0.0.1", int(port) + number).start()
        yield
    finally:
        await runner.cleanup()


def application(settings: Settings, read_jwks: ReadJwks) -> web.Application:
    """The three documents."""

    async def metrics(request: web.Request) -> web.Response:
        from prometheus_client import REGISTRY
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(REGISTRY), headers={"Content-Type": content_type})

    async def jwks(_request: web.Request) -> web.Response:
        return _document(await read_jwks(), "application/jwk-set+json")

    async def configuration(_request: web.Request) -> web.Response:
        if "://" not in settings.issuer:
            raise web.HTTPNotFound(text="CHIMERA_ISSUER is a name and no URL.")
        found = {
            "issuer": settings.issuer,
            "jwks_uri": settings.issuer.rstrip("/") + JWKS_PATH,
            "id_token_signing_alg_values_supported": ["EdDSA"],
            "response_types_supported": [],
            "subject_types_supported": ["public"],
        }
        return _document(found, "application/json")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get(JWKS_PATH, jwks)
    app.router.add_get(CONFIGURATION_PATH, configuration)
    return app


def _document(content: dict[str, Any], content_type: str) -> web.Response:
    headers = {"Cache-Control": f"public, max-age={JWKS_AGE_S}"}
    return web.Response(body=orjson.dumps(content), content_type=content_type, headers=headers)
