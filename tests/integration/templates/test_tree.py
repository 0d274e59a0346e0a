"""Versions as a tree over a real channel: labels that move, diffs, forks, restores, partials."""

from __future__ import annotations

import asyncio
from time import process_time
from typing import Any

import pytest

from chimera.faults import Invalid
from chimera.templates import language
from chimera.templates.content import content_hash
from chimera.templates.partials import Included, Pin, expanded, pins_of
from chimera.v1.templates_pb2 import ChangeKind, PromptMessage, TemplateVersion
from tests.support.library import HELLO, ask, new_template, told, user_says
from tests.support.world import Person, Refused, World


async def olivia_of(world: World) -> Person:
    return await (await world.organisation("acme")).person("olivia")


async def test_a_label_moves_with_history_and_is_read_at_once(world: World) -> None:
    olivia = await olivia_of(world)
    template = await new_template(olivia)
    await olivia.templates.CreateTemplateVersion(
        template_id=template.id, messages=user_says("Second")
    )
    t, at = olivia.templates, {"template_id": template.id, "name": "production"}
    first = await t.MoveTemplateLabel(**at, version_number=1, expected_version_number=0)
    assert first.label.version_number == 1
    by_label = {"template_id": template.id, "label": "production"}
    assert (await t.GetTemplateVersion(**by_label)).version.version_number == 1
    await t.MoveTemplateLabel(**at, version_number=2, expected_version_number=1, note="better")
    assert (await t.GetTemplateVersion(**by_label)).version.version_number == 2
    rendered = await t.RenderTemplate(**by_label)
    assert rendered.messages[0].text == "Second"

    stale = t.MoveTemplateLabel(**at, version_number=1, expected_version_number=1)
    assert await told(stale) == ("ABORTED", "LABEL_MOVED")
    nowhere = t.MoveTemplateLabel(**at, version_number=9)
    assert await told(nowhere) == ("NOT_FOUND", "TEMPLATE_VERSION_NOT_FOUND")
    await t.DeleteTemplateLabel(**at)
    assert await told(t.GetTemplateVersion(**by_label)) == ("NOT_FOUND", "LABEL_NOT_FOUND")
    assert not (await t.ListTemplateLabels(template_id=template.id)).labels

    moves = []
    page = await t.ListTemplateLabelMoves(template_id=template.id, page_size=2)
    while True:
        moves += [(m.from_version_number, m.to_version_number, m.note) for m in page.moves]
        if not page.next_page_token:
            break
        page = await t.ListTemplateLabelMoves(
            template_id=template.id, page_size=2, page_token=page.next_page_token
        )
    assert moves == [(2, 0, ""), (1, 2, "better"), (0, 1, "")]


async def test_of_parallel_moves_with_an_expectation_one_wins(world: World) -> None:
    olivia = await olivia_of(world)
    template = await new_template(olivia)
    for _ in range(4):
        await olivia.templates.CreateTemplateVersion(template_id=template.id, **HELLO)

    async def move(number: int) -> str:
        try:
            await olivia.templates.MoveTemplateLabel(
                template_id=template.id,
                name="draft",
                version_number=number,
                expected_version_number=0,
            )
        except Refused as refused:
            return refused.reason
        return "won"

    outcomes = await asyncio.gather(*(move(number) for number in range(1, 6)))
    assert sorted(outcomes) == ["LABEL_MOVED"] * 4 + ["won"]
    assert len((await olivia.templates.ListTemplateLabelMoves(template_id=template.id)).moves) == 1


@pytest.mark.parametrize("name", ["latest", "Production", "a b", "", "-x"])
async def test_a_label_that_is_no_name_is_refused(world: World, name: str) -> None:
    olivia = await olivia_of(world)
    template = await new_template(olivia)
    move = olivia.templates.MoveTemplateLabel(template_id=template.id, name=name, version_number=1)
    assert await told(move) == ("INVALID_ARGUMENT", "FIELD_INVALID")


async def test_a_diff_names_what_changed(world: World) -> None:
    olivia = await olivia_of(world)
    template = await new_template(
        olivia,
        messages=[
            {"role": "MESSAGE_ROLE_SYSTEM", "text": "Be good."},
            *user_says("a\nb\nc {{ n }}"),
        ],
        variables=[
            {"name": "n", "kind": "VARIABLE_KIND_INTEGER", "maximum": 3},
            {"name": "old", "kind": "VARIABLE_KIND_STRING"},
        ],
    )
    await olivia.templates.CreateTemplateVersion(
        template_id=template.id,
        messages=user_says("a\nB\nc {{ n }}", "more {{ new }}"),
        variables=[
            {"name": "n", "kind": "VARIABLE_KIND_INTEGER", "maximum": 5},
            {"name": "new", "kind": "VARIABLE_KIND_STRING"},
        ],
        change_note="shouted",
    )
    diff = await olivia.templates.DiffTemplateVersions(
        template_id=template.id, from_version_number=1
    )
    assert not diff.is_same_content
    assert {(v.name, v.kind) for v in diff.variables} == {
        ("n", ChangeKind.CHANGE_KIND_CHANGED),
        ("new", ChangeKind.CHANGE_KIND_ADDED),
        ("old", ChangeKind.CHANGE_KIND_REMOVED),
    }
    maximum = next(v for v in diff.variables if v.name == "n").fields[0]
    assert (maximum.field, maximum.from_json, maximum.to_json) == ("maximum", "3.0", "5.0")
    assert {m.field for m in diff.metadata} == {"change_note", "parent_version_number"}
    assert "-b" in diff.unified and "+B" in diff.unified and "-[system]" in diff.unified
    assert len(diff.messages) == 2
    same = await olivia.templates.DiffTemplateVersions(
        template_id=template.id, from_version_number=2, to_version_number=2
    )
    assert same.is_same_content and not same.unified and not same.messages


