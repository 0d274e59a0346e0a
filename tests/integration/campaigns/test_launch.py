"""Launching: once, whole, at once, and however large the plan is."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from uuid import uuid4

from chimera.v1.campaigns_pb2 import CampaignPlan, LaunchCampaignResponse, RunState
from tests.support.workers import Stage
from tests.support.world import Refused

COUNT = "SELECT count(*) FROM campaigns.runs"


async def draft(stage: Stage, plan: CampaignPlan) -> str:
    made = await stage.olivia.campaigns.CreateCampaign(name="campaign", plan=plan)
    campaign_id: str = made.campaign.id
    return campaign_id


async def test_ten_launches_under_one_request_id(stage: Stage) -> None:
    """Whoever is told anything but "try again" is told of the same run."""
    campaign_id = await draft(stage, await stage.plan())
    request_id = str(uuid4())

    async def launch() -> str:
        while True:
            try:
                answer = await stage.olivia.campaigns.LaunchCampaign(
                    campaign_id=campaign_id, request_id=request_id
                )
                run_id: str = answer.run.id
                return run_id
            except Refused as refused:
                assert refused.reason == "CONFLICT_TRY_AGAIN"

    runs = await asyncio.gather(*(launch() for _ in range(10)))
    assert len(set(runs)) == 1
    assert await stage.books.value(COUNT) == 1
    shards = await stage.books.rows("SELECT first_cell, cells FROM campaigns.shards")
    assert shards == [{"first_cell": 0, "cells": 4}]


async def test_ten_launches_at_once(stage: Stage) -> None:
    """One wins, the others are told that it is no draft any more."""
    campaign_id = await draft(stage, await stage.plan())
    answers = await asyncio.gather(
        *(
            stage.olivia.campaigns.LaunchCampaign(campaign_id=campaign_id, request_id=str(uuid4()))
            for _ in range(10)
        ),
        return_exceptions=True,
    )
    won = [answer for answer in answers if isinstance(answer, LaunchCampaignResponse)]
    lost = [answer for answer in answers if isinstance(answer, Refused)]
    assert (len(won), len(lost)) == (1, 9)
    assert {refused.reason for refused in lost} <= {"CAMPAIGN_NOT_DRAFT", "CONFLICT_TRY_AGAIN"}
    assert await stage.books.value(COUNT) == 1
    assert await stage.books.value("SELECT count(*) FROM ops.outbox") == 1


async def test_a_million_cells(stage: Stage) -> None:
    """Cells cost nothing before they are done: the launch makes a few hundred shards and takes no
    memory to speak of; and it can be cancelled."""
    plan = await stage.plan(rows=1000, techniques=["plain", "base64"], repetitions=500)
    campaign_id = await draft(stage, plan)
    before = memory_kb()
    started = time.perf_counter()
    launch = await stage.olivia.campaigns.LaunchCampaign(campaign_id=campaign_id)
    print(f"a million cells launched in {time.perf_counter() - started:.3f} s")
    assert memory_kb() - before < 50_000
    assert launch.run.cells_total == 1_000_000
    assert launch.run.shards_total == 400
    tiled = await stage.books.rows(
        """
        SELECT count(*) AS shards, sum(cells)::bigint AS cells,
               bool_and(first_cell = before) AS gapless
          FROM (SELECT cells, first_cell,
                       COALESCE(sum(cells) OVER (ORDER BY shard_no ROWS BETWEEN UNBOUNDED PRECEDING
                                                 AND 1 PRECEDING), 0) AS before
                  FROM campaigns.shards) s
        """
    )
    assert tiled == [{"shards": 400, "cells": 1_000_000, "gapless": True}]
    await stage.olivia.campaigns.CancelCampaign(campaign_id=campaign_id)
    assert (await stage.run(launch.run.id)).state == RunState.RUN_STATE_CANCELLED


def memory_kb() -> int:
    """Resident memory of this process, which the server is part of."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])
