"""What a drive needs before its first cell: the plan, the keys, the lanes; and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import aiohttp
import structlog

from chimera.audit import recording
from chimera.call import Call
from chimera.campaigns.engine import leasing
from chimera.campaigns.engine.completion import LOCK_CAMPAIGN, recount
from chimera.campaigns.engine.lanes import Lane
from chimera.campaigns.engine.leasing import Lease
from chimera.campaigns.engine.pace import Pace
from chimera.campaigns.plan import Model, RunPlan
from chimera.core import Core
from chimera.db import sql
from chimera.faults import NotReady
from chimera.providers.adapters import ChatAdapter, open_adapter
from chimera.providers.keys import take_key, unsealed
from chimera.providers.vault import VaultError
from chimera.row_seals import Seals

log = structlog.get_logger("chimera.drive")

GET_RUN = sql(
    dict,
    """
    SELECT r.campaign_id, r.launched_by AS user_id, COALESCE(r.api_key_id::text, '') AS api_key_id,
           r.created_at, r.concurrency, r.priority, r.cells_total,
           COALESCE(r.scoring_id::text, '') AS scoring_id, p.plan
      FROM campaigns.runs r JOIN campaigns.run_plans p ON p.run_id = r.id
     WHERE r.id = %(run_id)s
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
    launched_at: datetime
    priority: int
    cells_total: int
    scoring_id: str  # of a run that judges stored answers
    plan: RunPlan
    lanes: list[Lane]


@lru_cache(maxsize=16)
def _compiled(run_id: str, body: bytes, seals: Seals) -> RunPlan:
    return RunPlan(body, seals)


async def open_run(core: Core, session: aiohttp.ClientSession, lease: Lease) -> Opened:
    """Loads and compiles the plan and opens an adapter for each target. A key that cannot be
    opened gives its lane up; the other targets go on."""
    async with core.db.begin(Call.by_worker("open_run", lease.org_id, seconds=30)) as tx:
        row = await tx.one(GET_RUN, run_id=lease.run_id)
    if row is None:
        raise LookupError(f"run {lease.run_id} is gone")
    plan = _compiled(lease.run_id, row["plan"], core.row_seals.of(lease.org_id))
    lanes = []
    for model_no, model in enumerate(plan.models):
        pace = Pace(
            core.redis,
            model.provider_key_id or model.provider_id,
            model.requests_per_minute,
            model.tokens_per_minute,
            model=model.model_id,
            run_id=lease.run_id,
        )
        # Of stored answers nobody asks the targets: their keys stay closed.
        is_asked = not plan.judges_stored or model_no >= plan.target_models
        adapter = await _adapter(core, session, lease, model) if is_asked else None
        lane = Lane(
            model, adapter, pace, row["concurrency"], core.settings.circuit_patience_s, model_no
        )
        if adapter is None:
            lane.given_up = "bad_key"
        lanes.append(lane)
    return Opened(
        row["campaign_id"],
        row["user_id"],
        row["api_key_id"],
        row["created_at"],
        row["priority"],
        row["cells_total"],
        row["scoring_id"],
        plan,
        lanes,
    )


async def settle_abandoned(core: Core, org_id: str, run_id: str) -> int:
    """See leasing.settle_abandoned; the run must be cancelled. With its last shard, what follows
    from its results is counted."""
    async with core.db.begin(Call.by_worker("settle_abandoned", org_id, seconds=60)) as tx:
        row = await tx.one(GET_RUN, run_id=run_id)
        if row is None:
            return 0
        plan = _compiled(run_id, row["plan"], core.row_seals.of(org_id))
        leased = await leasing.settle_abandoned(tx, run_id, plan, row["user_id"])
        if not leased:
            await recount(tx, run_id, row["campaign_id"])
        return leased


async def _adapter(
    core: Core, session: aiohttp.ClientSession, lease: Lease, model: Model
) -> ChatAdapter | None:
    key = ""
    if model.provider_key_id:
        try:
            key = await _opened_key(core, lease, model)
        except (NotReady, VaultError) as error:  # any other fault passes, and the run waits
            log.error("drive.key_unusable", run_id=lease.run_id, error=type(error).__name__)
            return None
    return open_adapter(
        model.provider_type,
        session=session,
        base_url=model.base_url,
        api_key=key,
        response_bytes_max=4 * core.settings.response_bytes_max,
        config=model.provider_config,
    )


async def _opened_key(core: Core, lease: Lease, model: Model) -> str:
    async with core.db.begin(Call.by_worker("open_key", lease.org_id, seconds=30)) as tx:
        stored = await take_key(
            tx, model.provider_key_id, purpose=f"run {lease.run_id}", base_url=model.base_url
        )
    return await unsealed(core.master, stored)


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
