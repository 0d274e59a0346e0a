"""What operators see and set free, over a real channel."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import orjson
import psycopg
import pytest

from chimera.call import Call, Caller
from chimera.core import open_core
from chimera.ids import new_id
from chimera.operations.operations import sending_stopped
from chimera.settings import Settings
from chimera.v1.operations_pb2 import OutboxState
from tests.support.world import Organisation, Refused, World


class Runs:
    """Rows as the engine leaves them behind, written past every policy."""

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url

    def sql(self, statement: str, *params: Any) -> list[Any]:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), params)
            return cursor.fetchall() if cursor.description else []

    def run(self, org: Organisation, *, state: str = "running", age_s: int = 3600) -> str:
        campaign_id, run_id = new_id(), new_id()
        self.sql(
            """INSERT INTO campaigns.campaigns (id, org_id, name, plan, created_by)
               VALUES (%s, %s, %s, '', %s)""",
            campaign_id,
            org.id,
            f"campaign {campaign_id}",
            org.admin.user_id,
        )
        self.sql(
            """INSERT INTO campaigns.runs (id, org_id, campaign_id, state, cells_total, shards_total,
                    concurrency, attempts_max, launched_by, created_at)
                VALUES (%s, %s, %s, %s, 100, 10, 1, 1, %s, now() - make_interval(secs => %s))""",
            run_id,
            org.id,
            campaign_id,
            state,
            org.admin.user_id,
            age_s,
        )
        return run_id

    def shard(
        self, org: Organisation, run_id: str, shard_no: int, lease_s: int | None, *, fence: int = 1
    ) -> None:
        """`lease_s`: how long its lease lives still, or (negative) is over; None: never had one."""
        self.sql(
            """INSERT INTO campaigns.shards (run_id, shard_no, org_id, first_cell, cells, owner, fence,
                   lease_until)
               VALUES (%s, %s, %s, %s, 10, 'worker-1', %s,
                       COALESCE(now() + make_interval(secs => %s), '-infinity'))""",
            run_id,
            shard_no,
            org.id,
            shard_no * 10,
            fence,
            lease_s,
        )

    def attempt(self, org: Organisation, run_id: str, cell_no: int, state: str) -> None:
        self.sql(
            """INSERT INTO campaigns.attempts (run_id, cell_no, attempt_no, org_id, fence, state, worst_cost)
               VALUES (%s, %s, 1, %s, 1, %s, 0.0150)""",
            run_id,
            cell_no,
            org.id,
            state,
        )

    def outbox(self, org: Organisation, task: str, state: str, rings: int = 10) -> str:
        row_id = new_id()
        self.sql(
            """INSERT INTO ops.outbox (id, org_id, task, args, state, rings, last_error, due_at)
               VALUES (%s, %s, %s, '{"run_id": "r", "depth": 2}', %s, %s, 'no route', now() + interval '1 hour')""",
            row_id,
            org.id,
            task,
            state,
            rings,
        )
        return row_id

    def audited(self, action: str) -> list[dict[str, Any]]:
        rows = self.sql("SELECT facts FROM audit.pending WHERE facts->>'action' = %s", action)
        return [orjson.loads(row[0]) if isinstance(row[0], str) else row[0] for row in rows]


@pytest.fixture
def runs(database_url: str) -> Runs:
    return Runs(database_url)


async def test_an_administrator_stops_and_allows_his_organisation_only(
    world: World, runs: Runs, settings: Settings
) -> None:
    """Stopping is seen by everyone of the organisation and by nobody else; allowing rings for the
    runs that were held up."""
    acme, rival = await world.organisation("acme"), await world.organisation("rival")
    viewer = await acme.person("vera", role="viewer")
    run_id = runs.run(acme)
    runs.run(rival)
    runs.run(acme, state="paused")

    stopped = await acme.admin.operations.SetKillSwitch(sending_stopped=True, reason="leak")

    assert stopped.organisation.sending_stopped
    assert not stopped.installation.sending_stopped
    seen = (await viewer.operations.GetKillSwitch()).organisation
    assert (seen.sending_stopped, seen.reason, seen.set_by) == (True, "leak", acme.admin.user_id)
    assert not (await rival.admin.operations.GetKillSwitch()).organisation.sending_stopped
    assert await stop_seen_by(settings, acme.id) == (True, "leak")
    assert await stop_seen_by(settings, rival.id) == (False, "")

    await acme.admin.operations.SetKillSwitch(sending_stopped=False, reason="fixed")
    assert await stop_seen_by(settings, acme.id) == (False, "")
    rung = runs.sql("SELECT args->>'run_id' FROM ops.outbox WHERE task = 'drive_runs'")
    assert rung == [(run_id,)]
    assert len(runs.audited("kill_switch.set")) == 2


async def test_everything_is_stopped_by_operators_only(
    world: World, runs: Runs, settings: Settings
) -> None:
    """An administrator is refused, and that is on record; an operator's stop covers everyone and
    gives its own reason first."""
    acme = await world.organisation("acme")
    house = await world.organisation("house", operator=True)
    with pytest.raises(Refused) as refused:
        await acme.admin.operations.SetKillSwitch(
            sending_stopped=True, reason="all", everywhere=True
        )
    assert (refused.value.code, refused.value.reason) == ("PERMISSION_DENIED", "PERMISSION_MISSING")
    assert [facts["outcome"] for facts in runs.audited("kill_switch.set")] == ["denied"]
    assert await stop_seen_by(settings, acme.id) == (False, "")

    await acme.admin.operations.SetKillSwitch(sending_stopped=True, reason="ours")
    everywhere = {"reason": "incident", "everywhere": True}
    await house.admin.operations.SetKillSwitch(sending_stopped=True, **everywhere)
    assert await stop_seen_by(settings, acme.id) == (True, "incident")
    assert await stop_seen_by(settings, house.id) == (True, "incident")
    assert (await acme.admin.operations.GetKillSwitch()).installation.sending_stopped

    await house.admin.operations.SetKillSwitch(sending_stopped=False, **everywhere)
    assert await stop_seen_by(settings, acme.id) == (True, "ours")
    assert await stop_seen_by(settings, house.id, is_operator=True) == (False, "")


async def test_a_repeated_request_sets_the_switch_once(world: World, runs: Runs) -> None:
    acme = await world.organisation("acme")
    once = {"sending_stopped": True, "reason": "leak", "request_id": str(uuid4())}
    first = await acme.admin.operations.SetKillSwitch(**once)
    assert await acme.admin.operations.SetKillSwitch(**once) == first
    assert len(runs.audited("kill_switch.set")) == 1


async def test_users_do_not_operate(world: World) -> None:
    """Neither a user nor an organisation's administrator reaches the installation's machinery."""
    acme = await world.organisation("acme")
    user = await acme.person("ulla")
    with pytest.raises(Refused) as refused:
        await user.operations.SetKillSwitch(sending_stopped=True, reason="no")
    assert refused.value.reason == "PERMISSION_MISSING"
    calls = {
        "ListStuckShards": {},
        "ListUnknownAttempts": {},
        "ListOutbox": {},
        "ReleaseShard": {"run_id": str(uuid4())},
        "RetryOutbox": {"outbox_id": str(uuid4())},
    }
    for rpc, fields in calls.items():
        with pytest.raises(Refused) as refused:
            await getattr(acme.admin.operations, rpc)(**fields)
        assert refused.value.reason == "PERMISSION_MISSING", rpc


async def test_stuck_shards_are_those_nobody_will_take(world: World, runs: Runs) -> None:
    """An expired lease counts after a minute; a shard that waits its turn does not, unless nobody
    works on its run at all."""
    acme = await world.organisation("acme")
    house = await world.organisation("house", operator=True)
    tended = runs.run(acme)
    runs.shard(acme, tended, 0, 10)
    runs.shard(acme, tended, 1, -300, fence=3)
    runs.shard(acme, tended, 2, -20)
    runs.shard(acme, tended, 3, None, fence=0)
    forgotten = runs.run(acme)
    runs.shard(acme, forgotten, 0, None, fence=0)
    young = runs.run(acme, age_s=0)
    runs.shard(acme, young, 0, None, fence=0)
    paused = runs.run(acme, state="paused")
    runs.shard(acme, paused, 0, -300)

    shards = (await house.admin.operations.ListStuckShards()).shards

    assert {(shard.run_id, shard.shard_no) for shard in shards} == {(tended, 1), (forgotten, 0)}
    stuck = next(shard for shard in shards if shard.run_id == tended)
    assert (stuck.org_id, stuck.owner, stuck.fence, stuck.first_cell) == (
        acme.id,
        "worker-1",
        3,
        10,
    )
    assert len((await house.admin.operations.ListStuckShards(page_size=1)).shards) == 1


async def test_releasing_a_shard_shuts_its_owner_out_and_rings(world: World, runs: Runs) -> None:
    """Once: a live lease, a finished shard and an unknown one are refused by name."""
    acme = await world.organisation("acme")
    house = await world.organisation("house", operator=True)
    run_id = runs.run(acme)
    runs.shard(acme, run_id, 0, -300, fence=3)
    runs.shard(acme, run_id, 1, 10)
    runs.shard(acme, run_id, 2, None)
    runs.sql("UPDATE campaigns.shards SET state = 'done' WHERE shard_no = 2")

    released = await house.admin.operations.ReleaseShard(run_id=run_id, shard_no=0)

    assert (released.shard.fence, released.shard.HasField("lease_until")) == (4, False)
    stored = runs.sql(
        "SELECT fence, lease_until < clock_timestamp() AND isfinite(lease_until)"
        " FROM campaigns.shards WHERE shard_no = 0"
    )
    assert stored == [(4, True)]
    assert runs.sql("SELECT task, args->>'run_id' FROM ops.outbox") == [("drive_runs", run_id)]
    assert [facts["entity_id"] for facts in runs.audited("shard.release")] == [f"{run_id}:0"]
    for shard_no, reason in (
        (1, "SHARD_NOT_STUCK"),
        (2, "SHARD_NOT_STUCK"),
        (9, "SHARD_NOT_FOUND"),
    ):
        with pytest.raises(Refused) as refused:
            await house.admin.operations.ReleaseShard(run_id=run_id, shard_no=shard_no)
        assert refused.value.reason == reason


async def test_unknown_attempts_are_listed_with_what_they_may_cost(
    world: World, runs: Runs
) -> None:
    acme = await world.organisation("acme")
    house = await world.organisation("house", operator=True)
    first, second = runs.run(acme), runs.run(acme)
    for run_id in (first, second):
        runs.attempt(acme, run_id, 1, "unknown")
        runs.attempt(acme, run_id, 2, "settled")
        runs.attempt(acme, run_id, 3, "sent")

    everything = (await house.admin.operations.ListUnknownAttempts()).attempts
    of_one = (await house.admin.operations.ListUnknownAttempts(run_id=first)).attempts

    assert sorted((one.run_id, one.cell_no) for one in everything) == sorted(
        [(first, 1), (second, 1)]
    )
    assert [(one.run_id, one.org_id, one.worst_cost_usd) for one in of_one] == [
        (first, acme.id, "0.015")
    ]


async def test_dead_letters_are_found_and_tried_again(world: World, runs: Runs) -> None:
    """Of every organisation; only what is dead can be retried, and only once."""
    acme = await world.organisation("acme")
    house = await world.organisation("house", operator=True)
    waiting = runs.outbox(acme, "send_mail", "waiting", rings=0)
    dead = runs.outbox(acme, "probe", "dead")
    operations = house.admin.operations

    rows = (await operations.ListOutbox(state=OutboxState.OUTBOX_STATE_DEAD)).rows
    assert [(row.id, row.rings, row.last_error) for row in rows] == [(dead, 10, "no route")]
    assert dict(rows[0].args) == {"run_id": "r", "depth": 2}
    assert {row.id for row in (await operations.ListOutbox()).rows} == {waiting, dead}

    again = (await operations.RetryOutbox(outbox_id=dead)).row
    assert (again.id, again.rings) == (dead, 0)
    due = runs.sql("SELECT state, due_at <= now() FROM ops.outbox WHERE id = %s", dead)
    assert due in ([("waiting", True)], [("rung", False)]), "due at once, and maybe rung already"
    assert len(runs.audited("outbox.retry")) == 1
    for row_id in (waiting, dead, str(uuid4())):
        with pytest.raises(Refused) as refused:
            await operations.RetryOutbox(outbox_id=row_id)
        assert (refused.value.code, refused.value.reason) == ("NOT_FOUND", "OUTBOX_ROW_NOT_FOUND")


async def stop_seen_by(
    settings: Settings, org_id: str, *, is_operator: bool = False
) -> tuple[bool, str]:
    """What a launch in that organisation would find."""
    call = Call.by_worker("test", org_id)
    call.caller = Caller("user", org_id=org_id, is_operator=is_operator)
    async with open_core(settings, "app") as core, core.db.begin(call) as tx:
        return await sending_stopped(tx)
