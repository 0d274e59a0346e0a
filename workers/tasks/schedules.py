"""Launching what is due."""

from __future__ import annotations

import time
from typing import Any

import structlog

from chimera.access.standing import standing_of
from chimera.call import Call
from chimera.campaigns.schedules.due import (
    PASSING,
    Due,
    launch_due,
    list_due,
    list_over,
    refuse_due,
    settle_over,
)
from chimera.core import Core, open_database
from chimera.faults import Fault
from chimera.pools import Database
from chimera.v1.options_pb2 import Permission

log = structlog.get_logger("chimera.schedules")

AT_ONCE = 50  # the next look takes the rest
LAUNCH_S = 60.0


async def launch_scheduled(ctx: dict[str, Any]) -> None:
    """Launches every campaign whose time has come, each once, whoever else is looking."""
    core: Core = ctx["core"]
    async with core.db.begin(Call.by_worker("launch_scheduled", seconds=10)) as tx:
        over = await list_over(tx, AT_ONCE)
        due = await list_due(tx, AT_ONCE)
    for one in over:
        async with core.db.begin(Call.by_worker("settle_over", one.org_id, seconds=10)) as tx:
            await settle_over(tx, one)
    if not due:
        return
    # As people: under the row policies of the application, not of the workers.
    people = open_database(core.settings, "app")
    people.ring = core.db.ring
    await people.open()
    try:
        for item in due:
            await _launch(core, people, item)
    finally:
        await people.close()


async def _launch(core: Core, people: Database, due: Due) -> None:
    facts = {"campaign_id": due.campaign_id, "org_id": due.org_id}
    try:
        caller = await standing_of(
            people,
            org_id=due.org_id,
            user_id=due.scheduled_by,
            api_key_id=due.api_key_id,
            permission=Permission.PERMISSION_CAMPAIGN_RUN,
            thing=("campaign", due.campaign_id),
        )
        call = Call(caller, "launch_scheduled", time.monotonic() + LAUNCH_S)
        async with people.begin(call) as tx:
            run_id = await launch_due(tx, due, core.settings, core.row_seals)
    except Fault as fault:
        if isinstance(fault, PASSING) or fault.reason == "SERVER_BUSY":
            log.warning("schedule.waits", reason=fault.reason, **facts)
            return
        log.info("schedule.refused", reason=fault.reason, **facts)
        async with core.db.begin(Call.by_worker("refuse_due", due.org_id, seconds=10)) as tx:
            await refuse_due(tx, due, fault)
    else:
        if run_id:
            log.info("schedule.launched", run_id=run_id, **facts)
