"""Sending mails that transactions asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from chimera import mail
from chimera.accounting.letters import write_alert
from chimera.audit.monitor import write_finding
from chimera.core import Core
from chimera.faults import Invalid
from chimera.identity import letters
from workers.tasks import task
from workers.tasks.providers import write_key_due

log = structlog.get_logger("chimera.mail")

# Writes the mail at the moment it is sent, or None when there is nothing left to say. Runs its own
# transactions; a link it makes is valid from its commit on, and an earlier one of the same request
# is not.
Writer = Callable[[Core, str | None, dict[str, Any]], Awaitable[mail.Mail | None]]

WRITERS: Mapping[str, Writer] = {
    **letters.WRITERS,
    "budget_alert": write_alert,
    "provider_key_due": write_key_due,
    "security_finding": write_finding,
}


@task
async def send_mail(ctx: dict[str, Any], org_id: str | None, args: dict[str, Any]) -> None:
    """Writes and sends one mail. Unavailable comes back later; a refused address does not."""
    core: Core = ctx["core"]
    letter = await WRITERS[args["kind"]](core, org_id, args)
    if letter is None:
        return
    try:
        await mail.send(core.settings, letter, args["mail_id"])
    except Invalid as fault:
        log.warning("mail.refused", kind=args["kind"], mail_id=args["mail_id"], reason=str(fault))
