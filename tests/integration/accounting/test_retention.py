"""What is old goes by itself, of all organisations; what is younger cannot be dropped even by mistake."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg

from chimera.call import Call
from chimera.core import open_core
from chimera.v1.health_pb2 import CircuitForce
from tests.support.campaigns import assistant_models
from tests.support.statements import plain
from tests.support.workers import Stage
from workers.tasks.upkeep import purge_expired

OLD, YOUNG = "130 days", "100 days"
LEFT = {
    "windows": "SELECT count(*) FROM accounting.windows",
    "deliveries": "SELECT count(*) FROM accounting.deliveries",
    "tries": "SELECT count(*) FROM accounting.delivery_tries",
    "circuits": "SELECT count(*) FROM providers.circuits",
    "probes": "SELECT count(*) FROM providers.probe_results",
    "points": "SELECT count(*) FROM providers.health_points",
}


def fill(connection: psycopg.Connection[Any], org_id: str, models: list[str]) -> None:
    """Of each kind something old and something young; a delivery that still waits, however old."""
    webhook = uuid4()
    connection.execute(
        """INSERT INTO accounting.webhooks (id, org_id, url, sealed, created_by)
           VALUES (%s, %s, 'https://example.com', '{}', %s)""",
        [webhook, org_id, uuid4()],
    )
    for age, finished in ((OLD, "31 days"), (YOUNG, "29 days"), (OLD, None)):
        connection.execute(
            """INSERT INTO accounting.windows (scope_kind, scope_id, period, window_start, org_id)
               VALUES ('user', %s, 'daily', (now() - %s::interval)::date, %s)""",
            [uuid4(), age, org_id],
        )
        delivery = uuid4()
        connection.execute(
            """INSERT INTO accounting.deliveries (id, org_id, webhook_id, event_id, event_type, body,
                   state, created_at, finished_at)
               VALUES (%s, %s, %s, %s, 'budget.alert', '{}', %s, now() - interval '200 days',
                       now() - %s::interval)""",
            [
                delivery,
                org_id,
                webhook,
                uuid4(),
                "delivered" if finished else "waiting",
                finished,
            ],
        )
        connection.execute(
            """INSERT INTO accounting.delivery_tries (delivery_id, try_no, org_id, response_class,
                   latency_ms) VALUES (%s, 1, %s, 'timeout', 5)""",
            [delivery, org_id],
        )
    # Not called for long, called yesterday, and held open.
    for model, checked in zip(models, ("31 days", "1 day", "31 days"), strict=True):
        connection.execute(
            """INSERT INTO providers.circuits (org_id, model_id, state, changed_at, last_checked_at)
               VALUES (%s, %s, 'open', now() - interval '60 days', now() - %s::interval)
               ON CONFLICT (org_id, model_id) DO UPDATE SET last_checked_at = EXCLUDED.last_checked_at,
                   changed_at = EXCLUDED.changed_at""",
            [org_id, model, checked],
        )
    for at in ("3 days", "1 day"):
        connection.execute(
            """INSERT INTO providers.health_points VALUES (%s, %s, now() - %s::interval, 1, 0, 0, 1, 1)""",
            [org_id, models[0], at],
        )
    for at in ("8 days", "6 days"):
        connection.execute(
            """INSERT INTO providers.probe_results (provider_id, org_id, at, is_ok, response_time_ms)
               VALUES (%s, %s, now() - %s::interval, true, 1)""",
            [uuid4(), org_id, at],
        )


async def test_what_is_old_goes(stage: Stage) -> None:
    globex = await stage.world.organisation("globex")
    names = ["guard-none", "guard-strict", "guard-keyword"]
    with psycopg.connect(stage.books.url, autocommit=True) as connection:
        for person, org_id in ((stage.olivia, stage.acme.id), (globex.admin, globex.id)):
            models = await assistant_models(person, stage.stack.assistant_url, names)
            await person.health.ForceCircuit(
                model_id=models[2], force=CircuitForce.CIRCUIT_FORCE_OPEN
            )
            fill(connection, org_id, models)
    async with open_core(stage.settings, "worker") as core:
        for _ in range(2):  # running it again is nothing
            await purge_expired({"core": core})
        left = {name: await stage.books.value(query) for name, query in LEFT.items()}
        assert left == {
            "windows": 2, "deliveries": 4, "tries": 4, "circuits": 4, "probes": 2, "points": 2,
        }  # fmt: skip

        # Whatever a statement says, upkeep drops nothing that is not old.
        async with core.db.begin(Call.by_worker("mistake")) as tx:
            for mistake in (
                "DELETE FROM accounting.windows",
                "DELETE FROM accounting.deliveries",
                "DELETE FROM providers.circuits",
            ):
                assert await tx.run(plain(mistake)) == 0, mistake
