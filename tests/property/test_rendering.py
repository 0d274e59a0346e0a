"""Rendering over all values: nothing is interpreted twice, escapes hold, output is canonical."""

import json

from hypothesis import given
from hypothesis import strategies as st

from chimera.templates.rendering import (
    RenderError,
    Variable,
    check_template,
    compile_template,
    escape,
)

# Joined from a list: `st.text` would merge the alphabets and hardly ever draw a brace.
TEXT = st.lists(
    st.one_of(st.sampled_from("{} xy\n"), st.characters(exclude_categories=["Cs"])), max_size=30
).map("".join)
NUMBERS = st.one_of(
    st.integers(-(2**63) + 1, 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)


def rendered(template: str, variables: list[Variable], values: dict[str, object]) -> str:
    ((_, text),) = compile_template([("user", template)], variables).render(values)
    return text


@given(TEXT, TEXT, TEXT)
def test_values_are_never_read_again(before, value, after):
    """Whatever a value contains, it stands in the output as it is, between literal neighbours."""
    template = escape(before) + "{{ x }}" + escape(after)
    variables = [Variable("x", "string"), Variable("y", "string", default="BOOM")]
    assert rendered(template, variables, {"x": value}) == before + value + after


@given(TEXT)
def test_an_escaped_text_is_a_template_of_itself(text):
    """Escaping is complete: every text can be written literally."""
    assert rendered(escape(text), [], {}) == text
    assert check_template(escape(text), []) == []


@given(TEXT)
def test_any_text_compiles_or_says_where_it_does_not(text):
    """A template never fails in another way, and the place is where a brace pair stands."""
    problems = check_template(text, [Variable("x", "string")])
    for problem in problems:
        if problem.reason == "template_syntax":
            assert text.startswith("{{", problem.position)
    serious = [problem for problem in problems if problem.reason != "variable_unused"]
    try:
        compile_template([("user", text)], [Variable("x", "string")])
        assert not serious
    except RenderError as error:
        assert error.reason == serious[0].reason


@given(JSON)
def test_json_is_canonical(value):
    """What is rendered reads back as the same value, and again renders to the same text."""
    variables = [Variable("x", "json")]
    text = rendered("{{x}}", variables, {"x": value})
    if value is None:
        assert text == ""
        return
    assert json.loads(text) == value
    assert rendered("{{x}}", variables, {"x": json.loads(text)}) == text


@given(NUMBERS)
def test_numbers_keep_their_value(value):
    """The shortest text that reads back as the number; doubles that are whole look whole."""
    text = rendered("{{x}}", [Variable("x", "number")], {"x": value})
    assert float(text) == float(value)
    assert not text.endswith(".0") or abs(value) > 2**53
