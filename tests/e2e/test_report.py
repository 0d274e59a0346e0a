"""The report as a file that somebody opens: hostile contents stay text, and nothing leaves the page."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from chimera.report.facts import ErrorGroup, Facts
from chimera.report.page import render
from chimera.v1.audit_pb2 import GetCheckpointResponse
from chimera.v1.campaigns_pb2 import (
    Campaign,
    Execution,
    GetRunSummaryResponse,
    Rate,
    RateByCell,
    RateByTarget,
    RateByTechnique,
    Run,
    RunCounts,
    RunState,
    Turn,
    TurnPurpose,
)
from tests.e2e.browser import Visit, chromium, visit

EVIL = "evil.invalid"
ATTACKS = (
    "<script>document.title='owned'</script>",
    f"</style><style>@import url(http://{EVIL}/css);</style>",
    f"</pre></title></textarea><img src=http://{EVIL}/img onerror=document.title='owned'>",
    f"<svg><script href=http://{EVIL}/js></script></svg><iframe src=http://{EVIL}/frame>",
    f'"><a href="javascript:document.title=1" onmouseover=x>z</a><base href=http://{EVIL}/>',
    f"' style='background:url(http://{EVIL}/style)' onfocus='x' autofocus '",
    "<meta http-equiv=refresh content='0;url=http://evil.invalid/refresh'>",
    "<!--<script>--></script><![CDATA[x]]>&lt;b&gt;&#60;i&#62;",
    "\u202eright to left\u202c \x00\x1b[31m\u200b \U000e0041",
)
HOSTILE = "\n".join(ATTACKS)
# What this page may consist of; everything that could act or load is missing.
TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section",
    "article", "nav", "h1", "h2", "h3", "p", "div", "span", "small", "ol", "li", "a", "dl",
    "dt", "dd", "code", "pre", "bdi", "table", "caption", "thead", "tbody", "tr", "th", "td",
    "svg", "g", "line", "path", "rect", "circle", "text",
}  # fmt: skip


class Reader(HTMLParser):
    """Every element with its attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def rate(successes: int, scored: int, failed: int = 0) -> Rate:
    found = Rate(scored=scored, successes=successes, failed=failed, cost_usd="0.25")
    if scored:
        found.rate, found.low, found.high = successes / scored, 0.1, 0.9
        found.latency_ms_p50, found.latency_ms_p95 = 20, 80
    return found


def facts(text: str) -> Facts:
    """A run in which everything that people and models wrote is `text`."""
    run = Run(
        id="01a1fe8e-0000-7000-8000-000000000000",
        state=RunState.RUN_STATE_COMPLETED,
        plan_hash="ab" * 32,
        cells_total=24,
        counts=RunCounts(
            recorded=24, scored=20, successes=7, failed=4, cost_usd="1.5", booked_usd="2"
        ),
        technique_names=[text, "base64"],
        target_names=[f"p/{text}", "p/m"],
        prompt_count=2,
        repetitions=3,
        state_reason=text,
    )
    summary = GetRunSummaryResponse(
        run=run,
        overall=rate(7, 20, 4),
        by_technique=[
            RateByTechnique(technique_no=0, technique=text, rate=rate(7, 10)),
            RateByTechnique(technique_no=1, technique="base64", rate=rate(0, 10, 4)),
        ],
        by_target=[
            RateByTarget(target_no=0, provider="p", model=text, rate=rate(7, 20)),
            RateByTarget(target_no=1, provider="p", model="m", rate=rate(0, 0, 4)),
        ],
        by_technique_and_target=[
            RateByCell(technique_no=0, target_no=0, rate=rate(7, 10)),
            RateByCell(technique_no=1, target_no=0, rate=rate(0, 10)),
        ],
    )
    execution = Execution(
        cell_no=3,
        technique_applied=text,
        provider_used="p",
        model_used=text,
        original_prompt=text,
        transformed_prompt=f"{text} again",
        response=text,
        verdict_reason=text,
        is_successful=True,
        success_score=1,
    )
    return Facts(
        campaign=Campaign(name=text, objective=text),
        summary=summary,
        latencies_ms={0: [10, 20, 20, 90], 1: []},
        sampled=False,
        examples=[execution],
        turns={
            execution.cell_no: [
                Turn(turn_no=1, purpose=TurnPurpose.TURN_PURPOSE_ATTACKER, reply=text),
                Turn(turn_no=2, purpose=TurnPurpose.TURN_PURPOSE_TARGET, request=text, reply=text),
            ]
        },
        errors=[ErrorGroup(0, "failed", text, 4, text)],
        errors_cut=True,
        checkpoint=GetCheckpointResponse(checkpoint=text, verifier_key=text, size=9),
        made_at=datetime(2026, 1, 2, tzinfo=UTC),
    )


