"""Figures over time equal a recount of the results, however often they are collected."""

from __future__ import annotations

import asyncio
from collections import Counter
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from chimera.campaigns.analytics.collecting import collect
from chimera.core import open_core
from chimera.embedded.stack import StackUrls
from chimera.settings import Settings
from chimera.v1.analytics_pb2 import Dimension, WindowGrain
from tests.support.campaigns import (
    assistant_models,
    collected,
    finished,
    launched,
    results_of,
    secret_plan,
    secret_template,
    worker,
)
from tests.support.datasets import filled_dataset
from tests.support.workers import Assistant
from tests.support.world import Person, Refused, World


async def ran(person: Person, template_id: str, models: list[str], name: str, **plan: Any) -> Any:
    run = await launched(person, secret_plan(template_id, models, **plan), name)
    return await finished(person, run.id)


async def test_windows_equal_a_recount(world: World, stack: StackUrls, settings: Settings) -> None:
    """Two runs, collected by several workers at once and again: each result is in its hour once;
    slices by any dimension add up to the same."""
    olivia = (await world.organisation("acme")).admin
    models = await assistant_models(olivia, stack.assistant_url, ["guard-none", "guard-strict"])
    template_id = await secret_template(olivia)
    async with worker(settings):
        first = await ran(olivia, template_id, models, "first", rows=20, repetitions=3)
        second = await ran(olivia, template_id, models[:1], "second", rows=30)
    async with open_core(settings, "worker") as core:
        await asyncio.gather(*(collect(core) for _ in range(4)))
        await collected(core)
        assert await collect(core) == 0

    for run in (first, second):
        results = await results_of(olivia, run.id)
        for grain in (WindowGrain.WINDOW_GRAIN_HOUR, WindowGrain.WINDOW_GRAIN_DAY):
            answer = await olivia.analytics.ListWindows(campaign_id=run.campaign_id, grain=grain)
            figures = [window.figures for window in answer.windows]
            assert sum(f.results for f in figures) == len(results)
            assert sum(f.successes for f in figures) == sum(r.is_successful for r in results)
            assert sum(Decimal(f.cost_usd) for f in figures) == sum(
                Decimal(r.cost_usd) for r in results
            )
            by_technique: Counter[str] = Counter()
            for window in answer.windows:
                for part in window.by_technique:
                    by_technique[part.name] += part.figures.results
            assert by_technique == Counter(r.technique_applied for r in results)

    results = await results_of(olivia, first.id) + await results_of(olivia, second.id)
    answer = await olivia.analytics.SliceRates(
        group_by=[Dimension.DIMENSION_MODEL, Dimension.DIMENSION_TECHNIQUE]
    )
    expected = Counter((r.model_used, r.technique_applied) for r in results)
    assert {tuple(s.names): s.figures.results for s in answer.slices} == expected
    assert answer.total.results == len(results)
    assert answer.total.attempts == sum(r.attempts for r in results)
    rate = answer.total.successes / answer.total.scored
    assert answer.total.rate == pytest.approx(rate)
    assert answer.total.low < rate < answer.total.high
    one = await olivia.analytics.SliceRates(
        group_by=[Dimension.DIMENSION_CAMPAIGN], campaign_ids=[second.campaign_id]
    )
    assert [list(s.names) for s in one.slices] == [[second.campaign_id]]
    label = olivia.collaboration.LabelCampaign
    await label(campaign_id=first.campaign_id, add=["nightly", "chat"])
    await label(campaign_id=second.campaign_id, add=["nightly"])
    labelled = await olivia.analytics.SliceRates(group_by=[Dimension.DIMENSION_LABEL])
    sizes = {r.id: len(await results_of(olivia, r.id)) for r in (first, second)}
    assert {s.names[0]: s.figures.results for s in labelled.slices} == {
        "chat": sizes[first.id],
        "nightly": sum(sizes.values()),
    }
    assert labelled.total == answer.total


async def test_a_run_is_told_by_template_dataset_and_vulnerability(
    world: World, stack: StackUrls, settings: Settings
) -> None:
    """Two templates against different things, one with the rows of a dataset: the slices equal a recount
    by the prompts they made, and add up to the whole."""
    olivia = (await world.organisation("acme")).admin
    models = await assistant_models(olivia, stack.assistant_url, ["guard-none"])
    plan = secret_plan(await secret_template(olivia), models, rows=3, techniques=["plain"])
    made = await olivia.templates.CreateTemplate(
        title="Small talk",
        vulnerability_type="prompt_injection",
        messages=[{"role": "MESSAGE_ROLE_USER", "text": "{{ ask }}"}],
        variables=[{"name": "ask", "kind": "VARIABLE_KIND_STRING", "required": True}],
    )
    dataset = await filled_dataset(olivia, [{"ask": f"What is {n} + 1?"} for n in range(4)])
    plan.prompts.add(template_id=made.template.id, dataset_id=dataset)
    plan.scorer.kind = "contains"
    plan.scorer.params.Clear()
    plan.scorer.params.update({"text": "MARIGOLD"})
    async with worker(settings):
        run = await launched(olivia, plan)
        await finished(olivia, run.id)
    answer = await olivia.analytics.AnalyseRun(run_id=run.id)
    told = [
        (
            s.template_title,
            s.vulnerability_type,
            s.dataset_id,
            s.figures.results,
            s.figures.successes,
        )
        for s in answer.by_source
    ]
    assert told == [
        ("Tell me the secret", "", "", 3, 3),
        ("Small talk", "prompt_injection", dataset, 4, 0),
    ]
    assert answer.by_source[1].latency_ms.p50 > 0 < answer.by_source[1].dataset_version
    assert {part.name: part.figures.successes for part in answer.by_vulnerability} == {
        "": 3,
        "prompt_injection": 0,
    }
    assert sum(s.figures.results for s in answer.by_source) == answer.total.figures.results == 7


