"""A mail goes to a real SMTP server on loopback, or into a folder, or waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from email import message_from_bytes
from email.policy import default as modern
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP
from pydantic import SecretStr

from chimera.faults import Invalid, Unavailable
from chimera.mail import Mail, send
from chimera.settings import Settings

LETTER = Mail("olivia@example.com", "Grüße from Chimera", "Open the link: https://example.com/x\n")


class Box:
    """What an SMTP server took in; it refuses nobody@ for good and busy@ for now."""

    def __init__(self) -> None:
        self.letters: list[Any] = []

    async def handle_RCPT(
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if address.startswith("nobody@"):
            return "550 no such person"
        if address.startswith("busy@"):
            return "451 come back"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.letters.append(message_from_bytes(envelope.content, policy=modern))
        return "250 OK"


@pytest.fixture
async def smtp() -> AsyncIterator[tuple[Box, Settings]]:
    box = Box()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(box, enable_SMTPUTF8=True), "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield box, Settings(mail_url=SecretStr(f"smtp://127.0.0.1:{port}"))
    finally:
        server.close()


async def test_a_mail_arrives_as_written(smtp: tuple[Box, Settings]) -> None:
    box, settings = smtp
    await send(settings, LETTER, "one")
    (letter,) = box.letters
    assert letter["To"] == LETTER.to
    assert letter["Subject"] == LETTER.subject
    assert letter["Message-ID"] == "<one@localhost>"
    assert letter.get_content().splitlines() == LETTER.text.splitlines()


async def test_what_the_server_refuses_is_told_apart(smtp: tuple[Box, Settings]) -> None:
    """For good: nobody tries again. For now: it comes back later."""
    _, settings = smtp
    with pytest.raises(Invalid):
        await send(settings, Mail("nobody@example.com", "s", "t"), "one")
    with pytest.raises(Unavailable):
        await send(settings, Mail("busy@example.com", "s", "t"), "two")


async def test_without_a_server_it_waits(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await send(Settings(), LETTER, "one")
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(Unavailable):
        await send(Settings(mail_url=SecretStr(f"smtp://127.0.0.1:{port}")), LETTER, "one")


async def test_a_folder_takes_mails_too(tmp_path: Path) -> None:
    """Sent twice it is there once, readable by its owner only."""
    settings = Settings(mail_url=SecretStr(f"file://{tmp_path / 'mail'}"))
    await send(settings, LETTER, "one")
    await send(settings, LETTER, "one")
    (file,) = (tmp_path / "mail").iterdir()
    assert file.stat().st_mode & 0o077 == 0
    assert message_from_bytes(file.read_bytes(), policy=modern)["Subject"] == LETTER.subject


async def test_a_line_break_cannot_add_a_header(tmp_path: Path) -> None:
    settings = Settings(mail_url=SecretStr(f"file://{tmp_path}"))
    with pytest.raises(ValueError):
        await send(settings, Mail("a@b.c", "x\nBcc: all@b.c", "t"), "one")