def assert_inert(html: str) -> Reader:
    """Nothing in it can act, load or leave; answers the page as it reads."""
    page = Reader(html)
    assert {tag for tag, _attributes in page.elements} <= TAGS
    assert [tag for tag, _attributes in page.elements].count("style") == 1
    for _tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("style", "src", "srcset", "action", "data", "xlink:href")
            if name == "href":
                assert value is not None
                assert value.startswith("#")
            if name == "http-equiv":
                assert value == "Content-Security-Policy"
    return page


def test_hostile_text_is_text(tmp_path: Path) -> None:
    """Attacks in every place that people and models write to: each is shown, none is an element."""
    page = assert_inert(render(facts(HOSTILE)))

    for attack in ATTACKS[:-1]:
        assert page.text.count(attack) >= 10
    assert "U+202E" in page.text
    assert "\u202e" not in page.text
    assert "\x00" not in page.text


def test_the_policy_allows_its_own_style_and_nothing_else() -> None:
    html = render(facts("x"))
    policies = [
        attributes["content"]
        for tag, attributes in Reader(html).elements
        if tag == "meta" and "http-equiv" in attributes
    ]

    assert len(policies) == 1
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policies[0]


def test_numbers_are_shown_with_interval_and_count() -> None:
    """A rate stands with its interval and n; where nothing was scored there is no rate."""
    text = Reader(render(facts("x"))).text

    assert "70.0\u00a0%10.0–90.0\u00a0%n 10" in text
    assert "nothing scored" in text
    assert "4 cells got no answer" in text
    assert "$2.0000, of which $0.5000 for discarded" in text


@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_runs_nothing_and_asks_nobody(tmp_path: Path, dark: bool) -> None:
    """In a real Chromium, light and dark, the page of attacks looks like one without: no console
    message, no request, its own title. A page that does act shows that this would be noticed."""
    browser = chromium()
    html = render(facts(HOSTILE))
    page = tmp_path / "report.html"
    page.write_text(html, "utf-8")
    if browser is None:
        warnings.warn(
            "no Chromium on this machine: only the static parts were checked", stacklevel=1
        )
        assert_inert(html)
        return
    control = tmp_path / "control.html"
    control.write_text(
        f"<title>x</title><body>{''.join(ATTACKS[:3])}<script>nothing.at.all</script>", "utf-8"
    )

    seen = visit(browser, page, tmp_path, dark=dark)
    acting = visit(browser, control, _folder(tmp_path, "control"))

    assert acting.asked_for(EVIL)
    assert acting.console
    assert "<title>owned</title>" in acting.dom
    assert_quiet(seen)
    shown = assert_inert(seen.dom)
    assert shown.text.count(ATTACKS[0]) >= 10
    assert (tmp_path / ("dark.png" if dark else "light.png")).stat().st_size > 10_000


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


def assert_quiet(seen: Visit) -> None:
    assert seen.console == []
    assert not seen.asked_for(EVIL)
    assert "<title>owned</title>" not in seen.dom
