"""Health as people read it: what calls and probes said, per organisation, over time, and live."""

from __future__ import annotations

import pytest

from chimera.call import Call
from chimera.core import open_core
from chimera.providers.adapters.outbound import open_session
from chimera.providers.health import purge_health
from chimera.providers.probes import Prober
from chimera.v1.health_pb2 import CircuitForce, HealthState, WatchHealthResponse
from tests.support.campaigns import assistant_models
from tests.support.processes import free_port
from tests.support.workers import *  # noqa: F403  # fixtures
from tests.support.workers import Stage, until
from tests.support.world import Person, Refused


async def probe(stage: Stage) -> None:
    """One round of the prober, for all whose turn it is."""
    session = open_session(allow_loopback=True, connections_max=10)
    async with session, open_core(stage.settings, "worker") as core:
        await Prober(core, session).probe_due(limit=100)


async def due(stage: Stage) -> None:
    await stage.books.rows("UPDATE providers.probes SET due_at = '-infinity' RETURNING provider_id")


async def test_calls_of_a_campaign_are_its_models_health(stage: Stage) -> None:
    """Answers, failures and refusals are counted apart, in windows and over time."""
    plan = await stage.plan(["guard-none", "guard-strict"], rows=20, concurrency=4, attempts_max=9)
    await stage.assistant.fault(
        {"kind": "status", "status": 500, "model": "guard-strict", "next": 5},
        {"kind": "rate_limited", "model": "guard-strict", "next": 3},
    )
    stage.worker()
    run = await stage.launched(plan)
    await stage.over(run.id)
    await stage.books.check(run.id, cells=80)
    listed = (await stage.olivia.health.ListProviderHealth()).health
    assert len(listed) == 1
    health = listed[0]
    models = {model.model: model for model in health.models}
    strict, none = models["guard-strict"], models["guard-none"]
    for window in strict.windows:
        assert (window.calls, window.failures, window.rate_limited) == (48, 5, 3)
    assert [window.window_s for window in none.windows] == [60, 300, 3600]
    assert none.windows[0].success_rate == 1
    assert none.state == HealthState.HEALTH_STATE_HEALTHY
    assert strict.consecutive_failures == 0
    assert strict.last_error_kind in ("server_error", "rate_limited")
    assert strict.last_ok_at.seconds and strict.last_failed_at.seconds
    assert strict.response_time_ms > 0
    assert strict.state == HealthState.HEALTH_STATE_DEGRADED  # 43 of 48
    assert health.success_rate == pytest.approx((88 - 5) / 88)
    assert health.state == HealthState.HEALTH_STATE_DEGRADED
    got = (await stage.olivia.providers.GetProvider(provider_id=health.provider_id)).provider
    (listed_one,) = (await stage.olivia.providers.ListProviders()).providers
    for provider in (got, listed_one):  # the same, where providers are read
        for name in (
            "is_healthy", "consecutive_failures", "response_time_ms", "success_rate",
            "last_error_kind", "last_checked_at",
        ):  # fmt: skip
            assert getattr(provider, name) == getattr(health, name), name
        assert provider.health_state == health.state
    points = (
        await stage.olivia.health.ListHealthHistory(provider_id=health.provider_id, step_s=86400)
    ).points
    assert sum(point.calls for point in points) == 88
    only = await stage.olivia.health.ListHealthHistory(
        provider_id=health.provider_id, model_id=strict.model_id
    )
    assert sum(point.failures for point in only.points) == 5
    with pytest.raises(Refused) as refused:
        await stage.olivia.health.ListHealthHistory(
            provider_id=health.provider_id, step_s=10, since={"seconds": 1}
        )
    assert refused.value.reason == "FIELD_INVALID"

    # Nobody else sees anything of it.
    ivan = (await stage.world.organisation("globex")).admin
    assert not (await ivan.health.ListProviderHealth()).health
    with pytest.raises(Refused) as hidden:
        await ivan.health.GetProviderHealth(provider_id=health.provider_id)
    assert hidden.value.reason == "PROVIDER_NOT_FOUND"
    with pytest.raises(Refused) as foreign:
        await ivan.health.ForceCircuit(
            model_id=strict.model_id, force=CircuitForce.CIRCUIT_FORCE_OPEN
        )
    assert foreign.value.reason == "MODEL_NOT_FOUND"
    assert not (await ivan.health.ListCircuits()).circuits

    # History ends after two days, what holds now does not.
    await stage.books.rows(
        "UPDATE providers.health_points SET at = at - interval '3 days' RETURNING at"
    )
    async with (
        open_core(stage.settings, "worker") as core,
        core.db.begin(Call.by_worker("purge")) as tx,
    ):
        await purge_health(tx)
    assert await stage.books.value("SELECT count(*) FROM providers.health_points") == 0
    assert len((await stage.olivia.health.ListCircuits()).circuits) == 2


