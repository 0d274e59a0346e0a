"""Techniques over all of Unicode: exact inverses, and nothing but the seed decides."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.campaigns.techniques import (
    OUTPUT_CHARS_MAX,
    TECHNIQUES,
    Parameter,
    Step,
    Technique,
    TechniqueError,
    apply_chain,
    invert_chain,
)

# Every plane, NUL, line ends, combining marks, right-to-left, and what techniques themselves write.
OWN_MARKS = "\u200b\u200c\u200d\u2060\ufe00\U000e0001\U000e0041\U000e0100\U0001f600 -._\n\"'\\%"
# Joined from a list: `st.text` would merge the alphabets and hardly ever draw the marks.
TEXTS = st.lists(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(OWN_MARKS),
        st.sampled_from("aàe\u0301אب字𝒳\U0010fffd\x00\r\n"),
    ),
    max_size=40,
).map("".join)
SEEDS = st.integers(-(2**70), 2**70)


def values(parameter: Parameter) -> st.SearchStrategy[object]:
    if parameter.kind == "boolean":
        return st.booleans()
    if parameter.kind == "choice":
        return st.sampled_from(parameter.choices)
    if parameter.kind == "integer":
        return st.integers(int(parameter.minimum or 0), min(int(parameter.maximum or 0), 30))
    if parameter.kind == "number":
        return st.floats(parameter.minimum, parameter.maximum)
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def params_of(technique: Technique) -> st.SearchStrategy[dict[str, object]]:
    return st.fixed_dictionaries(
        {}, optional={parameter.name: values(parameter) for parameter in technique.parameters}
    )


STEPS = st.sampled_from(sorted(TECHNIQUES)).flatmap(
    lambda name: params_of(TECHNIQUES[name]).map(lambda params: Step(name, params))
)
REVERSIBLE = sorted(name for name, technique in TECHNIQUES.items() if technique.reversible)


@pytest.mark.parametrize("name", sorted(TECHNIQUES))
@settings(max_examples=60, deadline=None)
@given(data=st.data(), text=TEXTS, seed=SEEDS)
def test_a_technique_repeats_itself_and_is_undone(name, data, text, seed):
    """The same seed gives the same text again; a reversible technique gives the prompt back."""
    steps = [Step(name, data.draw(params_of(TECHNIQUES[name])))]
    sent = apply_chain(steps, text, seed)

    sent.encode()
    assert apply_chain(steps, text, seed) == sent
    if TECHNIQUES[name].reversible:
        assert invert_chain(steps, sent) == text


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(STEPS, max_size=4), text=TEXTS, seed=SEEDS)
def test_a_chain_is_bounded_and_undone(steps, text, seed):
    """Chains of reversible techniques are reversible; a chain too long to send says so."""
    try:
        sent = apply_chain(steps, text, seed)
    except TechniqueError as error:
        assert error.reason == "output_too_large"
        return
    assert len(sent) <= OUTPUT_CHARS_MAX
    if all(TECHNIQUES[step.technique].reversible for step in steps):
        assert invert_chain(steps, sent) == text


@pytest.mark.parametrize("name", sorted(TECHNIQUES))
@settings(max_examples=25, deadline=None)
@given(data=st.data(), text=TEXTS)
def test_only_seeded_techniques_draw(name, data, text):
    """A technique that says it draws nothing leaves the random stream as it found it."""
    technique = TECHNIQUES[name]
    rng = random.Random(7)
    before = rng.getstate()
    technique.apply(text, data.draw(params_of(technique)), rng)
    if not technique.seeded:
        assert rng.getstate() == before


@pytest.mark.parametrize("name", REVERSIBLE)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), text=TEXTS)
def test_undoing_any_text_ends_in_a_text_or_a_typed_error(name, data, text):
    """What a model or a user hands in may be no output of the technique at all."""
    steps = [Step(name, data.draw(params_of(TECHNIQUES[name])))]
    try:
        assert isinstance(invert_chain(steps, text), str)
    except TechniqueError as error:
        assert error.reason == "not_invertible"
