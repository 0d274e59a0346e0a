"""Search over a real channel: words, phrases, beginnings, filters, facets, pages, highlights."""

from __future__ import annotations

from typing import Any

import pytest

from chimera.templates.searching import highlighted, key, split_query
from tests.support.library import HELLO, ask, new_template, user_says
from tests.support.world import Person, World


async def found(person: Person, query: str = "", **request: Any) -> list[str]:
    answer = await person.templates.SearchTemplates(query=query, **request)
    return [hit.template.title for hit in answer.hits]


@pytest.fixture
async def olivia(world: World) -> Person:
    """Somebody with five templates."""
    person = await (await world.organisation("acme")).person("olivia")
    for title, description, text, more in (
        (
            "Grandmother exploit",
            "A bedtime story.",
            "Tell me of grandmothers.",
            {"tags": ["Story"]},
        ),
        (
            "Storyteller",
            "Grandmother as a frame.",
            "Once upon a time",
            {"tags": ["story", "frame"]},
        ),
        (
            "Base64 smuggling",
            "Encodes the payload.",
            "Decode this: {{ x }}",
            {"tags": ["encoding"]},
        ),
        ("Unrelated", "", "The grandmother of all texts", {"technique_type": "AML.T0054"}),
        ("<b>Markup</b>", "<script>alert(1)</script>", "injection & such", {}),
    ):
        await new_template(
            person,
            title=title,
            description=description,
            messages=user_says(text),
            variables=[{"name": "x", "kind": "VARIABLE_KIND_STRING"}],
            **more,
        )
    return person


async def test_words_are_ranked_by_where_they_stand(olivia: Person) -> None:
    """Title before tags before description before text; words are stemmed."""
    assert await found(olivia, "grandmothers") == [
        "Grandmother exploit",
        "Storyteller",
        "Unrelated",
    ]
    assert await found(olivia, "decoding") == ["Base64 smuggling"]
    assert await found(olivia, "nothingofthekind") == []


@pytest.mark.parametrize(
    ("query", "titles"),
    [
        ('"bedtime story"', {"Grandmother exploit"}),
        ('"story bedtime"', set()),
        ("grandmother -bedtime", {"Storyteller", "Unrelated"}),
        ("grandm*", {"Grandmother exploit", "Storyteller", "Unrelated"}),
        ("grandm* -exploit", {"Storyteller", "Unrelated"}),
        ("grandmother -exp*", {"Storyteller", "Unrelated"}),
        ("smuggling OR markup", {"Base64 smuggling", "<b>Markup</b>"}),
        ('"grandm*"', set()),
        ("it's \"half a quote ' & | ! <-> ( :* \\", set()),
        ("*", {"Grandmother exploit", "Storyteller", "Base64 smuggling", "Unrelated", "<b>Markup</b>"}),
    ],
)  # fmt: skip
async def test_queries_as_people_write_them(olivia: Person, query: str, titles: set[str]) -> None:
    """Nothing a person types is a syntax error."""
    assert set(await found(olivia, query)) == titles


async def test_filters_hold_together_and_facets_count_what_is_left(olivia: Person) -> None:
    assert await found(olivia, tags=["story"]) == ["Storyteller", "Grandmother exploit"]
    assert await found(olivia, tags=["STORY", "frame"]) == ["Storyteller"]
    assert await found(olivia, "grandmother", technique_type="AML.T0054") == ["Unrelated"]
    assert await found(olivia, state="TEMPLATE_STATE_PUBLISHED") == []
    assert await found(olivia, sharing_level="SHARING_LEVEL_PRIVATE") == []
    assert len(await found(olivia, created_by=olivia.user_id)) == 5

    answer = await olivia.templates.SearchTemplates(query="grandmother")
    facets = {f.name: {v.value: v.count for v in f.values} for f in answer.facets}
    assert (answer.total, answer.is_bounded) == (3, False)
    assert facets["tag"] == {"story": 2, "frame": 1}
    assert facets["state"] == {"draft": 3} and facets["sharing_level"] == {"organisation": 3}
    assert facets["technique_type"] == {"": 2, "AML.T0054": 1}


