"""What keeps the audit log: old months, erased people, proposals nobody answered."""

from __future__ import annotations

from typing import Any

import structlog

from chimera.audit.configuration import expire_changes
from chimera.audit.drops import drop_old_months
from chimera.audit.erasure import erase_asked
from chimera.audit.monitor import forget_old_signals
from chimera.audit.operations import LogDamaged

log = structlog.get_logger("chimera.audit")


async def keep_months(ctx: dict[str, Any]) -> None:
    """Archives and drops months whose time is over; an archive that is not proven is an alarm."""
    try:
        await drop_old_months(ctx["core"])
    except LogDamaged as error:
        log.error("audit.month_not_dropped", detail=str(error))
    await forget_old_signals(ctx["core"])


async def erase_people(ctx: dict[str, Any]) -> None:
    """Values of erased people, out of whatever was sealed since."""
    await erase_asked(ctx["core"])


async def expire_proposals(ctx: dict[str, Any]) -> None:
    """Proposed changes of settings that nobody decided about in time."""
    await expire_changes(ctx["core"])
