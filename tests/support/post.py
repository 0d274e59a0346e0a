"""The post: a real SMTP server on loopback, and what a worker sends to it.

`await post.token("olivia@example.com")` is what Olivia finds in her newest letter.
"""

from __future__ import annotations

import re
from email import message_from_bytes
from email.policy import default as modern
from typing import Any

import psycopg

from chimera.core import open_core
from chimera.settings import Settings
from workers.tasks.mail import send_mail


class Box:
    """What an SMTP server took in."""

    def __init__(self) -> None:
        self.letters: list[Any] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.letters.append(message_from_bytes(envelope.content, policy=modern))
        return "250 OK"


class Post:
    """Sends what is due, as a worker does, and reads what arrived."""

    def __init__(self, box: Box, settings: Settings) -> None:
        self.box, self.settings = box, settings

    async def deliver(self) -> list[Any]:
        """Every mail that was asked for, rung or not; the letters that arrived by it."""
        before = len(self.box.letters)
        url = self.settings.database_url.get_secret_value()
        with psycopg.connect(url, autocommit=True) as connection:
            due = connection.execute(
                "SELECT id::text, org_id::text, args FROM ops.outbox"
                " WHERE task = 'send_mail' ORDER BY id"
            ).fetchall()
        async with open_core(self.settings, "worker") as core:
            for row_id, org_id, args in due:
                await send_mail({"core": core}, row_id, org_id, args)
        return self.box.letters[before:]

    async def letters_to(self, address: str) -> list[str]:
        """Their texts, oldest first."""
        await self.deliver()
        return [letter.get_content() for letter in self.box.letters if letter["To"] == address]

    async def token(self, address: str) -> str:
        """The link's secret in the newest letter to somebody."""
        texts = await self.letters_to(address)
        assert texts, f"no letter to {address}"
        found = re.search(r"\bch[ti]_[\w-]{43}\b", texts[-1])
        assert found, texts[-1]
        return found[0]