async def test_probes_say_whether_somebody_is_there(stage: Stage) -> None:
    """Without a key 401 is an answer; with one the key has to be accepted; a closed port is down
    after three probes. They cost nothing: no chat call arrives, and no key is in what is stored."""
    olivia = stage.olivia
    await assistant_models(olivia, stage.stack.assistant_url, [])
    await assistant_models(olivia, f"http://127.0.0.1:{free_port()}", [], name="nobody")
    providers = {p.name: p.id for p in (await olivia.providers.ListProviders()).providers}
    for _ in range(3):
        await due(stage)
        await probe(stage)
    health = {h.provider: h for h in (await olivia.health.ListProviderHealth()).health}
    assert health["assistant"].state == HealthState.HEALTH_STATE_HEALTHY
    assert health["assistant"].probe.is_ok and health["assistant"].response_time_ms > 0
    assert health["nobody"].state == HealthState.HEALTH_STATE_DOWN
    assert health["nobody"].consecutive_failures == 3
    assert health["nobody"].last_error_kind == "unreachable"
    assert not health["nobody"].HasField("last_ok_at")

    keys = (await olivia.providers.ListProviderKeys()).provider_keys
    key = next(key for key in keys if key.provider_id == providers["assistant"])
    bad = await olivia.providers.CreateProviderKey(
        provider_id=providers["assistant"], name="bad", secret="not-one-of-the-assistants"
    )
    for key_id, kind in ((key.id, ""), (bad.provider_key.id, "bad_key")):
        answer = await olivia.health.ConfigureProbe(
            provider_id=providers["assistant"], is_enabled=True, provider_key_id=key_id
        )
        assert (answer.probe.interval_s, answer.probe.provider_key_id) == (60, key_id)
        await probe(stage)
        found = await olivia.health.GetProviderHealth(provider_id=providers["assistant"])
        assert found.health.probe.is_ok is not bool(kind)
        assert found.health.probe.last_error_kind == kind
    assert not (await stage.assistant.stats())["calls_total"]
    text = str(await stage.books.rows("SELECT * FROM providers.probes")) + str(
        await stage.books.rows("SELECT * FROM providers.probe_results")
    )
    assert "sk-assistant" not in text and "not-one-of-the" not in text

    history = await olivia.health.ListHealthHistory(provider_id=providers["assistant"])
    assert [result.error_kind for result in history.probes] == ["bad_key", "", "", "", ""]

    # Its turn comes when it is due, once, and not at all when it is switched off.
    probes = "SELECT count(*) FROM providers.probe_results"
    before = await stage.books.value(probes)
    await probe(stage)
    assert await stage.books.value(probes) == before
    for provider_id in providers.values():
        await olivia.health.ConfigureProbe(provider_id=provider_id, is_enabled=False)
    await due(stage)
    await probe(stage)
    assert await stage.books.value(probes) == before
    with pytest.raises(Refused) as foreign:
        await olivia.health.ConfigureProbe(
            provider_id=providers["nobody"], is_enabled=True, provider_key_id=key.id
        )
    assert foreign.value.reason == "PROVIDER_KEY_NOT_FOUND"


async def test_of_the_installations_provider_all_see_the_probes_and_their_own_calls(
    stage: Stage,
) -> None:
    """Two organisations send to one provider of the installation: both read its probe, neither the
    other's traffic; only an operator sets the probe up."""
    made = await assistant_models(stage.olivia, stage.stack.assistant_url, ["guard-none"])
    await stage.books.rows("UPDATE providers.providers SET org_id = NULL RETURNING id")
    await stage.books.rows("UPDATE providers.models SET org_id = NULL RETURNING id")
    await stage.books.rows(  # prices cannot be changed: their triggers look away
        """
        WITH away AS MATERIALIZED (SELECT set_config('session_replication_role', 'replica', false))
        UPDATE providers.price_versions SET org_id = NULL FROM away RETURNING id
        """
    )
    provider_id = (await stage.olivia.providers.ListProviders()).providers[0].id
    await stage.olivia.health.ConfigureProbe(provider_id=provider_id, is_enabled=True)
    await probe(stage)
    ivan = (await stage.world.organisation("globex")).admin
    with pytest.raises(Refused) as refused:
        await ivan.health.ConfigureProbe(provider_id=provider_id, is_enabled=False)
    assert refused.value.reason == "PERMISSION_MISSING"
    await stage.olivia.health.ForceCircuit(
        model_id=made[0], force=CircuitForce.CIRCUIT_FORCE_OPEN, reason="ours"
    )
    ours = (await stage.olivia.health.GetProviderHealth(provider_id=provider_id)).health
    theirs = (await ivan.health.GetProviderHealth(provider_id=provider_id)).health
    assert theirs.is_platform_provided and theirs.probe.is_ok and theirs.is_healthy
    assert (len(ours.models), len(theirs.models)) == (1, 0)
    circuit = (await ivan.health.GetCircuit(model_id=made[0])).circuit
    assert (circuit.force, circuit.forced_reason) == (0, "")
    seen = (await ivan.providers.GetProvider(provider_id=provider_id)).provider
    assert seen.is_healthy and seen.response_time_ms > 0 and not seen.HasField("success_rate")
    await _held_for_all(stage, ivan, made[0])


