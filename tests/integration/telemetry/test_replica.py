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
from chimera.replica import Progress
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


async def is_read(standby: Standby, person: Person) -> bool:
    """Whether the server asks there by now: it looks once a second how far the standby is."""
    await own_campaigns(person)
    found = run_sql(
        standby.url,
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE query LIKE '%%user_summaries%%' AND pid <> pg_backend_pid()",
    )
    return bool(found[0][0])


async def test_analytics_read_the_standby_and_nothing_else_does(
    world: World, standby: Standby, stack: StackUrls
) -> None:
    """They say what it knows, under the same row policies, and write nothing there; when it is gone,
    the primary answers them."""
    acme, rival = await world.organisation("acme"), await world.organisation("rival")
    olivia = await acme.person("olivia")
    made = await olivia.campaigns.CreateCampaign(name="a", plan=CampaignPlan())
    async with open_core(world.settings, "worker") as worker:
        await refresh_user_summaries(worker)
        await eventually(standby.has_followed)
        assert await own_campaigns(olivia) == [1]
        await eventually(lambda: is_read(standby, olivia))

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
        assert core.replica.standby is not None
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            async with core.replica.standby.pool.connection() as connection:
                await connection.execute("INSERT INTO ops.idempotency DEFAULT VALUES")

    run_sql(standby.url, "SELECT pg_wal_replay_pause()")
    await olivia.campaigns.CreateCampaign(name="c", plan=CampaignPlan())
    async with open_core(world.settings, "worker") as worker:
        await refresh_user_summaries(worker)
    assert await own_campaigns(olivia) == [2]
    standby.running.kill()

    async def answered_by_the_primary() -> bool:
        try:
            return await own_campaigns(olivia) == [3]
        except Refused as refused:
            assert refused.reason == "DEPENDENCY_UNAVAILABLE", refused
            return False

    await eventually(answered_by_the_primary)
    assert not (await olivia.analytics.SliceRates(**by)).slices


def test_a_standby_is_as_far_behind_as_the_last_moment_it_had_everything_of() -> None:
    """Not as its last transaction is old: where nothing is written, nothing is missing."""
    progress = Progress()
    assert progress.behind_s(100.0) == float("inf")
    progress.note(100.0, 1000, 1000)
    assert progress.behind_s(100.0) == 0
    for second in (101.0, 102.0, 103.0):
        progress.note(second, 1000 + int(second), 1000)
    assert progress.behind_s(103.0) == 3
    progress.note(104.0, 1104, 1102)
    assert progress.behind_s(104.0) == 2
    progress.note(105.0, 1104, 1104)
    progress.note(500.0, 1104, 1104)
    assert progress.behind_s(500.0) == 0
    progress.note(501.0, 1105, -1)
    assert progress.behind_s(501.0) == 1, "what says nothing has nothing new"
