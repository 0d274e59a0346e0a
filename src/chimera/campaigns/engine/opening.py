"""What a drive needs before its first cell: the plan, the keys, the lanes; and what it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import aiohttp
import structlog

from chimera.audit import recording
from chimera.call import Call
from chimera.campaigns.engine import leasing
from chimera.campaigns.engine.completion import LOCK_CAMPAIGN
from chimera.campaigns.engine.lanes import Lane
from chimera.campaigns.engine.leasing import Lease
from chimera.campaigns.engine.pace import Pace
from chimera.campaigns.plan import RunPlan, Target
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotReady
from chimera.providers.adapters import ChatAdapter, open_adapter
from chimera.providers.keys import open_key
from chimera.providers.vault import VaultError

log = structlog.get_logger("chimera.drive")

GET_RUN = sql(
    dict,
    """
    SELECT r.campaign_id, r.launched_by AS user_id, COALESCE(r.api_key_id::text, '') AS api_key_id,
           r.concurrency, r.priority, p.plan
      FROM campaigns.runs r JOIN campaigns.run_plans p ON p.run_id = r.id
     WHERE r.id = %(run_id)s
    """,
)

SAVE_CIRCUIT = sql(
    Nothing,
    """
    INSERT INTO providers.circuits AS c
        (org_id, model_id, state, cause, open_until, opened_count, changed_at)
    VALUES (%(org_id)s, %(model_id)s, %(state)s, %(cause)s,
            clock_timestamp() + make_interval(secs => %(open_s)s), %(opened)s, clock_timestamp())
    ON CONFLICT (org_id, model_id) DO UPDATE
       SET state = EXCLUDED.state, cause = EXCLUDED.cause, open_until = EXCLUDED.open_until,
           opened_count = c.opened_count + EXCLUDED.opened_count, changed_at = EXCLUDED.changed_at
    """,
)

# Only when nothing of the run is held: another drive's calls may still give money back.
PAUSE_FOR_MONEY = sql(
    dict,
    """
    WITH paused AS (
        UPDATE campaigns.runs r SET state = 'paused', state_reason = 'the cost limit is reached'
          FROM campaigns.run_money m
         WHERE r.id = %(run_id)s AND m.run_id = r.id AND r.state = 'running' AND m.held <= 0
        RETURNING r.id, r.campaign_id
    )
    UPDATE campaigns.campaigns c SET state = 'paused' FROM paused p
     WHERE c.id = p.campaign_id AND c.run_id = p.id
    RETURNING c.id
    """,
)


@dataclass(frozen=True)
class Opened:
    """A run, ready to be driven."""

    campaign_id: str
    user_id: str
    api_key_id: str
    priority: int
    plan: RunPlan
    lanes: list[Lane]


@lru_cache(maxsize=16)
def _compiled(run_id: str, body: bytes) -> RunPlan:
    return RunPlan(body)


async def open_run(core: Core, session: aiohttp.ClientSession, lease: Lease) -> Opened:
    """Loads and compiles the plan and opens an adapter for each target. A key that cannot be
    opened gives its lane up; the other targets go on."""
    async with core.db.begin(Call.by_worker("open_run", lease.org_id, seconds=30)) as tx:
        row = await tx.one(GET_RUN, run_id=lease.run_id)
    if row is None:
        raise LookupError(f"run {lease.run_id} is gone")
    plan = _compiled(lease.run_id, row["plan"])
    lanes = []
    for target in plan.targets:
        pace = Pace(
            core.redis,
            target.provider_key_id or target.provider_id,
            target.requests_per_minute,
            target.tokens_per_minute,
        )
        adapter = await _adapter(core, session, lease, target)
        lane = Lane(target, adapter, pace, row["concurrency"])
        if adapter is None:
            lane.given_up = "bad_key"
        lanes.append(lane)
    return Opened(
        row["campaign_id"], row["user_id"], row["api_key_id"], row["priority"], plan, lanes
    )


async def settle_abandoned(core: Core, org_id: str, run_id: str) -> int:
    """See leasing.settle_abandoned; the run must be over."""
    async with core.db.begin(Call.by_worker("settle_abandoned", org_id, seconds=60)) as tx:
        row = await tx.one(GET_RUN, run_id=run_id)
        if row is None:
            return 0
        plan = _compiled(run_id, row["plan"])
        return await leasing.settle_abandoned(tx, run_id, plan, row["user_id"])


async def _adapter(
    core: Core, session: aiohttp.ClientSession, lease: Lease, target: Target
) -> ChatAdapter | None:
    try:
        async with core.db.begin(Call.by_worker("open_key", lease.org_id, seconds=30)) as tx:
            key = await open_key(
                tx, core.master, target.provider_key_id, purpose=f"run {lease.run_id}"
            )
    except (NotReady, VaultError) as error:  # any other fault passes, and the run waits
        log.error("drive.key_unusable", run_id=lease.run_id, error=type(error).__name__)
        return None
    return open_adapter(
        target.provider_type,
        session=session,
        base_url=target.base_url,
        api_key=key,
        response_bytes_max=4 * core.settings.response_bytes_max,
    )


async def save_circuits(tx: Tx, lanes: Sequence[Lane]) -> None:
    """Writes circuits that opened or closed since the last tick."""
    now = asyncio.get_running_loop().time()
    for lane in lanes:
        if lane.circuit_changed:
            is_open = lane.is_open or bool(lane.given_up)
            await tx.run(
                SAVE_CIRCUIT,
                org_id=tx.call.caller.org_id,
                model_id=lane.target.model_id,
                state="open" if is_open else "closed",
                cause=lane.cause,
                open_s=max(0.0, lane.open_until - now),
                opened=1 if is_open else 0,
            )


async def pause_for_money(core: Core, run_id: str, campaign_id: str, org_id: str) -> None:
    """Pauses a run whose limit lets not even one more call out."""
    async with core.db.begin(Call.by_worker("pause_for_money", org_id, seconds=10)) as tx:
        await tx.run(LOCK_CAMPAIGN, campaign_id=campaign_id)
        paused = await tx.one(PAUSE_FOR_MONEY, run_id=run_id)
        if paused is not None:
            recording.record(
                tx,
                "run.pause",
                "run",
                run_id,
                new={"state": "paused", "state_reason": "the cost limit is reached"},
            )
