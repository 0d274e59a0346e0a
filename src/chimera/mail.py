"""Mail that leaves: one message to one person over SMTP, or into a folder.

A mail is asked for inside a transaction with `ask` and written by the worker at the moment it is
sent (workers/tasks/mail.py), so that no link or code ever lies in the outbox. It may arrive twice
when a worker dies between sending and noting it; the Message-ID is the same then.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from chimera import outbox
from chimera.db import Tx
from chimera.faults import Invalid, Unavailable
from chimera.ids import new_id
from chimera.settings import Settings

SEND_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Mail:
    """To whom and what. The text may hold a link that is worth as much as a password."""

    to: str
    subject: str
    text: str = field(repr=False)


async def ask(tx: Tx, kind: str, *, mail_id: str = "", **args: Any) -> str:
    """Asks for a mail of this kind after the transaction commits; returns the outbox row's id.

    kind: one of workers.tasks.mail.WRITERS. args: JSON values without secrets.
    """
    return await outbox.enqueue(tx, "send_mail", kind=kind, mail_id=mail_id or new_id(), **args)


async def send(settings: Settings, mail: Mail, message_id: str) -> None:
    """Hands the mail to the server.

    message_id: the part before the @ of the Message-ID; the same when it is sent again.
    Raises Unavailable: DEPENDENCY_UNAVAILABLE when there is no server or it says to come back;
    Invalid: FIELD_INVALID when it refuses this mail for good.
    """
    url = settings.mail_url.get_secret_value()
    if not url:
        raise Unavailable("DEPENDENCY_UNAVAILABLE", "CHIMERA_MAIL_URL is not set: mails wait.")
    message = _message(settings, mail, message_id)
    parts = urlsplit(url)
    if parts.scheme == "file":
        await asyncio.to_thread(_write, Path(unquote(parts.path)), message_id, message)
        return
    await _send_smtp(url, message)


def _message(settings: Settings, mail: Mail, message_id: str) -> EmailMessage:
    message = EmailMessage()
    name, sender = parseaddr(settings.mail_from)
    message["From"] = Address(name, addr_spec=sender)
    message["To"] = Address(addr_spec=mail.to)
    message["Subject"] = mail.subject
    message["Date"] = formatdate(usegmt=True)
    message["Message-ID"] = f"<{message_id}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text)
    return message


def _write(folder: Path, message_id: str, message: EmailMessage) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{message_id}"
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(bytes(message))
    unfinished.rename(folder / f"{message_id}.eml")


async def _send_smtp(url: str, message: EmailMessage) -> None:
    import aiosmtplib

    parts = urlsplit(url)
    secure = parts.scheme == "smtps"
    try:
        await aiosmtplib.send(
            message,
            hostname=parts.hostname or "127.0.0.1",
            port=parts.port or (465 if secure else 25),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            use_tls=secure,
            timeout=SEND_TIMEOUT_S,
        )
    except aiosmtplib.SMTPRecipientsRefused as error:
        if all(500 <= refusal.code < 600 for refusal in error.recipients):
            raise Invalid("FIELD_INVALID", "The mail server does not know this address.") from None
        raise Unavailable("DEPENDENCY_UNAVAILABLE", "The mail server says to come back.") from None
    except aiosmtplib.SMTPResponseException as error:
        if error.code in (552, 554):  # this message, not this server
            raise Invalid("FIELD_INVALID", "The mail server refuses this mail.") from None
        raise Unavailable("DEPENDENCY_UNAVAILABLE", f"The mail server said {error.code}.") from None
    except (aiosmtplib.SMTPException, OSError) as error:
        raise Unavailable(
            "DEPENDENCY_UNAVAILABLE", f"No mail server: {type(error).__name__}."
        ) from None
