"""A way to sign in at a provider on loopback, and a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chimera.v1.federation_pb2 import SignInProvider, SignInProviderKind
from tests.support.openid import (
    REDIRECT_URI,
    GitHub,
    Provider,
    github_server,
    hostile_provider,
    mock_provider,
)
from tests.support.world import Organisation, Person

Browser = Callable[[str], Awaitable[dict[str, str]]]


@pytest.fixture(scope="session")
def mock_issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real OpenID provider in a process of its own."""
    log: Path = tmp_path_factory.mktemp("openid") / "provider.log"
    with mock_provider(log) as issuer:
        yield issuer


@pytest.fixture
async def hostile() -> AsyncIterator[Provider]:
    async with hostile_provider() as provider:
        yield provider


@pytest.fixture
async def github() -> AsyncIterator[GitHub]:
    async with github_server() as server:
        yield server


async def way_in(org: Organisation, issuer: str, **given: Any) -> SignInProvider:
    """A provider of the organisation's."""
    answer = await org.admin.sign_in.CreateSignInProvider(
        name=given.pop("name", "corporate"),
        kind=given.pop("kind", SignInProviderKind.SIGN_IN_PROVIDER_KIND_OIDC),
        issuer=issuer,
        client_id=given.pop("client_id", "client-1"),
        client_secret="client-secret",
        redirect_uris=[REDIRECT_URI],
        **given,
    )
    provider: SignInProvider = answer.sign_in_provider
    return provider


async def signed_in(person: Person, provider_id: str, browser: Browser, **changed: str) -> Any:
    """Start, browser, finish; `changed` replaces parts of what is sent at the end."""
    started = await person.sign_in.StartSignIn(provider_id=provider_id, redirect_uri=REDIRECT_URI)
    brought = await browser(started.authorization_url)
    answer = {"handle": started.handle, **brought, **changed}
    finished = await person.sign_in.FinishSignIn(answer=answer)
    return finished


async def linked(person: Person, provider_id: str, browser: Browser) -> Any:
    """The same for somebody who is signed in."""
    started = await person.sign_in.StartLink(provider_id=provider_id, redirect_uri=REDIRECT_URI)
    brought = await browser(started.authorization_url)
    answer = await person.sign_in.FinishLink(answer={"handle": started.handle, **brought})
    return answer.linked_identity