async def test_a_fork_goes_its_own_way_and_a_restore_brings_the_old_text_back(
    world: World,
) -> None:
    acme = await world.organisation("acme")
    olivia, peter = await acme.person("olivia"), await acme.person("peter")
    template = await new_template(olivia, tags=["Role Play", "role-play", " x "])
    assert list(template.tags) == ["role-play", "x"]
    await olivia.templates.CreateTemplateVersion(
        template_id=template.id, messages=user_says("Second")
    )
    fork = await peter.templates.ForkTemplate(
        template_id=template.id, version_number=1, sharing_level="SHARING_LEVEL_ORGANISATION"
    )
    assert (fork.template.forked_from_id, fork.template.forked_from_version_number) == (
        template.id,
        1,
    )
    assert fork.template.created_by == peter.user_id
    assert list(fork.template.tags) == ["role-play", "x"]
    original = await olivia.templates.GetTemplateVersion(template_id=template.id, version_number=1)
    assert fork.version.content_hash == original.version.content_hash
    await olivia.templates.DeleteTemplate(template_id=template.id)
    assert (await peter.templates.GetTemplate(template_id=fork.template.id)).template.title

    await olivia.templates.UndeleteTemplate(template_id=template.id)
    restored = await olivia.templates.RestoreTemplateVersion(
        template_id=template.id, version_number=1
    )
    assert restored.version.version_number == 3
    assert restored.version.parent_version_number == 1
    assert restored.version.content_hash == original.version.content_hash
    between = await olivia.templates.DiffTemplateVersions(
        template_id=template.id, from_version_number=3, to_template_id=fork.template.id
    )
    assert between.is_same_content


async def test_types_of_the_known_schemes_are_written_as_they_write_them(world: World) -> None:
    olivia = await olivia_of(world)
    template = await new_template(
        olivia, vulnerability_type="llm01", technique_type="aml.t0051.001"
    )
    assert template.vulnerability_type == "LLM01:2025"
    assert template.technique_type == "AML.T0051.001"
    assert await told(new_template(olivia, vulnerability_type="LLM11")) == (
        "INVALID_ARGUMENT",
        "FIELD_INVALID",
    )
    known = (await olivia.templates.ListClassifications()).classifications
    for year in ("2025", "2026"):
        assert [c.id for c in known if c.scheme_version == year] == [
            f"LLM{n:02}:{year}" for n in range(1, 11)
        ]
    assert all(c.scheme and c.scheme_version and c.url for c in known)
    names = {c.id: c.name for c in known}
    assert len(names) == len(known)
    assert names["LLM03:2025"] == names["LLM04:2026"] == "Supply Chain"
    atlas = [c for c in known if c.scheme == "MITRE ATLAS"]
    assert [c.id for c in atlas] == sorted(c.id for c in atlas)
    for technique in atlas:
        assert technique.url.endswith(technique.id)
        above, _, below = technique.id[len("AML.T") :].partition(".")
        if below:  # is named after the technique it belongs to
            assert technique.name.startswith(names[f"AML.T{above}"] + ": ")


# --- partials ------------------------------------------------------------------------------------


async def new_partial(person: Person, text: str, **fields: Any) -> str:
    made = await new_template(
        person, **{"title": "part", "variables": [], **fields, "messages": user_says(text)}
    )
    return str(made.id)


async def test_a_partial_stands_in_the_text_and_brings_its_variables(world: World) -> None:
    olivia = await olivia_of(world)
    part = await new_partial(
        olivia,
        "Dear {{ name | upper }}{",
        variables=[{"name": "name", "kind": "VARIABLE_KIND_STRING", "required": True}],
    )
    template = await new_template(
        olivia,
        messages=user_says("{{> greeting }}{{> greeting }}!"),
        variables=[],
        partials=[{"name": "greeting", "template_id": part, "label": ""}],
    )
    rendered = await olivia.templates.RenderTemplate(
        template_id=template.id, values={"name": "Ada"}
    )
    assert rendered.messages[0].text == "Dear ADA{Dear ADA{!"
    assert rendered.version.content_hash == content_hash(rendered.version)
    missing = olivia.templates.RenderTemplate(template_id=template.id, values={})
    assert await told(missing) == ("INVALID_ARGUMENT", "VARIABLE_MISSING")

    await olivia.templates.CreateTemplateVersion(
        template_id=part, messages=user_says("Hi"), variables=[]
    )
    newest = await olivia.templates.RenderTemplate(template_id=template.id, values={})
    assert newest.messages[0].text == "HiHi!"


