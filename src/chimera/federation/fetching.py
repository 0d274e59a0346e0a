"""What providers publish and answer: discovery documents, key sets, tokens.

Documents are kept for an hour. A key id nobody knows makes the key set be fetched anew, a few times
a minute at most: whoever sends tokens with made-up ids causes no flood.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from chimera.core import Core
from chimera.faults import Unauthenticated, Unavailable
from chimera.federation.provider import Provider, checked_url
from chimera.limits import Buckets
from chimera.providers.adapters.outbound import BadBaseUrlError, open_session

ANSWER_BYTES_MAX = 256_000
TIMEOUT_S = 10.0
KEPT_S = 3600.0
REFETCHES_PER_MINUTE, REFETCH_BURST = 3, 3
KEPT_MAX = 500


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a provider is called, and what it says of itself. jwks_uri is empty without ID tokens,
    user_uri with them."""

    authorization: str
    token: str
    jwks_uri: str = ""
    user_uri: str = ""
    sends_iss: bool = False
    basic_auth: bool = True
    algorithms: frozenset[str] = frozenset()


def failed(why: str) -> Unauthenticated:
    """Whatever is wrong with a provider's answer; `why` is for the log and the person."""
    return Unauthenticated("SIGN_IN_FAILED", f"The sign-in failed: {why}.")


class Fetcher:
    """Of one server process."""

    def __init__(self, core: Core) -> None:
        self.settings = core.settings
        self._documents: dict[str, tuple[float, dict[str, Any]]] = {}
        self._refetches = Buckets(REFETCHES_PER_MINUTE / 60, REFETCH_BURST)

    async def endpoints_of(self, provider: Provider) -> Endpoints:
        """Raises Unauthenticated(SIGN_IN_FAILED) for a document that is not sound, Unavailable."""
        if provider.kind == "github":
            return _github(provider.issuer)
        base = provider.issuer.rstrip("/")
        document = await self._kept(f"{base}/.well-known/openid-configuration")
        if document.get("issuer") != provider.issuer:
            raise failed("the provider's discovery document is of another issuer")
        methods = document.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        named = {name: document.get(name) for name in ENDPOINTS}
        try:
            urls = {name: checked_url(str(url), self.settings) for name, url in named.items()}
        except BadBaseUrlError:
            raise failed("the provider names an address that may not be called") from None
        return Endpoints(
            authorization=urls["authorization_endpoint"],
            token=urls["token_endpoint"],
            jwks_uri=urls["jwks_uri"],
            sends_iss=document.get("authorization_response_iss_parameter_supported") is True,
            basic_auth="client_secret_basic" in methods,
            algorithms=frozenset(
                map(str, document.get("id_token_signing_alg_values_supported") or ["RS256"])
            ),
        )

    async def keys_of(self, endpoints: Endpoints, kid: str | None) -> list[dict[str, Any]]:
        """The provider's keys, fetched anew for a kid that is not among those known."""
        keys = _keys(await self._kept(endpoints.jwks_uri))
        known = {key.get("kid") for key in keys}
        if kid is not None and kid not in known and not self._refetches.wait_s(endpoints.jwks_uri):
            keys = _keys(await self._fetched(endpoints.jwks_uri))
        return keys

    async def _kept(self, url: str) -> dict[str, Any]:
        found = self._documents.get(url)
        if found is not None and time.monotonic() - found[0] < KEPT_S:
            return found[1]
        return await self._fetched(url)

    async def _fetched(self, url: str) -> dict[str, Any]:
        document = await self.ask("GET", url)
        self._documents.pop(url, None)
        self._documents[url] = (time.monotonic(), document)
        if len(self._documents) > KEPT_MAX:
            del self._documents[next(iter(self._documents))]
        return document

    async def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The JSON object of the answer. Raises Unauthenticated(SIGN_IN_FAILED) for a refusal or
        what is no JSON object, Unavailable(DEPENDENCY_UNAVAILABLE) when there is none."""
        allow = self.settings.loopback_allowed
        try:
            async with (
                open_session(allow_loopback=allow, connections_max=2) as session,
                session.request(
                    method,
                    url,
                    data=form,
                    headers={"Accept": "application/json", **(headers or {})},
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                ) as answer,
            ):
                body = await answer.content.read(ANSWER_BYTES_MAX + 1)
                while len(body) <= ANSWER_BYTES_MAX and (more := await answer.content.readany()):
                    body += more
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(
                "DEPENDENCY_UNAVAILABLE",
                f"The provider does not answer: {type(error).__name__}.",
                retry_after_s=2.0,
            ) from None
        if status >= 500:
            raise Unavailable(
                "DEPENDENCY_UNAVAILABLE", f"The provider answers {status}.", retry_after_s=2.0
            )
        if status != 200 or len(body) > ANSWER_BYTES_MAX:
            raise failed(f"the provider refused with status {status}")
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            document = None
        if isinstance(document, list):  # GitHub's list of addresses
            document = {"items": document}
        if not isinstance(document, dict):
            raise failed("the provider's answer is no JSON object")
        return document


ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")


def _keys(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    keys = document.get("keys")
    return [key for key in keys if isinstance(key, dict)] if isinstance(keys, list) else []


def _github(base: str) -> Endpoints:
    """docs.github.com: authorizing OAuth apps. Enterprise servers have the API under /api/v3."""
    api = "https://api.github.com" if base == "https://github.com" else f"{base}/api/v3"
    return Endpoints(
        authorization=f"{base}/login/oauth/authorize",
        token=f"{base}/login/oauth/access_token",
        user_uri=f"{api}/user",
        basic_auth=False,
    )
