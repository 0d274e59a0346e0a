"""What people make of results: compared runs, other scorers, verdicts of people, files."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from typing import Any

import pytest

from chimera.campaigns.evaluation.judging import judge_again
from chimera.campaigns.statistics import Paired, cohen_kappa, mcnemar_p, paired_difference
from chimera.core import open_core
from chimera.embedded.stack import StackUrls
from chimera.settings import Settings
from chimera.v1.campaigns_pb2 import Scorer
from chimera.v1.evaluation_pb2 import ExportFormat, Pairing, ScoringState
from tests.support.campaigns import (
    assistant_models,
    finished,
    launched,
    results_of,
    secret_plan,
    secret_template,
    worker,
)
from tests.support.workers import until
from tests.support.world import Person, Refused, World

NOBODYS = "01a00000-0000-7000-8000-000000000000"


class Lab:
    """Somebody with two models and a template, who runs campaigns."""

    def __init__(self, person: Person, models: list[str], template_id: str) -> None:
        self.person, self.models, self.template_id = person, models, template_id

    async def ran(self, name: str, models: list[str], **plan: Any) -> str:
        """A finished run's id."""
        run = await launched(self.person, secret_plan(self.template_id, models, **plan), name)
        await finished(self.person, run.id)
        return run.id

    async def scored(self, run_id: str, scorer: Scorer) -> Any:
        """A finished scoring."""
        started = await self.person.evaluation.RescoreRun(run_id=run_id, scorer=scorer, name="n")

        async def done() -> Any:
            answer = await self.person.evaluation.GetScoring(scoring_id=started.scoring.id)
            over = answer.scoring.state == ScoringState.SCORING_STATE_COMPLETED
            return answer.scoring if over else None

        return await until(done, "the scoring completes")


async def opened_lab(world: World, stack: StackUrls, organisation: str = "acme") -> Lab:
    olivia = (await world.organisation(organisation)).admin
    models = await assistant_models(olivia, stack.assistant_url, ["guard-none", "guard-strict"])
    return Lab(olivia, models, await secret_template(olivia))


def contains(text: str) -> Scorer:
    scorer = Scorer(kind="contains")
    scorer.params.update({"text": text})
    return scorer


async def test_two_models_are_compared_cell_by_cell(
    world: World, stack: StackUrls, settings: Settings
) -> None:
    """The same plan against a model without a guard and a strict one: the counts equal a recount
    from both lists of results, and each flip names its two cells."""
    lab = await opened_lab(world, stack)
    async with worker(settings):
        weak = await lab.ran("weak", lab.models[:1], rows=6, repetitions=2)
        strict = await lab.ran("strict", lab.models[1:], rows=6, repetitions=2)
    olivia = lab.person
    pairing = Pairing(first_run_id=weak, second_run_id=strict, across_targets=True)
    compared = await olivia.evaluation.CompareRuns(pairing=pairing)

    first = {r.cell_no: r.is_successful for r in await results_of(olivia, weak)}
    second = {r.cell_no: r.is_successful for r in await results_of(olivia, strict)}
    pairs = [(first[cell], second[cell]) for cell in first]
    counts = compared.test.counts
    assert (counts.both, counts.only_first, counts.only_second, counts.neither) == (
        pairs.count((True, True)),
        pairs.count((True, False)),
        pairs.count((False, True)),
        pairs.count((False, False)),
    )
    assert counts.only_first > 0
    assert compared.test.difference == pytest.approx(
        (sum(second.values()) - sum(first.values())) / len(pairs)
    )
    assert compared.test.low <= compared.test.difference <= compared.test.high
    assert compared.test.p_value == pytest.approx(mcnemar_p(counts.only_first, counts.only_second))
    assert {part.technique for part in compared.by_technique} == {"plain", "base64"}
    assert sum(part.test.counts.only_first for part in compared.by_technique) == counts.only_first

    flips: list[Any] = []
    token = ""
    while True:
        page = await olivia.evaluation.ListFlips(pairing=pairing, page_size=3, page_token=token)
        flips += page.flips
        token = page.next_page_token
        if not token:
            break
    assert [flip.first_cell_no for flip in flips] == [c for c in first if first[c] != second[c]]
    assert all(first[flip.first_cell_no] == flip.first_is_successful for flip in flips)
    assert {flip.second_target for flip in flips} == {"assistant/guard-strict"}

    with pytest.raises(Refused) as refused:
        await olivia.evaluation.CompareRuns(
            pairing=Pairing(first_run_id=weak, second_run_id=NOBODYS)
        )
    assert refused.value.reason == "RUN_NOT_FOUND"


