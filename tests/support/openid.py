"""Providers on loopback for signing in: the package oidc-provider-mock in its own process, a hostile
OpenID provider that lies on demand, and a server that behaves like GitHub's OAuth apps."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlsplit

import aiohttp
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.support.processes import free_port, until

REDIRECT_URI = "https://chimera.example/signed-in"


def _answer(location: str) -> dict[str, str]:
    """What the browser brings to redirect_uri."""
    assert location.startswith(f"{REDIRECT_URI}?"), location
    brought = parse_qs(urlsplit(location).query)
    return {name: brought[name][0] for name in ("code", "state", "iss", "error") if name in brought}


async def consent(authorization_url: str, subject: str) -> dict[str, str]:
    """A browser: opens the page, presses the button as `subject`, follows nothing."""
    async with aiohttp.ClientSession() as browser:
        async with browser.get(authorization_url) as page:
            assert page.status == 200 and "Authorize" in await page.text()
        form = {"sub": subject} if subject else {"action": "deny"}
        async with browser.post(authorization_url, data=form, allow_redirects=False) as pressed:
            return _answer(pressed.headers["Location"])


async def redirected(authorization_url: str) -> dict[str, str]:
    """A browser at a provider that asks nothing."""
    async with (
        aiohttp.ClientSession() as browser,
        browser.get(authorization_url, allow_redirects=False) as page,
    ):
        return _answer(page.headers["Location"])


@contextmanager
def mock_provider(log: Path) -> Iterator[str]:
    """The issuer of a running oidc-provider-mock, which insists on a nonce."""
    port = free_port()
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port)]
    child = subprocess.Popen(
        [*command, "--require-nonce", "true"], stdout=subprocess.DEVNULL, stderr=log.open("wb")
    )
    issuer = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        import urllib.request

        assert child.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{issuer}/.well-known/openid-configuration", timeout=2):
                return True
        except OSError:
            return False

    try:
        until(answers)
        yield issuer
    finally:
        child.terminate()
        child.wait(20)


async def says(issuer: str, subject: str, **claims: object) -> None:
    """What oidc-provider-mock puts into this person's ID tokens from now on."""
    async with (
        aiohttp.ClientSession() as client,
        client.put(f"{issuer}/users/{subject}", json=claims) as answer,
    ):
        assert answer.status == 204


@cache
def rsa_key(kid: str, number: int = 0) -> RSAKey:
    """The same one each time: they take long to make."""
    return RSAKey.generate_key(2048, {"kid": kid})


