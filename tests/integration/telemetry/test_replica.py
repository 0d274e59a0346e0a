"""Analytics of PostgreSQL read a hot standby where one is named."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from chimera.core import open_core
from chimera.embedded import postgres
from chimera.embedded.stack import StackUrls
from chimera.embedded.supervisor import Running, launcher_argv
from chimera.settings import Settings
from chimera.telemetry.summaries import refresh_user_summaries
from chimera.v1.analytics_pb2 import Dimension, WindowGrain
from chimera.v1.campaigns_pb2 import CampaignPlan
from tests.integration.telemetry.buffer import run_sql
from tests.support.processes import eventually
from tests.support.stack import quick_folder
from tests.support.world import Person, Refused, World


class Standby:
    """A second cluster that follows the stack's."""

    def __init__(self, primary_url: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        primary = psycopg.conninfo.conninfo_to_dict(primary_url)
        self.url = f"postgresql://{primary['user']}@127.0.0.1:{port}/{primary['dbname']}"
        self.primary_url = primary_url
        data = folder / "standby"
        data.mkdir(mode=0o700)
        user = postgres.service_user(folder / "new")
        if user is not None:
            os.chown(data, *user)
        copy = [
            str(postgres.tool("pg_basebackup")),
            "-D",
            ".",
            "-R",
            "--no-sync",
            "-c",
            "fast",
            "-d",
        ]
        copy.append(f"host=127.0.0.1 port={primary['port']} user={postgres.SUPERUSER}")
        subprocess.run(launcher_argv(copy, cwd=data, user=user), check=True, capture_output=True)
        self.running = Running(
            postgres.child(data, port, durable=False),
            log_file=folder / "standby.log",
            pid_file=folder / "standby.pid",
            order=0,
            on_death=lambda _running: None,
        )
        self.running.wait_ready()

    def has_followed(self) -> bool:
        """Whether everything committed so far is there."""
        ((written,),) = run_sql(self.primary_url, "SELECT pg_current_wal_lsn()::text")
        ((there,),) = run_sql(self.url, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written)
        return bool(there)


@pytest.fixture
def standby(database_url: str) -> Iterator[Standby]:
    with quick_folder() as folder:
        found = Standby(database_url, folder)
        try:
            yield found
        finally:
            found.running.kill()


@pytest.fixture
def settings(settings: Settings, standby: Standby) -> Settings:
    return settings.model_copy(
        update={"replica_database_url": type(settings.redis_url)(standby.url)}
    )


async def own_campaigns(person: Person) -> list[int]:
    found = (await person.telemetry.ListUserSummaries(user_id=person.user_id)).summaries
    return [summary.campaigns for summary in found]


async def test_analytics_read_the_standby_and_nothing_else_does(
    world: World, standby: Standby, stack: StackUrls
) -> None:
    """They say what it knows, under the same row policies, and write nothing there; when it is gone
    they are refused, and everything else goes on."""
    acme, rival = await world.organisation("acme"), await world.organisation("rival")
    olivia = await acme.person("olivia")
    made = await olivia.campaigns.CreateCampaign(name="a", plan=CampaignPlan())
    async with open_core(world.settings, "worker") as worker:
        await refresh_user_summaries(worker)
        await eventually(standby.has_followed)
        assert await own_campaigns(olivia) == [1]

        run_sql(standby.url, "SELECT pg_wal_replay_pause()")
        await olivia.campaigns.CreateCampaign(name="b", plan=CampaignPlan())
        await refresh_user_summaries(worker)
        before = await olivia.telemetry.ListUserSummaries()
        assert [summary.campaigns for summary in before.summaries] == [1], "as the standby has it"
        run_sql(standby.url, "SELECT pg_wal_replay_resume()")
        await eventually(standby.has_followed)
        after = await olivia.telemetry.ListUserSummaries()
        assert [summary.campaigns for summary in after.summaries] == [2]
        assert after.refreshed_at.ToDatetime() > before.refreshed_at.ToDatetime()

    assert not (await rival.admin.telemetry.ListUserSummaries(user_id=olivia.user_id)).summaries
    hours: dict[str, Any] = {
        "campaign_id": made.campaign.id,
        "grain": WindowGrain.WINDOW_GRAIN_HOUR,
    }
    assert not (await olivia.analytics.ListWindows(**hours)).windows
    with pytest.raises(Refused) as hidden:
        await rival.admin.analytics.ListWindows(**hours)
    assert hidden.value.reason == "CAMPAIGN_NOT_FOUND"
    by = {"group_by": [Dimension.DIMENSION_TECHNIQUE]}
    assert not (await olivia.analytics.SliceRates(**by)).slices
    assert not (await olivia.usage.QueryUsage()).rows
    async with open_core(world.settings, "app") as core:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            async with core.replica.pool.connection() as connection:
                await connection.execute("INSERT INTO ops.idempotency DEFAULT VALUES")

    standby.running.kill()
    for asked in (olivia.telemetry.ListUserSummaries, lambda: olivia.analytics.SliceRates(**by)):
        with pytest.raises(Refused) as refused:
            await asked()
        assert (refused.value.code, refused.value.reason) == (
            "UNAVAILABLE",
            "DEPENDENCY_UNAVAILABLE",
        )
    await olivia.campaigns.CreateCampaign(name="c", plan=CampaignPlan())