async def test_cells_without_a_partner_are_counted_apart(
    world: World, stack: StackUrls, settings: Settings
) -> None:
    """A run of more rows against a smaller one, and models that differ without saying so."""
    lab = await opened_lab(world, stack)
    async with worker(settings):
        small = await lab.ran("small", lab.models[:1], rows=2)
        large = await lab.ran("large", lab.models[:1], rows=5)
        both = await lab.ran("both", lab.models, rows=2)
    compare = lab.person.evaluation.CompareRuns
    compared = await compare(pairing=Pairing(first_run_id=small, second_run_id=large))
    assert (compared.first_unpaired, compared.second_unpaired) == (0, 6)
    assert sum((compared.test.counts.both, compared.test.counts.neither)) == 4
    assert compared.test.p_value == 1.0
    with pytest.raises(Refused) as refused:
        await compare(pairing=Pairing(first_run_id=small, second_run_id=both, across_targets=True))
    assert refused.value.reason == "RUNS_NOT_COMPARABLE"


async def test_answers_are_judged_again_without_being_sent_again(
    world: World, stack: StackUrls, settings: Settings
) -> None:
    """Another scorer over the same answers: its verdicts stand beside those of the run, the target
    hears nothing, and a scorer that cannot judge errs instead of resisting."""
    lab = await opened_lab(world, stack)
    olivia = lab.person
    async with worker(settings):
        run_id = await lab.ran("run", lab.models, rows=60, repetitions=2)
        before = await results_of(olivia, run_id)
        refusal = await lab.scored(run_id, Scorer(kind="refusal"))
        unknown = await lab.scored(run_id, contains("{{nobody}}"))
        ended = Scorer(kind="finish_reason")
        ended.params.update({"reasons": ["stop"]})
        stopped = await lab.scored(run_id, ended)
    after = await results_of(olivia, run_id)
    assert [r.SerializeToString() for r in after] == [r.SerializeToString() for r in before]

    assert refusal.answers == refusal.scored == len(before) == 480
    # Why an answer ended is kept with it.
    assert stopped.successes == sum(result.finish_reason == "stop" for result in before) > 0
    verdicts: list[Any] = []
    token = ""
    while True:
        page = await olivia.evaluation.ListVerdicts(
            scoring_id=refusal.id, page_size=100, page_token=token
        )
        verdicts += page.verdicts
        token = page.next_page_token
        if not token:
            break
    assert [v.cell_no for v in verdicts] == list(range(480))
    assert refusal.successes == sum(v.is_successful for v in verdicts)
    recorded = {r.cell_no: r.is_successful for r in before}
    assert all(v.recorded_is_successful == recorded[v.cell_no] for v in verdicts)
    flips = sum(v.is_successful != v.recorded_is_successful for v in verdicts)
    assert refusal.flipped == flips > 0
    flipped = await olivia.evaluation.ListVerdicts(
        scoring_id=refusal.id, page_size=500, flipped_only=True
    )
    assert len(flipped.verdicts) == flips

    assert (unknown.scored, unknown.errored, unknown.successes) == (0, 480, 0)
    listed = await olivia.evaluation.ListScorings(run_id=run_id)
    assert [scoring.id for scoring in listed.scorings] == [
        stopped.id,
        unknown.id,
        refusal.id,
    ]


async def test_two_workers_at_one_scoring_judge_each_answer_once(
    world: World, stack: StackUrls, settings: Settings
) -> None:
    """A task that is rung twice: both go through the answers at once, and the counters hold."""
    lab = await opened_lab(world, stack)
    async with worker(settings):
        run_id = await lab.ran("run", lab.models, rows=110, repetitions=1)
    started = await lab.person.evaluation.RescoreRun(run_id=run_id, scorer=Scorer(kind="refusal"))
    org_id = (await lab.person.identity.GetMe()).organisation.id
    async with open_core(settings, "worker") as core:
        await asyncio.gather(*(judge_again(core, org_id, started.scoring.id) for _ in range(4)))
    scoring = (await lab.person.evaluation.GetScoring(scoring_id=started.scoring.id)).scoring
    assert scoring.state == ScoringState.SCORING_STATE_COMPLETED
    assert scoring.answers == scoring.scored == 440


