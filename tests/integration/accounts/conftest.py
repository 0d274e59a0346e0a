"""An installation that anybody may register at, with a mail server, and people's authenticators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, LiteralString

import psycopg
import pyotp
import pytest
from aiosmtpd.smtp import SMTP
from pydantic import SecretStr

from chimera.settings import Settings
from tests.support.post import Box, Post
from tests.support.world import PASSWORD, Person, Refused, World

OTHER_PASSWORD = "another horse, another battery"


async def reason(call: Awaitable[Any]) -> str:
    """What somebody was told: the reason of the refusal, or OK."""
    try:
        await call
    except Refused as refused:
        return refused.reason
    return "OK"


async def together(*calls: Awaitable[Any]) -> list[str]:
    """The reasons of parallel calls, sorted."""
    return sorted(await asyncio.gather(*(reason(call) for call in calls)))


class Table:
    """The database as a superuser sees and bends it: what is due, what has aged."""

    def __init__(self, url: str) -> None:
        self.url = url

    def rows(self, query: LiteralString, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, query: LiteralString, *values: Any) -> Any:
        return self.rows(query, *values)[0][0]

    def a_while_later(self, user_id: str) -> None:
        """So that the authenticator shows a code that was not used yet."""
        self.rows("UPDATE identity.users SET totp_step = 0 WHERE id = %s", user_id)


@pytest.fixture
def table(database_url: str) -> Table:
    return Table(database_url)


@pytest.fixture
async def box() -> AsyncIterator[tuple[Box, int]]:
    kept = Box()
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(kept, enable_SMTPUTF8=True), "127.0.0.1", 0
    )
    yield kept, server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
def settings(settings: Settings, box: tuple[Box, int]) -> Settings:
    return settings.model_copy(
        update={
            "mail_url": SecretStr(f"smtp://127.0.0.1:{box[1]}"),
            "registration": "open",
            "trusted_proxies": ("127.0.0.0/8",),
        }
    )


@pytest.fixture
def post(box: tuple[Box, int], settings: Settings) -> Post:
    return Post(box[0], settings)


def at(world: World, address: str) -> Person:
    """Nobody yet, at an address that the trusted proxy reports."""
    person = world.nobody()
    person.metadata = lambda: (("x-forwarded-for", address),)  # type: ignore[method-assign]  # its way through the proxy
    return person


async def with_factor(person: Person) -> tuple[pyotp.TOTP, list[str]]:
    """Sets up an authenticator (an independent implementation) and confirms it."""
    enrolled = await person.account.EnrollTotp()
    totp = pyotp.TOTP(enrolled.secret)
    confirmed = await person.account.ConfirmTotp(code=totp.now())
    return totp, list(confirmed.recovery_codes)


async def registered(world: World, post: Post, name: str, **more: Any) -> Person:
    """Somebody who came by themselves, signed in."""
    email = f"{name}@example.com"
    if "invitation_code" not in more:
        more.setdefault("organisation_name", f"{name}'s")
    nobody = world.nobody()
    await nobody.account.Register(email=email, username=f"{name}.x", **more)
    token = await post.token(email)
    await nobody.account.ConfirmRegistration(token=token, password=PASSWORD)
    return await world.log_in(email)
