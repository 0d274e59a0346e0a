"""The table of success rates, coloured by rate: technique x target, with totals."""

from __future__ import annotations

from chimera.report.markup import Node, h
from chimera.report.numbers import interval, percent
from chimera.v1.campaigns_pb2 import GetRunSummaryResponse, Rate

LEVELS = 10


def heat_map(summary: GetRunSummaryResponse) -> Node:
    """Rate, interval and n in every cell; colour only repeats the rate."""
    targets = summary.by_target
    cells = {(row.technique_no, row.target_no): row.rate for row in summary.by_technique_and_target}
    head = h(
        "tr",
        h("td", class_="corner"),
        [
            h("th", h("span", row.provider, class_="provider"), row.model, scope="col")
            for row in targets
        ],
        h("th", "all targets", scope="col", class_="total"),
    )
    rows = [
        h(
            "tr",
            h("th", row.technique, scope="row"),
            [_heat(cells.get((row.technique_no, target.target_no))) for target in targets],
            _heat(row.rate, "total"),
        )
        for row in summary.by_technique
    ]
    last = h(
        "tr",
        h("th", "all techniques", scope="row", class_="total"),
        [_heat(row.rate, "total") for row in targets],
        _heat(summary.overall, "total"),
        class_="totals",
    )
    return h(
        "table",
        h("caption", "Share of scored answers in which the attack succeeded", class_="unshown"),
        h("thead", head),
        h("tbody", rows, last),
        class_="heat",
    )


def _heat(rate: Rate | None, more: str = "") -> Node:
    if rate is None or not rate.HasField("rate"):
        return h(
            "td", h("span", "–", class_="rate"), h("small", "nothing scored"), class_=f"none {more}"
        )
    return h(
        "td",
        h("span", percent(rate), class_="rate"),
        h("small", interval(rate)),
        h("small", f"n {rate.scored:,}", f", {rate.failed:,} err" if rate.failed else ""),
        class_=f"q{round(rate.rate * LEVELS)} {more}".strip(),
    )


def legend() -> Node:
    """What the colours mean."""
    steps = [h("span", class_=f"q{level}", aria_hidden="true") for level in range(LEVELS + 1)]
    return h(
        "p",
        h("span", "0 % resisted all"),
        h("span", steps, class_="ramp"),
        h("span", "100 % gave in always"),
        class_="legend",
    )