async def test_bad_scorings_are_refused(world: World, stack: StackUrls, settings: Settings) -> None:
    """A run that still records, a scorer that does not exist: nothing is stored."""
    lab = await opened_lab(world, stack)
    plan = secret_plan(lab.template_id, lab.models)
    run = await launched(lab.person, plan)  # no worker: it stays live
    rescore = lab.person.evaluation.RescoreRun
    for scorer, reason in (
        (Scorer(kind="refusal"), "RUN_NOT_OVER"),
        (Scorer(kind="tea-leaves"), "SCORER_UNKNOWN"),
        (Scorer(kind="contains"), "SCORER_PARAMETER_INVALID"),
    ):
        with pytest.raises(Refused) as refused:
            await rescore(run_id=run.id, scorer=scorer)
        assert refused.value.reason == reason
    assert not (await lab.person.evaluation.ListScorings(run_id=run.id)).scorings


async def test_people_judge_beside_the_machine(
    world: World, stack: StackUrls, settings: Settings
) -> None:
    """Verdicts of people are kept with their reasons, replaced without being lost, and say how good
    the scorer is; ten people on one cell leave one standing verdict."""
    lab = await opened_lab(world, stack)
    olivia = lab.person
    async with worker(settings):
        run_id = await lab.ran("run", lab.models, rows=5)
    results = await results_of(olivia, run_id)
    evaluation = olivia.evaluation
    with pytest.raises(Refused) as refused:
        await evaluation.EvaluateScorer(run_id=run_id)
    assert refused.value.reason == "LABELS_MISSING"

    for result in results[:10]:  # they agree with the machine but for the first
        verdict = result.is_successful != (result.cell_no == 0)
        made = await evaluation.OverrideVerdict(
            run_id=run_id, cell_no=result.cell_no, is_successful=verdict, reason="read it"
        )
        assert made.override.recorded_is_successful == result.is_successful
    judged = await evaluation.EvaluateScorer(run_id=run_id)
    positives = sum(r.is_successful for r in results[:10])
    assert judged.labels == 10
    assert judged.true_positives + judged.false_positives == positives
    assert judged.false_positives + judged.false_negatives == 1
    assert judged.accuracy.value == 0.9
    assert judged.accuracy.low < 0.9 < judged.accuracy.high

    await asyncio.gather(
        *(
            evaluation.OverrideVerdict(
                run_id=run_id, cell_no=3, is_successful=bool(number % 2), reason=f"look {number}"
            )
            for number in range(10)
        )
    )
    standing = (await evaluation.ListOverrides(run_id=run_id, page_size=100)).overrides
    assert sorted(override.cell_no for override in standing) == list(range(10))
    history = await evaluation.ListOverrides(run_id=run_id, page_size=100, show_withdrawn=True)
    assert len([o for o in history.overrides if o.cell_no == 3]) == 11

    await evaluation.WithdrawOverride(run_id=run_id, cell_no=3)
    with pytest.raises(Refused) as refused:
        await evaluation.WithdrawOverride(run_id=run_id, cell_no=3)
    assert refused.value.reason == "OVERRIDE_NOT_FOUND"
    with pytest.raises(Refused) as refused:
        await evaluation.OverrideVerdict(
            run_id=run_id, cell_no=999, is_successful=True, reason="nothing there"
        )
    assert refused.value.reason == "EXECUTION_NOT_FOUND"
    reviewed = await evaluation.CompareRuns(
        pairing=Pairing(first_run_id=run_id, second_run_id=run_id, reviewed=True)
    )
    assert reviewed.test.counts.only_first == reviewed.test.counts.only_second == 0


