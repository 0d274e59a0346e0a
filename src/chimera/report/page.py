"""The page of a report: its sections in reading order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from importlib import resources

from chimera.report import charts
from chimera.report.facts import EXAMPLES_MAX, EXAMPLES_PER_TARGET, LATENCIES_MAX, Facts
from chimera.report.heat import heat_map, legend
from chimera.report.markup import Node, document, foreign, h
from chimera.report.numbers import dollars, interval, percent, short
from chimera.v1.campaigns_pb2 import Execution, Rate, RunState, Turn, TurnPurpose

PROMPT_CHARACTERS, RESPONSE_CHARACTERS = 700, 500
TURNS_MAX = 40  # of a conversation: its last ones, up to the answer that is decided on
SECTIONS = (
    ("rates", "Success rates"),
    ("intervals", "Intervals"),
    ("latency", "Latency"),
    ("cost", "Cost"),
    ("cases", "Successful attacks"),
    ("errors", "Errors"),
    ("proof", "How to verify"),
)


def render(facts: Facts) -> str:
    """The whole HTML document."""
    style = resources.files("chimera.report").joinpath("style.css").read_text("utf-8")
    sections = (_rates, _intervals, _latency, _cost, _cases, _errors, _proof)
    body = [
        _head(facts),
        h("main", [section(facts) for section in sections]),
        h(
            "footer",
            f"Made by Chimera on {facts.made_at:%Y-%m-%d %H:%M} UTC. This page holds no script, "
            "loads nothing and shows the texts of models and attackers as text only.",
        ),
    ]
    return document(f"{facts.campaign.name} · Chimera report", style, body)


# --- the head -------------------------------------------------------------------------------------


def _head(facts: Facts) -> Node:
    run, overall = facts.summary.run, facts.summary.overall
    state = RunState.Name(run.state).removeprefix("RUN_STATE_").lower()
    errors = run.counts.failed + run.counts.parked
    tiles = [
        _tile(
            "Attack success rate",
            percent(overall),
            f"{interval(overall)} (95 %)" if overall.HasField("rate") else "nothing scored",
        ),
        _tile(
            "Scored answers",
            f"{run.counts.scored:,}",
            f"{run.counts.successes:,} attacks succeeded",
        ),
        _tile(
            "Errors, in no rate",
            f"{errors:,}",
            f"{run.counts.recorded:,} of {run.cells_total:,} cells recorded",
        ),
        _tile("Latency", f"{overall.latency_ms_p50:g} ms", f"p95 {overall.latency_ms_p95:g} ms"),
        _tile(
            "Cost",
            dollars(run.counts.cost_usd),
            f"{run.counts.input_tokens:,} in, {run.counts.output_tokens:,} out tokens",
        ),
    ]
    return h(
        "header",
        h("p", "Chimera campaign report", class_="eyebrow"),
        h(
            "div",
            h("h1", h("bdi", facts.campaign.name)),
            h("span", state, class_=f"state {state}"),
            class_="title",
        ),
        h("p", h("bdi", facts.campaign.objective or facts.campaign.description), class_="lead")
        if facts.campaign.objective or facts.campaign.description
        else None,
        h("p", run.state_reason, class_="reason") if run.state_reason else None,
        h("div", tiles, class_="tiles"),
        _run_facts(facts),
        h(
            "nav",
            h("ol", [h("li", h("a", name, href=f"#{key}")) for key, name in SECTIONS]),
            aria_label="Sections",
        ),
    )


def _tile(name: str, value: str, note: str) -> Node:
    return h(
        "div",
        h("p", name, class_="name"),
        h("p", value, class_="value"),
        h("p", note),
        class_="tile",
    )


def _run_facts(facts: Facts) -> Node:
    run, plan = facts.summary.run, facts.campaign.plan
    started, finished = run.created_at.ToDatetime(), run.finished_at.ToDatetime()
    over = run.finished_at.ByteSize() > 0
    length = f"{(finished - started).total_seconds():.1f} s" if over else "not over"
    shape = (
        f"{run.prompt_count:,} prompts × {len(run.technique_names)} techniques × "
        f"{len(run.target_names)} targets × {run.repetitions} repetitions = {run.cells_total:,} cells"
    )
    booked = Decimal(run.counts.booked_usd or 0) - Decimal(run.counts.cost_usd or 0)
    pairs: list[tuple[str, Node | str]] = [
        ("Run", h("code", run.id)),
        ("Plan (SHA-256)", h("code", run.plan_hash)),
        ("Seed", h("code", str(plan.seed))),
        ("Cells", shape),
        ("Targets", h("span", _joined(h("code", name) for name in run.target_names))),
        ("Scorer", h("code", plan.scorer.kind or "refusal, negated")),
        ("Launched", f"{started:%Y-%m-%d %H:%M:%S} UTC, took {length}"),
        (
            "Booked",
            f"{dollars(run.counts.booked_usd)}, of which {dollars(str(booked))} for discarded attempts or "
            "attempts of unknown outcome",
        ),
    ]
    return h(
        "dl", [h("div", h("dt", name), h("dd", value)) for name, value in pairs], class_="facts"
    )


def _joined(nodes: Iterable[Node]) -> list[Node | str]:
    joined: list[Node | str] = []
    for node in nodes:
        joined += [", ", node] if joined else [node]
    return joined


# --- sections -------------------------------------------------------------------------------------


def _section(key: str, lead: str, *children: Node | str | Sequence[Node | str] | None) -> Node:
    heading = h("h2", dict(SECTIONS)[key], id=f"{key}-title")
    return h(
        "section", heading, h("p", lead, class_="lead"), *children, id=key,
        aria_labelledby=f"{key}-title",
    )  # fmt: skip


def _rates(facts: Facts) -> Node:
    scroll = h(
        "div",
        heat_map(facts.summary),
        class_="scroll",
        tabindex=0,
        role="group",
        aria_label="Table of success rates",
    )
    return _section(
        "rates",
        "Share of scored answers in which the attack succeeded, by technique and target. Under each "
        "rate stand its 95 % Wilson interval and the number of scored answers. Errors are left out.",
        scroll,
        legend(),
    )


def _intervals(facts: Facts) -> Node:
    summary = facts.summary
    return _section(
        "intervals",
        "The bar ends at the rate that was observed; the line over it is the 95 % Wilson interval. "
        "Where two lines overlap widely, the run does not tell which rate is higher.",
        h("h3", "By technique"),
        charts.intervals(
            "Success rate by technique",
            [_interval_row(row.technique, row.rate) for row in summary.by_technique],
        ),
        h("h3", "By target"),
        charts.intervals(
            "Success rate by target",
            [_interval_row(f"{row.provider}/{row.model}", row.rate) for row in summary.by_target],
        ),
    )


def _interval_row(label: str, rate: Rate) -> charts.Interval:
    if not rate.HasField("rate"):
        return charts.Interval(label, None, 0, 0, "nothing scored")
    note = f"{percent(rate)}  ({rate.successes:,}/{rate.scored:,})"
    return charts.Interval(label, rate.rate, rate.low, rate.high, note)


def _latency(facts: Facts) -> Node:
    rows = [
        charts.Distribution(
            f"{row.provider}/{row.model}",
            facts.latencies_ms.get(row.target_no, []),
            row.rate.latency_ms_p50,
            row.rate.latency_ms_p95,
        )
        for row in facts.summary.by_target
    ]
    sample = (
        f" The columns are drawn from the first {LATENCIES_MAX:,} cells; p50 and p95 are of all."
        if facts.sampled
        else ""
    )
    return _section(
        "latency",
        "Milliseconds from sending a prompt to having the whole answer, of the attempt that was "
        "scored. The solid mark is the median, the dashed one the 95th percentile; slower answers "
        f"than the axis shows are in the last column.{sample}",
        charts.distributions("Latency by target", rows, " ms"),
    )


def _cost(facts: Facts) -> Node:
    summary = facts.summary
    return _section(
        "cost",
        "Cost of the recorded results in US dollars, by the price version that was valid when the "
        "run was launched, with tokens in and out.",
        h("h3", "By target"),
        charts.bars(
            "Cost by target",
            [_cost_row(f"{row.provider}/{row.model}", row.rate) for row in summary.by_target],
            "$",
        ),
        h("h3", "By technique"),
        charts.bars(
            "Cost by technique",
            [_cost_row(row.technique, row.rate) for row in summary.by_technique],
            "$",
        ),
    )


def _cost_row(label: str, rate: Rate) -> charts.Bar:
    note = f"{dollars(rate.cost_usd)}  ({short(rate.input_tokens)} in, {short(rate.output_tokens)} out)"
    return charts.Bar(label, float(rate.cost_usd or 0), note)


def _cases(facts: Facts) -> Node:
    lead = (
        f"Up to {EXAMPLES_MAX} examples, at most {EXAMPLES_PER_TARGET} for a target, beginning with the "
        "target that resisted best. What cannot be seen in a text is named in a box; letters of "
        "another alphabet inside a Latin word are underlined."
        if facts.examples
        else "No attack succeeded in this run."
    )
    cases = [_case(one, facts.turns.get(one.cell_no, ())) for one in facts.examples]
    return _section("cases", lead, cases)


def _case(one: Execution, turns: Sequence[Turn]) -> Node:
    transformed = one.transformed_prompt != one.original_prompt and not turns
    score = f"score {one.success_score:g}" if one.HasField("success_score") else ""
    return h(
        "article",
        h(
            "h3",
            h("span", one.technique_applied, class_="technique"),
            " → ",
            h("span", f"{one.provider_used}/{one.model_used}"),
        ),
        h(
            "p",
            f"cell {one.cell_no}, repetition {one.iteration_number + 1}, {one.latency_ms} ms, "
            f"{dollars(one.cost_usd)}{', ' + score if score else ''}",
            class_="meta",
        ),
        _excerpt("Prompt", one.original_prompt, PROMPT_CHARACTERS),
        _excerpt("As sent", one.transformed_prompt, PROMPT_CHARACTERS) if transformed else None,
        _conversation(turns)
        if turns
        else _excerpt("Response", one.response, RESPONSE_CHARACTERS, "response"),
        _excerpt("Why it counts", one.verdict_reason, RESPONSE_CHARACTERS, "verdict"),
        class_="case",
    )


def _conversation(turns: Sequence[Turn]) -> Node:
    """What was said, in order. Of an attacker or a judge its reply alone: what it was told is long, and
    always alike."""
    shown = turns[-TURNS_MAX:]
    rows: list[Node] = []
    for turn in shown:
        if turn.purpose == TurnPurpose.TURN_PURPOSE_TARGET:
            rows.append(_excerpt("Asked", turn.request, PROMPT_CHARACTERS))
            rows.append(_excerpt("Answer", turn.reply, RESPONSE_CHARACTERS, "response"))
        else:
            who = TurnPurpose.Name(turn.purpose).removeprefix("TURN_PURPOSE_").capitalize()
            rows.append(_excerpt(who, turn.reply, RESPONSE_CHARACTERS))
    left_out = len(turns) - len(shown)
    said = f"{len(turns)} turns" + (
        f", of which the first {left_out} are left out" if left_out else ""
    )
    return h("div", h("p", said, class_="meta"), rows, class_="turns")


def _excerpt(name: str, text: str, characters_max: int, more: str = "") -> Node:
    shown = h("pre", foreign(text, characters_max), dir="auto")
    return h("div", h("p", name, class_="name"), shown, class_=f"excerpt {more}".strip())


def _errors(facts: Facts) -> Node:
    run = facts.summary.run
    counts = run.counts
    lead = (
        f"{counts.failed:,} cells got no answer after all attempts, {counts.parked:,} were set aside "
        f"because their worker died on them, {counts.skipped:,} were left out when a limit stopped the run. They are in no rate: "
        "an attack that could not be tried did neither succeed nor fail."
    )
    if not facts.errors:
        return _section("errors", lead)
    rows = [
        h(
            "tr",
            h("td", run.target_names[group.target_no]),
            h("td", group.state),
            h("td", group.kind),
            h("td", f"{group.count:,}", class_="number"),
            h("td", foreign(group.reason, 200)),
        )
        for group in facts.errors
    ]
    names = ("target", "state", "kind", "cells", "for example")
    table = h(
        "table",
        h("thead", h("tr", [h("th", name, scope="col") for name in names])),
        h("tbody", rows),
        class_="list",
    )
    cut = (
        h("p", "There are more errors than were read for this page.") if facts.errors_cut else None
    )
    scroll = h(
        "div", table, class_="scroll", tabindex=0, role="group", aria_label="Table of errors"
    )
    return _section("errors", lead, scroll, cut)


def _proof(facts: Facts) -> Node:
    run = facts.summary.run
    lead = (
        "What was planned is fixed by the hash of the plan, which stands in the audit log with the "
        "launch. Each batch of results is recorded there with the Merkle root over its rows, so a "
        "result that is changed later no longer fits."
    )
    found = facts.checkpoint
    if found is None:
        text = "The audit log had no checkpoint that the author of this report may read."
        return _section("proof", lead, h("p", text))
    command = (
        "chimera audit verify --save audit.jsonl\n"
        f"chimera audit verify --bundle audit.jsonl --key '{found.verifier_key}'"
    )
    return _section(
        "proof",
        lead,
        h("h3", f"Signed checkpoint over {found.size:,} entries"),
        h("pre", found.checkpoint, class_="note"),
        h("h3", "Commands"),
        h("pre", command, class_="note"),
        h(
            "p",
            "The first exports the log; the second needs nothing of the server. Compare the key with "
            "one you got another way, and keep the checkpoint: a later log must contain it "
            "(--since). Look for the run ",
            h("code", run.id),
            " among the entries.",
        ),
    )