@dataclass
class Provider:
    """What the hostile provider says next. Each lie changes one thing of an honest answer."""

    issuer: str = ""
    key: RSAKey = field(default_factory=lambda: rsa_key("first"))
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    discovery: dict[str, Any] = field(default_factory=dict)
    token_answer: dict[str, Any] = field(default_factory=dict)
    redirect: dict[str, str] = field(default_factory=dict)
    sign: Callable[[dict[str, Any], dict[str, Any]], str] | None = None
    published: list[RSAKey] | None = None
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    jwks_fetches: int = 0
    token_requests: list[dict[str, str]] = field(default_factory=list)

    def honest(self, asked: dict[str, str], access_token: str) -> dict[str, Any]:
        digest = hashlib.sha256(access_token.encode()).digest()
        now = int(time.time())
        return {
            "iss": self.issuer,
            "aud": asked["client_id"],
            "sub": "subject-1",
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            "at_hash": base64.urlsafe_b64encode(digest[:16]).rstrip(b"=").decode(),
            "email": "newcomer@acme.example",
            "email_verified": True,
            "name": "New Comer",
            "preferred_username": "newcomer",
        }

    async def configuration(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
                "id_token_signing_alg_values_supported": ["RS256"],
                "authorization_response_iss_parameter_supported": True,
            }
            | self.discovery
        )

    async def jwks(self, _request: web.Request) -> web.Response:
        self.jwks_fetches += 1
        keys = self.published if self.published is not None else [self.key]
        return web.json_response({"keys": [key.as_dict(private=False) for key in keys]})

    async def authorize(self, request: web.Request) -> web.Response:
        code = secrets.token_urlsafe(16)
        self.codes[code] = dict(request.query)
        answer = {"code": code, "state": request.query["state"], "iss": self.issuer}
        query = "&".join(f"{k}={v}" for k, v in (answer | self.redirect).items())
        return web.Response(
            status=302, headers={"Location": f"{request.query['redirect_uri']}?{query}"}
        )

    async def token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.token_requests.append(form)
        asked = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        basic = request.headers.get("Authorization", "Basic Og==").removeprefix("Basic ")
        login, _, password = base64.b64decode(basic).decode().partition(":")
        if (
            asked is None
            or asked["code_challenge_method"] != "S256"
            or asked["code_challenge"] != challenge
            or asked["redirect_uri"] != form.get("redirect_uri")
            or unquote_plus(login) != asked["client_id"]
            or unquote_plus(password) != "client-secret"
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        access_token = secrets.token_urlsafe(24)
        claims = {**self.honest(asked, access_token), **self.claims}
        claims = {name: value for name, value in claims.items() if value is not None}
        header = {"alg": "RS256", "kid": self.key.kid, "typ": "JWT"} | self.header
        token = self.sign(header, claims) if self.sign else jwt.encode(header, claims, self.key)
        answer = {"access_token": access_token, "token_type": "Bearer", "id_token": token}
        answer |= self.token_answer
        return web.json_response({k: v for k, v in answer.items() if v is not None})


@asynccontextmanager
async def _serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def hostile_provider() -> AsyncIterator[Provider]:
    provider = Provider()
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", provider.configuration)
    app.router.add_get("/jwks", provider.jwks)
    for slash in ("", "/"):
        app.router.add_get(f"/authorize{slash}", provider.authorize)
        app.router.add_post(f"/token{slash}", provider.token)
    async with _serving(app) as origin:
        provider.issuer = origin
        yield provider


@dataclass
class GitHub:
    """Accounts by number, and the server's address."""

    origin: str = ""
    account: dict[str, Any] = field(
        default_factory=lambda: {"id": 583231, "login": "octocat", "name": "The Octocat"}
    )
    emails: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"email": "old@acme.example", "primary": False, "verified": True},
            {"email": "octocat@acme.example", "primary": True, "verified": True},
        ]
    )
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)

    async def authorize(self, request: web.Request) -> web.Response:
        assert re.fullmatch(r"[\w ]+:?[\w ]*.*", request.query["scope"])
        code = secrets.token_hex(10)
        self.codes[code] = dict(request.query)
        target = f"{request.query['redirect_uri']}?code={code}&state={request.query['state']}"
        return web.Response(status=302, headers={"Location": target})

    async def token(self, request: web.Request) -> web.Response:
        """Refuses with 200 and an error, and answers in JSON only when it is asked to."""
        assert request.headers["Accept"] == "application/json"
        form = {name: str(value) for name, value in (await request.post()).items()}
        asked = self.codes.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        if asked is None or form["client_secret"] != "client-secret":
            return web.json_response({"error": "bad_verification_code"})
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if asked["code_challenge"] != challenge or asked["redirect_uri"] != form["redirect_uri"]:
            return web.json_response({"error": "bad_verification_code"})
        token = f"gho_{secrets.token_hex(18)}"
        self.tokens.add(token)
        return web.json_response(
            {"access_token": token, "scope": asked["scope"], "token_type": "bearer"}
        )

    def _answer(self, request: web.Request, body: Any) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.tokens:
            return web.json_response({"message": "Bad credentials"}, status=401)
        return web.json_response(body)

    async def user(self, request: web.Request) -> web.Response:
        return self._answer(request, self.account)

    async def user_emails(self, request: web.Request) -> web.Response:
        return self._answer(request, self.emails)


@asynccontextmanager
async def github_server() -> AsyncIterator[GitHub]:
    """An Enterprise server: its API lies under /api/v3."""
    github = GitHub()
    app = web.Application()
    app.router.add_get("/login/oauth/authorize", github.authorize)
    app.router.add_post("/login/oauth/access_token", github.token)
    app.router.add_get("/api/v3/user", github.user)
    app.router.add_get("/api/v3/user/emails", github.user_emails)
    async with _serving(app) as origin:
        github.origin = origin
        yield github