async def test_results_leave_as_files(world: World, stack: StackUrls, settings: Settings) -> None:
    """JSON Lines, CSV and Parquet hold the same rows as the listing; answers of models cannot run
    as formulas; the export is in the audit log."""
    import pyarrow.parquet

    lab = await opened_lab(world, stack)
    olivia = lab.person
    template = await olivia.templates.CreateTemplate(
        title="Formula",
        messages=[
            {"role": "MESSAGE_ROLE_USER", "text": '=HYPERLINK("http://x","{{ ask }}")\n"q", é'}
        ],
        variables=[{"name": "ask", "kind": "VARIABLE_KIND_STRING", "required": True}],
    )
    lab.template_id = template.template.id
    async with worker(settings):
        plan = secret_plan(
            lab.template_id, lab.models, rows=0, techniques=["plain"], repetitions=210
        )
        plan.prompts[0].rows.add().update({"ask": "a,b"})
        plan.scorer.CopyFrom(Scorer(kind="refusal"))
        run = await launched(olivia, plan)
        await finished(olivia, run.id)
    results = await results_of(olivia, run.id)

    async def exported(kind: int) -> bytes:
        parts = [
            part.data async for part in olivia.evaluation.ExportResults(run_id=run.id, format=kind)
        ]
        return b"".join(parts)

    lines = [
        json.loads(line)
        for line in (await exported(ExportFormat.EXPORT_FORMAT_JSON_LINES)).splitlines()
    ]
    assert [(r["cell_no"], r["response"], r["cost_usd"], r["is_successful"]) for r in lines] == [
        (r.cell_no, r.response, r.cost_usd, r.is_successful) for r in results
    ]
    table = pyarrow.parquet.read_table(
        io.BytesIO(await exported(ExportFormat.EXPORT_FORMAT_PARQUET))
    ).to_pylist()
    assert [row["transformed_prompt"] for row in table] == [r.transformed_prompt for r in results]
    assert table[0]["started_at"] == results[0].started_at.ToDatetime(table[0]["started_at"].tzinfo)

    text = (await exported(ExportFormat.EXPORT_FORMAT_CSV)).decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == len(results) == 420
    assert all(row["original_prompt"] == "'" + results[0].original_prompt for row in rows)

    async def recorded() -> bool:
        page = await olivia.audit.ListAuditEvents(page_size=50)
        return [event.action for event in page.events].count("run.export") == 3

    async with worker(settings):
        await until(recorded, "the exports are in the log")


async def test_other_organisations_see_none_of_it(
    world: World, stack: StackUrls, settings: Settings
) -> None:
    lab = await opened_lab(world, stack)
    async with worker(settings):
        run_id = await lab.ran("run", lab.models[:1])
        scoring = await lab.scored(run_id, Scorer(kind="refusal"))
    mallory = (await world.organisation("globex")).admin.evaluation
    pairing = Pairing(first_run_id=run_id, second_run_id=run_id)
    for call, fields, reason in (
        (mallory.CompareRuns, {"pairing": pairing}, "RUN_NOT_FOUND"),
        (mallory.ListFlips, {"pairing": pairing}, "RUN_NOT_FOUND"),
        (mallory.RescoreRun, {"run_id": run_id, "scorer": Scorer(kind="refusal")}, "RUN_NOT_FOUND"),
        (mallory.GetScoring, {"scoring_id": scoring.id}, "SCORING_NOT_FOUND"),
        (mallory.ListVerdicts, {"scoring_id": scoring.id}, "SCORING_NOT_FOUND"),
        (mallory.ListScorings, {"run_id": run_id}, "RUN_NOT_FOUND"),
        (mallory.ListOverrides, {"run_id": run_id}, "RUN_NOT_FOUND"),
        (mallory.EvaluateScorer, {"run_id": run_id}, "RUN_NOT_FOUND"),
        (
            mallory.OverrideVerdict,
            {"run_id": run_id, "cell_no": 0, "is_successful": True, "reason": "r"},
            "RUN_NOT_FOUND",
        ),
    ):
        with pytest.raises(Refused) as refused:
            await call(**fields)
        assert refused.value.reason == reason
    with pytest.raises(Refused) as refused:
        async for _ in mallory.ExportResults(run_id=run_id, format="EXPORT_FORMAT_CSV"):
            pass
    assert refused.value.reason == "RUN_NOT_FOUND"


def test_the_statistics_of_pairs() -> None:
    """Known values: McNemar by the binomial table, kappa by Cohen's formula, no division by 0."""
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(5, 5) == 1.0
    assert mcnemar_p(0, 5) == pytest.approx(2 / 32)
    assert mcnemar_p(2, 10) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert 0 < mcnemar_p(40_000, 60_000) < 1e-100 or mcnemar_p(40_000, 60_000) == 0.0
    difference, interval = paired_difference(Paired(10, 2, 10, 8))
    assert difference == pytest.approx(8 / 30)
    assert -1 <= interval.low < difference < interval.high <= 1
    kappa = cohen_kappa(Paired(20, 5, 10, 15))
    assert kappa is not None
    assert kappa[0] == pytest.approx(0.4)
    assert cohen_kappa(Paired(7, 0, 0, 0)) is None
    assert cohen_kappa(Paired(0, 0, 0, 0)) is None