async def test_partials_in_a_circle_or_out_of_sight_are_refused(world: World) -> None:
    acme = await world.organisation("acme")
    olivia, peter = await acme.person("olivia"), await acme.person("peter")
    first = await new_partial(olivia, "one")
    second = await new_partial(
        olivia, "{{> a }}", partials=[{"name": "a", "template_id": first, "version_number": 1}]
    )
    refused = ("INVALID_ARGUMENT", "PARTIAL_INVALID")
    circle = olivia.templates.CreateTemplateVersion(
        template_id=first,
        messages=user_says("{{> b }}"),
        partials=[{"name": "b", "template_id": second}],
    )
    assert await told(circle) == refused
    hidden = await new_partial(peter, "mine", sharing_level="SHARING_LEVEL_PRIVATE")
    for partial in (hidden, "018f0000-0000-7000-8000-000000000000"):
        using = new_partial(olivia, "{{> p }}", partials=[{"name": "p", "template_id": partial}])
        assert await told(using) == refused
    assert await told(new_partial(olivia, "{{> nobody }}")) == refused


def test_what_multiplies_is_refused_before_it_is_there() -> None:
    """A text of tags, each of which stands for a text of many tags; and many ways to one text."""
    text = "{{ n }}" * 20_000
    pin = Pin("p", "template", 1, "hash")
    part = Included(tuple(language.parse(text)), len(text), (), (pin,))
    version = TemplateVersion(messages=[PromptMessage(role=1, text="{{> p }}" * 5_000)])
    before = process_time()
    with pytest.raises(Invalid) as refused:
        expanded(version, {"p": part})
    assert refused.value.reason == "OUTPUT_TOO_LARGE"
    assert process_time() - before < 1
    assert pins_of({"a": part, "b": part}) == (pin,)


# --- dry rendering -------------------------------------------------------------------------------


async def test_a_dry_render_shows_every_problem_at_its_place(world: World) -> None:
    olivia = await olivia_of(world)
    draft = {
        "messages": user_says("fine {{ a }}", "line one\n  {{ b }} {{ c }}"),
        "variables": [
            {"name": "a", "kind": "VARIABLE_KIND_STRING", "required": True},
            {"name": "b", "kind": "VARIABLE_KIND_INTEGER"},
            {"name": "spare", "kind": "VARIABLE_KIND_STRING"},
        ],
    }
    answer = await olivia.templates.DryRenderTemplate(draft=draft, values={"b": "x"})
    problems = [(p.reason, p.variable, p.message_index, p.line, p.column) for p in answer.problems]
    assert problems == [
        ("VARIABLE_UNDECLARED", "c", 1, 2, 11),
        ("VARIABLE_UNUSED", "spare", -1, 0, 0),
    ]
    draft["messages"] = user_says("fine {{ a }}", "line one\n  {{ b }}")
    answer = await olivia.templates.DryRenderTemplate(draft=draft, values={"b": "x", "z": 1})
    assert {(p.reason, p.variable) for p in answer.problems} == {
        ("VARIABLE_MISSING", "a"),
        ("VARIABLE_ILL_TYPED", "b"),
        ("VARIABLE_UNKNOWN", "z"),
        ("VARIABLE_UNUSED", "spare"),
    }
    assert list(answer.missing_variables) == ["a"] and list(answer.unknown_values) == ["z"]
    answer = await olivia.templates.DryRenderTemplate(draft=draft, values={"a": "x" * 40, "b": 7})
    assert [m.text for m in answer.messages] == ["fine " + "x" * 40, "line one\n  7"]
    assert answer.token_estimate == 12 + 4 + 3 + 4


async def test_a_dry_render_masks_secret_values(world: World) -> None:
    """Whole, in a filter, in a loop; no part of one comes through."""
    olivia = await olivia_of(world)
    draft = {
        "messages": user_says(
            "{{ key }} {{ key | upper }} {{#each keys}}<{{ this }}>{{/each}} {{ key | truncate: 3 }}"
        ),
        "variables": [
            {"name": "key", "kind": "VARIABLE_KIND_STRING", "secret": True, "pattern": "k-[a-z]+"},
            {"name": "keys", "kind": "VARIABLE_KIND_LIST", "secret": True},
        ],
    }
    values = {"key": "k-canary", "keys": ["canary", "canary"]}
    answer = await olivia.templates.DryRenderTemplate(draft=draft, values=values)
    assert "canary" not in str(answer).lower()
    assert answer.messages[0].text == "[secret] [SECRET] <[secret]> [se"


async def test_a_rating_leaves_the_etag_alone(world: World) -> None:
    olivia = await olivia_of(world)
    template = await new_template(olivia)
    rated = await olivia.templates.RateTemplate(template_id=template.id, rating=5)
    assert rated.template.etag == template.etag
    assert ask(world, "SELECT count(*) FROM templates.ratings") == [(1,)]