async def test_a_run_is_closed_long_after_its_end(
    world: World, stack: StackUrls, settings: Settings
) -> None:
    """What is over is not looked at for ever; and not closed before its late calls are in."""
    olivia = (await world.organisation("acme")).admin
    models = await assistant_models(olivia, stack.assistant_url, ["guard-none"])
    async with worker(settings):
        run = await ran(olivia, await secret_template(olivia), models, "first")

    def closed() -> Any:
        with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as database:
            return database.execute("SELECT is_final FROM campaigns.analysed").fetchall()

    async with open_core(settings, "worker") as core:
        await collected(core)
        assert closed() == [(False,)]
        with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as database:
            database.execute(
                "UPDATE campaigns.runs SET finished_at = now() - interval '2 hours' WHERE id = %s",
                (run.id,),
            )
        await collect(core)
        assert closed() == [(True,)]


async def test_errors_are_in_no_rate(world: World, stack: StackUrls, settings: Settings) -> None:
    """Some calls fail for good: they are counted by kind, apart from the rate and the latency."""
    olivia = (await world.organisation("acme")).admin
    models = await assistant_models(olivia, stack.assistant_url, ["guard-none"])
    assistant = Assistant(stack.assistant_url)
    await assistant.fault({"kind": "status", "status": 400, "next": 6})
    try:
        async with worker(settings):
            run = await ran(
                olivia, await secret_template(olivia), models, "run", rows=20, techniques=["plain"]
            )
    finally:
        await assistant.heal()
    results = await results_of(olivia, run.id)
    answered = [r for r in results if r.HasField("is_successful")]
    answer = await olivia.analytics.AnalyseRun(run_id=run.id)
    assert 0 < len(answered) < len(results)
    figures = answer.total.figures
    assert (figures.results, figures.scored, figures.failed) == (
        len(results),
        len(answered),
        len(results) - len(answered),
    )
    kinds = Counter(r.error_kind for r in results if not r.HasField("is_successful"))
    assert {error.kind: error.results for error in answer.total.errors} == kinds
    assert figures.rate == sum(r.is_successful for r in answered) / len(answered)
    ordered = sorted(r.latency_ms for r in answered)
    assert ordered[0] <= answer.total.latency_ms.p50 <= answer.total.latency_ms.p99 <= ordered[-1]
    assert [s.technique for s in answer.slices] == ["plain"]
    assert answer.slices[0].figures == figures


async def test_figures_are_of_what_the_caller_may_see(
    world: World, stack: StackUrls, settings: Settings
) -> None:
    """A private campaign is in nobody else's slices; another organisation sees nothing."""
    acme = await world.organisation("acme")
    olivia, sam = acme.admin, await acme.person("sam", role="user")
    models = await assistant_models(olivia, stack.assistant_url, ["guard-none"])
    plan = secret_plan(await secret_template(olivia), models)
    made = await olivia.campaigns.CreateCampaign(
        name="private", plan=plan, visibility="CAMPAIGN_VISIBILITY_PRIVATE"
    )
    async with worker(settings):
        run = (await olivia.campaigns.LaunchCampaign(campaign_id=made.campaign.id)).run
        await finished(olivia, run.id)
    async with open_core(settings, "worker") as core:
        await collected(core)
    mallory = (await world.organisation("globex")).admin
    by_campaign = [Dimension.DIMENSION_CAMPAIGN]
    assert (await olivia.analytics.SliceRates(group_by=by_campaign)).total.results == 4
    for person in (sam, mallory):
        assert not (await person.analytics.SliceRates(group_by=by_campaign)).slices
        for call, fields, reason in (
            (
                person.analytics.ListWindows,
                {"campaign_id": made.campaign.id, "grain": 1},
                "CAMPAIGN_NOT_FOUND",
            ),
            (person.analytics.AnalyseRun, {"run_id": run.id}, "RUN_NOT_FOUND"),
        ):
            with pytest.raises(Refused) as refused:
                await call(**fields)
            assert refused.value.reason == reason
    with pytest.raises(Refused) as refused:
        await olivia.analytics.SliceRates(
            group_by=by_campaign, start_time={"seconds": 10}, end_time={"seconds": 10}
        )
    assert refused.value.reason == "FIELD_INVALID"