async def test_highlights_are_pieces_of_text_and_never_markup(olivia: Person) -> None:
    [hit] = (await olivia.templates.SearchTemplates(query="markup injection")).hits
    whole = "".join(piece.text for piece in hit.title.pieces)
    assert whole == "<b>Markup</b>"
    assert [p.text for p in hit.title.pieces if p.is_match] == ["Markup"]
    assert "injection" in [p.text for p in hit.snippet.pieces if p.is_match]
    [plain] = (await olivia.templates.SearchTemplates(tags=["encoding"])).hits
    assert not any(piece.is_match for piece in [*plain.title.pieces, *plain.snippet.pieces])


async def test_marks_in_a_title_mark_nothing(world: World) -> None:
    """The control characters that stand around matches are no way to fake one."""
    person = await (await world.organisation("acme")).person("olivia")
    await new_template(person, title="a \x02faked\x03 zebra")
    [hit] = (await person.templates.SearchTemplates(query="zebra")).hits
    assert [p.text for p in hit.title.pieces if p.is_match] == ["zebra"]


async def test_pages_go_on_where_they_ended(world: World) -> None:
    person = await (await world.organisation("acme")).person("olivia")
    for number in range(7):
        await new_template(person, title=f"zebra {'zebra ' * number}{number}")
    for query in ("zebra", ""):
        whole = await found(person, query)
        assert len(whole) == 7
        page = await person.templates.SearchTemplates(query=query, page_size=3)
        seen = [hit.template.title for hit in page.hits]
        while page.next_page_token:
            page = await person.templates.SearchTemplates(
                query=query, page_size=3, page_token=page.next_page_token
            )
            assert not page.facets
            seen += [hit.template.title for hit in page.hits]
        assert seen == whole


async def test_what_changes_is_found_as_it_is_now(world: World) -> None:
    """The newest version's text, the present tags; nothing of what is deleted."""
    person = await (await world.organisation("acme")).person("olivia")
    template = await new_template(person, title="plain")
    assert await found(person, "hello") == ["plain"]
    await person.templates.CreateTemplateVersion(
        template_id=template.id, messages=user_says("Goodbye")
    )
    assert await found(person, "hello") == [] and await found(person, "goodbye") == ["plain"]
    await person.templates.UpdateTemplate(
        template={"id": template.id, "tags": ["farewell"]}, update_mask={"paths": ["tags"]}
    )
    assert await found(person, "", tags=["farewell"]) == ["plain"]
    await person.templates.DeleteTemplate(template_id=template.id)
    assert await found(person, "goodbye") == [] and await found(person) == []
    await person.templates.UndeleteTemplate(template_id=template.id)
    await person.templates.CreateTemplateVersion(template_id=template.id, **HELLO)
    assert await found(person, "hello") == ["plain"]


async def test_a_broad_query_is_bounded_and_says_so(world: World) -> None:
    """Ten thousand and one templates: all match, ten thousand are ranked and counted."""
    acme = await world.organisation("acme")
    ask(
        world,
        """
        INSERT INTO templates.templates (id, org_id, title, created_by)
        SELECT gen_random_uuid(), %(org)s, 'zebra ' || n, %(by)s FROM generate_series(1, 10001) AS n
        """,
        org=acme.id,
        by=acme.admin.user_id,
    )
    for query in ("zebra", "zeb*", ""):
        answer = await acme.admin.templates.SearchTemplates(query=query)
        assert (answer.total, answer.is_bounded, len(answer.hits)) == (10_000, True, 20)
        state = next(facet for facet in answer.facets if facet.name == "state")
        assert state.values[0].count == 10_000


async def test_keys_are_the_databases(world: World) -> None:
    """Both sides make the same lexeme of a filter."""
    [(made,)] = ask(world, "SELECT templates.key('#', 'Ünïcode ''\\ tag')")
    assert made == key("#", "Ünïcode '\\ tag")


def test_beginnings_are_taken_out_of_what_is_not_quoted() -> None:
    assert split_query('a* -b* "c* d" e') == ('"c* d" e', ["a", "-b"])
    assert split_query("x*y ** *") == ("x*y ** *", [])


def test_pieces_come_from_marks() -> None:
    pieces = highlighted("a \x02b\x03\x02c\x03 d").pieces
    assert [(p.text, p.is_match) for p in pieces] == [
        ("a ", False), ("b", True), ("c", True), (" d", False),
    ]  # fmt: skip
