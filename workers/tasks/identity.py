"""What accounts need done without anybody asking at that moment."""

from __future__ import annotations

from typing import Any

import structlog

from chimera.call import Call
from chimera.campaigns.personal import erase_personal_data
from chimera.core import Core
from chimera.identity.erasure import Due, erase_person, list_due
from chimera.identity.purging import purge
from chimera.providers.personal import end_personal_keys

log = structlog.get_logger("chimera.identity")


async def purge_accounts(ctx: dict[str, Any]) -> None:
    """Links, registrations, invitations, devices and sessions whose time is over."""
    removed = await purge(ctx["core"])
    if removed:
        log.info("accounts.purged", rows=removed)


async def erase_people(ctx: dict[str, Any]) -> None:
    """Those whose time of grace is over, one after the other. Safe to run twice. One that fails holds up
    nobody behind it, and is tried again the next time."""
    core: Core = ctx["core"]
    async with core.db.begin(Call.by_worker("erase_people")) as tx:
        due = await list_due(tx)
    for person in due:
        try:
            await _erase(core, person)
        except Exception as error:
            # Without what it says: that may be an address.
            log.error("accounts.not_erased", user_id=person.user_id, error=type(error).__name__)


async def _erase(core: Core, person: Due) -> None:
    for org_id in person.org_ids:
        async with core.db.begin(Call.by_worker("end_personal_keys", org_id)) as tx:
            await end_personal_keys(tx, person.user_id)
            await erase_personal_data(tx, person.user_id)
    async with core.db.begin(Call.by_worker("erase_person", person.org_id or "")) as tx:
        if await erase_person(tx, person.user_id):
            log.info("accounts.erased", user_id=person.user_id)
