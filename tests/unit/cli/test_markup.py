"""Markup: text can only become text."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.report.markup import document, foreign, h


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


@given(st.text(), st.text())
def test_no_text_ever_becomes_an_element(text: str, name: str) -> None:
    reader = read(str(h("pre", foreign(text, 1000), h("span", text, title=name), aria_label=text)))

    assert set(reader.tags) <= {"pre", "span"}


SEEN = st.characters(
    categories=["L", "N", "P", "S", "Zs"], exclude_characters="\u115f\u1160\u3164\uffa0"
)


@given(st.text(SEEN, max_size=50))
def test_what_can_be_seen_is_shown_as_it_is(text: str) -> None:
    assert read(str(h("pre", foreign(text, 50)))).text == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u200bb", "aU+200Bb"),
        ("a\u202eb", "aU+202Eb"),
        ("a\x00\x1bb", "a2 unseen from U+0000b"),
        ("".join(chr(0xE0000 + ord(c)) for c in "hi"), "2 tag characters: hi"),
        ("x" * 12, "xxxxxxxxxx… 2 characters more"),
    ],
)
def test_what_cannot_be_seen_is_named(text: str, shown: str) -> None:
    assert read(str(h("pre", foreign(text, 10)))).text == shown


def test_letters_of_another_alphabet_in_a_latin_word_are_marked() -> None:
    """The Cyrillic e in `secret` is marked; a Russian word and an umlaut are not."""
    html = str(h("pre", foreign("s\u0435cret слово für", 100)))

    assert html.count('class="alike"') == 1
    assert "cyrillic small letter ie" in html
    assert read(html).text == "s\u0435cret слово für"


@pytest.mark.parametrize(
    "attributes",
    [
        {"onclick": "x"},
        {"style": "x"},
        {"src": "x"},
        {"href": "javascript:alert(1)"},
        {"href": "//x"},
    ],
)
def test_names_that_could_act_are_refused(attributes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="report"):
        h("a", **attributes)


def test_elements_that_could_act_are_refused() -> None:
    for tag in ("script", "style", "iframe", "img", "meta", "link", "form", "object", "base"):
        with pytest.raises(ValueError, match="not used"):
            h(tag)


def test_a_title_cannot_leave_its_element() -> None:
    page = document("</title><script>x</script>", "p { color: red }", [h("p", "x")])

    assert "script" not in read(page).tags
    with pytest.raises(ValueError, match="style sheet"):
        document("x", "</style><script>", [])