async def _held_for_all(stage: Stage, ivan: Person, model_id: str) -> None:
    """Operators hold the model for everybody: open wins over what an organisation decided, and what
    it decided is still there when the hold is lifted."""
    force = stage.olivia.health.ForceInstallationCircuit
    is_open, is_closed = CircuitForce.CIRCUIT_FORCE_OPEN, CircuitForce.CIRCUIT_FORCE_CLOSED
    with pytest.raises(Refused) as refused:
        await ivan.health.ForceInstallationCircuit(model_id=model_id, force=is_open)
    assert refused.value.reason == "PERMISSION_MISSING"
    await ivan.health.ForceCircuit(model_id=model_id, force=is_closed, reason="mine")
    held = (await force(model_id=model_id, force=is_open, reason="recall")).circuit
    assert (held.installation_force, held.installation_forced_reason) == (is_open, "recall")
    (theirs,) = (await ivan.health.ListCircuits()).circuits
    assert (theirs.force, theirs.installation_force) == (is_closed, is_open)
    health = (await ivan.health.GetProviderHealth(provider_id=theirs.provider_id)).health
    assert health.models[0].state == HealthState.HEALTH_STATE_DOWN
    await force(model_id=model_id, reason="over")
    health = (await ivan.health.GetProviderHealth(provider_id=theirs.provider_id)).health
    assert health.models[0].state != HealthState.HEALTH_STATE_DOWN


async def test_watching_health(stage: Stage) -> None:
    """A watch tells at once how every provider is, then those that change; one that begins with a
    cursor tells what has changed since, also by time alone, what the other did not come to tell, and
    nothing else."""
    olivia = stage.olivia
    models = await assistant_models(olivia, stage.stack.assistant_url, ["guard-none"])
    await assistant_models(olivia, stage.stack.assistant_url, [], name="other")
    told = []
    cursor = first_cursor = ""
    async for item in olivia.health.WatchHealth():
        told.append(item.health.provider)
        cursor = item.cursor
        first_cursor = first_cursor or cursor
        if len(told) == 2:
            await olivia.health.ForceCircuit(
                model_id=models[0], force=CircuitForce.CIRCUIT_FORCE_OPEN, reason="look"
            )
        if len(told) == 3:
            assert item.health.state == HealthState.HEALTH_STATE_DOWN
            break
    assert sorted(told[:2]) == ["assistant", "other"]
    assert told[2] == "assistant"
    # Who went in the middle of the first look hears the rest of it.
    assert told[1] in {item.health.provider for item in await _some(olivia, first_cursor, 2)}
    await olivia.health.ForceCircuit(model_id=models[0])
    (item,) = await _some(olivia, cursor, 1)
    assert item.health.provider == "assistant"
    assert item.health.models[0].state != HealthState.HEALTH_STATE_DOWN

    # Nine of ten calls failed; five minutes later nobody has called again, and nothing is known.
    await stage.books.rows(
        """
        INSERT INTO providers.health_points (org_id, model_id, at, calls, failures, rate_limited,
               latency_ms_sum, latency_ms_max)
        SELECT c.org_id, c.model_id, clock_timestamp() - interval '100 s', 10, 9, 0, 5, 5
          FROM providers.circuits c RETURNING at
        """
    )
    *_, item = await _some(olivia, "", 2)
    states = {health.health.provider: health.health.state for health in await _some(olivia, "", 2)}
    assert states["assistant"] == HealthState.HEALTH_STATE_DEGRADED
    await stage.books.rows(
        "UPDATE providers.health_points SET at = clock_timestamp() - interval '310 s' RETURNING at"
    )
    (later,) = await _some(olivia, item.cursor, 1)
    assert later.health.provider == "assistant"
    assert later.health.state == HealthState.HEALTH_STATE_UNSPECIFIED

    async with open_core(stage.settings, "worker") as core:
        # Of a database that was restored from elsewhere.
        ahead = core.pages.seal("watch-health/", ["1000000000000", 0.0])
    assert len(await _some(olivia, ahead, 2)) == 2
    with pytest.raises(Refused) as invalid:
        await _some(olivia, "elsewhere", 1)
    assert invalid.value.reason == "CURSOR_INVALID"
    with pytest.raises(Refused) as unknown:
        async for _ in olivia.health.WatchHealth(provider_id=stage.acme.id):
            pass
    assert unknown.value.reason == "PROVIDER_NOT_FOUND"


async def _some(person: Person, cursor: str, count: int) -> list[WatchHealthResponse]:
    """So many messages of a watch."""
    items = []
    async for item in person.health.WatchHealth(cursor=cursor):
        items.append(item)
        if len(items) == count:
            break
    return items


async def test_the_worker_probes_by_itself(stage: Stage) -> None:
    """Two workers, one prober: a provider is asked once when its turn comes."""
    await assistant_models(stage.olivia, stage.stack.assistant_url, [])
    stage.worker()
    stage.worker()

    async def probed() -> bool:
        return bool(await stage.books.value("SELECT count(*) FROM providers.probe_results"))

    await until(probed, "the provider is probed")
    assert await stage.books.value("SELECT count(*) FROM providers.probe_results") == 1
